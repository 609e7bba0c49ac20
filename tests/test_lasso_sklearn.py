"""The estimators against scikit-learn's own: its checks, its data, its coefficients and its cross-validation."""

import numpy as np
import pytest
import sklearn.linear_model
from scipy import sparse
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, PredefinedSplit, ShuffleSplit
from sklearn.utils.estimator_checks import check_estimator

from jaxame.lasso import Lasso, LassoCV

TOL = 1e-10
# Two fits whose objectives are within TOL * variance of the optimum predict within this share of the standard deviation
# of each other: an objective is above the optimum by at least half the mean square of the difference in predictions.
APART = np.sqrt(8 * TOL)
PEER = {"tol": TOL, "max_iter": 1_000_000}


def diabetes():
    return load_diabetes(return_X_y=True)


def draw(rows, columns, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns)) + 0.5 * rng.normal(size=(rows, 1)) + rng.normal(size=columns)
    return x, x @ (rng.normal(size=columns) * (rng.random(columns) < 0.1)) + rng.normal(size=rows) + 3.0


def wide():
    return draw(60, 120)


def constant_columns():
    x, y = draw(80, 30, seed=1)
    x[:, [0, 7, 29]] = 0.1, 0.0, -1e6
    return x, y


def scales():
    x, y = draw(100, 40, seed=2)
    return x * np.geomspace(1e-6, 1e6, 40), 1e3 * y


PROBLEMS = [diabetes, wide, constant_columns, scales]


def row_weights(rows):
    weight = np.random.default_rng(9).uniform(0.5, 2.0, rows)
    weight[::7] = 0.0
    return weight


def centred(x, y, weight, fit_intercept=True):
    weight = np.full(len(y), 1 / len(y)) if weight is None else weight / weight.sum()
    shift = weight if fit_intercept else 0 * weight
    return x - shift @ x, y - shift @ y, weight


def highest_penalty(x, y, weight, fit_intercept=True):
    x, y, weight = centred(x, y, weight, fit_intercept)
    return np.abs(x.T @ (weight * y)).max()


def objective(model, x, y, alpha, weight=None):
    residual = y - model.predict(x)
    return np.average(residual**2, weights=weight) / 2 + alpha * np.abs(model.coef_).sum()


def assert_same_fit(ours, peer, x, y, weight=None, fit_intercept=True):
    """Compare up to what the two tolerances leave open, in columns of unit variance."""
    x_c, y_c, weight = centred(x, y, weight, fit_intercept)
    deviation = np.sqrt(weight @ y_c**2)
    support = (ours.coef_ != 0) | (peer.coef_ != 0)
    scale = np.sqrt(weight @ x_c[:, support] ** 2)
    smallest = np.linalg.svd(np.sqrt(weight)[:, None] * x_c[:, support] / scale, compute_uv=False).min(initial=1.0)
    np.testing.assert_allclose(
        ours.coef_[support] * scale, peer.coef_[support] * scale, rtol=0, atol=APART * deviation / smallest
    )
    difference = ours.predict(x) - peer.predict(x)
    assert np.sqrt(weight @ difference**2) <= APART * deviation


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [Lasso(), LassoCV()], ids=["Lasso", "LassoCV"])
def test_scikit_learns_own_checks(estimator):
    results = check_estimator(estimator, on_skip=None)
    assert [r["check_name"] for r in results if r["status"] != "passed"] == ["check_array_api_input"]  # not set up


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_lasso_agrees(problem, positive, weighted):
    x, y = problem()
    weight = row_weights(len(y)) if weighted else None
    for share in (0.5, 0.05):
        alpha = share * highest_penalty(x, y, weight)
        ours = Lasso(alpha, tol=TOL, positive=positive).fit(x, y, weight)
        peer = sklearn.linear_model.Lasso(alpha, positive=positive, **PEER).fit(x, y, sample_weight=weight)
        assert_same_fit(ours, peer, x, y, weight)
        assert (ours.coef_ >= 0).all() if positive else ours.coef_.any()


