"""Before and after a run: how many submodels, which effects they can show, and a check on the user's own data."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import stats

from jaxame import checks, knockoffs
from jaxame.design import Design, Law, redraw_masks
from jaxame.features import code, exact_operator, mask_columns, pair_products
from jaxame.lasso import entry_path, make_problem

_PLANT_STREAM = 2**32 - 7  # of a key whose own redraws are the knockoff copies
_PER_EFFECT = 4.5


class PilotR2(NamedTuple):
    """How much of the utility's variance given `p` is linear in the sources.

    Attributes:
      r2: `[Q]` that share, dimensionless; estimated, so that it may be a little below 0 or above 1.
      stderr: `[Q]` its standard error.
    """

    r2: np.ndarray
    stderr: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class PlantedPower:
    """How often planted sources were found.

    Attributes:
      effects: `[E]` the AME planted, in the unit of the query.
      found: bool `[E, R]` whether the planted source was selected, in each of `R` repeats.
    """

    effects: np.ndarray
    found: np.ndarray

    @property
    def power(self) -> np.ndarray:
        """Share of the repeats in which it was found, `[E]`."""
        share: np.ndarray = self.found.mean(axis=1)
        return share

    @property
    def stderr(self) -> np.ndarray:
        """Standard error of `power` over the repeats, on these data; `[E]`."""
        share = (self.found.sum(axis=1) + 1) / (self.found.shape[1] + 2)  # not 0 where all or none are found
        error: np.ndarray = np.sqrt(share * (1 - share) / self.found.shape[1])
        return error


def plan(num_effects: int, num_sources: int, r2: float) -> int:
    """Return how many submodels find nine in ten of the sources that matter.

    `M90 = 4.5 k ln N / R2`, for `k` effects of about equal size. With as many rows, knockoff selection with four copies
    at a false discovery rate of .1 found .99 and more of them in five settings of three games with 10 to 30 effects;
    with a factor of 3, .94 and more (`python -m experiments.planning`). For exactly these sources on the LASSO's path
    in 90 % of the runs the factor was 2.6 to 6.0, largest for a majority vote of 31 (`python -m
    experiments.sample_complexity`).

    Args:
      num_effects: `k`, how many sources matter.
      num_sources: `N`, more than `k`.
      r2: `R2`, the share of the utility's variance given `p` that is linear in the sources; see `estimate_r2`.

    Raises:
      ValueError: for other numbers, or `r2` outside (0, 1].

    Example:
      >>> from jaxame import planning
      >>> planning.plan(num_effects=10, num_sources=500, r2=0.5)
      560
    """
    num_effects = checks.count(num_effects, "num_effects")
    num_sources = checks.count(num_sources, "num_sources", num_effects + 1)
    is_number = isinstance(r2, int | float | np.number) and not isinstance(r2, bool)
    checks.require(is_number and 0 < r2 <= 1, "r2 above 0 and at most 1", checks.describe(r2))
    return math.ceil(_PER_EFFECT * num_effects * math.log(num_sources) / r2)


def detectable_effect(
    spread: float,
    law: Law,
    *,
    num_submodels: int,
    num_sources: int,
    num_effects: int = 10,
    fdr: float = 0.1,
    power: float = 0.9,
) -> float:
    r"""Return the smallest AME that a budget finds with a given power.

    An AME is estimated with standard error `spread sqrt(v / M)` under every coding. Among `N` sources, of which `k`
    matter, a threshold of `z` standard errors keeps to the false discovery rate where `2 (N-k) P(Z > z) = k fdr /
    (1 - fdr)`, and an effect of `z + z_power` standard errors passes it with the power asked for. Knockoffs estimate
    that threshold. At a power of .9 they found .86 to .96 of ten such effects among 500 sources, at a power of .5 about
    .26: near the fewest that can be selected they find most of them or none (`python -m experiments.planning`).

    Args:
      spread: standard deviation of the utility given `p`. All of it, effects included: the LASSO meets a source
        before it has explained most of the others.
      law: inclusion law.
      num_submodels: `M`.
      num_sources: `N`.
      num_effects: `k`, fewer than `N`.
      fdr: false discovery rate of the selection.
      power: probability to find the source.

    Returns:
      The effect, in the unit of the utility.

    Raises:
      ValueError: for numbers out of their range.
    """
    is_number = isinstance(spread, int | float | np.number) and not isinstance(spread, bool)
    checks.require(is_number and 0 <= spread < math.inf, "spread finite and not negative", checks.describe(spread))
    checks.require(isinstance(law, Law), "a jaxame.design.Law, such as Grid((0.2, 0.4))", checks.describe(law))
    num_submodels = checks.count(num_submodels, "num_submodels", 2)
    num_effects = checks.count(num_effects, "num_effects")
    nulls = checks.count(num_sources, "num_sources", num_effects + 1) - num_effects
    fdr, power = checks.probability(fdr, "fdr"), checks.probability(power, "power")
    false_rate = min(1.0, num_effects * fdr / (1 - fdr) / nulls)
    z = stats.norm.isf(false_rate / 2) + stats.norm.ppf(power)
    return float(max(z, 0.0) * spread * math.sqrt(law.variance_scale / num_submodels))


def estimate_r2(design: Design, utilities: ArrayLike) -> PilotR2:
    r"""Estimate `R2`, the share of the variance given `p` that is linear in the sources, from a pilot of any size.

    With `r` the residuals after the intercepts per `p`, each by a fit without its own row, and `g = w x r`, the sum of
    squared coefficients is estimated without bias by the mean of `g_a . g_b` over pairs of independent rows. This
    needs neither sparsity nor more rows than sources: its error is about `sqrt(2 N) / M`.

    Args:
      design: `M` rows over `N` sources.
      utilities: `[M, Q]`, any unit; a non-finite entry leaves its row out for that query.

    Returns:
      `PilotR2`. By chance an estimate can be below 0 or above 1. Standard errors are the jackknife's over rows, or
      pairs, which are too large, by up to a half, where `R2` is near 0 or rows are few.

    Raises:
      ValueError: for utilities of another shape, with fewer finite rows than intercepts and two, or without variance.

    References:
      Dicker, Biometrika 101(2), 2014 (the variance explained, without sparsity); Efron and Stein, Annals of Statistics
      9(3), 1981 (the jackknife).

    Example:
      >>> import jax
      >>> import jaxame
      >>> from jaxame import planning
      >>> from jaxame.design import Grid, sample_design
      >>> from jaxame.games import Additive
      >>> design = sample_design(jax.random.key(0), Grid((0.1, 0.3, 0.5, 0.7, 0.9)), num_submodels=1000, num_sources=20)
      >>> pilot = planning.estimate_r2(design, jaxame.evaluate(Additive([2.0, 1.0] + [0.0] * 18), design))
      >>> pilot.r2.round(1), pilot.r2.shape == pilot.stderr.shape
      (array([1.]), True)
    """
    targets = _checked(design, utilities)
    coding = code(design)
    x, ones = exact_operator(design, coding), np.ones((design.num_sources, 1))
    square = exact_operator(design, dataclasses.replace(coding, low=coding.low**2, high=coding.high**2)) @ ones
    pair = pair_products(design, coding) @ ones if design.paired else None
    unit = design.units
    values, errors = [], []
    for q, y in enumerate(targets.T):
        pull, spread = _residuals(y, coding.weight, coding.z, f"query {q}")
        count = np.isfinite(y).astype(float)
        total = x.T @ pull[:, None]
        # By unit: the rows' own squares, and what they add to the squared sum of all.
        own = np.bincount(unit, pull**2 * square[:, 0])
        if pair is not None:
            last = 2 * pair.shape[0]
            own[: last // 2] += 2 * pull[0:last:2] * pull[1:last:2] * pair[:, 0]
        with_all = np.bincount(unit, pull * (x @ total)[:, 0])
        rows = np.bincount(unit, count)
        moment = np.bincount(unit, count * coding.weight * coding.second_moment)
        variance = np.bincount(unit, spread)

        def share(
            sum_of_squares: ArrayLike, own: ArrayLike, rows: np.ndarray, moment: ArrayLike, variance: ArrayLike
        ) -> np.ndarray:
            """R2 from sums: pairs of units over their number, the mean square of a column, and the variance."""
            pairs = (np.asarray(sum_of_squares) - own) / (rows[0] ** 2 - rows[1])
            share: np.ndarray = pairs / (np.asarray(moment) / rows[0]) / (np.asarray(variance) / rows[0])
            return share

        everything = (total**2).sum()
        sums = own.sum(), moment.sum(), variance.sum()
        counts = np.array([rows.sum(), (rows**2).sum()])
        values.append(float(share(everything, sums[0], counts, sums[1], sums[2])))
        without = share(
            everything - 2 * with_all + own,
            sums[0] - own,
            counts[:, None] - np.array([rows, rows**2]),
            sums[1] - moment,
            sums[2] - variance,
        )[rows > 0]
        errors.append(math.sqrt((without.size - 1) * without.var()))
    return PilotR2(np.array(values), np.array(errors))


def planted_power(
    design: Design,
    utilities: ArrayLike,
    effects: Sequence[float],
    *,
    key: jax.Array,
    fdr: float = 0.1,
    repeats: int = 50,
    copies: int = 4,
    query: int = 0,
) -> PlantedPower:
    """Plant known sources in stored utilities and count how often they are found: a check on the user's own data.

    A source drawn anew by the design's own mechanism is added to the sources, and `effect` to the utility of every row
    that it is in: its AME is `effect`, exactly, whatever the game does, and no submodel is trained again. The sources
    planted for the other repeats are there as well, without any effect; so there are `R` more to choose among than in
    the user's own run, and the power is a little on the low side.

    Args:
      design: `M` rows over `N` sources.
      utilities: `[M, Q]`.
      effects: `[E]` AME to plant, one at a time, in the unit of the query; `detectable_effect` says which are of
        interest.
      key: one typed threefry key; decides planted sources and copies.
      fdr: false discovery rate of the selection. With `c` copies none of fewer than `1 / (c fdr)` sources is selected;
        that holds for the planted one too.
      repeats: `R`, the number of sources planted.
      copies: `c`, at least 1.
      query: a query's number.

    Returns:
      `PlantedPower`.

    Raises:
      ValueError: for other arguments.
    """
    targets = _checked(design, utilities)
    checks.typed_key(key)
    fdr = checks.probability(fdr, "fdr")
    repeats, copies = checks.count(repeats, "repeats"), checks.count(copies, "copies")
    known = not isinstance(query, bool) and query in range(targets.shape[1])
    checks.require(known, f"query to be a number below {targets.shape[1]}", checks.describe(query))
    sizes = np.asarray(effects, np.float64)
    fits = sizes.ndim == 1 and sizes.size > 0 and bool(np.isfinite(sizes).all())
    checks.require(fits, "effects [E], finite", checks.describe(effects))
    wider, planted = _with_planted(design, key, repeats)
    y = targets[:, query, None, None] + sizes[:, None] * planted[:, None, :]
    coding = code(wider)
    columns = mask_columns(wider, coding, redraw_masks(wider, key, copies))
    problem = make_problem(columns, y.reshape(len(y), -1), coding.weight, coding.z, None)
    path = entry_path(problem)
    shape = (sizes.size, repeats, copies + 1, wider.num_sources)
    importance = path.penalty.reshape(shape)
    found = [
        [design.num_sources + r in knockoffs.select(importance[e, r], fdr).indices for r in range(repeats)]
        for e in range(sizes.size)
    ]
    return PlantedPower(sizes, np.array(found))


def _with_planted(design: Design, key: jax.Array, number: int) -> tuple[Design, np.ndarray]:
    """Return the design with further sources behind its own, and their membership `[M, number]`."""
    few = dataclasses.replace(design, num_sources=number)
    drawn = redraw_masks(few, jax.random.fold_in(key, _PLANT_STREAM), 1)[0]
    masks = np.concatenate([np.asarray(d.masks()) for d in (design, dataclasses.replace(few, packed=drawn))], axis=1)
    packed = jnp.asarray(np.packbits(masks, axis=1, bitorder="little"))
    return dataclasses.replace(design, packed=packed, num_sources=masks.shape[1]), masks[:, design.num_sources :]


def _checked(design: Design, utilities: ArrayLike) -> np.ndarray:
    checks.require(isinstance(design, Design), "a jaxame.design.Design", checks.describe(design))
    checks.require(design.parent is None, "a design without parents for planning", "a nested design")
    targets = np.asarray(utilities, np.float64)
    fits = targets.ndim == 2 and targets.shape[0] == design.num_submodels and targets.shape[1] > 0
    checks.require(fits, f"utilities [M={design.num_submodels}, Q]", list(targets.shape))
    return targets


def _residuals(y: np.ndarray, weight: np.ndarray, z: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Weighted residuals `w r [M]`, each from a fit of `Z` without its own row, and weighted squares `[M]`.

    The squares have the mean that those of the true residuals have; both are 0 where `y` is not finite.
    """
    kept = np.isfinite(y)
    root = np.sqrt(weight[kept])
    basis, singular, _ = np.linalg.svd(root[:, None] * z[kept], full_matrices=False)
    basis = basis[:, singular > 1e-10 * singular.max(initial=0.0)]
    checks.require(
        kept.sum() >= basis.shape[1] + 2, f"at least {basis.shape[1] + 2} finite rows for {name}", kept.sum()
    )
    left = 1 - (basis**2).sum(axis=1)
    inside = root * y[kept]
    inside = np.where(left > 1e-10, inside - basis @ (basis.T @ inside), 0.0) / np.maximum(left, 1e-10)
    checks.require(bool((inside != 0).any()), f"utilities of {name} that vary given p", "none")
    pull, square = np.zeros_like(y), np.zeros_like(y)
    pull[kept], square[kept] = root * inside, left * inside**2
    return pull, square
