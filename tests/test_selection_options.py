"""The experiment on ways to select: what it counts and plants, that its check can fail, and its small run."""

import jax
import numpy as np
import pytest

from experiments import selection_options as experiment

CELL = {"game": "saturating", "k": 10, "q": 0.1, "option": "default"}


def test_outcomes_are_shares_of_what_is_selected_and_planted():
    some, none = np.array([1, 2, 3, 4]), np.zeros(0, int)
    assert experiment.outcome(some, np.array([4, 5]), np.array([4, 7])) == {"fdp": 0.75, "power": 0.5, "jaccard": 0.2}
    assert experiment.outcome(none, some, some) == {"fdp": 0.0, "power": 0.0, "jaccard": 0.0}
    assert np.isnan(experiment.outcome(none, some, none)["jaccard"])
    assert np.isnan(experiment.outcome(some, some)["jaccard"])


def test_gains_are_differences_on_the_same_designs():
    found = [
        CELL | {"option": option, "number": number, "power": power, "fdp": 0.1, "jaccard": np.nan, "seconds": 1.0}
        for option, powers in {"default": (0.2, 0.6), "greater": (0.4, 0.8)}.items()
        for number, power in enumerate(powers)
    ]
    default, greater = experiment.summarise(found, 9)
    assert (default["gain"], default["jaccard"], default["M"]) == (0, None, 9)
    assert greater["gain"] == pytest.approx(0.2)
    assert greater["gain_se"] == pytest.approx(0)
    assert greater["power_se"] == pytest.approx(0.2)


@pytest.mark.parametrize("kind", sorted({option.rows for option in experiment.OPTIONS.values()}))
def test_planted_sources_are_those_that_matter(kind):
    rng = np.random.default_rng(0)
    design = experiment.draw_design(kind, jax.random.key(0), 400, rng)
    masks = np.asarray(design.masks())
    planted = experiment.plant(masks, rng)
    for utility, members, raising in zip(*planted._replace(utilities=planted.utilities.T), strict=True):
        sign = np.where(np.isin(members, raising), 1, -1)
        assert np.corrcoef(masks[:, members] @ sign, utility)[0, 1] > 0.6


def test_the_check_can_fail():
    good = CELL | {"fdr": 0.1, "power": 0.9}
    experiment.check([good, good | {"option": "each", "fdr": 0.9}])  # claims nothing
    for bad in ({"fdr": 0.3}, {"power": 0.1}, {"game": "stand-ins", "option": "groups"}):
        with pytest.raises(SystemExit, match="the claim is not met"):
            experiment.check([good | bad])
