"""Rules on made-up histories, and a growing experiment against one of the final size."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import GRID, N, assert_same

import jaxame
from jaxame.games import Additive
from jaxame.stopping import CVError, Round, Rule, Seconds, StableSelection, Submodels, Verdict, Width

pytestmark = pytest.mark.slow  # under one version of Python

KEY = jax.random.key(2)
NUM_QUERIES = 2


def result_with(stderr=1.0, chosen=(), error=0.5, error_se=0.05, num_submodels=100):
    """A result of two queries; knockoff selection chooses the same sources, at least three, for both."""
    shape = (NUM_QUERIES, N)
    entry = np.zeros((NUM_QUERIES, 5, N))
    entry[:, 0, list(chosen)] = 1.0
    return jaxame.Attribution(
        values=np.zeros(shape),
        values_sd=None,
        stderr=np.broadcast_to(stderr, shape).astype(float),
        status=np.zeros(NUM_QUERIES, int),
        lasso_min=np.zeros(shape),
        lasso_1se=np.zeros(shape),
        debiased=np.zeros(shape),
        num_left_out=np.zeros(NUM_QUERIES, int),
        submodel_status=np.zeros(num_submodels, int),
        relative_gap=np.zeros((NUM_QUERIES, 2)),
        violation=np.zeros((NUM_QUERIES, 2)),
        cv_penalty=np.ones((3, NUM_QUERIES)),
        cv_error=np.array([[4.0] * NUM_QUERIES, 4.0 * np.broadcast_to(error, NUM_QUERIES), [np.nan] * NUM_QUERIES]),
        cv_error_se=np.full((3, NUM_QUERIES), 4.0 * error_se),
        importance=entry[:, None],
        randomisation_p=None,
        training_variance=None,
        utility_variance=np.ones(NUM_QUERIES),
        about={"num_submodels": num_submodels},
    )


def rounds(*results, seconds=1.0):
    return [Round(result, seconds * (n + 1)) for n, result in enumerate(results)]


def test_width_looks_at_the_widest_interval_of_the_last_round():
    wide = 2 * 1.959964
    history = rounds(result_with(9.0), result_with(1.0))
    assert Width(3.93)(history) == (True, "the widest interval is 3.92 (wanted 3.93)")
    assert Width(wide + 1e-5)(history).holds
    assert not Width(wide - 1e-5)(history).holds
    assert Width(2 * 0.6745 + 1e-3, level=0.5)(history).holds
    stderr = np.ones((NUM_QUERIES, N))
    stderr[1, 7] = 3.0
    uneven = rounds(result_with(stderr))
    assert not Width(wide + 1e-5)(uneven).holds
    assert Width(wide + 1e-5, query=0)(uneven).holds
    assert not Width(wide + 1e-5, query=1)(uneven).holds
    with pytest.raises(ValueError, match="query to be a number below 2; got int 2"):
        Width(1.0, query=2)(history)


def test_a_query_without_variance_does_not_keep_the_error_from_settling():
    constant = result_with(error=0.5)
    constant.cv_error[:, 1] = 0.0
    assert CVError(0.05)(rounds(constant, constant)).holds
    better = result_with(error=0.3)
    better.cv_error[:, 1] = 0.0
    assert CVError(0.05)(rounds(constant, better)) == (
        False,
        "the cross-validated error fell by 40.00% in the last round",
    )


def test_width_of_the_selected_sources():
    stderr = np.ones((NUM_QUERIES, N))
    stderr[:, 7] = 3.0
    rule = Width(5.0, fdr=0.2)
    assert rule(rounds(result_with(stderr, chosen=(1, 2, 3)))).holds
    verdict = rule(rounds(result_with(stderr, chosen=(1, 2, 7))))
    assert verdict == (False, "the widest interval of a selected source is 11.8 (wanted 5)")
    assert rule(rounds(result_with(stderr))) == (False, "nothing is selected for query 0 at fdr=0.2")


def test_a_selection_is_stable_when_its_last_rounds_agree():
    one, other, none = (result_with(chosen=c) for c in ((1, 2, 3), (1, 2, 3, 4), ()))
    rule = StableSelection(0.2, rounds=3)
    assert rule(rounds(other, one, one, one)).holds
    assert rule(rounds(one, one)) == (False, "the same 3 sources are selected in 2 of 3 rounds")
    assert rule(rounds(one, one, one, other)) == (False, "the same 4 sources are selected in 1 of 3 rounds")
    assert not rule(rounds(one, other, one)).holds
    assert not rule(rounds(none, none, none)).holds
    assert not StableSelection(0.2, rounds=3, alternative="less")(rounds(one, one, one)).holds
    assert StableSelection(0.2, rounds=2, query="all")(rounds(one, one)).holds


def test_the_error_has_stopped_falling():
    rule = CVError(0.05)
    assert rule(rounds(result_with(error=0.50), result_with(error=0.48))).holds
    assert rule(rounds(result_with(error=0.48), result_with(error=0.50))).holds
    assert rule(rounds(result_with(error=0.50), result_with(error=0.47))) == (
        False,
        "the cross-validated error fell by 6.00% in the last round",
    )
    assert not rule(rounds(result_with(error=(0.5, 0.5)), result_with(error=(0.5, 0.4)))).holds
    assert rule(rounds(result_with(error=0.5))) == (False, "there is one round only")
    for error in (1.0, 0.96):
        verdict = rule(rounds(result_with(error=error), result_with(error=error)))
        assert verdict == (False, "the cross-validated error is no smaller than without sources")


def test_time_and_number():
    history = rounds(result_with(num_submodels=100), result_with(num_submodels=150), seconds=7.0)
    assert Seconds(14)(history) == (True, "14 of 14 seconds have gone by")
    assert not Seconds(14.1)(history).holds
    assert Submodels(150)(history) == (True, "150 of 150 submodels are evaluated")
    assert not Submodels(151)(history).holds


@dataclasses.dataclass(frozen=True)
class Always(Rule):
    answer: bool
    name: str

    def __call__(self, history):
        return Verdict(self.answer, self.name)


YES, NO = Always(True, "yes"), Always(False, "no")
TABLE = [
    (YES & YES, True, "yes and yes"),
    (YES & NO, False, "yes and no"),
    (NO & YES, False, "no and yes"),
    (NO & NO, False, "no and no"),
    (YES | YES, True, "yes and yes"),
    (YES | NO, True, "yes"),
    (NO | YES, True, "yes"),
    (NO | NO, False, "no and no"),
    (NO | YES & NO, False, "no and yes and no"),
    ((NO | YES) & YES, True, "yes and yes"),
]


@pytest.mark.parametrize(("rule", "holds", "reason"), TABLE)
def test_rules_combine(rule, holds, reason):
    assert rule(rounds(result_with())) == (holds, reason)


def test_combined_rules_know_their_limit_and_their_needs():
    assert (Width(1) | Submodels(70) | Submodels(50)).limit == 50
    assert (Submodels(70) & Submodels(50)).limit == 70
    assert (Width(1) & Submodels(70)).limit == np.inf
    assert (Width(1) | StableSelection()).selects
    assert Width(1, fdr=0.1).selects
    assert not (Width(1) & Seconds(3)).selects
    with pytest.raises(ValueError, match=r"a jaxame\.stopping\.Rule"):
        Width(1) & 3


class Recorded(Additive):
    """An additive game with noise from each row's key, which keeps the keys and masks that it was called with."""

    def __init__(self, weights):
        super().__init__(weights)
        object.__setattr__(self, "calls", [])

    def __call__(self, keys, masks):
        self.calls.append((np.asarray(jax.random.key_data(keys)), np.asarray(masks)))
        noise = jax.vmap(jax.random.normal)(keys)
        return np.asarray(super().__call__(keys, masks)) + np.asarray(noise)[:, None]


