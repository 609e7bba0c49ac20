"""Other packages' Shapley values against ours, and what goes between us and them; most of it needs shapiq."""

import functools
import json
import sys

import jax
import numpy as np
import pytest
from helpers import Stacked

from benchmarks.shapley_peers import pydvl_peer, shapiq_peer
from benchmarks.shapley_peers.asked import Asked, RefusedError
from jaxame import baselines, games, interop
from jaxame.baselines.evaluation import Budget
from jaxame.design import TruncatedUniform
from jaxame.exchange import ExchangeError

N, KEYS = 7, 20
KEY = jax.random.key(5)
SHAPLEY = TruncatedUniform(1e-9)
SUM = games.UnanimitySum(N, [(), (0,), (1, 2), (0, 1, 2, 3), (3, 4), (5,)], [7.0, 1.0, -2.0, 1.5, 0.5, 0.25])
GAMES = {
    "additive": games.Additive(np.linspace(-2, 3, N), bias=0.5),
    "unanimity sum": SUM,
    "threshold": games.Threshold(N, [0, 2, 5], 2),
    "majority": games.Majority(N, range(5)),
    "saturating": games.Saturating(N, range(4), slope=1.5, centre=1.0),
    "airport": games.Airport(np.arange(1.0, N + 1)),
    "gloves": games.Gloves(N, [0, 1], [2, 3, 4]),
    "votes": games.WeightedVoting(np.arange(1, N + 1), 15),
}
NONE_AND_ALL = np.stack([np.zeros(N, bool), np.ones(N, bool)])
UNBIASED_FROM = 96
"""A budget below which KernelSHAP is too biased, and above which shapiq draws all subsets of nearly every size."""


@pytest.fixture(scope="module")
def shapiq():
    return pytest.importorskip("shapiq")


def exact(shapiq, game):
    """Return shapiq's own Shapley values of one of our games."""
    found = shapiq.ExactComputer(interop.to_shapiq(game, key=KEY))("SV")
    return np.array([found[(source,)] for source in range(N)])


class InNumPy:
    """The sum, without JAX, which would compile for every number of subsets."""

    num_sources = N

    def __call__(self, keys, masks):
        return sum(w * masks[:, list(t)].all(axis=1) for t, w in zip(SUM.coalitions, SUM.weights, strict=True))[:, None]


def spread(estimate, budget):
    """Return the mean values over keys and the square of its standard error."""
    values = np.stack([estimate(InNumPy(), key=jax.random.key(k), budget=budget).values[0] for k in range(KEYS)])
    return values.mean(axis=0), values.var(axis=0, ddof=1) / KEYS


