"""The whole chain: design, utilities, regression, selection."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, Unpack

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxame import checks, environment, inference, leftout, reweight, stopping
from jaxame.attribution import Attribution
from jaxame.design import Design, Law, redraw_masks, sample_design
from jaxame.evaluation import Game, evaluate, num_sources_of
from jaxame.features import Coding, MaskColumns, Operator, code, exact_operator, mask_columns
from jaxame.lasso import (
    CrossValidation,
    assign_folds,
    certify,
    cross_validate,
    entry_path,
    make_problem,
)
from jaxame.penalties import check_prior, cross_validate_weighted
from jaxame.randomisation import randomisation_p_values
from jaxame.types import Progress, Status, silent, submodel_status
from jaxame.values import estimate_values

# Streams of a design's key besides its rows, which are numbered from 0, and the game's (`jaxame.evaluation`).
_FOLD_STREAM, _REPEAT_STREAM = 2**32 - 3, 2**32 - 8
_DEFAULT_FOLDS = 10
_LARGEST_GAP = 1e-4


class Options(TypedDict, total=False):
    """Options of an estimate, which `ame` and `shapley` hand on to `estimate_ame`."""

    prior: ArrayLike | None
    interactions: bool
    product_law: Law | None
    shrunken: bool
    copies: int
    draws: int
    statistic: str
    knockoff_key: jax.Array | None
    redraws: int
    intervals: str
    contrasts: ArrayLike | None
    folds: int | None
    devices: Sequence[jax.Device] | None


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
    repeats: int = 0,
    progress: Progress = silent,
    **options: Unpack[Options],
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
      repeats: subsets, the first of the design, on which the game is evaluated twice, so that
        `Attribution.training_variance` tells the noise of training from the effect of the subset.
      progress: called as each stage moves on.
      **options: of the estimate, see `estimate_ame`.

    Returns:
      An `Attribution`, values `[Q, N]` in the unit of the utility.

    Raises:
      ValueError: for any bad argument, before the game is called; and if the game's utilities have the wrong shape or
        fewer than two finite rows for a query.

    References:
      Lin et al., "Measuring the Effect of Training Data on Deep Learning Predictions via Randomized Experiments", ICML
      2022, Algorithm 1.

    Example:
      Two of twenty sources matter; a hundred subsets tell which, and how much each adds.

      >>> import jax
      >>> import jaxame
      >>> from jaxame.design import Grid
      >>> from jaxame.games import Additive
      >>> game = Additive([2.0, 1.0] + [0.0] * 18)
      >>> result = jaxame.ame(game, key=jax.random.key(0), num_submodels=100, law=Grid((0.1, 0.3, 0.5, 0.7, 0.9)))
      >>> result.values[0, :2].round(2)
      array([2., 1.])
      >>> result.select(fdr=0.2, query=0).indices
      array([0, 1])
    """
    draw = functools.partial(sample_design, key, law, num_sources=num_sources_of(game), coding=coding, paired=paired)
    design = draw(num_submodels=num_submodels)
    checks.count(repeats, "repeats", 0)
    checks.require(repeats <= num_submodels, f"repeats to be at most the {num_submodels} submodels", repeats)
    check_options(design, **options)
    _check_queries(getattr(game, "num_queries", None), game.num_sources, options)
    utilities: list[np.ndarray] = []

    def estimate(number: int) -> Attribution:
        design = draw(num_submodels=number)
        utilities.append(evaluate(game, design, start=sum(map(len, utilities)), progress=progress))
        about = getattr(game, "about", None)
        return estimate_ame(design, np.concatenate(utilities), about=about, progress=progress, **options)

    if stop is None:
        checks.require(max_submodels is None, "max_submodels only with stop", max_submodels)
        result = estimate(num_submodels)
    else:
        maximum = stopping.largest(stop, num_submodels, max_submodels, options.get("copies", 4))
        result = stopping.run(estimate, stop, num_submodels, maximum)
    if not repeats:
        return result
    first = dataclasses.replace(design, p=design.p[:repeats], packed=design.packed[:repeats])
    repeat_key = jax.random.fold_in(checks.typed_key(design.key), _REPEAT_STREAM)
    again = evaluate(game, first, key=repeat_key, progress=progress)
    both = (with_contrasts(each, options.get("contrasts")) for each in (utilities[0][:repeats], again))
    return dataclasses.replace(result, training_variance=_training_variance(*both))


