"""What is kept of submodels besides their utilities, so that `jaxame.kept` can answer other queries later."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxame import checks
from jaxame.submodels.adapter import Apply, Model, Params

PARAMS = "params"


def checked_points(keep: Any, x: np.ndarray) -> np.ndarray | None:
    """Return the points `[n, ...]` whose outputs are to be kept, of the shape and type of inputs `x`; None if none."""
    if keep is None or is_params(keep):
        return None
    points = np.asarray(keep)
    fits = points.shape[1:] == x.shape[1:] and len(points) > 0 and points.dtype.kind in "fiu"
    checks.require(
        fits, f'keep to be "params" or points [n, {", ".join(map(str, x.shape[1:]))}]', checks.describe(keep)
    )
    return points.astype(x.dtype)


def is_params(keep: Any) -> bool:
    """Whether parameters are to be kept."""
    return isinstance(keep, str) and keep == PARAMS


def keeper(keep: Any, points: np.ndarray | None) -> Callable[[Apply, Params], dict[str, Array]]:
    """Return the function of a model and its parameters that gives what is to be kept, by name."""
    if points is not None:
        return lambda apply, params: {"outputs": apply(params, jnp.asarray(points)).astype(jnp.float32)}
    if is_params(keep):
        return lambda apply, params: {PARAMS: ravel_pytree(params)[0].astype(jnp.float32)}
    return lambda apply, params: {}


def unravel(model: Model, key: Array, params: Array) -> Params:
    """Return parameters that were kept as `[P]`; `key` is any of the kind that the model starts from."""
    shapes = jax.eval_shape(model.init, key)
    like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return ravel_pytree(like)[1](params.astype(ravel_pytree(like)[0].dtype))
