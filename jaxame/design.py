"""Designs: which sources are in which submodel.

A design holds `M` random subsets of `N` sources, bit-packed, each with the inclusion probability `p` it was drawn with.
The laws `p` comes from are in `jaxame.laws` and can be imported from here.
"""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxame import checks
from jaxame.laws import Beta, Grid, Law, PointMass, TruncatedUniform

__all__ = [
    "Beta",
    "Design",
    "Grid",
    "Law",
    "Parent",
    "PointMass",
    "TruncatedUniform",
    "nest",
    "redraw_masks",
    "sample_design",
]

CODINGS = ("ame", "centered", "weighted")

_MAX_KURTOSIS = 50.0  # E[x^4] / v^2 above which the ame code warns
_P_BLOCK = 1024  # rows of p per compiled call: fixed, so that a row is rounded alike in a design of any length
_BLOCK_ELEMENTS = 2**22  # random words held at a time while masks are drawn
_P_STREAM, _MASK_STREAM, _REDRAW_STREAM = 0, 1, 2**32 - 1


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("p", "packed", "key", "parent"),
    meta_fields=("num_sources", "law", "coding", "paired"),
)
@dataclasses.dataclass(frozen=True, eq=False)
class Design:
    """`M` subsets of `N` sources, bit-packed; a pytree.

    Attributes:
      p: float32 `[M]`, the inclusion probability each row was drawn with.
      packed: uint8 `[M, ceil(N/8)]`, the masks in the layout of `numpy.packbits(axis=1, bitorder="little")`; the
        padding bits are zero.
      key: the typed key the rows were drawn with (row `i` from `fold_in(key, i)`), or None if they came from elsewhere.
      num_sources: `N`. Static.
      law: the target law. Static.
      coding: "ame", "centered" or "weighted"; "centered" rows have `p` from the tilted law. Static.
      paired: rows `2j` and `2j + 1` are an antithetic pair. Static.
      parent: the design of the sources that these belong to, or None. With one, `packed` says which sources are in and
        have their parent in; `p`, `law` and `key` are those of the draw among the sources whose parent is in.
    """

    p: jax.Array
    packed: jax.Array
    key: jax.Array | None
    num_sources: int
    law: Law
    coding: str
    paired: bool = False
    parent: "Parent | None" = None

    @property
    def num_submodels(self) -> int:
        """`M`."""
        return self.packed.shape[0]

    @property
    def units(self) -> np.ndarray:
        """Number of the independent unit each row belongs to, int `[M]`: its pair, or itself."""
        return np.arange(self.num_submodels) // (2 if self.paired else 1)

    @property
    def inclusion(self) -> np.ndarray:
        """Probability that a source is in, float64 `[M]`: `p`, times the parents' where there are parents."""
        own = np.asarray(self.p, np.float64)
        return own if self.parent is None else own * self.parent.design.inclusion

    def masks(self, start: int = 0, stop: int | None = None) -> jax.Array:
        """Unpack rows `start` to `stop` (exclusive; None for `M`).

        Returns:
          bool `[stop-start, N]`, True where the source is in.

        Raises:
          ValueError: unless `0 <= start < stop <= M`.
        """
        stop = self.num_submodels if stop is None else stop
        checks.require(
            0 <= start < stop <= self.num_submodels,
            f"0 <= start < stop <= {self.num_submodels}",
            f"start {start}, stop {stop}",
        )
        rows: jax.Array = _unpack(self.packed, start, stop - start, self.num_sources)
        return rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Parent:
    """What the sources of a nested design belong to; a pytree.

    Attributes:
      design: the same `M` rows over `V` parents.
      index: int32 `[N]`, the parent of each source.
    """

    design: Design
    index: jax.Array

    def gates(self) -> jax.Array:
        """Return whose parent is in, packed uint8 `[M, ceil(N/8)]`."""
        gates: jax.Array = _gates(self.design.packed, self.index, self.design.num_sources)
        return gates


