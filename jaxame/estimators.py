"""The whole chain: design, utilities, regression, selection."""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.typing import ArrayLike
from scipy.sparse.linalg import LinearOperator

from jaxame import checks, environment, leftout, reweight, stopping
from jaxame.attribution import Attribution
from jaxame.design import Design, Law, TruncatedUniform, redraw_masks, sample_design
from jaxame.features import Coding, code, exact_columns, exact_operator, mask_columns, pair_products
from jaxame.lasso import (
    CrossValidation,
    assign_folds,
    certify,
    cross_validate,
    entry_path,
    make_problem,
    one_step,
    refit,
)
from jaxame.types import Progress, Status, silent, submodel_status

# Streams of a design's key besides its rows, which are numbered from 0.
_GAME_STREAM, _FOLD_STREAM = 2**32 - 2, 2**32 - 3
_CHUNK = 1024
_DEFAULT_FOLDS = 10
_LARGEST_GAP = 1e-4
log = logging.getLogger(__name__)


class Game(Protocol):
    """Maps subsets to utilities. Called on the host with concrete arrays, chunk by chunk.

    A game may have the attributes `chunk_size`, the number of rows it likes to be called with, and `about`, a mapping
    that `json` can write, which the result then carries.
    """

    num_sources: int

    def __call__(self, keys: jax.Array, masks: jax.Array) -> ArrayLike:
        """Utilities `[m, Q]` of subsets `masks`, bool `[m, N]`, with randomness from typed keys `[m]`."""


def ame(
    game: Game,
    *,
    key: jax.Array,
    num_submodels: int,
    law: Law,
    coding: str = "auto",
    paired: bool = False,
    stop: stopping.Rule | None = None,
    max_submodels: int | None = None,
    copies: int = 4,
    knockoff_key: jax.Array | None = None,
    folds: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: Progress = silent,
) -> Attribution:
    """Estimate the average marginal effect of every source on every query of a game.

    Draws a design, evaluates the game on it and calls `estimate_ame`. Row `i` of the design and the key that the game
    gets for it depend on `key` and `i` only.

    Args:
      game: maps masks to utilities; attribute `num_sources` is `N`.
      key: one typed key; decides everything.
      num_submodels: `M >= 2`; about `4.5 k ln N / R2` find `k` sources among `N` if a share `R2` of the utility's
        variance given `p` is linear in the sources (`jaxame.planning`). With `stop`, those of the first round.
      law: inclusion law, for example `Grid((.2, .4, .6, .8))`.
      coding: see `jaxame.design.sample_design`.
      paired: likewise. Pairs help where sources interact or saturate, and cost a little where they only add up.
      stop: a rule of `jaxame.stopping`. The design is then extended, by half of itself in every round, until the rule
        holds; earlier rows are kept, and the result is the one for the final number of submodels, with the rounds in
        its `about`.
      max_submodels: the most that `stop` may take; needed unless the rule itself limits them.
      copies: knockoff copies for `Attribution.select`; 0 for none.
      knockoff_key: key of the copies; by default from `key`.
      folds: of the cross-validation; default 10, or the number of rows (or pairs) if that is smaller.
      devices: the queries of the regression are shared out to these; default one.
      progress: called as each stage moves on.

    Returns:
      An `Attribution`, values `[Q, N]` in the unit of the utility.

    Raises:
      ValueError: for any bad argument, before the game is called; and if the game's utilities have the wrong shape or
        fewer than two finite rows for a query.

    References:
      Lin et al., "Measuring the Effect of Training Data on Deep Learning Predictions via Randomized Experiments", ICML
      2022, Algorithm 1.
    """
    draw = functools.partial(sample_design, key, law, num_sources=_num_sources(game), coding=coding, paired=paired)
    _check_options(draw(num_submodels=num_submodels), copies, knockoff_key, folds)
    utilities: list[np.ndarray] = []

    def estimate(number: int) -> Attribution:
        design = draw(num_submodels=number)
        utilities.append(evaluate(game, design, start=sum(map(len, utilities)), progress=progress))
        return estimate_ame(
            design,
            np.concatenate(utilities),
            copies=copies,
            knockoff_key=knockoff_key,
            folds=folds,
            devices=devices,
            about=getattr(game, "about", None),
            progress=progress,
        )

    if stop is None:
        checks.require(max_submodels is None, "max_submodels only with stop", max_submodels)
        return estimate(num_submodels)
    maximum = stopping.largest(stop, num_submodels, max_submodels, copies)
    return stopping.run(estimate, stop, num_submodels, maximum)


