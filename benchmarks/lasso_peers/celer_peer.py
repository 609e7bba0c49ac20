"""celer's `celer_path`, in an environment of its own as it needs an older scikit-learn."""

from importlib import metadata
from typing import Any

import numpy as np

from benchmarks.peers.common import layouts as layouts

PACKAGES = ("celer", "scikit-learn<1.7")
WORKER = "worker"
TOLERANCES = (4.5e-5, 3e-5, 2e-5, 1.5e-5, 1e-5, 5e-6)
_MAX_ITER = 1000


def bases(num_columns: int) -> list[dict[str, Any]]:
    """Return what to try with every tolerance: precision, and whether working sets may shrink."""
    del num_columns
    return [{"dtype": dtype, "prune": prune} for dtype in ("float32", "float64") for prune in (1, 0)]


def version() -> str:
    """Return the version of celer."""
    return metadata.version("celer")


def path(x: np.ndarray, y: np.ndarray, penalties: np.ndarray, setting: dict[str, Any], full_path: bool) -> np.ndarray:
    """Return coefficients `[P, L]`. The tolerance is a share of `||y||^2 / n`; there is no early ending."""
    import celer

    del full_path
    return celer.celer_path(
        x,
        y,
        "lasso",
        alphas=penalties.astype(x.dtype),
        tol=setting["tolerance"],
        prune=setting["prune"],
        max_iter=_MAX_ITER,
    )[1]
