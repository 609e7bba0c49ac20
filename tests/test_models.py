"""Tests of the models, of their convolutions, and of the adapter that makes pure functions of them."""

import functools

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from training_helpers import NUM_EXAMPLES, SET, SHARED_KEY, assert_trees_close, make_game, momentum_sgd

from jaxame.submodels import (
    Model,
    as_model,
    bag_of_embeddings,
    cnn,
    conv_general_dilated,
    logistic,
    mlp,
    resnet9,
)
from jaxame.submodels.adapter import in_dtype
from jaxame.submodels.conv import CHANNELS_LAST, LOWERINGS
from jaxame.submodels.feeds import Examples, example_order
from jaxame.submodels.models import MLP, max_pool
from jaxame.submodels.training import Recipe, fit

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


# Convolutions: every lowering agrees with that of XLA, one at a time and mapped over submodels.

CONVOLUTIONS = {
    "3x3 same": ((2, 7, 9, 3), (3, 3, 3, 5), (1, 1), "SAME", {}),
    "3x3 valid": ((2, 7, 9, 3), (3, 3, 3, 5), (1, 1), "VALID", {}),
    "strides": ((2, 8, 9, 3), (3, 3, 3, 5), (2, 3), "SAME", {}),
    "even kernel": ((2, 8, 9, 3), (4, 2, 3, 5), (2, 1), "SAME", {}),
    "1x1": ((2, 7, 9, 3), (1, 1, 3, 5), (1, 1), "VALID", {}),
    "own padding": ((2, 7, 9, 3), (3, 3, 3, 5), (1, 2), [(2, 0), (1, 3)], {}),
    "dilated kernel": ((2, 9, 9, 3), (3, 3, 3, 5), (1, 1), "SAME", {"rhs_dilation": (2, 3)}),
    "left to XLA: groups": ((2, 7, 9, 4), (3, 3, 2, 6), (1, 1), "SAME", {"feature_group_count": 2}),
    "left to XLA: dilated images": ((2, 7, 9, 3), (3, 3, 3, 5), (1, 1), [(1, 1), (0, 2)], {"lhs_dilation": (2, 2)}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_agree_with_xla(case):
    images, kernel, strides, padding, options = CONVOLUTIONS[case]
    x, w = normal(3, *images), normal(3, *kernel)

    def value_and_slopes(conv):
        def one(x, w):
            return conv(x, w, strides, padding, dimension_numbers=CHANNELS_LAST, **options)

        def total(x, w):
            return jnp.sum(jnp.sin(one(x, w)))

        return jax.jit(jax.vmap(lambda x, w: (one(x, w), *jax.grad(total, (0, 1))(x, w))))(x, w)

    ours, xla = value_and_slopes(conv_general_dilated), value_and_slopes(jax.lax.conv_general_dilated)
    assert ours[0].shape == xla[0].shape
    assert_trees_close(ours, xla, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_the_lowering_asked_for_is_the_one_that_runs(lowering):
    model = as_model(cnn((8, 8), 10, (2, 3)), SET.x, lowering=lowering)
    program = str(jax.make_jaxpr(model.apply)(model.init(jax.random.key(0)), SET.x[:2]))
    assert ("conv_general_dilated" in program) == (lowering == "native")


@pytest.mark.parametrize("lowering", LOWERINGS[1:])
def test_lowerings_give_the_same_model(lowering):
    one, other = (as_model(cnn((8, 8), 10, (2, 3)), SET.x, lowering=name) for name in (LOWERINGS[0], lowering))
    params = one.init(jax.random.key(0))
    np.testing.assert_allclose(one.apply(params, SET.x), other.apply(params, SET.x), rtol=1e-4, atol=1e-5)
    slopes = [jax.grad(lambda p, f=model.apply: jnp.sum(jnp.sin(f(p, SET.x))))(params) for model in (one, other)]
    assert_trees_close(*slopes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (2, 7, 9, 3)])
def test_max_pool_agrees_with_flax(shape):
    x = normal(*shape)
    np.testing.assert_array_equal(max_pool(x), nnx.max_pool(x, (2, 2), strides=(2, 2)))


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (2, 7, 9, 3)])
def test_slopes_of_max_pool_are_shared_among_ties(shape):
    x = np.round(normal(*shape))  # many ties, in twos, threes and fours
    height, width = shape[1] // 2 * 2, shape[2] // 2 * 2

    def plain(x):
        windows = x[:, :height, :width].reshape(2, height // 2, 2, width // 2, 2, 3)
        return jnp.max(windows, axis=(2, 4))

    ours, reference = (jax.grad(lambda x, pool=pool: jnp.sum(jnp.sin(pool(x))))(x) for pool in (max_pool, plain))
    np.testing.assert_allclose(ours, reference, rtol=1e-6)
    assert len(np.unique(np.abs(np.asarray(ours[:, :height, :width])))) > 4


# Models.


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (logistic(64, 10), SET.x),
        (mlp((64, 12, 10)), SET.x),
        (cnn((8, 8), 10), SET.x),
        (cnn((28, 28), 10), np.zeros((2, 28, 28), np.float32)),
        (cnn((32, 32, 3), 10), np.zeros((2, 32, 32, 3), np.float32)),
        (resnet9(10, width=16), np.zeros((2, 32, 32, 3), np.float32)),
        (resnet9(10, width=16, num_channels=1), np.zeros((2, 28, 28, 1), np.float32)),
        (bag_of_embeddings(30, 10), np.zeros((2, 7), np.int32)),
    ],
)
def test_models_map_a_batch_to_outputs(model, x):
    as_model(model, x)  # checks shapes, state and types


