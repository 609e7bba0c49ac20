"""Optimality of a LASSO fit, recomputed in float64 from the inputs and nothing else."""

from typing import NamedTuple, TypeAlias

import numpy as np
from scipy.sparse.linalg import LinearOperator

Matrix: TypeAlias = np.ndarray | LinearOperator
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
    x: Matrix, y: np.ndarray, coef: np.ndarray, penalty: float, weight: np.ndarray, z: np.ndarray
) -> Certificate:
    """Certify one fit of problem (1).

    Args:
      x: `[M, P]` design, a float64 array or linear operator.
      y: `[M]` target; non-finite rows are left out.
      coef: `[P]` coefficients, in the unit of `y` per unit of `x`.
      penalty: in the unit of `y`.
      weight: `[M]` row weights.
      z: `[M, D]` unpenalised columns.

    Returns:
      A `Certificate`: zeros if `Z` explains the target, NaN if the fit is not finite.
    """
    kept = np.isfinite(y)
    w = np.where(kept, weight, 0.0)
    root = np.sqrt(w / w.sum())
    basis = np.linalg.svd(root[:, None] * z, full_matrices=False)
    span = basis.U[:, 1e-10 * basis.S[0] < basis.S]

    def without_z(vector: np.ndarray) -> np.ndarray:
        return vector - span @ (span.T @ vector)

    y = np.where(kept, y, 0.0)
    target = without_z(root * y)
    residual = without_z(root * (y - x @ coef))
    gradient = x.T @ (root * residual)
    largest = np.abs(x.T @ (root * target)).max(initial=0.0)
    steepest = np.abs(gradient).max(initial=0.0)
    primal = residual @ residual / 2 + penalty * np.abs(coef).sum()
    dual_point = residual * min(1.0, penalty / steepest if steepest > 0 else 1.0)
    dual = target @ dual_point - dual_point @ dual_point / 2
    at_zero = target @ target / 2
    nothing_left = at_zero <= _ROUNDING * (root * y) @ (root * y)
    off = np.where(coef == 0, np.maximum(np.abs(gradient) - penalty, 0), np.abs(gradient - penalty * np.sign(coef)))
    return Certificate(
        relative_gap=0.0 if nothing_left else float((primal - dual) / at_zero),
        violation=0.0 if nothing_left or largest == 0 else float(off.max(initial=0.0) / largest),
    )
