"""Standard errors of every kind: against closed forms, brute force and each other."""

import jax
import numpy as np
import pytest
from helpers import COPIES, FOLDS, GRID, M, N

import jaxame
from jaxame import inference
from jaxame.design import Beta, sample_design
from jaxame.features import code, exact_columns, mask_columns
from jaxame.games import Additive
from jaxame.lasso import assign_folds, cross_validate, make_problem

KEY = jax.random.key(4)
QUERIES = 6


def draw(seed, law=GRID, paired=False, num_submodels=M):
    """A design and utilities `[M, Q]` of an additive game with noise that grows with `p`; and its effects."""
    rng = np.random.default_rng(seed)
    design = sample_design(jax.random.key(seed), law, num_submodels=num_submodels, num_sources=N, paired=paired)
    effect = np.where(np.arange(N) < 4, [0.8, -0.6, 0.4, 0.2] + [0.0] * (N - 4), 0.0)
    spread = 0.5 + 2 * np.asarray(design.p)[:, None]
    utilities = np.asarray(Additive(effect)(None, design.masks()), float) + spread * rng.normal(
        size=(num_submodels, QUERIES)
    )
    return design, utilities, effect


@pytest.mark.parametrize("paired", [False, True])
def test_least_squares_is_its_formula(paired):
    """HC2 with one term per unit, computed row by row from the normal equations; a row is missing in one query."""
    design, utilities, _ = draw(0, Beta(4, 6), paired, 90)
    utilities[7, 1] = np.nan
    coding = code(design)
    found = inference.least_squares(design, coding, utilities)
    x = np.concatenate([exact_columns(design, coding, np.arange(N)), coding.z], axis=1)
    for query in (0, 1):
        kept = np.isfinite(utilities[:, query])
        xs, w, y, unit = x[kept], coding.weight[kept], utilities[kept, query], design.units[kept]
        inverse = np.linalg.inv(xs.T @ (w[:, None] * xs))
        coef = inverse @ (xs.T @ (w * y))
        middle, sums = np.zeros_like(inverse), {}
        for row, weight, target, own in zip(xs, w, y, unit, strict=True):
            leverage = weight * row @ inverse @ row
            term = weight * row * (target - row @ coef) / np.sqrt(1 - leverage)
            sums[own] = sums.get(own, 0) + term
        for term in sums.values():
            middle += np.outer(term, term)
        np.testing.assert_allclose(found.coef[query], coef[:N], rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(found.stderr[query], np.sqrt(np.diag(inverse @ middle @ inverse))[:N], rtol=1e-7)


@pytest.fixture(scope="module")
def drawn():
    """Estimates and standard errors of every kind over 25 designs, `[25, Q, N]` each, and the effects."""
    found = {kind: [] for kind in inference.INTERVALS}
    for seed in range(25):
        design, utilities, effect = draw(10 + seed)
        coding = code(design)
        fold = np.asarray(assign_folds(KEY, M, FOLDS))
        problem = make_problem(mask_columns(design, coding), utilities, coding.weight, coding.z, fold)
        fit = cross_validate(problem, keep_folds=True)
        for kind, results in found.items():
            results.append(np.stack(inference.estimate(kind, design, coding, utilities, fit, fold)))
    return {kind: np.stack(results, axis=1) for kind, results in found.items()}, effect


@pytest.mark.slow
@pytest.mark.parametrize("kind", inference.INTERVALS)
def test_estimates_are_unbiased_and_know_their_errors(drawn, kind):
    """Rows have noise of their own in every query, so designs times queries are replicates of nearly the same kind."""
    (coef, stderr), effect = drawn[0][kind], drawn[1]
    error = coef.mean(axis=1).std(axis=0, ddof=1) / np.sqrt(len(coef))
    assert np.abs((coef.mean(axis=(0, 1)) - effect) / error).max() < 4.5
    # Squared errors in units of their claimed variance have mean 1; designs are independent.
    ratio = (((coef - effect) / stderr) ** 2).mean(axis=(1, 2))
    assert abs(ratio.mean() - 1) < 4 * ratio.std(ddof=1) / np.sqrt(ratio.size) + 0.03
    assert np.abs(coef.mean(axis=(0, 1)) / error).max() > 20


@pytest.mark.slow
@pytest.mark.parametrize("paired", [False, True])
def test_the_bootstrap_agrees_with_the_sandwich(paired):
    design, utilities, _ = draw(3, paired=paired)
    coding = code(design)
    result = jaxame.estimate_ame(design, utilities[:, :1], folds=FOLDS, copies=0)
    chosen = result.cv_error[:, 0] <= (result.cv_error + result.cv_error_se)[np.nanargmin(result.cv_error[:, 0]), 0]
    penalty = result.cv_penalty[chosen.argmax(), 0]
    again = inference.bootstrap(
        design, coding, utilities[:, 0], penalty, result.lasso_1se[0] / coding.scale, jax.random.key(1), 200
    )
    ratio = again * coding.scale / result.stderr[0]
    # A standard deviation from 200 draws is known to 5 %; the mean over sources to a quarter of that.
    assert abs(ratio.mean() - 1) < 0.08
    assert np.abs(ratio - 1).max() < 4 * 0.05 + 0.1


def test_intervals_by_other_ways_are_in_the_result():
    design, utilities, _ = draw(5)
    kinds = {
        kind: jaxame.estimate_ame(design, utilities, folds=FOLDS, copies=0, intervals=kind)
        for kind in inference.INTERVALS
    }
    for kind, result in kinds.items():
        assert result.about["intervals"] == kind
        assert (result.stderr > 0).all()
    first, *others = (result.debiased for result in kinds.values())
    for other in others:
        assert 0 < np.abs(first - other).max() < 4 * kinds["debiased"].stderr.max()


def test_least_squares_needs_more_rows_than_coefficients():
    design, utilities, _ = draw(6, num_submodels=N + 4)
    with pytest.raises(
        ValueError, match=f"more rows than the {N + 4} coefficients, for least squares; got {N + 4} rows"
    ):
        jaxame.estimate_ame(design, utilities, intervals="least squares")
    with pytest.raises(ValueError, match="needs intervals to be one of"):
        jaxame.estimate_ame(design, utilities, intervals="exact")


def test_least_squares_needs_more_finite_rows_than_coefficients():
    """With as many rows as coefficients nothing is left over, and errors would be those of rounding."""
    design, utilities, _ = draw(6)
    few = np.where((np.arange(M) >= N + 4)[:, None] & (np.arange(utilities.shape[1]) == 1), np.nan, utilities)
    message = f"more finite rows than the {N + 4} coefficients of query 1, for least squares.*; got {N + 4} rows"
    with pytest.raises(ValueError, match=message):
        jaxame.estimate_ame(design, few, intervals="least squares", folds=FOLDS, copies=0)


class Noisy:
    """An additive game whose training adds noise of variance 4, decided by the row's key."""

    num_sources = N

    def __call__(self, keys, masks):
        noise = jax.vmap(jax.random.normal)(keys)[:, None]
        return np.asarray(masks)[:, :1] * 3.0 + 2.0 * np.asarray(noise)


def test_training_variance_is_told_from_that_of_the_subsets():
    result = jaxame.ame(Noisy(), key=KEY, num_submodels=M, law=GRID, repeats=M, folds=FOLDS, copies=COPIES)
    assert abs(result.training_variance[0] - 4) < 4 * 4 * np.sqrt(2 / M)
    total = 4 + 9 * 0.25
    assert abs(result.utility_variance[0] - total) < 4 * total * np.sqrt(2 / M)
    few = jaxame.ame(Noisy(), key=KEY, num_submodels=M, law=GRID, folds=FOLDS, copies=COPIES)
    assert few.training_variance is None
    np.testing.assert_array_equal(few.values, result.values)


class Diverging(Noisy):
    """The query five times: as it is, with some rows not finite, with the first 40 not finite, and twice as it is."""

    def __init__(self):
        self.seen = 0

    def __call__(self, keys, masks):
        utilities = np.repeat(super().__call__(keys, masks), 5, axis=1)
        row, self.seen = self.seen + np.arange(len(masks)), self.seen + len(masks)
        utilities[row % 7 == 0, 1] = (np.inf, np.nan)[self.seen > M]
        utilities[row < 40, 2] = -np.inf
        return utilities


def test_training_variance_leaves_out_what_is_not_finite():
    options = {"key": KEY, "num_submodels": M, "law": GRID, "folds": FOLDS, "copies": COPIES}
    result = jaxame.ame(Diverging(), repeats=40, contrasts=[[1, -3, 0, 0, 0]], **options)
    variance = result.training_variance
    assert abs(variance[0] - 4) < 4 * 4 * np.sqrt(2 / 40)
    assert abs(variance[1] - 4) < 4 * 4 * np.sqrt(2 / 25)
    assert variance[5] == pytest.approx(4 * variance[1], rel=1e-5)
    np.testing.assert_array_equal(variance[3:5], variance[0])
    np.testing.assert_array_equal(np.isnan(variance), np.arange(6) == 2)


def test_repeats_are_at_most_the_submodels():
    with pytest.raises(ValueError, match="repeats to be at most"):
        jaxame.ame(Noisy(), key=KEY, num_submodels=M, law=GRID, repeats=M + 1)
