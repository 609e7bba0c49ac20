"""The duality gap, from the few sums that it takes."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def duality_gap(
    square: Float[Array, "*n"], l1: Float[Array, "*n"], along: Float[Array, "*n"], longest: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """Duality gap of fits, the dual point being the residuals or, shrunk, the best on their ray.

    Args:
      square: weighted square of the residuals, those of the rows that stand for the ridge part with them.
      l1: L1 part of the objective.
      along: weighted product of residuals and target.
      longest: largest multiple of the residuals that is feasible.
    """
    # A multiple below 0, which overshooting residuals would ask for, need not be feasible.
    scale = jnp.clip(along / jnp.where(square > 0, square, 1.0), 0.0, jnp.minimum(longest, 1.0))
    return square / 2 + l1 - scale * along + scale**2 * square / 2
