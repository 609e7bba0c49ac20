"""scikit-learn: one `LogisticRegression` after the other, over processes and BLAS threads."""

from importlib import metadata
from typing import Any

import numpy as np

from benchmarks.peers import workers
from benchmarks.peers.common import Outcome, Setting, Task, Trainable, layouts, logistic_objective

_MAX_ITER = 1000


def missing(task: Task) -> str:
    """Return why this peer does not run: it has logistic regression only."""
    return "" if task.model == "logistic" else f"scikit-learn has no {task.model} to compare with"


def version() -> str:
    """Return the version of scikit-learn."""
    return metadata.version("scikit-learn")


def settings(task: Task) -> list[Setting]:
    """Return the settings to try: processes x threads, and the precision of the input (scikit-learn computes in it)."""
    del task
    return [{**layout, "dtype": dtype} for layout in layouts() for dtype in ("float32", "float64")]


def run(task: Task, masks: np.ndarray, seeds: np.ndarray, setting: Setting, repeats: int = 1) -> Outcome:
    """See `Peer.run`; the optimum does not depend on the seeds."""
    return workers.race(prepare, task, masks, seeds, setting, repeats)


def prepare(task: Task, masks: np.ndarray, seeds: np.ndarray, setting: Setting) -> Trainable:
    """Import, convert the data and fit once; a fit includes gathering the rows of its subset.

    Input validation is off, which is scikit-learn's own advice for many small fits.
    """
    import sklearn
    from sklearn.linear_model import LogisticRegression

    del seeds
    x = task.x.reshape(len(task.x), -1).astype(setting["dtype"])
    fits: list[LogisticRegression] = []

    def fit(mask: np.ndarray) -> LogisticRegression:
        C = task.c_times_size / mask.sum()
        return LogisticRegression(C=C, tol=task.tol, solver="lbfgs", max_iter=_MAX_ITER).fit(x[mask], task.y[mask])

    def train() -> None:
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            fits[:] = [fit(mask) for mask in masks]

    def objectives() -> np.ndarray:
        return np.array(
            [
                logistic_objective(*_all_classes(model, task), task.x, task.y, mask, task.c_times_size)
                for model, mask in zip(fits, masks, strict=True)
            ]
        )

    fit(masks[0])
    return Trainable(train, objectives)


def _all_classes(model: Any, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Return weights `[C, F]` and intercepts `[C]`; a class that the subset lacks has the intercept minus infinity."""
    W, b = np.zeros((task.num_classes, model.coef_.shape[1])), np.full(task.num_classes, -np.inf)
    b[model.classes_] = 0.0
    fitted = model.classes_[-len(model.coef_) :]  # of two classes scikit-learn fits the second, against zero
    W[fitted], b[fitted] = model.coef_, model.intercept_
    return W, b
