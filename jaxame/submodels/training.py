"""Training one submodel by masked steps: unbatched code, mapped over submodels in `tiles`."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxame.submodels.models import Model, Params

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""Outputs `[B, C]` and targets `[B, ...]` to the loss of each example `[B]`."""

Array = jax.Array | np.ndarray

# Far from the numbers of rows, so that a design drawn with the same key shares no random bits with the order.
_ORDER_STREAM = 2**32 - 4


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is trained and how; the same for every submodel."""

    model: Model
    optimizer: optax.GradientTransformation
    loss: Loss


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Feed:
    """The masked feed: the minibatches that all submodels share.

    Attributes:
      x: `[n, ...]` inputs.
      y: `[n, ...]` targets.
      order: int32 `[S, B]`, the examples of each step.
      sources: int32 `[S, B]`, the source of each of these examples.
    """

    x: Array
    y: Array
    order: Array
    sources: Array


def example_order(key: jax.Array, num_examples: int, num_steps: int, batch_size: int) -> np.ndarray:
    """Return the examples of each step, int32 `[S, B]`: fresh permutations of all examples, laid end to end.

    Epoch `e` is permuted by a key that depends on `key` and `e` only. Batches run on across epochs, so every example is
    used equally often, give or take one.
    """
    num_epochs = -(-num_steps * batch_size // num_examples)
    epoch_key = jax.random.fold_in(key, _ORDER_STREAM)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(epoch_key, jnp.arange(num_epochs))
    epochs = jax.vmap(jax.random.permutation, (0, None))(keys, num_examples)
    return np.asarray(epochs, np.int32).reshape(-1)[: num_steps * batch_size].reshape(num_steps, batch_size)


def masked_gradient(recipe: Recipe, params: Params, x: jax.Array, y: jax.Array, included: jax.Array) -> Params:
    """Return the gradient of the mean loss over the included examples of a batch.

    With `w` the 0/1 inclusion, the gradient of `sum_b w_b loss_b / max(1, sum_b w_b)`. The slope of an excluded
    example's loss is replaced by zero, not multiplied by it, so that it does not leak even where it overflows.

    Args:
      recipe: the model and the loss.
      params: parameters of one submodel.
      x: `[B, ...]` inputs of the batch.
      y: `[B, ...]` targets of the batch.
      included: bool `[B]`.
    """
    outputs, pullback = jax.vjp(lambda p: recipe.model.apply(p, x), params)
    slopes = jax.grad(lambda out: jnp.sum(recipe.loss(out, y)))(outputs)
    share = 1.0 / jnp.maximum(jnp.sum(included), 1).astype(slopes.dtype)
    (gradient,) = pullback(jnp.where(included[:, None], slopes * share, 0.0))
    return gradient


def fit(recipe: Recipe, feed: Feed, key: jax.Array, mask: jax.Array) -> Params:
    """Train one submodel for all steps of `feed`.

    A step whose batch holds no included example leaves the parameters and the optimiser's state as they were; the
    empty subset therefore gives the untrained model.

    Args:
      recipe: the model, the optimiser and the loss.
      feed: the shared minibatches.
      key: one typed key; initialises the parameters.
      mask: bool `[N]`, the sources this submodel may see.

    Returns:
      The trained parameters.
    """

    def step(state: tuple, rows: tuple) -> tuple[tuple, None]:
        params, optimizer_state = state
        examples, sources = rows
        included = mask[sources]
        gradient = masked_gradient(recipe, params, feed.x[examples], feed.y[examples], included)
        updates, optimizer_state = recipe.optimizer.update(gradient, optimizer_state, params)
        moved = (optax.apply_updates(params, updates), optimizer_state)
        is_step = jnp.any(included)
        return jax.tree.map(lambda new, old: jnp.where(is_step, new, old), moved, state), None

    params = recipe.model.init(key)
    (params, _), _ = jax.lax.scan(step, (params, recipe.optimizer.init(params)), (feed.order, feed.sources))
    return params
