"""Tests of training one submodel: against plain NumPy, for both feeds, and that nothing excluded leaks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_helpers import (
    BATCH_SIZE,
    MOMENTUM,
    NUM_EXAMPLES,
    NUM_STEPS,
    RATE,
    SET,
    SHARED_KEY,
    assert_trees_close,
    assert_trees_equal,
    make_game,
    momentum_sgd,
)

from jaxame import queries
from jaxame.submodels import as_model, bag_of_embeddings, cnn, logistic, mlp, resnet9
from jaxame.submodels.feeds import Examples, example_order, gathered_batches, masked_batches
from jaxame.submodels.training import Recipe, batch_gradient, fit, share

cross_entropy = optax.softmax_cross_entropy_with_integer_labels
EVERY = np.arange(NUM_EXAMPLES, dtype=np.int32)
OWN_BATCH = BATCH_SIZE // 2
ORDER = example_order(SHARED_KEY, NUM_EXAMPLES, NUM_STEPS * BATCH_SIZE)


def recipe_of(model, x=SET.x, **changes):
    arguments = {
        "model": as_model(model, x),
        "optimizer": momentum_sgd,
        "loss": cross_entropy,
        "num_steps": NUM_STEPS,
        "batch_size": BATCH_SIZE,
    }
    return Recipe(**arguments | changes)


def train(recipe, examples, mask, key=0):
    examples = share(recipe, examples, SHARED_KEY, share_init=False)
    return jax.jit(functools.partial(fit, recipe))(examples, jax.random.key(key), SHARED_KEY, mask)


# The reference: the same training in float64 NumPy, written without the package.


def numpy_slopes(params, x, y, included):
    w1, b1, w2, b2 = params
    hidden = np.maximum(x @ w1 + b1, 0)
    logits = hidden @ w2 + b2
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    d_logits = (probabilities - np.eye(logits.shape[1])[y]) * included[:, None] / included.sum()
    d_hidden = (d_logits @ w2.T) * (hidden > 0)
    return [x.T @ d_hidden, d_hidden.sum(0), hidden.T @ d_logits, d_logits.sum(0)]


def numpy_training(params, order, mask):
    params = [np.asarray(p, np.float64) for p in params]
    velocity = [np.zeros_like(p) for p in params]
    x = SET.x.reshape(NUM_EXAMPLES, -1).astype(np.float64)
    for rows in order:
        if not mask[rows].any():
            continue
        slopes = numpy_slopes(params, x[rows], SET.y[rows], mask[rows])
        velocity = [MOMENTUM * v + s for v, s in zip(velocity, slopes, strict=True)]
        params = [p - RATE * v for p, v in zip(params, velocity, strict=True)]
    return params


def batches_of(feed, mask):
    """The examples of each step, by plain Python: the gathered feed leaves out, and starts again at the end."""
    order = np.asarray(ORDER)
    if feed == "masked":
        return order[: NUM_STEPS * BATCH_SIZE].reshape(NUM_STEPS, BATCH_SIZE)
    return np.resize([example for example in order if mask[example]], (NUM_STEPS, OWN_BATCH))


def as_list(params):
    layers = params["layers"]
    return [part for i in (0, 1) for part in (layers[i]["kernel"][...].T, layers[i]["bias"][...])]


@pytest.fixture(scope="module")
def games():
    return {feed: make_game(feed=feed) for feed in ("masked", "gathered")}


both_feeds = pytest.mark.parametrize("feed", ["masked", "gathered"])


@both_feeds
@pytest.mark.parametrize("num_included", [2, 30, NUM_EXAMPLES])
def test_training_agrees_with_numpy(games, feed, num_included):
    # With two examples most masked batches are empty: such a step must leave the momentum alone too.
    mask = np.arange(NUM_EXAMPLES) < num_included
    key = jax.random.key(3)
    untrained = games[feed].train(key, np.zeros(NUM_EXAMPLES, bool))
    expected = numpy_training(as_list(untrained), batches_of(feed, mask), mask)
    assert_trees_close(as_list(games[feed].train(key, mask)), expected, rtol=2e-4, atol=2e-5)


@both_feeds
def test_the_empty_subset_gives_the_untrained_model(games, feed):
    key = jax.random.key(3)
    empty = games[feed].train(key, np.zeros(NUM_EXAMPLES, bool))
    assert_trees_close(empty, as_model(mlp((64, 12, 10)), SET.x).init(key), rtol=1e-6)


# Feeds.


def test_the_order_is_whole_epochs():
    order = np.asarray(example_order(jax.random.key(0), 10, 36))
    assert order.shape == (40,)
    assert all(sorted(epoch) == list(range(10)) for epoch in order.reshape(4, 10))
    assert len(np.unique(order.reshape(4, 10), axis=0)) == 4
    np.testing.assert_array_equal(example_order(jax.random.key(0), 10, 11), order[:20])
    assert (example_order(jax.random.key(1), 10, 36) != order).any()


@pytest.mark.parametrize("num_included", [0, 1, 3, 30, NUM_EXAMPLES])
def test_gathered_batches_hold_own_examples_equally_often(num_included):
    mask = np.random.default_rng(2).permutation(NUM_EXAMPLES) < num_included
    examples, has_own = gathered_batches(ORDER, jnp.asarray(mask), NUM_STEPS, OWN_BATCH)
    assert examples.shape == (NUM_STEPS, OWN_BATCH)
    assert has_own == (num_included > 0)
    if num_included:
        np.testing.assert_array_equal(examples, batches_of("gathered", mask))
        uses = np.bincount(np.asarray(examples).ravel(), minlength=NUM_EXAMPLES)
        assert not uses[~mask].any()
        assert np.ptp(uses[mask]) <= 1


def test_masked_batches_hold_everything():
    mask = np.arange(NUM_EXAMPLES) < 7
    examples, counts = masked_batches(ORDER, jnp.asarray(mask), NUM_STEPS, BATCH_SIZE)
    np.testing.assert_array_equal(examples, batches_of("masked", mask))
    np.testing.assert_array_equal(counts, mask[np.asarray(examples)])


def test_an_order_of_its_own_is_addressed_by_the_submodels_key():
    recipe = recipe_of(mlp((64, 12, 10)), share_order=False, num_steps=5)
    start = recipe.model.init(jax.random.key(0))
    examples = Examples(SET.x, SET.y, EVERY, start=start)
    mask = np.ones(NUM_EXAMPLES, bool)
    one, again, other = (train(recipe, examples, mask, key) for key in (1, 1, 2))
    assert_trees_equal(one, again)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    order = np.asarray(example_order(jax.random.key(1), NUM_EXAMPLES, 5 * BATCH_SIZE))
    expected = numpy_training(as_list(start), order[: 5 * BATCH_SIZE].reshape(5, BATCH_SIZE), mask)
    assert_trees_close(as_list(one), expected, rtol=1e-4, atol=1e-5)


def test_feeds_have_the_same_effects():
    """The difference of two estimates, in standard errors taken from ten parts of the design, is that of chance."""
    groups = np.arange(NUM_EXAMPLES) % 10
    shared = {
        "model": logistic(64, 10),
        "optimizer": optax.chain(optax.add_decayed_weights(0.05), optax.sgd(0.3)),
        "num_steps": 120,
        "batch_size": 30,
        "groups": groups,
        "tile": 32,
        "mesh": None,
    }
    rng = np.random.default_rng(0)
    num_rows, num_parts = 2000, 10
    estimates = []
    for feed in ("masked", "gathered"):
        masks = rng.random((num_rows, 10)) < 0.5
        game = make_game(feed=feed, query=queries.mean_loss(SET.x, SET.y), **shared)
        utilities = game(jax.random.split(jax.random.key(1), num_rows), masks)[:, 0]
        signed = 2.0 * masks - 1.0
        parts = zip(np.split(signed, num_parts), np.split(utilities, num_parts), strict=True)
        estimates.append(np.array([2 * np.linalg.lstsq(np.c_[x, np.ones(len(x))], u)[0][:10] for x, u in parts]))
    masked, gathered = (part.mean(axis=0) for part in estimates)
    errors = np.sqrt(sum(part.var(axis=0, ddof=1) / num_parts for part in estimates))
    assert np.abs(masked).mean() > 5 * errors.mean()  # there is something to agree on
    assert np.abs((masked - gathered) / errors).max() < 4.8  # t with 18 degrees of freedom, ten sources, 1 in 1,000


# Pieces.


@pytest.mark.parametrize("piece", [1, 3, 5, 7, 15])
def test_the_gradient_is_the_sum_of_its_pieces(piece):
    recipe = recipe_of(mlp((64, 12, 10)))
    params = recipe.model.init(jax.random.key(0))
    included = np.random.default_rng(0).random(15) < 0.5
    batch = SET.x[:15], SET.y[:15], included
    whole = batch_gradient(recipe, params, *batch)
    parts = batch_gradient(dataclasses.replace(recipe, piece=piece), params, *batch)
    assert_trees_close(parts, whole, rtol=1e-4, atol=1e-6)
    w1, b1, w2, b2 = as_list(params)
    expected = numpy_slopes((w1, b1, w2, b2), SET.x[:15].reshape(15, -1), SET.y[:15], included)
    assert_trees_close(as_list(whole), expected, rtol=1e-4, atol=1e-6)


# No leak.

COLOURED = np.repeat(SET.x[..., None], 3, axis=3)
TOKENS = np.random.default_rng(3).integers(0, 30, (NUM_EXAMPLES, 7)).astype(np.int32)
MODELS = {
    "logistic": (logistic(64, 10), SET.x),
    "mlp": (mlp((64, 12, 10)), SET.x),
    "cnn": (cnn((8, 8), 10, (4, 8)), SET.x),
    "resnet9": (resnet9(10, width=16), COLOURED),
    "bag of embeddings": (bag_of_embeddings(30, 10, width=8), TOKENS),
}
LOSSES = {
    "cross-entropy": (cross_entropy, SET.y, SET.y[::-1]),
    # Its slope overflows on the garbage, so multiplying by a zero weight would give NaN.
    "poisson": (
        lambda out, y: jnp.exp(out[:, 0]) - y * out[:, 0],
        np.ones(NUM_EXAMPLES, np.float32),
        np.full(NUM_EXAMPLES, -1e30, np.float32),
    ),
}
OPTIMIZERS = {
    "momentum and weight decay": optax.chain(optax.add_decayed_weights(0.01), momentum_sgd),
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
}
# About a third of the masked batches of three hold no included example.
LEAK_MASK = np.random.default_rng(1).random(NUM_EXAMPLES) < 0.3
CASES = [(model, "cross-entropy", "momentum and weight decay") for model in MODELS] + [
    ("mlp", "poisson", "adamw"),
    ("mlp", "poisson", "momentum and weight decay"),
]


def garbage_like(x):
    """Finite nonsense: huge pixels, or other tokens."""
    return (x + 11) % 30 if x.dtype == np.int32 else 1e6 * (1 + x)


@both_feeds
@pytest.mark.parametrize(("model_name", "loss_name", "optimizer_name"), CASES)
def test_excluded_examples_do_not_leak(model_name, loss_name, optimizer_name, feed):
    model, x = MODELS[model_name]
    loss, y, garbage_y = LOSSES[loss_name]
    recipe = recipe_of(
        model,
        x,
        loss=loss,
        optimizer=OPTIMIZERS[optimizer_name],
        num_steps=20,
        batch_size=3,
        own_batch=None if feed == "masked" else 2,
        piece=2,
    )
    keep = LEAK_MASK.reshape(-1, *(1,) * (x.ndim - 1))
    run = jax.jit(functools.partial(fit, recipe))
    clean, dirty = (
        run(
            share(recipe, Examples(inputs, targets, EVERY), SHARED_KEY, share_init=False),
            jax.random.key(0),
            SHARED_KEY,
            LEAK_MASK,
        )
        for inputs, targets in ((x, y), (np.where(keep, x, garbage_like(x)), np.where(LEAK_MASK, y, garbage_y)))
    )
    untrained = recipe.model.init(jax.random.key(0))
    moved = [(a != b).any() for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(untrained), strict=True)]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))
    assert np.mean(moved) > 0.5  # there was training
    assert_trees_equal(clean, dirty)


def test_the_leak_test_can_fail():
    """A loss that looks at the whole batch leaks, and the comparison above sees it."""

    def leaky(outputs, y):
        return cross_entropy(outputs - outputs.mean(axis=0), y)

    recipe = recipe_of(mlp((64, 12, 10)), loss=leaky, num_steps=5)
    garbage = np.where(LEAK_MASK[:, None, None], SET.x, 1 + SET.x)
    one, other = (train(recipe, Examples(x, SET.y, EVERY), LEAK_MASK) for x in (SET.x, garbage))
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


# Augmentation and schedules.


def test_augmentation_is_addressed_and_takes_part():
    def shift(key, x):
        return x + jax.random.normal(key, ())

    changes = {"num_steps": 5, "augment": shift}
    mask = np.ones(NUM_EXAMPLES, bool)
    examples = Examples(SET.x, SET.y, EVERY)
    plain = train(recipe_of(mlp((64, 12, 10)), num_steps=5), examples, mask)
    one, again = (train(recipe_of(mlp((64, 12, 10)), **changes), examples, mask) for _ in range(2))
    assert_trees_equal(one, again)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(plain), strict=True))


def test_a_schedule_counts_the_steps_that_changed_something():
    """With one example in sixty most batches are empty; the rate, 1 then 0, must be 1 at the first that is not."""
    schedule = optax.piecewise_constant_schedule(1.0, {1: 0.0})
    recipe = recipe_of(mlp((64, 12, 10)), optimizer=optax.sgd(schedule))
    order = batches_of("masked", None)
    alone = order[-1, 0]  # whose first use is not in the first step
    assert alone not in order[0]
    trained = train(recipe, Examples(SET.x, SET.y, EVERY), alone == EVERY)
    untrained = recipe.model.init(jax.random.key(0))
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(trained), jax.tree.leaves(untrained), strict=True))
