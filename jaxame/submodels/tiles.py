"""The compiled unit: a fixed tile of submodels per device."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxame.submodels.training import Feed, Recipe, fit

_TILE_BYTES = {"cpu": 2**22}
_TILE_BYTES_ACCELERATOR = 2**30
_TILE_RANGE = {"cpu": (4, 64)}
_TILE_RANGE_ACCELERATOR = (4, 1024)


def local_mesh() -> Mesh:
    """Return all devices of this process as one axis."""
    return Mesh(np.array(jax.local_devices()), ("submodels",))


def default_tile(recipe: Recipe, feed: Feed, platform: str) -> int:
    """Choose how many submodels a device trains at once.

    A power of two such that what a training step of one tile touches is about 4 MiB on a CPU, a core's share of the
    cache (measured best or within 3 % of it for small MLPs), or about 1 GiB on an accelerator (not measured).
    """
    budget = _TILE_BYTES.get(platform, _TILE_BYTES_ACCELERATOR)
    low, high = _TILE_RANGE.get(platform, _TILE_RANGE_ACCELERATOR)
    return min(max(2 ** round(math.log2(budget / _submodel_bytes(recipe, feed))), low), high)


def _submodel_bytes(recipe: Recipe, feed: Feed) -> int:
    """Estimate the bytes one submodel's training step touches: parameters, gradient, optimiser, saved activations."""

    def touched(key: jax.Array, x: jax.Array) -> tuple:
        params = recipe.model.init(key)
        outputs, pullback = jax.vjp(lambda p: recipe.model.apply(p, x), params)
        return params, pullback(jnp.zeros_like(outputs)), recipe.optimizer.init(params), outputs, pullback

    batch = jax.ShapeDtypeStruct((feed.order.shape[1], *feed.x.shape[1:]), feed.x.dtype)
    leaves = jax.tree.leaves(jax.eval_shape(touched, jax.random.key(0), batch))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def compile_tiles(recipe: Recipe, query: Callable, mesh: Mesh) -> Callable[[jax.Array, jax.Array, Feed], Any]:
    """Return the compiled `(keys [D * T], masks [D * T, N], feed) -> (params, utilities [D * T, Q])`.

    Every one of the `D` devices of `mesh` runs the same program on a tile of `T` rows, so a row's result does not
    depend on `D`.
    """

    def one(key: jax.Array, mask: jax.Array, feed: Feed) -> tuple:
        params = fit(recipe, feed, key, mask)
        return params, query(recipe.model.apply, params).astype(jnp.float32)

    rows, everywhere = P(mesh.axis_names), P()
    tile = jax.vmap(one, (0, 0, None))
    # check_vma: the scan's carry starts equal on all devices (a zero bias) and ends different, which it would refuse.
    return jax.jit(jax.shard_map(tile, mesh=mesh, in_specs=(rows, rows, everywhere), out_specs=rows, check_vma=False))


def put_rows(value: Any, mesh: Mesh) -> Any:
    """Place a pytree of `[D * T, ...]` rows, one tile on each device."""
    return jax.device_put(value, NamedSharding(mesh, P(mesh.axis_names)))


def put_everywhere(value: Any, mesh: Mesh) -> Any:
    """Place a pytree on every device."""
    return jax.device_put(value, NamedSharding(mesh, P()))
