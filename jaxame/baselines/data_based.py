"""Estimators that look at the training data instead of training on subsets of it."""

from typing import Any

import jax
import numpy as np
from scipy.spatial import distance

from jaxame import checks
from jaxame.attribution import Attribution
from jaxame.baselines.evaluation import attribution, finite_points
from jaxame.types import TrainingData


def knn_shapley(
    game: Any, *, key: jax.Array, budget: int, test_x: Any, test_y: Any, num_neighbours: int = 5
) -> Attribution:
    """Compute the Shapley values of a nearest-neighbour classifier in place of those of the game.

    By the exact recursion, `N log N` for a test point; the values of the game are `jaxame.games.NearestNeighbours`.
    Inputs are compared as they are, by Euclidean distance; hand in features for other ones.

    Args:
      game: with `data`, each example a source.
      key: not used, as nothing is random.
      budget: not used, as nothing is evaluated.
      test_x: `[Q, ...]` test inputs, in the unit of the training inputs.
      test_y: `[Q]` their labels.
      num_neighbours: `K`.

    Returns:
      An `Attribution`, values `[Q, N]` in probability of the right label; without standard errors.

    Raises:
      ValueError: for a game without data or of sources of several examples, and for test points that do not fit.

    References:
      Jia et al., Efficient Task-Specific Data Valuation for Nearest Neighbor Algorithms, VLDB 2019, theorem 1.
    """
    checks.typed_key(key)
    checks.count(budget, "budget", 0)
    data, num_neighbours = _examples(game), checks.count(num_neighbours, "num_neighbours")
    size = len(data.x)
    x, test_x, test_y = data.x.reshape(size, -1), np.asarray(test_x, np.float64), np.asarray(test_y)
    fits = test_x.ndim > 1 and test_x[:1].size == x.shape[1] and test_y.shape == test_x.shape[:1]
    needs = f"test_x [Q, ...] of {x.shape[1]} numbers each and test_y [Q]"
    checks.require(fits, needs, f"{checks.describe(test_x)} and {checks.describe(test_y)}")
    finite_points(test_x)
    order = np.argsort(distance.cdist(test_x.reshape(len(test_x), -1), x), axis=1, kind="stable")
    right = (data.y[order] == test_y[:, None]).astype(np.float64)
    # From the farthest example to the nearest: two neighbours in rank differ by what one may do in the other's place.
    rank = np.arange(1, size)
    steps = np.diff(right, axis=1) * np.minimum(num_neighbours, rank) / (num_neighbours * rank)
    farthest = right[:, -1:] * min(num_neighbours, size) / (num_neighbours * size)
    nearer = farthest - np.cumsum(steps[:, ::-1], axis=1)[:, ::-1]
    values = np.empty(right.shape)
    np.put_along_axis(values, order, np.concatenate([nearer, farthest], axis=1), axis=1)
    about = {"num_neighbours": num_neighbours, "budget": budget, "evaluations": 0}
    return attribution(game, "KNN-Shapley", values, None, np.zeros((0, len(values))), about)


def data_oob(game: Any, *, key: jax.Array, budget: int) -> Attribution:
    """Value an example by how often trees of a bagged ensemble that have not seen it get its label right.

    Args:
      game: with `data`, each example a source and `y` labels.
      key: one typed key.
      budget: trees, each fitted once, at least 2.

    Returns:
      An `Attribution`, values `[1, N]` in probability of the right label, with standard errors given the data; NaN for
      an example that every tree has seen.

    Raises:
      ValueError: for a smaller budget, and for a game without data or of sources of several examples.

    References:
      Kwon and Zou, Data-OOB: Out-of-bag Estimate as a Simple and Efficient Data Value, ICML 2023.
    """
    from sklearn.tree import DecisionTreeClassifier

    data = _examples(game)
    budget, size = checks.count(budget, "budget", 0), len(data.x)
    checks.require(budget >= 2, f"a budget of at least 2 evaluations for {size} sources", budget)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(checks.typed_key(key))).tolist())
    x = data.x.reshape(size, -1)
    right, seen_not = np.zeros(size), np.zeros(size)
    accuracy = []
    for _ in range(budget):
        bag = rng.integers(0, size, size)
        tree = DecisionTreeClassifier(random_state=int(rng.integers(2**31))).fit(x[bag], data.y[bag])
        outside = np.setdiff1d(np.arange(size), bag)
        if not outside.size:
            continue
        correct = tree.predict(x[outside]) == data.y[outside]
        right[outside] += correct
        seen_not[outside] += 1
        accuracy.append(correct.mean())
    with np.errstate(divide="ignore", invalid="ignore"):
        values = right / seen_not
        stderr = np.sqrt(values * (1 - values) / (seen_not - 1))
    about = {"budget": budget, "evaluations": budget}
    return attribution(game, "Data-OOB", values[None], stderr[None], np.array(accuracy).reshape(-1, 1), about)


def _examples(game: Any) -> TrainingData:
    """The game's training data, each example a source in its own place."""
    data = getattr(game, "data", None)
    needs = "a game with data, such as TrainingGame, as this estimator looks at the examples"
    checks.require(isinstance(data, TrainingData), needs, type(game).__name__)
    assert isinstance(data, TrainingData)
    alone = np.array_equal(data.source, np.arange(len(data.x)))
    checks.require(alone, "each example to be a source of its own", f"{len(data.x)} examples in other sources")
    return data
