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
    cross: Matrix | None,
    targets: np.ndarray,
    coef: np.ndarray,
    weight: np.ndarray,
    z: np.ndarray,
    second_moment: np.ndarray,
) -> OneStep:
    """Correct fits by their own residuals, in float64: `b + X'Wr / (s (1 - df / U))`.

    `r` are the residuals after the best fit of `Z`, `df` counts the support and `Z`, and `U` the independent units:
    rows, or pairs of them. For columns that were drawn independently, as membership is, the known second moment stands
    in for the inverse covariance. The standard errors are of the sandwich kind, from the terms of that sum, so the
    residuals' variance may differ between rows, and the two of a pair may depend on each other.

    Args:
      x: `[M, P]` design, a float64 array or linear operator.
      x_squared: `[M, P]` the squares of its entries.
      cross: `[floor(M/2), P]` the products of the entries of rows `2j` and `2j + 1` if these are a pair; None if all
        rows are independent.
      targets: `[M, Q]`; non-finite entries leave their row out for that query.
      coef: `[Q, P]` the fits.
      weight: `[M]` row weights; a row of weight 0 does not count.
      z: `[M, D]` unpenalised columns.
      second_moment: `[M]` expected square of a column's entry in each row.

    References:
      Javanmard and Montanari, JMLR 15, 2014; Bellec and Zhang, Bernoulli 28(2), 2022 (the adjustment for `df`); White,
      Econometrica 48(4), 1980 (the sandwich); Liang and Zeger, Biometrika 73(1), 1986 (with clusters).
    """
    kept = np.isfinite(targets) & (weight > 0)[:, None]
    units = kept if cross is None else np.logical_or.reduceat(kept, np.arange(0, len(kept), 2))
    num_units = units.sum(axis=0)
    root = np.sqrt(np.where(kept, weight[:, None], 0.0))
    residual = root * (np.where(kept, targets, 0.0) - x @ coef.T)
    left = np.empty(len(coef))
    for q, own in enumerate(root.T):
        own_z = own[:, None] * z
        residual[:, q] -= own_z @ np.linalg.lstsq(own_z, residual[:, q])[0]
        freedom = np.count_nonzero(coef[q]) + np.linalg.matrix_rank(own_z)
        left[q] = max(1.0 - freedom / num_units[q], 1.0 / num_units[q])
    total = (second_moment @ root**2 * left)[:, None]
    pull = root * residual
    variance = x_squared.T @ pull**2
    if cross is not None:
        last = 2 * cross.shape[0]
        variance += 2 * (cross.T @ (pull[0:last:2] * pull[1:last:2]))
    return OneStep(coef + (x.T @ pull).T / total, np.sqrt(np.maximum(variance, 0.0)).T / total)
