"""An exact test of every source: redraws of its column compete with it for what the other sources leave unexplained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxame.design import Design, Parent, redraw_masks
from jaxame.features import Coding, Operator, code, exact_columns, exact_operator, mask_columns
from jaxame.lasso import Problem, make_problem, refit, solve_near

_STREAM = 2**32 - 9


def randomisation_p_values(design: Design, targets: np.ndarray, key: jax.Array, num_redraws: int) -> np.ndarray:
    """P-values `[Q, 2, N]` of "the utility does not depend on source `j` given the others and `p`", exact at any `M`.

    For source `j` the statistic is the covariance of its code with the residual of a fit on all *other* sources: a
    LASSO, then least squares on its support. Its penalty, `sqrt(2 ln N / M)` in units of noise alone, looks at no
    column. So under the hypothesis the source's column and `R` redraws of it with the same `p` (by pairs, where the
    design has them) are exchangeable, and the p-value is `(1 + #{redraws at least as far out}) / (1 + R)`. A source
    outside of the LASSO's support does not enter the fit, so one fit serves all of these; those inside are left out
    of it one at a time. The redraws serve all sources, so the p-values depend on each other a little.

    Args:
      design: `M` rows over `N` sources.
      targets: `[M, Q]`; non-finite entries leave their row out for that query.
      key: one typed key of the redraws.
      num_redraws: `R`.

    Returns:
      `[Q, 2, N]`, against sources that raise the query and against those that lower it; NaN for a query with a fit that
      did not converge.

    References:
      Candès et al., JRSS B 80(3), 2018 (conditional randomisation test); Liu, Katsevich, Janson and Ramdas,
      Biometrika 109(2), 2022 (its distilled form).
    """
    coding = code(design)
    problem = make_problem(mask_columns(design, coding), targets, coding.weight, coding.z, None)
    penalty = _penalty(problem, coding, design.num_sources)
    fits, met = solve_near(problem, penalty[None], np.zeros((1, targets.shape[1], design.num_sources)))
    coef, converged = fits[0], met[0]
    query, source = np.nonzero(coef)
    residuals = [_residual(design, coding, y, np.flatnonzero(b)) for y, b in zip(targets.T, coef, strict=True)]
    for q, j in zip(query.tolist(), source.tolist(), strict=True):
        without, did = _without(problem, penalty, coef, q, j)
        residuals.append(_residual(design, coding, targets[:, q], np.flatnonzero(without)))
        converged[q] &= did
    pull = coding.weight[:, None] * np.stack(residuals, axis=1)
    null = exact_operator(_redraws(design, key, num_redraws), coding)
    own = exact_operator(design, coding).rmatmat(pull)
    if design.parent is None:
        p = _compare(own, np.sort(null.rmatmat(pull), axis=0), query, source, targets.shape[1])
    else:
        p = _compare_by_parent(design.parent, own, null, pull, query, source, targets.shape[1])
    p[~converged] = np.nan
    return p


def _penalty(problem: Problem, coding: Coding, num_sources: int) -> np.ndarray:
    """Penalty `[Q]` that the gradients of a standardised target of nothing but noise would just not exceed."""
    weight = np.asarray(problem.weight, np.float64)
    penalty: np.ndarray = np.sqrt(2 * np.log(num_sources) * (weight**2 @ coding.second_moment))
    return penalty


def _without(
    problem: Problem, penalty: np.ndarray, coef: np.ndarray, query: int, source: int
) -> tuple[np.ndarray, bool]:
    """LASSO coefficients `[N]` of one query without one source, and whether the fit converged."""
    factor = problem.penalty.factor.at[:, source].set(jnp.inf)
    one = slice(query, query + 1)
    alone = dataclasses.replace(
        problem,
        penalty=dataclasses.replace(problem.penalty, factor=factor),
        y=problem.y[one],
        weight=problem.weight[one],
        z_inverse=problem.z_inverse[one],
        unit=problem.unit[one],
    )
    near = np.where(np.arange(coef.shape[1]) == source, 0.0, coef[one])
    fits, met = solve_near(alone, penalty[None, one], near[None])
    return fits[0, 0], bool(met[0, 0])


def _residual(design: Design, coding: Coding, y: np.ndarray, support: np.ndarray) -> np.ndarray:
    """What least squares on a support and `Z` leaves of `y [M]`; 0 in rows that are left out."""
    x = np.concatenate([exact_columns(design, coding, support), coding.z], axis=1)
    kept = np.isfinite(y)
    target = np.where(kept, y, 0.0)
    left = np.where(kept, target - x @ refit(x, y, coding.weight, np.zeros((y.size, 0))), 0.0)
    # What rounding leaves of a target that is explained is not a residual.
    return left if np.abs(left).max() > 1e-12 * np.abs(target).max() else np.zeros_like(left)


def _redraws(design: Design, key: jax.Array, num_redraws: int) -> Design:
    """`R` columns drawn like those of the design, but for parents, as a design of `R` sources."""
    null = dataclasses.replace(design, num_sources=num_redraws, parent=None)
    return dataclasses.replace(null, packed=redraw_masks(null, jax.random.fold_in(key, _STREAM), 1)[0])


def _compare_by_parent(
    parent: Parent,
    own: np.ndarray,
    null: Operator,
    pull: np.ndarray,
    query: np.ndarray,
    source: np.ndarray,
    num_queries: int,
) -> np.ndarray:
    """P-values where a redraw counts only in the rows that its source's parent is in, so each parent has its own."""
    index, p = np.asarray(parent.index), np.ones((num_queries, 2, len(own)))
    is_in = np.asarray(parent.design.masks())
    for number in np.unique(index):
        members = np.flatnonzero(index == number)
        kept = np.isin(source, members)
        columns = np.concatenate([np.arange(num_queries), num_queries + np.flatnonzero(kept)])
        chance = np.sort(null.rmatmat(is_in[:, [number]] * pull[:, columns]), axis=0)
        place = np.searchsorted(members, source[kept])
        p[:, :, members] = _compare(own[np.ix_(members, columns)], chance, query[kept], place, num_queries)
    return p


def _compare(
    own: np.ndarray, chance: np.ndarray, query: np.ndarray, source: np.ndarray, num_queries: int
) -> np.ndarray:
    """P-values from the statistics `own [N, Q + A]` and the sorted ones of the redraws, `chance [R, Q + A]`."""
    num_redraws = len(chance)

    def both_sides(column: int, statistic: np.ndarray) -> np.ndarray:
        # Rounding must not tell apart what is equal, such as the zeros of a utility that nothing moves.
        slack = 1e-9 * np.abs(chance[:, column]).max()
        above = num_redraws - np.searchsorted(chance[:, column], statistic - slack, side="left")
        below = np.searchsorted(chance[:, column], statistic + slack, side="right")
        return (1 + np.stack([above, below])) / (1 + num_redraws)

    p = np.stack([both_sides(q, own[:, q]) for q in range(num_queries)])
    for number, (q, j) in enumerate(zip(query, source, strict=True), start=num_queries):
        p[q, :, j] = both_sides(number, own[j, number])
    return p
