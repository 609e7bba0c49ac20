"""`TrainingGame`: masks to utilities by training one submodel per mask."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxame import checks
from jaxame.submodels import tiles
from jaxame.submodels.models import Params, as_model
from jaxame.submodels.training import Feed, Loss, Recipe, example_order

cross_entropy: Loss = optax.softmax_cross_entropy_with_integer_labels

_TILES_PER_CHUNK = 16


class TrainingGame:
    """The game that trains: a submodel per subset of the training data, and what each query measures on it.

    All submodels take the same steps on the same minibatches (the masked feed); an excluded example has no part in the
    loss of a step, and a step without an included example changes nothing. An excluded example changes no bit of a
    submodel as long as the model's activations on it are finite. Submodels are trained in fixed tiles, one per device
    at a time, so a row's utilities do not depend, to the bit, on the rows beside it, on how rows are cut into calls or
    on the number of devices.

    Args:
      model: a Flax NNX factory `make(rngs=...)`, a Flax Linen module, or a pair `(init, apply)`; see `as_model`.
      optimizer: any optax optimiser.
      x: float `[n, ...]` training inputs, in the unit the model expects.
      y: `[n]` integer labels, or targets `[n, ...]` of whatever kind `loss` takes.
      query: `query(apply, params) -> [Q]`, what is measured on a submodel; `jaxame.queries` has the usual ones.
      num_steps: optimiser steps, the same for every submodel.
      batch_size: examples per step before masking; `None` takes all `n`.
      loss: `(outputs [B, C], y [B, ...]) -> [B]`, the loss of each example by itself.
      groups: int `[n]`, the source of each example, 0 to N-1; by default each example is a source.
      order_key: one typed key; decides the order in which all submodels see the examples.
      tile: submodels trained at once on a device, `T`; chosen from the model's size by default. Changing it changes
        results by rounding, which training amplifies.
      mesh: devices to train on, all axes over submodels; by default all devices of this process.

    Attributes:
      num_sources: `N`.
      num_queries: `Q`.
      query: the query, as given.
      tile: `T`; record it with results.
      chunk_size: rows a driver should hand over per call, a whole number of tiles on every device.

    Raises:
      ValueError: before any training, if the training set is empty, `x` is not finite, labels or groups are out of
        range, shapes disagree, or the model has state other than parameters.
    """

    def __init__(
        self,
        model: Any,
        optimizer: optax.GradientTransformation,
        x: Any,
        y: Any,
        *,
        query: Callable[[Callable, Params], jax.Array],
        num_steps: int,
        batch_size: int | None = None,
        loss: Loss = cross_entropy,
        groups: Any = None,
        order_key: jax.Array | None = None,
        tile: int | None = None,
        mesh: Mesh | None = None,
    ):
        x, y = _checked_examples(x, y)
        groups = _checked_groups(groups, len(x))
        is_optimizer = isinstance(optimizer, optax.GradientTransformation)
        checks.require(is_optimizer, "optimizer to be an optax GradientTransformation", repr(optimizer))
        self._recipe = Recipe(as_model(model, x), optimizer, loss)
        _check_loss(self._recipe, x, y)
        self.query = query
        self.num_queries = _checked_num_queries(self._recipe, query)
        self.num_sources = int(groups.max()) + 1

        order_key = jax.random.key(0) if order_key is None else checks.typed_key(order_key, "order_key")
        batch_size = len(x) if batch_size is None else min(checks.count(batch_size, "batch_size"), len(x))
        order = example_order(order_key, len(x), checks.count(num_steps, "num_steps"), batch_size)
        self._mesh = tiles.local_mesh() if mesh is None else mesh
        self._feed = tiles.put_everywhere(Feed(x, y, order, groups[order]), self._mesh)
        platform = self._mesh.devices.flat[0].platform
        default = tiles.default_tile(self._recipe, self._feed, platform)
        self.tile = default if tile is None else checks.count(tile, "tile")
        self.chunk_size = _TILES_PER_CHUNK * self._round_size
        self._train_tiles = tiles.compile_tiles(self._recipe, query, self._mesh)
        self._apply = jax.jit(self._recipe.model.apply)

    def __call__(self, keys: jax.Array, masks: Any) -> np.ndarray:
        """Train one submodel per row and measure it.

        Args:
          keys: typed keys `[m]`; each initialises the parameters of its submodel.
          masks: bool `[m, N]`, the sources each submodel may see.

        Returns:
          Utilities float32 `[m, Q]`, in the unit of the query. A submodel that diverged has non-finite entries.

        Raises:
          ValueError: if `keys` or `masks` have the wrong type or shape.
        """
        masks = _checked_rows(keys, masks, self.num_sources)
        rounds = [utilities for _, utilities in self._rounds(keys, masks)]
        return np.concatenate([np.zeros((0, self.num_queries), np.float32), *rounds])[: len(masks)]

    def train(self, key: jax.Array, mask: Any) -> Params:
        """Return the parameters of one submodel, to the bit those whose utilities a call gives.

        Args:
          key: one typed key.
          mask: bool `[N]`, the sources this submodel may see; all true gives the model trained on everything.

        Raises:
          ValueError: if `key` or `mask` has the wrong type or shape.
        """
        masks = _checked_rows(checks.typed_key(key)[None], np.asarray(mask)[None], self.num_sources)
        params, _ = next(self._rounds(key[None], masks))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf.addressable_data(0)[0]), params)

    def predict(self, params: Params, x: Any) -> jax.Array:
        """Return the outputs `[B, C]` of a submodel, as from `train`, on inputs `x [B, ...]`."""
        return self._apply(params, jnp.asarray(x, jnp.float32))

    @property
    def _round_size(self) -> int:
        return self.tile * self._mesh.size

    def _rounds(self, keys: jax.Array, masks: np.ndarray) -> Iterator[tuple[Params, jax.Array]]:
        """Yield the `(params, utilities)` of one tile per device at a time; the last round is padded with its last row.

        Rounds are handed to the devices without waiting for the one before.
        """
        data, impl = np.asarray(jax.random.key_data(keys)), jax.random.key_impl(keys)
        for start in range(0, len(masks), self._round_size):
            rows = np.minimum(np.arange(start, start + self._round_size), len(masks) - 1)
            round_keys = jax.random.wrap_key_data(jnp.asarray(data[rows]), impl=impl)
            placed_keys, placed_masks = tiles.put_rows((round_keys, masks[rows]), self._mesh)
            yield self._train_tiles(placed_keys, placed_masks, self._feed)


def _checked_examples(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return `x` as float32 and `y` as it is, in memory of the host."""
    x, y = np.asarray(x), np.asarray(y)
    is_float = x.ndim >= 1 and np.issubdtype(x.dtype, np.floating)
    checks.require(is_float, "x to be a float array [n, ...]", checks.describe(x))
    checks.require(len(x) > 0, "a training set with at least one example", checks.describe(x))
    checks.require(y.shape[:1] == x.shape[:1], f"y with {len(x)} rows, one per row of x", checks.describe(y))
    is_finite = np.isfinite(x)
    checks.require(is_finite.all(), "finite x", f"{x.size - is_finite.sum()} non-finite entries")
    return x.astype(np.float32), y