def shapley(
    game: Game,
    *,
    key: jax.Array,
    num_submodels: int,
    eps: float = 0.01,
    paired: bool = False,
    stop: stopping.Rule | None = None,
    max_submodels: int | None = None,
    copies: int = 4,
    knockoff_key: jax.Array | None = None,
    folds: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: Progress = silent,
) -> Attribution:
    """Estimate the Shapley value of every source: the AME under `p ~ U(0, 1)`, truncated to `U(eps, 1 - eps)`.

    The truncation moves a value by at most `2 eps` times the range of the source's expected marginal effect over `p`.
    Arguments, result and errors are those of `ame`.

    References:
      Owen, Management Science 18(5), 1972 (the integral form); Lin et al., ICML 2022, section 2.
    """
    return ame(
        game,
        key=key,
        num_submodels=num_submodels,
        law=TruncatedUniform(eps),
        paired=paired,
        stop=stop,
        max_submodels=max_submodels,
        copies=copies,
        knockoff_key=knockoff_key,
        folds=folds,
        devices=devices,
        progress=progress,
    )


def evaluate(
    game: Game, design: Design, *, key: jax.Array | None = None, start: int = 0, progress: Progress = silent
) -> np.ndarray:
    """Evaluate a game on the rows of a design.

    Args:
      game: maps masks to utilities.
      design: `M` rows over the game's sources.
      key: the game's randomness on row `i` depends on it and on `i` only; by default the design's.
      start: the first row, below `M`.
      progress: called after every chunk.

    Returns:
      Utilities `[M - start, Q]`.

    Raises:
      ValueError: if the game's sources are not those of the design, there is no key or no such row, or the game returns
        another shape than `[m, Q]`.
    """
    key = design.key if key is None else key
    checks.require(_num_sources(game) == design.num_sources, f"{design.num_sources} sources", game.num_sources)
    game_key = jax.random.fold_in(checks.typed_key(key), _GAME_STREAM)
    num_rows = design.num_submodels
    chunk = checks.count(getattr(game, "chunk_size", _CHUNK), "game.chunk_size")
    checks.require(checks.count(start, "start", 0) < num_rows, f"start below {num_rows}", start)
    parts: list[np.ndarray] = []
    for first in range(start, num_rows, chunk):
        stop = min(first + chunk, num_rows)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(game_key, np.arange(first, stop))
        part = np.asarray(game(keys, design.masks(first, stop)))
        width = parts[0].shape[1] if parts else "Q"
        agrees = part.ndim == 2 and part.shape[0] == stop - first and width in ("Q", part.shape[1])
        checks.require(agrees, f"the game to return [{stop - first}, {width}]", list(part.shape))
        parts.append(part)
        progress("train", stop, num_rows)
    return np.concatenate(parts)


