"""Least squares on a support: the shrinkage that selected the columns is taken off again."""

import numpy as np


def refit(x: np.ndarray, y: np.ndarray, weight: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Weighted least squares of `y` on the columns of a support, in float64.

    Args:
      x: `[M, S]` the columns in the support.
      y: `[M]` target; non-finite rows are left out.
      weight: `[M]` row weights.
      z: `[M, D]` further columns, whose coefficients are not returned.

    Returns:
      `[S]` coefficients, those of smallest norm if the columns are dependent.

    References:
      Meinshausen, Comput. Stat. Data Anal. 52(1), 2007 (the relaxed LASSO with full relaxation).
    """
    kept = np.isfinite(y)
    root = np.sqrt(weight[kept])
    both = root[:, None] * np.concatenate([z[kept], x[kept]], axis=1)
    return np.linalg.lstsq(both, root * y[kept])[0][z.shape[1] :]
