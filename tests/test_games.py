"""Closed forms against the definition of the AME, enumerated, and against the axioms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.neighbors import KNeighborsClassifier

from jaxame.design import Beta, Grid, PointMass, TruncatedUniform
from jaxame.games import (
    Additive,
    Airport,
    CountGame,
    Gloves,
    Majority,
    Miner,
    NearestNeighbours,
    Saturating,
    Threshold,
    Unanimity,
    UnanimitySum,
    WeightedVoting,
    enumerate_ame,
)

N = 9
RNG = np.random.default_rng(0)
SHAPLEY = TruncatedUniform(1e-9)
RANDOM_COALITIONS = [np.flatnonzero(RNG.random(N - 1) < 0.4) for _ in range(20)]

POINTS, TEST_POINTS = RNG.normal(size=(N, 2)), RNG.normal(size=(3, 2))
LABELS, TEST_LABELS = np.array(list("aabababba")), np.array(list("aba"))

# name: (game, sources that change nothing, sources that are alike)
GAMES = {
    "additive": (Additive(RNG.normal(size=N), bias=2.0), [], [4]),
    "all-equal additive": (Additive(np.full(N, 3.0)), [], range(N)),
    "large additive": (Additive(np.append(RNG.uniform(100, 900, N - 1), 0.0)), [8], [2]),
    "two queries": (Additive(np.stack([np.arange(N), np.ones(N)]), bias=[0.5, -0.5]), [], [3]),
    "count": (CountGame(N, [0, 2, 3], [1.0, -1.0, 4.0, 4.0]), [1, 4, 5, 6, 7, 8], [0, 2, 3]),
    "threshold": (Threshold(N, [1, 2, 4, 6, 7], 3), [0, 3, 5, 8], [1, 2, 4, 6, 7]),
    "first of many": (Threshold(N, range(N), 1), [], range(N)),
    "unanimity": (Unanimity(N, [3, 5, 8], weight=-2.0), [0, 1, 2, 4, 6, 7], [3, 5, 8]),
    "one member": (Unanimity(N, [3]), [0, 1, 2, 4, 5, 6, 7, 8], [3]),
    "sum of unanimity": (UnanimitySum(N, [(), (0,), (0, 1, 2), (1, 2)], [5.0, 1.0, -2.0, 0.5]), range(3, N), [1, 2]),
    "random game": (UnanimitySum(N, RANDOM_COALITIONS, RNG.normal(size=20)), [8], [0]),
    "majority": (Majority(N, [0, 1, 2, 3, 4]), [5, 6, 7, 8], [0, 1, 2, 3, 4]),
    "majority of all": (Majority(N), [], range(N)),
    "saturating": (Saturating(N, [2, 3, 5, 7], slope=1.5, centre=2.0), [0, 1, 4, 6, 8], [2, 3, 5, 7]),
    "miner": (Miner(N), [], range(N)),
    "some miners": (Miner(N, [0, 1, 5, 8]), [2, 3, 4, 6, 7], [0, 1, 5, 8]),
    "airport": (Airport([3.0, 0.0, 1.5, 8.0, 1.5, 0.0, 2.0, 7.0, 1.5]), [1, 5], [2, 4, 8]),
    "gloves": (Gloves(N, left=[0, 4, 5], right=[1, 2, 3, 6, 8]), [7], [1, 2, 3, 6, 8]),
    "one left glove": (Gloves(N, left=[3], right=[0, 1, 2, 4, 5, 6, 7, 8]), [], [0, 1, 2, 4, 5, 6, 7, 8]),
    "voting": (WeightedVoting([4, 0, 3, 2, 2, 1, 1, 0, 5], quota=9), [1, 7], [3, 4]),
    "one who decides": (WeightedVoting([1, 9, 1, 1, 1, 1, 1, 1, 1], quota=9), [0, 2, 3, 4, 5, 6, 7, 8], [1]),
    "nearest neighbour": (NearestNeighbours(POINTS, LABELS, TEST_POINTS, TEST_LABELS, 1), [], [0]),
    "3 nearest neighbours": (NearestNeighbours(POINTS, LABELS, TEST_POINTS, TEST_LABELS, 3), [], [0]),
    "more neighbours than there are": (NearestNeighbours(POINTS, LABELS, TEST_POINTS, TEST_LABELS, 12), [], [0]),
}
LAWS = {
    "grid": Grid((0.2, 0.4, 0.6, 0.8)),
    "uniform": TruncatedUniform(0.01),
    "beta": Beta(2, 3),
    "truncated beta": Beta(0.5, 1, eps=0.02),
    "banzhaf": PointMass(0.5),
}
game_cases = pytest.mark.parametrize(("game", "null", "alike"), GAMES.values(), ids=GAMES.keys())


def evaluate(game, masks):
    """Return the utilities of masks bool `[m, N]`, float64 `[m, Q]`."""
    masks = jnp.asarray(masks)
    return np.asarray(game(jax.random.split(jax.random.key(0), len(masks)), masks), np.float64)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
@game_cases
def test_closed_form_is_the_definition(game, null, alike, law):
    exact = game.ame(law)
    largest = np.abs(evaluate(game, np.ones((1, N), bool))).max()
    tolerance = 2e-6 * max(1.0, largest, N * np.abs(exact).max())  # utilities are float32
    enumerated = enumerate_ame(game, law)
    assert exact.dtype == enumerated.dtype == np.float64
    np.testing.assert_allclose(np.atleast_2d(exact), enumerated, rtol=0, atol=tolerance)


@game_cases
def test_axioms(game, null, alike):
    """Null player, symmetry, and efficiency of the Shapley value."""
    values = np.atleast_2d(game.ame(SHAPLEY))
    assert np.all(values[:, list(null)] == 0)
    assert np.all(np.ptp(values[:, list(alike)], axis=1) <= 1e-12)
    none, full = evaluate(game, np.array([[False] * N, [True] * N]))
    np.testing.assert_allclose(values.sum(axis=1), full - none, rtol=1e-6, atol=1e-6)


@game_cases
def test_utilities_are_float32_per_query(game, null, alike):
    utilities = game(jax.random.split(jax.random.key(0), 2), jnp.zeros((2, N), bool))
    assert utilities.dtype == jnp.float32
    assert utilities.shape == (2, len(np.atleast_2d(game.ame(SHAPLEY))))
    assert game.num_sources == N


def test_utilities_by_hand():
    masks = np.zeros((3, 4), bool)
    masks[1, [0, 2]] = masks[2] = True
    assert evaluate(Additive([1, 2, 3, 4], bias=0.5), masks).ravel().tolist() == [0.5, 4.5, 10.5]
    assert evaluate(Threshold(4, [0, 1, 2], 2), masks).ravel().tolist() == [0, 1, 1]
    assert evaluate(Unanimity(4, [0, 1], 3), masks).ravel().tolist() == [0, 0, 3]
    assert evaluate(UnanimitySum(4, [(), (0, 2), (1,)], [1, 2, 4]), masks).ravel().tolist() == [1, 3, 7]
    assert evaluate(Majority(4, [0, 1, 3]), masks).ravel().tolist() == [-1, -1, 1]
    assert evaluate(Saturating(4, [0, 2], centre=1), masks).ravel() == pytest.approx(
        [0.26894, 0.73106, 0.73106], abs=1e-5
    )
    assert evaluate(Miner(4, [0, 1, 2]), masks).ravel().tolist() == [0, 1, 1]
    assert evaluate(Airport([1.0, 7.0, 2.5, 0.0]), masks).ravel().tolist() == [0, 2.5, 7]
    assert evaluate(Gloves(4, [0], [1, 2]), masks).ravel().tolist() == [0, 1, 1]
    assert evaluate(WeightedVoting([3, 1, 2, 9], 6), masks).ravel().tolist() == [0, 0, 1]
    near = NearestNeighbours([[0.0], [1.0], [2.0], [3.0]], [0, 1, 1, 0], [[0.1], [2.9]], [0, 1], 2)
    assert evaluate(near, masks).tolist() == [[0, 0], [0.5, 0.5], [0.5, 0.5]]


def test_closed_forms_of_large_games():
    """1,001 members: Shapley values by symmetry and efficiency, Banzhaf by the binomial."""
    game = Majority(2000, range(1001))
    np.testing.assert_allclose(game.ame(SHAPLEY)[:1001], 2 / 1001, rtol=1e-7)
    np.testing.assert_allclose(game.ame(PointMass(0.5))[:1001], 2 * stats.binom.pmf(500, 1000, 0.5), rtol=1e-10)
    assert np.all(game.ame(SHAPLEY)[1001:] == 0)


def test_shapley_values_of_the_textbook():
    """Littlechild and Owen's formula; the gloves game of three; a permanent member of a council of two others."""
    costs = np.array([1.0, 2.0, 5.0])
    np.testing.assert_allclose(Airport(costs).ame(SHAPLEY), [1 / 3, 1 / 3 + 1 / 2, 1 / 3 + 1 / 2 + 3], rtol=1e-7)
    np.testing.assert_allclose(Gloves(3, [0], [1, 2]).ame(SHAPLEY), [2 / 3, 1 / 6, 1 / 6], rtol=1e-7)
    np.testing.assert_allclose(WeightedVoting([2, 1, 1], 3).ame(SHAPLEY), [2 / 3, 1 / 6, 1 / 6], rtol=1e-7)
    # The Security Council: five with a veto, nine votes of fifteen. Banzhaf: 848 and 84 swings of 2^14.
    council = WeightedVoting([7] * 5 + [1] * 10, 39)
    np.testing.assert_allclose(council.ame(PointMass(0.5)), np.repeat([848, 84], [5, 10]) / 2**14, rtol=1e-12)
    np.testing.assert_allclose(council.ame(SHAPLEY)[[0, 5]], [0.19627, 0.0018648], rtol=1e-4)


