"""Foreign designs: masks that somebody else drew, checked against the mechanism that the estimates rest on."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy
from jax.typing import ArrayLike

from jaxame import checks
from jaxame.design import Design
from jaxame.laws import Grid, Law
from jaxame.leftout import inclusion_p_values

_LEVEL = 1e-6  # of each check: one design in a million that is as it should be is refused
_MOST_LEVELS = 32
_FEWEST_SOURCES = 30
_SAME_P = 1e-6


@dataclasses.dataclass(frozen=True)
class Empirical(Law):
    """The values of `p` of a foreign design, each as likely as the others, taken for draws of a continuous law.

    Args:
      values: `[M]` strictly inside (0, 1).
    """

    values: Sequence[float] = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        """Store the values as a tuple of floats."""
        object.__setattr__(self, "values", tuple(np.asarray(self.values, np.float64).tolist()))

    def __repr__(self) -> str:
        return f"Empirical({len(self.values)} values from {min(self.values):.4g} to {max(self.values):.4g})"

    def quadrature(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the values `[M]` and equal weights `[M]`."""
        return np.array(self.values), np.full(len(self.values), 1 / len(self.values))


def foreign_design(
    masks: ArrayLike, p: ArrayLike | None = None, *, law: Law | None = None, paired: bool = False
) -> Design:
    """Make a design of masks that came from elsewhere.

    Given `p`, every source of a row must have been in independently with probability `p`; estimates and selection rest
    on it. What can be seen of it in the masks is checked: how often each source is in, how many are in each row, and
    whether neighbouring rows, or the rows of a pair, have to do with each other as they should.

    The design has no key, so that knockoff copies need `knockoff_key=`. Its coding is "weighted".

    Without `p`, each row's is estimated as the share of the sources that it holds. Effects then are those of a source
    in exchange for another one: beside least squares of the whole regression, an effect is too small by the mean
    effect of the other sources, `sum / (N-1)`. The same holds for subsets of a size fixed beforehand. So a source
    without effect of its own has one, of the other sign, which its knockoff copies have not: where a good part of the
    sources have effects of one sign, a two-sided selection exceeds its rate (`experiments.selection_options` has
    figures). Look for effects of that sign only, by `alternative=`.

    Args:
      masks: bool `[M, N]`, True where the source is in; at least 2 rows. These and `p` may be of any library that has
        DLPack.
      p: `[M]` or a number, the probability each row was drawn with; None to estimate it, for at least 30 sources.
      law: the law `p` was drawn from, which is needed to weigh rows of continuous `p` for another law; by default that
        of the values of `p` themselves: a `Grid` if they are at most 32 and repeat, else `Empirical`.
      paired: rows `2j` and `2j + 1` are an antithetic pair: with one `p`, in by `u` and `1 - u`; or with `p` and
        `1 - p`, complements.

    Returns:
      A `Design`.

    Raises:
      ValueError: for masks or `p` of another shape or type, and for masks that such a mechanism would draw with a
        probability below one in a million, naming the source, row or pair.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> import jaxame
      >>> rng = np.random.default_rng(0)
      >>> p = rng.choice([0.1, 0.3, 0.5, 0.7, 0.9], 100)
      >>> masks = rng.random((100, 20)) < p[:, None]
      >>> design = jaxame.foreign_design(masks, p)
      >>> utilities = 2.0 * masks[:, :1] + masks[:, 1:2]  # what was measured on each subset
      >>> result = jaxame.estimate_ame(design, utilities, knockoff_key=jax.random.key(0))
      >>> result.values[0, :2].round(2)
      array([2., 1.])
    """
    masks = checks.array(masks)
    fits = masks.ndim == 2 and masks.dtype == bool and masks.shape[0] >= 2 + paired and masks.shape[1] > 0
    checks.require(fits, f"masks bool [M >= {2 + paired}, N]", checks.describe(masks))
    num_rows, num_sources = masks.shape
    known = p is not None
    needs = f"p, for fewer than {_FEWEST_SOURCES} sources"
    checks.require(known or num_sources >= _FEWEST_SOURCES, needs, f"{num_sources} sources")
    values = _given(p, num_rows) if known else (masks.sum(axis=1) + 0.5) / (num_sources + 1)
    _check_sources(values, masks)
    if known:
        _check_rows(values, masks)
    if paired:
        _check_pairs(values, masks, known)
    else:
        _check_neighbours(values, masks)
    values = values.astype(np.float32)
    law = _own_law(values) if law is None else _checked_law(law, values)
    packed = jnp.asarray(np.packbits(masks, axis=1, bitorder="little"))
    return Design(jnp.asarray(values), packed, None, num_sources, law, "weighted", paired)


def _given(p: Any, num_rows: int) -> np.ndarray:
    values = checks.array(p, np.float64)
    checks.require(values.shape in ((), (num_rows,)), f"p to be a number or [{num_rows}]", checks.describe(values))
    bad = np.flatnonzero(~((np.float32(values) > 0) & (np.float32(values) < 1)))
    checks.require(bad.size == 0, "p strictly between 0 and 1 in float32", values.ravel()[bad[:1]])
    return np.broadcast_to(values, num_rows).copy()


