"""Optimality of a LASSO fit, recomputed in float64 from the inputs and nothing else."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, Union

import numpy as np
import scipy

Matrix: TypeAlias = Union[np.ndarray, "scipy.sparse.linalg.LinearOperator"]
_ROUNDING = 1e-24  # share of the target's square that float64 leaves of a target which Z explains


class Certificate(NamedTuple):
    """How far a fit is from the optimum of problem (1) of `jaxame.lasso.problem`.

    Attributes:
      relative_gap: (primal - dual) / primal at zero; 0 at the optimum.
      violation: largest violation of an optimality condition, as a share of the smallest penalty that gives zero.
    """

    relative_gap: float
    violation: float


def certify(
    x: Matrix,
    y: np.ndarray,
    coef: np.ndarray,
    penalty: float,
    weight: np.ndarray,
    z: np.ndarray,
    *,
    factor: np.ndarray | None = None,
    l1_ratio: float = 1.0,
    positive: bool = False,
) -> Certificate:
    """Certify one fit of problem (1).

    The dual point is the residual, shrunk until it is feasible; the ridge part counts as rows of the design.

    Args:
      x: `[M, P]` design, a float64 array or linear operator.
      y: `[M]` target; non-finite rows are left out.
      coef: `[P]` coefficients, in the unit of `y` per unit of `x`.
      penalty: in the unit of `y`.
      weight: `[M]` row weights.
      z: `[M, D]` unpenalised columns.
      factor: `[P]` penalty factors; default 1.
      l1_ratio: share of the L1 part in the penalty.
      positive: no coefficient may be negative.

    Returns:
      A `Certificate`: zeros if `Z` explains the target, NaN if the fit is not finite.
    """
    kept = np.isfinite(y)
    w = np.where(kept, weight, 0.0)
    root = np.sqrt(w / w.sum())
    without_z = _projection(root[:, None] * z)
    y = np.where(kept, y, 0.0)
    factor = np.ones_like(coef) if factor is None else factor
    l1 = penalty * l1_ratio * factor
    l2 = penalty * (1 - l1_ratio) * np.where(np.isfinite(factor), factor, 0.0)

    def pull(gradient: np.ndarray) -> np.ndarray:
        return np.maximum(gradient, 0.0) if positive else np.abs(gradient)

    target = without_z(root * y)
    at_zero = target @ target / 2
    if at_zero <= _ROUNDING * (root * y) @ (root * y):
        return Certificate(0.0, 0.0)
    residual = without_z(root * (y - x @ coef))
    gradient = x.T @ (root * residual) - l2 * coef
    steepest = (pull(gradient) / l1).max(initial=0.0)
    square = residual @ residual + (l2 * coef) @ coef
    used = coef != 0
    primal = square / 2 + l1[used] @ np.abs(coef[used])
    shrink = min(1.0, 1 / steepest if steepest > 0 else 1.0)
    dual = shrink * (target @ residual) - shrink**2 * square / 2
    largest = (pull(x.T @ (root * target)) / (l1_ratio * factor)).max(initial=0.0)
    with np.errstate(invalid="ignore"):
        off = np.where(used, np.abs(gradient - l1 * np.sign(coef)), np.maximum(pull(gradient) - l1, 0))
    off = np.where(positive & (coef < 0), np.inf, off)
    return Certificate(
        relative_gap=float((primal - dual) / at_zero),
        violation=float(off.max(initial=0.0) / largest) if largest > 0 else 0.0,
    )


def _projection(columns: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the projection away from the span of `columns [M, D]`."""
    if not columns.shape[1]:
        return lambda vector: vector
    basis = np.linalg.svd(columns, full_matrices=False)
    span = basis.U[:, 1e-10 * basis.S[0] < basis.S]
    return lambda vector: vector - span @ (span.T @ vector)