def _check_queries(num_queries: int | None, num_sources: int, options: Options) -> None:
    """Check what depends on the number of queries as well, if the game says it, before anything is trained."""
    prior, contrasts = options.get("prior"), options.get("contrasts")
    if num_queries is not None:
        width = with_contrasts(np.zeros((1, num_queries)), contrasts).shape[1]
    elif prior is not None:
        width = len(np.atleast_2d(np.asarray(prior)))  # any number of rows may be right
    if prior is not None:
        check_prior(prior, width, num_sources)


def _training_variance(utilities: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Variance over keys of the game, `[Q]`, from two evaluations of the same rows; NaN if no row is finite twice."""
    known = np.isfinite(utilities) & np.isfinite(again)
    squares = np.subtract(again, utilities, out=np.zeros(known.shape), where=known) ** 2
    number = known.sum(axis=0)
    unknown = np.full(len(number), np.nan)
    variance: np.ndarray = np.divide(squares.sum(axis=0), 2 * number, out=unknown, where=number > 0)
    return variance


def estimate_ame(
    design: Design,
    utilities: ArrayLike,
    *,
    law: Law | None = None,
    prior: ArrayLike | None = None,
    interactions: bool = False,
    product_law: Law | None = None,
    shrunken: bool = True,
    copies: int = 4,
    draws: int = 1,
    statistic: str = "entry",
    knockoff_key: jax.Array | None = None,
    redraws: int = 0,
    intervals: str = "debiased",
    contrasts: ArrayLike | None = None,
    folds: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    about: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Attribution:
    """Estimate average marginal effects from utilities that were measured on a design.

    Args:
      design: `M` rows over `N` sources.
      utilities: `[M, Q]`, any unit, of any library that has DLPack. A non-finite entry leaves its row out for that
        query; `Attribution.check` says so if that is not harmless.
      law: the target law; by default the design's. For another one rows are weighted anew (`jaxame.reweight`), and the
        result's `about` says how many rows of that law they are worth.
      prior: `[N]` or `[Q, N]` scores >= 0, any unit, larger for sources that are more likely to matter: the LASSO
        penalises these less, by up to 4 times either way, for the queries whose cross-validated error falls by that.
        Values only; the selection does not use it.
      interactions: fit the values with what the chosen sources do together, see `jaxame.interactions`; takes about a
        second for every query, and ten where five hundred sources are chosen.
      product_law: law over which what that says is averaged, which need not be one that the rows overlap with; by
        default `law`. `shapley` takes the uniform law without its truncation here.
      shrunken: whether the values are corrected by one step and shrunken by empirical Bayes, see `jaxame.values`;
        otherwise they are plain least squares on the LASSO's support, and zero outside of it.
      copies: knockoff copies for `Attribution.select`; 0 for none.
      draws: of these copies; what several agree on depends less on chance (`jaxame.knockoffs.select_by_e_values`).
      statistic: what knockoffs compete by: "entry", the penalty at which a column enters the LASSO path, or
        "coefficient", the size of its coefficient at `lambda_min`, which takes another cross-validation.
      knockoff_key: key of the copies and redraws; by default the design's.
      redraws: of every column in the exact randomisation test, see `Attribution.p_values`; 0 for no test.
      intervals: how `Attribution.debiased` and its standard errors are made, see `jaxame.inference.estimate`:
        "debiased", "cross-fitted" or "least squares".
      contrasts: `[C, Q]` weights of further queries that are weighted sums of the utilities; they follow the `Q`.
      folds: of the cross-validation; default 10, or the number of rows (or pairs) if that is smaller.
      devices: the queries of the regression are shared out to these; default one.
      about: what to add to the result's `about`, such as a game's.
      progress: called as each stage moves on.

    Returns:
      An `Attribution`, values `[Q, N]` in the unit of the utilities.

    Raises:
      ValueError: for a bad argument, utilities of another shape, fewer than two finite rows for a query or all of them
        in one fold, no more of them than coefficients for intervals by least squares, or a law that the design's rows
        do not overlap with.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> import jaxame
      >>> from jaxame.design import Grid, sample_design
      >>> design = sample_design(jax.random.key(0), Grid((0.1, 0.3, 0.5, 0.7, 0.9)), num_submodels=100, num_sources=20)
      >>> masks = np.asarray(design.masks(0, 100))
      >>> utilities = 2.0 * masks[:, :1] + masks[:, 1:2]  # what you measure on each subset
      >>> jaxame.estimate_ame(design, utilities).values[0, :2].round(2)
      array([2., 1.])
    """
    folds = check_options(
        design,
        copies,
        draws,
        statistic,
        knockoff_key,
        redraws,
        intervals,
        contrasts,
        folds,
        interactions=interactions,
    )
    law = design.law if law is None else law
    overlap = None if law == design.law else reweight.overlap(design, law)
    coding = code(design) if overlap is None else reweight.code(design, overlap)
    targets = _check_utilities(utilities, coding.weight > 0, contrasts)
    scores = None if prior is None else check_prior(prior, targets.shape[1], design.num_sources)
    regression = coding.weight, coding.z
    fold_key = jax.random.fold_in(jax.random.key(0) if design.key is None else design.key, _FOLD_STREAM)
    fold = np.asarray(assign_folds(fold_key, design.num_submodels, folds, design.units if design.paired else None))
    _check_folds(targets, coding.weight > 0, fold)
    columns, keep_folds = mask_columns(design, coding), intervals == "cross-fitted"
    fit, factor = cross_validate_weighted(
        lambda factor: make_problem(columns, targets, *regression, fold, factor=factor),
        lambda problem: cross_validate(problem, keep_folds=keep_folds, devices=devices, progress=progress),
        scores,
    )
    copy_key = design.key if knockoff_key is None else knockoff_key
    importance, converged = np.zeros((targets.shape[1], draws, 1, design.num_sources)), fit.converged
    if copies:
        importance, met = _compete(
            design, coding, targets, fold, copy_key, (draws, copies), statistic, devices, progress
        )
        converged = converged & met
    p_values = None
    if redraws:
        p_values = randomisation_p_values(design, targets, checks.typed_key(copy_key), redraws)
        converged = converged & np.isfinite(p_values).all(axis=(1, 2))
    step = inference.estimate(intervals, design, coding, targets, fit, fold)
    gaps, violations = np.moveaxis(_certificates(exact_operator(design, coding), coding, targets, fit, factor), 2, 0)
    under, finite = dataclasses.replace(design, law=law), np.isfinite(targets)
    values = estimate_values(
        under,
        coding,
        targets,
        fit.coef_1se,
        interactions=interactions,
        shrunken=shrunken,
        product_law=product_law,
    )
    return Attribution(
        values=values.mean,
        values_sd=values.sd,
        stderr=coding.scale * step.stderr,
        status=_status(design, targets, converged & (gaps.max(axis=1) <= _LARGEST_GAP)),
        lasso_min=coding.scale * fit.coef_min,
        lasso_1se=coding.scale * fit.coef_1se,
        debiased=coding.scale * step.coef,
        num_left_out=(~finite).sum(axis=0),
        submodel_status=submodel_status(targets),
        relative_gap=gaps,
        violation=violations,
        cv_penalty=fit.penalty,
        cv_error=fit.error_mean,
        cv_error_se=fit.error_se,
        importance=importance,
        randomisation_p=p_values,
        training_variance=None,
        utility_variance=np.array([y[of_query].var(ddof=1) for y, of_query in zip(targets.T, finite.T, strict=True)]),
        about={
            "law": repr(law),
            "coding": design.coding,
            "paired": design.paired,
            "prior": scores is not None,
            "interactions": interactions,
            "noise_variance": None if values.noise is None else values.noise.tolist(),
            "shrunken": shrunken,
            "num_submodels": design.num_submodels,
            "num_sources": design.num_sources,
            "folds": folds,
            "copies": copies,
            "draws": draws,
            "statistic": statistic,
            "redraws": redraws,
            "intervals": intervals,
            "utility_range": [[float(np.nanmin(y)), float(np.nanmax(y))] for y in np.where(finite, targets, np.nan).T],
            "versions": environment.versions(),
            "game": dict(about or {}),
            **({} if overlap is None else {"reweighted": {"from": repr(design.law), **overlap.about()}}),
        },
    )


def importance(
    design: Design,
    utilities: ArrayLike,
    *,
    copies: int = 4,
    knockoff_key: jax.Array | None = None,
    progress: Progress = silent,
) -> np.ndarray:
    """Return what `estimate_ame` selects by, without the estimate: much less work, as nothing is cross-validated.

    Args:
      design: `M` rows over `N` sources.
      utilities: `[M, Q]`, any unit. A non-finite entry leaves its row out for that query.
      copies: `c`, knockoff copies.
      knockoff_key: of the copies; by default the design's.
      progress: called as the stage moves on.

    Returns:
      `[Q, 1, 1+c, N]`, the same as `Attribution.importance`, in the unit of the utilities.

    Raises:
      ValueError: as `estimate_ame` does.
    """
    check_options(design, checks.count(copies, "copies"), knockoff_key=knockoff_key)
    coding = code(design)
    targets = _check_utilities(utilities, coding.weight > 0, None)
    fold = np.zeros(design.num_submodels, int)
    copy_key = design.key if knockoff_key is None else knockoff_key
    return _compete(design, coding, targets, fold, copy_key, (1, copies), "entry", None, progress)[0]


_Importance: TypeAlias = tuple[np.ndarray, np.ndarray]


def _compete(
    design: Design,
    coding: Coding,
    targets: np.ndarray,
    fold: np.ndarray,
    key: jax.Array | None,
    sizes: tuple[int, int],
    statistic: str,
    devices: Sequence[jax.Device] | None,
    progress: Progress,
) -> _Importance:
    """Importance of sources and copies, `[Q, D, 1+c, N]`, for sizes `(D, c)`, and whether it converged, `[Q]`."""
    draws, copies = sizes
    redrawn = redraw_masks(design, checks.typed_key(key), draws * copies)
    competing = [mask_columns(design, coding, own) for own in redrawn.reshape(draws, copies, design.num_submodels, -1)]
    regression = targets, coding.weight, coding.z, fold
    parts = [_IMPORTANCE[statistic](own, *regression, devices, progress) for own in competing]
    shape = (targets.shape[1], copies + 1, design.num_sources)
    found = np.stack([part.reshape(shape) for part, _ in parts], axis=1)
    return found, np.all([met for _, met in parts], axis=0)


def _entry(
    columns: MaskColumns,
    targets: np.ndarray,
    weight: np.ndarray,
    z: np.ndarray,
    fold: np.ndarray,
    devices: Sequence[jax.Device] | None,
    progress: Progress,
) -> _Importance:
    """Signed entry penalties of all columns, `[Q, P]`, and whether the path converged, `[Q]`."""
    del fold
    path = entry_path(make_problem(columns, targets, weight, z, None), devices=devices, progress=progress)
    return path.penalty * path.sign, path.converged


def _coefficient(
    columns: MaskColumns,
    targets: np.ndarray,
    weight: np.ndarray,
    z: np.ndarray,
    fold: np.ndarray,
    devices: Sequence[jax.Device] | None,
    progress: Progress,
) -> _Importance:
    """Coefficients of all columns at `lambda_min`, `[Q, P]`, and whether the path converged, `[Q]`."""
    fit = cross_validate(make_problem(columns, targets, weight, z, fold), devices=devices, progress=progress)
    return fit.coef_min, fit.converged


_IMPORTANCE = {"entry": _entry, "coefficient": _coefficient}


def check_options(
    design: Design,
    copies: int = 4,
    draws: int = 1,
    statistic: str = "entry",
    knockoff_key: jax.Array | None = None,
    redraws: int = 0,
    intervals: str = "debiased",
    contrasts: ArrayLike | None = None,
    folds: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    prior: ArrayLike | None = None,
    interactions: bool = False,
    product_law: Law | None = None,
    shrunken: bool = True,
) -> int:
    """Check the options of an estimate, but for those of its values, and return the number of folds."""
    del devices, prior, product_law, shrunken
    checks.require(isinstance(design, Design), "a jaxame.design.Design", checks.describe(design))
    needs = "interactions=False for a nested design, whose memberships are not independent"
    checks.require(not interactions or design.parent is None, needs, interactions)
    checks.count(copies, "copies", 0)
    checks.count(draws, "draws")
    checks.count(redraws, "redraws", 0)
    checks.require(statistic in _IMPORTANCE, f"statistic to be one of {tuple(_IMPORTANCE)}", checks.describe(statistic))
    inference.require_intervals(intervals, design)
    if contrasts is not None:
        weights = np.asarray(contrasts, np.float64)
        fits = weights.ndim == 2 and bool(np.isfinite(weights).all())
        checks.require(fits, "contrasts [C, Q], all finite", list(weights.shape))
    if knockoff_key is not None:
        checks.typed_key(knockoff_key, "knockoff_key")
    has_key = knockoff_key is not None or design.key is not None
    checks.require(copies == redraws == 0 or has_key, "knockoff_key, as this design has no key of its own", "None")
    num_units = int(design.units[-1]) + 1
    if folds is None:
        return min(_DEFAULT_FOLDS, num_units)
    folds = checks.count(folds, "folds", 2)
    checks.require(
        folds <= num_units, f"at most {num_units} folds, one per {'pair' if design.paired else 'row'}", folds
    )
    return folds


def _check_utilities(utilities: ArrayLike, counts: np.ndarray, contrasts: ArrayLike | None) -> np.ndarray:
    """Return utilities `[M, Q]` in float64, those of the contrasts after them; `counts [M]` which rows have weight."""
    targets = checks.array(utilities, np.float64)
    fits = targets.ndim == 2 and targets.shape[0] == counts.size and targets.shape[1] > 0
    checks.require(fits, f"utilities [M={counts.size}, Q]", list(targets.shape))
    targets = with_contrasts(targets, contrasts)
    num_finite = np.isfinite(targets[counts]).sum(axis=0)
    worst = int(num_finite.argmin())
    needs = "at least 2 finite rows for every query"
    checks.require(bool(num_finite[worst] >= 2), needs, f"{num_finite[worst]} for query {worst}")
    return targets


def _check_folds(targets: np.ndarray, counts: np.ndarray, fold: np.ndarray) -> None:
    """Refuse a query whose finite rows are all held out by one fold, as nothing is left to fit then."""
    own = [np.unique(fold[counts & np.isfinite(y)]).size for y in targets.T]
    needs = "finite rows in at least 2 folds of the cross-validation for every query"
    checks.require(min(own) > 1, needs, f"all rows of query {int(np.argmin(own))} in one")


def with_contrasts(utilities: np.ndarray, contrasts: ArrayLike | None) -> np.ndarray:
    """Return utilities `[M, Q]` and after them, `[M, C]`, their sums weighted by the contrasts `[C, Q]`.

    A sum is not finite only where a query that counts is not.
    """
    if contrasts is None:
        return utilities
    weights = np.asarray(contrasts, np.float64)
    checks.require(
        weights.shape[1] == utilities.shape[1], f"contrasts [C, Q={utilities.shape[1]}]", list(weights.shape)
    )
    sums = [utilities[:, own != 0] @ own[own != 0] for own in weights]
    return np.stack([*utilities.T, *sums], axis=1)


def _certificates(
    x: Operator, coding: Coding, targets: np.ndarray, fit: CrossValidation, factor: np.ndarray | None
) -> np.ndarray:
    """Gap and violation of every query's fits at `lambda_min` and `lambda_1se`, `[Q, 2, 2]`."""
    fits = ((fit.coef_min, fit.at_min), (fit.coef_1se, fit.at_1se))
    factors = [None] * targets.shape[1] if factor is None else factor
    return np.array(
        [
            [
                certify(x, y, coef[q], fit.penalty[at[q], q], coding.weight, coding.z, factor=factors[q])
                for coef, at in fits
            ]
            for q, y in enumerate(targets.T)
        ]
    )


def _status(design: Design, targets: np.ndarray, converged: np.ndarray) -> np.ndarray:
    finite = np.isfinite(targets)
    status = np.where(converged, Status.OK, Status.NOT_CONVERGED)
    for q in np.flatnonzero(~finite.all(axis=0)):
        found = leftout.diagnose(design.inclusion, np.asarray(design.masks()), finite[:, q])
        status[q] = found if found != Status.OK else status[q]
    return status
