"""`jaxame.shapley`: the truncation and its bound, efficiency, products; against closed forms."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import FOLDS, GAME, GAMES, SIZES, M, N, Q, Stacked, assert_same

import jaxame
from jaxame import Status, truncation
from jaxame.attribution import AttributionError
from jaxame.design import TruncatedUniform
from jaxame.games import Airport, Threshold, Unanimity

KEY = jax.random.key(11)
OPTIONS = SIZES | {"copies": 0}
WHOLE = TruncatedUniform(1e-9)
NONE, ALL = np.asarray(GAME(None, np.repeat([[False], [True]], N, axis=1)), np.float64)


@dataclasses.dataclass
class Counted:
    """The shared games; counts what is asked, and is not finite on the subsets of some sizes."""

    broken: tuple[int, ...] = ()
    num_sources: int = N
    asked: int = 0

    def __call__(self, keys, masks):
        self.asked += len(masks)
        size = np.asarray(masks).sum(axis=1)
        utilities = np.array(GAME(keys, masks), np.float64)
        utilities[np.isin(size, self.broken), 2] = np.nan
        return utilities


@pytest.fixture(scope="module")
def result():
    return jaxame.shapley(GAME, key=KEY, **OPTIONS)


def test_eps_falls_with_the_root_of_the_submodels_and_is_never_large():
    chosen = [truncation.choose_eps(number) for number in (2, 1000, 4096, 16384, 2**20)]
    assert chosen[0] == chosen[1] / (1.28 / np.sqrt(1000)) * 0.05 == 0.05
    np.testing.assert_allclose(chosen[2:], [0.02, 0.01, 0.00125])
    with pytest.raises(ValueError, match="num_submodels"):
        truncation.choose_eps(0)


BOUNDED = {
    **GAMES,
    "a single source": Threshold(N, [3], 1),
    "all or nothing": Unanimity(N, range(N)),
    "anyone": Threshold(N, range(N), 1),
    "airport": Airport(np.linspace(0.0, 3.0, N)),
}


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("eps", [0.005, 0.05])
def test_the_bias_is_within_its_bound(name, eps):
    game = BOUNDED[name]
    rng = np.random.default_rng(0)
    masks = rng.random((4000, N)) < rng.random((4000, 1))
    masks[0], masks[1] = False, True
    utilities = np.asarray(game(None, masks))
    truncated = game.ame(TruncatedUniform(eps))
    bound = truncation.bias_bound(eps, np.ptp(utilities, axis=0), truncated[None])[0]
    bias = np.abs(truncated - game.ame(WHOLE)).max()
    assert bias <= bound + 1e-6
    if name in ("all or nothing", "anyone"):  # all of the effect is at one end
        assert bias >= 0.2 * bound


def test_the_result_says_how_far_the_truncation_can_move_a_value(result):
    eps = truncation.choose_eps(M)
    assert result.about["law"] == f"TruncatedUniform(eps={eps})"
    assert result.about["truncation"]["eps"] == eps
    bound = result.about["truncation"]["bias_bound"]
    span = ALL - NONE  # of the monotone games
    for query in (0, 2, 5):
        largest = np.abs(result.values[query]).max()
        np.testing.assert_allclose(bound[query], 2 * eps * (span[query] + largest), rtol=1e-5)
    json.dumps(result.about)
    given = jaxame.shapley(GAME, key=KEY, eps=0.1, efficient=False, **OPTIONS)
    assert given.about["truncation"]["eps"] == 0.1
    assert not given.about["efficient"]


def test_values_sum_to_what_all_sources_add():
    game = Counted()
    options = OPTIONS | {"interactions": False}  # whose values sum up without being told
    found = jaxame.shapley(game, key=KEY, **options).check()
    assert game.asked == M + 2
    np.testing.assert_allclose(found.values.sum(axis=1), ALL - NONE, rtol=1e-9)
    bare = jaxame.shapley(game, key=KEY, efficient=False, **options)
    assert game.asked == M + 2 + M
    assert (np.abs(bare.values.sum(axis=1) - (ALL - NONE))[2:] > 1e-5).all()
    for query in range(Q):
        np.testing.assert_array_equal(found.values[query], bare.efficient(ALL - NONE)[query])
    np.testing.assert_array_equal(found.debiased, bare.debiased)


@pytest.mark.parametrize("repeats", [0, 40])
def test_a_total_is_believed_as_far_as_the_noise_lets_it(repeats):
    """The game of all is evaluated once, and has the noise of one evaluation."""

    def noisy(keys, masks):
        noise = jax.vmap(lambda key: jax.random.normal(key, (Q,)))(keys)
        return np.asarray(GAME(keys, masks)) + 0.5 * np.asarray(noise) * (ALL - NONE)

    noisy.num_sources = N
    options = OPTIONS | {"repeats": repeats}
    found, bare = (jaxame.shapley(noisy, key=KEY, efficient=own, **options) for own in (True, False))
    noise = bare.training_variance if repeats else np.array(bare.about["noise_variance"])
    np.testing.assert_allclose(noise, 0.25 * (ALL - NONE) ** 2, rtol=4 * np.sqrt(2 / (repeats or M / 2)))
    total = found.values.sum(axis=1)
    for query in range(Q):
        np.testing.assert_allclose(found.values[query], bare.efficient(total, 2 * noise)[query], rtol=1e-9)
    # No source gets more of what is missing than where the total is believed.
    shift, believing = (np.abs(own - bare.values).max(axis=1) for own in (found.values, bare.efficient(total)))
    assert (shift <= believing * (1 + 1e-9)).all()
    assert (shift < 0.9 * believing).any()


def test_contrasts_sum_to_the_contrast_of_the_totals():
    """Four games and two contrasts: as many queries as in the other tests, which spares a compilation."""
    weights = np.array([[-1.0, 0.0, 1.0, 2.0], [1.0, 0.0, 0.0, 0.0]])
    found = jaxame.shapley(Stacked(GAME.games[:4]), key=KEY, contrasts=weights, **OPTIONS)
    totals = (ALL - NONE)[:4]
    np.testing.assert_allclose(found.values.sum(axis=1), [*totals, *weights @ totals], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.values[5], found.values[0], rtol=1e-6, atol=1e-9)


class LateStart(Counted):
    """Not finite in one query for the first three rows that are asked for."""

    def __call__(self, keys, masks):
        early = self.asked + np.arange(len(masks)) < 3
        utilities = super().__call__(keys, masks)
        utilities[early, 2] = np.nan
        return utilities


def test_without_a_finite_repeat_the_noise_is_what_interactions_do_not_explain():
    found, guessed = (jaxame.shapley(LateStart(), key=KEY, repeats=repeats, **OPTIONS) for repeats in (3, 0))
    np.testing.assert_array_equal(np.isnan(found.training_variance), np.arange(Q) == 2)
    np.testing.assert_array_equal(found.values[2], guessed.values[2])


def test_the_same_key_gives_the_same_answer(result):
    assert_same(result, jaxame.shapley(GAME, key=KEY, **OPTIONS))


def test_interactions_give_shapley_values_without_truncation():
    eps = 0.05
    linear, products = (
        jaxame.shapley(GAME, key=KEY, eps=eps, interactions=interactions, **OPTIONS).values[2]
        for interactions in (False, True)
    )
    truth, truncated = (GAMES["2 of 3"].ame(law) for law in (WHOLE, TruncatedUniform(eps)))
    np.testing.assert_allclose(products, truth, atol=1e-6)
    assert np.abs(truncated - truth).max() > 1e-3
    assert np.abs(linear - truth).max() > 1e-3


@pytest.mark.parametrize("broken", [0, N])
def test_a_total_that_is_not_finite_is_told(broken):
    found = jaxame.shapley(Counted(broken=(broken,)), key=KEY, **OPTIONS)
    assert found.status[2] == Status.TOTAL_NOT_FINITE
    assert (np.delete(found.status, 2) == Status.OK).all()
    assert np.isfinite(found.values).all()
    with pytest.raises(AttributionError, match="query 2: the utility of no source or of all is not finite"):
        found.check()


def test_efficiency_needs_shrunken_values():
    game = Counted()
    with pytest.raises(ValueError, match="efficient=False with shrunken=False"):
        jaxame.shapley(game, key=KEY, shrunken=False, num_submodels=M, folds=FOLDS)
    assert game.asked == 0
    plain = jaxame.shapley(game, key=KEY, shrunken=False, efficient=False, **OPTIONS)
    assert plain.values_sd is None
