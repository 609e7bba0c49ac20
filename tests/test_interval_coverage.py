"""The experiment on intervals: what it counts, its small run, and that its check can fail."""

import jax
import numpy as np
import pytest
from scipy import stats

from experiments import interval_coverage as coverage
from jaxame.design import sample_design

pytestmark = pytest.mark.slow
CELL = {"game": "dense", "law": "grid", "M": 100, "intervals": "debiased", "zero": False, "stopped": False}


def test_cells_are_means_over_replicates_and_errors_are_over_designs():
    found = [CELL | {"number": n, "coverage": c, "width": 1.0} for n, c in ((0, 0.9), (0, 1.0), (1, 0.8), (1, 0.9))]
    ends = [CELL | {"number": n, "coverage": 0.9, "width": 2.0, "stopped": True, "M": 100 + 50 * n} for n in (0, 1)]
    cell, stopped = coverage.summarise(found + ends)
    assert (cell["M"], cell["coverage"], cell["replicates"]) == (100, pytest.approx(0.9), 4)
    assert cell["coverage_se"] == pytest.approx(0.05)  # designs' means .95 and .85
    assert (stopped["M"], stopped["stopped"], stopped["width"]) == (125, True, 2.0)


def test_planted_effects_are_those_of_least_squares():
    """The closed forms agree with the weighted mean of the utilities, within its sampling error."""
    design = sample_design(jax.random.key(0), coverage.LAWS["Beta(4,6)"], num_submodels=4000, num_sources=100)
    planted = coverage.plant(design, np.random.default_rng(0))
    p, masks = np.asarray(design.p, np.float64)[:, None], np.asarray(design.masks())
    x = (masks - p) / (p * (1 - p))
    centred = planted.utilities - planted.utilities.mean(axis=0)
    terms = x[:, :, None] * centred[:, None, ::7]
    error = terms.std(axis=0) / np.sqrt(len(p))
    assert (np.abs(terms.mean(axis=0).T - planted.truth[::7]) < 5.5 * error.T).all()


def test_each_replicate_stops_by_itself_and_at_the_latest_in_the_last_round(monkeypatch):
    monkeypatch.setattr(coverage, "PER_DESIGN", 1)
    monkeypatch.setattr(coverage, "plant", lambda design, rng: planted)
    planted = coverage.Planted(np.zeros((400, 3)), list(coverage.GAMES), np.zeros((3, 100)), np.array([1.0, 2.0, 1.0]))
    planted.truth[:, 0] = 1.0
    asked = []

    def estimate(design, utilities, key, kinds):
        """Every query's intervals are about zero, of a width of its own, and narrower with more rows."""
        asked.append(len(utilities))
        assert design.num_submodels == len(utilities)
        width = np.array([50.0, 200.0, 1000.0]) / len(utilities)
        stderr = np.repeat(width[:, None] / 2 / stats.norm.ppf(0.975), 100, axis=1)
        return [coverage.Intervals(np.zeros((3, 100)), stderr) for _ in kinds]

    monkeypatch.setattr(coverage, "estimate", estimate)
    found = [one for one in coverage.stopped("grid", 0) if one["zero"]]
    assert asked == list(coverage.ROUNDS)
    assert [one["M"] for one in found] == [100, 200, 400]  # widths allowed: .5, 1, .5
    assert [one["width"] for one in found] == pytest.approx([0.5, 0.5, 2.5])  # in standard deviations
    assert all(one["coverage"] == 1 and one["stopped"] for one in found)


def test_the_check_can_fail():
    good = CELL | {"coverage": 0.95, "coverage_se": 0.005}
    coverage.check([good])
    for bad in ({"coverage": 0.9}, {"coverage": 0.995}, {"M": 25}):
        with pytest.raises(SystemExit, match="the claim is not met"):
            coverage.check([good | bad])
