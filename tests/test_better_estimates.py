"""Options of the estimate: penalty factors from a prior or a first fit, interactions, efficiency."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FOLDS, GRID, M, N, Stacked
from sklearn.linear_model import Lasso

import jaxame
from jaxame import interactions
from jaxame.design import Beta, TruncatedUniform, sample_design
from jaxame.features import code, exact_columns
from jaxame.games import Additive, Majority, Saturating, Threshold, UnanimitySum
from jaxame.interactions import refit_with_interactions
from jaxame.lasso import DenseColumns, assign_folds, certify, cross_validate, make_problem, refit
from jaxame.penalties import prior_factors
from jaxame.values import estimate_values

pytestmark = pytest.mark.slow  # under one version of Python

WEIGHTS = np.where(np.arange(N) < 6, np.arange(1.0, N + 1), 0.0)
GAMES = (Additive(WEIGHTS), Threshold(N, [2, 5, 11], 2), Saturating(N, range(8, 16), 1.5, 3.0), Majority(N, range(5)))
GAME, Q = Stacked(GAMES), len(GAMES)


@pytest.fixture(scope="module")
def design():
    return sample_design(jax.random.key(2), GRID, num_submodels=M, num_sources=N)


@pytest.fixture(scope="module")
def noisy(design):
    exact = np.asarray(GAME(None, design.masks()), np.float64)
    return exact + np.random.default_rng(3).normal(size=exact.shape) * exact.std(axis=0)


def estimate(design, utilities, **options):
    return jaxame.estimate_ame(design, utilities, copies=0, folds=FOLDS, **options)


@pytest.fixture(scope="module")
def plain(design, noisy):
    return estimate(design, noisy)


@pytest.mark.parametrize("side_by_side", [True, False])
def test_every_query_may_have_its_own_factors(monkeypatch, side_by_side):
    if not side_by_side:
        monkeypatch.setattr("jaxame.lasso.admm.MOST_BYTES", 0)
    rng = np.random.default_rng(0)
    x, factor = rng.normal(size=(120, 40)), rng.uniform(0.5, 2.0, (2, 40))
    factor[1, 3] = np.inf
    targets = x[:, :3].sum(axis=1)[:, None] + rng.normal(size=(120, 2))
    fold, rows = np.asarray(assign_folds(jax.random.key(0), 120, 4)), (np.ones(120), np.ones((120, 1)))
    columns = DenseColumns(x=jnp.asarray(x.T, jnp.float32))
    both = cross_validate(make_problem(columns, targets, *rows, fold, factor=factor))
    for q in range(2):
        alone = cross_validate(make_problem(columns, targets[:, [q]], *rows, fold, factor=factor[q]))
        np.testing.assert_allclose(both.coef_min[q], alone.coef_min[0], atol=1e-4)
        penalty = both.penalty[both.at_min[q], q]
        gaps = [certify(x, targets[:, q], both.coef_min[q], penalty, *rows, factor=f)[0] for f in factor]
        assert gaps[q] < 1e-4 < 10 * 1e-4 < gaps[1 - q]


def test_factors_by_hand():
    scores = np.array([[0.0, 1.0, 3.0, 0.0], [100.0, 100.0, 100.0, 100.0]])
    np.testing.assert_allclose(prior_factors(scores), [[4.0, 1.0, 1 / 3, 4.0], [1.0] * 4])
    np.testing.assert_allclose(prior_factors(7 * scores), prior_factors(scores))


def test_fits_with_a_prior_agree_with_scikit_learn(design, noisy):
    """`c |b|` is `|c b|` on the column divided by `c`; the intercepts per `p` are taken off beforehand."""
    truth = np.abs(GAME.ame(GRID))
    guided, plain = (estimate(design, noisy, prior=prior).check() for prior in (truth, None))
    coding, factor = code(design), prior_factors(truth)
    x, root = exact_columns(design, coding, np.arange(N)), np.sqrt(coding.weight / coding.weight.sum())[:, None]
    z = root * coding.z
    taken = np.nanmin(guided.cv_error, axis=0) < np.nanmin(plain.cv_error, axis=0)
    assert taken.sum() >= 2
    for q in np.flatnonzero(taken):
        penalty = guided.cv_penalty[np.nanargmin(guided.cv_error[:, q]), q]
        both = np.column_stack([root * x / factor[q], root[:, 0] * noisy[:, q]])
        both = (both - z @ np.linalg.lstsq(z, both)[0]) * np.sqrt(M)
        peer = Lasso(alpha=penalty, fit_intercept=False, tol=1e-10, max_iter=100_000).fit(both[:, :-1], both[:, -1])
        largest = np.abs(guided.lasso_min[q]).max()
        np.testing.assert_allclose(guided.lasso_min[q], peer.coef_ / factor[q], atol=2e-3 * largest)
        assert np.abs(guided.lasso_min[q] - plain.lasso_min[q]).max() > 5e-3 * largest  # another problem


def error(values):
    return np.sqrt(((values - GAME.ame(GRID)) ** 2).sum(axis=1) / (GAME.ame(GRID) ** 2).sum(axis=1))


def test_a_prior_that_knows_helps_and_one_that_errs_costs_little(design, noisy):
    few = dataclasses.replace(design, p=design.p[:48], packed=design.packed[:48])
    truth = np.abs(GAME.ame(GRID))
    errors = {}
    for name, prior in {"none": None, "good": truth, "wrong": truth.max(axis=1, keepdims=True) - truth}.items():
        result = estimate(few, noisy[:48], prior=prior).check()
        errors[name], errors[name, "cv"] = error(result.values), np.nanmin(result.cv_error, axis=0)
    assert errors["good"].mean() < errors["none"].mean()
    for name in ("good", "wrong"):  # taken only where the cross-validated error falls
        assert (errors[name, "cv"] <= errors["none", "cv"] * (1 + 1e-6)).all()
    kept = np.isclose(errors["wrong", "cv"], errors["none", "cv"])
    assert kept.any()
    np.testing.assert_allclose(errors["wrong"][kept], errors["none"][kept])


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (np.ones(N + 1), r"needs prior \[24\] or \[4, 24\]; got \[25\]"),
        (np.ones((2, N)), r"needs prior \[24\] or \[4, 24\]; got \[2, 24\]"),
        (-np.ones(N), "needs finite scores >= 0 in prior"),
        (np.full(N, np.nan), "needs finite scores >= 0 in prior"),
        (np.zeros(N), "needs a positive score for every query in prior"),
    ],
)
def test_bad_priors_are_refused(design, noisy, prior, message):
    with pytest.raises(ValueError, match=message):
        estimate(design, noisy, prior=prior)


@pytest.mark.parametrize("law", [GRID, TruncatedUniform(0.05), Beta(4, 6)], ids=["grid", "uniform", "beta"])
@pytest.mark.parametrize("coding", ["ame", "centered", "weighted"])
def test_a_game_of_what_is_selected_is_exact_under_every_law(law, coding):
    """Where every combination of the selected sources has been seen; of the law sampled and of another."""
    own = sample_design(jax.random.key(4), law, num_submodels=600, num_sources=N, coding=coding)
    for game in (Majority(N, range(5)), UnanimitySum(N, [(2,), (2, 5), (5, 11)], [2.0, -1.5, 3.0])):
        utility = np.asarray(game(None, own.masks()), np.float64)[:, 0]
        for target in (law, TruncatedUniform(1e-9)):
            found = refit_with_interactions(own, code(own), utility, game.ame(law), law=target)
            np.testing.assert_allclose(found.values, game.ame(target), atol=1e-7)
            np.testing.assert_allclose(found.fitted, utility, atol=1e-6)
            assert (found.rates > 0).all()


@pytest.fixture(scope="module")
def sums():
    """A game of seven sources with noise, and a fit that leaves an eighth to `Z`: `(design, target, support, fit)`."""
    game = UnanimitySum(N, [(0,), (1, 2), (2, 3, 4), (5,), (6, 0), (7,)], [1.0, 2.0, -2.0, 1.0, 1.5, 0.5])
    own = sample_design(jax.random.key(6), TruncatedUniform(0.05), num_submodels=250, num_sources=N)
    utility = np.asarray(game(None, own.masks()), np.float64)[:, 0]
    target = utility + 0.3 * np.random.default_rng(0).normal(size=250)
    support = (np.arange(N) < 7).astype(float)
    return own, target, support, refit_with_interactions(own, code(own), target, support)


def dense(own, target, support, rate, noise):
    """The same model from the covariance of all rows: log likelihood up to a constant, fit, variance of the noise."""
    coding, masks = code(own), np.asarray(own.masks())
    signs = np.where(masks[:, support > 0], 1.0, -1.0)
    fixed = np.concatenate([coding.z, signs], axis=1)
    size = np.abs(np.linalg.lstsq(fixed, target)[0][coding.z.shape[1] :])
    rates = rate * np.sqrt(size / size.max())
    kernel = np.prod(1 + rates * signs[:, None] * signs, axis=2) - 1 - (signs * rates) @ signs.T
    unit = np.mean([kernel[row, row] for row in np.unique(signs, axis=0, return_index=True)[1]])
    inverse = np.linalg.inv(kernel / unit + noise * np.eye(len(target)))
    gram = fixed.T @ inverse @ fixed
    coef = np.linalg.solve(gram, fixed.T @ inverse @ target)
    left = target - fixed @ coef
    degrees = len(target) - fixed.shape[1]
    variance = left @ inverse @ left / degrees
    logdet = -np.linalg.slogdet(inverse)[1] + np.linalg.slogdet(gram)[1]
    fitted = fixed @ coef + kernel / unit @ inverse @ left
    return -0.5 * (degrees * np.log(variance) + logdet), fitted, variance * noise


def test_the_fit_is_the_likeliest_of_the_dense_model(sums):
    own, target, support, found = sums
    fits = {(r, v): dense(own, target, support, r, v) for r in interactions._RATES for v in interactions._NOISE[8:23]}
    (rate, noise), (_, fitted, variance) = max(fits.items(), key=lambda item: item[1][0])
    assert rate == found.rates.max()
    assert interactions._NOISE[8] < noise < interactions._NOISE[22]
    np.testing.assert_allclose(found.fitted, fitted, atol=1e-6)
    np.testing.assert_allclose(found.noise, variance, rtol=1e-6)
    left_out = 0.5**2 * (own.p * (1 - own.p)).mean()  # the eighth source
    np.testing.assert_allclose(found.noise, 0.09 + left_out, rtol=4 * np.sqrt(2 / (250 - found.num_terms)))
    assert 7 + 3 < found.num_terms < 7 + 60


def test_values_are_those_of_the_fitted_function(sums):
    """Enumerated over the combinations of four sources, all of which were seen."""
    own, target, *_ = sums
    found = refit_with_interactions(own, code(own), target, (np.arange(N) < 4).astype(float))
    pattern = np.asarray(own.masks())[:, :4] @ (1 << np.arange(4))
    columns = np.concatenate([code(own).z[:, 1:], pattern[:, None] == np.arange(16)], axis=1)
    of_pattern = np.linalg.lstsq(columns, found.fitted)[0][-16:]
    for source in range(4):
        effect = 0.0
        for others in (s for s in range(16) if not s >> source & 1):
            size = others.bit_count()
            weight = own.law.expectation(lambda p, size=size: p**size * (1 - p) ** (3 - size))
            effect += weight * (of_pattern[others | 1 << source] - of_pattern[others])
        np.testing.assert_allclose(found.values[source], effect, atol=1e-9)


def test_noise_alone_has_no_interactions(design):
    noise = np.random.default_rng(1).normal(size=M)
    support = (np.arange(N) < 8).astype(float)
    found = refit_with_interactions(design, code(design), noise, support)
    coding = code(design)
    linear = coding.scale * refit(exact_columns(design, coding, np.arange(8)), noise, coding.weight, coding.z)
    assert found.num_terms < 8 + 40  # of the 256 that eight sources have
    assert np.abs(found.values[:8] - linear).max() < 0.5 * np.abs(linear).max()


def test_a_game_of_more_sources_than_cells_tell_apart_adds_no_bias(monkeypatch):
    """The mean over designs is the closed form, where a function of three of six sources could not give it."""
    monkeypatch.setattr(interactions, "MAX_CELLS", 8)
    game, draws = Threshold(N, range(6), 5), []
    truth = game.ame(GRID)
    for repeat in range(60):
        own = sample_design(jax.random.key(repeat), GRID, num_submodels=400, num_sources=N)
        utility = np.asarray(game(None, own.masks()), np.float64)
        found = estimate_values(own, code(own), utility, truth[None], interactions=True, shrunken=True)
        draws.append(found.mean[0, :6])
    draws = np.array(draws)
    stderr = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - truth[:6]) < 4 * stderr + 5e-3 * truth[0]).all()
    assert (stderr < 0.03 * truth[0]).all()


def test_few_sources_are_all_in_the_function():
    """One that was not selected is not missed; where those that were make the game, the others do not disturb."""
    law = TruncatedUniform(0.05)
    own = sample_design(jax.random.key(8), law, num_submodels=300, num_sources=8)
    for game, selected in ((Threshold(8, [1, 2, 3, 4], 2), [1, 2]), (Threshold(8, [1, 2, 3], 2), [1, 2, 3])):
        utility = np.asarray(game(None, own.masks()), np.float64)[:, 0]
        coef = np.isin(np.arange(8), selected) * 1.0
        found = refit_with_interactions(own, code(own), utility, coef)
        error = np.abs(found.values - game.ame(law)).max()
        assert error < (1e-7 if len(selected) == 3 else 0.02)
        few_rows = dataclasses.replace(own, p=own.p[:31], packed=own.packed[:31])
        alone = refit_with_interactions(few_rows, code(few_rows), utility[:31], coef)
        assert (alone.values[coef == 0] == 0).all()


@pytest.mark.parametrize("count", [0, 1])
def test_without_two_sources_it_is_least_squares(design, noisy, count):
    coding, support = code(design), np.arange(count)
    found = refit_with_interactions(design, coding, noisy[:, 0], (np.arange(N) < count) * 1.0)
    fixed = np.concatenate([coding.z, np.sign(exact_columns(design, coding, support))], axis=1)
    coef = np.linalg.lstsq(fixed, noisy[:, 0])[0]
    np.testing.assert_allclose(found.fitted, fixed @ coef, atol=1e-9)
    np.testing.assert_allclose(found.values[:count], 2 * coef[coding.z.shape[1] :], atol=1e-9)
    assert found.num_terms == count
    assert (found.rates == 0).all()
    left = M - np.linalg.matrix_rank(fixed)
    np.testing.assert_allclose(found.noise, ((noisy[:, 0] - found.fitted) ** 2).sum() / left)


def test_interactions_are_an_option_of_the_estimate(design):
    exact = np.asarray(GAME(None, design.masks()), np.float64)
    exact[7, 1] = np.nan
    result, plain = (
        estimate(design, exact, interactions=interactions, shrunken=False) for interactions in (True, False)
    )
    assert result.about["interactions"]
    np.testing.assert_array_equal(result.lasso_1se, plain.lasso_1se)
    np.testing.assert_allclose(result.values[1], GAMES[1].ame(GRID), atol=1e-6)
    assert np.abs(plain.values[1] - GAMES[1].ame(GRID)).max() > 1e-3


def test_efficient_values_are_the_nearest_that_sum_up():
    own = sample_design(jax.random.key(5), TruncatedUniform(0.01), num_submodels=M, num_sources=N)
    utilities = np.asarray(GAME(None, own.masks()), np.float64)
    result = estimate(own, utilities)
    ends = np.asarray(GAME(None, np.array([[False] * N, [True] * N])), np.float64)
    found = result.efficient(ends[1] - ends[0])
    np.testing.assert_allclose(found.sum(axis=1), ends[1] - ends[0])
    for q in range(1, Q):  # any other change that sums to zero goes further, in units of the posterior's deviations
        step = (found[q] - result.values[q]) / result.values_sd[q] ** 2
        np.testing.assert_allclose(step, step[0])
    missing = ends[1] - ends[0] - result.values.sum(axis=1)
    assert (np.abs(missing[1:]) > 1e-4).all()
    for total, message in ((np.zeros(Q + 1), "needs total"), (np.full(Q, np.nan), "needs total finite")):
        with pytest.raises(ValueError, match=message):
            result.efficient(total)


def test_of_a_noisy_total_as_much_is_believed_as_bayes_says(plain, design):
    """Against the posterior of sources and total from their joint covariance; the sums are still exact."""
    own = dataclasses.replace(design, law=TruncatedUniform(0.01))
    result = dataclasses.replace(plain, about=plain.about | {"law": repr(own.law)})
    total = result.values.sum(axis=1) + np.array([1.0, -0.5, 0.2, 0.0])
    variance = np.array([0.0, 1e-3, 0.3, 1e6])
    found = result.efficient(total, variance)
    np.testing.assert_allclose(found.sum(axis=1), total)
    for q in range(Q):
        prior = np.diag(result.values_sd[q] ** 2)
        with_total = prior.sum(axis=0)
        gain = with_total / (with_total.sum() + variance[q])
        posterior = result.values[q] + gain * (total[q] - result.values[q].sum())
        np.testing.assert_allclose(found[q], posterior + (total[q] - posterior.sum()) / N, atol=1e-9)
    np.testing.assert_array_equal(found[0], result.efficient(total)[0])
    for wrong, message in ((-variance, "variance >= 0"), (variance[1:], "variance"), (variance + np.nan, "finite")):
        with pytest.raises(ValueError, match=message):
            result.efficient(total, wrong)


def test_efficiency_is_of_shapley_values_only(plain):
    with pytest.raises(ValueError, match="needs a result under TruncatedUniform"):
        plain.efficient(np.zeros(Q))
    law = {"law": "TruncatedUniform(eps=0.01)"}
    with pytest.raises(ValueError, match="needs shrunken values"):
        dataclasses.replace(plain, about=plain.about | law, values_sd=None).efficient(np.zeros(Q))
