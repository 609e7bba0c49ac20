"""One Newton step from a LASSO fit: an estimate of every coefficient that the penalty no longer pulls towards zero."""

from typing import NamedTuple

import numpy as np

from jaxame.lasso.certificate import Matrix


class OneStep(NamedTuple):
    """Coefficients `[Q, P]` and their standard errors `[Q, P]`."""

    coef: np.ndarray
    stderr: np.ndarray


def one_step(
    x: Matrix,
    x_squared: Matrix,
    targets: np.ndarray,
    coef: np.ndarray,
    weight: np.ndarray,
    z: np.ndarray,
    second_moment: np.ndarray,
) -> OneStep:
    """Correct fits by their own residuals, in float64: `b + X'Wr / (s (1 - df / M))`.

    `r` are the residuals after the best fit of `Z`, and `df` counts the support and `Z`. For columns that were drawn
    independently, as membership is, the known second moment stands in for the inverse covariance. The standard errors
    are of the sandwich kind, from the terms of that sum, so the residuals' variance may differ between rows.

    Args:
      x: `[M, P]` design, a float64 array or linear operator.
      x_squared: `[M, P]` the squares of its entries.
      targets: `[M, Q]`; non-finite entries leave their row out for that query.
      coef: `[Q, P]` the fits.
      weight: `[M]` row weights.
      z: `[M, D]` unpenalised columns.
      second_moment: `[M]` expected square of a column's entry in each row.

    References:
      Javanmard and Montanari, JMLR 15, 2014; Bellec and Zhang, Bernoulli 28(2), 2022 (the adjustment for `df`); White,
      Econometrica 48(4), 1980 (the sandwich).
    """
    kept = np.isfinite(targets)
    root = np.sqrt(np.where(kept, weight[:, None], 0.0))
    residual = root * (np.where(kept, targets, 0.0) - x @ coef.T)
    left = np.empty(len(coef))
    for q, own in enumerate(root.T):
        own_z = own[:, None] * z
        residual[:, q] -= own_z @ np.linalg.lstsq(own_z, residual[:, q])[0]
        freedom = np.count_nonzero(coef[q]) + np.linalg.matrix_rank(own_z)
        left[q] = max(1.0 - freedom / kept[:, q].sum(), 1.0 / kept[:, q].sum())
    total = (second_moment @ root**2 * left)[:, None]
    pull = root * residual
    return OneStep(coef + (x.T @ pull).T / total, np.sqrt((x_squared.T @ pull**2).T) / total)
