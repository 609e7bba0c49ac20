"""Proximal step and optimality of the L1 penalty: one notion, used by solver, stopping rule and tests."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def soft_threshold(value: Float[Array, "*n"], threshold: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Minimise `(b - value)^2 / 2 + threshold |b|` over `b`, element by element."""
    return jnp.sign(value) * jnp.maximum(jnp.abs(value) - threshold, 0.0)


def violation(
    gradient: Float[Array, "*n"], coef: Float[Array, "*n"], penalty: Float[Array, "*#n"]
) -> Float[Array, "*n"]:
    """Distance of `gradient` (`-d loss / d coef`) from the subdifferential of `penalty |coef|`; 0 when optimal."""
    inactive = jnp.maximum(jnp.abs(gradient) - penalty, 0.0)
    return jnp.where(coef == 0, inactive, jnp.abs(gradient - penalty * jnp.sign(coef)))
