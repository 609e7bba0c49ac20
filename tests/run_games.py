"""Games that the command line makes in tests, by name."""

import time

import numpy as np
import optax

from jaxame import queries
from jaxame.games import Threshold
from jaxame.submodels import TrainingGame, logistic


def threshold(num_sources: int = 12, seconds: float = 0.0):
    """Two of three sources decide; a call takes some seconds."""
    game = Threshold(num_sources, [1, 2, 3], 2)

    def slow(keys, masks):
        time.sleep(seconds)
        return np.asarray(game(keys, masks))

    slow.num_sources, slow.chunk_size = num_sources, 16
    slow.fingerprint = {"num_sources": num_sources}
    return slow


_RNG = np.random.default_rng(0)
_X, _Y = _RNG.normal(size=(30, 4)).astype(np.float32), _RNG.integers(0, 3, 30)


def keeping():
    """Logistic regression that keeps its outputs on five points."""
    query = queries.accuracy(_X, _Y)
    return TrainingGame(logistic(4, 3), optax.sgd(0.5), _X, _Y, query=query, num_steps=4, batch_size=10, keep=_X[:5])


def margins(number: int):
    """Logit margins on the first points."""
    return queries.logit_margin(_X[:number], _Y[:number])


NOTHING = 3


def broken():
    """A factory with a bug."""
    return len(NOTHING)
