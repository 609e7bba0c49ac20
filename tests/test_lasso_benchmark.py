"""The benchmark of the LASSO: its problem, its certificate and its records are what it says, at a tiny size."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import lasso_path

from benchmarks import lasso
from benchmarks.lasso_peers import growth, outcome, processes, sklearn_peer, task, tuning
from benchmarks.lasso_peers.outcome import Outcome
from benchmarks.lasso_peers.problem import Size, as_task, draw
from jaxame.lasso import certify

M, N, Q, F, L = 90, 30, 2, 3, 12
SIZE = Size(submodels=M, sources=N, queries=Q, folds=F, penalties=L, seed=0, knockoffs=True, full_path=True)
ALL_ROWS, QUERIES = F, list(range(Q))
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def drawn():
    return draw(SIZE)


@pytest.fixture(scope="module")
def problem(drawn):
    return as_task(drawn, SIZE)


@pytest.fixture(scope="module")
def x(problem):
    return problem.columns(slice(0, problem.num_columns))


def solve(part, penalties, k, tolerance=1e-5):
    """Return scikit-learn's coefficients `[P, L]`."""
    return lasso_path(part.x, part.y[:, k], alphas=penalties, tol=tolerance, max_iter=10**6)[1]


@pytest.fixture(scope="module")
def fits(problem):
    part = task.split(problem, ALL_ROWS, QUERIES)
    coefs = [sparse.csr_matrix(solve(part, problem.penalties[q], q).T) for q in QUERIES]
    return outcome.collect(coefs, problem.penalties)


