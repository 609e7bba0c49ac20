"""L1-penalised regression by coordinate descent, batched over queries and folds."""

from jaxame.lasso.batches import memory
from jaxame.lasso.certificate import Certificate, certify
from jaxame.lasso.crossval import CrossValidation, cross_validate
from jaxame.lasso.debias import one_step
from jaxame.lasso.entry import EntryPath, entry_path
from jaxame.lasso.path import Tolerance
from jaxame.lasso.problem import Columns, DenseColumns, Problem, assign_folds, make_problem
from jaxame.lasso.relaxed import refit
from jaxame.lasso.sharding import ShardedColumns, shard_columns

__all__ = [
    "Certificate",
    "Columns",
    "CrossValidation",
    "DenseColumns",
    "EntryPath",
    "Problem",
    "ShardedColumns",
    "Tolerance",
    "assign_folds",
    "certify",
    "cross_validate",
    "entry_path",
    "make_problem",
    "memory",
    "one_step",
    "refit",
    "shard_columns",
]