def test_resnet9_is_the_one_of_the_dawnbench_entries():
    params = jax.eval_shape(as_model(resnet9(), np.zeros((2, 32, 32, 3), np.float32)).init, jax.random.key(0))
    kernels = [leaf.size for leaf in jax.tree.leaves(params) if len(leaf.shape) == 4]
    assert sum(kernels) == 9 * (3 * 64 + 64 * 128 + 2 * 128**2 + 128 * 256 + 256 * 512 + 2 * 512**2)
    assert len(kernels) == 8


def test_every_example_is_normalised_by_itself():
    x = normal(4, 8, 8, 3)
    model = as_model(resnet9(10, width=16), x)
    params = model.init(jax.random.key(0))
    apply = jax.jit(model.apply)
    np.testing.assert_array_equal(apply(params, x)[:2], apply(params, np.concatenate([x[:2], 7 * x[2:]]))[:2])


def test_padding_and_the_order_of_words_do_not_count():
    model = as_model(bag_of_embeddings(9, 4), np.zeros((2, 5), np.int32))
    params = model.init(jax.random.key(0))
    texts = np.array([[3, 8, 3, 0, 0], [0, 3, 0, 3, 8], [0, 0, 0, 0, 0]], np.int32)
    outputs = model.apply(params, texts)
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-5)
    table, kernel = params["embed"]["embedding"][...], params["head"]["kernel"][...]
    np.testing.assert_allclose(outputs[0], (2 * table[3] + table[8]) / 3 @ kernel, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(outputs[2], np.zeros(4))


def test_compute_type_changes_the_computation_only():
    model = as_model(mlp((64, 12, 10)), SET.x)
    params = model.init(jax.random.key(0))
    half = in_dtype(model, jnp.bfloat16)
    program = str(jax.make_jaxpr(half.apply)(params, SET.x))
    assert "bf16[10,12]" in program
    assert half.apply(params, SET.x).dtype == jnp.float32
    np.testing.assert_allclose(half.apply(params, SET.x), model.apply(params, SET.x), atol=0.05)
    trained = make_game(compute_dtype=jnp.bfloat16, num_steps=2).train(jax.random.key(0), np.ones(NUM_EXAMPLES, bool))
    assert {leaf.dtype for leaf in jax.tree.leaves(trained)} == {jnp.dtype(jnp.float32)}
    assert make_game(compute_dtype=jnp.bfloat16).about["compute_dtype"] == "bfloat16"
    assert "compute_dtype" not in make_game().about


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mlp((64,)), "at least two"),
        (lambda: mlp((64, 0)), "each of sizes"),
        (lambda: logistic(64, 0), "num_classes to be"),
        (lambda: cnn((8,), 10), r"shape \(H, W\) or \(H, W, C\); got \(8,\)"),
        (lambda: cnn((3, 8), 10), r"sides of at least 4 for 2 pools; got \[3, 8\]"),
        (lambda: resnet9(10, width=24), "width a multiple of 16; got 24"),
        (lambda: bag_of_embeddings(1, 10), "num_tokens to be an integer >= 2; got int 1"),
        (lambda: as_model(mlp((64, 10)), SET.x, lowering="fft"), "lowering to be one of patches, native; got 'fft'"),
        (lambda: in_dtype(as_model(mlp((64, 10)), SET.x), jnp.int32), "compute_dtype to be a floating-point type"),
    ],
)
def test_bad_models_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# The adapter.


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
    w1, b1, w2, b2 = params
    return jax.tree.unflatten(jax.tree.structure(state), [b1, w1.T, b2, w2.T])


@pytest.mark.parametrize(("model", "convert"), [(LinenMLP(), as_linen), (mlp((64, 12, 10)), as_nnx)])
def test_adapters_train_alike_from_the_same_parameters(model, convert):
    order = np.asarray(example_order(SHARED_KEY, NUM_EXAMPLES, 160))
    mask = np.arange(NUM_EXAMPLES) % 2 == 0
    start = pair_init(jax.random.key(2))

    def trained(model, params):
        pure = as_model(model, SET.x)
        recipe = Recipe(pure, momentum_sgd, optax.softmax_cross_entropy_with_integer_labels, 20, 8)
        examples = Examples(SET.x, SET.y, np.arange(NUM_EXAMPLES), order, params)
        return jax.jit(functools.partial(fit, recipe))(examples, jax.random.key(0), SHARED_KEY, mask)

    expected = convert(trained((pair_init, pair_apply), start))
    assert_trees_close(trained(model, convert(start)), expected, rtol=1e-4, atol=1e-5)


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


class LinenCNN(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        x = flax.linen.Conv(4, (3, 3), conv_general_dilated=conv_general_dilated)(x[..., None])
        return flax.linen.Dense(10)(x.reshape(x.shape[0], -1))


def test_linen_layers_take_our_convolution():
    model = as_model(LinenCNN(), SET.x)
    program = str(jax.make_jaxpr(model.apply)(model.init(jax.random.key(0)), SET.x[:2]))
    assert "conv_general_dilated" not in program
