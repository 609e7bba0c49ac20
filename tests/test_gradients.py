"""Estimators that look into trained models: closed forms of logistic regression, and retraining."""

import jax
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression
from training_helpers import SET, make_game

from jaxame import Status, baselines, games, queries
from jaxame.baselines.linearised import project
from jaxame.submodels import logistic

KEY = jax.random.key(5)
DECAY = 0.3
N, ASKED = len(SET.x), slice(0, 3)
X, Y = SET.x.reshape(N, -1).astype(np.float64), SET.y
WITH_ONE = np.concatenate([X, np.ones((N, 1))], axis=1)
POINTS = {"test_x": SET.x[ASKED], "test_y": (Y[ASKED] + 1) % 10}


def make_logistic(**changes):
    query = queries.logit_margin(POINTS["test_x"], POINTS["test_y"])
    return make_game(**{"model": logistic(64, 10), "query": query, "num_steps": 30} | changes)


GAME = make_logistic()


def outputs(params):
    """Logits `[N, 10]` in float64, and weights with the bias last, `[65, 10]`."""
    layer = params["layers"][0]
    kernel, bias = (np.asarray(layer[name][...], np.float64) for name in ("kernel", "bias"))
    weights = np.concatenate([kernel.T, bias[None]])
    return WITH_ONE @ weights, weights


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def gradients(params):
    """Gradients of the losses `[N, 65, 10]`, those of the queries `[Q, 65, 10]`, and the probabilities `[N, 10]`."""
    logits, _ = outputs(params)
    p = softmax(logits)
    of_losses = WITH_ONE[:, :, None] * (p - np.eye(10)[Y])[:, None, :]
    asked = np.eye(10)[POINTS["test_y"]]
    rival = np.where(asked > 0, -np.inf, logits[ASKED]).argmax(axis=1)
    of_queries = WITH_ONE[ASKED][:, :, None] * (asked - np.eye(10)[rival])[:, None, :]
    return of_losses, of_queries, p


def trained(game=GAME, number=0):
    return game.train(jax.random.fold_in(KEY, number), np.ones(game.num_sources, bool))


def test_gradient_dot_and_cosine_are_those_of_logistic_regression():
    losses, asked, _ = gradients(trained())
    dots = -np.einsum("qdc,ndc->qn", asked, losses)
    result = baselines.gradient_dot(GAME, key=KEY, budget=1).check()
    np.testing.assert_allclose(result.values, dots, rtol=1e-4, atol=1e-4)
    assert result.about["evaluations"] == 1
    length = np.linalg.norm(asked, axis=(1, 2))[:, None] * np.linalg.norm(losses, axis=(1, 2))
    cosines = baselines.gradient_cosine(GAME, key=KEY, budget=1)
    np.testing.assert_allclose(cosines.values, dots / length, rtol=1e-3, atol=1e-5)