def nest(design: Design, parents: Design, index: np.ndarray) -> Design:
    """Put every source of a design under a parent: it is in where it was drawn and its parent is in.

    Args:
      design: `M` rows over `N` sources, drawn independently of the parents, with coding "weighted".
      parents: `M` rows over `V` parents, with coding "weighted", paired if `design` is.
      index: int `[N]`, the parent of each source.

    Returns:
      The nested design, whose coefficients are the effects of a source given that its parent is in.

    Raises:
      ValueError: for designs that differ in rows or pairing, have another coding or parents themselves, and for an
        index out of range.
    """
    alike = (design.num_submodels, design.paired) == (parents.num_submodels, parents.paired)
    shapes = [(each.num_submodels, each.paired) for each in (design, parents)]
    checks.require(alike, "two designs alike in rows and pairing", shapes)
    codings = design.coding, parents.coding
    checks.require(codings == ("weighted", "weighted"), 'coding "weighted" of both designs', codings)
    checks.require(design.parent is None and parents.parent is None, "designs without parents", "a nested one")
    index = np.asarray(index)
    fits = index.shape == (design.num_sources,) and np.issubdtype(index.dtype, np.integer)
    checks.require(fits, f"index int [{design.num_sources}]", checks.describe(index))
    known = bool(((index >= 0) & (index < parents.num_sources)).all())
    checks.require(known, f"parents from 0 to {parents.num_sources - 1}", f"{index.min()} to {index.max()}")
    parent = Parent(parents, jnp.asarray(index, jnp.int32))
    return dataclasses.replace(design, packed=design.packed & parent.gates(), parent=parent)


def sample_design(
    key: jax.Array, law: Law, *, num_submodels: int, num_sources: int, coding: str = "auto", paired: bool = False
) -> Design:
    """Draw `M` random subsets of `N` sources.

    Row `i` depends on `fold_in(key, i)` only, so a longer design starts with the shorter one bit for bit. Given the
    stored float32 `p`, every source is in with probability `p` to within `2^-32`.

    An antithetic pair decides with `u` and `1 - u` for the same uniform draw `u` per source, which cancels what is even
    in a utility: interactions and saturation, to first order. Each of its rows alone is drawn like any other. If the
    law is symmetric about 1/2 the second row has `1 - p` and is the complement of the first; otherwise they share `p`.

    Args:
      key: one typed threefry key, such as `jax.random.key(0)`.
      law: the target law.
      num_submodels: `M`, at least 2, and at least 3 if paired.
      num_sources: `N`, at least 1.
      coding: how the regression will code membership (DESIGN.md section 4). "ame", the paper's, and "weighted" draw
        `p` from the law, "centered" from the tilted law; "auto" is the law's `preferred_coding`.
      paired: draw rows `2j` and `2j + 1` as an antithetic pair. An odd last row stays by itself.

    Returns:
      The design. It takes `M N / 8` bytes; drawing it needs some tens of megabytes more, whatever its size.

    Raises:
      ValueError: for any other argument. Laws with infinite `v` are refused where they are made.

    Warns:
      UserWarning: for coding "ame" where `E[x^4] / v^2 > 50`: standard errors then are many times those of the others.

    References:
      Lin et al., "Measuring the Effect of Training Data on Deep Learning Predictions via Randomized Experiments", ICML
      2022: the ame code, and its p-featurisation, here "centered". Covert and Lee, AISTATS 2021 (paired sampling).

    Example:
      >>> import jax
      >>> from jaxame.design import Grid, sample_design
      >>> design = sample_design(jax.random.key(0), Grid((0.1, 0.3, 0.5, 0.7, 0.9)), num_submodels=100, num_sources=20)
      >>> design.p.shape, design.masks(0, 100).shape
      ((100,), (100, 20))
      >>> longer = sample_design(jax.random.key(0), Grid((0.1, 0.3, 0.5, 0.7, 0.9)), num_submodels=200, num_sources=20)
      >>> bool((longer.masks(0, 100) == design.masks(0, 100)).all())
      True
    """
    _require_threefry(key)
    _require_law(law)
    num_submodels = checks.count(num_submodels, "num_submodels", 3 if paired else 2)
    num_sources = checks.count(num_sources, "num_sources")
    coding = law.preferred_coding if coding == "auto" else coding
    checks.require(coding in CODINGS, f'coding to be "auto" or one of {CODINGS}', checks.describe(coding))
    v = law.variance_scale
    checks.require(bool(np.isfinite(v)), "a law with finite v = E[1/(p(1-p))]", f"{law}, with v = {v}")
    if coding == "ame":
        _warn_of_heavy_tails(law)
    p, packed = draw_rows(key, law, 0, num_submodels, num_sources=num_sources, coding=coding, paired=paired)
    return Design(p, packed, key, num_sources, law, coding, paired)


