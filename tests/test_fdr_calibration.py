"""The experiment on false discovery rates: what it counts, its small run, and that its check can fail."""

import jax
import numpy as np
import pytest

from experiments import fdr_calibration
from jaxame.design import Grid, sample_design

CELL = {"game": "additive", "design": "independent", "k": 10, "M": 500, "q": 0.1, "copies": 4, "method": "knockoff+"}


def found(number, precision, power):
    return CELL | {"number": number, "precision": precision, "power": power}


def test_selecting_nothing_is_no_false_discovery_and_has_no_precision():
    cell, other = fdr_calibration.summarise(
        [found(0, 0.5, 1.0), found(0, np.nan, 0.0), found(1, 1.0, 0.2), found(1, 0.5, 0.4)]
        + [found(number, np.nan, 0.0) | {"k": 30} for number in (0, 1)]
    )
    assert cell["fdr"] == pytest.approx((0.5 + 0 + 0 + 0.5) / 4)
    assert cell["fdr_se"] == pytest.approx(0.0)  # both designs have a mean of 1/4
    assert cell["power"] == pytest.approx(0.4)
    assert cell["precision_planted"] == pytest.approx(2 / 3)
    assert other["k"] == 30
    assert other["fdr"] == 0
    assert other["precision_planted"] is None


def test_planted_sources_are_those_that_matter():
    design = sample_design(jax.random.key(0), Grid((0.5,)), num_submodels=400, num_sources=500)
    planted = fdr_calibration.plant(design, np.random.default_rng(0))
    masks = np.asarray(design.masks())
    for utility, (game, k), members in zip(planted.utilities.T, planted.names, planted.members, strict=True):
        assert len(members) == k + (game == "majority")
        correlation = np.corrcoef(masks[:, members].sum(axis=1), utility)[0, 1]
        assert correlation > 0.6


def test_the_check_can_fail():
    good = [CELL | {"fdr": 0.1, "power": 0.9}]
    fdr_calibration.check(good)
    for bad in ({"fdr": 0.3}, {"power": 0.1}):
        with pytest.raises(SystemExit, match="the claim is not met"):
            fdr_calibration.check([good[0] | bad])
    fdr_calibration.check([*good, good[0] | {"method": "knockoff", "fdr": 0.9}])  # claims less
