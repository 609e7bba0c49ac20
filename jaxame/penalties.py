"""Penalty factors that differ between sources: from a cheap prior."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxame import checks
from jaxame.lasso import CrossValidation, Problem
from jaxame.lasso.crossval import either

_LARGEST_FACTOR = 4.0


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
    factor: np.ndarray = mean / np.clip(scores, mean / _LARGEST_FACTOR, mean * _LARGEST_FACTOR)
    return factor


def cross_validate_weighted(
    pose: Callable[[np.ndarray | None], Problem],
    solve: Callable[[Problem], CrossValidation],
    scores: np.ndarray | None,
) -> tuple[CrossValidation, np.ndarray | None]:
    """Fit without penalty factors, and with those of a prior if there is one.

    A query takes the factors of the prior only if they lower its cross-validated error, so that a prior which knows
    nothing costs a fit and little else.

    Args:
      pose: makes the problem with factors `[Q, N]`, or None for equal ones.
      solve: fits it.
      scores: `[Q, N]` from `check_prior`, or None.

    Returns:
      the fit, and the factors `[Q, N]` of the problem that it solves, None if all are 1.
    """
    fit = solve(pose(None))
    if scores is None:
        return fit, None
    guided = prior_factors(scores)
    other = solve(pose(guided))
    better = np.nanmin(other.error_mean, axis=0) < np.nanmin(fit.error_mean, axis=0)
    return either(better, other, fit), np.where(better[:, None], guided, 1.0)
