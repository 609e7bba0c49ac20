"""Standard errors: estimates of every AME with an error of its own, by four ways of getting there."""

import dataclasses

import jax
import numpy as np

from jaxame import checks
from jaxame.design import Design
from jaxame.features import Coding, exact_columns, exact_operator, mask_columns, pair_products
from jaxame.lasso import CrossValidation, OneStep, cross_fitted_step, fit_near, make_problem, one_step
from jaxame.lasso.debias import Design as StepDesign

INTERVALS = ("debiased", "cross-fitted", "least squares")


def estimate(
    kind: str, design: Design, coding: Coding, targets: np.ndarray, fit: CrossValidation, fold: np.ndarray
) -> OneStep:
    """Estimate every regression coefficient, with its standard error.

    Args:
      kind: "debiased" corrects the LASSO at `lambda_1se` by one step from its own residuals; "cross-fitted" corrects
        the fits of the folds by the rows they held out, without bias at any `M`; "least squares" is plain, with the
        errors HC2, and needs more independent rows than sources.
      design: `M` rows over `N` sources.
      coding: of the design.
      targets: `[M, Q]`.
      fit: the cross-validated path; with its folds for "cross-fitted".
      fold: `[M]` the fold that holds each row out.

    Returns:
      coefficients and standard errors, `[Q, N]` each.
    """
    if kind == "least squares":
        return least_squares(design, coding, targets)
    step = step_design(design, coding)
    if kind == "debiased":
        return one_step(step, targets, fit.coef_1se, coding.weight)
    folds = [[path[[at]].toarray()[0] for path in own] for own, at in zip(fit.fold_paths, fit.at_1se, strict=True)]
    return cross_fitted_step(step, targets, np.array(folds), fold, coding.weight)


def require_intervals(kind: str, design: Design) -> None:
    """Refuse an unknown kind of interval, and least squares without enough rows."""
    checks.require(kind in INTERVALS, f"intervals to be one of {INTERVALS}", checks.describe(kind))
    if kind == "least squares":
        num_units, num_columns = int(design.units[-1]) + 1, design.num_sources + _num_intercepts(design)
        unit = "pairs" if design.paired else "rows"
        needs = f"more {unit} than the {num_columns} coefficients, for least squares"
        checks.require(num_units > num_columns, needs, f"{num_units} {unit}")


def _num_intercepts(design: Design) -> int:
    own = 5 if design.law.levels is None else len(design.law.levels)
    return own if design.parent is None else own * _num_intercepts(design.parent.design)


def step_design(design: Design, coding: Coding) -> StepDesign:
    """Return the operators that a step from a fit is made with."""
    squared = dataclasses.replace(coding, low=coding.low**2, high=coding.high**2)
    cross = pair_products(design, coding) if design.paired else None
    x, x_squared = exact_operator(design, coding), exact_operator(design, squared)
    return StepDesign(x, x_squared, cross, coding.second_moment, coding.z)


def least_squares(design: Design, coding: Coding, targets: np.ndarray) -> OneStep:
    """Weighted least squares on all sources, with HC2 standard errors; pairs as clusters.

    References:
      MacKinnon and White, J. Econometrics 29(3), 1985 (HC2).

    Raises:
      ValueError: if a query has no more finite rows with weight than there are coefficients.
    """
    x = np.concatenate([exact_columns(design, coding, np.arange(design.num_sources)), coding.z], axis=1)
    for q, y in enumerate(targets.T):
        own = np.unique(design.units[np.isfinite(y) & (coding.weight > 0)]).size
        unit = "pairs" if design.paired else "rows"
        needs = f"more finite {unit} than the {x.shape[1]} coefficients of query {q}, for least squares"
        checks.require(own > x.shape[1], f"{needs}; other intervals do with fewer", f"{own} {unit}")
    found = [_least_squares(x, y, coding.weight, design) for y in targets.T]
    return OneStep(*(np.stack(part) for part in zip(*found, strict=True)))


def _least_squares(x: np.ndarray, y: np.ndarray, weight: np.ndarray, design: Design) -> tuple[np.ndarray, np.ndarray]:
    kept = np.isfinite(y)
    root = np.sqrt(weight[kept])
    both, target = root[:, None] * x[kept], root * y[kept]
    solve = np.linalg.pinv(both)
    coef = solve @ target
    leverage = np.einsum("mp,pm->m", both, solve)
    residual = (target - both @ coef) / np.sqrt(np.maximum(1 - leverage, 1e-12))
    terms = (solve * residual)[: design.num_sources]
    start = np.flatnonzero(np.diff(design.units[kept], prepend=-1))
    return coef[: design.num_sources], np.sqrt((np.add.reduceat(terms, start, axis=1) ** 2).sum(axis=1))


def bootstrap(
    design: Design,
    coding: Coding,
    y: np.ndarray,
    penalty: float,
    coef: np.ndarray,
    key: jax.Array,
    num_draws: int,
) -> np.ndarray:
    """Standard errors `[N]` of the de-biased coefficients of one query, from resampling rows (pairs together).

    Every draw fits the LASSO anew at the same penalty and takes the same step from it.

    Args:
      design: `M` rows over `N` sources.
      coding: of the design.
      y: `[M]` target.
      penalty: in the unit of the target.
      coef: `[N]` the fit on all rows at that penalty.
      key: one typed key of the draws.
      num_draws: `B`.
    """
    units = design.units
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    num_units = int(units[-1]) + 1
    times = rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=num_draws).T[units]
    targets, weight = np.repeat(y[:, None], num_draws, axis=1), coding.weight[:, None] * times
    problem = make_problem(mask_columns(design, coding), targets, weight, coding.z, None)
    unit = np.asarray(problem.unit, np.float64)
    fits = fit_near(problem, penalty / unit, coef / unit[:, None]) * unit[:, None]
    spread: np.ndarray = one_step(step_design(design, coding), targets, fits, weight).coef.std(axis=0, ddof=1)
    return spread
