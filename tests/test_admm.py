"""ADMM side by side: every fit certified in float64, and against coordinate descent, which shares no line with it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LassoCV
from sklearn.model_selection import PredefinedSplit

from jaxame.lasso import DenseColumns, admm, assign_folds, certify, cross_validate, make_problem, system
from jaxame.lasso import crossval as crossval_module
from jaxame.lasso.path import Tolerance, walk_path

Q, F = 3, 5
GAP = 1e-4
SHAPES = {"by columns": (240, 96), "by rows": (120, 240)}  # rows, columns
OPTIONS = {
    "lasso": {},
    "elastic net": {"l1_ratio": 0.7},
    "non-negative": {"positive": True},
    "factors": {"factor": "drawn"},
}


def draw(num_rows, num_columns, seed=0):
    """Return columns of one scale, targets with some noise, row weights, and three intercepts."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, num_columns))
    active = rng.normal(size=(num_columns, Q)) * (rng.random((num_columns, Q)) < 0.1)
    group = rng.integers(0, 3, num_rows)
    targets = x @ active + rng.normal(size=(num_rows, Q)) + 2.0 * group[:, None]
    z = (group[:, None] == np.arange(3)).astype(float)
    return x, targets, rng.uniform(0.5, 2.0, num_rows), z


@pytest.fixture(scope="module", params=SHAPES)
def data(request):
    return draw(*SHAPES[request.param])


def folds(num_rows):
    return np.asarray(assign_folds(jax.random.key(3), num_rows, F))


def problem(x, targets, weight, z, **options):
    columns = DenseColumns(x=jnp.asarray(x.T, jnp.float32))
    return make_problem(columns, targets, weight, z, folds(len(x)), **options)


def options_of(name, num_columns):
    """Return the options by name; of the factors, one keeps its column out."""
    options = dict(OPTIONS[name])
    if "factor" in options:
        factor = np.random.default_rng(1).uniform(0.5, 2.0, num_columns)
        factor[0] = np.inf
        options["factor"] = factor
    return options


