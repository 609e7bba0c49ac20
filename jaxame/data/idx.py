"""The idx format of MNIST: a magic number, the sizes, then one byte per value; plain or gzipped.

References:
  LeCun, Cortes and Burges, "The MNIST database of handwritten digits", section "File formats for the MNIST database".
"""

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxame import checks
from jaxame.data.files import Format
from jaxame.data.schema import Raw, Schema

_STEMS = {"train": "train", "test": "t10k"}
_IMAGES_MAGIC, _LABELS_MAGIC = 2051, 2049  # unsigned bytes in 3 dimensions and in 1
_GZIP_MAGIC = b"\x1f\x8b"


def read_array(path: Path, magic: int) -> np.ndarray:
    """Return the bytes of one idx file in their shape.

    Args:
      path: the file, gzipped or not, whatever its name says.
      magic: the number it must start with; its last byte is the number of dimensions.

    Raises:
      ValueError: naming `path`, if it is not such a file or not a whole one.
    """
    content = _unpacked(path)
    num_dimensions = magic & 0xFF
    start = 4 * (1 + num_dimensions)
    checks.require(len(content) >= start, f"{path} to have a header of {start} bytes", f"{len(content)} bytes in all")
    found, *shape = struct.unpack(f">{1 + num_dimensions}I", content[:start])
    checks.require(found == magic, f"{path} to start with the magic number {magic}", found)
    whole = len(content) == start + math.prod(shape)
    checks.require(whole, f"{path} to hold {math.prod(shape)} values, {shape}", f"{len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(_GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"needs {path} to be a whole gzip file; got {error}") from error


def _expected(split: str) -> str:
    return f"{_STEMS[split]}-images-idx3-ubyte and {_STEMS[split]}-labels-idx1-ubyte (gzipped or not)"


def _find(folder: Path, split: str) -> list[Path]:
    found = []
    for name in (f"{_STEMS[split]}-images-idx3-ubyte", f"{_STEMS[split]}-labels-idx1-ubyte"):
        there = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        found += there[:1]
    return found if len(found) == 2 else []


def _read(files: Sequence[Path], schema: Schema, verify: bool) -> Raw:
    del schema, verify
    images, labels = files
    return Raw(read_array(images, _IMAGES_MAGIC), read_array(labels, _LABELS_MAGIC), None, "idx")


IDX = Format(_expected, _find, _read)
