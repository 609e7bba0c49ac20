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
    gram: Float[Array, "A A B"],
    gradient: Float[Array, "A B"],
    coef: Float[Array, "A B"],
    penalty: Float[Array, "B"],
    tolerance: Float[Array, "B"],
    active: Bool[Array, "B"],
    max_epochs: int,
) -> Float[Array, "A B"]:
    """Minimise `b'Gb/2 - c'b + penalty ||b||_1` in every problem until no optimality condition is off by more.

    Args:
      gram: `[A, A, B]` Gram matrices.
      gradient: `[A, B]` `c - G coef`.
      coef: `[A, B]` where to start.
      penalty: `[B]`.
      tolerance: `[B]` largest violation allowed, in the unit of `penalty`.
      active: `[B]` problems to work on; the others stay as they are, bit for bit.
      max_epochs: passes over the columns before giving up.

    Returns:
      coefficients, `[A, B]`.
    """
    place = jnp.arange(gram.shape[0])
    diagonal = gram[place, place]
    curvature = jnp.where(diagonal > 0, diagonal, 1.0)

    def visit(j: Array, state: tuple[Array, Array], moving: Array) -> tuple[Array, Array]:
        b, g = state
        target = soft_threshold(g[j] + diagonal[j] * b[j], penalty) / curvature[j]
        step = jnp.where(moving & (diagonal[j] > 0), target - b[j], 0.0)
        return jax.lax.cond(
            jnp.any(step != 0), lambda: (b.at[j].add(step), g - gram[j] * step[None, :]), lambda: (b, g)
        )

    def unfinished(b: Array, g: Array) -> Array:
        return active & (violation(g, b, penalty[None, :]).max(axis=0) > tolerance)

    def epoch(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        b, g, moving, passes = state
        # A place that no problem uses or needs would be visited for nothing; if this pass makes it needed, the next sees.
        worth = ((b != 0) | (jnp.abs(g) > penalty)).any(axis=1, where=moving)
        places = jnp.nonzero(worth, size=place.size, fill_value=0)[0]
        b, g = jax.lax.fori_loop(0, worth.sum(), lambda i, s: visit(places[i], s, moving), (b, g))
        return b, g, moving & unfinished(b, g), passes + 1

    def more(state: tuple[Array, Array, Array, Array]) -> Array:
        return jnp.any(state[2]) & (state[3] < max_epochs)

    start = (coef, gradient, unfinished(coef, gradient), jnp.int32(0))
    return jax.lax.while_loop(more, epoch, start)[0]