def test_the_problem_is_the_one_described(drawn, problem, x):
    masks = np.asarray(drawn.design.masks())
    p = np.asarray(drawn.design.p, np.float64)[:, None]
    assert set(np.round(p.ravel(), 6)) == {0.2, 0.4, 0.6, 0.8}
    np.testing.assert_allclose(x[:, :N], masks - p)
    np.testing.assert_allclose(problem.weight, (1 / (p * (1 - p)))[:, 0])
    np.testing.assert_array_equal(problem.z, p == np.unique(p))
    assert x.shape == (M, 2 * N)
    assert 0.3 < (x[:, N:] != x[:, :N]).mean() < 0.5
    assert [len(set(active)) for active in drawn.active] == [20] * Q
    assert set(drawn.active[0]) != set(drawn.active[1])
    expected = np.stack([1 / (1 + np.exp(6.0 - masks[:, active].sum(axis=1))) for active in drawn.active], axis=1)
    assert 0.08 < (problem.targets - expected).std() < 0.12
    assert np.bincount(problem.fold).tolist() == [M // F] * F


def test_without_knockoffs_there_is_one_copy():
    size = dataclasses.replace(SIZE, knockoffs=False)
    assert as_task(draw(size), size).num_columns == N


def test_penalties_start_where_the_fit_is_zero(problem, x):
    for q, penalties in enumerate(problem.penalties):
        part = task.split(problem, ALL_ROWS, [q])
        largest = np.abs(part.x.T @ part.y[:, 0]).max() / M
        np.testing.assert_allclose(penalties, largest * np.geomspace(1, 0.01, L))


@pytest.mark.parametrize("fold", [None, 1])
def test_gaps_are_those_of_the_certificate(problem, x, fits, fold):
    found = task.relative_gaps(problem, QUERIES, fits, fold)
    weight = np.where(problem.fold == fold, 0.0, problem.weight)
    for q in QUERIES:
        for at in (0, 4, L - 1):
            coef = fits.coef[q * L + at].toarray()[0]
            certificate = certify(x, problem.targets[:, q], coef, problem.penalties[q, at], weight, problem.z)
            np.testing.assert_allclose(found[q, at], certificate.relative_gap, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("fold", [ALL_ROWS, 1])
def test_the_dense_problem_has_the_certificate_of_the_raw_one(problem, x, fold):
    part = task.split(problem, fold, [1])
    weight = np.where(problem.fold == fold, 0.0, problem.weight)
    penalty, coef = problem.penalties[1, 5], RNG.normal(size=2 * N) * (RNG.random(2 * N) < 0.2) * 0.01
    flat = certify(part.x, part.y[:, 0], coef, penalty, np.ones(len(part.y)), np.zeros((len(part.y), 1)))
    raw = certify(x, problem.targets[:, 1], coef, penalty, weight, problem.z)
    np.testing.assert_allclose(flat, raw, rtol=1e-8)


def test_held_out_rows_are_predicted_with_unpenalised_columns(problem, x):
    training = problem.fold != 1
    part = task.split(problem, 1, [0])
    coef, root = RNG.normal(size=(2 * N, 1)), np.sqrt(problem.weight[training, None])
    y = problem.targets[:, :1]
    z_coef = np.linalg.lstsq(root * problem.z[training], root * (y - x @ coef)[training])[0]
    residual = (y - x @ coef - problem.z @ z_coef)[~training, 0]
    held_out = np.zeros((1, 2))
    task.add_errors(held_out, part, 0, coef)
    np.testing.assert_allclose(held_out[0, 0], problem.weight[~training] @ residual**2)
    assert np.isnan(held_out[0, 1])  # the path ended before


def test_a_spoilt_coefficient_is_found(problem, fits):
    assert tuning.largest_gap(problem, QUERIES, as_outcome(fits)) <= 2e-5
    spoilt = fits.coef.tolil(copy=True)
    used = spoilt[L + 6].nonzero()[1][0]
    spoilt[L + 6, used] *= 1.2
    wrong = task.Fits(spoilt.tocsr(), fits.penalty)
    assert tuning.largest_gap(problem, QUERIES, as_outcome(wrong)) > 1e-4
    spoilt[L + 6, used] = np.nan
    assert tuning.largest_gap(problem, QUERIES, as_outcome(task.Fits(spoilt.tocsr(), fits.penalty))) == np.inf


def as_outcome(fits, seconds=1.0):
    return Outcome(seconds, fits, np.zeros(fits.penalty.shape), 1.0, {})


def test_an_outcome_is_read_as_it_was_written(tmp_path, fits):
    part = outcome.collect([fits.coef[: L - 2]], fits.penalty[:1])
    written = Outcome(2.5, part, np.arange(L)[None] * 1.0, 3.5, {"version": "1"}, (part, fits))
    outcome.save(tmp_path / "o.npz", written)
    read = outcome.load(tmp_path / "o.npz")
    assert (read.seconds, read.peak_rss_mb, read.about) == (2.5, 3.5, {"version": "1"})
    assert (read.fits.coef != part.coef).nnz == 0
    assert [(own.coef != its.coef).nnz for own, its in zip(read.fold_fits, (part, fits), strict=True)] == [0, 0]
    np.testing.assert_array_equal(read.fits.penalty, part.penalty)
    assert np.isnan(read.fits.penalty[0]).tolist() == [False] * (L - 2) + [True] * 2


def test_the_loosest_tolerance_and_the_fastest_setting_are_chosen(problem):
    """The first kind fails, the second is slow, the third is fast and needs 1e-4."""

    def run(setting, fits, queries):
        if setting["kind"] == 0:
            raise processes.WorkerError("no such kind")
        part = task.split(problem, ALL_ROWS, queries)
        coefs = [
            sparse.csr_matrix(solve(part, problem.penalties[q], k, setting["tolerance"]).T)
            for k, q in enumerate(queries)
        ]
        return as_outcome(
            outcome.collect(coefs, problem.penalties[queries]), 3.0 / setting["kind"] / setting["processes"]
        )

    peer = SimpleNamespace(
        TOLERANCES=(0.5, 4e-5, 1e-6),
        bases=lambda num_columns: [{"kind": kind} for kind in range(3)],
        layouts=lambda: [{"processes": processes} for processes in (1, 2)],
    )
    best, tried = tuning.tune("fake", peer, run, problem, Q)
    assert best == {"kind": 2, "tolerance": 4e-5, "processes": 2, "threads": 1}
    order = [(r["setting"]["kind"], r["setting"]["tolerance"], r["num_fits"], r["queries_run"]) for r in tried]
    single = [(0, 0.5), (1, 0.5), (1, 4e-5), (2, 0.5), (2, 4e-5)]
    assert order == [(*one, 1, 1) for one in single] + [(2, 4e-5, 1, Q)] + [(2, 4e-5, F + 1, 1)] * 2
    assert [record["reached"] for record in tried] == [False, False, True, False, True, True, True, True]
    assert tried[0]["error"] == "no such kind"


@pytest.mark.parametrize("cv", [False, True])
def test_glmnet_solves_the_same_problem(tmp_path, problem, fits, cv):
    if reason := lasso.missing("glmnet", sys.executable):
        pytest.skip(reason)
    problem.save(tmp_path / "task.npz")
    setting = {"processes": 1, "threads": 1, "cv": cv, "type": "naive", "tolerance": 1e-12, "dtype": "float64"}
    job = {"peer": "glmnet", "task": str(tmp_path / "task.npz"), "fits": [F, 0, 1, 2], "queries": [1]}
    found = processes.run(sys.executable, "glmnet_worker", job | {"setting": setting})
    assert tuning.largest_gap(problem, [1], found) <= 1e-4
    expected = np.zeros((1, L))
    for fold in range(F):
        part = task.split(problem, fold, [1])
        task.add_errors(expected, part, 0, solve(part, problem.penalties[1], 0, 1e-7))
    if cv:  # its folds are easier, the more so the smaller the penalty
        assert ((0.5 * expected < found.held_out) & (found.held_out < expected)).all()
    else:
        np.testing.assert_allclose(found.held_out, expected, rtol=2e-2)
    assert found.seconds < 10


@pytest.fixture(scope="module")
def race():
    sizes = {name: value for name, value in dataclasses.asdict(SIZE).items() if name != "seed"}
    settings = lasso.Settings(**sizes, peers="sklearn,celer", celer_python="/nowhere/python", repeats=1, peer_queries=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sklearn_peer, "bases", lambda num_columns: [{"dtype": "float64", "precompute": False}])
        patch.setattr(sklearn_peer, "layouts", lambda: [{"processes": 2, "threads": 1}])
        return lasso.main(settings)


@pytest.mark.slow
def test_every_solver_has_a_record(race):
    ours, peer = race["records"]
    assert [ours["solver"], peer["solver"]] == ["jaxame", "sklearn"]
    for record in (ours, peer):
        assert record["max_relative_gap"] <= 1e-4
        assert record["num_penalties_fitted"] == L
        assert record["seconds_per_query"] == record["seconds"] / record["queries_run"]
        assert record["seconds"] > 0
        assert 20 < record["peak_rss_mb"] < 4000
        assert record["device"] == "cpu"
    assert (ours["queries_run"], peer["queries_run"]) == (Q, 1)
    assert ours["compile_seconds"] > 0
    assert ours["at_min"][:1] == peer["at_min"]
    assert race["matmul_gflops"] > 1
    assert race["settings"]["submodels"] == M
    assert {record["solver"] for record in race["tried"]} == {"sklearn"}
    json.dumps(race)


def test_absent_peers_are_skipped(tmp_path, monkeypatch):
    assert '`pip install "celer" "scikit-learn<1.7"`' in lasso.missing("celer", "/nowhere/python")
    assert "--adelie-python" in lasso.missing("adelie", "/nowhere/python")
    assert lasso.missing("sklearn", sys.executable) == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lasso.missing("glmnet", sys.executable) == "there is no Rscript"


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"peers among sklearn, skglm, celer, glmnet, adelie.*got nobody"):
        lasso.main(lasso.Settings(peers="nobody"))
    with pytest.raises(ValueError, match="sources to be an integer >= 20"):
        lasso.main(lasso.Settings(sources=19))


def test_a_failing_process_says_why(tmp_path):
    job = {"peer": "sklearn", "task": str(tmp_path / "none.npz"), "fits": [0], "queries": [0]}
    with pytest.raises(processes.WorkerError, match=r"none\.npz"):
        processes.run(sys.executable, "worker", job | {"setting": {"processes": 1, "threads": 1}})


def test_exponents():
    sizes = [10, 20, 80]
    assert growth.exponent(sizes, [3.0 * size**1.5 for size in sizes]) == pytest.approx(1.5)
