"""What tells games apart that have no sum of their own."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxame.fingerprint import differences, fingerprint


@dataclasses.dataclass
class Game:
    setting: Any


PAIRS = {
    "float32": (np.float32(0.1), np.float32(0.9)),
    "int64": (np.int64(1), np.int64(2)),
    "bool": (np.bool_(True), np.bool_(False)),
    "path": (Path("a"), Path("b")),
    "set": ({1, 2}, {1, 3}),
    "array": (np.arange(3), np.arange(3) + 1),
    "array of jax": (jnp.arange(3), jnp.arange(3.0)),
    "inside": ({"rates": [np.float32(0.1)]}, {"rates": [np.float32(0.2)]}),
}


@pytest.mark.parametrize(("one", "other"), PAIRS.values(), ids=PAIRS.keys())
def test_games_that_differ_in_a_setting_are_told_apart(one, other):
    (line,) = differences(fingerprint(Game(one)), fingerprint(Game(other)))
    assert line.startswith("setting")
    assert differences(fingerprint(Game(one)), fingerprint(Game(one))) == []


def test_a_set_has_no_order():
    one, other = set([0, 8, 16]), set([16, 8, 0])  # noqa: C405 -- these iterate in different orders
    assert list(one) != list(other)
    assert fingerprint(Game(one)) == fingerprint(Game(other))