def test_a_nearest_neighbour_game_is_its_classifier():
    """Against scikit-learn's, and the Shapley recursion of Jia et al. (2019), theorem 1, written out."""
    rng = np.random.default_rng(3)
    x, y, test_x, test_y = rng.normal(size=(60, 3)), rng.integers(0, 3, 60), rng.normal(size=(7, 3)), np.arange(7) % 3
    game, masks = NearestNeighbours(x, y, test_x, test_y, 4), rng.random((5, 60)) < 0.5
    for mask, utility in zip(masks, evaluate(game, masks), strict=True):
        classifier = KNeighborsClassifier(4).fit(x[mask], y[mask])
        np.testing.assert_allclose(utility, classifier.predict_proba(test_x)[np.arange(7), test_y], atol=1e-6)
    values = game.ame(SHAPLEY)
    for q in range(7):
        order = np.argsort(((x - test_x[q]) ** 2).sum(axis=1))
        right = (y[order] == test_y[q]).astype(float)
        by_hand = np.empty(60)
        by_hand[-1] = right[-1] * min(4, 60) / (4 * 60)
        for j in range(58, -1, -1):
            by_hand[j] = by_hand[j + 1] + (right[j] - right[j + 1]) / 4 * min(4, j + 1) / (j + 1)
        np.testing.assert_allclose(values[q, order], by_hand, atol=1e-7)


