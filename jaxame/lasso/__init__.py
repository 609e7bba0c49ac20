"""L1-penalised regression by coordinate descent, batched over queries and folds."""

from typing import TYPE_CHECKING, Any

from jaxame.lasso.batches import memory
from jaxame.lasso.certificate import Certificate, certify
from jaxame.lasso.crossval import CrossValidation, cross_validate
from jaxame.lasso.debias import OneStep, cross_fitted_step, one_step, step_from
from jaxame.lasso.entry import EntryPath, entry_path
from jaxame.lasso.path import Tolerance, fit_near, solve_near
from jaxame.lasso.problem import Columns, DenseColumns, Problem, assign_folds, make_problem
from jaxame.lasso.relaxed import refit
from jaxame.lasso.sharding import ShardedColumns, shard_columns

if TYPE_CHECKING:
    from jaxame.lasso.linear_model import Lasso, LassoCV

__all__ = [
    "Certificate",
    "Columns",
    "CrossValidation",
    "DenseColumns",
    "EntryPath",
    "Lasso",
    "LassoCV",
    "OneStep",
    "Problem",
    "ShardedColumns",
    "Tolerance",
    "assign_folds",
    "certify",
    "cross_fitted_step",
    "cross_validate",
    "entry_path",
    "fit_near",
    "make_problem",
    "memory",
    "one_step",
    "refit",
    "shard_columns",
    "solve_near",
    "step_from",
]


def __getattr__(name: str) -> Any:
    """Import the estimators when they are first asked for, and scikit-learn with them."""
    if name in {"Lasso", "LassoCV"}:
        from jaxame.lasso import linear_model

        return getattr(linear_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
