r"""The problem as plain arrays, and its dense form without row weights and unpenalised columns.

With `X~`, `y~` the training rows times `sqrt(n w / sum w)`, less their best fit by the equally scaled `Z`, the problem
of `jaxame.lasso` is

    minimise  ||y~ - X~ b||^2 / (2 n)  +  lam ||b||_1,                  (1)

the form of most solvers. A held-out row is predicted with the coefficients of `Z` that go with `b`.
"""

import dataclasses
from pathlib import Path

import numpy as np
from scipy import sparse

_BLOCK = 2048  # columns at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A design of `M` rows and `P = C N` columns, `Q` targets, `F` folds and `L` penalties.

    Attributes:
      packed: uint8 `[C, M, ceil(N/8)]`, bits in the layout of `numpy.packbits(bitorder="little")`.
      num_sources: `N`.
      low: `[M]` code of a source that is out.
      step: `[M]` code of a source that is in, less `low`.
      weight: `[M]` row weights.
      z: `[M, D]` unpenalised columns.
      targets: `[M, Q]`.
      fold: `[M]`, from 0.
      penalties: `[Q, L]`, falling.
      full_path: whether early ending is off.
    """

    packed: np.ndarray
    num_sources: int
    low: np.ndarray
    step: np.ndarray
    weight: np.ndarray
    z: np.ndarray
    targets: np.ndarray
    fold: np.ndarray
    penalties: np.ndarray
    full_path: bool

    @property
    def num_columns(self) -> int:
        """`P`."""
        return self.packed.shape[0] * self.num_sources

    @property
    def num_folds(self) -> int:
        """`F`; as the number of a fold it means that no row is held out."""
        return int(self.fold.max()) + 1

    def columns(self, block: slice) -> np.ndarray:
        """Return a block of the design's columns, float64 `[M, block]`."""
        copy, source = np.divmod(np.arange(self.num_columns)[block], self.num_sources)
        byte = self.packed[copy, :, source // 8]  # [block, M]
        bit = (byte >> (source % 8).astype(np.uint8)[:, None]) & 1
        return self.low[:, None] + self.step[:, None] * bit.T

    def blocks(self) -> list[slice]:
        """Return slices that cover the columns."""
        return [slice(start, min(start + _BLOCK, self.num_columns)) for start in range(0, self.num_columns, _BLOCK)]

    def save(self, path: Path) -> None:
        """Write all fields to a file that `load` reads."""
        np.savez(path, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


def load(path: Path) -> Task:
    """Read what `Task.save` wrote."""
    with np.load(path) as arrays:
        fields = {name: arrays[name] for name in arrays.files}
    return Task(**fields | {name: fields[name].item() for name in ("num_sources", "full_path")})


@dataclasses.dataclass(frozen=True, eq=False)
class Elimination:
    """How `Z` is taken off columns, given the rows that are trained on.

    Attributes:
      root: `[M]` root of the weights, which sum to 1; zero where a row is held out.
      span: `[M, d]` orthonormal basis of `root Z`.
      solve: `[D, d]` from the components of a column along `span` to its coefficients of `Z`.
    """

    root: np.ndarray
    span: np.ndarray
    solve: np.ndarray

    def residual(self, columns: np.ndarray) -> np.ndarray:
        """Return weighted columns `[M, ...]` less their best fit by the weighted `Z`."""
        return columns - self.span @ (self.span.T @ columns)


def eliminate(task: Task, fold: int) -> Elimination:
    """Return the elimination of `Z` on the training rows of a fold."""
    weight = np.where(task.fold != fold, task.weight, 0.0)
    root = np.sqrt(weight / weight.sum())
    basis = np.linalg.svd(root[:, None] * task.z, full_matrices=False)
    kept = 1e-10 * basis.S[0] < basis.S
    return Elimination(root, basis.U[:, kept], basis.Vh[kept].T / basis.S[kept])


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Problem (1) of one fold for `K` of the queries.

    Attributes:
      x: `[n, P]` training rows, Fortran order.
      y: `[n, K]`.
      held_x: `[m, P]` held-out rows less what `Z` predicts of them.
      held_y: `[m, K]` likewise.
      held_weight: `[m]` their weights.
    """

    x: np.ndarray
    y: np.ndarray
    held_x: np.ndarray
    held_y: np.ndarray
    held_weight: np.ndarray


def split(task: Task, fold: int, queries: list[int], dtype: str = "float64") -> Split:
    """Return problem (1) of one fold; fold `F` has no held-out rows.

    Args:
      task: the problem.
      fold: which one.
      queries: which of the targets.
      dtype: of the result; computed in float64.
    """
    training, without = task.fold != fold, eliminate(task, fold)
    scale = np.sqrt(training.sum())

    def parts(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weighted = without.root[:, None] * columns
        explained = task.z[~training] @ (without.solve @ (without.span.T @ weighted))
        return scale * without.residual(weighted)[training], columns[~training] - explained

    x = np.empty((training.sum(), task.num_columns), dtype, order="F")
    held_x = np.empty(((~training).sum(), task.num_columns), dtype, order="F")
    for block in task.blocks():
        x[:, block], held_x[:, block] = parts(task.columns(block))
    y, held_y = (part.astype(dtype) for part in parts(task.targets[:, queries]))
    return Split(x, y, held_x, held_y, task.weight[~training])


@dataclasses.dataclass(frozen=True, eq=False)
class Fits:
    """Coefficients on all rows, of `K` queries.

    Attributes:
      coef: sparse `[K L, P]`, the coefficients of query `k` at penalty `l` in row `k L + l`.
      penalty: `[K, L]` what they were fitted with; NaN where there is no fit.
    """

    coef: sparse.csr_matrix
    penalty: np.ndarray


def relative_gaps(task: Task, queries: list[int], fits: Fits, fold: int | None = None) -> np.ndarray:
    """Return (primal - dual) / primal at zero of every fit, `[K, L]`, in float64; NaN where there is none.

    It is what `jaxame.lasso.certify` returns, for all fits at once and without forming the design.

    Args:
      task: the problem.
      queries: which of the targets the fits are of.
      fits: the coefficients.
      fold: the fits are of this fold's training rows; by default of all rows.
    """
    without = eliminate(task, task.num_folds if fold is None else fold)
    rows = np.flatnonzero(np.isfinite(fits.penalty))
    coef, penalty = fits.coef[rows], fits.penalty.reshape(-1)[rows]
    target = without.residual(without.root[:, None] * task.targets[:, queries])[:, rows // fits.penalty.shape[1]]
    fitted = np.zeros_like(target)
    by_column = coef.tocsc()
    for block in task.blocks():
        fitted += task.columns(block) @ by_column[:, block].toarray().T
    residual = target - without.residual(without.root[:, None] * fitted)
    weighted = without.root[:, None] * residual
    steepest = np.max([np.abs(task.columns(block).T @ weighted).max(axis=0) for block in task.blocks()], axis=0)
    dual_point = residual * np.minimum(1.0, penalty / np.maximum(steepest, np.finfo(float).tiny))
    primal = (residual**2).sum(axis=0) / 2 + penalty * np.asarray(abs(coef).sum(axis=1)).reshape(-1)
    dual = (target * dual_point).sum(axis=0) - (dual_point**2).sum(axis=0) / 2
    gaps = np.full(fits.penalty.size, np.nan)
    gaps[rows] = (primal - dual) / ((target**2).sum(axis=0) / 2)
    return gaps.reshape(fits.penalty.shape)


def add_errors(held_out: np.ndarray, part: Split, k: int, coef: np.ndarray | sparse.csc_matrix) -> None:
    """Add one query's weighted squared errors on a fold's held-out rows, in place.

    Args:
      held_out: `[K, L]`; row `k` becomes NaN where its path had ended.
      part: the fold.
      k: number of the query among those of the fold.
      coef: `[P, L']`.
    """
    residual = (part.held_y[:, k, None] - part.held_x @ coef).astype(np.float64)
    held_out[k, : coef.shape[1]] += part.held_weight @ residual**2
    held_out[k, coef.shape[1] :] = np.nan
