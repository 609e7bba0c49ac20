"""Anderson extrapolation: the combination of the last iterates whose steps nearly cancel.

Coordinate descent on a fixed support is a linear iteration, slow where the support's columns are nearly dependent (as
where there are nearly as many as rows); a combination of a few iterates is then far nearer to its limit.

References:
  Anderson, J. ACM 12(4), 1965; Bertrand and Massias, AISTATS 2021 (coordinate descent).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

DEPTH = 6
"""`H`, steps that are combined."""
_RIDGE = {"float32": 1e-6, "float64": 1e-8}


class History(NamedTuple):
    """The last iterates, oldest first once it is full.

    Attributes:
      coef: `[H+1, A, F+1, K]`.
      residual: `[H+1, F+1, M]`.
      length: `[]` iterates held.
    """

    coef: Array
    residual: Array
    length: Array


def start(coef: Float[Array, "A F1 K"], residual: Float[Array, "F1 M"]) -> History:
    """Return a history without iterates."""
    held = (DEPTH + 1,)
    return History(
        coef=jnp.zeros(held + coef.shape, coef.dtype),
        residual=jnp.zeros(held + residual.shape, residual.dtype),
        length=jnp.int32(0),
    )


def record(history: History, coef: Array, residual: Array) -> History:
    """Add an iterate; a full history starts anew with it."""
    place = history.length % (DEPTH + 1)
    return History(history.coef.at[place].set(coef), history.residual.at[place].set(residual), place + 1)


def is_full(history: History) -> Array:
    """Whether there are enough iterates to extrapolate from."""
    return history.length == DEPTH + 1


def extrapolate(history: History) -> tuple[Float[Array, "A F1 K"], Float[Array, "F1 M"]]:
    """Combine the iterates of a full history, problem by problem: coefficients and residuals."""
    steps = jnp.diff(history.coef, axis=0)
    gram = jnp.einsum("hafk,iafk->fhi", steps, steps)
    scale = jnp.trace(gram, axis1=1, axis2=2)[:, None, None]
    ridge = _RIDGE[gram.dtype.name] * jnp.where(scale > 0, scale, 1.0) * jnp.eye(DEPTH, dtype=gram.dtype)
    solved = jnp.linalg.solve(gram + ridge, jnp.ones((gram.shape[0], DEPTH, 1), gram.dtype))[..., 0]
    share = solved / solved.sum(axis=1, keepdims=True)
    coef = jnp.einsum("fh,hafk->afk", share, history.coef[1:])
    return coef, jnp.einsum("fh,hfm->fm", share, history.residual[1:])