SAMPLED = {
    "shapiq permutation": (baselines.permutation, 26),
    "shapiq SVARM": (baselines.svarm, 64),
    "shapiq KernelSHAP": (functools.partial(baselines.kernel_shap, paired=False), UNBIASED_FROM),
    "shapiq KernelSHAP, paired": (baselines.kernel_shap, UNBIASED_FROM),
    "shapiq unbiased KernelSHAP": (functools.partial(baselines.unbiased_kernel_shap, paired=False), 64),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_values_are_those_of_shapiq_on_average(shapiq, name):
    ours, budget = SAMPLED[name]
    (mean, square), (their_mean, their_square) = spread(ours, budget), spread(shapiq_peer.ESTIMATORS[name], budget)
    assert (np.abs(mean - their_mean) <= 4 * np.sqrt(square + their_square) + 1e-6).all()
    # What the test can tell: half as much again would be noticed.
    assert (np.abs(1.5 * mean - their_mean) > 4 * np.sqrt(1.5**2 * square + their_square)).any()


EXACT = ("shapiq SVARM", "shapiq KernelSHAP", "shapiq KernelSHAP, leverage", "shapiq unbiased KernelSHAP")


@pytest.mark.parametrize("name", [*EXACT, "shapiq kADD-SHAP"])
def test_all_subsets_make_shapiq_exact(shapiq, name):
    """And ours agree with that: KernelSHAP in the limit, the others on average, as above."""
    game = GAMES["threshold"] if name == "shapiq kADD-SHAP" else SUM
    found = shapiq_peer.ESTIMATORS[name](game, key=KEY, budget=2**N)
    assert found.about["evaluations"] == 2**N
    np.testing.assert_allclose(found.values[0], exact(shapiq, game), atol=1e-5)


SPARSE = ("shapiq SPEX", "shapiq ProxySPEX")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if "MSR" in name else ())
        for name in shapiq_peer.ESTIMATORS
        if name not in SPARSE
    ],
)
def test_shapiq_keeps_to_the_budget(shapiq, name):
    """Every query gets its values, from the same subsets."""
    if reason := shapiq_peer.missing(name):
        pytest.skip(reason)
    found = shapiq_peer.ESTIMATORS[name](Stacked((SUM, GAMES["airport"])), key=KEY, budget=80)
    assert found.about["evaluations"] <= 80
    alone = shapiq_peer.ESTIMATORS[name](GAMES["airport"], key=KEY, budget=80)
    np.testing.assert_allclose(alone.values[0], found.values[1], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_games_are_found_exactly(shapiq, name):
    if reason := shapiq_peer.missing(name):
        pytest.skip(reason)
    game = games.Threshold(20, [3, 7, 12], 2)
    found = shapiq_peer.ESTIMATORS[name](game, key=KEY, budget=700)
    assert found.about["evaluations"] <= 700
    np.testing.assert_allclose(found.values[0], game.ame(SHAPLEY), atol=1e-3)


@pytest.mark.slow
def test_too_small_a_budget_for_spex_is_refused():
    if reason := shapiq_peer.missing("shapiq SPEX"):
        pytest.skip(reason)
    with pytest.raises(RefusedError, match="Insufficient budget"):
        shapiq_peer.ESTIMATORS["shapiq SPEX"](SUM, key=KEY, budget=80)


@pytest.mark.parametrize(
    ("name", "num_sources", "reason"),
    [
        ("shapiq KernelSHAP", 2000, "overflow"),
        ("shapiq SVARM", 1000, "one stratum at a time"),
        ("shapiq kADD-SHAP", 1000, "dense matrices of 2041 GB"),
    ],
)
def test_what_shapiq_cannot_do_is_refused(name, num_sources, reason):
    with pytest.raises(RefusedError, match=reason):
        shapiq_peer.ESTIMATORS[name](games.Threshold(num_sources, [1, 2], 1), key=KEY, budget=4096)


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(shapiq_peer.util, "find_spec", lambda package: None)
    assert shapiq_peer.missing("shapiq ProxySPEX") == "not installed: shapiq, lightgbm"
    monkeypatch.delenv(pydvl_peer.PYTHON, raising=False)
    assert pydvl_peer.PYTHON in pydvl_peer.missing("pyDVL Owen")
    monkeypatch.setenv(pydvl_peer.PYTHON, "/nowhere/python")
    assert "no file" in pydvl_peer.missing("pyDVL Owen")


def test_every_subset_is_evaluated_once():
    counted = Budget(Stacked((SUM, GAMES["airport"])), KEY, 4, 1)
    asked = Asked(counted)
    first, second = asked.of_query(0), asked.of_query(1)
    np.testing.assert_allclose(first(NONE_AND_ALL), [7.0, 8.25])
    np.testing.assert_allclose(second(NONE_AND_ALL[1]), [N])
    np.testing.assert_allclose(first(np.concatenate([NONE_AND_ALL, NONE_AND_ALL])), [7.0, 8.25, 7.0, 8.25])
    assert counted.left == 2
    with pytest.raises(RuntimeError, match="more than the budget"):
        first(np.eye(N, dtype=bool))


WORKER = """
import json, sys
import numpy as np
from jaxame_exchange import to_starter
job, channel = json.loads(sys.argv[1]), to_starter()
def ask(numbers):
    return float(channel.ask(np.isin(np.arange(job["num_sources"]), numbers)[None])[0, 0])
none = ask([])
values = [ask([i]) - none for i in range(job["num_sources"])]
"""
"""What each source adds to none."""
ANSWERS = 'channel.finish({"values": values, "version": str(job["budget"])})'


@pytest.fixture
def stub(monkeypatch):
    """Return a function that puts a program into the place of pyDVL's worker."""

    def put(ending):
        def command(job):
            return [sys.executable, "-c", WORKER + ending, json.dumps(job)]

        monkeypatch.setattr(pydvl_peer, "_command", command)

    return put


def test_a_worker_is_answered(stub):
    stub(ANSWERS)
    game = Stacked((games.Additive(np.arange(10.0), bias=3.0), games.Airport(np.arange(10.0))))
    found = pydvl_peer.ESTIMATORS["pyDVL permutation"](game, key=KEY, budget=11)
    np.testing.assert_allclose(found.values, np.tile(np.arange(10.0), (2, 1)), atol=1e-5)
    assert (found.about["evaluations"], found.about["version"]) == (11, "11")


def test_a_worker_that_spends_more_is_an_error(stub):
    with pytest.raises(ValueError, match="at least 8 evaluations"):
        pydvl_peer.ESTIMATORS["pyDVL permutation"](SUM, key=KEY, budget=7)
    stub("ask([0, 1])")
    with pytest.raises(RuntimeError, match="more than the budget"):
        pydvl_peer.ESTIMATORS["pyDVL permutation"](SUM, key=KEY, budget=8)


@pytest.mark.parametrize(("ending", "message"), [("", "exit status 0"), ("sys.exit('no memory')", "no memory")])
def test_a_worker_that_fails_is_an_error(stub, ending, message):
    stub(ending)
    with pytest.raises(ExchangeError, match=message):
        pydvl_peer.ESTIMATORS["pyDVL permutation"](SUM, key=KEY, budget=8)


@pytest.mark.parametrize("name", pydvl_peer.ESTIMATORS)
def test_pydvl_estimates_shapley_values(name):
    if reason := pydvl_peer.missing(name):
        pytest.skip(reason)
    game = games.Additive(np.arange(1.0, N + 1), bias=3.0)
    found = pydvl_peer.ESTIMATORS[name](game, key=KEY, budget=60)
    assert found.about["evaluations"] <= 60
    if "truncated" not in name:
        np.testing.assert_allclose(found.values[0], np.arange(1.0, N + 1), rtol=1e-5)
