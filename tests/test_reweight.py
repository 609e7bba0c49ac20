"""Any law from any design: against closed forms, against plain weighted least squares, and what cannot be done."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import FOLDS, GRID, M, N, Stacked
from scipy import integrate, special, stats

import jaxame
from jaxame import reweight
from jaxame.design import Beta, Grid, Law, PointMass, TruncatedUniform, sample_design
from jaxame.games import Saturating, Threshold, UnanimitySum
from jaxame.lasso import one_step
from jaxame.lasso.debias import Design as StepDesign

pytestmark = pytest.mark.slow  # under one version of Python

KEY = jax.random.key(2)
GAME = Stacked(
    (
        Threshold(N, [2, 5, 11], 2),
        UnanimitySum(N, [(0,), (1, 2), (3, 4, 5), (6, 7)], [2.0, -1.5, 3.0, 1.0]),
        Saturating(N, range(8, 16), slope=1.5, centre=3.0),
    )
)
PAIRS = {
    "part of a grid": (GRID, "auto", Grid((0.2, 0.6), (3, 1))),
    "one of a grid": (GRID, "ame", PointMass(0.2)),
    "grid, centered": (GRID, "centered", Grid((0.4, 0.6, 0.8), (1, 1, 4))),
    "beta from uniform": (TruncatedUniform(0.05), "auto", Beta(4, 6)),
    "narrower uniform": (TruncatedUniform(0.05), "weighted", TruncatedUniform(0.2)),
    "skewed beta from beta": (Beta(2, 2), "centered", Beta(2, 5, eps=0.02)),
}


@pytest.mark.parametrize(
    ("law", "reference"),
    [
        (TruncatedUniform(0.1), stats.uniform(0.1, 0.8)),
        (Beta(2, 5), stats.beta(2, 5)),
        (Beta(1000, 1000), stats.beta(1000, 1000)),
    ],
)
def test_densities(law, reference):
    p = np.array([-0.5, 0.0, 0.01, 0.1, 0.3, 0.5, 0.9, 0.95, 1.0, 2.0])
    np.testing.assert_allclose(law.density(p), reference.pdf(p), rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("law", [Beta(2, 5, eps=0.02), Beta(0.5, 0.8, eps=0.02), TruncatedUniform(0.01)])
def test_densities_of_truncated_laws_agree_with_their_quadrature(law):
    for power in (0, 1, 5):
        moment = integrate.quad(lambda p, k=power: p**k * law.density(p), law.eps, 1 - law.eps)[0]
        assert moment == pytest.approx(law.expectation(lambda p, k=power: p**k), rel=1e-8)
    np.testing.assert_array_equal(law.density(np.array([law.eps / 2, 1 - law.eps / 2])), 0.0)


def design_of(name, key=KEY, paired=False):
    law, coding, target = PAIRS[name]
    return sample_design(key, law, num_submodels=M, num_sources=N, coding=coding, paired=paired), target


def noisy_utilities(design, rng):
    clean = np.asarray(jaxame.evaluate(GAME, design, key=KEY), np.float64)
    return clean + rng.normal(0, 0.3, clean.shape) * clean.std(axis=0)


# Chance that any of all the comparisons with the closed form fails for a correct estimator: about 1 in 1,000.
LIMIT = stats.norm.isf(1e-3 / (2 * len(PAIRS) * 3 * N))


@pytest.mark.parametrize("name", PAIRS)
def test_values_are_those_of_the_target_law(name):
    """Means over four designs: within their standard errors of the target law's AME, far from that of the own law."""
    found = []
    for repeat in range(4):
        design, target = design_of(name, jax.random.key(repeat))
        utilities = noisy_utilities(design, np.random.default_rng(repeat))
        found.append(jaxame.estimate_ame(design, utilities, law=target, folds=FOLDS, copies=0).check())
    mean = np.mean([result.debiased for result in found], axis=0)
    error = np.sqrt(np.mean([result.stderr**2 for result in found], axis=0) / len(found))
    truth, own = GAME.ame(target), GAME.ame(design.law)
    assert (np.abs(mean - truth) / error).max() < LIMIT
    for wrong in (0.0, target.variance_scale, 1 / target.variance_scale):
        assert (np.abs(wrong * mean - truth) / error).max() > 2 * LIMIT
    differ = np.abs(own - truth) > 0.01
    squares = [(((mean - each) / error)[differ] ** 2).sum() for each in (truth, own)]
    assert squares[0] < stats.chi2.isf(1e-4, differ.sum())
    assert squares[1] > stats.chi2.isf(1e-8, differ.sum())
    about = found[-1].about
    assert about["law"] == repr(target)
    assert about["reweighted"]["from"] == repr(design.law)
    assert 0 < about["reweighted"]["effective_submodels"] < M


def test_the_design_s_own_law_changes_nothing():
    design, _ = design_of("part of a grid")
    utilities = noisy_utilities(design, np.random.default_rng(3))
    plain, same = (jaxame.estimate_ame(design, utilities, law=law, folds=FOLDS, copies=0) for law in (None, GRID))
    np.testing.assert_array_equal(plain.debiased, same.debiased)
    assert plain.about == same.about
    assert "reweighted" not in plain.about


