"""Penalty factors that differ between sources: from a cheap prior, or from a first fit (the adaptive LASSO)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxame import checks
from jaxame.lasso import CrossValidation, Problem
from jaxame.lasso.crossval import either

_LARGEST_FACTOR = 4.0
_SMALLEST_SHARE = 1e-3  # of the largest first coefficient: those below count as this large


def check_prior(prior: Any, num_queries: int, num_sources: int) -> np.ndarray:
    """Return a prior as float64 `[Q, N]`; `[N]` serves all queries.

    Raises:
      ValueError: for another shape, for scores that are negative or not finite, and for a query without a positive one.
    """
    scores = np.asarray(prior, np.float64)
    shapes = ((num_sources,), (num_queries, num_sources))
    checks.require(scores.shape in shapes, f"prior [{num_sources}] or {list(shapes[1])}", list(scores.shape))
    checks.require(bool(np.isfinite(scores).all() and (scores >= 0).all()), "finite scores >= 0 in prior", scores)
    scores = np.broadcast_to(scores, shapes[1])
    checks.require(bool(scores.any(axis=1).all()), "a positive score for every query in prior", scores)
    return scores


def prior_factors(scores: np.ndarray) -> np.ndarray:
    """Return the factors `mean score / score`, between 1/4 and 4, of scores `[Q, N]`; their unit does not matter."""
    mean = scores.mean(axis=1, keepdims=True)
    return mean / np.clip(scores, mean / _LARGEST_FACTOR, mean * _LARGEST_FACTOR)


def adaptive_factors(coef: np.ndarray) -> np.ndarray:
    """Return the factors `largest |coef| / |coef|`, between 1 and 1,000, of first coefficients `[Q, N]`."""
    size = np.abs(coef)
    largest = size.max(axis=1, keepdims=True)
    return np.where(largest > 0, largest, 1.0) / np.where(largest > 0, np.maximum(size, _SMALLEST_SHARE * largest), 1.0)


def cross_validate_weighted(
    pose: Callable[[np.ndarray | None], Problem],
    solve: Callable[[Problem], CrossValidation],
    scores: np.ndarray | None,
    adaptive: bool,
) -> tuple[CrossValidation, np.ndarray | None]:
    """Fit without penalty factors, then with those asked for.

    A query takes the factors of the prior only if they lower its cross-validated error, so that a prior which knows
    nothing costs a fit and little else. The folds of an adaptive fit share factors that come from all rows.

    Args:
      pose: makes the problem with factors `[Q, N]`, or None for equal ones.
      solve: fits it.
      scores: `[Q, N]` from `check_prior`, or None.
      adaptive: fit again with `adaptive_factors` of the fit at `lambda_min`.

    Returns:
      the fit, and the factors `[Q, N]` of the problem that it solves, None if all are 1.

    References:
      Zou, JASA 101, 2006 (adaptive LASSO); Bühlmann and van de Geer, Statistics for High-Dimensional Data, 2011,
      section 2.8 (with a first LASSO fit).
    """
    fit, factor = solve(pose(None)), None
    if scores is not None:
        guided = prior_factors(scores)
        other = solve(pose(guided))
        better = np.nanmin(other.error_mean, axis=0) < np.nanmin(fit.error_mean, axis=0)
        fit, factor = either(better, other, fit), np.where(better[:, None], guided, 1.0)
    if adaptive:
        factor = adaptive_factors(fit.coef_min)
        fit = solve(pose(factor))
    return fit, factor