def all_rows(game):
    return [np.concatenate(part) for part in zip(*game.calls, strict=True)]


OPTIONS = {"key": KEY, "law": GRID, "folds": 5, "copies": 0}


@pytest.mark.parametrize("paired", [False, True], ids=["independent", "paired"])
def test_a_growing_experiment_is_one_of_the_final_size(paired):
    weights = np.where(np.arange(N) < 4, 1.0, 0.0)
    growing, fixed = Recorded(weights), Recorded(weights)
    rule = Width(20.0) & Submodels(113)
    stopped = jaxame.ame(growing, num_submodels=75, stop=rule, max_submodels=1000, paired=paired, **OPTIONS)
    about = dict(stopped.about)
    stopping = about.pop("stopping")
    sizes = [each["num_submodels"] for each in stopping["rounds"]]
    assert sizes == [75, 113]
    assert stopping["held"]
    assert stopping["reason"] == stopping["rounds"][-1]["reason"]
    assert "(wanted 20) and 113 of 113 submodels" in stopping["reason"]
    assert stopping["rule"] == repr(rule)
    whole = jaxame.ame(fixed, num_submodels=sizes[-1], paired=paired, **OPTIONS)
    for one, other in zip(all_rows(growing), all_rows(fixed), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [len(masks) for _, masks in growing.calls] == np.diff([0, *sizes]).tolist()
    assert_same(stopped, whole)
    assert about == whole.about


def test_a_rule_that_never_holds_ends_at_the_most_allowed(tmp_path):
    game = Recorded(np.ones(N))
    found = jaxame.ame(game, num_submodels=75, stop=Width(1e-9), max_submodels=113, **OPTIONS)
    assert found.about["stopping"]["held"] is False
    assert found.about["stopping"]["reason"].startswith("113 submodels are the most allowed; the widest interval is")
    assert found.about["num_submodels"] == sum(len(masks) for _, masks in game.calls) == 113
    found.save(tmp_path / "result")
    assert jaxame.load(tmp_path / "result").about == found.about


def test_no_more_submodels_than_the_rule_can_use():
    game = Recorded(np.ones(N))
    found = jaxame.ame(game, num_submodels=75, stop=Width(1e-9) | Submodels(113), **OPTIONS)
    assert found.about["num_submodels"] == 113
    assert found.about["stopping"]["reason"] == "113 of 113 submodels are evaluated"


@pytest.mark.slow
def test_a_growing_experiment_ends_at_the_width_asked_for():
    found = jaxame.ame(Recorded(np.ones(N)), num_submodels=75, stop=Width(1.3), max_submodels=2000, **OPTIONS)
    assert found.about["stopping"]["held"]
    lower, upper = found.interval()
    assert (upper - lower).max() <= 1.3
    assert ((lower <= 1) & (upper >= 1)).mean() > 0.7


@pytest.mark.slow
def test_shapley_stops_when_its_selection_is_stable():
    weights = np.where(np.arange(N) < 6, 2.0, 0.0)
    rule = StableSelection(0.1, rounds=2) | Submodels(170)
    found = jaxame.shapley(Recorded(weights), key=KEY, num_submodels=113, stop=rule, folds=5)
    assert found.about["stopping"]["held"]
    assert set(range(6)) <= set(found.select(0.1).indices)


BAD = {
    "not a rule": ({"stop": 0.5, "max_submodels": 200}, "stop to be a jaxame.stopping.Rule; got float 0.5"),
    "no end": ({"stop": Width(0.1)}, r"max_submodels, as Width.* may never hold; got None"),
    "no end in time": ({"stop": Seconds(5)}, "max_submodels, as Seconds.* may never hold"),
    "end before the start": (
        {"stop": Width(0.1), "max_submodels": 50},
        "at most 50 submodels in the first round; got 75",
    ),
    "limit before the start": ({"stop": Submodels(50)}, "at most 50 submodels in the first round; got 75"),
    "selection without copies": (
        {"stop": StableSelection(), "max_submodels": 200},
        "knockoff copies for Stable.*copies=0",
    ),
    "no rule": ({"max_submodels": 200}, "max_submodels only with stop; got 200"),
    "fractional end": ({"stop": Width(0.1), "max_submodels": 200.5}, "max_submodels to be an integer >= 2"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_bad_options_are_refused_before_the_game_is_called(change, message):
    game = Recorded(np.ones(N))
    with pytest.raises(ValueError, match=message):
        jaxame.ame(game, **{"num_submodels": 75} | OPTIONS | change)
    assert not game.calls


BAD_RULES = {
    "no width": (lambda: Width(0), "at_most finite and positive; got int 0"),
    "endless width": (lambda: Width(np.inf), "at_most finite and positive"),
    "level": (lambda: Width(1, level=95), "level strictly between 0 and 1"),
    "rate of the width": (lambda: Width(1, fdr=0), "fdr strictly between 0 and 1"),
    "rate": (lambda: StableSelection(2), "fdr strictly between 0 and 1"),
    "one round": (lambda: StableSelection(rounds=1), "rounds to be an integer >= 2; got int 1"),
    "alternative": (lambda: StableSelection(alternative="up"), "alternative to be one of"),
    "improvement": (lambda: CVError(2), "improvement strictly between 0 and 1"),
    "seconds": (lambda: Seconds("10"), "at_least finite and positive; got str '10'"),
    "submodels": (lambda: Submodels(10.5), "number to be an integer >= 2"),
}


@pytest.mark.parametrize(("make", "message"), BAD_RULES.values(), ids=BAD_RULES.keys())
def test_bad_rules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_rows_are_evaluated_from_a_start():
    game, design = Recorded(np.ones(N)), jaxame.design.sample_design(KEY, GRID, num_submodels=50, num_sources=N)
    whole = jaxame.evaluate(game, design)
    np.testing.assert_array_equal(jaxame.evaluate(game, design, start=20), whole[20:])
    with pytest.raises(ValueError, match="start below 50; got 50"):
        jaxame.evaluate(game, design, start=50)
    with pytest.raises(ValueError, match="start to be an integer >= 0"):
        jaxame.evaluate(game, design, start=-1)
