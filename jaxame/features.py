"""Design -> regressors: membership codes with their scale constants, read from the bits as they are needed."""

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import Array
from jaxtyping import Float, Int, UInt8

from jaxame.design import Design

# As text: scipy loads a part of itself when it is first used.
Operator: TypeAlias = "scipy.sparse.linalg.LinearOperator"

_BLOCK_COLUMNS, _BLOCK_ROWS = 1024, 4096
_POLYNOMIAL_DEGREE = 4


@functools.partial(jax.tree_util.register_dataclass, data_fields=("packed", "low", "step"), meta_fields=("num_rows",))
@dataclasses.dataclass(frozen=True, eq=False)
class MaskColumns:
    """Membership as `P` regression columns `x = low + step * bit`, never formed as a whole.

    Attributes:
      packed: `[P, ceil(M/8)]` the bits of each column, as `numpy.packbits(bitorder="little")` along the rows.
      low: `[M]` code of a source that is out.
      step: `[M]` code of a source that is in, less `low`.
      num_rows: `M`. Static.
    """

    BY_COLUMN: ClassVar[tuple[str, ...]] = ("packed",)
    packed: Array
    low: Array
    step: Array
    num_rows: int

    @property
    def num_columns(self) -> int:
        """`P`."""
        return self.packed.shape[0]

    def gather(self, index: Int[Array, "A"]) -> Float[Array, "A M"]:
        """Columns `index [A]`; an index of `P` or more gives a column of zeros."""
        bits = _unpack(self.packed[jnp.minimum(index, self.num_columns - 1)], self.num_rows)
        return jnp.where((index < self.num_columns)[:, None], self.low + self.step * bits.astype(self.low.dtype), 0.0)

    def product(self, rows: Float[Array, "B M"]) -> Float[Array, "B P"]:
        """`rows X`, from a block of columns at a time."""
        scaled, constant = rows * self.step, jnp.matmul(rows, self.low, precision="highest")
        size = min(_BLOCK_COLUMNS, self.num_columns)
        padded = jnp.pad(self.packed, ((0, -self.num_columns % size), (0, 0)))

        def fill(i: Array, result: Array) -> Array:
            packed = jax.lax.dynamic_slice_in_dim(padded, i * size, size)
            block = jnp.matmul(scaled, _unpack(packed, self.num_rows).astype(rows.dtype).T, precision="highest")
            return jax.lax.dynamic_update_slice_in_dim(result, block + constant[:, None], i * size, axis=1)

        result = jnp.zeros((rows.shape[0], padded.shape[0]), rows.dtype)
        filled: Array = jax.lax.fori_loop(0, padded.shape[0] // size, fill, result)
        return filled[:, : self.num_columns]

    def squares(self, weight: Float[Array, "M"]) -> Float[Array, "P"]:
        """`sum_m weight[m] x[m, j]^2` of every column."""
        squared = dataclasses.replace(self, low=self.low**2, step=(self.low + self.step) ** 2 - self.low**2)
        return squared.product(weight[None])[0]

    def rows(self, index: Int[Array, "m"]) -> Float[Array, "P m"]:
        """Rows `index [m]` of all columns."""
        bits = (self.packed[:, index // 8] >> (index % 8).astype(jnp.uint8)) & 1
        return self.low[index] + self.step[index] * bits


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("packed", "low", "step", "parent", "parents"),
    meta_fields=("num_rows",),
)
@dataclasses.dataclass(frozen=True, eq=False)
class NestedColumns(MaskColumns):
    """Membership below a parent as `P` regression columns `x = low * parent's bit + step * bit`.

    They are the sum of two kinds of `MaskColumns`: those of the bits, and those of the `V` parents, which are few.

    Attributes:
      packed: `[P, ceil(M/8)]` the bits of each column; only those whose parent's bit is set can be.
      low: `[M]` code of a source that is out while its parent is in.
      step: `[M]` code of a source that is in, less `low`.
      num_rows: `M`. Static.
      parent: `[P]` the parent of each column.
      parents: `[V, ceil(M/8)]` the bits of the parents.
    """

    BY_COLUMN: ClassVar[tuple[str, ...]] = ("packed", "parent")
    parent: Array
    parents: Array

    def _parts(self) -> tuple[MaskColumns, MaskColumns]:
        zero = jnp.zeros_like(self.low)
        own = MaskColumns(self.packed, zero, self.step, self.num_rows)
        return own, MaskColumns(self.parents, zero, self.low, self.num_rows)

    def gather(self, index: Int[Array, "A"]) -> Float[Array, "A M"]:
        """Columns `index [A]`; an index of `P` or more gives a column of zeros."""
        own, parents = self._parts()
        inside = index < self.num_columns
        parent = jnp.where(inside, self.parent[jnp.where(inside, index, 0)], parents.num_columns)
        return own.gather(index) + parents.gather(parent)

    def product(self, rows: Float[Array, "B M"]) -> Float[Array, "B P"]:
        """`rows X`, from a block of columns at a time."""
        own, parents = self._parts()
        return own.product(rows) + parents.product(rows)[:, self.parent]

    def rows(self, index: Int[Array, "m"]) -> Float[Array, "P m"]:
        """Rows `index [m]` of all columns."""
        own, parents = self._parts()
        return own.rows(index) + parents.rows(index)[self.parent]


def _unpack(packed: UInt8[Array, "*n bytes"], count: int) -> UInt8[Array, "*n count"]:
    bits = (packed[..., None] >> jnp.arange(8, dtype=jnp.uint8)) & 1  # faster than jnp.unpackbits
    return bits.reshape(*packed.shape[:-1], -1)[..., :count]


@functools.partial(jax.jit, static_argnames="num_columns")
def _transpose_bits(packed: UInt8[Array, "M bytes"], num_columns: int) -> UInt8[Array, "columns row_bytes"]:
    """Bits packed row by row -> packed column by column, from a block of columns at a time."""
    num_bytes = packed.shape[1]
    width = min(_BLOCK_COLUMNS // 8, num_bytes)
    padded = jnp.pad(packed, ((0, 0), (0, -num_bytes % width)))

    def of_block(start: Array) -> Array:
        block = jax.lax.dynamic_slice_in_dim(padded, start, width, axis=1)
        return jnp.packbits(_unpack(block, 8 * width).T, axis=1, bitorder="little")

    blocks: Array = jax.lax.map(of_block, jnp.arange(0, num_bytes, width))
    return blocks.reshape(-1, blocks.shape[-1])[:num_columns]


@dataclasses.dataclass(frozen=True)
class Coding:
    """How a design's membership enters the regression (DESIGN.md section 4).

    Attributes:
      low: `[M]` code of a source that is out.
      high: `[M]` code of a source that is in.
      weight: `[M]` row weights.
      second_moment: `[M]` expected square of the code, given the row's `p`.
      scale: AME = `scale` times the regression coefficient.
      z: `[M, D]` unpenalised columns: one indicator per value of `p` if the law has finitely many, else Legendre
        polynomials in `p` up to degree 4. With parents, all products of theirs with these.
    """

    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray
    second_moment: np.ndarray
    scale: float
    z: np.ndarray


def code(design: Design) -> Coding:
    """Return the membership code of `design`, all in float64.

    Sources with parents have the code `x = 1[parent in] (1[in] - r)`, where `r` is their inclusion probability and `p`
    the parents', and row weight `w = 1 / (p r (1-r))`. Given the parents, `p` and `r` its mean is 0; `E[w x^2] = 1`,
    and `E[w x U] = E[m_i(p, r)]`, with `m_i(p, r)` the effect of source `i` given that its parent is in. So the
    coefficient is the mean of that effect over both laws, scale 1.

    References:
      Lin et al., ICML 2022, section 3 ("ame") and its p-featurisation ("centered").
    """
    p = np.asarray(design.p, np.float64)
    if design.parent is not None:
        return _nested_code(p, design.parent.design, design.law.levels is not None)
    if design.coding == "ame":
        low, high = -1 / (1 - p), 1 / p
    else:
        low, high = -p, 1 - p
    return Coding(
        low=low,
        high=high,
        weight=1 / (p * (1 - p)) if design.coding == "weighted" else np.ones_like(p),
        second_moment=p * high**2 + (1 - p) * low**2,
        scale=design.law.variance_scale if design.coding == "ame" else 1.0,
        z=_intercepts(p, design.law.levels is not None),
    )


def _nested_code(r: np.ndarray, parents: Design, finite: bool) -> Coding:
    """Return the code of sources that are in with probability `r [M]` if their parents are."""
    p = np.asarray(parents.p, np.float64)
    above, own = _intercepts(p, parents.law.levels is not None), _intercepts(r, finite)
    z = (above[:, :, None] * own[:, None, :]).reshape(len(r), -1)
    return Coding(
        low=-r,
        high=1 - r,
        weight=1 / (p * r * (1 - r)),
        second_moment=p * r * (1 - r),
        scale=1.0,
        z=z[:, z.any(axis=0)],
    )


def _intercepts(p: np.ndarray, finite: bool) -> np.ndarray:
    levels = np.unique(p)
    if finite:
        indicators: np.ndarray = (p[:, None] == levels).astype(np.float64)
        return indicators
    centred = 2 * (p - levels[0]) / max(levels[-1] - levels[0], np.finfo(float).tiny) - 1
    return np.polynomial.legendre.legvander(centred, _POLYNOMIAL_DEGREE)


def mask_columns(design: Design, coding: Coding, copies: Array | None = None) -> MaskColumns:
    """Return the regression columns of a design and, after them, of its redrawn copies `[c, M, ceil(N/8)]`."""
    rows = [jnp.asarray(design.packed), *(() if copies is None else copies)]
    columns = MaskColumns(
        packed=jnp.concatenate([_transpose_bits(packed, design.num_sources) for packed in rows]),
        low=jnp.asarray(coding.low, jnp.float32),
        step=jnp.asarray(coding.high - coding.low, jnp.float32),
        num_rows=design.num_submodels,
    )
    if design.parent is None:
        return columns
    above = design.parent.design
    return NestedColumns(
        columns.packed,
        columns.low,
        columns.step,
        columns.num_rows,
        parent=jnp.tile(design.parent.index, len(rows)),
        parents=_transpose_bits(above.packed, above.num_sources),
    )


def exact_columns(design: Design, coding: Coding, index: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
    """Return the columns of sources `index [A]` in float64, `[M, A]`, or some rows of them."""
    low, high = coding.low[rows, None], coding.high[rows, None]
    columns = (high - low) * _bits(design, index, rows)
    if design.parent is not None:
        low = low * _bits(design.parent.design, np.asarray(design.parent.index)[index], rows)
    return np.asarray(low + columns)


def _bits(design: Design, index: np.ndarray, rows: slice) -> np.ndarray:
    """Return the membership of sources `index [A]`, 0 or 1, `[m, A]`."""
    return (np.asarray(design.packed)[rows][:, index // 8] >> (index % 8).astype(np.uint8)) & 1


def exact_operator(design: Design, coding: Coding) -> Operator:
    """Return the design `[M, N]` as a float64 operator that forms a block of it at a time."""
    return _operator(functools.partial(exact_columns, design, coding), design.num_submodels, design.num_sources)


def pair_products(design: Design, coding: Coding) -> Operator:
    """Return the products of the codes of both rows of every pair `[floor(M/2), N]`, an operator like the design."""

    def block(index: np.ndarray, pairs: slice) -> np.ndarray:
        x = exact_columns(design, coding, index, slice(2 * pairs.start, 2 * pairs.stop))
        products: np.ndarray = x[0::2] * x[1::2]
        return products

    return _operator(block, design.num_submodels // 2, design.num_sources)


def _operator(block: Callable[[np.ndarray, slice], np.ndarray], num_rows: int, num_sources: int) -> Operator:
    """Return the matrix whose columns `index` in some rows are `block(index, rows)`."""
    rows = [slice(start, min(start + _BLOCK_ROWS, num_rows)) for start in range(0, num_rows, _BLOCK_ROWS)]
    columns = np.split(np.arange(num_sources), range(_BLOCK_COLUMNS, num_sources, _BLOCK_COLUMNS))

    def product(vectors: np.ndarray) -> np.ndarray:
        used = np.flatnonzero((vectors != 0).any(axis=1))
        return np.concatenate([block(used, some) @ vectors[used] for some in rows])

    def transpose_product(vectors: np.ndarray) -> np.ndarray:
        parts = [sum(block(index, some).T @ vectors[some] for some in rows) for index in columns]
        return np.concatenate(parts)

    return scipy.sparse.linalg.LinearOperator(
        (num_rows, num_sources),
        matvec=lambda v: product(v.reshape(-1, 1)),
        rmatvec=lambda v: transpose_product(v.reshape(-1, 1)),
        matmat=product,
        rmatmat=transpose_product,
        dtype=np.float64,
    )
