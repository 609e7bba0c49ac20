"""The solver against scikit-learn, against closed forms, and against certificates recomputed in float64."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, Lasso, LassoCV
from sklearn.model_selection import PredefinedSplit

from jaxame.lasso import (
    DenseColumns,
    assign_folds,
    batches,
    certify,
    cross_validate,
    entry_path,
    make_problem,
    memory,
    one_step,
    refit,
)
from jaxame.lasso import path as path_module
from jaxame.lasso.debias import Design as StepDesign
from jaxame.lasso.path import Tolerance, walk_path
from jaxame.lasso.prox import soft_threshold, violation
from jaxame.types import silent

M, P, Q, F = 300, 120, 3, 5
GAP = 1e-4
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def draw_problem(seed=0, noise=0.5):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(M, P)) + 0.5 * rng.normal(size=(M, 1))
    active = rng.normal(size=(P, Q)) * (rng.random((P, Q)) < 0.1)
    targets = x @ active + noise * rng.normal(size=(M, Q)) + 3.0
    weight = rng.uniform(0.5, 2.0, M)
    group = rng.integers(0, 3, M)
    z = (group[:, None] == np.arange(3)).astype(float)
    return x, targets + 2.0 * group[:, None], weight, z


@pytest.fixture(scope="module")
def data():
    return draw_problem()


@pytest.fixture(scope="module")
def fold():
    return np.asarray(assign_folds(jax.random.key(3), M, F))


def problem(x, targets, weight, z, fold, **options):
    return make_problem(DenseColumns(x=jnp.asarray(x.T, jnp.float32)), targets, weight, z, fold, **options)


def largest_gap(fit, x, targets, weight, z):
    return max(
        certify(x, y, coef[q], fit.penalty[at[q], q], weight, z).relative_gap
        for q, y in enumerate(targets.T)
        for coef, at in ((fit.coef_min, fit.at_min), (fit.coef_1se, fit.at_1se))
    )


def test_soft_threshold_solves_the_scalar_problem():
    value = jnp.linspace(-2, 2, 41)
    solution = soft_threshold(value, jnp.full_like(value, 0.7))
    grid = np.linspace(-3, 3, 6001)
    objective = (grid[None] - np.asarray(value)[:, None]) ** 2 / 2 + 0.7 * np.abs(grid)
    np.testing.assert_allclose(solution, grid[objective.argmin(axis=1)], atol=1e-3)
    np.testing.assert_allclose(violation(value - solution, solution, jnp.float32(0.7)), 0.0, atol=1e-6)


def test_folds_are_balanced_and_addressed_by_key(fold):
    assert set(np.bincount(fold)) == {M // F}
    np.testing.assert_array_equal(fold, assign_folds(jax.random.key(3), M, F))
    assert (fold != np.asarray(assign_folds(jax.random.key(4), M, F))).any()


@pytest.mark.parametrize("weighted", [False, True])
def test_fits_agree_with_scikit_learn(data, fold, weighted):
    x, targets, weight, _ = data
    weight = weight if weighted else np.ones(M)
    fit = cross_validate(problem(x, targets, weight, np.ones((M, 1)), fold))
    for q in range(Q):
        peer = Lasso(alpha=fit.penalty[fit.at_min[q], q], tol=1e-10, max_iter=100_000)
        peer.fit(x, targets[:, q], sample_weight=weight)
        np.testing.assert_allclose(fit.coef_min[q], peer.coef_, atol=2e-3 * np.abs(peer.coef_).max())


@pytest.mark.parametrize(
    ("options", "peer_options"),
    [({"positive": True}, {"positive": True}), ({"l1_ratio": 0.4}, {"l1_ratio": 0.4})],
    ids=["positive", "elastic net"],
)
def test_other_penalties_agree_with_scikit_learn(data, fold, options, peer_options):
    x, targets, _, _ = data
    fit = cross_validate(problem(x, targets, np.ones(M), np.ones((M, 1)), fold, **options))
    for q in range(Q):
        penalty = fit.penalty[fit.at_min[q], q]
        peer = ElasticNet(alpha=penalty, **({"l1_ratio": 1.0} | peer_options), tol=1e-10, max_iter=100_000)
        peer.fit(x, targets[:, q])
        np.testing.assert_allclose(fit.coef_min[q], peer.coef_, atol=2e-3 * np.abs(peer.coef_).max())
        assert certify(x, targets[:, q], fit.coef_min[q], penalty, np.ones(M), np.ones((M, 1)), **options)[0] < GAP
        spoilt = fit.coef_min[q] * 0.8
        assert certify(x, targets[:, q], spoilt, penalty, np.ones(M), np.ones((M, 1)), **options)[0] > 10 * GAP
    zero_at = cross_validate(problem(x, targets, np.ones(M), np.ones((M, 1)), fold, **options), num_penalties=2)
    first = zero_at.penalty[0]
    for q in range(Q):
        just_above, just_below = (
            ElasticNet(alpha=share * first[q], **({"l1_ratio": 1.0} | peer_options), tol=1e-10)
            .fit(x, targets[:, q])
            .coef_
            for share in (1.001, 0.99)
        )
        assert not just_above.any()
        assert just_below.any()


def test_penalty_factors_are_a_change_of_scale(data, fold):
    """`c |b|` on a column is `|b'|` on the column divided by `c`; an infinite `c` keeps it out."""
    x, targets, _, _ = data
    factor = np.random.default_rng(0).uniform(0.5, 2.0, P)
    rows = np.ones(M), np.ones((M, 1))
    with_factor = cross_validate(problem(x, targets, *rows, fold, factor=factor))
    scaled = cross_validate(problem(x / factor, targets, *rows, fold))
    np.testing.assert_allclose(with_factor.penalty, scaled.penalty, rtol=1e-5)
    np.testing.assert_allclose(with_factor.coef_min, scaled.coef_min / factor, atol=2e-3)
    best = np.abs(with_factor.coef_min[0]).argmax()
    factor[best] = np.inf
    without = cross_validate(problem(x, targets, *rows, fold, factor=factor))
    assert without.coef_min[0, best] == 0
    penalty = without.penalty[without.at_min[0], 0]
    assert certify(x, targets[:, 0], without.coef_min[0], penalty, *rows, factor=factor).relative_gap < GAP


@pytest.mark.slow
def test_given_penalties_are_those_fitted(data, fold):
    penalties = np.array([0.5, 0.2, 0.1])
    fit = cross_validate(problem(*data, fold), penalties=penalties, early_end=False)
    np.testing.assert_allclose(fit.penalty, np.repeat(penalties[:, None], Q, axis=1), rtol=1e-6)


def test_double_precision_gives_tighter_fits(data):
    x, targets, weight, z = data
    with jax.enable_x64(True):
        columns, steps = DenseColumns(x=jnp.asarray(x.T, jnp.float64)), []
        whole = make_problem(columns, targets, weight, z, None, dtype=jnp.float64)

        def keep(step):
            steps.append(step)
            return np.ones(Q, bool)

        walk_path(whole, keep, num_penalties=5, min_ratio=0.1, tolerance=Tolerance(gap=1e-12, violation=1e-9))
        unit = np.asarray(whole.unit)
    for step in steps[1:]:
        coef = np.zeros(P)
        used = step.coef[0] != 0
        coef[step.index[0, used]] = step.coef[0, used] * unit[0]
        assert certify(x, targets[:, 0], coef, step.penalty[0] * unit[0], weight, z).relative_gap < 2e-9


def test_rows_of_a_unit_share_their_fold():
    unit = np.repeat(np.arange(50), 2)
    assigned = np.asarray(assign_folds(jax.random.key(0), 100, 5, unit))
    np.testing.assert_array_equal(assigned[::2], assigned[1::2])
    np.testing.assert_array_equal(np.bincount(assigned), 20)


@pytest.mark.slow
def test_batches_and_devices_change_nothing(data, fold, monkeypatch):
    """Three queries in one batch, and in two batches on a device each."""
    few = {"num_penalties": 30, "min_ratio": 0.1}
    whole = cross_validate(problem(*data, fold), **few)
    monkeypatch.setattr(batches, "QUERIES_AT_ONCE", 2)
    seen = []
    shared = cross_validate(
        problem(*data, fold), **few, devices=jax.devices()[:2], progress=lambda *step: seen.append(step)
    )
    np.testing.assert_array_equal(shared.at_min, whole.at_min)
    np.testing.assert_allclose(shared.coef_min, whole.coef_min, atol=1e-4)
    assert shared.penalty.shape == whole.penalty.shape
    assert seen[-1] == ("regress", 60, 60)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_cross_validation_agrees_with_scikit_learn(data, fold):
    x, targets, _, _ = data
    fit = cross_validate(problem(x, targets, np.ones(M), np.ones((M, 1)), fold), early_end=False)
    for q in range(Q):
        peer = LassoCV(alphas=fit.penalty[:, q], cv=PredefinedSplit(fold), tol=1e-8, max_iter=100_000)
        peer.fit(x, targets[:, q])
        np.testing.assert_allclose(fit.error_mean[:, q], peer.mse_path_.mean(axis=1), rtol=2e-3)
        spread = peer.mse_path_.std(axis=1, ddof=1) / np.sqrt(F)
        np.testing.assert_allclose(fit.error_se[:, q], spread, rtol=2e-2)
        assert fit.penalty[fit.at_min[q], q] == pytest.approx(peer.alpha_)
        within = peer.mse_path_.mean(axis=1) <= (peer.mse_path_.mean(axis=1) + spread)[fit.at_min[q]]
        assert fit.at_1se[q] == within.argmax()


def test_certificate_with_weights_and_unpenalised_columns(data, fold):
    fit = cross_validate(problem(*data, fold))
    assert fit.converged.all()
    assert largest_gap(fit, *data) < GAP
    x, targets, weight, z = data
    wrong = fit.coef_min[0] * 0.9
    assert certify(x, targets[:, 0], wrong, fit.penalty[fit.at_min[0], 0], weight, z).relative_gap > 10 * GAP


def test_certificate_is_the_textbook_gap_where_nothing_is_unpenalised():
    x, targets, _, _ = draw_problem(1)
    y, coef, penalty = targets[:, 0], np.full(P, 0.01), 0.3
    residual = y - x @ coef
    point = residual * min(1, penalty / np.abs(x.T @ residual / M).max())
    primal = residual @ residual / (2 * M) + penalty * np.abs(coef).sum()
    dual = (y @ y - (y - point) @ (y - point)) / (2 * M)
    got = certify(x, y, coef, penalty, np.ones(M), np.zeros((M, 1)))
    assert got.relative_gap == pytest.approx((primal - dual) / (y @ y / (2 * M)))


def test_ending_early_changes_nothing_that_is_returned(fold):
    noisy = draw_problem(3, noise=3.0)
    early, full = (cross_validate(problem(*noisy, fold), early_end=end) for end in (True, False))
    assert np.isnan(early.penalty).any()
    assert not np.isnan(full.penalty).any()
    for name in ("at_min", "at_1se", "coef_min", "coef_1se"):
        np.testing.assert_allclose(getattr(early, name), getattr(full, name), atol=1e-5)


@pytest.mark.slow
def test_working_sets_grow_when_most_columns_matter(fold):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(M, 2 * P))
    targets = x @ rng.normal(size=(2 * P, Q)) + 0.1 * rng.normal(size=(M, Q))
    everything = x, targets, np.ones(M), np.ones((M, 1))
    fit = cross_validate(problem(*everything, fold))
    assert ((fit.coef_min != 0).sum(axis=1) > 128).all()
    assert largest_gap(fit, *everything) < GAP


def test_first_penalty_gives_exactly_zero(data):
    seen = []

    def first_only(step):
        seen.append(step)
        return np.zeros(Q, bool)

    walk_path(problem(*data, None), first_only)
    np.testing.assert_array_equal(seen[0].coef, 0.0)


def test_entry_penalties_are_exact_on_an_orthogonal_design():
    size = 128
    hadamard = np.array([[(-1) ** (i & j).bit_count() for j in range(size)] for i in range(size)], float)
    x, rng = hadamard[:, 1:101], np.random.default_rng(0)
    y = x @ rng.normal(size=100) + rng.normal(size=size)
    path = entry_path(problem(x, y[:, None], np.ones(size), np.ones((size, 1)), None), min_ratio=0.2, max_support=100)
    exact = x.T @ y / size
    entered = path.penalty[0] > 0
    assert entered.sum() > 50
    np.testing.assert_allclose(path.penalty[0, entered], np.abs(exact[entered]), rtol=1e-4)
    np.testing.assert_array_equal(path.sign[0, entered], np.sign(exact[entered]))
    assert np.abs(exact[~entered]).max() <= 0.2 * np.abs(exact).max() * (1 + 1e-4)


def test_entry_path_ends_at_the_support_limit():
    noisy = problem(*draw_problem(3, noise=3.0), None)
    few, many = (entry_path(noisy, max_support=limit) for limit in (10, 60))
    for q in range(Q):
        entered = few.penalty[q] > 0
        assert 10 <= entered.sum() < 60
        np.testing.assert_array_equal(few.penalty[q, entered], many.penalty[q, entered])


def test_missing_entries_touch_only_their_own_query(data, fold):
    x, targets, weight, z = data
    holed = targets.copy()
    holed[::7, 1] = np.nan
    whole, part = (cross_validate(problem(x, t, weight, z, fold)) for t in (targets, holed))
    for q in (0, 2):
        np.testing.assert_array_equal(whole.coef_min[q], part.coef_min[q])
        np.testing.assert_array_equal(whole.error_mean[:, q], part.error_mean[:, q])
    assert largest_gap(part, x, holed, weight, z) < GAP
    kept = np.isfinite(holed[:, 1])
    alone = certify(x[kept], holed[kept, 1], part.coef_min[1], part.penalty[part.at_min[1], 1], weight[kept], z[kept])
    assert alone.relative_gap < GAP


def test_degenerate_columns_and_targets(fold):
    x, targets, weight, z = draw_problem(2)
    x[:, 0] = 0.0  # nothing in it
    x[:, 1] = z @ [1.0, -2.0, 0.5]  # explained by the unpenalised columns
    x[:, 2] = x[:, 3]  # a duplicate
    targets[:, 1] = 7.25  # a constant query
    targets[:, 2] = 1e6 + 1e3 * targets[:, 2]  # far from zero
    fit = cross_validate(problem(x, targets, weight, z, fold))
    np.testing.assert_array_equal(fit.coef_min[:, :2], 0.0)
    np.testing.assert_array_equal(fit.coef_min[1], 0.0)
    assert np.isfinite(fit.coef_min).all()
    assert largest_gap(fit, x, targets, weight, z) < GAP


def test_refit_is_weighted_least_squares(data):
    x, targets, weight, z = data
    y = targets[:, 0].copy()
    y[:20] = np.nan
    coef = refit(x[:, :10], y, weight, z)
    kept = np.isfinite(y)
    residual_of = np.concatenate([z, x[:, :10]], axis=1)[kept]
    both = np.linalg.solve(residual_of.T @ (weight[kept, None] * residual_of), residual_of.T @ (weight[kept] * y[kept]))
    np.testing.assert_allclose(coef, both[3:], rtol=1e-8)


def test_one_step_counts_a_pair_once():
    """Every row twice is no more information than once; and a last row without a partner is a unit of its own."""
    rng = np.random.default_rng(3)
    x, z = rng.normal(size=(61, 20)), np.ones((61, 1))
    y = (x[:, 0] + rng.normal(size=61))[:, None]
    coef = np.where(np.arange(20) < 2, 0.5, 0.0)[None]
    twice = np.repeat(np.arange(61), 2)
    for rows in (twice, twice[:-1]):
        double = x[rows]
        last = rows.size // 2 * 2
        cross = double[0:last:2] * double[1:last:2]
        found = one_step(
            StepDesign(double, double**2, cross, np.ones(rows.size), z[rows]), y[rows], coef, np.ones(rows.size)
        )
        weight = np.bincount(rows).astype(float)
        once = one_step(StepDesign(x, x**2, None, np.ones(61), z), y, coef, weight)
        np.testing.assert_allclose(found.coef, once.coef, rtol=1e-12)
        residual = y[:, 0] - x @ coef[0]
        residual -= np.average(residual, weights=weight)
        terms = x * (weight * residual)[:, None]
        total = weight.sum() * (1 - 3 / 61)
        np.testing.assert_allclose(found.stderr[0], np.sqrt((terms**2).sum(axis=0)) / total, rtol=1e-12)


def test_one_step_is_unbiased_where_the_lasso_is_not_and_knows_its_error():
    """On independent columns of known variance, over 40 draws: means within 4 standard errors of the truth.

    The rows' noise differs with the first column, so that errors that are the same for every column would be wrong.
    """
    rng = np.random.default_rng(0)
    truth, penalty, draws = np.zeros(60), 0.3, []
    truth[:3] = 1.0, -0.5, 0.25
    for _ in range(40):
        x = rng.normal(size=(M, 60)) * 2.0
        y = x @ truth + rng.normal(size=M) * np.abs(x[:, 0]) / 2 + 5.0
        fit = Lasso(alpha=penalty, tol=1e-8).fit(x, y)
        targets = np.stack([y, np.zeros(M), np.where(np.arange(M) < 100, y, np.nan)], axis=1)
        design = StepDesign(x, x**2, None, np.full(M, 4.0), np.ones((M, 1)))
        first = StepDesign(x[:100], x[:100] ** 2, None, np.full(100, 4.0), np.ones((100, 1)))
        both = one_step(design, targets, np.stack([fit.coef_, np.zeros(60), fit.coef_]), np.ones(M))
        part = one_step(first, y[:100, None], fit.coef_[None], np.ones(100))
        np.testing.assert_allclose(np.stack(both)[:, 2], np.stack(part)[:, 0], rtol=1e-9)
        np.testing.assert_array_equal(np.stack(both)[:, 1], 0.0)
        draws.append((fit.coef_, both.coef[0], both.stderr[0]))
    lasso, corrected, stderr = np.array(draws).transpose(1, 0, 2)
    error = corrected.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert np.abs((corrected.mean(axis=0) - truth) / error).max() < 4
    assert np.abs((lasso.mean(axis=0) - truth)[:3]).min() > 4 * error[:3].max()
    # A variance from 40 draws is known to sqrt(2 / 39) of itself; the terms' fourth moment adds some percent a draw.
    ratio = (stderr**2).mean(axis=0) / corrected.var(axis=0, ddof=1)
    assert abs(ratio[1:].mean() - 1) < 4 * np.sqrt(2 / 39 / 59) + 0.05
    assert abs(ratio[0] - 1) < 4 * np.sqrt(2 / 39)
    assert (stderr**2).mean(axis=0)[0] > 1.5 * (stderr**2).mean(axis=0)[1:].mean()


def test_all_queries_and_folds_share_every_compiled_call(data, fold, monkeypatch):
    """One call of the descent a penalty, and one more where it made a new column necessary; not one per problem."""
    calls, real = [], path_module._descend

    def counted(*args, **kwargs):
        calls.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(path_module, "_descend", counted)
    cross_validate(problem(*data, fold), num_penalties=40, early_end=False, tolerance=Tolerance())
    assert 40 <= len(calls) < 60
    assert {args[3].shape for args in calls} == {(Q, F + 1, M)}


def test_products_are_not_rounded_on_any_device(data, fold):
    """By default accelerators round the factors of products to 10 bits."""

    def solve(*_):
        return jax.config.jax_default_matmul_precision

    given = {"steps": 0, "devices": None, "progress": silent, "stage": "regress"}
    assert set(batches.in_batches(problem(*data, fold), solve, **given)) == {"highest"}
    assert jax.config.jax_default_matmul_precision is None


def test_memory_is_stated_beforehand():
    """Linear in the number of columns, and near what the recorded run of the largest problem took."""
    run = json.loads((RESULTS / "lasso.paper.cpu-2-cores.json").read_text())
    given = run["settings"]
    dims = given["submodels"], 2 * given["sources"], given["queries"], given["folds"]
    stated = memory(*dims, num_devices=run["machine"]["cores"])
    assert 0.7 < stated / (run["records"][0]["peak_rss_mb"] * 2**20) < 1.5
    small, twice, fourfold = (memory(dims[0], dims[1] * times, *dims[2:]) for times in (1, 2, 4))
    assert fourfold - twice == pytest.approx(2 * (twice - small), rel=1e-3)
    few, many = (memory(2**power, 1000, 1, 10) for power in (15, 20))  # both as 10 x 1,002 rows
    assert many - few == 1000 * (2**20 - 2**15) / 8
