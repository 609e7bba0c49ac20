"""Working sets: the few columns of each query that the coordinate descent sees, with their Gram matrices.

A working set only grows, by a few columns at the end. So no product is formed twice, and columns stand in about the
order in which they enter the path: the places in use come first in every query.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxame.lasso.problem import Problem

APPENDED = 16
"""Columns that a query can take in at once."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class WorkingSet:
    """Up to `A` columns per query, shared by its `F+1` problems.

    Attributes:
      index: `[Q, A]` column numbers; `P` marks an unused place, a column of zeros.
      count: `[Q]` places in use.
      x: `[Q, F, R, A]` the columns, their rows in the order of `Problem.blocks`.
      gram: `[Q, F+1, A, A]` `X'WX / sum w` after elimination of `Z`.
      z_cross: `[Q, F+1, D, A]` `Z'WX` on the training rows.
    """

    index: Array
    count: Array
    x: Array
    gram: Array
    z_cross: Array


def empty(problem: Problem, size: int) -> WorkingSet:
    """Return working sets with `size` unused places."""
    num_queries, num_problems, num_z, _ = problem.z_inverse.shape
    return WorkingSet(
        index=jnp.full((num_queries, size), problem.columns.num_columns, jnp.int32),
        count=jnp.zeros(num_queries, jnp.int32),
        x=jnp.zeros((num_queries, *problem.blocks.shape, size)),
        gram=jnp.zeros((num_queries, num_problems, size, size)),
        z_cross=jnp.zeros((num_queries, num_problems, num_z, size)),
    )


def enlarge(working: WorkingSet, size: int, num_columns: int) -> WorkingSet:
    """Return the same working sets with places up to `size`."""
    more = size - working.index.shape[1]

    def pad(array: Array, *axes: int, value: int = 0) -> Array:
        return jnp.pad(array, [(0, more if axis in axes else 0) for axis in range(array.ndim)], constant_values=value)

    return WorkingSet(
        index=pad(working.index, 1, value=num_columns),
        count=working.count,
        x=pad(working.x, 3),
        gram=pad(working.gram, 2, 3),
        z_cross=pad(working.z_cross, 3),
    )


def _training_sums(by_fold: Float[Array, "F *n"], num_folds: int) -> Float[Array, "F1 *n"]:
    """Sums over the training rows of each problem from sums over the rows of each fold."""
    total = by_fold.sum(axis=0, keepdims=True)
    return jnp.concatenate([total - by_fold, total]) if num_folds else total


def _append_to_query(
    problem: Problem, added: Int[Array, "Q K"], query: Int[Array, ""], working: WorkingSet
) -> WorkingSet:
    """Append the columns `added` of one query."""
    start, z_inverse = working.count[query], problem.z_inverse[query]
    weight = problem.in_blocks(problem.weight[query])
    new = problem.in_blocks(problem.columns.gather(added[query]))
    z_rows = problem.in_blocks(problem.z)
    sums = functools.partial(_training_sums, num_folds=problem.num_folds)
    # A column that Z explains leaves only rounding behind; it must not be divided by.
    own = jnp.einsum("fr,frk,frk->k", weight, new, new)
    shared = jnp.einsum("fr,frd,frk->dk", weight, z_rows, new)
    left = own - jnp.einsum("dk,de,ek->k", shared, z_inverse[-1], shared)
    new = jnp.where(left > 1e-5 * own, new, 0.0)

    def put(array: Array, value: Array, *position: int | Array) -> Array:
        return jax.lax.dynamic_update_slice(array, value[None], (query, *position))

    weighted = new * weight[..., None]
    new_cross = sums(jnp.einsum("frd,frk->fdk", z_rows, weighted))
    x, z_cross = put(working.x, new, 0, 0, start), put(working.z_cross, new_cross, 0, 0, start)
    total = sums(weight.sum(axis=1))[:, None, None]
    gram = sums(jnp.einsum("frk,fra->fka", weighted, x[query]))
    gram = gram - jnp.einsum("fdk,fde,fea->fka", new_cross, z_inverse, z_cross[query])
    gram = gram / jnp.where(total > 0, total, 1.0)
    rows = put(working.gram, gram, 0, start, 0)
    num_added = (added[query] < problem.columns.num_columns).sum(dtype=jnp.int32)
    return WorkingSet(
        index=put(working.index, added[query], start),
        count=working.count.at[query].add(num_added),
        x=x,
        gram=put(rows, gram.transpose(0, 2, 1), 0, 0, start),
        z_cross=z_cross,
    )


