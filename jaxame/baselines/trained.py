"""What estimators share that look into models trained on everything, each on a key of its own."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxame import checks
from jaxame.attribution import Attribution
from jaxame.baselines.counting import standard_error
from jaxame.baselines.evaluation import attribution
from jaxame.submodels import TrainingGame

_SUBSET_STREAM = 2**32 - 3
Params = Any
"""A pytree of parameters, or of a direction in them; with a leading axis where so said."""


def checked(game: Any) -> TrainingGame:
    """Return a game that trains."""
    checks.require(isinstance(game, TrainingGame), "a TrainingGame, as its model is looked into", type(game).__name__)
    trained: TrainingGame = game
    return trained


def with_labels(game: Any) -> TrainingGame:
    """Return a game that trains on labels."""
    trained = checked(game)
    y = trained.data.y
    checks.require(y.ndim == 1 and np.issubdtype(y.dtype, np.integer), "integer labels [n]", checks.describe(y))
    return trained


def trained(
    game: TrainingGame,
    key: jax.Array,
    budget: int,
    train: Callable[[jax.Array], Params] | None = None,
    inclusion: float = 1.0,
) -> Iterator[tuple[Params, jax.Array]]:
    """Yield what `train` gives for each of `budget` keys, and the key.

    By default it trains on every source with probability `inclusion`.
    """
    for number in range(checks.count(budget, "budget")):
        own_key = jax.random.fold_in(checks.typed_key(key), number)
        if train is not None:
            yield train(own_key), own_key
            continue
        mask = jax.random.bernoulli(jax.random.fold_in(own_key, _SUBSET_STREAM), inclusion, (game.num_sources,))
        yield game.train(own_key, np.asarray(mask)), own_key


def by_source(game: TrainingGame, scores: np.ndarray) -> np.ndarray:
    """Sum `scores [Q, n]` over the examples of every source, `[Q, N]`."""
    return np.stack([np.bincount(game.data.source, row, game.num_sources) for row in scores])


def mean_over_models(
    game: TrainingGame,
    key: jax.Array,
    budget: int,
    method: str,
    scores: Callable[[Params, jax.Array], tuple[np.ndarray, np.ndarray | None]],
    about: dict[str, Any],
    train: Callable[[jax.Array], Params] | None = None,
) -> Attribution:
    """Make a result of what `scores(params, key)` gives of every model: `[Q, n]`, and the utilities `[Q]` if any."""
    draws, utilities = [], []
    for found, of_model in (scores(*model) for model in trained(game, key, budget, train)):
        draws.append(by_source(game, found))
        utilities += [] if of_model is None else [of_model]
    values, stderr = np.mean(draws, axis=0), standard_error(np.array(draws))
    seen = np.array(utilities).reshape(len(utilities), len(values))
    return attribution(game, method, values, stderr, seen, {"budget": budget, "evaluations": budget, **about})