@pytest.mark.parametrize("name", PAIRS)
def test_an_effective_submodel_is_worth_one_of_the_target_law(name):
    """One source, noise alike at every `p`: the variance of the estimate is `v` over the effective number."""
    design, target = design_of(name)
    found = reweight.overlap(design, target)
    code = reweight.code(design, found)
    rng, repeats = np.random.default_rng(0), 4000
    p = np.asarray(design.p, np.float64)
    x = (rng.random((repeats, M)) < p) - p
    noise = rng.normal(size=(repeats, M))
    estimates = (code.weight * x * noise).sum(axis=1) / (code.weight * x**2).sum(axis=1)
    worth = target.variance_scale / estimates.var()
    # The laws' own worth is the smaller of two figures that agree up to the draw of p.
    assert found.effective_submodels == pytest.approx(worth, rel=5 * np.sqrt(2 / repeats) + 0.12)
    assert found.effective_submodels <= worth * (1 + 5 * np.sqrt(2 / repeats) + 0.02)


def test_lost_mass_is_what_the_design_cannot_see():
    design, target = design_of("beta from uniform")
    assert reweight.overlap(design, target).lost_mass == pytest.approx(
        special.betainc(4, 6, 0.05) + special.betainc(6, 4, 0.05), abs=2e-4
    )


def test_rows_without_weight_are_as_good_as_absent():
    rng = np.random.default_rng(1)
    x, y, z = rng.normal(size=(60, 4)), rng.normal(size=(60, 2)), np.ones((60, 1))
    weight = np.where(np.arange(60) % 3 == 0, 0.0, rng.uniform(1, 2, 60))
    coef, moment = rng.normal(size=(2, 4)), np.ones(60)
    kept = weight > 0
    some = one_step(StepDesign(x, x**2, None, moment, z), y, coef, weight)
    rest = one_step(StepDesign(x[kept], x[kept] ** 2, None, moment[kept], z[kept]), y[kept], coef, weight[kept])
    for one, other in zip(some, rest, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_selection_under_another_law():
    """A pair of sources that only act together: plain to see where p is large."""
    game = UnanimitySum(N, [(j, j + 1) for j in range(0, 10, 2)], [1.0] * 5)
    design = sample_design(KEY, GRID, num_submodels=M, num_sources=N)
    utilities = jaxame.evaluate(game, design)
    result = jaxame.estimate_ame(design, utilities, law=Grid((0.6, 0.8)), folds=FOLDS).check()
    assert set(range(10)) <= set(result.select(0.2).indices)
    assert result.select(0.2).indices.size <= 14


@pytest.mark.slow
@pytest.mark.parametrize("paired", [False, True], ids=["independent", "paired"])
@pytest.mark.parametrize("name", ["part of a grid", "beta from uniform"])
def test_intervals_cover_under_the_target_law(name, paired):
    covered = []
    for repeat in range(24):
        design, target = design_of(name, jax.random.key(100 + repeat), paired)
        utilities = noisy_utilities(design, np.random.default_rng(repeat))
        lower, upper = jaxame.estimate_ame(design, utilities, law=target, folds=FOLDS, copies=0).interval()
        truth = GAME.ame(target)
        covered.append(((lower <= truth) & (truth <= upper)).mean())
    mean, error = np.mean(covered), np.std(covered, ddof=1) / np.sqrt(len(covered))
    assert error < 0.02
    assert 0.93 - 4 * error <= mean <= 0.98 + 4 * error


@dataclasses.dataclass(frozen=True)
class TwoPoint(Law):
    def quadrature(self):
        return np.array([0.3, 0.5]), np.array([0.25, 0.75])


REFUSED = {
    "other levels": (GRID, Grid((0.2, 0.5)), r"a law on the design's own values of p.*; got p = \[0.5\]"),
    "continuous from levels": (GRID, Beta(2, 2), "the design's own values of p.*Beta.*, which is continuous"),
    "levels from continuous": (Beta(2, 2), GRID, "overlaps with Beta.*effect_curve estimates single p; got Grid"),
    "mass outside": (TruncatedUniform(0.2), Beta(4, 6), "at most 2% of Beta.*outside the support.*; got 0.0"),
    "no overlap": (Beta(2, 2, eps=0.45), Beta(2, 30), "outside the support"),
    "heavy weights": (Beta(4, 6), TruncatedUniform(0.05), "rows worth at least 14.4 submodels.*; got 720 rows of"),
    "no density": (TruncatedUniform(0.2), TwoPoint(), r"a law with a density.*; got TwoPoint\(\)"),
    "no density of rows": (TwoPoint(), Beta(2, 2), r"a law with a density.*; got TwoPoint\(\)"),
    "not a law": (GRID, 0.5, "a jaxame.design.Law.*; got float 0.5"),
}


@pytest.mark.parametrize(("own", "target", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_laws_without_overlap_are_refused(own, target, message):
    design = sample_design(KEY, own, num_submodels=M, num_sources=N)
    with pytest.raises(ValueError, match=message):
        jaxame.estimate_ame(design, "never looked at", law=target)


def test_finite_rows_without_weight_are_not_enough():
    design = sample_design(KEY, GRID, num_submodels=M, num_sources=N)
    utilities = np.where(np.asarray(design.p)[:, None] == np.float32(0.4), np.nan, 1.0)
    with pytest.raises(ValueError, match="at least 2 finite rows for every query; got 0 for query 0"):
        jaxame.estimate_ame(design, utilities, law=PointMass(0.4))
