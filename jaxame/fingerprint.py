"""What a game is, as sums that tell whether another is the same, and in what it differs."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import jax
import numpy as np

_LENGTH = 16  # hexadecimal digits: enough to tell two games apart, and short enough to be shown
_PLAIN = (str, int, float, bool, type(None))


def fingerprint(game: Any) -> dict[str, Any]:
    """Return what the utilities of a game depend on, by name; JSON-serialisable.

    That is the game's own attribute `fingerprint`, if it has one. Otherwise it is its class and, if that is a
    dataclass, the fields: numbers, texts and paths as they are, arrays by their sum, sets in order, and other objects
    by their class.
    """
    own = getattr(game, "fingerprint", None)
    if own is not None:
        return dict(own)
    fields = dataclasses.fields(game) if dataclasses.is_dataclass(game) else ()
    return {"kind": _class_of(game)} | {field.name: _describe(getattr(game, field.name)) for field in fields}


def sum_of_arrays(tree: Any) -> str:
    """Return a sum over the arrays of a pytree: their places, types, shapes and bytes."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape};".encode())
        total.update(array.tobytes())
    return total.hexdigest()[:_LENGTH]


def sum_of_program(function: Callable[..., Any], *arguments: Any) -> str:
    """Return a sum of what a function computes, the constants in it included; `arguments` give shapes."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
    program = jax.jit(function).lower(*shapes).as_text()
    return hashlib.sha256(program.encode()).hexdigest()[:_LENGTH]


def differences(known: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Say in what two JSON objects differ, a line for each entry."""
    found = []
    for name in dict.fromkeys([*known, *given]):
        a, b = known.get(name, "nothing"), given.get(name, "nothing")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name}: {a} in the run, {b} here")
    return found


def _describe(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.generic):
        return _describe(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Set):
        return sorted((_describe(part) for part in value), key=repr)
    if isinstance(value, np.ndarray | jax.Array):
        return sum_of_arrays(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return fingerprint(value)
    if isinstance(value, Mapping):
        return {str(name): _describe(part) for name, part in value.items()}
    if isinstance(value, Sequence):
        return [_describe(part) for part in value]
    return _class_of(value)


def _class_of(value: Any) -> str:
    kind = value if isinstance(value, type) or hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
