"""skglm's `AndersonCD.path`."""

from importlib import metadata
from typing import Any

import numpy as np

from benchmarks.peers.common import layouts as layouts

PACKAGES = ("skglm",)
WORKER = "worker"
TOLERANCES = (1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
_MAX_ITER = 1000


def bases(num_columns: int) -> list[dict[str, Any]]:
    """Return what to try with every tolerance: precision, and the score by which columns enter the working set."""
    del num_columns
    return [
        {"dtype": dtype, "strategy": strategy}
        for dtype in ("float64", "float32")
        for strategy in ("fixpoint", "subdiff")
    ]


def version() -> str:
    """Return the version of skglm."""
    return metadata.version("skglm")


def path(x: np.ndarray, y: np.ndarray, penalties: np.ndarray, setting: dict[str, Any], full_path: bool) -> np.ndarray:
    """Return coefficients `[P, L]`.

    The tolerance, of an optimality condition, is given as a share of the largest penalty; there is no early ending.
    """
    from skglm.datafits import Quadratic
    from skglm.penalties import L1
    from skglm.solvers import AndersonCD

    del full_path
    solver = AndersonCD(
        tol=setting["tolerance"] * penalties[0],
        ws_strategy=setting["strategy"],
        fit_intercept=False,
        warm_start=True,
        max_iter=_MAX_ITER,
    )
    return solver.path(x, y, Quadratic(), L1(1.0), alphas=penalties.astype(x.dtype))[1]
