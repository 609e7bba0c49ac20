"""Metrics of values: against scikit-learn, SciPy, closed forms and simulation, and what they say of bad input."""

import jax
import numpy as np
import pytest
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from jaxame import metrics
from jaxame.games import Additive

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(3, 40))
WRONG = RNG.random(40) < 0.3


class Recorder:
    """An additive game of several queries that keeps what it was asked."""

    chunk_size = 7

    def __init__(self, effects):
        self.effects, self.num_sources = np.asarray(effects, float), np.shape(effects)[1]
        self.keys, self.masks = [], []

    def __call__(self, keys, masks):
        assert len(keys) == len(masks) <= self.chunk_size
        self.keys += np.asarray(jax.random.key_data(keys)).tolist()
        self.masks += np.asarray(masks).tolist()
        return masks @ self.effects.T


def noisy(game, scale):
    """The game with normal noise that depends on the key alone."""

    class Noisy:
        num_sources = game.num_sources

        def __call__(self, keys, masks):
            noise = scale * jax.vmap(jax.random.normal)(keys)
            return np.asarray(game(keys, masks)) + np.asarray(noise)[:, None]

    return Noisy()


def test_auc_is_that_of_scikit_learn():
    values = np.round(VALUES, 1)  # with ties
    expected = [roc_auc_score(WRONG, -of_query) for of_query in values]
    np.testing.assert_allclose(metrics.mislabel_auc(values, WRONG), expected)
    np.testing.assert_allclose(metrics.mislabel_auc(values[1], WRONG), expected[1:2])


def test_precision_and_recall_of_a_selection():
    drawn = np.random.default_rng(0).random((50, 2, 40)) < 0.3
    for one, truth in drawn:
        found = metrics.precision_recall(np.flatnonzero(one), np.flatnonzero(truth))
        assert found == pytest.approx((precision_score(truth, one), recall_score(truth, one)), rel=1e-12)
    assert metrics.precision_recall([], [1, 4]) == (1.0, 0.0)


def test_low_values_are_suspicious():
    np.testing.assert_array_equal(metrics.mislabel_auc([-1.0 * WRONG, WRONG, 0 * WRONG], WRONG), [1, 0, 0.5])
    np.testing.assert_array_equal(metrics.mislabel_f1([-1.0 * WRONG, WRONG, 0 * WRONG], WRONG), [1, 0, 0])


def test_two_means_are_the_best_that_lloyd_finds():
    values = np.concatenate([VALUES, VALUES - 4.0 * WRONG, [np.arange(40.0) ** 3]])
    found = metrics.suspicious(values)
    for of_query, own in zip(values, found, strict=True):
        fit = KMeans(2, n_init=20, random_state=0).fit(of_query[:, None])
        inertia = sum(((part - part.mean()) ** 2).sum() for part in (of_query[own], of_query[~own]))
        assert inertia <= fit.inertia_ * (1 + 1e-9)
        assert of_query[own].max() < of_query[~own].min()
    expected = [f1_score(WRONG, own) for own in found]
    np.testing.assert_allclose(metrics.mislabel_f1(values, WRONG), expected)
    np.testing.assert_array_equal(metrics.suspicious(3.0 * values + 2.0), found)


def test_equal_values_have_nothing_suspicious():
    assert not metrics.suspicious(np.full(7, 0.1)).any()
    assert not metrics.suspicious([5.0]).any()


@pytest.mark.parametrize("lowest_first", [False, True])
def test_curves_of_an_additive_game(lowest_first):
    effects = VALUES[:2]
    game, fractions = Recorder(effects), (0.0, 0.1, 0.26, 1.0)
    ordered = np.sort(effects, axis=1)[:, :: 1 if lowest_first else -1]
    expected = np.array([ordered[:, :count].sum(axis=1) for count in (0, 4, 10, 40)])
    options = {"key": KEY, "fractions": fractions, "lowest_first": lowest_first}
    added = metrics.addition_curve(game, effects, **options)
    np.testing.assert_allclose(added, expected, atol=1e-9)
    removed = metrics.removal_curve(game, effects, **options)
    np.testing.assert_allclose(removed, effects.sum(axis=1) - expected, atol=1e-9)


def test_one_order_serves_all_queries():
    game = Recorder(VALUES)
    curve = metrics.removal_curve(game, VALUES[1], key=KEY, fractions=[0.5])
    left = np.argsort(VALUES[1])[:20]
    np.testing.assert_allclose(curve, VALUES[:, left].sum(axis=1)[None])


