r"""The family of LASSO problems that is solved as one batch.

For query `q` and fold `f`, with training weights `w_i` (zero where row `i` is left out for `q` or held out by `f`),
over `b` in `R^P` and `g` in `R^D`,

    minimise  sum_i w_i (y_i - z_i g - x_i b)^2 / (2 sum_i w_i)  +  lam_q ||b||_1.                  (1)

`g` is unpenalised and eliminated: with `Z'W` the weighted transpose, every residual below is orthogonal to `Z`.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

_RESOLUTION = 1e-7


@runtime_checkable
class Columns(Protocol):
    """What the solver asks of a design of `M` rows and `P` columns; a registered pytree."""

    @property
    def num_columns(self) -> int:
        """`P`."""

    def gather(self, index: Array) -> Array:
        """Columns `index [A]` as `[M, A]`; an index of `P` or more gives a column of zeros."""

    def transpose_product(self, rows: Array) -> Array:
        """`X.T rows`, `[P, B]` from `[M, B]`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DenseColumns:
    """A design held as one matrix `x [M, P]`."""

    x: Array

    @property
    def num_columns(self) -> int:
        """`P`."""
        return self.x.shape[1]

    def gather(self, index: Array) -> Array:
        """Columns `index [A]` as `[M, A]`; an index of `P` or more gives a column of zeros."""
        return jnp.take(self.x, index, axis=1, mode="fill", fill_value=0.0)

    def transpose_product(self, rows: Array) -> Array:
        """`X.T rows`, `[P, B]` from `[M, B]`."""
        return self.x.T @ rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Problems (1) of `Q` queries and `F` folds, plus the fit on all rows as problem number `F`.

    Attributes:
      columns: the design `X`, `M` rows and `P` columns.
      y: `[Q, M]` targets less their best fit by `Z`, scaled to unit weighted variance; zero where `weight` is zero.
      weight: `[Q, M]` row weights, zero for a row left out of this query.
      z: `[M, D]` unpenalised columns.
      blocks: `[max(F, 1), R]` the rows of each fold, padded with `M`.
      z_inverse: `[Q, F+1, D, D]` pseudo-inverse of `Z'WZ` on the training rows.
      unit: `[Q]` what `y` was divided by, in the unit of the utility.
    """

    columns: Columns
    y: Array
    weight: Array
    z: Array
    blocks: Array
    z_inverse: Array
    unit: Array

    @property
    def num_folds(self) -> int:
        """`F`; 0 means that there is only the fit on all rows."""
        return self.z_inverse.shape[1] - 1

    def in_blocks(self, rows: Float[Array, "M *n"]) -> Float[Array, "F R *n"]:
        """Rows fold by fold, with zeros in the padding."""
        return jnp.take(rows, self.blocks, axis=0, mode="fill", fill_value=0.0)

    def from_blocks(self, values: Float[Array, "*n F R"]) -> Float[Array, "*n M"]:
        """Undo `in_blocks`, on the last two axes."""
        flat = values.reshape(*values.shape[:-2], -1)
        position = jnp.zeros(self.y.shape[1], jnp.int32)
        position = position.at[self.blocks.reshape(-1)].set(jnp.arange(flat.shape[-1]), mode="drop")
        return jnp.take(flat, position, axis=-1)

    def training_weight(self) -> Float[Array, "Q F1 F R"]:
        """Weight of every row in every problem, fold by fold: problem `f` holds out fold `f`, problem `F` none."""
        weight = self.in_blocks(self.weight.T).transpose(2, 0, 1)
        held_out = jnp.arange(self.num_folds + 1)[:, None] == jnp.arange(self.blocks.shape[0])
        return jnp.where(held_out[None, :, :, None] & (self.num_folds > 0), 0.0, weight[:, None])


def assign_folds(key: Array, num_rows: int, num_folds: int) -> Array:
    """Assign each row to one of `num_folds` folds of nearly equal size, `[M]`, the same for every query."""
    return jax.random.permutation(key, jnp.arange(num_rows, dtype=jnp.int32) % num_folds)


def _blocks(fold: np.ndarray) -> np.ndarray:
    """Row numbers fold by fold, `[max(F, 1), R]`, padded with `M`."""
    members = [np.flatnonzero(fold == f) for f in np.unique(fold)]
    padded = np.full((len(members), max(rows.size for rows in members)), fold.size, np.int32)
    for row, own in zip(padded, members, strict=True):
        row[: own.size] = own
    return padded


def _standardise(y: np.ndarray, w: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take off the best fit of `Z` and scale to unit variance: `[Q, M]` targets and the `[Q]` scales."""
    gram = np.einsum("md,qm,me->qde", z, w, z, optimize=True)
    moments = np.einsum("md,qm->qd", z, w * y)
    residual = y - np.einsum("md,qde,qe->qm", z, np.linalg.pinv(gram, hermitian=True), moments)
    spread = np.sqrt((w * residual**2).sum(axis=1))
    # What float32 input leaves of a target that Z explains is rounding, not signal.
    unit = np.where(spread > _RESOLUTION * np.sqrt((w * y**2).sum(axis=1)), spread, 0.0)
    return np.where((w > 0) & (unit > 0)[:, None], residual / np.where(unit > 0, unit, 1.0)[:, None], 0.0), unit


def make_problem(
    columns: Columns, targets: np.ndarray, weight: np.ndarray, z: np.ndarray, fold: np.ndarray | None
) -> Problem:
    """Standardise the targets, lay the folds out and eliminate the unpenalised columns.

    Args:
      columns: the design, `M` rows.
      targets: `[M, Q]` float64, any unit; non-finite entries are left out of their query.
      weight: `[M]` positive row weights.
      z: `[M, D]` unpenalised columns; they must span the constant.
      fold: `[M]` fold of each row, or None for no cross-validation.

    Returns:
      A `Problem` in float32; the standardisation is done in float64.
    """
    finite = np.isfinite(targets).T
    w = np.where(finite, np.asarray(weight, np.float64), 0.0)
    w = w / w.sum(axis=1, keepdims=True)
    y, unit = _standardise(np.where(finite, targets.T, 0.0), w, z)
    rows = np.full(targets.shape[0], -1) if fold is None else np.asarray(fold)
    num_folds = int(rows.max()) + 1
    held_out = rows[None, :] == np.arange(num_folds + 1)[:, None]
    training = np.where(held_out[None], 0.0, w[:, None, :])
    z_inverse = np.linalg.pinv(np.einsum("md,qfm,me->qfde", z, training, z, optimize=True), hermitian=True)
    return Problem(
        columns=columns,
        y=jnp.asarray(y, jnp.float32),
        weight=jnp.asarray(w, jnp.float32),
        z=jnp.asarray(z, jnp.float32),
        blocks=jnp.asarray(_blocks(rows)),
        z_inverse=jnp.asarray(z_inverse, jnp.float32),
        unit=jnp.asarray(unit, jnp.float32),
    )
