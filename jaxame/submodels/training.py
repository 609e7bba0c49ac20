"""Training one submodel: unbatched code, mapped over submodels in `tiles`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxame.submodels.adapter import Model, Params
from jaxame.submodels.feeds import (
    AUGMENT_STREAM,
    INIT_STREAM,
    Examples,
    example_order,
    gathered_batches,
    masked_batches,
)

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""Outputs `[B, C]` and targets `[B, ...]` to the loss of each example `[B]`."""

Augment = Callable[[jax.Array, jax.Array], jax.Array]
"""A typed key and inputs `[B, ...]` to inputs `[B, ...]`; example `b` of the result depends on example `b` only."""

_LOOKED_AT = 256  # examples at most, for a look at the loss
_State = tuple[Params, Any]
_Batch = tuple[jax.Array, jax.Array, Any]  # number, rows and included, or nothing where all are


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is trained and how; the same for every submodel.

    Attributes:
      model: the model.
      optimizer: the optimiser.
      loss: of each example.
      num_steps: `S`.
      batch_size: `B`, examples of a step before any is excluded.
      own_batch: `b`, examples of a step of the gathered feed; `None` for the masked feed.
      share_order: whether all submodels see the examples in the same order and alike augmented.
      augment: applied to every batch.
      piece: examples whose gradient is taken at once.
    """

    model: Model
    optimizer: optax.GradientTransformation
    loss: Loss
    num_steps: int
    batch_size: int
    own_batch: int | None = None
    share_order: bool = True
    augment: Augment | None = None
    piece: int | None = None

    @property
    def step_size(self) -> int:
        """Examples that a step computes on."""
        return self.own_batch or self.batch_size


def share(recipe: Recipe, examples: Examples, shared_key: jax.Array, *, share_init: bool) -> Examples:
    """Return `examples` with what the submodels share: their order, and where they start if they do not yet."""
    start, order = examples.start, None
    if start is None and share_init:
        start = jax.jit(recipe.model.init)(jax.random.fold_in(shared_key, INIT_STREAM))
    if recipe.share_order:
        order = example_order(shared_key, len(examples.x), recipe.num_steps * recipe.batch_size)
    return dataclasses.replace(examples, order=order, start=start)


def fit(recipe: Recipe, examples: Examples, key: jax.Array, shared_key: jax.Array, mask: jax.Array) -> Params:
    """Train one submodel.

    A step whose batch holds no included example leaves the parameters and the optimiser's state as they were; the
    empty subset therefore gives the model it started from.

    Args:
      recipe: what is trained and how.
      examples: the training set.
      key: one typed key; decides the initial parameters, and the order and augmentation where they are not shared.
      shared_key: one typed key, the same for all submodels.
      mask: bool `[N]`, the sources this submodel may see.

    Returns:
      The trained parameters.
    """
    step, state, batches, has_own = _plan(recipe, examples, key, shared_key, mask)
    params = jax.lax.scan(lambda *given: (step(*given), None), state, batches)[0][0]
    return params if has_own is None else _keep(has_own, params, state[0])


def own_loss(recipe: Recipe, examples: Examples, params: Params, mask: jax.Array) -> jax.Array:
    """Return the mean loss of a submodel on examples that it saw, of some all over the training set; NaN without any.

    Args:
      recipe: the model and the loss.
      examples: the training set.
      params: of the submodel.
      mask: bool `[N]`, the sources it saw.
    """
    number = len(examples.x)
    # No more at once than training takes.
    rows = np.linspace(0, number - 1, min(number, _LOOKED_AT, recipe.piece or recipe.step_size)).astype(int)
    seen = mask[jnp.asarray(examples.groups)[rows]]
    losses = recipe.loss(recipe.model.apply(params, examples.x[rows]), examples.y[rows])
    return jnp.sum(jnp.where(seen, losses, 0.0)) / jnp.sum(seen)


def trajectory(recipe: Recipe, examples: Examples, key: jax.Array, shared_key: jax.Array, number: int) -> Params:
    """Train on everything and return the parameters `[number, ...]` after each of `number` parts of the steps."""
    mask = jnp.ones(jnp.shape(examples.groups), bool)  # no fewer than the sources
    step, state, batches, _ = _plan(recipe, examples, key, shared_key, mask)

    def noting(carry: tuple[_State, Params], batch: _Batch) -> tuple[tuple[_State, Params], None]:
        state, kept = carry
        state = step(state, batch)
        part = batch[0] * number // recipe.num_steps  # written at each of its steps; the last stays
        return (state, jax.tree.map(lambda all_parts, own: all_parts.at[part].set(own), kept, state[0])), None

    kept = jax.tree.map(lambda leaf: jnp.zeros((number, *leaf.shape), leaf.dtype), state[0])
    return jax.lax.scan(noting, (state, kept), batches)[0][1]


def _plan(
    recipe: Recipe, examples: Examples, key: jax.Array, shared_key: jax.Array, mask: jax.Array
) -> tuple[Callable[[_State, _Batch], _State], _State, _Batch, jax.Array | None]:
    """Return a step, the state it starts from, the batches of all steps, and whether there is anything to train on.

    The last is None with the masked feed, which finds out for each step.
    """
    order_key = shared_key if recipe.share_order else key
    augment_key = jax.random.fold_in(order_key, AUGMENT_STREAM)
    order = examples.order
    if order is None:
        order = example_order(order_key, len(examples.x), recipe.num_steps * recipe.batch_size)
    own = jnp.asarray(order), mask[jnp.asarray(examples.groups)], recipe.num_steps, recipe.step_size
    is_gathered = recipe.own_batch is not None

    def step(state: _State, batch: _Batch) -> _State:
        params, optimizer_state = state
        number, rows, included = batch
        x = examples.x[rows]
        if recipe.augment is not None:
            x = recipe.augment(jax.random.fold_in(augment_key, number), x)
        counted = jnp.ones(rows.shape, bool) if is_gathered else included
        gradient = batch_gradient(recipe, params, x, examples.y[rows], counted)
        updates, optimizer_state = recipe.optimizer.update(gradient, optimizer_state, params)
        moved = (optax.apply_updates(params, updates), optimizer_state)
        return moved if is_gathered else _keep(jnp.any(included), moved, state)

    params = recipe.model.init(key) if examples.start is None else examples.start
    state = params, recipe.optimizer.init(params)
    numbers = jnp.arange(recipe.num_steps)
    if not is_gathered:
        return step, state, (numbers, *masked_batches(*own)), None
    # A gathered batch is all included, unless nothing is: then what was trained on is not own, and does not count.
    batches, has_own = gathered_batches(*own)
    return step, state, (numbers, batches, None), has_own


def _keep(is_moved: jax.Array, new: Any, old: Any) -> Any:
    """Return `new` or `old`, pytrees alike."""
    return jax.tree.map(lambda one, other: jnp.where(is_moved, one, other), new, old)


def batch_gradient(recipe: Recipe, params: Params, x: jax.Array, y: jax.Array, included: jax.Array) -> Params:
    """Return the gradient of the mean loss over the included examples of a batch, summed over its pieces.

    With `w` the 0/1 inclusion, the gradient of `sum_b w_b loss_b / max(1, sum_b w_b)`.

    Args:
      recipe: the model, the loss and the size of a piece.
      params: parameters of one submodel.
      x: `[B, ...]` inputs of the batch.
      y: `[B, ...]` targets of the batch.
      included: bool `[B]`.
    """
    share = 1.0 / jnp.maximum(jnp.sum(included), 1)
    piece = recipe.piece or len(x)
    num_pieces = -(-len(x) // piece)
    if num_pieces == 1:
        return _piece_gradient(recipe, params, share, (x, y, included))

    def cut(leaf: jax.Array) -> jax.Array:
        missing = num_pieces * piece - len(leaf)
        padded = jnp.pad(leaf, ((0, missing), *((0, 0),) * (leaf.ndim - 1)))
        return padded.reshape(num_pieces, piece, *leaf.shape[1:])

    def add(total: Params, part: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Params, None]:
        return jax.tree.map(jnp.add, total, _piece_gradient(recipe, params, share, part)), None

    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), jax.tree.map(cut, (x, y, included)))[0]


def _piece_gradient(
    recipe: Recipe, params: Params, share: jax.Array, part: tuple[jax.Array, jax.Array, jax.Array]
) -> Params:
    """Return the gradient of `share` times the summed loss of the included examples.

    The slope of an excluded example's loss is replaced by zero, not multiplied by it, so that it does not leak even
    where it overflows.
    """
    x, y, included = part
    outputs, pullback = jax.vjp(lambda p: recipe.model.apply(p, x), params)
    slopes = jax.grad(lambda out: jnp.sum(recipe.loss(out, y)))(outputs)
    (gradient,) = pullback(jnp.where(included[:, None], slopes * share.astype(slopes.dtype), 0.0))
    return gradient
