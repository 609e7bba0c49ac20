"""Columns spread over several devices: each holds, multiplies and screens its own."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from jaxame.lasso.problem import Columns

_AXIS = "columns"


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("local",), meta_fields=("num_columns", "mesh", "specs")
)
@dataclasses.dataclass(frozen=True, eq=False)
class ShardedColumns:
    """A design whose columns are spread over the devices of a mesh; a `Columns` itself.

    Attributes:
      local: the columns, what there is per column in equal parts on the devices.
      num_columns: `P`, without what fills the last part up. Static.
      mesh: of one axis. Static.
      specs: how each array of `local` is spread. Static.
    """

    BY_COLUMN: ClassVar[tuple[str, ...]] = ()
    local: Columns
    num_columns: int
    mesh: Mesh
    specs: tuple[Spec, ...]

    def gather(self, index: Array) -> Array:
        """Columns `index [A]` as `[A, M]`; an index of `P` or more gives zeros."""

        def own(arrays: list[Array], index: Array) -> Array:
            columns = self._columns(arrays)
            place = index - jax.lax.axis_index(_AXIS) * columns.num_columns
            held = (place >= 0) & (place < columns.num_columns) & (index < self.num_columns)
            return jax.lax.psum(columns.gather(jnp.where(held, place, columns.num_columns)), _AXIS)

        return self._on_each(own, Spec())(jax.tree.leaves(self.local), index)

    def product(self, rows: Array) -> Array:
        """`rows X`, `[B, P]` from `[B, M]`."""
        own = self._on_each(lambda arrays, rows: self._columns(arrays).product(rows), Spec(None, _AXIS))
        return own(jax.tree.leaves(self.local), rows)[:, : self.num_columns]

    def squares(self, weight: Array) -> Array:
        """`sum_m weight[m] x[m, j]^2` of every column, `[P]` from `[M]`."""
        own = self._on_each(lambda arrays, weight: self._columns(arrays).squares(weight), Spec(_AXIS))
        return own(jax.tree.leaves(self.local), weight)[: self.num_columns]

    def rows(self, index: Array) -> Array:
        """Rows `index [m]` of all columns, `[P, m]`."""
        own = self._on_each(lambda arrays, index: self._columns(arrays).rows(index), Spec(_AXIS))
        return own(jax.tree.leaves(self.local), index)[: self.num_columns]

    def _columns(self, arrays: list[Array]) -> Columns:
        return jax.tree.unflatten(jax.tree.structure(self.local), arrays)

    def _on_each(self, function: Callable[..., Array], out: Spec) -> Callable[..., Array]:
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=(list(self.specs), Spec()), out_specs=out, check_vma=False
        )


def shard_columns(columns: Columns, devices: list[jax.Device]) -> ShardedColumns:
    """Spread the columns of a design over devices.

    Args:
      columns: a design, a dataclass that names the arrays with columns first in `BY_COLUMN`.
      devices: at least one.
    """
    mesh = Mesh(devices, (_AXIS,))
    more = -columns.num_columns % len(devices)

    def fill(array: Array) -> Array:
        return jnp.pad(array, ((0, more), *((0, 0) for _ in array.shape[1:])))

    spread: Any = columns
    filled = dataclasses.replace(spread, **{name: fill(getattr(columns, name)) for name in columns.BY_COLUMN})
    names = [path[0].name for path, _ in jax.tree_util.tree_leaves_with_path(filled)]
    specs = tuple(Spec(_AXIS) if name in columns.BY_COLUMN else Spec() for name in names)
    placed = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip(jax.tree.leaves(filled), specs, strict=True)
    ]
    local = jax.tree.unflatten(jax.tree.structure(filled), placed)
    return ShardedColumns(local, columns.num_columns, mesh, specs)
