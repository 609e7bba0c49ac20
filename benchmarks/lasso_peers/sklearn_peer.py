"""scikit-learn's `lasso_path`. `LassoCV` solves the same fits with it, in threads where here are processes."""

from importlib import metadata
from typing import Any

import numpy as np

from benchmarks.peers.common import layouts as layouts

PACKAGES = ("scikit-learn>=1.6",)
WORKER = "worker"
TOLERANCES = (4.9e-5, 4.5e-5, 4e-5, 3e-5, 2e-5, 1e-5)
_MAX_ITER = 1_000_000
_LARGEST_GRAM = 5000


def bases(num_columns: int) -> list[dict[str, Any]]:
    """Return what to try with every tolerance: precision, and the Gram matrix where it fits into memory."""
    grams = (False, True) if num_columns <= _LARGEST_GRAM else (False,)
    return [{"dtype": dtype, "precompute": gram} for gram in grams for dtype in ("float32", "float64")]


def version() -> str:
    """Return the version of scikit-learn."""
    return metadata.version("scikit-learn")


def path(x: np.ndarray, y: np.ndarray, penalties: np.ndarray, setting: dict[str, Any], full_path: bool) -> np.ndarray:
    """Return coefficients `[P, L]`. The tolerance is a share of `||y||^2`; there is no early ending."""
    import sklearn
    from sklearn.linear_model import lasso_path

    del full_path
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        return lasso_path(
            x,
            y,
            alphas=penalties.astype(x.dtype),
            tol=setting["tolerance"],
            precompute=setting["precompute"],
            max_iter=_MAX_ITER,
        )[1]
