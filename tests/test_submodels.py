"""Tests of the game that trains: against plain NumPy training, and bit for bit against itself."""

import dataclasses
import functools

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh

from jaxame import data, queries
from jaxame.submodels import MLP, Model, TrainingGame, as_model, mlp
from jaxame.submodels.tiles import default_tile
from jaxame.submodels.training import Feed, Recipe, example_order, fit

NUM_EXAMPLES, NUM_STEPS, BATCH_SIZE, TILE = 60, 64, 8, 4
RATE, MOMENTUM = 0.1, 0.9
SET = data.digits().take(np.arange(NUM_EXAMPLES))
ORDER_KEY = jax.random.key(11)
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
        "order_key": ORDER_KEY,
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


@pytest.fixture(scope="module")
def game():
    return make_game()


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


def as_list(params):
    layers = params["layers"]
    return [layers[i][name][...] for i in (0, 1) for name in ("kernel", "bias")]


@pytest.mark.parametrize("num_included", [2, 30, NUM_EXAMPLES])
def test_training_agrees_with_numpy(game, num_included):
    # With two examples most batches are empty: such a step must leave the momentum alone too.
    mask = np.arange(NUM_EXAMPLES) < num_included
    key = jax.random.key(3)
    untrained = game.train(key, np.zeros(NUM_EXAMPLES, bool))
    order = example_order(ORDER_KEY, NUM_EXAMPLES, NUM_STEPS, BATCH_SIZE)
    expected = numpy_training(as_list(untrained), order, mask)
    for ours, reference in zip(as_list(game.train(key, mask)), expected, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-5)


def test_the_empty_subset_gives_the_untrained_model(game):
    key = jax.random.key(3)
    fresh = nnx.state(MLP((64, 12, 10), rngs=nnx.Rngs(key)), nnx.Param)
    empty = game.train(key, np.zeros(NUM_EXAMPLES, bool))
    for ours, reference in zip(jax.tree.leaves(empty), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-6)


def test_training_on_everything_learns_the_training_set(game):
    params = game.train(jax.random.key(3), np.ones(NUM_EXAMPLES, bool))
    assert np.mean(np.argmax(game.predict(params, SET.x), axis=1) == SET.y) > 0.9


def test_train_gives_the_submodel_that_a_call_measures(game):
    keys, masks = draw_rows(3)
    margins = game.query(game.predict, game.train(keys[1], masks[1]))
    np.testing.assert_allclose(game(keys, masks)[1], margins, rtol=1e-4, atol=1e-5)


# Bit identity.


@pytest.mark.parametrize("cut", [1, 3, TILE, 7], ids="rows_per_call={}".format)
def test_cutting_rows_into_calls_changes_no_bit(game, cut):
    keys, masks = draw_rows(11)
    pieces = [game(keys[i : i + cut], masks[i : i + cut]) for i in range(0, 11, cut)]
    np.testing.assert_array_equal(np.concatenate(pieces), game(keys, masks))


def test_permuting_rows_changes_no_bit(game):
    keys, masks = draw_rows(11)
    rows = np.random.default_rng(0).permutation(11)
    np.testing.assert_array_equal(game(keys[rows], masks[rows]), game(keys, masks)[rows])


@pytest.mark.parametrize("num_devices", [2, 8])
def test_the_number_of_devices_changes_no_bit(game, num_devices):
    if jax.device_count() < num_devices:
        pytest.skip(f"needs {num_devices} devices; XLA_FLAGS=--xla_force_host_platform_device_count=8 makes them")
    keys, masks = draw_rows(num_devices * TILE + 3)
    np.testing.assert_array_equal(make_game(mesh=mesh_of(num_devices))(keys, masks), game(keys, masks))


def test_submodels_do_differ(game):
    keys, masks = draw_rows(4)
    utilities = game(keys, masks)
    assert utilities.shape == (4, 5)
    assert utilities.dtype == np.float32
    assert len(np.unique(utilities[:, 0])) == 4
    same_start = game(keys[jnp.zeros(4, int)], masks)
    assert len(np.unique(same_start[:, 0])) == 4


