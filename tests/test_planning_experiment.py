"""The experiment on the planner: its effects, that its check can fail, and its small run."""

import math

import pytest

from experiments import planning as experiment
from jaxame import planning
from jaxame.design import Grid


def test_effects_are_part_of_the_spread_that_hides_them():
    of = experiment.detectable(500, 300, 10, 0.1, 0.9)
    spread = math.sqrt(1 + 10 * of.levels[1] ** 2 / Grid((0.2, 0.4, 0.6, 0.8)).variance_scale)
    sizes = {"num_submodels": 500, "num_sources": 300, "num_effects": 10}
    assert of.levels[1] == pytest.approx(planning.detectable_effect(spread, experiment.LAW, **sizes))
    assert of.r2 == pytest.approx(1 - 1 / spread**2)
    assert of.levels == pytest.approx([of.levels[1] * count for count in range(11)])


def test_the_plan_is_tried_and_what_is_below_it():
    tried = [pair for pair in experiment.trials(500, 10, experiment.Settings()) if pair[0]["what"] == "plan"]
    assert len(tried) == 9
    for about, trial in tried:
        assert about["M"] == trial.rows
        assert about["k"] == trial.of.levels.size - 1
        assert (about["predicted"] == 0.9) == (trial.rows == planning.plan(about["k"], 500, trial.of.r2))


def test_the_check_can_fail():
    def found(what, predicted, measured):
        return [{"what": what, "predicted": predicted, "measured": measured}]

    experiment.check(found("detectable_effect", 0.5, 0.1) + found("plan", 0.5, 1.0) + found("plan", None, 0.0))
    for bad in (found("plan", 0.9, 0.3), found("detectable_effect", 0.9, 0.3), found("planted_power", 0.37, 0.1)):
        with pytest.raises(SystemExit, match="the claim is not met"):
            experiment.check(bad)
