"""glmnet through `Rscript`: `cv.glmnet`, or `glmnet` on every fold's own dense problem.

`cv.glmnet` is given the problem with `Z` eliminated on all rows, held-out ones too, so that its curve is lower than
that of the others. glmnet ends a path early on penalties that it chose itself only, so never here.
"""

from typing import Any

from benchmarks.peers.common import cores
from benchmarks.peers.common import layouts as spreads

PACKAGES = ()
WORKER = "glmnet_worker"
TOLERANCES = (1e-9, 1e-10, 3e-11, 1e-11, 7e-12, 6e-12, 5e-12, 4e-12, 3e-12, 1e-12)
_LARGEST_GRAM = 5000


def bases(num_columns: int) -> list[dict[str, Any]]:
    """Return what to try with every tolerance: glmnet's two ways to keep the gradient."""
    ways = ("naive", "covariance") if num_columns <= _LARGEST_GRAM else ("naive",)
    return [{"dtype": "float64", "type": way, "cv": False} for way in ways]


def layouts() -> list[dict[str, Any]]:
    """Return every way to spread over the cores that is tried: processes over the folds, and `cv.glmnet`'s own."""
    apart = [layout for layout in spreads() if layout["threads"] == 1]
    return apart + [{"processes": 1, "threads": threads, "cv": True} for threads in dict.fromkeys((cores(), 1))]