def test_columns_of_very_different_scale_are_all_fitted_to_the_tolerance():
    x, y = scales()
    alpha = 1e-6 * highest_penalty(x, y, None)
    ours = Lasso(alpha, tol=TOL).fit(x, y)
    assert_same_fit(ours, sklearn.linear_model.Lasso(alpha, **PEER).fit(x, y), x, y)
    size = np.abs(x[:, ours.coef_ != 0]).mean(axis=0)
    assert size.max() > 1e5 * size.min()


def test_without_intercept():
    x, y = diabetes()
    alpha = 0.05 * highest_penalty(x, y, None, fit_intercept=False)
    ours = Lasso(alpha, tol=TOL, fit_intercept=False).fit(x, y)
    peer = sklearn.linear_model.Lasso(alpha, fit_intercept=False, **PEER).fit(x, y)
    assert ours.intercept_ == 0
    assert ours.score(x, y) == pytest.approx(peer.score(x, y), rel=1e-4)
    assert_same_fit(ours, peer, x, y, fit_intercept=False)


def test_columns_that_are_constant_stay_out():
    x, y = constant_columns()
    assert (Lasso(1e-3, tol=TOL).fit(x, y).coef_[[0, 7, 29]] == 0).all()


def test_duplicate_columns_have_the_same_objective_and_predictions():
    x, y = draw(80, 20, seed=3)
    x = np.concatenate([x, x[:, ::2], x[:, :5]], axis=1)
    alpha = 0.02 * highest_penalty(x, y, None)
    ours = Lasso(alpha, tol=TOL).fit(x, y)
    peer = sklearn.linear_model.Lasso(alpha, **PEER).fit(x, y)
    np.testing.assert_allclose(objective(ours, x, y, alpha), objective(peer, x, y, alpha), rtol=0, atol=TOL * y.var())
    assert np.sqrt(np.mean((ours.predict(x) - peer.predict(x)) ** 2)) <= APART * y.std()


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-7])
def test_dual_gap_meets_the_tolerance_and_bounds_the_distance_from_the_optimum(problem, tol):
    x, y = problem()
    alpha = 0.1 * highest_penalty(x, y, None)
    ours = Lasso(alpha, tol=tol).fit(x, y)
    best = objective(sklearn.linear_model.Lasso(alpha, **PEER).fit(x, y), x, y, alpha)
    assert objective(ours, x, y, alpha) - best <= ours.dual_gap_ <= tol * y.var() * (1 + 1e-9)


def test_a_penalty_beyond_the_highest_gives_zero():
    x, y = diabetes()
    ours = Lasso(1.001 * highest_penalty(x, y, None)).fit(x, y)
    assert not ours.coef_.any()
    assert ours.intercept_ == pytest.approx(y.mean())


def test_several_targets_are_fitted_each_by_itself():
    x, y = diabetes()
    targets = np.stack([y, 1e-4 * x[:, 0] - 7, np.full(len(y), 2.0), y**2, -y], axis=1)
    both = Lasso(1e-3, tol=TOL).fit(x, targets)
    assert both.predict(x).shape == targets.shape
    assert both.dual_gap_.shape == both.n_iter_.shape == both.intercept_.shape == (5,)
    assert not both.coef_[2].any()
    for target, coef, intercept in zip(targets.T, both.coef_, both.intercept_, strict=True):
        alone = Lasso(1e-3, tol=TOL).fit(x, target)
        np.testing.assert_allclose(coef, alone.coef_, rtol=0, atol=APART * np.linalg.norm(alone.coef_))
        assert intercept == pytest.approx(alone.intercept_)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("positive", [False, True])
def test_cross_validation_agrees(problem, positive):
    x, y = problem()
    ours = LassoCV(tol=TOL, positive=positive, alphas=50, eps=1e-2).fit(x, y)
    peer = sklearn.linear_model.LassoCV(positive=positive, alphas=ours.alphas_, **PEER).fit(x, y)
    assert_same_cross_validation(ours, peer, x, y)


