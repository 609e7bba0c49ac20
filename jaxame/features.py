"""Design -> regressors: membership codes with their scale constants, read from the bits as they are needed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, UInt8
from scipy.sparse.linalg import LinearOperator

from jaxame.design import Design

_BLOCK_BYTES = 128
_POLYNOMIAL_DEGREE = 4


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("packed", "low", "step"), meta_fields=("num_sources",)
)
@dataclasses.dataclass(frozen=True, eq=False)
class MaskColumns:
    """`C` stacked masks of `N` sources as `P = C N` regression columns `x = low + step * bit`, never formed as a whole.

    Column `c N + j` belongs to source `j` of mask `c`; mask 0 is the design, the others are its redrawn copies.

    Attributes:
      packed: `[C, M, ceil(N/8)]` bits, as `numpy.packbits(bitorder="little")`.
      low: `[M]` code of a source that is out.
      step: `[M]` code of a source that is in, less `low`.
      num_sources: `N`. Static.
    """

    packed: Array
    low: Array
    step: Array
    num_sources: int

    @property
    def num_columns(self) -> int:
        """`P`."""
        return self.packed.shape[0] * self.num_sources

    def gather(self, index: Int[Array, "A"]) -> Float[Array, "M A"]:
        """Columns `index [A]`; an index of `P` or more gives a column of zeros."""
        used = index < self.num_columns
        copy, source = jnp.divmod(jnp.where(used, index, 0), self.num_sources)
        byte: UInt8[Array, "A M"] = self.packed[copy, :, source // 8]
        bit = (byte >> (source % 8).astype(jnp.uint8)[:, None]) & 1
        return jnp.where(used[None, :], self.low[:, None] + self.step[:, None] * bit.T, 0.0)

    def transpose_product(self, rows: Float[Array, "M B"]) -> Float[Array, "P B"]:
        """`X.T rows`, from a block of bits at a time."""
        num_copies, num_rows, num_bytes = self.packed.shape
        block = min(_BLOCK_BYTES, num_bytes)
        num_blocks = -(-num_bytes // block)
        padded = jnp.pad(self.packed, ((0, 0), (0, 0), (0, num_blocks * block - num_bytes)))
        blocks = padded.reshape(num_copies, num_rows, num_blocks, block).transpose(0, 2, 1, 3)
        scaled = self.step[:, None] * rows

        def product(packed: UInt8[Array, "M bytes"]) -> Float[Array, "columns B"]:
            return jnp.unpackbits(packed, axis=1, bitorder="little").astype(rows.dtype).T @ scaled

        in_blocks = jax.lax.map(product, blocks.reshape(-1, num_rows, block))
        by_copy = in_blocks.reshape(num_copies, -1, rows.shape[1])[:, : self.num_sources]
        return by_copy.reshape(-1, rows.shape[1]) + self.low @ rows


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
        polynomials in `p` up to degree 4.
    """

    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray
    second_moment: np.ndarray
    scale: float
    z: np.ndarray


def code(design: Design) -> Coding:
    """Return the membership code of `design`, all in float64.

    References:
      Lin et al., ICML 2022, section 3 ("ame") and its p-featurisation ("centered").
    """
    p = np.asarray(design.p, np.float64)
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


def _intercepts(p: np.ndarray, finite: bool) -> np.ndarray:
    levels = np.unique(p)
    if finite:
        return (p[:, None] == levels).astype(np.float64)
    centred = 2 * (p - levels[0]) / max(levels[-1] - levels[0], np.finfo(float).tiny) - 1
    return np.polynomial.legendre.legvander(centred, _POLYNOMIAL_DEGREE)


def mask_columns(design: Design, coding: Coding, copies: Array | None = None) -> MaskColumns:
    """Return the regression columns of a design and, after them, of its redrawn copies `[c, M, ceil(N/8)]`."""
    packed = jnp.asarray(design.packed)[None]
    return MaskColumns(
        packed=packed if copies is None else jnp.concatenate([packed, copies]),
        low=jnp.asarray(coding.low, jnp.float32),
        step=jnp.asarray(coding.high - coding.low, jnp.float32),
        num_sources=design.num_sources,
    )


def exact_columns(design: Design, coding: Coding, index: np.ndarray) -> np.ndarray:
    """Return the columns of sources `index [A]` in float64, `[M, A]`."""
    bit = (np.asarray(design.packed)[:, index // 8] >> (index % 8).astype(np.uint8)) & 1
    return coding.low[:, None] + (coding.high - coding.low)[:, None] * bit


def exact_operator(design: Design, coding: Coding) -> LinearOperator:
    """Return the design `[M, N]` as a float64 operator that forms a block of columns at a time."""
    num_rows, num_sources = design.num_submodels, design.num_sources
    width = 8 * _BLOCK_BYTES
    blocks = [np.arange(start, min(start + width, num_sources)) for start in range(0, num_sources, width)]

    def product(vectors: np.ndarray) -> np.ndarray:
        used = np.flatnonzero((vectors != 0).any(axis=1))
        return exact_columns(design, coding, used) @ vectors[used]

    def transpose_product(vectors: np.ndarray) -> np.ndarray:
        return np.concatenate([exact_columns(design, coding, block).T @ vectors for block in blocks])

    return LinearOperator(
        (num_rows, num_sources),
        matvec=lambda v: product(v.reshape(-1, 1)),
        rmatvec=lambda v: transpose_product(v.reshape(-1, 1)),
        matmat=product,
        rmatmat=transpose_product,
        dtype=np.float64,
    )