def draw_rows(
    key: jax.Array, law: Law, start: int, stop: int, *, num_sources: int, coding: str, paired: bool
) -> tuple[jax.Array, jax.Array]:
    """Draw `p [m]` and the packed masks `[m, ceil(N/8)]` of some rows of what `sample_design` draws.

    Arguments are those of `sample_design`, which checks them; `start` is even if `paired`.
    """
    first = start - start % _P_BLOCK
    blocks = [_draw_p(key, block, law, coding == "centered") for block in range(first, stop, _P_BLOCK)]
    p = jnp.concatenate(blocks)[start - first : stop - first]
    p = _of_pairs(p, law) if paired else p
    return p, _draw_masks(*_row_keys(key, jnp.arange(start, stop), paired), p, num_sources)


def redraw_masks(design: Design, key: jax.Array, num_copies: int) -> jax.Array:
    """Draw the masks of a design again, every row with its own `p`: independent of the design given `p`.

    Pairs are drawn again as pairs. Row `i` of copy `c` depends on `key`, `c`, `i` and `p_i` only. `key` may be the
    design's own: redraws use a stream of their own. Where the sources have parents, these stay as they are: a source
    whose parent is out is out in every copy.

    Args:
      design: `M` rows over `N` sources; only `p`, `num_sources`, `paired` and `parent` are used.
      key: one typed threefry key.
      num_copies: `C`, at least 1.

    Returns:
      uint8 `[C, M, ceil(N/8)]`, packed like `Design.packed`.

    Raises:
      ValueError: for another kind of key or `num_copies`.
    """
    _require_threefry(key)
    num_copies = checks.count(num_copies, "num_copies")
    copy_keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, _REDRAW_STREAM), jnp.arange(num_copies))
    parts = [_row_keys(copy_key, jnp.arange(design.num_submodels), design.paired) for copy_key in copy_keys]
    row_keys, mirrored = (jnp.concatenate(part) for part in zip(*parts, strict=True))
    packed = _draw_masks(row_keys, mirrored, jnp.tile(design.p, num_copies), design.num_sources)
    copies: jax.Array = packed.reshape(num_copies, design.num_submodels, -1)
    return copies if design.parent is None else copies & design.parent.gates()


def _require_threefry(key: Any) -> None:
    """Require a typed key of the one generator whose draws under `vmap` do not depend on the rest of the batch."""
    checks.typed_key(key)
    name = str(jax.random.key_impl(key))
    checks.require(name == "threefry2x32", "a threefry2x32 key, for rows addressed by key and number", name)


def _require_law(law: Any) -> None:
    """Require a law that a design can be drawn from; one of a user's own is seen here for the first time."""
    checks.require(isinstance(law, Law), "a jaxame.design.Law, such as Grid((0.2, 0.4))", checks.describe(law))
    points = law.quadrature()[0]
    inside = bool(np.all((points > 0.0) & (points < 1.0)))
    checks.require(inside, "a law with quadrature points strictly inside (0, 1)", f"{law} with points {points}")


def _warn_of_heavy_tails(law: Law) -> None:
    """Warn the caller of `sample_design` where the ame code is a poor choice."""
    kurtosis = law.fourth_moment / law.variance_scale**2
    if kurtosis > _MAX_KURTOSIS:
        warnings.warn(
            f"the ame code is heavy-tailed under {law}: E[x^4] / v^2 = {kurtosis:.3g} > {_MAX_KURTOSIS:g}; use coding "
            '"weighted" or "centered"',
            UserWarning,
            stacklevel=3,
        )


