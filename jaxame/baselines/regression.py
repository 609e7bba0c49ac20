"""Estimators that fit a model of the game first: the LASSO of datamodels, and what a surrogate leaves to be sampled."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import jax
import numpy as np
from scipy import linalg

from jaxame import checks
from jaxame.attribution import Attribution
from jaxame.baselines import boosting
from jaxame.baselines.evaluation import Evaluations, none_and_all
from jaxame.baselines.kernel import by_expected_covariance, sample_by_size
from jaxame.estimators import ame
from jaxame.laws import PointMass

SURROGATES = ("linear", "trees")
_MOST_TREE_ROWS = 2**15  # trees need a dense matrix


def datamodels(game: Any, *, key: jax.Array, budget: int, share: float = 0.5) -> Attribution:
    """Fit a LASSO of the utility on memberships, every source being in with the same probability.

    The penalty is that of smallest cross-validated error. Values are coefficients: what a source adds at this share.

    Args:
      game: maps masks to utilities; attribute `num_sources`.
      key: one typed key.
      budget: evaluations, at least 2.
      share: inclusion probability, strictly between 0 and 1.

    Returns:
      An `Attribution`, values `[Q, N]`; without standard errors.

    Raises:
      ValueError: for a smaller budget, and for a bad game, key or share.

    References:
      Ilyas et al., Datamodels: Predicting Predictions from Training Data, ICML 2022.
    """
    num_sources = checks.count(getattr(game, "num_sources", 0), "game.num_sources")
    budget = checks.count(budget, "budget")
    checks.require(budget >= 2, f"a budget of at least 2 evaluations for {num_sources} sources", budget)
    result = ame(game, key=key, num_submodels=budget, law=PointMass(share), copies=0, shrunken=False)
    values = result.lasso_min
    assert values is not None
    about = result.about | {"method": "datamodels", "budget": budget, "evaluations": budget}
    return dataclasses.replace(result, values=values, debiased=values, stderr=None, about=about)


def regression_adjusted(
    game: Any,
    *,
    key: jax.Array,
    budget: int,
    surrogate: str = "linear",
    folds: int = 5,
    paired: bool = True,
) -> Attribution:
    """Estimate Shapley values as those of a fitted surrogate, which are known, and those of what it leaves.

    The surrogate that is taken off a subset's utility is fitted to the other folds, so that no bias comes of it; what
    is left is estimated as by `unbiased_kernel_shap`, on the same subsets.

    Args:
      game: maps masks to utilities; attribute `num_sources`, at least 2.
      key: one typed key.
      budget: evaluations, at least `2 + 4 folds`, two of them on nobody and on all.
      surrogate: "linear", ridge regression with a cross-validated penalty; "trees", gradient boosting, fitted to the
        folds' share of 32,768 evaluations at most.
      folds: at least 2.
      paired: whether every subset is followed by its complement; an odd evaluation is then not made.

    Returns:
      An `Attribution`, values `[Q, N]`, which sum to `U(all) - U(none)`, with standard errors, of what is sampled given
      the surrogates.

    Raises:
      ValueError: for a smaller budget, and for a bad game, key or option.

    References:
      Witter, Liu, Musco, Regression-adjusted Monte Carlo Estimators for Shapley Values and Probabilistic Values, 2025.
    """
    checks.require(surrogate in SURROGATES, f"surrogate to be one of {SURROGATES}", checks.describe(surrogate))
    folds = checks.count(folds, "folds", 2)
    counted, ends, found, _ = sample_by_size(game, key, budget, paired, "kernel", least=2 + 4 * folds)
    unit = np.arange(len(found)) // (1 + paired)
    fold = counted.rng.permutation(unit[-1] + 1)[unit] % folds
    known = np.isfinite(found.utilities).all(axis=0)
    usable = dataclasses.replace(found, utilities=np.where(known, found.utilities, 0.0))
    fits = _SURROGATES[surrogate](usable, fold, counted.rng)
    values, predicted, at_ends = _cross_fit(fits, found, fold)
    values[~known] = np.nan
    left = dataclasses.replace(found, utilities=found.utilities - predicted)
    ends = ends - at_ends
    sampled, stderr = by_expected_covariance(left, ends, left.utilities - ends[0], paired)
    about = {"surrogate": surrogate, "folds": folds, "paired": paired}
    return counted.result("regression-adjusted Monte Carlo", values + sampled, stderr, **about)


_Predict: TypeAlias = Callable[[np.ndarray], np.ndarray]
_Fits: TypeAlias = Iterable[tuple[_Predict, np.ndarray]]
"""For every fold what the rows outside of it give: predictions `[m, Q]` from masks, and Shapley values `[Q, N]`."""


def _cross_fit(fits: _Fits, found: Evaluations, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Apply surrogates to the folds that they were not fitted to.

    Returns:
      mean Shapley values of the surrogates, `[Q, N]`; what each predicts for its fold's rows, `[B, Q]`; their mean
      prediction for nobody and for all, `[2, Q]`. A fold counts in means by its rows, as it does in the residuals.
    """
    num_queries = found.utilities.shape[1]
    values, at_ends = np.zeros((num_queries, found.num_sources)), np.zeros((2, num_queries))
    predicted = np.zeros(found.utilities.shape)
    for own, (predict, of_surrogate) in enumerate(fits):
        held = fold == own
        values += held.mean() * of_surrogate
        at_ends += held.mean() * predict(none_and_all(found.num_sources).astype(np.float64))
        for masks, rows in found.blocks():
            here = held[rows]
            predicted[rows][here] = predict(masks[here])
    return values, predicted, at_ends


