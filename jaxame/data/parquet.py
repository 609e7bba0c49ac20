"""Parquet files in the layout of the Hugging Face hub: a column of encoded images or of texts, one of labels."""

import importlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxame import checks
from jaxame.data.files import Format, describe
from jaxame.data.schema import Raw, Schema

_IMAGE_COLUMNS = ("img", "image")


def require_extra(module: str, extra: str) -> Any:
    """Import and return `module`, which the extra `extra` installs.

    Raises:
      ImportError: saying how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"needs {module.split('.')[0]}: pip install 'jaxame[{extra}]'; got {error}") from error


def decode(table: Any, schema: Schema, where: str) -> Raw:
    """Return what a table holds, with images decoded.

    Args:
      table: a `pyarrow.Table`: `img` or `image`, PNG or JPEG files as `struct{bytes, path}`, or else `text`, strings;
        `label`, integers; and the schema's column of groups, integers or strings.
      schema: decides which columns are needed and the size of images.
      where: what the table came from, for error messages.

    Raises:
      ImportError: if Pillow is needed and not installed.
      ValueError: naming `where`, if a column is missing, of another type or has empty cells, or an image cannot be
        decoded or has another size.
    """
    labels = np.array(_column(table, "label", ("int", "uint"), where))
    ids = None
    if schema.group_column is not None:
        ids = np.array(_column(table, schema.group_column, ("int", "uint", "string", "large_string"), where))
    if schema.shape is None:
        texts = np.array(_column(table, "text", ("string", "large_string"), where), dtype=object)
        return Raw(texts, labels, ids, "text")
    name = next((name for name in _IMAGE_COLUMNS if name in table.column_names), _IMAGE_COLUMNS[0])
    flat = table.flatten()
    inner = f"{name}.bytes" if f"{name}.bytes" in flat.column_names else name
    pixels, encoding = _pixels(_column(flat, inner, ("binary", "large_binary"), where), schema.shape, where)
    return Raw(pixels, labels, ids, encoding)


def _column(table: Any, name: str, kinds: Sequence[str], where: str) -> list[Any]:
    """Return a column as a list, after checking that it is there, of one of the types `kinds`, and full."""
    checks.require(name in table.column_names, f"a column {name!r} in {where}", table.column_names)
    column = table.column(name)
    kind = re.sub(r"\d+$", "", str(column.type))
    checks.require(kind in kinds, f"column {name!r} of {where} to be {' or '.join(kinds)}", column.type)
    checks.require(column.null_count == 0, f"no empty cell in column {name!r} of {where}", column.null_count)
    cells: list[Any] = column.to_pylist()
    return cells


def _pixels(images: Sequence[bytes], shape: tuple[int, ...], where: str) -> tuple[np.ndarray, str]:
    """Decode `n` images of one shape; returns uint8 `[n, *shape]` and the names of the encodings met."""
    pillow = require_extra("PIL.Image", "data")
    needed = ("RGB" if len(shape) == 3 else "L", (shape[1], shape[0]))
    pixels = np.empty((len(images), *shape), np.uint8)
    encodings = set()
    for row, content in enumerate(images):
        try:
            with pillow.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                encodings.add(image.format)
                found = (image.mode, image.size)
                if found == needed:  # before anything is decoded: a wrong size may be an absurd one
                    pixels[row] = np.asarray(image)
        except Exception as error:  # a decoder may raise anything on bytes that are no image
            raise ValueError(f"needs PNG or JPEG images in {where}; got {error} in row {row}") from error
        if found != needed:
            raise ValueError(f"needs images {needed} (mode, size) in {where}; got {found} in row {row}")
    return pixels, " and ".join(sorted(encodings))


def _expected(split: str) -> str:
    return f"{split}.parquet or {split}-00000-of-00001.parquet (and so on)"


def _find(folder: Path, split: str) -> list[Path]:
    if (whole := folder / f"{split}.parquet").is_file():
        return [whole]
    shards = sorted(folder.glob(f"{split}-[0-9]*-of-[0-9]*.parquet"))
    if shards:
        count = int(re.findall(r"-of-(\d+)", shards[0].name)[0])
        checks.require(len(shards) == count, f"{count} files like {shards[0]}", len(shards))
    return shards


def _read(files: Sequence[Path], schema: Schema, verify: bool) -> Raw:
    del verify
    arrow, parquet = require_extra("pyarrow", "data"), require_extra("pyarrow.parquet", "data")
    tables = []
    for file in files:
        try:
            with parquet.ParquetFile(file) as opened:
                tables.append(opened.read())
        except (arrow.ArrowException, OSError) as error:
            raise ValueError(f"needs {file} to be a whole parquet file; got {error}") from error
    alike = all(table.schema.equals(tables[0].schema) for table in tables)
    checks.require(alike, f"the same columns in {describe(files)}", [table.schema.names for table in tables])
    return decode(arrow.concat_tables(tables), schema, describe(files))


PARQUET = Format(_expected, _find, _read)