def test_calls_of_any_length_share_one_compilation():
    traces = []

    def counting_query(apply, params):
        traces.append(1)
        return apply(params, SET.x[:1])[0]

    keys, masks = draw_rows(9)
    game = make_game(query=counting_query, num_steps=2)
    game(keys[:1], masks[:1])
    num_traces = len(traces)
    for num_rows in (0, 3, TILE, 9):
        assert game(keys[:num_rows], masks[:num_rows]).shape == (num_rows, 10)
    game.train(keys[0], masks[0])
    assert len(traces) == num_traces


def test_a_diverging_submodel_leaves_its_neighbours_alone():
    targets = np.linspace(-1, 1, NUM_EXAMPLES).astype(np.float32)
    targets[0] = 3e38  # finite, but whoever sees it diverges
    game = make_game(y=targets, loss=lambda out, y: jnp.square(out[:, 0] - y))
    keys, masks = draw_rows(8)
    masks[:, 0] = False
    alone = game(keys, masks)
    masks[2, 0] = True
    beside = game(keys, masks)
    assert np.isfinite(alone).all()
    assert not np.isfinite(beside[2]).any()
    others = np.arange(8) != 2
    np.testing.assert_array_equal(beside[others], alone[others])


# No leak.

LOSSES = {
    "cross-entropy": (optax.softmax_cross_entropy_with_integer_labels, SET.y, SET.y[::-1]),
    # Its slope overflows on the garbage, so multiplying by a zero weight would give NaN.
    "poisson": (
        lambda out, y: jnp.exp(out[:, 0]) - y * out[:, 0],
        np.ones(NUM_EXAMPLES, np.float32),
        np.full(NUM_EXAMPLES, -1e30, np.float32),
    ),
}
OPTIMIZERS = {"momentum": momentum_sgd, "adamw": optax.adamw(1e-2, weight_decay=0.1)}


@pytest.mark.parametrize("loss_name", LOSSES)
@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_excluded_examples_do_not_leak(optimizer_name, loss_name):
    loss, y, garbage_y = LOSSES[loss_name]
    mask = np.random.default_rng(1).random(NUM_EXAMPLES) < 0.3
    order = example_order(ORDER_KEY, NUM_EXAMPLES, 40, 3)  # about a third of the batches hold no included example
    pixels = (slice(None), None, None)
    garbage_x = np.where(mask[pixels], SET.x, 1e6 * (1 + SET.x))
    recipe = Recipe(as_model(mlp((64, 12, 10)), SET.x), OPTIMIZERS[optimizer_name], loss)
    train = jax.jit(functools.partial(fit, recipe))
    clean = train(Feed(SET.x, y, order, order), jax.random.key(0), mask)
    dirty = train(Feed(garbage_x, np.where(mask, y, garbage_y), order, order), jax.random.key(0), mask)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))
    assert_trees_equal(clean, dirty)


def test_a_group_is_the_sum_of_its_examples(game):
    groups = np.arange(NUM_EXAMPLES) % 7
    grouped = make_game(groups=groups)
    keys, masks = draw_rows(3, num_sources=7)
    assert grouped.num_sources == 7
    np.testing.assert_allclose(grouped(keys, masks), game(keys, masks[:, groups]), rtol=1e-3, atol=1e-3)


# Models.


