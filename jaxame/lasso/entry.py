"""The penalty at which each column enters the LASSO path: the importance that knockoff selection compares."""

import dataclasses

import numpy as np

from jaxame.lasso.path import PathStep, walk_path
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
    tolerance: float = 2e-4,
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
      tolerance: largest violation of an optimality condition, as a share of the penalty.
      progress: called after every penalty.
    """
    num_queries, num_rows = problem.y.shape
    limit = max(64, num_rows // 16) if max_support is None else max_support
    entered = np.zeros((num_queries, problem.columns.num_columns))
    sign = np.zeros_like(entered)
    converged = np.ones(num_queries, bool)
    active = np.ones(num_queries, bool)
    previous = np.full(num_queries, np.inf)

    def consume(step: PathStep) -> np.ndarray:
        nonlocal active, previous
        estimate = step.penalty[:, None] + step.curvature * np.abs(step.coef)
        query, place = np.nonzero((step.coef != 0) & active[:, None])
        column = step.index[query, place]
        new = entered[query, column] == 0
        query, place, column = query[new], place[new], column[new]
        entered[query, column] = np.minimum(estimate[query, place], previous[query])
        sign[query, column] = np.sign(step.coef[query, place])
        converged[active] &= step.converged[active]
        active = active & ((step.coef != 0).sum(axis=1) < limit)
        previous = step.penalty
        progress("select", step.number + 1, num_penalties if active.any() else step.number + 1)
        return active

    walk_path(problem, consume, num_penalties=num_penalties, min_ratio=min_ratio, tolerance=tolerance)
    unit = np.asarray(problem.unit, np.float64)[:, None]
    return EntryPath(penalty=entered * unit, sign=sign, converged=converged)