def append(problem: Problem, working: WorkingSet, added: Int[Array, "Q K"]) -> WorkingSet:
    """Append the columns `added` to every query, `P` standing for none; there must be `K` places left.

    Columns come first and `P` last in each row of `added`.
    """
    one = functools.partial(_append_to_query, problem, added)
    return jax.lax.fori_loop(0, added.shape[0], one, working)


def outside(working: WorkingSet, gradient: Float[Array, "Q F1 P"]) -> Float[Array, "Q P"]:
    """Largest gradient of every column in any problem of a query; 0 for the columns of its working set."""
    largest = jnp.abs(gradient).max(axis=1)
    return largest.at[jnp.arange(largest.shape[0])[:, None], working.index].set(0.0, mode="drop")


def candidates(largest: Float[Array, "Q P"], bound: Float[Array, "Q"]) -> Int[Array, "Q K"]:
    """The `APPENDED` columns whose gradient exceeds `bound` by most, then `P`."""
    num_columns = largest.shape[1]
    value, column = jax.lax.top_k(largest, min(APPENDED, num_columns))
    return jnp.where(value > bound[:, None], column, num_columns).astype(jnp.int32)


def _gradient(
    problem: Problem, fitted: Float[Array, "Q F1 blocks R"]
) -> tuple[Float[Array, "Q F1 P"], Float[Array, "Q F"]]:
    weight = problem.training_weight()
    residual = problem.in_blocks(problem.y.T).transpose(2, 0, 1)[:, None] - fitted
    z_rows = problem.in_blocks(problem.z)
    moments = jnp.einsum("frd,qgfr->qgd", z_rows, weight * residual)
    residual = residual - jnp.einsum("frd,qgde,qge->qgfr", z_rows, problem.z_inverse, moments)
    total = weight.sum(axis=(2, 3), keepdims=True)
    pull = problem.from_blocks(weight * residual / jnp.where(total > 0, total, 1.0))
    full = problem.columns.transpose_product(pull.reshape(-1, pull.shape[-1]).T)
    fold = jnp.arange(problem.num_folds)
    held_out = problem.in_blocks(problem.weight.T).transpose(2, 0, 1)[:, fold]
    held_total = held_out.sum(axis=2)
    errors = (held_out * residual[:, fold, fold] ** 2).sum(axis=2) / jnp.where(held_total > 0, held_total, 1.0)
    return full.T.reshape(*fitted.shape[:2], -1), errors


@jax.jit
def initial_gradient(problem: Problem) -> Float[Array, "Q F1 P"]:
    """Gradient of every column at coefficients of zero."""
    return _gradient(problem, jnp.zeros((*problem.z_inverse.shape[:2], *problem.blocks.shape)))[0]


def gradient(
    problem: Problem, working: WorkingSet, coef: Float[Array, "Q F1 A"]
) -> tuple[Float[Array, "Q F1 P"], Float[Array, "Q F"]]:
    """Gradient of every column and weighted held-out squared errors, from fresh residuals.

    Returns:
      `[Q, F+1, P]` minus the derivative of the loss of (1), and `[Q, F]` mean held-out errors.
    """
    return _gradient(problem, jnp.einsum("qfra,qga->qgfr", working.x, coef))
