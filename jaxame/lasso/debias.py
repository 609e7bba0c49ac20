"""One Newton step from a LASSO fit: an estimate of every coefficient that the penalty no longer pulls towards zero."""

from typing import NamedTuple

import numpy as np

from jaxame.lasso.certificate import Matrix


class OneStep(NamedTuple):
    """Coefficients `[P]` and their standard errors `[P]`."""

    coef: np.ndarray
    stderr: np.ndarray


def one_step(
    x: Matrix,
    x_squared: Matrix,
    y: np.ndarray,
    coef: np.ndarray,
    weight: np.ndarray,
    z: np.ndarray,
    second_moment: np.ndarray,
) -> OneStep:
    """Correct a fit by its own residuals, in float64: `b + X'Wr / (s (1 - df / M))`.

    `r` are the residuals after the best fit of `Z`, and `df` counts the support and `Z`. For columns that were drawn
    independently, as membership is, the known second moment stands in for the inverse covariance. The standard errors
    are of the sandwich kind, from the terms of that sum, so the residuals' variance may differ between rows.

    Args:
      x: `[M, P]` design, a float64 array or linear operator.
      x_squared: `[M, P]` the squares of its entries.
      y: `[M]` target; non-finite rows are left out.
      coef: `[P]` the fit.
      weight: `[M]` row weights.
      z: `[M, D]` unpenalised columns.
      second_moment: `[M]` expected square of a column's entry in each row.

    References:
      Javanmard and Montanari, JMLR 15, 2014; Bellec and Zhang, Bernoulli 28(2), 2022 (the adjustment for `df`); White,
      Econometrica 48(4), 1980 (the sandwich).
    """
    kept = np.isfinite(y)
    root = np.sqrt(np.where(kept, weight, 0.0))
    residual = root * (np.where(kept, y, 0.0) - x @ coef)
    residual = residual - root * (z @ np.linalg.lstsq(root[:, None] * z, residual)[0])
    freedom = np.count_nonzero(coef) + np.linalg.matrix_rank(root[:, None] * z)
    left = max(1.0 - freedom / kept.sum(), 1.0 / kept.sum())
    total = (root**2 * second_moment).sum() * left
    pull = root * residual
    return OneStep(coef + x.T @ pull / total, np.sqrt(x_squared.T @ pull**2) / total)
