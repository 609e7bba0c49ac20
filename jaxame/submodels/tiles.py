"""The compiled unit: a fixed tile of submodels per device."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxame.submodels.adapter import Apply, Params
from jaxame.submodels.feeds import Examples
from jaxame.submodels.training import Recipe, fit


def local_mesh() -> Mesh:
    """Return all devices of this process as one axis."""
    return Mesh(np.array(jax.local_devices()), ("submodels",))


@dataclasses.dataclass(frozen=True)
class CompiledTile:
    """A compiled round: a tile on every device.

    Attributes:
      run: `(key data [D * T, ...], masks [D * T, N], shared key data, examples)` to parameters, utilities `[D * T, Q]`
        and what is kept besides.
      num_bytes: device memory that one device needs for it, as the compiler counts it.
    """

    run: Callable[..., tuple[Params, jax.Array, Any]]
    num_bytes: int


def compile_tile(
    recipe: Recipe,
    query: Callable[[Apply, Params], jax.Array],
    keep: Callable[[Apply, Params], Any],
    mesh: Mesh,
    impl: str,
    arguments: tuple[Any, ...],
) -> CompiledTile:
    """Compile a round for arguments of these shapes; `keep(apply, params)` is what is kept of each submodel.

    Every one of the `D` devices of `mesh` runs the same program on a tile of `T` rows, so a row's result does not
    depend on `D`.
    """

    def one(
        key: jax.Array, mask: jax.Array, shared_key: jax.Array, examples: Examples
    ) -> tuple[Params, jax.Array, Any]:
        own, shared = (jax.random.wrap_key_data(data, impl=impl) for data in (key, shared_key))
        params = fit(recipe, examples, own, shared, mask)
        apply = recipe.model.apply
        return params, query(apply, params).astype(jnp.float32), keep(apply, params)

    rows, everywhere = P(mesh.axis_names), P()
    tile = jax.vmap(one, (0, 0, None, None))
    in_specs = (rows, rows, everywhere, everywhere)
    # check_vma: the scan's carry starts equal on all devices (a zero bias) and ends different, which it would refuse.
    sharded = jax.shard_map(tile, mesh=mesh, in_specs=in_specs, out_specs=rows, check_vma=False)
    compiled = jax.jit(sharded).lower(*arguments).compile()
    memory: Any = compiled.memory_analysis()
    parts = (memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes)
    return CompiledTile(compiled, sum(parts))


def memory_limit(device: jax.Device) -> int:
    """Return the bytes that one device of this process may use: an accelerator's own, or a share of the host's."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()


def put_rows(value: Any, mesh: Mesh) -> jax.Array:
    """Place `[D * T, ...]` rows, one tile on each device; every process gives all rows."""
    return _put(value, NamedSharding(mesh, P(mesh.axis_names)))


def put_everywhere(value: Any, mesh: Mesh) -> Any:
    """Place a pytree on every device."""
    return jax.tree.map(lambda leaf: _put(leaf, NamedSharding(mesh, P())), value)


def _put(value: Any, sharding: NamedSharding) -> jax.Array:
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