def test_values_are_means_over_models_and_sums_over_the_examples_of_a_source():
    ones = [baselines.gradient_dot(GAME, key=KEY, budget=1).values]
    losses, asked, _ = gradients(trained(number=1))
    ones.append(-np.einsum("qdc,ndc->qn", asked, losses))
    both = baselines.gradient_dot(GAME, key=KEY, budget=2)
    np.testing.assert_allclose(both.values, np.mean(ones, axis=0), rtol=1e-3, atol=1e-3)
    spread = np.std(ones, axis=0, ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(both.stderr, spread, rtol=1e-2, atol=1e-3)
    grouped = make_logistic(groups=np.arange(N) // 3)
    sums = baselines.gradient_dot(grouped, key=KEY, budget=1).values
    np.testing.assert_allclose(sums, ones[0].reshape(3, -1, 3).sum(axis=2), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("feed", ["masked", "gathered"])
def test_checkpoints_are_those_of_shorter_training(feed):
    game = make_logistic(feed=feed)
    found = game.checkpoints(KEY, 4)
    for part, steps in enumerate((8, 15, 23, 30)):  # 30 steps in four parts
        shorter = make_logistic(feed=feed, num_steps=steps).train(KEY, np.ones(N, bool))
        own = jax.tree.map(lambda leaf, part=part: leaf[part], found)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), own, shorter)


def test_tracin_sums_dot_products_over_checkpoints():
    own_key = jax.random.fold_in(KEY, 0)
    every = GAME.checkpoints(own_key, 3)
    total = 0.0
    for part in range(3):
        losses, asked, _ = gradients(jax.tree.map(lambda leaf, part=part: leaf[part], every))
        total = total - np.einsum("qdc,ndc->qn", asked, losses)
    result = baselines.tracin(GAME, key=KEY, budget=1, checkpoints=3)
    np.testing.assert_allclose(result.values, total, rtol=1e-4, atol=1e-3)


def test_tracin_weighs_checkpoints_by_the_rates_of_their_steps():
    """Checkpoints are those of steps 0 to 9, 10 to 19 and 20 to 29."""
    one_by_one = [
        baselines.tracin(
            GAME, key=KEY, budget=1, checkpoints=3, learning_rate=lambda steps, part=part: steps // 10 == part
        ).values
        for part in range(3)
    ]
    falling = baselines.tracin(GAME, key=KEY, budget=1, checkpoints=3, learning_rate=lambda steps: 30.0 - steps)
    expected = 25.5 * one_by_one[0] + 15.5 * one_by_one[1] + 5.5 * one_by_one[2]
    np.testing.assert_allclose(falling.values, expected, rtol=1e-9)
    equal = baselines.tracin(GAME, key=KEY, budget=1, checkpoints=3, learning_rate=lambda steps: 2.0)
    np.testing.assert_allclose(equal.values, 2 * sum(one_by_one), rtol=1e-9)


def hessian(p, damping):
    """Of the mean loss of logistic regression, `[650, 650]`, plus a multiple of the identity."""
    inner = np.stack([np.diag(row) - np.outer(row, row) for row in p])
    whole = np.einsum("nd,ne,ncb->dceb", WITH_ONE, WITH_ONE, inner, optimize=True) / N
    return whole.reshape(650, 650) + damping * np.eye(650)


def test_influence_solves_with_the_hessian():
    losses, asked, p = gradients(trained())
    solved = np.linalg.solve(hessian(p, 0.1), asked.reshape(len(asked), -1).T)
    expected = -(losses.reshape(N, -1) @ solved).T / N
    scale = np.abs(expected).max()
    result = baselines.influence(GAME, key=KEY, budget=1, damping=0.1, tolerance=1e-6).check()
    np.testing.assert_allclose(result.values, expected, atol=1e-3 * scale)
    assert max(result.about["relative_residual"]) < 1e-6
    options = {"solver": "lissa", "damping": 0.1, "max_steps": 1000, "sample": 600, "scale": 8.0}
    sampled = baselines.influence(GAME, key=KEY, budget=1, **options)
    np.testing.assert_allclose(sampled.values, expected, atol=0.1 * scale)


def test_influence_is_what_leaving_one_out_does():
    optimizer = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(0.3))
    game = make_logistic(optimizer=optimizer, num_steps=1500, batch_size=None, share_init=True)
    result = baselines.influence(game, key=KEY, budget=1, damping=DECAY, tolerance=1e-5)
    retrained = baselines.leave_one_out(game, key=KEY, budget=N + 1)
    # Leaving out also moves the balance with the penalty, by the same for every example.
    values, truth = (each - each.mean(axis=1, keepdims=True) for each in (result.values, retrained.values))
    for own, true in zip(values, truth, strict=True):
        assert np.corrcoef(own, true)[0, 1] > 0.99
        assert 0.85 < own @ true / (true @ true) < 1.1  # of second order in 1/n


