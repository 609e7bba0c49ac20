"""Choosing the penalty by K-fold cross-validation, all queries and folds in one batch."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from jaxame.lasso import admm
from jaxame.lasso.batches import QUERIES_AT_ONCE, Report, column_counts, in_batches
from jaxame.lasso.condense import condense
from jaxame.lasso.path import CURVE_TOLERANCE, TOLERANCE, PathStep, Tolerance, solve_near, walk_path
from jaxame.lasso.problem import Problem
from jaxame.types import Progress, silent


@dataclasses.dataclass(frozen=True, eq=False)
class CrossValidation:
    """The cross-validated path of every query.

    Attributes:
      penalty: `[L, Q]` in the unit of the target; NaN after a query's path ended.
      error_mean: `[L, Q]` held-out mean squared error, in the squared unit of the target.
      error_se: `[L, Q]` its standard error over the folds.
      at_min: `[Q]` position of the smallest error (`lambda_min`).
      at_1se: `[Q]` first position within one standard error of it (`lambda_1se`).
      path: for each of the `Q` queries a sparse array `[L, P]`, the coefficients of every fit on all rows, unit of the
        target; zeros after the path ended.
      fold_paths: for each of the `Q` queries `F` such arrays, the fits on each fold's training rows; empty unless they
        were to be kept.
      coef_min: `[Q, P]` coefficients of the fit on all rows at `lambda_min`, unit of the target.
      coef_1se: `[Q, P]` the same at `lambda_1se`.
      converged: `[Q]` every penalty up to `lambda_min` met the tolerance in every fold.
    """

    penalty: np.ndarray
    error_mean: np.ndarray
    error_se: np.ndarray
    at_min: np.ndarray
    at_1se: np.ndarray
    path: tuple["scipy.sparse.csr_array", ...]
    fold_paths: tuple[tuple["scipy.sparse.csr_array", ...], ...]
    coef_min: np.ndarray
    coef_1se: np.ndarray
    converged: np.ndarray


_Sparse: TypeAlias = tuple[np.ndarray, np.ndarray]
_PER_PENALTY = ("penalty", "error_mean", "error_se")
_PER_QUERY = ("at_min", "at_1se", "coef_min", "coef_1se", "converged")
_PATHS = ("path", "fold_paths")


def _used(index: np.ndarray, coef: np.ndarray) -> _Sparse:
    """The coefficients that are not zero, after their columns."""
    return index[coef != 0], coef[coef != 0].astype(np.float64)


def _fold_share(problem: Problem) -> np.ndarray:
    """Share of each query's weight that each fold holds out, `[Q, F]`."""
    fold = np.asarray(problem.fold)
    held = np.asarray(problem.weight, np.float64) @ (fold[:, None] == np.arange(problem.num_folds))
    return held / held.sum(axis=1, keepdims=True)


