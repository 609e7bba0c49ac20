"""adelie's `grpnet`, in an environment of its own as it needs an older NumPy.

Its `cv_grpnet` solves the same fits with it, but draws folds and penalties by itself.
"""

from importlib import metadata
from typing import Any

import numpy as np

from benchmarks.peers.common import layouts as layouts

PACKAGES = ("adelie", "numpy<2")
WORKER = "worker"
TOLERANCES = (1e-9, 1e-10, 3e-11, 1e-11, 7e-12, 5e-12, 4e-12, 3e-12, 2e-12, 1e-12)


def bases(num_columns: int) -> list[dict[str, Any]]:
    """Return what to try with every tolerance: precision and screening rule."""
    del num_columns
    return [{"dtype": dtype, "rule": rule} for dtype in ("float32", "float64") for rule in ("pivot", "strong")]


def version() -> str:
    """Return the version of adelie."""
    return metadata.version("adelie")


def path(x: np.ndarray, y: np.ndarray, penalties: np.ndarray, setting: dict[str, Any], full_path: bool) -> np.ndarray:
    """Return coefficients `[P, L']`; unless the full path is asked for, it ends where .9 of the deviance is explained.

    The tolerance is of the change of the objective, in units of the variance of `y`.
    """
    import adelie

    state = adelie.grpnet(
        adelie.matrix.dense(x, method="naive", n_threads=setting["threads"]),
        adelie.glm.gaussian(y, dtype=x.dtype.type),
        lmda_path=penalties.astype(x.dtype),
        tol=setting["tolerance"],
        screen_rule=setting["rule"],
        n_threads=setting["threads"],
        early_exit=not full_path,
        intercept=False,
        progress_bar=False,
    )
    return state.betas.toarray().T
