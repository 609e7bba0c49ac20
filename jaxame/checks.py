"""Validation at the public boundary: every error says what was needed and what came."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

_CPU = 1  # as DLPack numbers devices


def require(condition: bool, needs: str, got: object) -> None:
    """Raise `ValueError("needs <needs>; got <got>")` unless `condition` holds."""
    if not condition:
        raise ValueError(f"needs {needs}; got {got}")


def describe(value: object) -> str:
    """Name a value the way an error message should: shape and dtype for arrays, `repr` otherwise."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    return f"{type(value).__name__} {value!r}"


def array(value: Any, dtype: DTypeLike | None = None) -> np.ndarray:
    """Return an array of any library as one of NumPy, by DLPack where it has that, else as `numpy.asarray` does.

    Raises:
      ValueError: for one that DLPack does not take to NumPy, such as a tensor that needs its gradient.
    """
    if hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray | np.generic | jax.Array):
        is_here = value.__dlpack_device__()[0] == _CPU
        try:
            value = np.from_dlpack(value) if is_here else np.from_dlpack(value, device="cpu")
        except (BufferError, RuntimeError, TypeError) as error:
            got = f"{type(value).__name__}: {error}"
            raise ValueError(f"needs an array that NumPy takes by DLPack; got {got}") from error
    return np.asarray(value, dtype)


def count(value: Any, name: str, minimum: int = 1) -> int:
    """Return `value` as an `int` of at least `minimum`."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    require(is_integer and value >= minimum, f"{name} to be an integer >= {minimum}", describe(value))
    return int(value)


def typed_key(key: Any, name: str = "key") -> jax.Array:
    """Return `key` if it is one typed JAX key (`jax.random.key`)."""
    is_key = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    require(is_key and key.shape == (), f"{name} to be one typed key such as jax.random.key(0)", describe(key))
    typed: jax.Array = key
    return typed


def seed(value: Any, name: str = "seed") -> jax.Array:
    """Return the typed key of a seed that fits into 63 bits, as JAX takes no more."""
    require(isinstance(value, int) and abs(value) < 2**63, f"{name} between -2**63 and 2**63", describe(value))
    return jax.random.key(value)


def writable(path: Path, name: str) -> None:
    """Make the folder of a file that is to be written at the end of some work, and check that it can be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"needs {name} in a folder that can be made; got {path}: {error.strerror}") from error
    fits = os.access(path if path.exists() else path.parent, os.W_OK) and not path.is_dir()
    require(fits, f"{name} to be a file that can be written", path)


def probability(value: Any, name: str) -> float:
    """Return `value` as a float strictly between 0 and 1."""
    is_number = isinstance(value, int | float | np.floating | np.integer) and not isinstance(value, bool)
    require(is_number and 0.0 < value < 1.0, f"{name} strictly between 0 and 1", describe(value))
    return float(value)