class LinenMLP(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        x = flax.linen.relu(flax.linen.Dense(12)(x.reshape(x.shape[0], -1)))
        return flax.linen.Dense(10)(x)


def pair_init(key):
    key1, key2 = jax.random.split(key)
    w1, w2 = 0.1 * jax.random.normal(key1, (64, 12)), 0.3 * jax.random.normal(key2, (12, 10))
    return [w1, jnp.zeros(12), w2, jnp.zeros(10)]


def pair_apply(params, x):
    w1, b1, w2, b2 = params
    return jax.nn.relu(x.reshape(x.shape[0], -1) @ w1 + b1) @ w2 + b2


def as_linen(params):
    w1, b1, w2, b2 = params
    return {"Dense_0": {"kernel": w1, "bias": b1}, "Dense_1": {"kernel": w2, "bias": b2}}


def as_nnx(params):
    state = nnx.state(MLP((64, 12, 10), rngs=nnx.Rngs(0)), nnx.Param)
    return jax.tree.unflatten(jax.tree.structure(state), [params[i] for i in (1, 0, 3, 2)])


@pytest.mark.parametrize(("model", "convert"), [(LinenMLP(), as_linen), (mlp((64, 12, 10)), as_nnx)])
def test_adapters_train_alike_from_the_same_parameters(model, convert):
    order = example_order(ORDER_KEY, NUM_EXAMPLES, NUM_STEPS, BATCH_SIZE)
    feed = Feed(SET.x, SET.y, order, order)
    mask = np.arange(NUM_EXAMPLES) % 2 == 0

    def trained(model, params):
        fixed_start = dataclasses.replace(as_model(model, SET.x), init=lambda _: params)
        recipe = Recipe(fixed_start, momentum_sgd, optax.softmax_cross_entropy_with_integer_labels)
        return jax.jit(functools.partial(fit, recipe))(feed, jax.random.key(0), mask)

    start = pair_init(jax.random.key(2))
    expected = convert(trained((pair_init, pair_apply), start))
    for a, b in zip(jax.tree.leaves(trained(model, convert(start))), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [mlp((64, 12, 10)), LinenMLP(), Model(pair_init, pair_apply)])
def test_initialisation_is_addressed_by_key(model):
    init = as_model(model, SET.x).init
    keys = jax.random.split(jax.random.key(0), 3)
    batch = jax.jit(jax.vmap(init))(keys)
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(batch))
    one = init(keys[1])
    for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a[1], b, rtol=1e-5)


