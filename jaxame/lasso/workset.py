"""Working sets: the few columns of each query that the coordinate descent sees, in blocks of `BLOCK`.

A working set grows by whole blocks of the columns that are needed or will be soonest, so columns stand in about the
order in which they enter the path and no product is formed twice. Blocks are all alike: what a query computes depends
on its own columns only, not on how much room its neighbours asked for.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxame.lasso.problem import Problem

BLOCK = 32
"""`K`, columns in a block: what a query takes in at once, and what a step of the descent works on."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class WorkingSet:
    """Up to `A` blocks of `K` columns per query, shared by its `F+1` problems.

    Attributes:
      index: `[Q, A, K]` column numbers; `P` marks an unused place, a column of zeros.
      count: `[Q]` blocks in use.
      x: `[Q, A, K, M]` the columns.
      gram: `[Q, A, K, F+1, K]` `X'WX` within each block, after elimination of `Z`.
      z_part: `[Q, A, F+1, D, K]` coefficients of each column's best fit by `Z` on the training rows.
      factor: `[Q, A, K]` penalty factors.
    """

    index: Array
    count: Array
    x: Array
    gram: Array
    z_part: Array
    factor: Array

    @property
    def room(self) -> int:
        """`A`."""
        return self.index.shape[1]


def empty(problem: Problem, room: int) -> WorkingSet:
    """Return working sets of `room` unused blocks."""
    num_queries, num_problems, num_z, _ = problem.z_inverse.shape
    blocks, dtype = (num_queries, room), problem.y.dtype
    return WorkingSet(
        index=jnp.full((*blocks, BLOCK), problem.columns.num_columns, jnp.int32),
        count=jnp.zeros(num_queries, jnp.int32),
        x=jnp.zeros((*blocks, BLOCK, problem.y.shape[1]), dtype),
        gram=jnp.zeros((*blocks, BLOCK, num_problems, BLOCK), dtype),
        z_part=jnp.zeros((*blocks, num_problems, num_z, BLOCK), dtype),
        factor=jnp.ones((*blocks, BLOCK), dtype),
    )


def enlarge(working: WorkingSet, room: int, num_columns: int) -> WorkingSet:
    """Return the same working sets with room for `room` blocks."""
    more = room - working.room

    def pad(array: Array, value: int = 0) -> Array:
        widths = [(0, more if axis == 1 else 0) for axis in range(array.ndim)]
        return jnp.pad(array, widths, constant_values=value)

    return WorkingSet(
        index=pad(working.index, num_columns),
        count=working.count,
        x=pad(working.x),
        gram=pad(working.gram),
        z_part=pad(working.z_part),
        factor=pad(working.factor, 1),
    )


def append(problem: Problem, working: WorkingSet, added: Int[Array, "Q K"], growing: Bool[Array, "Q"]) -> WorkingSet:
    """Append the block of columns `added` to each `growing` query, `P` standing for none; there must be room."""
    weight = problem.training_weight()

    def block(query: Array) -> tuple[Array, Array, Array, Array]:
        x = problem.columns.gather(added[query])
        weighted = weight[query][:, None, :] * x
        cross = jnp.einsum("fkm,md->fdk", weighted, problem.z)
        z_part = problem.z_inverse[query] @ cross
        gram = jnp.einsum("fkm,lm->kfl", weighted, x) - jnp.einsum("fdk,fdl->kfl", cross, z_part)
        own = jnp.einsum("km,km->k", weighted[-1], x)
        # A column that Z explains leaves only rounding behind; it must not be divided by.
        left = jnp.einsum("kk->k", gram[:, -1]) > 100 * jnp.finfo(x.dtype).eps * own
        x, z_part = jnp.where(left[:, None], x, 0.0), jnp.where(left, z_part, 0.0)
        gram = jnp.where(left[:, None, None] & left, gram, 0.0)
        factor = jnp.take(problem.penalty.of_query(query), added[query], mode="fill", fill_value=1.0)
        return x, gram, z_part, factor

    def put(working: WorkingSet, query: Array) -> WorkingSet:
        place = working.count[query]
        x, gram, z_part, factor = block(query)
        return WorkingSet(
            index=working.index.at[query, place].set(added[query]),
            count=working.count.at[query].add(1),
            x=working.x.at[query, place].set(x),
            gram=working.gram.at[query, place].set(gram),
            z_part=working.z_part.at[query, place].set(z_part),
            factor=working.factor.at[query, place].set(factor),
        )

    order = jnp.nonzero(growing, size=growing.size, fill_value=0)[0]
    return jax.lax.fori_loop(0, growing.sum(), lambda i, w: put(w, order[i]), working)


def outside(working: WorkingSet, score: Float[Array, "Q P"]) -> Float[Array, "Q P"]:
    """Scores with those of the columns of the working sets set to 0."""
    flat = working.index.reshape(working.index.shape[0], -1)
    return score.at[jnp.arange(score.shape[0])[:, None], flat].set(0.0, mode="drop")


def next_block(score: Float[Array, "Q P"]) -> Int[Array, "Q K"]:
    """The `BLOCK` columns of highest score, `P` in place of those whose score is 0."""
    num_columns = score.shape[1]
    value, column = jax.lax.top_k(score, min(BLOCK, num_columns))
    column = jnp.where(value > 0, column, num_columns).astype(jnp.int32)
    return jnp.pad(column, ((0, 0), (0, BLOCK - column.shape[1])), constant_values=num_columns)
