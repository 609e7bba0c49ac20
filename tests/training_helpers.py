"""A small training game that several test modules share, so that they compile the same few shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxame import data, queries
from jaxame.submodels import TrainingGame, mlp

NUM_EXAMPLES, NUM_STEPS, BATCH_SIZE, TILE = 60, 64, 8, 4
RATE, MOMENTUM = 0.1, 0.9
SET = data.digits().take(np.arange(NUM_EXAMPLES))
SHARED_KEY = jax.random.key(11)
momentum_sgd = optax.sgd(RATE, momentum=MOMENTUM)


def mesh_of(num_devices):
    return Mesh(np.array(jax.devices()[:num_devices]), ("submodels",))


def make_game(**changes):
    arguments = {
        "model": mlp((64, 12, 10)),
        "optimizer": momentum_sgd,
        "x": SET.x,
        "y": SET.y,
        "query": queries.logit_margin(SET.x[:5], SET.y[:5]),
        "num_steps": NUM_STEPS,
        "batch_size": BATCH_SIZE,
        "feed": "masked",
        "shared_key": SHARED_KEY,
        "tile": TILE,
        "mesh": mesh_of(1),
    }
    return TrainingGame(**arguments | changes)


def draw_rows(num_rows, num_sources=NUM_EXAMPLES):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(5), jnp.arange(num_rows))
    return keys, np.random.default_rng(5).random((num_rows, num_sources)) < 0.5


def assert_trees_equal(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_trees_close(one, other, **tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)