def _curve(errors: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean over folds and its standard error, `[Q]` each."""
    mean = (share * errors).sum(axis=1)
    spread = (share * (errors - mean[:, None]) ** 2).sum(axis=1)
    return mean, np.sqrt(spread / (errors.shape[1] - 1))


class _Recorder:
    """Keeps the curve and the coefficients, and ends a query once its curve is clearly past its minimum."""

    def __init__(self, problem: Problem, num_penalties: int, early_end: bool, keep_folds: bool, report: Report):
        self.share = _fold_share(problem)
        self.early_end = early_end
        self.num_kept = problem.num_folds if keep_folds else 0
        self.num_penalties = num_penalties
        self.num_columns = problem.columns.num_columns
        self.report, self.counted = report, np.asarray(problem.unit) > 0
        shape = (num_penalties, self.share.shape[0])
        self.penalty, self.mean, self.se = (np.full(shape, np.nan) for _ in range(3))
        self.converged = np.ones(shape, bool)
        self.errors: list[np.ndarray] = []
        self.steps: list[list[list[_Sparse]]] = []
        self.active = np.ones(shape[1], bool)

    def __call__(self, step: PathStep) -> np.ndarray:
        mean, se = _curve(step.errors, self.share)
        row, on = step.number, self.active
        self.penalty[row, on], self.mean[row, on], self.se[row, on] = step.penalty[on], mean[on], se[on]
        self.converged[row, on] = step.converged[on]
        folds = step.fold_coef[:, : self.num_kept]
        self.steps.append(
            [
                [_used(index, coef) for coef in [*of_folds, of_all]]
                for index, of_folds, of_all in zip(step.index, folds, step.coef, strict=True)
            ]
        )
        self.errors.append(step.errors)
        if self.early_end:
            self.active = on & ~self._past_minimum()
        sizes = np.array([fits[-1][0].size for fits in self.steps[-1]])
        self.report(row + 1, **column_counts(sizes, on & self.counted))
        return self.active

    def _past_minimum(self) -> np.ndarray:
        """Which curves are clearly past their minimum, `[Q]`.

        That is, half a standard error above it, and two standard errors of the difference, which is smaller as the
        folds are the same.
        """
        queries = np.arange(self.active.size)
        best = np.nanargmin(self.mean[: len(self.errors)], axis=0)
        lowest = np.stack(self.errors)[best, queries]
        rise, rise_se = _curve(self.errors[-1] - lowest, self.share)
        return (rise > 0.5 * self.se[best, queries]) & (rise > 2 * rise_se)

    def result(self, unit: np.ndarray) -> CrossValidation:
        """Choose the penalties of each query; `unit [Q]` is that of its target."""
        at_min = np.nanargmin(self.mean, axis=0)
        queries = np.arange(at_min.size)
        within = self.mean <= (self.mean + self.se)[at_min, queries]
        at_1se = within.argmax(axis=0)
        paths = [[self._path(q, k) * u for k in range(self.num_kept + 1)] for q, u in enumerate(unit)]
        path = tuple(fits[-1] for fits in paths)
        steps = np.arange(self.num_penalties)[:, None]
        return CrossValidation(
            penalty=self.penalty * unit,
            error_mean=self.mean * unit**2,
            error_se=self.se * unit**2,
            at_min=at_min,
            at_1se=at_1se,
            path=path,
            fold_paths=tuple(tuple(fits[:-1]) for fits in paths) if self.num_kept else (),
            coef_min=np.stack([fits[[at]].toarray()[0] for fits, at in zip(path, at_min, strict=True)]),
            coef_1se=np.stack([fits[[at]].toarray()[0] for fits, at in zip(path, at_1se, strict=True)]),
            converged=(self.converged | (steps > at_min)).all(axis=0),
        )

    def _path(self, query: int, k: int) -> "scipy.sparse.csr_array":
        """Coefficients of the `k`-th kept problem at every penalty, `[L, P]`, unit of the standardised target."""
        going = np.isfinite(self.penalty[:, query])
        fitted = [fits[query][k] for fits, on in zip(self.steps, going, strict=False) if on]
        pointer = np.cumsum([0] + [index.size for index, _ in fitted])
        pointer = np.pad(pointer, (0, self.num_penalties + 1 - pointer.size), mode="edge")
        index, coef = (np.concatenate([fit[part] for fit in fitted]) for part in (0, 1))
        return scipy.sparse.csr_array((coef, index, pointer), shape=(self.num_penalties, self.num_columns))


_Solve: TypeAlias = Callable[[Problem, np.ndarray, Report], CrossValidation]


def cross_validate(
    problem: Problem,
    *,
    num_penalties: int = 100,
    min_ratio: float = 0.01,
    penalties: np.ndarray | None = None,
    tolerance: Tolerance = CURVE_TOLERANCE,
    early_end: bool = True,
    keep_folds: bool = False,
    devices: Sequence[jax.Device] | None = None,
    progress: Progress = silent,
) -> CrossValidation:
    """Fit the path of every query on all its rows and on every fold's training rows, and choose penalties.

    Args:
      problem: problems with `F >= 2` folds.
      num_penalties: `L`.
      min_ratio: last over first penalty.
      penalties: `[L]` falling penalties to use instead for all queries, in the unit of the target.
      tolerance: when a fit of the path is accepted; those at the chosen penalties are fitted again, more closely.
      early_end: stop a query's path once its curve is clearly past its minimum, by more than chance between folds.
      keep_folds: return the fits on the folds' training rows, too.
      devices: share the queries out to these; by default all are solved where the problem is.
      progress: called after every penalty.

    References:
      Friedman, Hastie, Tibshirani, J. Stat. Softw. 33(1), 2010, section 2.5 (the one-standard-error rule).
    """
    problem = condense(problem)
    steps = num_penalties if penalties is None else len(penalties)
    unit = np.asarray(problem.unit, np.float64)
    sharing = admm.alike(problem) & (penalties is None) & admm.suits(problem, tolerance.gap)

    def side_by_side(part: Problem, own: np.ndarray, report: Report) -> CrossValidation:
        record = _Recorder(part, steps, early_end, keep_folds, report)
        met = admm.walk_path(part, record, num_penalties=steps, min_ratio=min_ratio, gap=tolerance.gap)
        sharing[own[~met]] = False
        return record.result(np.asarray(part.unit, np.float64))

    def one_by_one(part: Problem, _: np.ndarray, report: Report) -> CrossValidation:
        record = _Recorder(part, steps, early_end, keep_folds, report)
        unit = np.asarray(part.unit, np.float64)
        scaled = None if penalties is None else penalties[:, None] / np.where(unit > 0, unit, 1.0)
        walk_path(part, record, num_penalties=steps, min_ratio=min_ratio, penalties=scaled, tolerance=tolerance)
        return record.result(unit)

    def run(solve: _Solve, queries: np.ndarray, at_once: int) -> CrossValidation:
        some = _only(problem, queries)
        parts = in_batches(
            some, solve, steps=steps, devices=devices, progress=progress, stage="regress", at_once=at_once
        )
        return _together(parts, unit.size)

    fit = run(side_by_side, sharing.copy(), admm.QUERIES_AT_ONCE) if sharing.any() else None
    if not sharing.all():
        rest = run(one_by_one, ~sharing, QUERIES_AT_ONCE)
        fit = rest if fit is None else either(sharing, fit, rest)
    assert fit is not None
    return _polish(problem, fit, tolerance, devices)


def _only(problem: Problem, queries: np.ndarray) -> Problem:
    """The same problems with targets of zeros for all but some `queries [Q]`, so that the shapes do not change."""
    kept = jnp.asarray(queries)
    return dataclasses.replace(
        problem, y=jnp.where(kept[:, None], problem.y, 0.0), unit=jnp.where(kept, problem.unit, 0.0)
    )


def _polish(
    problem: Problem, fit: CrossValidation, tolerance: Tolerance, devices: Sequence[jax.Device] | None
) -> CrossValidation:
    """Fit again at the two penalties that were chosen, on all rows, to at least `TOLERANCE`."""
    if tolerance.gap <= TOLERANCE.gap and tolerance.violation <= TOLERANCE.violation:
        return fit
    queries, unit = np.arange(fit.at_min.size), np.asarray(problem.unit, np.float64)
    unit = np.where(unit > 0, unit, 1.0)
    penalties = np.stack([fit.penalty[at, queries] for at in (fit.at_1se, fit.at_min)]) / unit
    near = np.stack([fit.coef_1se, fit.coef_min]) / unit[:, None]
    whole = dataclasses.replace(problem, fold=jnp.full_like(problem.fold, -1), z_inverse=problem.z_inverse[:, -1:])

    def solve(part: Problem, own: np.ndarray, _: Report) -> tuple[np.ndarray, np.ndarray]:
        return solve_near(part, np.nan_to_num(penalties[:, own]), near[:, own])

    parts = in_batches(whole, solve, steps=1, devices=devices, progress=silent, stage="regress")
    coef, met = (np.concatenate(part, axis=1)[:, : queries.size] for part in zip(*parts, strict=True))
    return dataclasses.replace(
        fit,
        coef_1se=coef[0] * unit[:, None],
        coef_min=coef[1] * unit[:, None],
        converged=fit.converged & met.all(axis=0),
    )


def _together(parts: list[CrossValidation], num_queries: int) -> CrossValidation:
    """Put the batches together, without the queries that fill the last one up."""

    def whole(name: str, axis: int = 0) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts], axis).take(np.arange(num_queries), axis)

    fields: dict[str, Any] = {name: whole(name, 1) for name in _PER_PENALTY} | {
        name: whole(name) for name in _PER_QUERY
    }
    for name in _PATHS:
        fields[name] = tuple(fits for part in parts for fits in getattr(part, name))[:num_queries]
    return CrossValidation(**fields)


def either(first: np.ndarray, yes: CrossValidation, no: CrossValidation) -> CrossValidation:
    """Take the queries of one result where `first [Q]`, else those of the other."""
    fields: dict[str, Any] = {}
    for name in _PER_PENALTY + _PER_QUERY:
        a, b = getattr(yes, name), getattr(no, name)
        fields[name] = np.where(first[:, None] if name.startswith("coef") else first, a, b)
    for name in _PATHS:  # where folds were not kept, both are empty
        pairs = zip(first, getattr(yes, name), getattr(no, name), strict=False)
        fields[name] = tuple(a if one else b for one, a, b in pairs)
    return CrossValidation(**fields)
