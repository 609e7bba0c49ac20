"""Choosing the penalty by K-fold cross-validation, all queries and folds in one batch."""

import dataclasses

import numpy as np

from jaxame.lasso.path import PathStep, walk_path
from jaxame.lasso.problem import Problem
from jaxame.types import Progress, silent


@dataclasses.dataclass(frozen=True, eq=False)
class CrossValidation:
    """The cross-validated path of every query.

    Attributes:
      penalty: `[L, Q]` in the unit of the target; NaN after a query's path ended.
      error_mean: `[L, Q]` held-out mean squared error, in the squared unit of the target.
      error_se: `[L, Q]` its standard error over the folds.
      at_min: `[Q]` position of the smallest error (`lambda_min`).
      at_1se: `[Q]` first position within one standard error of it (`lambda_1se`).
      coef_min: `[Q, P]` coefficients of the fit on all rows at `lambda_min`, unit of the target.
      coef_1se: `[Q, P]` the same at `lambda_1se`.
      converged: `[Q]` every penalty up to `lambda_min` met the tolerance in every fold.
    """

    penalty: np.ndarray
    error_mean: np.ndarray
    error_se: np.ndarray
    at_min: np.ndarray
    at_1se: np.ndarray
    coef_min: np.ndarray
    coef_1se: np.ndarray
    converged: np.ndarray


def _fold_share(problem: Problem) -> np.ndarray:
    """Share of each query's weight that each fold holds out, `[Q, F]`."""
    held = np.asarray(problem.in_blocks(problem.weight.T), np.float64).sum(axis=1).T
    return held / held.sum(axis=1, keepdims=True)


def _curve(errors: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean over folds and its standard error, `[Q]` each."""
    mean = (share * errors).sum(axis=1)
    spread = (share * (errors - mean[:, None]) ** 2).sum(axis=1)
    return mean, np.sqrt(spread / (errors.shape[1] - 1))


class _Recorder:
    """Keeps the curve and the coefficients, and ends a query once its curve is clearly past its minimum."""

    def __init__(self, problem: Problem, num_penalties: int, early_end: bool, progress: Progress):
        self.share = _fold_share(problem)
        self.early_end = early_end
        self.num_penalties = num_penalties
        self.progress = progress
        shape = (num_penalties, self.share.shape[0])
        self.penalty, self.mean, self.se = (np.full(shape, np.nan) for _ in range(3))
        self.converged = np.ones(shape, bool)
        self.errors: list[np.ndarray] = []
        self.steps: list[tuple] = []
        self.active = np.ones(shape[1], bool)

    def __call__(self, step: PathStep) -> np.ndarray:
        mean, se = _curve(step.errors, self.share)
        row, on = step.number, self.active
        self.penalty[row, on], self.mean[row, on], self.se[row, on] = step.penalty[on], mean[on], se[on]
        self.converged[row, on] = step.converged[on]
        self.steps.append((step.index, step.coef))
        self.errors.append(step.errors)
        if self.early_end:
            self.active = on & ~self._past_minimum()
        self.progress("regress", row + 1, self.num_penalties if self.active.any() else row + 1)
        return self.active

    def _past_minimum(self) -> np.ndarray:
        """Which curves are clearly past their minimum, `[Q]`.

        That is, half a standard error above it, and two standard errors of the difference, which is smaller as the
        folds are the same.
        """
        queries = np.arange(self.active.size)
        best = np.nanargmin(self.mean[: len(self.errors)], axis=0)
        lowest = np.stack(self.errors)[best, queries]
        rise, rise_se = _curve(self.errors[-1] - lowest, self.share)
        return (rise > 0.5 * self.se[best, queries]) & (rise > 2 * rise_se)


def cross_validate(
    problem: Problem,
    *,
    num_penalties: int = 100,
    min_ratio: float = 0.01,
    tolerance: float = 2e-4,
    early_end: bool = True,
    progress: Progress = silent,
) -> CrossValidation:
    """Fit the path of every query on all its rows and on every fold's training rows, and choose penalties.

    Args:
      problem: problems with `F >= 2` folds.
      num_penalties: `L`.
      min_ratio: last over first penalty.
      tolerance: largest violation of an optimality condition, as a share of the penalty.
      early_end: stop a query's path once its curve is clearly past its minimum, by more than chance between folds.
      progress: called after every penalty.

    References:
      Friedman, Hastie, Tibshirani, J. Stat. Softw. 33(1), 2010, section 2.5 (the one-standard-error rule).
    """
    record = _Recorder(problem, num_penalties, early_end, progress)
    walk_path(problem, record, num_penalties=num_penalties, min_ratio=min_ratio, tolerance=tolerance)
    unit = np.asarray(problem.unit, np.float64)
    at_min = np.nanargmin(record.mean, axis=0)
    queries = np.arange(at_min.size)
    within = record.mean <= (record.mean + record.se)[at_min, queries]
    at_1se = within.argmax(axis=0)

    def coefficients(at: np.ndarray) -> np.ndarray:
        chosen = np.zeros((unit.size, problem.columns.num_columns))
        for q, position in enumerate(at):
            index, coef = record.steps[position]
            used = np.flatnonzero(coef[q])
            chosen[q, index[q, used]] = coef[q, used] * unit[q]
        return chosen

    steps = np.arange(num_penalties)[:, None]
    return CrossValidation(
        penalty=record.penalty * unit,
        error_mean=record.mean * unit**2,
        error_se=record.se * unit**2,
        at_min=at_min,
        at_1se=at_1se,
        coef_min=coefficients(at_min),
        coef_1se=coefficients(at_1se),
        converged=(record.converged | (steps > at_min)).all(axis=0),
    )
