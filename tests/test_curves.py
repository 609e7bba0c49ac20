"""Effect curves against closed forms, against regressions written out, and their intervals over replicates."""

import jax
import numpy as np
import pytest
from helpers import GRID, Stacked
from scipy import linalg, stats

import jaxame
from jaxame.design import PointMass, TruncatedUniform, sample_design
from jaxame.games import Threshold, UnanimitySum

pytestmark = pytest.mark.slow  # under one version of Python

N, M = 12, 400
GAME = Stacked((Threshold(N, [1, 2, 3], 2), UnanimitySum(N, [(0,), (1, 2), (3, 4, 5), (1, 7)], [1.0, -1.5, 3.0, 1.0])))
SOURCES = [3, 0, 1, 9]
LAWS = {"grid": GRID, "uniform": TruncatedUniform(0.05)}


def draw(law, seed, paired=False):
    design = sample_design(jax.random.key(seed), law, num_submodels=M, num_sources=N, paired=paired)
    clean = np.asarray(GAME(None, np.asarray(design.masks())), np.float64)
    return design, clean + np.random.default_rng(seed).normal(0, 0.4, clean.shape)


def truth(at):
    return np.stack([GAME.ame(PointMass(float(p)))[:, SOURCES] for p in at], axis=2)


@pytest.mark.parametrize("paired", [False, True], ids=["independent", "paired"])
@pytest.mark.parametrize("name", LAWS)
def test_curves_agree_with_the_closed_form_and_intervals_cover(name, paired):
    """The curves of this game are polynomials of degree 2, so nothing but chance keeps them from the truth."""
    at = np.array(GRID.points)
    curves = [jaxame.effect_curve(*draw(LAWS[name], seed, paired), SOURCES, at=at) for seed in range(150)]
    values = np.stack([curve.values for curve in curves])
    error = values.std(axis=0, ddof=1) / np.sqrt(len(curves))
    limit = stats.norm.isf(1e-3 / (2 * values[0].size))
    assert (np.abs(values.mean(axis=0) - truth(at)) / error).max() < limit
    for wrong in (0.0, 1 / 5.2, 5.2):
        assert (np.abs(wrong * values.mean(axis=0) - truth(at)) / error).max() > 10 * limit
    bounds = np.stack([curve.interval() for curve in curves])
    covered = ((bounds[:, 0] <= truth(at)) & (truth(at) <= bounds[:, 1])).mean(axis=(1, 2, 3))
    spread = covered.std(ddof=1) / np.sqrt(len(covered))
    assert abs(covered.mean() - 0.95) < 4 * spread + 0.01


def by_hand(design, y, at):
    """HC2 with clusters, every matrix formed."""
    p, masks = np.asarray(design.p, np.float64), np.asarray(design.masks())
    levels = np.unique(p)
    on_level = (p[:, None] == levels).astype(float)
    x = np.concatenate([on_level] + [((masks[:, i] - p)[:, None] * on_level) for i in SOURCES], axis=1)
    bread = np.linalg.inv(x.T @ x)
    coef, hat = bread @ x.T @ y, x @ bread @ x.T
    meat = np.zeros_like(bread)
    for unit in np.unique(design.units):
        rows = np.flatnonzero(design.units == unit)
        root = np.linalg.inv(linalg.sqrtm(np.eye(rows.size) - hat[np.ix_(rows, rows)]))
        score = x[rows].T @ root @ (y - x @ coef)[rows]
        meat += np.outer(score, score)
    shape = len(SOURCES) + 1, len(levels)
    return coef.reshape(shape)[1:], np.sqrt(np.diag(bread @ meat @ bread)).reshape(shape)[1:]


@pytest.mark.parametrize("paired", [False, True], ids=["independent", "paired"])
def test_curves_are_those_of_a_regression_written_out(paired):
    design, utilities = draw(GRID, 3, paired)
    curve = jaxame.effect_curve(design, utilities, SOURCES)
    np.testing.assert_array_equal(curve.p, np.unique(design.p))
    np.testing.assert_array_equal(curve.sources, SOURCES)
    for q, y in enumerate(utilities.T):
        values, stderr = by_hand(design, y, curve.p)
        np.testing.assert_allclose(curve.values[q], values, rtol=1e-9)
        np.testing.assert_allclose(curve.stderr[q], stderr, rtol=1e-9)


def test_rows_that_are_not_finite_are_left_out_of_their_query():
    design, utilities = draw(LAWS["uniform"], 4, paired=True)
    whole = jaxame.effect_curve(design, utilities, SOURCES)
    broken = utilities.copy()
    broken[[3, 8, 9], 0] = np.nan, np.inf, np.nan
    found = jaxame.effect_curve(design, broken, SOURCES)
    np.testing.assert_array_equal(found.values[1], whole.values[1])
    assert np.isfinite(found.values).all()
    assert (found.values[0] != whole.values[0]).any()
    assert whole.p.shape == (33,)
    assert (whole.p[0], whole.p[-1]) == (np.min(design.p), np.max(design.p))


BAD = {
    "no sources": ({"sources": []}, "distinct numbers from 0 to 11, at least one; got list"),
    "a source twice": ({"sources": [1, 1]}, r"distinct numbers.*; got \[1, 1\]"),
    "unknown source": ({"sources": [12]}, r"from 0 to 11.*; got \[12\]"),
    "not numbers": ({"sources": [0.5]}, "distinct numbers"),
    "negative degree": ({"degree": -1}, "degree to be an integer >= 0; got int -1"),
    "level that is not there": ({"at": [0.2, 0.5]}, r"at to be values of p of the design.*; got \[0.5\]"),
    "no point": ({"at": []}, "at .G. values of p"),
    "utilities of another length": ({"utilities": np.zeros((3, 1))}, r"utilities \[M=400, Q\]; got \[3, 1\]"),
    "too few rows": (
        {"utilities": np.where(np.arange(M)[:, None] < 39, 1.0, np.nan)},
        "at least 40 finite rows .pairs. for the 20 coefficients of query 0.*; got 39",
    ),
    "not a design": ({"design": np.zeros((3, 2))}, "a jaxame.design.Design"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused(change, message):
    design, utilities = draw(GRID, 0)
    arguments = {"design": design, "utilities": utilities, "sources": SOURCES} | change
    with pytest.raises(ValueError, match=message):
        jaxame.effect_curve(**arguments)


def test_points_outside_of_a_continuous_design_and_bad_levels_are_refused():
    design, utilities = draw(LAWS["uniform"], 0)
    with pytest.raises(ValueError, match=r"at to be inside the design's p, 0.05.* to 0.9.*; got \[0.99\]"):
        jaxame.effect_curve(design, utilities, SOURCES, at=[0.99])
    with pytest.raises(ValueError, match="level strictly between 0 and 1"):
        jaxame.effect_curve(design, utilities, SOURCES).interval(1.0)
