"""Cyclic coordinate descent of one query: all its problems side by side, a block of columns at a time.

A visit to a block takes the gradient of its columns from the residuals (one matrix product for all problems), moves
each column in turn using the block's Gram matrices, and takes the moves off the residuals (another product). In exact
arithmetic that is plain cyclic coordinate descent; the products run at the speed of products and no Gram matrix of the
whole working set is held.

References:
  Friedman, Hastie, Tibshirani, J. Stat. Softw. 33(1), 2010 ("covariance updates", here within a block).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxame.lasso.anderson import History, extrapolate, is_full, record, start
from jaxame.lasso.gap import duality_gap
from jaxame.lasso.prox import pull, soft_threshold, violation

_WORTH_A_MOVE = 0.3  # share of the tolerance below which a problem does not move in a block


class Block(NamedTuple):
    """Working columns of one query, or one block of them without the axis `A`; see `jaxame.lasso.workset.WorkingSet`.

    Attributes:
      x: `[A, K, M]`.
      gram: `[A, K, F+1, K]`.
      z_part: `[A, F+1, D, K]`.
      factor: `[A, K]`.
    """

    x: Array
    gram: Array
    z_part: Array
    factor: Array


class Query(NamedTuple):
    """One query's problems.

    Attributes:
      y: `[M]`.
      weight: `[F+1, M]` training weights, each row summing to 1.
      z: `[M, D]`.
      z_inverse: `[F+1, D, D]`.
      penalty: `[]` `lam`.
      l1_ratio: `[]`.
      l2_ratio: `[]` `(1 - l1_ratio)` times the unit of `y`, so that the penalty means the same for any unit.
      least: `[]`.
      largest_gap: `[]` tolerance on the duality gap, as a share of each problem's objective at zero.
      largest_violation: `[]` tolerance on the optimality conditions, in the unit of `penalty`.
    """

    y: Array
    weight: Array
    z: Array
    z_inverse: Array
    penalty: Array
    l1_ratio: Array
    l2_ratio: Array
    least: Array
    largest_gap: Array
    largest_violation: Array


def residuals(query: Query, blocks: Block, count: Int[Array, ""], coef: Float[Array, "A F1 K"]) -> Float[Array, "F1 M"]:
    """Residuals of every problem on all rows, those held out too, after the best fit of `Z` on the training rows."""

    def take_off(i: Array, residual: Array) -> Array:
        return residual - coef[i] @ blocks.x[i]

    return _without_z(query, jax.lax.fori_loop(0, count, take_off, jnp.broadcast_to(query.y, query.weight.shape)))


def _without_z(query: Query, rows: Float[Array, "F1 M"]) -> Float[Array, "F1 M"]:
    moments = (query.weight * rows) @ query.z
    return rows - jnp.einsum("fde,fe->fd", query.z_inverse, moments) @ query.z.T


def _strength(query: Query, factor: Float[Array, "K"]) -> tuple[Array, Array]:
    """L1 and L2 penalties of the columns of a block, `[K]` each; a column that is kept out needs no L2."""
    l2 = query.penalty * query.l2_ratio * jnp.where(jnp.isfinite(factor), factor, 0.0)
    return query.penalty * query.l1_ratio * factor, l2


def _sweep(query: Query, block: Block, gradient: Array, coef: Array, moves: Array) -> Array:
    """Move each column of one block in turn, in the problems that `moves [F+1]`; return the coefficients `[F+1, K]`."""
    diagonal = jnp.einsum("kfk->kf", block.gram)
    l1, l2 = _strength(query, block.factor)
    curvature = jnp.where(diagonal > 0, diagonal + l2[:, None], 1.0)

    def visit(k: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        gradient, coef = state
        old = coef[:, k]
        target = soft_threshold(gradient[:, k] + diagonal[k] * old, l1[k], query.least) / curvature[k]
        new = jnp.where(moves & (diagonal[k] > 0), target, old)
        return gradient - (new - old)[:, None] * block.gram[k], coef.at[:, k].set(new)

    return jax.lax.fori_loop(0, coef.shape[1], visit, (gradient, coef))[1]


class Descent(NamedTuple):
    """Where a descent ended.

    Attributes:
      coef: `[A, F+1, K]`.
      residual: `[F+1, M]`.
      steepest: `[F+1]` largest pull on any column, as the smallest `lam` that could hold it.
      done: `[F+1]` which problems seem to meet a tolerance.
      settled: `[]` whether every problem was shown to.
      passes: `[]` passes over the blocks.
    """

    coef: Array
    residual: Array
    steepest: Array
    done: Array
    settled: Array
    passes: Array


def _objective(query: Query, blocks: Block, coef: Array, residual: Array) -> tuple[Array, Array]:
    """Square of the residuals, the ridge part with them, and L1 part of every problem, `[F+1]` each."""
    factor = jnp.where(jnp.isfinite(blocks.factor), blocks.factor, 0.0)
    ridge = query.penalty * query.l2_ratio * jnp.einsum("afk,ak->f", coef**2, factor)
    l1 = query.penalty * query.l1_ratio * jnp.einsum("afk,ak->f", jnp.abs(coef), factor)
    return (query.weight * residual**2).sum(axis=1) + ridge, l1


def _gap(query: Query, blocks: Block, coef: Array, residual: Array, steepest: Array) -> Array:
    """Duality gap of every problem, the dual point being the best on the ray of the residuals, `[F+1]`."""
    square, l1 = _objective(query, blocks, coef, residual)
    along = (query.weight * residual) @ query.y
    longest = query.penalty / jnp.maximum(steepest, jnp.finfo(steepest.dtype).tiny)
    return duality_gap(square, l1, along, longest)


def _jump(query: Query, blocks: Block, history: History, moving: Array) -> tuple[Array, Array]:
    """Extrapolate the problems that are `moving [F+1]`, where that lowers the objective."""
    coef, residual = history.coef[-1], history.residual[-1]
    ahead, ahead_residual = extrapolate(history)
    now, then = (_objective(query, blocks, *at) for at in ((coef, residual), (ahead, ahead_residual)))
    lower = then[0] / 2 + then[1] < now[0] / 2 + now[1]
    takes = moving & lower & (ahead >= query.least).all(axis=(0, 2))
    return jnp.where(takes[:, None], ahead, coef), jnp.where(takes[:, None], ahead_residual, residual)


def descend(
    query: Query, blocks: Block, count: Int[Array, ""], coef: Float[Array, "A F1 K"], max_passes: Int[Array, ""]
) -> Descent:
    """Descend until every problem is optimal over the working columns, to one of the two tolerances.

    A pass over the blocks moves the problems that do not seem to be; where all do, a pass that moves nothing shows it.

    Args:
      query: the problems.
      blocks: the working columns.
      count: blocks in use.
      coef: where to start.
      max_passes: passes before giving up.
    """

    def visit(i: Array, state: tuple[Array, ...], moving: Bool[Array, "F1"]) -> tuple[Array, ...]:
        coef, residual, steepest, worst = state
        block = Block(*(part[i] for part in blocks))
        gradient = (query.weight * residual) @ block.x.T
        l1, l2 = _strength(query, block.factor)
        slope = gradient - l2 * coef[i]
        off = violation(slope, coef[i], l1, query.least).max(axis=1)
        moves = moving & (off > _WORTH_A_MOVE * query.largest_violation)

        def move() -> tuple[Array, Array]:
            new = _sweep(query, block, gradient, coef[i], moves)
            step = new - coef[i]
            z_step = jnp.einsum("fdk,fk->fd", block.z_part, step)
            return coef.at[i].set(new), residual - step @ block.x + z_step @ query.z.T

        held_by = pull(slope, query.least) / (query.l1_ratio * block.factor)
        steepest = jnp.maximum(steepest, held_by.max(axis=1))
        return *jax.lax.cond(moves.any(), move, lambda: (coef, residual)), steepest, jnp.maximum(worst, off)

    def one_pass(state: tuple[Descent, History]) -> tuple[Descent, History]:
        before, history = state
        moving, shows = ~before.done, before.done.all()
        # What is to be shown starts from the coefficients alone, without the rounding of the moves.
        residual = jax.lax.cond(shows, lambda: residuals(query, blocks, count, before.coef), lambda: before.residual)
        visiting = functools.partial(visit, moving=moving)
        coef, residual, steepest, worst = jax.lax.fori_loop(0, count, visiting, (before.coef, residual, zeros, zeros))
        close = _gap(query, blocks, coef, residual, steepest) <= query.largest_gap * at_zero
        done = close | (worst <= query.largest_violation)
        history = record(history, coef, residual)
        coef, residual = jax.lax.cond(
            is_full(history) & ~done.all(),
            lambda: _jump(query, blocks, history, ~done),
            lambda: (coef, residual),
        )
        return Descent(coef, residual, steepest, done, shows & done.all(), before.passes + 1), history

    def more(state: tuple[Descent, History]) -> Array:
        return ~state[0].settled & (state[0].passes < max_passes)

    # The rows that a fold trains on may vary less than all of them.
    at_zero = (query.weight * _without_z(query, jnp.broadcast_to(query.y, query.weight.shape)) ** 2).sum(axis=1) / 2
    zeros = jnp.zeros(query.weight.shape[0], query.y.dtype)
    nowhere = jnp.zeros_like(query.weight)
    first = Descent(coef, nowhere, zeros, zeros == 0, jnp.bool_(False), jnp.int32(0))
    return jax.lax.while_loop(more, one_pass, (first, start(coef, nowhere)))[0]