def test_keys_differ_by_repeat_only():
    game = Recorder(VALUES)
    for values in (VALUES, -VALUES[0]):
        metrics.removal_curve(game, values, key=KEY, fractions=[0.1, 0.2], repeats=2)
    keys = np.array(game.keys)
    first, second = keys[:6], keys[6:12]
    assert (first == first[0]).all()
    assert (second == second[0]).all()
    assert (first[0] != second[0]).any()
    np.testing.assert_array_equal(keys[12:], np.repeat([first[0], second[0]], 2, axis=0))
    assert game.masks[:6] == game.masks[6:12]


def test_repeats_are_averaged():
    game, one = noisy(Additive(np.ones(5)), 1.0), noisy(Additive(np.zeros(5)), 1.0)
    curve = metrics.addition_curve(game, np.arange(5.0), key=KEY, fractions=[0, 0.4, 1], repeats=3)
    noise = metrics.addition_curve(one, np.arange(5.0), key=KEY, fractions=[0.2], repeats=3)
    np.testing.assert_allclose(curve - noise, [[0], [2], [5]], atol=1e-6)


def test_equal_values_are_not_taken_in_the_order_of_the_sources():
    game = Recorder(np.arange(40.0)[None])
    metrics.addition_curve(game, np.zeros(40), key=KEY, fractions=[0.5])
    metrics.addition_curve(game, np.zeros(40), key=jax.random.key(4), fractions=[0.5])
    chosen, other = game.masks
    assert sum(chosen) == 20
    assert 4 < sum(chosen[:20]) < 16
    assert chosen != other


def test_leave_one_out_is_without_the_noise_of_keys():
    effects = metrics.leave_one_out(noisy(Additive(VALUES[0]), 10.0), key=KEY, repeats=2)
    assert effects.shape == (2, 40, 1)
    np.testing.assert_allclose(effects[:, :, 0], np.tile(VALUES[0], (2, 1)), atol=1e-5)


def test_leave_one_out_correlation_is_that_of_scipy():
    effects = np.round(VALUES.T + RNG.normal(size=(40, 3)), 1)
    expected = [stats.spearmanr(*pair).statistic for pair in zip(VALUES, effects.T, strict=True)]
    np.testing.assert_allclose(metrics.leave_one_out_correlation(VALUES, effects), expected)
    assert metrics.leave_one_out_correlation(VALUES[0], -effects[:, :1]) == pytest.approx(-expected[0])


def test_datamodeling_score_is_the_correlation_with_sums_of_values():
    masks = RNG.random((60, 40)) < 0.5
    utilities = np.exp(masks @ VALUES.T)
    np.testing.assert_allclose(metrics.datamodeling_score(VALUES, masks, utilities), 1.0)
    np.testing.assert_allclose(metrics.datamodeling_score(-VALUES, masks, utilities), -1.0)
    noise = utilities + RNG.normal(size=utilities.shape)
    expected = [stats.spearmanr(masks @ v, u).statistic for v, u in zip(VALUES, noise.T, strict=True)]
    np.testing.assert_allclose(metrics.datamodeling_score(VALUES, masks, noise), expected)


def test_what_is_constant_has_a_defined_correlation():
    masks = RNG.permuted(np.tile(np.arange(40) < 20, (30, 1)), axis=1)
    utilities = RNG.normal(size=(30, 1))
    assert metrics.datamodeling_score(np.full(40, 0.1), masks, utilities) == 0
    assert np.isnan(metrics.datamodeling_score(VALUES[0], masks, np.ones((30, 1))))
    assert np.isnan(metrics.datamodeling_score(np.zeros(40), masks, np.ones((30, 1))))
    assert metrics.leave_one_out_correlation(np.full(40, 0.1), VALUES[:1].T) == 0
    assert np.isnan(metrics.leave_one_out_correlation(VALUES[0], np.ones((40, 1))))
    assert np.isnan(metrics.noise_ceiling(np.ones((2, 30, 1))))


@pytest.mark.parametrize(("repeats", "averaged", "noise"), [(2, 2, 1.0), (4, 4, 2.0), (5, 1, 0.5), (3, 9, 3.0)])
def test_ceiling_is_what_the_expected_utility_reaches(repeats, averaged, noise):
    """On simulated utilities, a monotone function of normal ones at the end, whose noise is known."""
    rng = np.random.default_rng(1)
    expected = rng.normal(size=(20_000, 2))
    seen = expected + noise * rng.normal(size=(repeats, *expected.shape))
    target = expected + noise / np.sqrt(averaged) * rng.normal(size=expected.shape)
    reached = [stats.spearmanr(*pair).statistic for pair in zip(expected.T, target.T, strict=True)]
    ceiling = metrics.noise_ceiling(seen, num_averaged=averaged)
    np.testing.assert_allclose(ceiling, reached, atol=0.015)
    np.testing.assert_allclose(metrics.noise_ceiling(np.exp(seen), num_averaged=averaged), ceiling)
    if averaged == repeats:
        np.testing.assert_array_equal(metrics.noise_ceiling(seen), ceiling)