def _check_sources(p: np.ndarray, masks: np.ndarray) -> None:
    times_in = masks.sum(axis=0)
    p_values = inclusion_p_values(p, times_in)
    worst = int(p_values.argmin())
    checks.require(
        bool(p_values[worst] * p_values.size >= _LEVEL),
        f"every source in with the row's probability, about {p.sum():.0f} times",
        f"source {worst} in {times_in[worst]} of {len(masks)} rows",
    )


def _check_rows(p: np.ndarray, masks: np.ndarray) -> None:
    num_in, num_sources = masks.sum(axis=1), masks.shape[1]
    either = np.minimum(scipy.stats.binom.cdf(num_in, num_sources, p), scipy.stats.binom.sf(num_in - 1, num_sources, p))
    worst = int(either.argmin())
    checks.require(
        bool(2 * either[worst] * len(p) >= _LEVEL),
        "every row to hold about p N sources, in independently of each other",
        f"row {worst} with {num_in[worst]} of {num_sources} and p = {p[worst]:.4g}",
    )


def _check_neighbours(p: np.ndarray, masks: np.ndarray) -> None:
    """Refuse pairs that are not said to be pairs, whichever row they start at: their rows would count twice."""
    for start in (0, 1):
        first, second = slice(start, len(p) - 1, 2), slice(start + 1, len(p), 2)
        spread = p * (1 - p)
        together = np.sum((masks[first] - p[first, None]) * (masks[second] - p[second, None]))
        variance = (spread[first] * spread[second]).sum() * masks.shape[1]
        bound = 2 * np.exp(-(together**2) / (2 * variance + 2 / 3 * abs(together)))  # Bernstein's, at any p
        checks.require(
            bool(2 * bound >= _LEVEL),
            "independent rows; an antithetic pair to be rows 2j and 2j + 1, with paired=True",
            f"rows {start} and {start + 1}, {start + 2} and {start + 3}, ... that depend on each other",
        )


def _check_pairs(p: np.ndarray, masks: np.ndarray, known: bool) -> None:
    last = len(p) // 2 * 2
    one, two, first, second = masks[0:last:2], masks[1:last:2], p[0:last:2], p[1:last:2]
    # An estimated p cannot tell which kind a pair is of: complements have shares of exactly p and 1 - p.
    mirrored = np.abs(first + second - 1) <= _SAME_P
    same = np.abs(first - second) <= _SAME_P if known else ~mirrored
    neither = np.flatnonzero(~(mirrored | same))
    checks.require(
        neither.size == 0,
        "the rows of every pair to have the same p, or p and 1 - p",
        f"pair {neither[:1]} of rows {2 * neither[:1]} and {2 * neither[:1] + 1} with p = {first[neither[:1]]} and "
        f"{second[neither[:1]]}",
    )
    both, none = (one & two).sum(axis=1), (~one & ~two).sum(axis=1)
    # u and 1 - u are both below p for |1 - 2 u| < 2 p - 1, and both above for |1 - 2 u| < 1 - 2 p.
    wrong = np.where(mirrored | (first <= 0.5), both, 0) + np.where(mirrored | (first >= 0.5), none, 0)
    if not known:
        wrong = np.where(mirrored, wrong, np.minimum(both, none))
    allowed = 1 + 1e-4 * masks.shape[1]  # mirrored p that were rounded
    bad = np.flatnonzero(wrong > np.where(mirrored, allowed, 0))
    checks.require(
        bad.size == 0,
        "antithetic pairs in rows 2j and 2j + 1",
        f"pair {bad[:1]}, rows {2 * bad[:1]} and {2 * bad[:1] + 1}, in which {wrong[bad[:1]]} sources contradict that",
    )


def _own_law(p: np.ndarray) -> Law:
    values, counts = np.unique(p, return_counts=True)
    if values.size <= min(_MOST_LEVELS, len(p) // 2):
        return Grid(tuple(values.tolist()), tuple(counts.tolist()))
    return Empirical(tuple(p.tolist()))


def _checked_law(law: Law, p: np.ndarray) -> Law:
    """Require values of `p` that the law can have drawn, with its mean and mean square."""
    checks.require(isinstance(law, Law), "a jaxame.design.Law, such as Grid((0.2, 0.4))", checks.describe(law))
    possible = law.density(p) > 0 if law.levels is None else np.isin(p, np.asarray(law.levels, np.float32))
    checks.require(bool(np.all(possible)), f"p that {law} can draw", f"p = {p[~possible][:1]}")
    for power in (1, 2):
        points, weights = law.quadrature()
        mean, square = float(weights @ points**power), float(weights @ points ** (2 * power))
        spread = np.sqrt(max(square - mean**2, 0.0) / len(p))
        drawn = np.float64(p**power).mean()
        fits = abs(drawn - mean) <= scipy.stats.norm.isf(_LEVEL / 4) * spread + _SAME_P
        checks.require(bool(fits), f"p drawn from {law}, with a mean of p^{power} near {mean:.4g}", f"{drawn:.4g}")
    return law
