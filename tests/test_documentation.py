"""Every public name is documented, the public interface in full."""

import sys

import pytest

from tests.documentation import INTERFACE, defects, modules

UNDOCUMENTED = '''"""Names that lack something, each one thing."""

import numpy as np

from jaxame import checks


def silent(x: np.ndarray) -> None:
    ...


def forgets_a_parameter(x: np.ndarray, y: np.ndarray) -> None:
    """Do.

    Args:
      x: `[M]`.
    """


def names_none(x: int) -> None:
    """Do."""


def has_no_axes(x: np.ndarray) -> None:
    """Do.

    Args:
      x: the design.
    """


def returns_something(x: int) -> np.ndarray:
    """Return what belongs to `x`."""


def raises(x: int) -> None:
    """Do with `x`."""
    raise ValueError


def checks_itself(x: int) -> None:
    """Do.

    Args:
      x: positive.
    """
    checks.count(x, "x")


def refers_in_vain(z: int) -> None:
    """Do; arguments and errors as for `complete`."""


class Silent:
    def run(self) -> None:
        """Run."""


class Partly:
    """Something made of `size`.

    Raises:
      ValueError: for another size.
    """

    def __init__(self, size: int, colour: str) -> None:
        checks.count(size, "size")

    def run(self) -> None:
        ...

    @property
    def size(self) -> int:
        ...


def complete(x: np.ndarray, n: int, *, key: np.ndarray) -> np.ndarray:
    """Do all that is asked.

    Args:
      x: `[M, N]`, dimensionless.
      n: positive.
      key: one typed key.

    Returns:
      `[N]`.

    Raises:
      ValueError: for another `n`.
    """
    checks.count(n, "n")


def likewise(x: np.ndarray, n: int) -> None:
    """Do as well; arguments and errors as for `complete`."""
    checks.count(n, "n")


def in_a_line(x: np.ndarray, n: int) -> np.ndarray:
    """Return `[N]`, the `n`-th of `x [M, N]`."""


def _private(x):
    pass
'''
MISSING = {
    ".silent: no docstring",
    ".forgets_a_parameter: y is not described",
    ".names_none: x is not described",
    ".has_no_axes: no axes of x",
    ".returns_something: no axes of what it returns",
    ".raises: its errors are not named",
    ".checks_itself: its errors are not named",
    ".refers_in_vain: z is not described",
    ".Silent: no docstring",
    ".Partly: colour is not described",
    ".Partly.run: no docstring",
    ".Partly.size: no docstring",
}


@pytest.mark.parametrize("module", modules())
def test_public_names_are_documented(module):
    assert defects(module, strict=module in INTERFACE) == []


def test_the_interface_is_there():
    assert set(modules()) >= INTERFACE


@pytest.mark.parametrize("strict", [True, False])
def test_what_is_missing_would_be_noticed(strict, tmp_path, monkeypatch):
    name = f"undocumented_{strict}"
    (tmp_path / f"{name}.py").write_text(UNDOCUMENTED, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    found = defects(name, strict)
    del sys.modules[name]
    expected = MISSING if strict else {defect for defect in MISSING if defect.endswith("no docstring")}
    assert sorted(found) == sorted(name + defect for defect in expected)