@pytest.mark.parametrize("inclusion", [1.0, 0.5])
def test_trak_is_a_linear_model_of_projected_gradients(inclusion):
    own_key, size = jax.random.fold_in(KEY, 0), 40
    mask = jax.random.bernoulli(jax.random.fold_in(own_key, 2**32 - 3), inclusion, (GAME.num_sources,))
    assert mask.all() == (inclusion == 1)
    params = GAME.train(own_key, np.asarray(mask))
    logits, _ = outputs(params)
    own = np.eye(10)[Y] > 0
    others = softmax(np.where(own, -np.inf, logits))
    _, asked, p = gradients(params)
    result = baselines.trak(GAME, key=KEY, budget=1, num_projections=size, ridge=0.01, inclusion=inclusion)
    leaves = jax.tree.leaves(params)
    number = sum(leaf.size for leaf in leaves)
    shapes = np.split(np.eye(number, dtype=np.float32), np.cumsum([leaf.size for leaf in leaves])[:-1], axis=1)
    rows = [part.reshape(number, *leaf.shape) for part, leaf in zip(shapes, leaves, strict=True)]
    random = jax.random.fold_in(jax.random.fold_in(KEY, 0), 2**32 - 1)
    matrix = np.asarray(project(rows, random, size), np.float64)
    assert np.allclose(np.abs(matrix), size**-0.5)
    both = WITH_ONE[:, :, None] * (own - others)[:, None, :], asked
    # In the order of the leaves: the bias, and the kernel with a row for each class.
    flat = (np.concatenate([each[:, -1], each[:, :-1].swapaxes(1, 2).reshape(len(each), -1)], axis=1) for each in both)
    phi, of_query = (each @ matrix for each in flat)
    kernel = phi.T @ phi
    kernel += 0.01 * np.trace(kernel) / size * np.eye(size)
    expected = of_query @ np.linalg.solve(kernel, phi.T) * (1 - p[own])
    np.testing.assert_allclose(result.values, expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max())
    assert result.stderr is None


@pytest.mark.parametrize("binary", [False, True])
def test_representers_sum_to_the_logit_of_the_refitted_layer(binary):
    y = (SET.y > 4).astype(np.int32) if binary else SET.y
    game = make_logistic(y=y, query=queries.accuracy(SET.x[:2], y[:2]))
    asked = {"test_x": SET.x[:4], "test_y": np.array([0, 1, 1, 0])}
    options = {"features": lambda params, x: x.reshape(len(x), -1), "penalty": 0.02}
    result = baselines.representer_points(game, key=KEY, budget=1, **asked, **options)
    layer = LogisticRegression(C=1 / (0.02 * N), fit_intercept=False, tol=1e-8, max_iter=10_000).fit(X, y)
    decision = layer.decision_function(X[:4])
    logits = np.where(asked["test_y"] == 1, decision, -decision) if binary else decision[range(4), asked["test_y"]]
    np.testing.assert_allclose(result.values.sum(axis=1), logits, rtol=1e-3, atol=1e-4)


def test_feature_similarity_is_a_cosine_with_a_sign():
    logits = np.asarray(GAME.predict(trained(), SET.x), np.float64)
    unit = logits / np.linalg.norm(logits, axis=1, keepdims=True)
    sign = np.where(POINTS["test_y"][:, None] == Y, 1, -1)
    result = baselines.feature_similarity(GAME, key=KEY, budget=1, **POINTS)
    np.testing.assert_allclose(result.values, sign * (unit[ASKED] @ unit.T), rtol=1e-3, atol=1e-4)


PLANTED = slice(40, 46)
METHODS = {
    "gradient_dot": {},
    "gradient_cosine": {},
    "tracin": {},
    "influence": {"damping": 0.05},
    "influence, LiSSA": {"damping": 0.1, "solver": "lissa", "max_steps": 1000, "sample": 600, "scale": 8.0},
    "trak": {"num_projections": 128},
    "representer_points": POINTS,
    "feature_similarity": POINTS,
}