def test_moebius_form_agrees_with_the_count_form():
    law = Beta(3, 2)
    np.testing.assert_allclose(
        UnanimitySum(6, [(1, 2, 5)], [2.0]).ame(law), Unanimity(6, [1, 2, 5], 2.0).ame(law), atol=1e-14
    )
    assert Unanimity(6, [1, 2, 5]).ame(law)[1] == pytest.approx(3 * 4 / (5 * 6), rel=1e-12)


class Keyed:
    """A game with noise from its keys and values that are not finite for one subset."""

    num_sources = 3

    def __init__(self, full_value):
        self.full_value = full_value

    def __call__(self, keys, masks):
        noise = jax.vmap(jax.random.normal)(keys)
        return jnp.where(masks.all(axis=1), self.full_value, noise)[:, None]


def test_enumeration_hands_out_distinct_keys():
    one, same, other = (enumerate_ame(Keyed(0.0), PointMass(0.5), jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.all(one != other)
    assert len(np.unique(one)) == 3


ONE_KEY = jax.random.split(jax.random.key(0), 1)
BAD = {
    "repeated member": (lambda: Unanimity(4, [1, 1]), r"members distinct and in 0 to 3; got \[1, 1\]"),
    "member out of range": (lambda: Majority(4, [0, 1, 4]), "members distinct and in 0 to 3"),
    "negative member": (lambda: Saturating(4, [-1, 1]), "members distinct and in 0 to 3"),
    "fractional member": (lambda: Unanimity(4, [0.5]), "members to be a sequence of source indices"),
    "no member": (lambda: CountGame(4, [], [0.0]), "at least one member; got none"),
    "levels of another length": (lambda: CountGame(4, [0, 1], [0.0, 1.0]), r"levels \[3\]; got float64\[2\]"),
    "threshold of zero": (lambda: Threshold(4, [0, 1], 0), "threshold to be an integer >= 1; got int 0"),
    "threshold out of reach": (lambda: Threshold(4, [0, 1], 3), "threshold at most the number of members, 2; got 3"),
    "even majority": (lambda: Majority(4), "an odd number of members; got 4"),
    "no sources": (lambda: Majority(0), "num_sources to be an integer >= 1; got int 0"),
    "infinite weight": (lambda: Additive([1.0, np.inf]), "weights finite"),
    "weights of three axes": (
        lambda: Additive(np.ones((1, 2, 3))),
        r"weights \[N\] or \[Q, N\]; got float64\[1, 2, 3\]",
    ),
    "no weights": (lambda: Additive([]), r"weights \[N\] or \[Q, N\]"),
    "bias of another length": (lambda: Additive([1.0, 2.0], [1.0, 2.0]), r"bias a number or \[1\]; got float64\[2\]"),
    "nan slope": (lambda: Saturating(4, [0], slope=np.nan), "slope finite; got nan"),
    "no coalition": (lambda: UnanimitySum(4, [], []), "at least one coalition"),
    "weights without coalitions": (lambda: UnanimitySum(4, [(0,)], [1, 2]), r"weights \[1\]; got float64\[2\]"),
    "coalition out of range": (lambda: UnanimitySum(4, [(0, 4)], [1]), "every coalition distinct and in 0 to 3"),
    "negative cost": (lambda: Airport([1.0, -2.0]), "costs not negative; got -2.0"),
    "no cost": (lambda: Airport([]), r"costs \[N\]"),
    "a left glove that is right": (lambda: Gloves(4, [0, 1], [1]), "left and right together distinct and in 0 to 3"),
    "no right glove": (lambda: Gloves(4, [0], []), "at least one source on either side; got 1 and 0"),
    "half a vote": (lambda: WeightedVoting([0.5, 1], 1), r"weights, integers \[N\] from 0"),
    "a vote against": (lambda: WeightedVoting([1, -1], 1), r"weights, integers \[N\] from 0"),
    "quota out of reach": (lambda: WeightedVoting([1, 2], 4), "quota at most the sum of the weights, 3; got 4"),
    "labels of others": (
        lambda: NearestNeighbours(POINTS, LABELS[1:], TEST_POINTS, TEST_LABELS),
        r"y \[9\], a label for every input",
    ),
    "test points of another width": (
        lambda: NearestNeighbours(POINTS, LABELS, TEST_POINTS[:, :1], TEST_LABELS),
        r"test_x \[Q, 2\]",
    ),
    "no neighbour": (
        lambda: NearestNeighbours(POINTS, LABELS, TEST_POINTS, TEST_LABELS, 0),
        "num_neighbours to be an integer >= 1",
    ),
    "masks of another width": (
        lambda: Majority(3)(ONE_KEY, jnp.ones((1, 4), bool)),
        r"masks bool \[m, 3\]; got bool\[1, 4\]",
    ),
    "masks of floats": (
        lambda: Additive([1, 2])(ONE_KEY, jnp.ones((1, 2), jnp.float32)),
        r"masks bool \[m, 2\]; got float32\[1, 2\]",
    ),
    "one mask": (
        lambda: UnanimitySum(2, [(0,)], [1])(ONE_KEY, jnp.ones(2, bool)),
        r"masks bool \[m, 2\]; got bool\[2\]",
    ),
    "too many sources": (
        lambda: enumerate_ame(Majority(17), PointMass(0.5)),
        "at most 16 sources to enumerate; got 17",
    ),
    "utility not finite": (lambda: enumerate_ame(Keyed(np.nan), PointMass(0.5)), "utilities finite"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_enumeration_refuses_utilities_of_the_wrong_shape():
    class Flat(Keyed):
        def __call__(self, keys, masks):
            return super().__call__(keys, masks)[:, 0]

    with pytest.raises(ValueError, match=r"utilities \[8, Q\]; got float64\[8\]"):
        enumerate_ame(Flat(0.0), PointMass(0.5))
