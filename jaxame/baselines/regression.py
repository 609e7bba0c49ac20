"""Estimators that fit a model of the game first: the LASSO of datamodels, and what a surrogate leaves to be sampled."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxame import checks
from jaxame.attribution import Attribution
from jaxame.baselines.evaluation import Evaluations
from jaxame.baselines.kernel import by_expected_covariance, sample_by_size
from jaxame.estimators import ame
from jaxame.laws import PointMass

SURROGATES = ("linear", "trees")


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
      surrogate: "linear", ridge regression with a cross-validated penalty; "trees", gradient boosting.
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
    masks = np.concatenate([block.astype(bool) for block, _ in found.blocks()])
    unit = np.arange(len(found)) // (1 + paired)
    fold = counted.rng.permutation(unit[-1] + 1)[unit] % folds
    seed = int(counted.rng.integers(2**31))
    fitted = [_cross_fit(_FIT[surrogate], masks, target, fold, seed) for target in found.utilities.T]
    values, predicted, at_ends = (np.stack(part) for part in zip(*fitted, strict=True))
    left = Evaluations(found.packed, found.utilities - predicted.T, found.num_sources)
    ends = ends - at_ends.T
    sampled, stderr = by_expected_covariance(left, ends, left.utilities - ends[0], paired)
    about = {"surrogate": surrogate, "folds": folds, "paired": paired}
    return counted.result("regression-adjusted Monte Carlo", values + sampled, stderr, **about)


def _cross_fit(
    fit: Callable, masks: np.ndarray, target: np.ndarray, fold: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit a surrogate to the rows outside of each fold.

    Returns:
      mean Shapley values of the surrogates, `[N]`; what each predicts for its fold's rows, `[B]`; their mean prediction
      for nobody and for all, `[2]`. A fold counts in means by its rows, as it does in the residuals.
    """
    values, at_ends = np.zeros(masks.shape[1]), np.zeros(2)
    predicted = np.full(len(target), np.nan)
    if not np.isfinite(target).all():
        return values * np.nan, predicted, at_ends * np.nan
    none_and_all = np.repeat([[False], [True]], masks.shape[1], axis=1)
    for own in range(fold.max() + 1):
        held = fold == own
        predict, of_surrogate = fit(masks[~held], target[~held], seed)
        values += held.mean() * of_surrogate
        at_ends += held.mean() * predict(none_and_all)
        predicted[held] = predict(masks[held])
    return values, predicted, at_ends


def _linear(masks: np.ndarray, target: np.ndarray, seed: int) -> tuple[Callable, np.ndarray]:
    """Ridge regression: a linear game's values are its coefficients."""
    from sklearn.linear_model import RidgeCV

    del seed
    model = RidgeCV(alphas=np.geomspace(1e-6, 1e4, 21)).fit(masks, target)
    return model.predict, model.coef_


def _trees(masks: np.ndarray, target: np.ndarray, seed: int) -> tuple[Callable, np.ndarray]:
    """Gradient boosting; the values of a sum of trees are summed over their leaves."""
    from sklearn.ensemble import GradientBoostingRegressor

    model = GradientBoostingRegressor(max_depth=4, subsample=0.8, max_features=0.5, random_state=seed)
    model.fit(masks, target)
    values = np.zeros(masks.shape[1])
    for (tree,) in model.estimators_:
        _add_leaves(tree.tree_, values, model.learning_rate)
    return model.predict, values


def _add_leaves(tree: Any, values: np.ndarray, rate: float) -> None:
    """Add the Shapley values of one tree over memberships to `values [N]`.

    A leaf that is reached if all of `a` sources are in and all of `b` are out gives each of the former
    `(a-1)! b! / (a+b)!` of its value and takes `a! (b-1)! / (a+b)!` from each of the latter.
    """
    waiting: list[tuple[int, frozenset[int], frozenset[int]]] = [(0, frozenset(), frozenset())]
    while waiting:
        node, there, absent = waiting.pop()
        if tree.children_left[node] < 0:
            a, b, value = len(there), len(absent), rate * tree.value[node, 0, 0]
            for source in there:
                values[source] += value / (a * math.comb(a + b, a))
            for source in absent:
                values[source] -= value / (b * math.comb(a + b, b))
            continue
        source = int(tree.feature[node])
        if source not in there:
            waiting.append((tree.children_left[node], there, absent | {source}))
        if source not in absent:
            waiting.append((tree.children_right[node], there | {source}, absent))


_FIT = {"linear": _linear, "trees": _trees}