def walked(walk, made, **options):
    """Return the coefficients `[L, Q, P]`, errors `[L, Q, F]`, penalties `[L, Q]` and passes of a walk."""
    steps = []

    def keep(step):
        fits = np.zeros((Q, made.columns.num_columns + 1))
        np.put_along_axis(fits, step.index, step.coef, axis=1)
        steps.append((fits[:, :-1], step.errors, step.penalty, step.passes, step.converged))
        return np.ones(Q, bool)

    walk(made, keep, num_penalties=80, **options)
    return tuple(np.stack(part) for part in zip(*steps, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_every_fit_is_certified_and_agrees_with_coordinate_descent(data, name):
    x, targets, weight, z = data
    options = options_of(name, x.shape[1])
    made = problem(*data, **options)
    coef, errors, penalty, passes, converged = walked(admm.walk_path, made, gap=GAP)
    assert converged.all()
    assert (passes[1:] == 0).any(), "no fit was interpolated"
    assert (passes > 0).any(), "no fit was solved"
    unit = np.asarray(made.unit, np.float64)
    for q in range(Q):
        for fit, lam in zip(coef[:, q], penalty[:, q], strict=True):
            rows = targets[:, q], fit * unit[q], lam * unit[q], weight, z
            assert certify(x, *rows, **options).relative_gap < 1.2 * GAP
    _, exact, same_penalty, *_ = walked(walk_path, made, tolerance=Tolerance())
    np.testing.assert_allclose(penalty, same_penalty, rtol=1e-5)
    # A gap g leaves predictions within sqrt(2 g) of the optimum, in the root mean square over the training rows.
    off = np.abs(np.sqrt(errors) - np.sqrt(exact))
    assert off.max() < 2 * np.sqrt(2 * GAP * 0.5 * 1.5)


def test_a_cross_validation_agrees_with_scikit_learn():
    x, targets, _, _ = draw(*SHAPES["by columns"])
    plain = np.ones(len(x)), np.ones((len(x), 1))
    made = problem(x, targets, *plain)
    assert admm.suits(made, 1e-5)
    fit = cross_validate(made, early_end=False, num_penalties=30)
    for q in range(Q):
        peer = LassoCV(alphas=fit.penalty[:, q], cv=PredefinedSplit(folds(len(x))), tol=1e-8, max_iter=100_000)
        peer.fit(x, targets[:, q])
        np.testing.assert_allclose(fit.error_mean[:, q], peer.mse_path_.mean(axis=1), rtol=1e-2)
        own = np.flatnonzero(fit.coef_min[q])
        at = {"alpha": fit.penalty[fit.at_min[q], q], "coef": fit.coef_min[q]}
        assert certify(x, targets[:, q], at["coef"], at["alpha"], *plain).relative_gap < 2e-5
        if at["alpha"] == pytest.approx(peer.alpha_):
            np.testing.assert_allclose(at["coef"][own], peer.coef_[own], atol=5e-3)


def rounding_of_gap(target, weight, z, first, coef):
    """Return what rounding leaves of a relative gap: gradients carry up to 20 eps of the largest penalty, `first`."""
    root = np.sqrt(weight / weight.sum())
    at_zero = np.linalg.lstsq(root[:, None] * z, root * target)[1][0] / 2
    return 20 * np.finfo(np.float32).eps * first * np.abs(coef).sum() / at_zero


@pytest.mark.parametrize("gap", [1e-5, 9e-6], ids=["side by side", "coordinate descent"])
def test_the_fits_of_folds_are_certified_on_their_training_rows(data, gap):
    x, targets, weight, z = data
    made = problem(*data)
    assert admm.suits(made, gap) == (gap == 1e-5)
    fit = cross_validate(made, num_penalties=12, tolerance=Tolerance(gap, violation=0.0), keep_folds=True)
    fold, wrong = folds(len(x)), []
    assert [len(paths) for paths in fit.fold_paths] == [F] * Q
    for q, f in itertools.product(range(Q), range(F)):
        path, rows = fit.fold_paths[q][f].toarray(), fold != f
        assert path.shape == (12, x.shape[1])
        for at, lam in enumerate(fit.penalty[:, q]):
            if not np.isfinite(lam):
                assert (path[at] == 0).all()
                continue
            given = targets[rows, q], weight[rows], z[rows]
            rounding = rounding_of_gap(*given, fit.penalty[0, q], path[at])
            assert certify(x[rows], given[0], path[at], lam, *given[1:]).relative_gap < gap + rounding
        wrong.append(certify(x, targets[:, q], path[at], fit.penalty[fit.at_min[q], q], weight, z).relative_gap)
    assert min(wrong) > 10 * gap  # those of all rows are others
    assert cross_validate(made, num_penalties=12).fold_paths == ()


def test_a_missing_entry_leaves_the_other_queries_bit_identical(data):
    x, targets, weight, z = data
    holed = targets.copy()
    holed[4, 1] = np.nan
    whole, part = (problem(x, t, weight, z) for t in (targets, holed))
    np.testing.assert_array_equal(admm.alike(part), [True, False, True])
    whole, part = (cross_validate(made, num_penalties=30) for made in (whole, part))
    for q in (0, 2):
        np.testing.assert_array_equal(whole.coef_min[q], part.coef_min[q])
        np.testing.assert_array_equal(whole.error_mean[:, q], part.error_mean[:, q])
    kept = np.isfinite(holed[:, 1])
    rows = part.coef_min[1], part.penalty[part.at_min[1], 1], weight[kept], z[kept]
    assert certify(x[kept], holed[kept, 1], *rows).relative_gap < 2e-5


def test_a_query_it_gives_up_on_goes_to_coordinate_descent(data, monkeypatch):
    made = problem(*data)
    gave_up = []

    def impatient(part, consume, **options):
        gave_up.append(admm.walk_path(part, consume, **options | {"max_iterations": 1}))
        return gave_up[-1]

    class Impatient:
        alike, suits, QUERIES_AT_ONCE = admm.alike, admm.suits, admm.QUERIES_AT_ONCE
        walk_path = staticmethod(impatient)

    few = {"num_penalties": 20, "min_ratio": 0.05}
    descended = cross_validate(made, **few, tolerance=Tolerance(gap=0.9 * admm.SMALLEST_GAP))
    monkeypatch.setattr(crossval_module, "admm", Impatient)
    fit = cross_validate(made, **few)
    assert not gave_up[0].any()
    np.testing.assert_allclose(fit.coef_1se, descended.coef_1se, atol=2e-3)
    assert fit.converged.all()


def test_inverse_by_halves():
    rows = np.random.default_rng(0).normal(size=(900, 700))
    matrix = rows.T @ rows / 900 + 0.05 * np.eye(700)
    inverse = system.inverse(jnp.asarray(matrix, jnp.float32))
    np.testing.assert_allclose(inverse @ matrix, np.eye(700), atol=1e-4)


def test_what_it_is_for():
    x, targets, weight, z = draw(120, 240)
    assert admm.suits(problem(x, targets, weight, z), 1e-5)
    assert not admm.suits(problem(x, targets, weight, z), 1e-6)  # float32
    assert not admm.suits(problem(x * np.geomspace(1, 10, 240), targets, weight, z), 1e-5)  # one rho for all columns
    assert not admm.suits(problem(x[:50], targets[:50], weight[:50], z[:50]), 1e-5)  # too many columns a row
    with jax.enable_x64(True):
        columns = DenseColumns(x=jnp.asarray(x.T, jnp.float64))
        exact = make_problem(columns, targets, weight, z, folds(120), dtype=jnp.float64)
    assert not admm.suits(exact, 1e-5)
