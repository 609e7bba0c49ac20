"""Cyclic coordinate descent on Gram matrices, many problems side by side.

The method is that of Friedman, Hastie and Tibshirani, J. Stat. Softw. 33(1), 2010, "covariance updates": keep the
gradient of the columns at hand and update it whenever a coefficient moves.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jaxame.lasso.prox import soft_threshold, violation


def descend(
    gram: Float[Array, "B A A"],
    gradient: Float[Array, "B A"],
    coef: Float[Array, "B A"],
    penalty: Float[Array, "B"],
    tolerance: Float[Array, "B"],
    active: Bool[Array, "B"],
    max_epochs: int,
) -> Float[Array, "B A"]:
    """Minimise `b'Gb/2 - c'b + penalty ||b||_1` in every problem until no optimality condition is off by more.

    Args:
      gram: `[B, A, A]` Gram matrices.
      gradient: `[B, A]` `c - G coef`.
      coef: `[B, A]` where to start.
      penalty: `[B]`.
      tolerance: `[B]` largest violation allowed, in the unit of `penalty`.
      active: `[B]` problems to work on; the others stay as they are, bit for bit.
      max_epochs: passes over the columns before giving up.

    Returns:
      coefficients, `[B, A]`.
    """
    place = jnp.arange(gram.shape[1])
    diagonal = gram[:, place, place]
    curvature = jnp.where(diagonal > 0, diagonal, 1.0)

    def visit(j: Array, state: tuple[Array, Array], moves: Array) -> tuple[Array, Array]:
        b, g = state
        target = soft_threshold(g[:, j] + diagonal[:, j] * b[:, j], penalty) / curvature[:, j]
        step = jnp.where(moves[:, j], target - b[:, j], 0.0)
        return jax.lax.cond(
            jnp.any(step != 0), lambda: (b.at[:, j].add(step), g - gram[:, j] * step[:, None]), lambda: (b, g)
        )

    def unfinished(b: Array, g: Array) -> Array:
        return active & (violation(g, b, penalty[:, None]).max(axis=1) > tolerance)

    def epoch(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        b, g, moving, passes = state
        # Places that a problem neither uses nor needs would not move, so no time is spent on them; each problem decides
        # for itself, so that none depends on its neighbours. What this pass makes necessary, the next one visits.
        moves = moving[:, None] & (diagonal > 0) & ((b != 0) | (jnp.abs(g) > penalty[:, None]))
        visited = moves.any(axis=0)
        order = jnp.nonzero(visited, size=place.size, fill_value=0)[0]
        b, g = jax.lax.fori_loop(0, visited.sum(), lambda i, s: visit(order[i], s, moves), (b, g))
        return b, g, moving & unfinished(b, g), passes + 1

    def more(state: tuple[Array, Array, Array, Array]) -> Array:
        return jnp.any(state[2]) & (state[3] < max_epochs)

    start = (coef, gradient, unfinished(coef, gradient), jnp.int32(0))
    return jax.lax.while_loop(more, epoch, start)[0]