@pytest.mark.parametrize("name", METHODS)
def test_copies_with_the_label_asked_about_come_first(name):
    x, y = SET.x.copy(), SET.y.copy()
    x[PLANTED], y[PLANTED] = np.repeat(SET.x[ASKED], 2, axis=0), np.repeat(POINTS["test_y"], 2)
    game = make_logistic(x=x, y=y)
    result = getattr(baselines, name.split(",")[0])(game, key=KEY, budget=2, **METHODS[name]).check()
    for q in range(3):
        first = np.argsort(-result.values[q])[:2]
        np.testing.assert_array_equal(np.sort(first), PLANTED.start + 2 * q + np.arange(2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", METHODS)
def test_a_model_that_diverged_is_told(name):
    game = make_logistic(optimizer=optax.sgd(1e38))
    result = getattr(baselines, name.split(",")[0])(game, key=KEY, budget=1, **METHODS[name])
    assert np.isnan(result.values).all()
    assert (result.status == Status.NOT_FINITE).all()


def test_conjugate_gradients_that_end_early_warn():
    with pytest.warns(UserWarning, match="ended at a relative residual of .* raise max_steps or damping"):
        baselines.influence(GAME, key=KEY, budget=1, damping=1e-4, max_steps=2)


def test_a_recursion_that_has_hardly_begun_warns():
    options = {"solver": "lissa", "damping": 1e-3, "scale": 1e4, "max_steps": 10}
    with pytest.warns(UserWarning, match="the recursion ended at a relative residual of .* raise max_steps or damping"):
        result = baselines.influence(GAME, key=KEY, budget=1, **options)
    assert 0.9 < result.about["relative_residual"][0] <= 1.0


REGRESSION = {"y": SET.x.reshape(N, -1)[:, :10], "loss": lambda outputs, y: ((outputs - y) ** 2).sum(axis=1)}
ERRORS = {
    "points that are not finite": (
        lambda: baselines.feature_similarity(
            GAME, key=KEY, budget=1, **POINTS | {"test_x": np.full_like(SET.x[ASKED], np.nan)}
        ),
        "finite test_x",
    ),
    "another game": (
        lambda: baselines.gradient_dot(games.Threshold(5, [0, 1, 2], 2), key=KEY, budget=1),
        "TrainingGame",
    ),
    "no budget": (lambda: baselines.gradient_dot(GAME, key=KEY, budget=0), "budget"),
    "checkpoints": (lambda: baselines.tracin(GAME, key=KEY, budget=1, checkpoints=31), "at most 30 steps"),
    "rates": (
        lambda: baselines.tracin(GAME, key=KEY, budget=1, learning_rate=lambda steps: 1.0 - steps),
        "finite rates >= 0 of the 30 steps",
    ),
    "solver": (lambda: baselines.influence(GAME, key=KEY, budget=1, solver="lu"), "a solver among"),
    "damping": (lambda: baselines.influence(GAME, key=KEY, budget=1, damping=0.0), "above 0"),
    "scale": (
        lambda: baselines.influence(GAME, key=KEY, budget=1, solver="lissa", scale=0.01, max_steps=500),
        "a scale above the largest eigenvalue",
    ),
    "targets": (lambda: baselines.trak(make_logistic(**REGRESSION), key=KEY, budget=1), "integer labels"),
    "tolerance": (lambda: baselines.influence(GAME, key=KEY, budget=1, tolerance=-1.0), "tolerance above 0; got -1"),
    "no ridge": (
        lambda: baselines.trak(GAME, key=KEY, budget=1, ridge=0.0),
        "a ridge above 0 for 512 projections of 60",
    ),
    "inclusion": (lambda: baselines.trak(GAME, key=KEY, budget=1, inclusion=0.0), "an inclusion above 0"),
    "ridge": (lambda: baselines.trak(GAME, key=KEY, budget=1, ridge=-1.0), "a ridge of at least 0"),
    "points": (
        lambda: baselines.feature_similarity(GAME, key=KEY, budget=1, test_x=SET.x[:2, :3], test_y=SET.y[:2]),
        "needs test_x",
    ),
    "classes": (
        lambda: baselines.representer_points(GAME, key=KEY, budget=1, test_x=SET.x[:1], test_y=np.array([11])),
        "test labels among the training labels",
    ),
    "penalty": (
        lambda: baselines.representer_points(GAME, key=KEY, budget=1, penalty=0.0, **POINTS),
        "penalty above 0",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_is_needed(name):
    call, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        call()
