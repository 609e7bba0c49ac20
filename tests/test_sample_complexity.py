"""The experiment on sample complexity: its witness against two solvers, what it counts, and that its check can fail."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import lasso_path

from experiments import sample_complexity as experiment
from jaxame import planning
from jaxame.design import sample_design
from jaxame.features import code, exact_columns, mask_columns
from jaxame.lasso import fit_near, make_problem

ROWS, SOURCES, RUNS = 60, 40, 20


@pytest.fixture(scope="module")
def problem():
    """A design on which about half of the runs have the true support somewhere."""
    design = experiment.draw_design(SOURCES, 0, ROWS)
    return design, experiment.plant(design, experiment.utility("saturating", 5), 0, RUNS)


def test_the_witness_agrees_with_scikit_learn(problem):
    design, planted = problem
    coding = code(design)
    root = np.sqrt(coding.weight / coding.weight.sum())[:, None]
    basis = np.linalg.qr(root * coding.z)[0]
    x, y = root * exact_columns(design, coding, np.arange(SOURCES)), root * planted.utilities
    x, y = (v - basis @ (basis.T @ v) for v in (x, y))
    scale = np.sqrt(ROWS)  # scikit-learn divides by the rows
    found = experiment.penalties(design, planted)
    assert 4 < sum(low < high for low, high in found) < RUNS - 4
    for own, target, (low, high) in zip(planted.members, y.T, found, strict=True):
        grid = np.geomspace(1, 0.01, 300) * np.abs(x.T @ target).max()
        if low < high:
            grid = np.sort(np.append(grid, np.array([0.01, 0.5, 0.99]) * (high - low) + low))[::-1]
        _, coef, _ = lasso_path(scale * x, scale * target, alphas=grid, tol=1e-12, max_iter=100_000)
        exact = (np.isin(np.arange(SOURCES), own)[:, None] == (np.abs(coef) > 1e-9)).all(axis=0)
        np.testing.assert_array_equal(exact, (low < grid) & (grid < high))


@pytest.mark.slow
def test_the_witness_agrees_with_our_own_lasso(problem):
    design, planted = problem
    coding = code(design)
    whole = make_problem(mask_columns(design, coding), planted.utilities, coding.weight, coding.z, None)
    low, high = np.array(experiment.penalties(design, planted)).T
    ends = np.where(low < high, [low, high], 0.0)
    middle = ends.mean(axis=0)
    wanted = np.array([np.isin(np.arange(SOURCES), own) for own in planted.members])
    unit, near = np.asarray(whole.unit, np.float64), np.zeros(wanted.shape)
    for share in np.geomspace(1, 0.05, 6):
        penalty = np.where(middle > 0, middle, unit) * share  # the first is in the middle of every range
        near = fit_near(whole, penalty / unit, near)
        exact = ((near != 0) == wanted).all(axis=1)
        clear = (np.abs(penalty - ends) > 0.01 * penalty).all(axis=0)
        np.testing.assert_array_equal(exact[clear], ((low < penalty) & (penalty < high))[clear])
        assert clear.sum() > RUNS / 2
        if share == 1:
            assert exact[clear].sum() > 4


@pytest.mark.parametrize("game", experiment.GAMES)
def test_r2_is_that_of_a_pilot(game):
    of = experiment.utility(game, 10)
    design = sample_design(jax.random.key(1), experiment.LAW, num_submodels=4000, num_sources=60)
    pilot = planning.estimate_r2(design, experiment.plant(design, of, 0, 8).utilities)
    error = np.sqrt((pilot.stderr**2).mean() / 8)
    assert error < 0.02
    assert pilot.r2.mean() == pytest.approx(of.r2, abs=4 * error)


def test_more_rows_leave_the_first_ones_as_they_are():
    of = experiment.utility("majority", 3)
    longer, shorter = (experiment.draw_design(SOURCES, 1, rows) for rows in (60, 40))
    one, other = (experiment.plant(design, of, 1, 2) for design in (experiment.first_rows(longer, 40), shorter))
    np.testing.assert_array_equal(one.members, other.members)
    np.testing.assert_array_equal(one.utilities, other.utilities)
    np.testing.assert_array_equal(one.utilities, experiment.plant(longer, of, 1, 2).utilities[:40])


def test_m90_is_where_nine_in_ten_succeed():
    rows = np.array([100, 200, 400])
    success = np.arange(20) < np.array([[12], [16], [20]])
    assert experiment.smallest_enough(rows, success) == pytest.approx(200 * np.sqrt(2))
    assert experiment.smallest_enough(rows[1:], success[1:] | True) == 200
    assert 20 < experiment.standard_error(rows, success) < 100


def test_a_fit_through_the_origin():
    x = np.array([1.0, 2.0, 4.0])
    fit = experiment.through_origin(x, 3 * x)
    assert fit == pytest.approx(
        {"slope": 3, "r_squared": 1, "log_slope": 3, "log_r_squared": 1, "least_ratio": 3, "largest_ratio": 3}
    )
    assert experiment.through_origin(x, np.array([3.0, 1.0, 2.0]))["r_squared"] < 0


def test_the_check_can_fail():
    def outcome(plain, scaled, power):
        fits = {"k ln N": {"r_squared": plain}, "k ln N / R2": {"r_squared": scaled}}
        return {"fits": fits, "records": [{}, {"knockoff_power": power}]}

    experiment.check(outcome(0.5, 0.95, 0.9))
    for bad in (outcome(0.96, 0.95, 0.9), outcome(0.2, 0.5, 0.9), outcome(0.5, 0.95, 0.3)):
        with pytest.raises(SystemExit, match="the claim is not met"):
            experiment.check(bad)