def assert_same_cross_validation(ours, peer, x, y, weight=None):
    np.testing.assert_allclose(ours.mse_path_, peer.mse_path_, rtol=1e-5)
    assert ours.alpha_ == pytest.approx(peer.alpha_)
    assert_same_fit(ours, peer, x, y, weight)


def test_default_penalties_are_scikit_learns():
    x, y = diabetes()
    ours, peer = LassoCV().fit(x, y), sklearn.linear_model.LassoCV().fit(x, y)
    np.testing.assert_allclose(ours.alphas_, peer.alphas_, rtol=1e-10)
    assert ours.mse_path_.shape == peer.mse_path_.shape == (100, 5)


def test_cross_validation_with_row_weights():
    x, y = diabetes()
    weight = row_weights(len(y))
    ours = LassoCV(tol=TOL).fit(x, y, weight)
    peer = sklearn.linear_model.LassoCV(**PEER).fit(x, y, sample_weight=weight)
    np.testing.assert_allclose(ours.alphas_, peer.alphas_, rtol=1e-10)
    assert_same_cross_validation(ours, peer, x, y, weight)


@pytest.mark.parametrize(
    "cv",
    [
        KFold(5, shuffle=True, random_state=0),
        PredefinedSplit(np.arange(442) % 6 - 1),
        ShuffleSplit(3, test_size=0.3, random_state=0),
        [(np.arange(250), np.arange(200, 442)), (np.r_[0:200, 0:50], np.arange(300, 442))],
    ],
    ids=["partition", "rows never held out", "overlapping", "rows repeated"],
)
def test_cross_validation_takes_any_splits(cv):
    x, y = diabetes()
    ours = LassoCV(tol=TOL, alphas=[1.0, 0.1, 3.0], cv=cv).fit(x, y)
    peer = sklearn.linear_model.LassoCV(alphas=[1.0, 0.1, 3.0], cv=cv, **PEER).fit(x, y)
    np.testing.assert_array_equal(ours.alphas_, [3.0, 1.0, 0.1])
    assert_same_cross_validation(ours, peer, x, y)


@pytest.mark.parametrize("constant", ["x", "y"])
def test_cross_validation_where_nothing_can_be_fitted(constant):
    x, y = diabetes()
    x, y = (np.full_like(x, 0.3), y) if constant == "x" else (x, np.full_like(y, 0.3))
    ours = LassoCV(alphas=[1.0, 0.1]).fit(x, y)
    peer = sklearn.linear_model.LassoCV(alphas=[1.0, 0.1]).fit(x, y)
    np.testing.assert_allclose(ours.mse_path_, peer.mse_path_, atol=1e-20)
    assert not ours.coef_.any()
    assert ours.intercept_ == pytest.approx(y.mean())


def test_giving_up_is_a_warning():
    x, y = wide()
    with pytest.warns(ConvergenceWarning, match="max_iter = 1 "):
        Lasso(0.01, max_iter=1).fit(x, y)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Lasso(0.0), "alpha positive"),
        (Lasso(float("nan")), "alpha positive"),
        (Lasso(tol=-1.0), "tol >= 0"),
        (Lasso(max_iter=0), "max_iter"),
        (LassoCV(alphas=0), "alphas"),
        (LassoCV(alphas=[]), "alphas"),
        (LassoCV(alphas=[1.0, -1.0]), "each of alphas"),
        (LassoCV(eps=0.0), "eps"),
        (LassoCV(cv=[(np.arange(60), np.arange(0))]), "every split"),
    ],
)
def test_parameters_out_of_range_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(*wide())


def test_bad_input_is_refused():
    x, y = wide()
    for weight, message in ((-np.ones(60), "sample_weight >= 0"), (np.ones(59), "60"), (np.zeros(60), "zero")):
        with pytest.raises(ValueError, match=message):
            Lasso().fit(x, y, weight)
    with pytest.raises(ValueError, match="NaN"):
        Lasso().fit(x, np.full(60, np.nan))
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        LassoCV().fit(sparse.csr_array(x), y)
    with pytest.raises(ValueError, match="1d array"):
        LassoCV().fit(x, np.stack([y, y], axis=1))
