"""One Newton step from a LASSO fit: an estimate of every coefficient that the penalty no longer pulls towards zero."""

from typing import NamedTuple

import numpy as np

from jaxame.lasso.certificate import Matrix

_ROUNDING = 1e-12  # of the largest target


class OneStep(NamedTuple):
    """Corrected coefficients.

    Attributes:
      coef: `[Q, P]`, in the unit of the target per unit of the column.
      stderr: `[Q, P]` their standard errors, in the same unit.
    """

    coef: np.ndarray
    stderr: np.ndarray


class Design(NamedTuple):
    """What a step needs to know of a design of `M` rows and `P` columns, all in float64.

    Attributes:
      x: `[M, P]`, an array or linear operator.
      x_squared: `[M, P]` the squares of its entries.
      cross: `[floor(M/2), P]` the products of the entries of rows `2j` and `2j + 1` if these are a pair; None if all
        rows are independent.
      second_moment: `[M]` expected square of a column's entry in each row.
      z: `[M, D]` unpenalised columns.
    """

    x: Matrix
    x_squared: Matrix
    cross: Matrix | None
    second_moment: np.ndarray
    z: np.ndarray


def one_step(design: Design, targets: np.ndarray, coef: np.ndarray, weight: np.ndarray) -> OneStep:
    """Correct fits by their own residuals: `b + X'Wr / (s (1 - df / U))`.

    `r` are the residuals after the best fit of `Z`, `df` counts the support and `Z`, and `U` the independent units:
    rows, or pairs of them. For columns that were drawn independently, as membership is, the known second moment stands
    in for the inverse covariance. The standard errors are of the sandwich kind, from the terms of that sum, so the
    residuals' variance may differ between rows, and the two of a pair may depend on each other.

    Args:
      design: `M` rows, `P` columns.
      targets: `[M, Q]`; non-finite entries leave their row out for that query.
      coef: `[Q, P]` the fits.
      weight: `[M]` row weights, or `[M, Q]` for every query its own; a row of weight 0 does not count.

    References:
      Javanmard and Montanari, JMLR 15, 2014; Bellec and Zhang, Bernoulli 28(2), 2022 (the adjustment for `df`); White,
      Econometrica 48(4), 1980 (the sandwich); Liang and Zeger, Biometrika 73(1), 1986 (with clusters).
    """
    return step_from(design, targets, coef, design.x @ coef.T, np.count_nonzero(coef, axis=1), weight)


def step_from(
    design: Design, targets: np.ndarray, coef: np.ndarray, fitted: np.ndarray, terms: np.ndarray, weight: np.ndarray
) -> OneStep:
    """Do as `one_step` does, from any function of the rows whose best linear coefficients are known.

    Args:
      design: `M` rows, `P` columns.
      targets: `[M, Q]`; non-finite entries leave their row out for that query.
      coef: `[Q, P]` the coefficients of the functions, in the sense of the columns' known second moment.
      fitted: `[M, Q]` the functions.
      terms: `[Q]` how many coefficients each was fitted with, less those of `Z`.
      weight: as in `one_step`.
    """
    kept, root, y = _rows(targets, weight)
    residual = root * (y - fitted)
    left = np.empty(len(coef))
    for q, own in enumerate(root.T):
        own_z = own[:, None] * design.z
        residual[:, q] -= own_z @ np.linalg.lstsq(own_z, residual[:, q])[0]
        # What rounding leaves of a target that is explained is no noise.
        if np.abs(residual[:, q]).max() <= _ROUNDING * np.abs(own * y[:, q]).max():
            residual[:, q] = 0.0
        freedom = terms[q] + np.linalg.matrix_rank(own_z)
        num_units = _count_units(kept[:, q] & (own > 0), design.cross is not None)
        left[q] = max(1.0 - freedom / num_units, 1.0 / num_units)
    return _correct(design, coef, root * residual, (design.second_moment @ root**2 * left)[:, None])


def cross_fitted_step(
    design: Design, targets: np.ndarray, fold_coef: np.ndarray, fold: np.ndarray, weight: np.ndarray
) -> OneStep:
    """Correct the fits of every fold by the residuals of the rows it held out: `mean of b_f + X'Wr / s`.

    No row is corrected by a fit that it took part in, so there is no bias at any number of rows.

    Args:
      design: `M` rows, `P` columns.
      targets: `[M, Q]`; non-finite entries leave their row out for that query.
      fold_coef: `[Q, F, P]` the fits on the training rows.
      fold: `[M]` the fold that holds each row out.
      weight: `[M]` row weights.

    References:
      Chernozhukov et al., Econometrics Journal 21(1), 2018 (cross-fitting).
    """
    _, root, y = _rows(targets, weight)
    pull = np.zeros_like(y)
    share = np.zeros(fold_coef.shape[:2])
    for f in range(fold_coef.shape[1]):
        held = fold == f
        fitted = y - design.x @ fold_coef[:, f].T
        share[:, f] = design.second_moment[held] @ root[held] ** 2
        for q, own in enumerate(root.T):
            training = own * ~held
            g = np.linalg.lstsq(training[:, None] * design.z, training * fitted[:, q])[0]
            pull[held, q] = own[held] ** 2 * (fitted[held, q] - design.z[held] @ g)
    total = share.sum(axis=1, keepdims=True)
    return _correct(design, np.einsum("qf,qfp->qp", share / total, fold_coef), pull, total)


def _rows(targets: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that are kept, square roots of their weights, and targets, zero in the others; `[M, Q]` each."""
    kept = np.isfinite(targets)
    root = np.sqrt(np.where(kept, weight.reshape(len(weight), -1), 0.0))
    return kept, root, np.where(kept, targets, 0.0)


def _count_units(kept: np.ndarray, paired: bool) -> int:
    return int((np.logical_or.reduceat(kept, np.arange(0, kept.size, 2)) if paired else kept).sum())


def _correct(design: Design, coef: np.ndarray, pull: np.ndarray, total: np.ndarray) -> OneStep:
    """Add the mean of the terms `x pull` to the coefficients, with the error that their spread gives it."""
    variance = design.x_squared.T @ pull**2
    if design.cross is not None:
        last = 2 * design.cross.shape[0]
        variance += 2 * (design.cross.T @ (pull[0:last:2] * pull[1:last:2]))
    return OneStep(coef + (design.x.T @ pull).T / total, np.sqrt(np.maximum(variance, 0.0)).T / total)
