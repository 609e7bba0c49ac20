r"""Any law from any design: row weights for the AME of another law than the one the rows were drawn for.

With `f` the target law, `g` the law the rows' `p` was drawn from (the tilted one for coding "centered") and
`r = f(p) / g(p)`, the weighted regression on `x = 1[in] - p` with row weight `r / (p(1-p))` has

    E[w x U] = E_g[r m_i(p)] = E_f[m_i(p)] = AME_i(f),        E[w x^2] = 1.

Weights depend on `p` only, so a redraw given `p` is as exact a knockoff as before.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxame import checks, features
from jaxame.design import Design
from jaxame.features import Coding
from jaxame.laws import Law

_LARGEST_LOSS = 0.02  # what Shapley values lose at their default truncation
_FEWEST_ROWS = 10
_SMALLEST_SHARE = 0.02


@dataclasses.dataclass(frozen=True, eq=False)
class Overlap:
    """How a design's rows stand for another law.

    Attributes:
      ratio: `[M]` density of the target law over that of the law the row's `p` was drawn from; 0 for a row that the
        target law never draws.
      effective_submodels: as many rows drawn from the target law itself would have the same standard errors, if the
        utility is as noisy at every `p`.
      lost_mass: share of the target law where the design has no rows; an AME changes by at most this times the range
        of `m_i(p)`.
    """

    ratio: np.ndarray
    effective_submodels: float
    lost_mass: float

    def about(self) -> dict[str, Any]:
        """What to keep of it with a result."""
        return {"effective_submodels": self.effective_submodels, "lost_mass": self.lost_mass}


def overlap(design: Design, law: Law) -> Overlap:
    r"""Weigh the rows of a design for another law.

    The effective number of submodels is Kish's `(sum r)^2 / sum r^2`, where a row's square counts `1 / (p(1-p))`, the
    variance of its estimate, relative to `v`, the mean of that under the target law. It is computed from the rows and
    from the two laws, and the smaller one is taken: rare rows of large weight may not have been drawn.

    Args:
      design: `M` rows.
      law: the target law.

    Raises:
      ValueError: where no weighting can help: a law with values of `p` that the design has not, a continuous law from
        a design with finitely many `p` or the reverse, more than 2 % of the law outside the design's support, or rows
        worth fewer than 10 or 2 % of their number.

    References:
      Kish, Survey Sampling, 1965, section 11.7.
    """
    checks.require(isinstance(law, Law), "a jaxame.design.Law, such as Grid((0.2, 0.4))", checks.describe(law))
    checks.require(design.parent is None, "a design without parents to weigh for another law", "a nested design")
    points, weights = law.quadrature()
    if law.levels is None:
        _require_continuous(design, law)
    else:
        _require_levels(design, law)
    at_points = _ratio(points, design, law)
    p = np.asarray(design.p, np.float64)
    ratio = _ratio(p, design, law)
    inside = np.isfinite(at_points)
    lost = float(weights[~inside].sum())
    checks.require(
        lost <= _LARGEST_LOSS,
        f"at most {_LARGEST_LOSS:.0%} of {law} outside the support of {design.law}, from which the rows were drawn: "
        "truncate the law, or draw a wider design",
        f"{lost:.3g}",
    )
    of_row = 1 / (points * (1 - points))
    v = weights[inside] @ of_row[inside]
    expected = design.num_submodels * (1 - lost) * v / (weights[inside] @ (at_points * of_row)[inside])
    drawn = v / (1 - lost) * ratio.sum() ** 2 / max((ratio**2 / (p * (1 - p))).sum(), np.finfo(float).tiny)
    effective = float(min(expected, drawn))
    fewest = max(_FEWEST_ROWS, _SMALLEST_SHARE * design.num_submodels)
    checks.require(
        effective >= fewest,
        f"rows worth at least {fewest:g} submodels of {law}, for little overlap gives no usable estimate",
        f"{design.num_submodels} rows of {design.law} worth {effective:.3g}",
    )
    return Overlap(ratio, effective, lost)


def code(design: Design, overlap: Overlap) -> Coding:
    """Return the membership code of a design with the row weights of another law, scale 1; see `features.Coding`."""
    p = np.asarray(design.p, np.float64)
    return Coding(
        low=-p,
        high=1 - p,
        weight=overlap.ratio / (p * (1 - p)),
        second_moment=p * (1 - p),
        scale=1.0,
        z=features.code(design).z,
    )


def _require_continuous(design: Design, law: Law) -> None:
    levels = design.law.levels
    checks.require(levels is None, f"a law on the design's own values of p, {levels}", f"{law}, which is continuous")
    for either in (law, design.law):
        either.density(np.array([0.5]))  # raises where there is none


def _require_levels(design: Design, law: Law) -> None:
    assert law.levels is not None
    needs = f"a law that overlaps with {design.law}, whose p is continuous; jaxame.effect_curve estimates single p"
    checks.require(design.law.levels is not None, needs, law)
    assert design.law.levels is not None
    own = {np.float32(p) for p in design.law.levels}
    missing = [p for p in law.levels if np.float32(p) not in own]
    checks.require(not missing, f"a law on the design's own values of p, {design.law.levels}", f"p = {missing}")


def _ratio(p: np.ndarray, design: Design, law: Law) -> np.ndarray:
    """Density of `law` over that of the law of the rows at `p [J]`, `[J]`; infinite where there can be no rows."""
    target, own = (_probability(p, each) for each in (law, design.law))
    if design.coding == "centered":
        own = own / (p * (1 - p)) / design.law.variance_scale
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(target > 0, target / own, 0.0)


def _probability(p: np.ndarray, law: Law) -> np.ndarray:
    """Density at `p [J]`, or probability if the law has finitely many values, `[J]`."""
    if law.levels is None:
        return law.density(p)
    points, weights = law.quadrature()
    share: np.ndarray = (np.asarray(p, np.float32)[:, None] == np.asarray(points, np.float32)) @ weights
    return share
