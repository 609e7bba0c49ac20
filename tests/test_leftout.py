"""The tests of missingness: rarely wrong when it is chance, right when it is not."""

import numpy as np
import pytest
from scipy import stats

from jaxame.leftout import diagnose
from jaxame.types import Status

M, N = 300, 24
LEVEL = 2e-3  # of both tests together
LAWS = {
    "grid": lambda rng: rng.choice([0.2, 0.4, 0.6, 0.8], M),
    "uniform": lambda rng: rng.uniform(0.01, 0.99, M),
    "banzhaf": lambda rng: np.full(M, 0.5),
    "extreme": lambda rng: 1 / (1 + np.exp(rng.uniform(-9, 9, M))),  # most p near 0 or 1
}


def draw(rng, law, num_sources=N):
    p = LAWS[law](rng)
    return p, rng.random((M, num_sources)) < p[:, None]


def most(repeats, level):
    """Most false alarms to be seen in `repeats` data sets, but for a chance of 1 in 10,000."""
    return stats.binom.ppf(1 - 1e-4, repeats, level)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("rate", [0.01, 0.3, 0.97])
def test_chance_is_not_taken_for_a_reason(law, rate):
    rng = np.random.default_rng(0)
    repeats, alarms = 250, 0
    for _ in range(repeats):
        p, masks = draw(rng, law)
        alarms += diagnose(p, masks, rng.random(M) >= rate) != Status.OK
    assert alarms <= most(repeats, LEVEL)


PATTERNS = {
    "large p": (lambda p, masks, u: (p > 0.7) & (u < 0.4), Status.LEFT_OUT_RELATED_TO_P),
    "small p": (lambda p, masks, u: u > 0.2 + p, Status.LEFT_OUT_RELATED_TO_P),
    "middle p": (lambda p, masks, u: (np.abs(p - 0.5) < 0.25) & (u < 0.4), Status.LEFT_OUT_RELATED_TO_P),
    "source in": (lambda p, masks, u: masks[:, 3] & (u < 0.3), Status.LEFT_OUT_RELATED_TO_SOURCE),
    "source out": (lambda p, masks, u: ~masks[:, 3] & (u < 0.3), Status.LEFT_OUT_RELATED_TO_SOURCE),
    "either, unequally": (lambda p, masks, u: u < np.where(masks[:, 3], 0.1, 0.6), Status.LEFT_OUT_RELATED_TO_SOURCE),
}


@pytest.mark.parametrize(("pattern", "status"), PATTERNS.values(), ids=PATTERNS.keys())
def test_the_reason_is_found(pattern, status):
    rng = np.random.default_rng(1)
    found = []
    for _ in range(50):
        p, masks = draw(rng, "uniform")
        found.append(diagnose(p, masks, ~pattern(p, masks, rng.random(M))))
    # Rows with a source in have larger p too; the source is the reason all the same.
    assert np.mean([code == status for code in found]) >= 0.9


def test_a_source_is_found_where_p_does_not_vary():
    rng = np.random.default_rng(2)
    for _ in range(20):
        p, masks = draw(rng, "banzhaf")
        assert diagnose(p, masks, ~(masks[:, 0] & (rng.random(M) < 0.3))) == Status.LEFT_OUT_RELATED_TO_SOURCE


def normal_p_value(p, masks, finite):
    """Smallest p-value over sources if the times a source is in were normal, corrected for the number of sources."""
    out = ~finite
    z = (masks[out].sum(axis=0) - p[out].sum()) / np.sqrt((p[out] * (1 - p[out])).sum())
    return 2 * stats.norm.sf(np.abs(z).max()) * masks.shape[1]


@pytest.mark.parametrize("flip", [False, True], ids=["p near 0", "p near 1"])
def test_few_missing_rows_at_extreme_p_are_no_alarm(flip):
    """One source in where almost none is, is many normal standard errors but no surprise among many sources."""
    rng = np.random.default_rng(3)
    repeats, alarms, normal_alarms = 300, 0, 0
    for _ in range(repeats):
        p = rng.uniform(0.001, 0.01, M)
        p = 1 - p if flip else p
        masks = rng.random((M, 200)) < p[:, None]
        finite = np.ones(M, bool)
        finite[rng.choice(M, 4, replace=False)] = False
        alarms += diagnose(p, masks, finite) != Status.OK
        normal_alarms += normal_p_value(p, masks, finite) < LEVEL
    assert alarms <= most(repeats, LEVEL)
    assert normal_alarms > repeats / 2


def test_nothing_and_everything_missing():
    rng = np.random.default_rng(4)
    p, masks = draw(rng, "uniform")
    assert diagnose(p, masks, np.ones(M, bool)) == Status.OK
    assert diagnose(p, masks, np.zeros(M, bool)) == Status.OK
