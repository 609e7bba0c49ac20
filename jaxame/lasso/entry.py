"""The penalty at which each column enters the LASSO path: the importance that knockoff selection compares."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from jaxame.lasso.batches import Report, column_counts, in_batches
from jaxame.lasso.path import TOLERANCE, PathStep, Tolerance, walk_path
from jaxame.lasso.problem import Problem
from jaxame.types import Progress, silent


@dataclasses.dataclass(frozen=True, eq=False)
class EntryPath:
    """Where each column entered the path of each query.

    Attributes:
      penalty: `[Q, P]` entry penalty in the unit of the target, interpolated between the penalties fitted; 0 where the
        column had not entered when the path ended.
      sign: `[Q, P]` sign of the coefficient at entry; 0 where the column had not entered.
      converged: `[Q]` every penalty fitted met the tolerance.
    """

    penalty: np.ndarray
    sign: np.ndarray
    converged: np.ndarray


def entry_path(
    problem: Problem,
    *,
    num_penalties: int = 100,
    min_ratio: float = 0.05,
    max_support: int | None = None,
    tolerance: Tolerance = TOLERANCE,
    devices: Sequence[jax.Device] | None = None,
    progress: Progress = silent,
) -> EntryPath:
    """Walk the path of the fit on all rows and note when each column enters.

    A column that enters between two penalties has a coefficient that has grown, to first order, in proportion to the
    penalty's fall, so `penalty + mean square of the column * |coefficient|` estimates where it entered. The estimate
    treats all columns alike: exchanging two columns exchanges their entries.

    Args:
      problem: problems without folds.
      num_penalties: `L`.
      min_ratio: last over first penalty.
      max_support: a query's path ends once this many columns are in; default a sixteenth of the rows, at least 64. (A
        rule that looks at columns and copies alike, so that it cannot favour either.)
      tolerance: when a fit is accepted.
      devices: share the queries out to these; by default all are solved where the problem is.
      progress: called after every penalty.
    """
    num_queries, num_rows = problem.y.shape
    limit = max(64, num_rows // 16) if max_support is None else max_support

    def solve(part: Problem, _: np.ndarray, report: Report) -> EntryPath:
        record = _Recorder(part, limit, report)
        walk_path(part, record, num_penalties=num_penalties, min_ratio=min_ratio, tolerance=tolerance)
        unit = np.asarray(part.unit, np.float64)[:, None]
        return EntryPath(penalty=record.entered * unit, sign=record.sign, converged=record.converged)

    parts = in_batches(problem, solve, steps=num_penalties, devices=devices, progress=progress, stage="select")
    names = [field.name for field in dataclasses.fields(EntryPath)]
    return EntryPath(**{name: np.concatenate([getattr(part, name) for part in parts])[:num_queries] for name in names})


class _Recorder:
    """Notes entries, and ends a query once its support is large."""

    def __init__(self, problem: Problem, limit: int, report: Report):
        num_queries = problem.y.shape[0]
        self.limit = limit
        self.report, self.counted = report, np.asarray(problem.unit) > 0
        self.entered = np.zeros((num_queries, problem.columns.num_columns))
        self.sign = np.zeros_like(self.entered)
        self.converged = np.ones(num_queries, bool)
        self.active = np.ones(num_queries, bool)
        self.previous = np.full(num_queries, np.inf)

    def __call__(self, step: PathStep) -> np.ndarray:
        estimate = step.penalty[:, None] + step.curvature * np.abs(step.coef)
        query, place = np.nonzero((step.coef != 0) & self.active[:, None])
        column = step.index[query, place]
        new = self.entered[query, column] == 0
        query, place, column = query[new], place[new], column[new]
        self.entered[query, column] = np.minimum(estimate[query, place], self.previous[query])
        self.sign[query, column] = np.sign(step.coef[query, place])
        self.converged[self.active] &= step.converged[self.active]
        support, on = (step.coef != 0).sum(axis=1), self.active
        self.active = on & (support < self.limit)
        self.previous = step.penalty
        self.report(step.number + 1, **column_counts(support, on & self.counted))
        return self.active
