r"""The family of LASSO problems that is solved as one batch.

For query `q` and fold `f`, with training weights `w_i` (zero where row `i` is left out for `q` or held out by `f`) that
sum to 1, over `b` in `R^P` and `g` in `R^D`,

    minimise  sum_i w_i (y_i - z_i g - x_i b)^2 / 2  +  lam_q sum_j c_qj (l |b_j| + (1 - l) b_j^2 / 2).             (1)

`g` is unpenalised and eliminated: every residual below is orthogonal to `Z` in the training weights. `c` are penalty
factors and `l` mixes LASSO (1) and ridge; `b >= 0` may be asked for.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

_RESOLUTION = {"float32": 1e-7, "float64": 1e-14}


@runtime_checkable
class Columns(Protocol):
    """What the solver asks of a design of `M` rows and `P` columns; a registered pytree."""

    BY_COLUMN: ClassVar[tuple[str, ...]]  # names of the arrays whose first axis is that of the columns

    @property
    def num_columns(self) -> int:
        """`P`."""

    def gather(self, index: Array) -> Array:
        """Columns `index [A]` as `[A, M]`; an index of `P` or more gives zeros."""

    def product(self, rows: Array) -> Array:
        """`rows X`, `[B, P]` from `[B, M]`."""

    def squares(self, weight: Array) -> Array:
        """`sum_m weight[m] x[m, j]^2` of every column, `[P]` from `[M]`."""

    def rows(self, index: Array) -> Array:
        """Rows `index [m]` of all columns, `[P, m]`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DenseColumns:
    """A design held as one matrix, column by column: `x [P, M]`."""

    BY_COLUMN: ClassVar[tuple[str, ...]] = ("x",)
    x: Array

    @property
    def num_columns(self) -> int:
        """`P`."""
        return self.x.shape[0]

    def gather(self, index: Array) -> Array:
        """Columns `index [A]` as `[A, M]`; an index of `P` or more gives zeros."""
        return jnp.take(self.x, index, axis=0, mode="fill", fill_value=0.0)

    def product(self, rows: Array) -> Array:
        """`rows X`, `[B, P]` from `[B, M]`."""
        return rows @ self.x.T

    def squares(self, weight: Array) -> Array:
        """`sum_m weight[m] x[m, j]^2` of every column, `[P]` from `[M]`."""
        return self.x**2 @ weight

    def rows(self, index: Array) -> Array:
        """Rows `index [m]` of all columns, `[P, m]`."""
        return self.x[:, index]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Penalty:
    """The penalty of (1) but for `lam`.

    Attributes:
      factor: `[1, P]`, or `[Q, P]` if queries differ: penalty factors `c`, positive; infinite keeps a column out.
      l1_ratio: `[]` the mixture `l`, in (0, 1].
      least: `[]` smallest value of a coefficient: minus infinity, or 0 for non-negative ones.
    """

    factor: Array
    l1_ratio: Array
    least: Array

    def of_query(self, number: Array) -> Float[Array, "P"]:
        """Penalty factors of one query."""
        return self.factor[number if self.factor.shape[0] > 1 else 0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Problems (1) of `Q` queries and `F` folds, plus the fit on all rows as problem number `F`.

    Attributes:
      columns: the design `X`, `M` rows and `P` columns.
      penalty: what is minimised besides the loss.
      y: `[Q, M]` targets less their best fit by `Z`, scaled to unit weighted variance; zero where `weight` is zero.
      weight: `[Q, M]` row weights, zero for a row left out of this query.
      z: `[M, D]` unpenalised columns.
      fold: `[M]` the fold that holds a row out, -1 for none.
      z_inverse: `[Q, F+1, D, D]` pseudo-inverse of `Z'WZ` on the training rows.
      unit: `[Q]` what `y` was divided by, in the unit of the utility.
    """

    columns: Columns
    penalty: Penalty
    y: Array
    weight: Array
    z: Array
    fold: Array
    z_inverse: Array
    unit: Array

    @property
    def num_folds(self) -> int:
        """`F`; 0 means that there is only the fit on all rows."""
        return self.z_inverse.shape[1] - 1

    @contextlib.contextmanager
    def numerics(self) -> Iterator[None]:
        """Let this thread use numbers of this kind, whole: accelerators round factors of products by default."""
        with jax.enable_x64(self.y.dtype == np.float64), jax.default_matmul_precision("highest"):
            yield

    def training_weight(self) -> Float[Array, "Q F1 M"]:
        """Weight of every row in every problem, summing to 1 over the rows."""
        held_out = self.fold == jnp.arange(self.num_folds + 1)[:, None]
        weight = jnp.where(held_out, 0.0, self.weight[:, None])
        total = weight.sum(axis=2, keepdims=True)
        return weight / jnp.where(total > 0, total, 1.0)

    def held_out_weight(self) -> Float[Array, "Q F M"]:
        """Weight of every row in the error of the fold that holds it out, summing to 1 over the rows."""
        held_out = self.fold == jnp.arange(self.num_folds)[:, None]
        weight = jnp.where(held_out, self.weight[:, None], 0.0)
        total = weight.sum(axis=2, keepdims=True)
        return weight / jnp.where(total > 0, total, 1.0)


def assign_folds(key: Array, num_rows: int, num_folds: int, unit: np.ndarray | None = None) -> Array:
    """Assign each row to one of `num_folds` folds of nearly equal size, `[M]`, the same for every query.

    Args:
      key: one typed key.
      num_rows: `M`.
      num_folds: `F`.
      unit: int `[M]`, rows of one unit (such as antithetic pairs) go to the same fold; by default every row is one.
    """
    if unit is None:
        return jax.random.permutation(key, jnp.arange(num_rows, dtype=jnp.int32) % num_folds)
    units, own = np.unique(unit, return_inverse=True)
    return assign_folds(key, units.size, num_folds)[own]


def _standardise(y: np.ndarray, w: np.ndarray, z: np.ndarray, resolution: float) -> tuple[np.ndarray, np.ndarray]:
    """Take off the best fit of `Z` and scale to unit variance: `[Q, M]` targets and the `[Q]` scales."""
    gram = np.einsum("md,qm,me->qde", z, w, z, optimize=True)
    moments = np.einsum("md,qm->qd", z, w * y)
    residual = y - np.einsum("md,qde,qe->qm", z, np.linalg.pinv(gram, hermitian=True), moments, optimize=True)
    spread = np.sqrt((w * residual**2).sum(axis=1))
    # What the input's own precision leaves of a target that Z explains is rounding, not signal.
    unit = np.where(spread > resolution * np.sqrt((w * y**2).sum(axis=1)), spread, 0.0)
    return np.where((w > 0) & (unit > 0)[:, None], residual / np.where(unit > 0, unit, 1.0)[:, None], 0.0), unit


def make_problem(
    columns: Columns,
    targets: np.ndarray,
    weight: np.ndarray,
    z: np.ndarray,
    fold: np.ndarray | None,
    *,
    factor: np.ndarray | None = None,
    l1_ratio: float = 1.0,
    positive: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Problem:
    """Standardise the targets and eliminate the unpenalised columns.

    Args:
      columns: the design, `M` rows.
      targets: `[M, Q]` float64, any unit; non-finite entries are left out of their query.
      weight: `[M]` row weights, none negative, or `[M, Q]` for every query its own.
      z: `[M, D]` unpenalised columns.
      fold: `[M]` fold of each row, or None for no cross-validation.
      factor: `[P]`, or `[Q, P]` for every query its own: positive penalty factors, used as they are; default 1. An
        infinite one keeps its column out.
      l1_ratio: share of the L1 part in the penalty, in (0, 1].
      positive: no coefficient may be negative.
      dtype: of the solver. float64 needs `jax.enable_x64`.

    Returns:
      A `Problem`; the standardisation is done in float64.
    """
    finite = np.isfinite(targets).T
    w = np.where(finite, np.asarray(weight, np.float64).T, 0.0)
    w = w / w.sum(axis=1, keepdims=True)
    y, unit = _standardise(np.where(finite, targets.T, 0.0), w, z, _RESOLUTION[np.dtype(dtype).name])
    rows = np.full(targets.shape[0], -1) if fold is None else np.asarray(fold)
    held_out = rows[None, :] == np.arange(int(rows.max()) + 2)[:, None]
    training = np.where(held_out[None], 0.0, w[:, None, :])
    training /= training.sum(axis=2, keepdims=True)
    z_inverse = np.linalg.pinv(np.einsum("md,qfm,me->qfde", z, training, z, optimize=True), hermitian=True)
    return Problem(
        columns=columns,
        penalty=Penalty(
            factor=jnp.atleast_2d(jnp.asarray(np.ones(columns.num_columns) if factor is None else factor, dtype)),
            l1_ratio=jnp.asarray(l1_ratio, dtype),
            least=jnp.asarray(0.0 if positive else -jnp.inf, dtype),
        ),
        y=jnp.asarray(y, dtype),
        weight=jnp.asarray(w, dtype),
        z=jnp.asarray(z, dtype),
        fold=jnp.asarray(rows, jnp.int32),
        z_inverse=jnp.asarray(z_inverse, dtype),
        unit=jnp.asarray(unit, dtype),
    )