def estimate_ame(
    design: Design,
    utilities: ArrayLike,
    *,
    law: Law | None = None,
    copies: int = 4,
    knockoff_key: jax.Array | None = None,
    folds: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    about: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Attribution:
    """Estimate average marginal effects from utilities that were measured on a design.

    Args:
      design: `M` rows over `N` sources.
      utilities: `[M, Q]`, any unit. A non-finite entry leaves its row out for that query; `Attribution.check` says so
        if that is not harmless.
      law: the target law; by default the design's. For another one rows are weighted anew (`jaxame.reweight`), and the
        result's `about` says how many rows of that law they are worth.
      copies: knockoff copies for `Attribution.select`; 0 for none.
      knockoff_key: key of the copies; by default the design's.
      folds: of the cross-validation; default 10, or the number of rows (or pairs) if that is smaller.
      devices: the queries of the regression are shared out to these; default one.
      about: what to add to the result's `about`, such as a game's.
      progress: called as each stage moves on.

    Returns:
      An `Attribution`, values `[Q, N]` in the unit of the utilities.

    Raises:
      ValueError: for a bad argument, utilities of another shape, fewer than two finite rows for a query, or a law that
        the design's rows do not overlap with.
    """
    folds = _check_options(design, copies, knockoff_key, folds)
    law = design.law if law is None else law
    overlap = None if law == design.law else reweight.overlap(design, law)
    coding = code(design) if overlap is None else reweight.code(design, overlap)
    targets = _check_utilities(utilities, coding.weight > 0)
    regression = coding.weight, coding.z
    fold_key = jax.random.key(0) if design.key is None else design.key
    fold_key = jax.random.fold_in(fold_key, _FOLD_STREAM)
    fold = np.asarray(assign_folds(fold_key, design.num_submodels, folds, design.units if design.paired else None))
    problem = make_problem(mask_columns(design, coding), targets, *regression, fold)
    fit = cross_validate(problem, devices=devices, progress=progress)
    entry = entry_sign = np.zeros((targets.shape[1], 1, design.num_sources))
    converged = fit.converged
    if copies:
        copy_key = checks.typed_key(design.key if knockoff_key is None else knockoff_key, "knockoff_key")
        redrawn = redraw_masks(design, copy_key, copies)
        problem = make_problem(mask_columns(design, coding, redrawn), targets, *regression, None)
        path = entry_path(problem, devices=devices, progress=progress)
        shape = (targets.shape[1], copies + 1, design.num_sources)
        entry, entry_sign = path.penalty.reshape(shape), path.sign.reshape(shape)
        converged = converged & path.converged
    x = exact_operator(design, coding)
    squared = exact_operator(design, dataclasses.replace(coding, low=coding.low**2, high=coding.high**2))
    cross = pair_products(design, coding) if design.paired else None
    step = one_step(x, squared, cross, targets, fit.coef_1se, *regression, coding.second_moment)
    gaps, violations = np.moveaxis(_certificates(x, coding, targets, fit), 2, 0)
    return Attribution(
        values=coding.scale * _relaxed(design, coding, targets, fit.coef_1se),
        stderr=coding.scale * step.stderr,
        status=_status(design, targets, converged & (gaps.max(axis=1) <= _LARGEST_GAP)),
        lasso_min=coding.scale * fit.coef_min,
        lasso_1se=coding.scale * fit.coef_1se,
        debiased=coding.scale * step.coef,
        num_left_out=(~np.isfinite(targets)).sum(axis=0),
        submodel_status=submodel_status(targets),
        relative_gap=gaps,
        violation=violations,
        cv_penalty=fit.penalty,
        cv_error=fit.error_mean,
        cv_error_se=fit.error_se,
        entry=entry,
        entry_sign=entry_sign,
        about={
            "law": repr(law),
            "coding": design.coding,
            "paired": design.paired,
            "num_submodels": design.num_submodels,
            "num_sources": design.num_sources,
            "folds": folds,
            "copies": copies,
            "versions": environment.versions(),
            "game": dict(about or {}),
            **({} if overlap is None else {"reweighted": {"from": repr(design.law), **overlap.about()}}),
        },
    )


def _num_sources(game: Any) -> int:
    checks.require(callable(game) and hasattr(game, "num_sources"), "a callable game with num_sources", type(game))
    return checks.count(game.num_sources, "game.num_sources")


def _check_options(design: Design, copies: int, knockoff_key: jax.Array | None, folds: int | None) -> int:
    """Check the options of an estimate and return the number of folds."""
    checks.require(isinstance(design, Design), "a jaxame.design.Design", checks.describe(design))
    checks.count(copies, "copies", 0)
    if knockoff_key is not None:
        checks.typed_key(knockoff_key, "knockoff_key")
    has_key = knockoff_key is not None or design.key is not None
    checks.require(copies == 0 or has_key, "knockoff_key, as this design has no key of its own", "None")
    num_units = int(design.units[-1]) + 1
    if folds is None:
        return min(_DEFAULT_FOLDS, num_units)
    folds = checks.count(folds, "folds", 2)
    checks.require(
        folds <= num_units, f"at most {num_units} folds, one per {'pair' if design.paired else 'row'}", folds
    )
    return folds


def _check_utilities(utilities: ArrayLike, counts: np.ndarray) -> np.ndarray:
    """Return utilities `[M, Q]` in float64; `counts [M]` says which rows have any weight."""
    targets = np.asarray(utilities, np.float64)
    fits = targets.ndim == 2 and targets.shape[0] == counts.size and targets.shape[1] > 0
    checks.require(fits, f"utilities [M={counts.size}, Q]", list(targets.shape))
    num_finite = np.isfinite(targets[counts]).sum(axis=0)
    worst = int(num_finite.argmin())
    needs = "at least 2 finite rows for every query"
    checks.require(bool(num_finite[worst] >= 2), needs, f"{num_finite[worst]} for query {worst}")
    return targets


def _certificates(x: LinearOperator, coding: Coding, targets: np.ndarray, fit: CrossValidation) -> np.ndarray:
    """Gap and violation of every query's fits at `lambda_min` and `lambda_1se`, `[Q, 2, 2]`."""
    fits = ((fit.coef_min, fit.at_min), (fit.coef_1se, fit.at_1se))
    return np.array(
        [
            [certify(x, y, coef[q], fit.penalty[at[q], q], coding.weight, coding.z) for coef, at in fits]
            for q, y in enumerate(targets.T)
        ]
    )


def _relaxed(design: Design, coding: Coding, targets: np.ndarray, coef: np.ndarray) -> np.ndarray:
    """Least-squares coefficients on the support of `coef [Q, N]`, 0 elsewhere."""
    values = np.zeros_like(coef)
    for q, y in enumerate(targets.T):
        support = np.flatnonzero(coef[q])
        values[q, support] = refit(exact_columns(design, coding, support), y, coding.weight, coding.z)
    return values


def _status(design: Design, targets: np.ndarray, converged: np.ndarray) -> np.ndarray:
    finite = np.isfinite(targets)
    status = np.where(converged, Status.OK, Status.NOT_CONVERGED)
    for q in np.flatnonzero(~finite.all(axis=0)):
        found = leftout.diagnose(np.asarray(design.p), np.asarray(design.masks()), finite[:, q])
        status[q] = found if found != Status.OK else status[q]
    return status
