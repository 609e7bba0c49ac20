"""Estimators that compare test points with training examples by the features that a trained model has of them."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxame import checks
from jaxame.attribution import Attribution
from jaxame.baselines.evaluation import finite_points
from jaxame.baselines.trained import mean_over_models, with_labels
from jaxame.submodels import TrainingGame

Features = Callable[[Any, jax.Array], jax.Array]
"""Parameters and inputs `[m, ...]` to features `[m, D]`."""


def representer_points(
    game: Any,
    *,
    key: jax.Array,
    budget: int,
    test_x: Any,
    test_y: Any,
    features: Features | None = None,
    penalty: float = 1e-2,
) -> Attribution:
    """Split the logit of each test point's label into what every training example gives to it.

    A last layer, linear and without bias, is fitted anew to the features with an L2 penalty; at its optimum a logit is
    a sum over the training examples. The budget counts models, each trained on everything with a key of its own.

    Args:
      game: a `TrainingGame` with integer labels.
      key: one typed key.
      budget: models, at least 1.
      test_x: `[Q, ...]` test inputs, in the unit of the training inputs.
      test_y: `[Q]` the labels asked about, each that of some training example.
      features: by default the outputs of the model.
      penalty: `L` in the mean loss plus `L/2` times the sum of squares of the weights, above 0.

    Returns:
      An `Attribution`, values `[Q, N]` in logits, means over the models, with standard errors from two on. With one
      model they sum to the logit of the refitted layer; of two classes, to the log-odds.

    Raises:
      ValueError: for another game, for test points that do not fit, and for a bad key, budget or penalty.

    References:
      Yeh, Kim, Yen, Ravikumar, Representer Point Selection for Explaining Deep Neural Networks, NeurIPS 2018.
    """
    from sklearn.linear_model import LogisticRegression

    checks.require(penalty > 0, "a penalty above 0", penalty)
    asked_x, asked_y = _points(game, test_x, test_y)
    y = game.data.y
    classes = np.unique(y)
    known = bool(np.isin(asked_y, classes).all()) and len(classes) > 1
    checks.require(known, f"test labels among the training labels, {classes.tolist()}", asked_y.tolist())
    weight = 1 / (penalty * len(y))

    def scores(own: np.ndarray, asked: np.ndarray) -> np.ndarray:
        layer = LogisticRegression(C=weight, fit_intercept=False, tol=1e-8, max_iter=10_000).fit(own, y)
        missing = (y[:, None] == classes) - layer.predict_proba(own)
        parts: np.ndarray = weight * missing[:, np.searchsorted(classes, asked_y)].T * (asked @ own.T)
        return parts

    return _mean(game, key, budget, asked_x, features, "representer points", scores, penalty=penalty)


def feature_similarity(
    game: Any, *, key: jax.Array, budget: int, test_x: Any, test_y: Any, features: Features | None = None
) -> Attribution:
    """Value an example by how near it is to each test point: the cosine of their features.

    It counts for the label asked about if it has that label, and against it if it has another.

    Args:
      game: a `TrainingGame` with integer labels.
      key: one typed key.
      budget: models that features are taken from, at least 1.
      test_x: `[Q, ...]` test inputs, in the unit of the training inputs.
      test_y: `[Q]` the labels asked about.
      features: by default the outputs of the model.

    Returns:
      An `Attribution`, values `[Q, N]` from -1 to 1, means over the models, with standard errors from two on.

    Raises:
      ValueError: for another game, for test points that do not fit, and for a bad key or budget.

    References:
      Hanawa, Yokoi, Hara, Inui, Evaluation of Similarity-based Explanations, ICLR 2021.
    """
    asked_x, asked_y = _points(game, test_x, test_y)
    sign = np.where(game.data.y == asked_y[:, None], 1.0, -1.0)

    def scores(own: np.ndarray, asked: np.ndarray) -> np.ndarray:
        values: np.ndarray = sign * (_of_norm_1(asked) @ _of_norm_1(own).T)
        return values

    return _mean(game, key, budget, asked_x, features, "feature similarity", scores)


def _of_norm_1(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


def _points(game: Any, test_x: Any, test_y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check the test points `[Q, ...]`, and their labels `[Q]`, against the game's data."""
    data, test_x, test_y = with_labels(game).data, np.asarray(test_x), np.asarray(test_y)
    fits = test_x.shape[1:] == data.x.shape[1:] and test_y.shape == test_x.shape[:1] and len(test_y) > 0
    fits = fits and np.issubdtype(test_y.dtype, np.integer)
    needs = f"test_x [Q, {', '.join(map(str, data.x.shape[1:]))}] and integer test_y [Q]"
    checks.require(fits, needs, f"{checks.describe(test_x)} and {checks.describe(test_y)}")
    finite_points(test_x)
    return test_x.astype(data.x.dtype), test_y


def _mean(
    game: TrainingGame,
    key: jax.Array,
    budget: int,
    asked_x: np.ndarray,
    features: Features | None,
    method: str,
    scores: Callable[[np.ndarray, np.ndarray], np.ndarray],
    **about: Any,
) -> Attribution:
    """Make a result of `scores(features of examples [n, D], of points [Q, D]) [Q, n]` of every model."""
    of = jax.jit(features or game.model.apply)

    def compared(params: Any, _: jax.Array) -> tuple[np.ndarray, None]:
        own, asked = (np.asarray(of(params, x), np.float64) for x in (game.data.x, asked_x))
        diverged = not (np.isfinite(own).all() and np.isfinite(asked).all())
        return np.full((len(asked), len(own)), np.nan) if diverged else scores(own, asked), None

    return mean_over_models(game, key, budget, method, compared, about)
