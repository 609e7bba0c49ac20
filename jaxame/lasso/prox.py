"""Proximal step and optimality of the penalty: one notion, used by solver, stopping rule and tests."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def soft_threshold(
    value: Float[Array, "*n"], threshold: Float[Array, "*#n"], least: Float[Array, ""] | float = -jnp.inf
) -> Float[Array, "*n"]:
    """Minimise `(b - value)^2 / 2 + threshold |b|` over `b >= least`, for `least <= 0`, element by element."""
    shrunk = jnp.sign(value) * jnp.maximum(jnp.abs(value) - threshold, 0.0)
    return jnp.maximum(shrunk, least)


def pull(gradient: Float[Array, "*n"], least: Float[Array, ""] | float = -jnp.inf) -> Float[Array, "*n"]:
    """How strongly `gradient` (`-d loss / d coef`) pulls a coefficient away from 0, where it is allowed to go."""
    return jnp.where(least < 0, jnp.abs(gradient), jnp.maximum(gradient, 0.0))


def violation(
    gradient: Float[Array, "*n"],
    coef: Float[Array, "*n"],
    threshold: Float[Array, "*#n"],
    least: Float[Array, ""] | float = -jnp.inf,
) -> Float[Array, "*n"]:
    """Distance of `gradient` from the subdifferential of `threshold |coef|` over `coef >= least`; 0 when optimal."""
    inactive = jnp.maximum(pull(gradient, least) - threshold, 0.0)
    return jnp.where(coef == 0, inactive, jnp.abs(gradient - threshold * jnp.sign(coef)))