def test_ceiling_is_met_by_a_perfect_datamodel():
    rng = np.random.default_rng(2)
    masks = rng.random((4000, 40)) < 0.5
    utilities = masks @ VALUES.T + 4.0 * rng.normal(size=(4, 4000, 3))
    score = metrics.datamodeling_score(VALUES, masks, utilities.mean(axis=0))
    np.testing.assert_allclose(metrics.noise_ceiling(utilities), score, atol=0.03)


def test_ceiling_from_few_subsets_is_not_far_off_in_the_mean():
    rng = np.random.default_rng(3)
    expected = rng.normal(size=(50, 400))
    seen = expected + rng.normal(size=(3, *expected.shape))
    reached = 6 / np.pi * np.arcsin(np.sqrt(3 / 4) / 2)
    assert metrics.noise_ceiling(seen).mean() == pytest.approx(reached, abs=0.015)


def test_ceiling_at_its_ends():
    utilities = RNG.normal(size=(50, 1))
    assert metrics.noise_ceiling(np.stack([utilities] * 3)) == pytest.approx(1.0)
    assert metrics.noise_ceiling(np.stack([utilities, -utilities])) == 0


MASKS = np.eye(40, dtype=bool)
GAME = Recorder(VALUES)
BAD = {
    "values [Q, N] or [N]": [
        lambda: metrics.mislabel_auc(VALUES[None], WRONG),
        lambda: metrics.suspicious([]),
        lambda: metrics.suspicious(["a"]),
    ],
    "selected [m], different sources": [
        lambda: metrics.precision_recall(WRONG, [1]),
        lambda: metrics.precision_recall([1, 1], [1]),
        lambda: metrics.precision_recall([[1]], [1]),
    ],
    "at least one planted source": [lambda: metrics.precision_recall([1], [])],
    "finite values": [lambda: metrics.mislabel_f1(np.where(WRONG, np.nan, 1.0), WRONG)],
    "mislabelled bool [40]": [
        lambda: metrics.mislabel_auc(VALUES, np.flatnonzero(WRONG)),
        lambda: metrics.mislabel_f1(VALUES, WRONG[:-1]),
    ],
    "some sources mislabelled and some not": [lambda: metrics.mislabel_auc(VALUES, WRONG | True)],
    "masks bool [m, 40]": [
        lambda: metrics.datamodeling_score(VALUES, 1.0 * MASKS, VALUES.T),
        lambda: metrics.datamodeling_score(VALUES, MASKS[:1], VALUES.T[:1]),
        lambda: metrics.datamodeling_score(VALUES, MASKS[:, 1:], VALUES.T),
    ],
    "utilities [40, 3]": [lambda: metrics.datamodeling_score(VALUES, MASKS, VALUES)],
    "finite utilities": [lambda: metrics.datamodeling_score(VALUES, MASKS, np.full((40, 3), np.inf))],
    "effects [40, 3]": [lambda: metrics.leave_one_out_correlation(VALUES, VALUES)],
    "at least 2 repeats": [lambda: metrics.noise_ceiling(VALUES), lambda: metrics.noise_ceiling(VALUES[:1, :, None])],
    "num_averaged": [lambda: metrics.noise_ceiling(VALUES[:, :, None], num_averaged=0)],
    "fractions [K] from 0 to 1": [
        lambda: metrics.removal_curve(GAME, VALUES, key=KEY, fractions=[0.1, 1.1]),
        lambda: metrics.addition_curve(GAME, VALUES, key=KEY, fractions=[np.nan]),
        lambda: metrics.addition_curve(GAME, VALUES, key=KEY, fractions=0.5),
    ],
    "values [Q, 40]": [lambda: metrics.removal_curve(GAME, VALUES[:, 1:], key=KEY)],
    "values [3, N]": [lambda: metrics.removal_curve(GAME, VALUES[:2], key=KEY)],
    "typed key": [lambda: metrics.removal_curve(GAME, VALUES, key=0), lambda: metrics.leave_one_out(GAME, key=0)],
    "repeats": [lambda: metrics.leave_one_out(GAME, key=KEY, repeats=0)],
    "game.num_sources": [lambda: metrics.leave_one_out(len, key=KEY)],
}


@pytest.mark.parametrize(("needs", "call"), [(needs, call) for needs, calls in BAD.items() for call in calls])
def test_bad_input_is_named(needs, call):
    with pytest.raises(ValueError, match="needs ") as error:
        call()
    assert needs in str(error.value)


def test_a_game_of_another_shape_is_named():
    class Flat:
        num_sources = 40

        def __call__(self, keys, masks):
            return masks.sum(axis=1)

    with pytest.raises(ValueError, match=r"the game to return \[8, Q\]; got \[8\]"):
        metrics.removal_curve(Flat(), VALUES[0], key=KEY)