class Stateful(nnx.Module):
    def __init__(self, layer, *, rngs):
        self.layer = layer(rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(self.layer(x.reshape(x.shape[0], -1)))


class LinenStateful(flax.linen.Module):
    layer: flax.linen.Module

    @flax.linen.compact
    def __call__(self, x):
        return flax.linen.Dense(10)(self.layer(x.reshape(x.shape[0], -1)))


BAD_MODELS = {
    "nnx batch norm": (functools.partial(Stateful, functools.partial(nnx.BatchNorm, 64)), "only state.*BatchStat"),
    "nnx dropout": (functools.partial(Stateful, functools.partial(nnx.Dropout, 0.5)), "only state.*RngCount, RngKey"),
    "linen batch norm": (LinenStateful(flax.linen.BatchNorm(False)), "only state.*LinenStateful with batch_stats"),
    "linen dropout": (LinenStateful(flax.linen.Dropout(0.5, deterministic=False)), "only state.*random key"),
    "a built module": (MLP((64, 10), rngs=nnx.Rngs(0)), "needs model to be an NNX factory"),
    "a number": (3, "needs model to be an NNX factory.*got 3"),
    "a function": (lambda rngs: 3, "factory to return an nnx.Module; got int32"),
    "integer parameters": ((lambda key: jnp.zeros(3, int), pair_apply), "floating-point parameters; got .*int32"),
    "scalar outputs": ((lambda key: jnp.zeros(3), lambda params, x: x[:, 0, 0]), r"outputs \[2, C\]; got float32\[2\]"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_models_are_refused(name):
    model, message = BAD_MODELS[name]
    with pytest.raises(ValueError, match=message):
        make_game(model=model)


@pytest.mark.parametrize(("sizes", "message"), [((64,), "at least two"), ((64, 0), "each of sizes")])
def test_bad_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        mlp(sizes)


# Order, tiles, input.


def test_every_example_is_used_equally_often():
    order = example_order(jax.random.key(0), 10, 9, 4)
    assert order.shape == (9, 4)
    assert set(np.bincount(order.ravel())) == {3, 4}
    assert sorted(order.ravel()[:10]) == sorted(order.ravel()[10:20]) == list(range(10))
    np.testing.assert_array_equal(example_order(jax.random.key(0), 10, 5, 4), order[:5])
    assert (example_order(jax.random.key(1), 10, 9, 4) != order).any()


def test_the_default_tile_shrinks_with_the_model():
    def tile(width, platform):
        recipe = Recipe(as_model(mlp((64, width, 10)), SET.x), momentum_sgd, None)
        return default_tile(recipe, Feed(SET.x, SET.y, np.zeros((3, 128), int), np.zeros((3, 128), int)), platform)

    assert tile(32, "cpu") == 32
    assert tile(512, "cpu") < 32
    assert tile(4096, "cpu") == 4
    assert tile(32, "gpu") == 1024


def test_chunks_are_whole_rounds():
    game = make_game(tile=None, num_steps=1)
    assert game.chunk_size % game.tile == 0
    assert (game.num_sources, game.num_queries) == (NUM_EXAMPLES, 5)


NOT_FINITE = SET.x.copy()
NOT_FINITE[3, 2, 1] = np.nan
BAD_ARGUMENTS = [
    ({"x": SET.x[:0], "y": SET.y[:0]}, r"at least one example; got float32\[0, 8, 8\]"),
    ({"x": (16 * SET.x).astype(int)}, r"float array \[n, ...\]; got int"),
    ({"x": NOT_FINITE}, "finite x; got 1 non-finite"),
    ({"y": SET.y[:-1]}, r"y with 60 rows.*got int32\[59\]"),
    ({"y": SET.y + 1}, "labels from 0 to 9; got labels from 1 to 10"),
    ({"y": SET.y - 1}, "labels from 0 to 9; got labels from -1 to 8"),
    ({"y": SET.y.astype(float)}, r"integer labels \[60\]; got float64"),
    ({"y": np.eye(10, dtype=int)[SET.y]}, r"integer labels \[60\]; got int64\[60, 10\]"),
    ({"loss": lambda out, y: jnp.mean(out)}, r"one number per example \[B\]; got float32\[\]"),
    ({"groups": np.arange(5)}, r"groups to be an integer array \[60\]; got int64\[5\]"),
    ({"groups": 2 * np.arange(60)}, "numbered 0 to N-1, each in use; got 60 numbers, 0 to 118"),
    ({"optimizer": "sgd"}, "needs optimizer.*got 'sgd'"),
    ({"query": None}, "query to be callable"),
    ({"query": lambda apply, params: 1.0}, r"vector \[Q\] with Q >= 1; got float32"),
    ({"query": queries.accuracy(SET.x, SET.y + 1)}, "query labels from 0 to 9; got label 10"),
    ({"num_steps": 0}, "num_steps to be an integer >= 1; got int 0"),
    ({"batch_size": 0}, "batch_size to be an integer >= 1"),
    ({"tile": 2.0}, "tile to be an integer >= 1; got float 2.0"),
    ({"order_key": 7}, "order_key to be one typed key.*got int 7"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_game(**changes)


BAD_ROWS = [
    (slice(0, 2), np.ones((3, NUM_EXAMPLES), bool), r"typed keys \[3\], one per row of masks; got key<fry>\[2\]"),
    (slice(0, 3), np.ones((3, NUM_EXAMPLES - 1), bool), r"masks to be a bool array \[m, 60\]; got bool\[3, 59\]"),
    (slice(0, 3), np.ones((3, NUM_EXAMPLES)), r"masks to be a bool array \[m, 60\]; got float64"),
    (0, np.ones((1, NUM_EXAMPLES), bool), r"typed keys \[1\]"),
]


@pytest.mark.parametrize(("rows", "masks", "message"), BAD_ROWS)
def test_bad_rows_are_refused(game, rows, masks, message):
    keys, _ = draw_rows(3)
    with pytest.raises(ValueError, match=message):
        game(keys[rows], masks)
    with pytest.raises(ValueError, match="typed keys"):
        game(np.arange(3), np.ones((3, NUM_EXAMPLES), bool))
