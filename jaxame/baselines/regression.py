"""Estimators that fit a model of the game first: the LASSO of datamodels, and what a surrogate leaves to be sampled."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np
from scipy import linalg

from jaxame import checks
from jaxame.attribution import Attribution
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
      surrogate: "linear", ridge regression with a cross-validated penalty; "trees", gradient boosting, fitted to 32,768
        evaluations at most.
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
    fit = _SURROGATES[surrogate](found, fold, int(counted.rng.integers(2**31)))
    fitted = [_cross_fit(fit, found, target, fold) for target in found.utilities.T]
    values, predicted, at_ends = (np.stack(part) for part in zip(*fitted, strict=True))
    left = dataclasses.replace(found, utilities=found.utilities - predicted.T)
    ends = ends - at_ends.T
    sampled, stderr = by_expected_covariance(left, ends, left.utilities - ends[0], paired)
    about = {"surrogate": surrogate, "folds": folds, "paired": paired}
    return counted.result("regression-adjusted Monte Carlo", values + sampled, stderr, **about)


_Predict: TypeAlias = Callable[[np.ndarray], np.ndarray]
_Fit: TypeAlias = Callable[[np.ndarray, int], tuple[_Predict, np.ndarray]]
"""Fits a target `[B]` on the rows outside of a fold; returns what predicts from masks, and its Shapley values `[N]`."""


def _cross_fit(
    fit: _Fit, found: Evaluations, target: np.ndarray, fold: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit a surrogate to the rows outside of each fold.

    Returns:
      mean Shapley values of the surrogates, `[N]`; what each predicts for its fold's rows, `[B]`; their mean prediction
      for nobody and for all, `[2]`. A fold counts in means by its rows, as it does in the residuals.
    """
    values, at_ends = np.zeros(found.num_sources), np.zeros(2)
    predicted = np.full(len(target), np.nan)
    if not np.isfinite(target).all():
        return values * np.nan, predicted, at_ends * np.nan
    for own in range(fold.max() + 1):
        held = fold == own
        predict, of_surrogate = fit(target, own)
        values += held.mean() * of_surrogate
        at_ends += held.mean() * predict(none_and_all(found.num_sources).astype(np.float64))
        for masks, rows in found.blocks():
            here = held[rows]
            predicted[rows][here] = predict(masks[here])
    return values, predicted, at_ends


def _linear(found: Evaluations, fold: np.ndarray, seed: int) -> _Fit:
    """Ridge regression, its penalty by generalised cross-validation: a linear game's values are its coefficients."""
    del seed
    inside = (fold[:, None] == np.arange(fold.max() + 1)).astype(np.float64)
    counts, sums = inside.sum(axis=0), found.moments(inside)
    grams = np.zeros((len(counts), found.num_sources, found.num_sources))
    for masks, rows in found.blocks():
        for own, gram in enumerate(grams):
            members = masks[fold[rows] == own]
            gram += members.T @ members
    number, total, whole = counts.sum() - counts, sums.sum(axis=0) - sums, grams.sum(axis=0)
    mean = total / number[:, None]
    systems = [
        linalg.eigh(whole - gram - n * np.outer(centre, centre))
        for gram, n, centre in zip(grams, number, mean, strict=True)
    ]
    alpha = np.geomspace(1e-6, 1e4, 21)[:, None]

    def fit(target: np.ndarray, own: int) -> tuple[_Predict, np.ndarray]:
        size, vectors = np.maximum(systems[own][0], 0.0), systems[own][1]
        n, intercept = number[own], target[fold != own].mean()
        apart = np.where(fold != own, target - intercept, 0.0)
        along = vectors.T @ found.moments(apart[:, None])[0]
        coef = along / (size + alpha)
        left = apart @ apart - 2 * coef @ along + (size * coef**2).sum(axis=1)
        degrees = 1 + (size / (size + alpha)).sum(axis=1)
        best = np.argmin(left / np.maximum(1 - degrees / n, 1 / n) ** 2)
        slope = vectors @ coef[best]
        return lambda masks: intercept + (masks - mean[own]) @ slope, slope

    return fit


def _trees(found: Evaluations, fold: np.ndarray, seed: int) -> _Fit:
    """Gradient boosting; the values of a sum of trees are summed over their leaves."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(seed)

    def fit(target: np.ndarray, own: int) -> tuple[_Predict, np.ndarray]:
        rows = np.flatnonzero(fold != own)
        rows = rows if rows.size <= _MOST_TREE_ROWS else rng.choice(rows, _MOST_TREE_ROWS, replace=False)
        masks = np.unpackbits(found.packed[rows], axis=1, count=found.num_sources, bitorder="little")
        model = HistGradientBoostingRegressor(
            max_depth=4, max_features=0.5, min_samples_leaf=5, early_stopping=False, random_state=seed
        )
        with threadpool_limits(1, "openmp"):  # threads that wait for each other cost more than they save
            model.fit(masks, target[rows])

        def predict(asked: np.ndarray) -> np.ndarray:
            with threadpool_limits(1, "openmp"):
                return model.predict(asked)

        values = np.zeros(found.num_sources)
        for (tree,) in model._predictors:  # there is no public way to the trees
            _add_leaves(tree.nodes, values)
        return predict, values

    return fit


def _add_leaves(nodes: np.ndarray, values: np.ndarray) -> None:
    """Add the Shapley values of one tree over memberships to `values [N]`.

    A leaf that is reached if all of `a` sources are in and all of `b` are out gives each of the former
    `(a-1)! b! / (a+b)!` of its value and takes `a! (b-1)! / (a+b)!` from each of the latter.
    """
    waiting: list[tuple[int, frozenset[int], frozenset[int]]] = [(0, frozenset(), frozenset())]
    while waiting:
        number, there, absent = waiting.pop()
        node = nodes[number]
        if node["is_leaf"]:
            a, b, value = len(there), len(absent), node["value"]
            for source in there:
                values[source] += value / (a * math.comb(a + b, a))
            for source in absent:
                values[source] -= value / (b * math.comb(a + b, b))
            continue
        source = int(node["feature_idx"])
        if source not in there:
            waiting.append((node["left"], there, absent | {source}))
        if source not in absent:
            waiting.append((node["right"], there | {source}, absent))


_SURROGATES = {"linear": _linear, "trees": _trees}