def _checked_groups(groups: Any, num_examples: int) -> np.ndarray:
    """Return the source of each example, int32 `[n]`."""
    groups = np.asarray(np.arange(num_examples) if groups is None else groups)
    is_integer = groups.shape == (num_examples,) and np.issubdtype(groups.dtype, np.integer)
    checks.require(is_integer, f"groups to be an integer array [{num_examples}]", checks.describe(groups))
    used = np.unique(groups)
    is_dense = np.array_equal(used, np.arange(len(used)))
    checks.require(is_dense, "groups numbered 0 to N-1, each in use", f"{len(used)} numbers, {used[0]} to {used[-1]}")
    return groups.astype(np.int32)


def _check_loss(recipe: Recipe, x: np.ndarray, y: np.ndarray) -> None:
    """Check that the loss fits outputs and targets, abstractly; labels of the default loss by value."""
    model = recipe.model
    outputs = jax.eval_shape(lambda key: model.apply(model.init(key), jnp.asarray(x[:1])), jax.random.key(0))
    if recipe.loss is cross_entropy:
        num_classes = outputs.shape[1]
        is_label = y.ndim == 1 and np.issubdtype(y.dtype, np.integer)
        checks.require(is_label, f"y to be integer labels [{len(x)}]", checks.describe(y))
        in_range = y.min() >= 0 and y.max() < num_classes
        checks.require(in_range, f"labels from 0 to {num_classes - 1}", f"labels from {y.min()} to {y.max()}")
    losses = jax.eval_shape(recipe.loss, outputs, jax.ShapeDtypeStruct((1, *y.shape[1:]), jnp.asarray(y[:1]).dtype))
    is_vector = getattr(losses, "shape", None) == (1,)
    checks.require(is_vector, "a loss that returns one number per example [B]", checks.describe(losses))


def _checked_num_queries(recipe: Recipe, query: Callable) -> int:
    """Return `Q`, found abstractly."""
    checks.require(callable(query), "query to be callable as query(apply, params)", checks.describe(query))
    model = recipe.model
    values = jax.eval_shape(lambda key: query(model.apply, model.init(key)), jax.random.key(0))
    is_vector = hasattr(values, "ndim") and values.ndim == 1 and values.size > 0
    checks.require(is_vector, "a query that returns a vector [Q] with Q >= 1", checks.describe(values))
    return values.size


def _checked_rows(keys: Any, masks: Any, num_sources: int) -> np.ndarray:
    """Return `masks` on the host after checking that it and `keys` make `m` rows."""
    masks = np.asarray(masks)
    is_mask = masks.dtype == np.bool_ and masks.ndim == 2 and masks.shape[1] == num_sources
    checks.require(is_mask, f"masks to be a bool array [m, {num_sources}]", checks.describe(masks))
    is_keys = isinstance(keys, jax.Array) and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    is_keys = is_keys and keys.shape == masks.shape[:1]
    checks.require(is_keys, f"typed keys [{len(masks)}], one per row of masks", checks.describe(keys))
    return masks