def _linear(found: Evaluations, fold: np.ndarray, rng: np.random.Generator) -> _Fits:
    """Ridge regression, its penalty by generalised cross-validation: a linear game's values are its coefficients."""
    del rng
    inside = (fold[:, None] == np.arange(fold.max() + 1)).astype(np.float64)
    counts, sums = inside.sum(axis=0), found.moments(inside)
    grams = np.zeros((len(counts), found.num_sources, found.num_sources))
    for masks, rows in found.blocks():
        for own, gram in enumerate(grams):
            members = masks[fold[rows] == own]
            gram += members.T @ members
    whole = grams.sum(axis=0)
    for own, gram in enumerate(grams):
        number, outside = len(fold) - counts[own], fold != own
        mean = (sums.sum(axis=0) - sums[own]) / number
        size, vectors = linalg.eigh(whole - gram - number * np.outer(mean, mean))
        intercept = found.utilities[outside].mean(axis=0)
        apart = np.where(outside[:, None], found.utilities - intercept, 0.0)
        coef = _ridge(np.maximum(size, 0.0), found.moments(apart) @ vectors, (apart**2).sum(axis=0), number)
        yield functools.partial(_affine, intercept, mean, coef @ vectors.T), coef @ vectors.T


def _ridge(size: np.ndarray, along: np.ndarray, spread: np.ndarray, number: float) -> np.ndarray:
    """Ridge coefficients `[Q, N]` in the basis of the eigenvectors.

    Args:
      size: `[N]` eigenvalues of the centred Gram matrix.
      along: `[Q, N]` products of columns and target, in that basis.
      spread: `[Q]` squared norms of the centred targets.
      number: rows.
    """
    alpha = np.geomspace(1e-6, 1e4, 21)[:, None, None]
    coef = along / (size + alpha)  # [penalties, Q, N]
    left = spread - 2 * (coef * along).sum(axis=2) + (size * coef**2).sum(axis=2)
    degrees = 1 + (size / (size + alpha)).sum(axis=2)
    best = np.argmin(left / np.maximum(1 - degrees / number, 1 / number) ** 2, axis=0)
    chosen: np.ndarray = coef[best, np.arange(len(along))]
    return chosen


def _affine(intercept: np.ndarray, mean: np.ndarray, slope: np.ndarray, masks: np.ndarray) -> np.ndarray:
    predicted: np.ndarray = intercept + (masks - mean) @ slope.T
    return predicted


def _trees(found: Evaluations, fold: np.ndarray, rng: np.random.Generator) -> _Fits:
    """Gradient boosting for all queries and folds at once; the values of trees are known."""
    num_folds, num_queries = fold.max() + 1, found.utilities.shape[1]
    rows = rng.permutation(len(fold))[:_MOST_TREE_ROWS]
    masks = np.unpackbits(found.packed[rows], axis=1, count=found.num_sources, bitorder="little")
    outside = np.repeat(fold[rows, None] != np.arange(num_folds), num_queries, axis=1)
    key = jax.random.key(int(rng.integers(2**31)))
    forest = boosting.boost(key, masks, np.tile(found.utilities[rows], (1, num_folds)), outside)
    values = forest.shapley(found.num_sources)
    for own in range(num_folds):
        targets = slice(own * num_queries, (own + 1) * num_queries)
        yield functools.partial(forest.predict, targets=targets), values[targets]


_SURROGATES = {"linear": _linear, "trees": _trees}