def _of_pairs(p: jax.Array, law: Law) -> jax.Array:
    """Give the second row of every pair `p` or, under a symmetric law, `1 - p` of the first; float32 `[M]`."""
    row = np.arange(p.size)
    first = p[row - row % 2]
    if not law.symmetric:
        return first
    mirror = 1 - first
    if law.levels is not None:  # the level itself, not what rounding makes of it
        levels = jnp.asarray(law.levels, p.dtype)
        mirror = levels[jnp.abs(levels - mirror[:, None]).argmin(axis=1)]
    return jnp.where(row % 2 == 1, mirror, first)


def _row_keys(key: jax.Array, row: jax.Array, paired: bool) -> tuple[jax.Array, jax.Array]:
    """Return the keys `[m]` of the masks of rows `row [m]`, and whether each mirrors the draw it shares, bool `[m]`."""
    mirrored = (row % 2 == 1) & paired
    return _stream_keys(key, row - mirrored, _MASK_STREAM), mirrored


@functools.partial(jax.jit, static_argnames="stream")
def _stream_keys(key: jax.Array, rows: jax.Array, stream: int) -> jax.Array:
    """Return the keys `[R]` of one stream of the rows numbered `rows [R]`."""
    return jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, row), stream))(rows)


@functools.partial(jax.jit, static_argnames=("law", "tilted"))
def _draw_p(key: jax.Array, start: jax.Array, law: Law, tilted: bool) -> jax.Array:
    """Draw `p` of the rows from `start` on; float32 `[_P_BLOCK]`."""
    keys = _stream_keys(key, start + jnp.arange(_P_BLOCK), _P_STREAM)
    return jax.vmap(lambda k: law.sample(k, tilted=tilted))(keys)


@functools.partial(jax.jit, static_argnames="num_sources")
def _draw_masks(row_keys: jax.Array, mirrored: jax.Array, p: jax.Array, num_sources: int) -> jax.Array:
    """Draw rows of `N` sources, each in with its row's `p [R]`; packed uint8 `[R, ceil(N/8)]`.

    `mirrored [R]` rows decide with `1 - u` where the others do with `u`.
    Integers throughout: a row has the same bits in a batch of any size, and 32 random bits resolve small `p`.
    """

    def draw_row(row: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        row_key, mirror, p_row = row
        threshold = (p_row * 2.0**32).astype(jnp.uint32)
        u = jax.random.bits(row_key, (num_sources,), jnp.uint32)
        return jnp.packbits(jnp.where(mirror, ~u, u) < threshold, bitorder="little")

    rows_at_a_time = max(1, min(p.shape[0], _BLOCK_ELEMENTS // num_sources))
    packed: jax.Array = jax.lax.map(draw_row, (row_keys, mirrored, p), batch_size=rows_at_a_time)
    return packed


@functools.partial(jax.jit, static_argnames="num_parents")
def _gates(packed: jax.Array, index: jax.Array, num_parents: int) -> jax.Array:
    """Return the bits of each source's parent, packed uint8 `[M, ceil(N/8)]`, from those of the parents."""

    def of_row(row: jax.Array) -> jax.Array:
        return jnp.packbits(jnp.unpackbits(row, count=num_parents, bitorder="little")[index], bitorder="little")

    rows_at_a_time = max(1, min(packed.shape[0], _BLOCK_ELEMENTS // index.size))
    gates: jax.Array = jax.lax.map(of_row, packed, batch_size=rows_at_a_time)
    return gates


@functools.partial(jax.jit, static_argnames=("num_rows", "num_sources"))
def _unpack(packed: jax.Array, start: jax.Array, num_rows: int, num_sources: int) -> jax.Array:
    """Return `num_rows` rows from `start` on as bool `[num_rows, N]`."""
    rows = jax.lax.dynamic_slice_in_dim(packed, start, num_rows)
    return jnp.unpackbits(rows, axis=1, count=num_sources, bitorder="little").astype(bool)
