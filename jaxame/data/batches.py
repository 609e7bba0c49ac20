"""The original CIFAR-10 python batches. They are pickles of Python 2, read here without running anything they name.

References:
  Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; file layout:
  https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import hashlib
import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxame import checks
from jaxame.data.files import Format
from jaxame.data.schema import Raw, Schema

ENCODING = "python batches"
_NAMES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
_VALUES_PER_IMAGE = 3 * 32 * 32

# MD5 of the files in cifar-10-python.tar.gz, itself c58f30108f718f92721af3b95e74349a; as listed by torchvision.
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


class _Recorded:
    """Stands in for NumPy's array and dtype: keeps what the pickle says of them and does nothing with it."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Knows three names, those in which Python 2 pickled an array, and resolves each to `_Recorded`."""

    _KNOWN = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"a reference to {module}.{name}")
        return _Recorded


def _load(path: Path, verify: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels uint8 `[n, 32, 32, 3]` and labels `[n]` of one batch."""
    content = path.read_bytes()
    if verify:
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        needs = f"{path} to have the MD5 {MD5[path.name]} of the original (verify=False loads it all the same)"
        checks.require(found == MD5[path.name], needs, found)
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        values, labels = _values(batch[b"data"]), np.array(batch[b"labels"])
    except Exception as error:  # bytes that are no pickle can make the unpickler raise anything
        raise ValueError(f"needs {path} to be a CIFAR-10 python batch; got {type(error).__name__}: {error}") from error
    is_labels = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    checks.require(is_labels, f"{path} to hold integer labels [n]", checks.describe(labels))
    whole = len(values) == _VALUES_PER_IMAGE * len(labels)
    checks.require(whole, f"{path} to hold {_VALUES_PER_IMAGE} values for each of {len(labels)} labels", len(values))
    return values.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _values(array: _Recorded) -> np.ndarray:
    """Return the values of a recorded array of bytes, flat in row-major order."""
    _, shape, dtype, is_column_major, content = array.state
    if dtype.arguments[0] != b"u1":
        raise ValueError("an array that is not of bytes")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if is_column_major else "C").ravel()


def _expected(split: str) -> str:
    return ", ".join(_NAMES[split]) + " (the original python batches)"


def _find(folder: Path, split: str) -> list[Path]:
    files = [folder / name for name in _NAMES[split]]
    return files if all(file.is_file() for file in files) else []


def _read(files: Sequence[Path], schema: Schema, verify: bool) -> Raw:
    del schema
    pixels, labels = zip(*(_load(file, verify) for file in files), strict=True)
    return Raw(np.concatenate(pixels), np.concatenate(labels), None, ENCODING)


BATCHES = Format(_expected, _find, _read)
