"""Few rows in place of many: the same products, and so the same fits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxame.design import Grid, TruncatedUniform, nest, sample_design
from jaxame.features import code, mask_columns
from jaxame.lasso import DenseColumns, assign_folds, certify, condense, cross_validate, make_problem, shard_columns

M, N, F, Q = 1200, 17, 4, 3


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(condense, "_FEWEST_ENTRIES", 0)
    monkeypatch.setattr(condense, "_ROWS_AT_ONCE", 64)


@pytest.fixture(scope="module")
def dense():
    """Columns that share a part, weights, two unpenalised columns, folds of unequal size and a noise-free target."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(M, N)) + 0.5 * rng.normal(size=(M, 1))
    targets = np.stack([x[:, 0] - 2 * x[:, 3], x[:, 1] + rng.normal(size=M), 3 * rng.normal(size=M)], axis=1) + 5.0
    weight = rng.uniform(0.5, 2.0, M)
    z = np.stack([np.ones(M), rng.normal(size=M)], axis=1)
    fold = np.minimum(rng.integers(0, F + 1, M), F - 1)
    return x, targets, weight, z, fold


def pose(x, targets, weight, z, fold):
    return make_problem(DenseColumns(jnp.asarray(x.T, jnp.float32)), targets, weight, z, fold)


def in_float64(problem, rows):
    """Columns, unpenalised columns and targets, `[M, P+D+Q]`, and the weights of the rows that count."""
    x = np.asarray(problem.columns.gather(jnp.arange(problem.columns.num_columns)), np.float64).T
    everything = np.concatenate([x, np.asarray(problem.z), np.asarray(problem.y).T], axis=1).astype(np.float64)
    return everything * np.sqrt(np.where(rows, np.asarray(problem.weight[0], np.float64), 0.0))[:, None]


@pytest.mark.parametrize("fold_of_each", [True, False])
def test_products_are_those_of_the_rows(dense, fold_of_each):
    *rows, fold = dense
    problem = pose(*rows, fold if fold_of_each else None)
    few = condense.condense(problem)
    groups = range(F) if fold_of_each else [-1]
    assert few.y.shape == (Q, len(groups) * (N + 2 + 1))
    for group in groups:
        found, wanted = (in_float64(some, np.asarray(some.fold) == group) for some in (few, problem))
        wanted = wanted.T @ wanted
        root = np.sqrt(np.diagonal(wanted))
        found = found.T @ found
        square = np.s_[: N + 2, :]  # what targets have in common is not kept
        np.testing.assert_allclose(
            (found / np.outer(root, root))[square], (wanted / np.outer(root, root))[square], atol=2e-6
        )
        np.testing.assert_allclose(np.diagonal(found), np.diagonal(wanted), rtol=1e-5)


@pytest.mark.parametrize("law", [Grid((0.3, 0.6)), TruncatedUniform(0.1)], ids=["grid", "uniform"])
@pytest.mark.parametrize("nested", [False, True])
def test_columns_of_a_design_give_their_rows(law, nested):
    draw = functools.partial(sample_design, law=law, num_submodels=M, coding="weighted")
    design = draw(jax.random.key(1), num_sources=N)
    if nested:
        design = nest(design, draw(jax.random.key(2), num_sources=5), np.arange(N) % 5)
    columns, index = mask_columns(design, code(design)), jnp.array([0, 7, 8, 5, M - 1, 5])
    whole = columns.gather(jnp.arange(N))
    for some in (columns, DenseColumns(whole), shard_columns(columns, jax.devices())):
        np.testing.assert_array_equal(some.rows(index), whole[:, index])


@pytest.mark.slow
def test_the_path_is_that_of_the_rows(dense, monkeypatch):
    x, targets, weight, z, _ = dense
    fold = np.asarray(assign_folds(jax.random.key(0), M, F))
    few = cross_validate(pose(x, targets, weight, z, fold))
    monkeypatch.setattr(condense, "_FEWEST_ENTRIES", M * N + 1)
    many = cross_validate(pose(x, targets, weight, z, fold))
    assert few.converged.all()
    np.testing.assert_allclose(few.penalty[0], many.penalty[0], rtol=1e-5)
    shown = np.isfinite(few.error_mean) & np.isfinite(many.error_mean)
    assert shown.sum() > 100
    scale = targets.var(axis=0)
    np.testing.assert_allclose((few.error_mean / scale)[shown], (many.error_mean / scale)[shown], atol=2e-5)
    np.testing.assert_allclose((few.error_se / scale)[shown], (many.error_se / scale)[shown], atol=2e-5)
    for q, y in enumerate(targets.T):  # recomputed from the rows
        for coef, at in ((few.coef_min, few.at_min), (few.coef_1se, few.at_1se)):
            certificate = certify(x, y, coef[q], few.penalty[at[q], q], weight, z)
            assert certificate.relative_gap < 1e-5


def test_what_cannot_be_condensed_is_left_as_it_is(dense, monkeypatch):
    x, targets, weight, z, fold = dense
    rows_differ = targets.copy()
    rows_differ[5, 1] = np.nan
    twice, gone = np.concatenate([x, x[:, :1]], axis=1), x.copy()
    gone[:, 2] = 0.0
    some = slice(0, 3 * F * (N + 3) - 1)
    for problem in (
        pose(x, rows_differ, weight, z, fold),
        pose(twice, targets, weight, z, fold),
        pose(gone, targets, weight, z, fold),
        pose(x[some], targets[some], weight[some], z[some], fold[some]),
    ):
        assert condense.condense(problem) is problem
    assert condense.condense(pose(x, targets, weight, z, fold)).y.shape[1] == F * (N + 3)
    monkeypatch.setattr(condense, "_FEWEST_ENTRIES", M * N + 1)
    problem = pose(x, targets, weight, z, fold)
    assert condense.condense(problem) is problem


def test_only_the_rows_are_exchanged(dense):
    problem = pose(*dense)
    few = condense.condense(problem)
    for name in ("penalty", "z_inverse", "unit"):
        assert getattr(few, name) is getattr(problem, name)
    assert {field.name for field in dataclasses.fields(problem)} == {
        *("penalty", "z_inverse", "unit"),
        *("columns", "y", "weight", "z", "fold"),
    }
    np.testing.assert_allclose(few.training_weight().sum(axis=2), 1.0, rtol=1e-6)
    np.testing.assert_allclose(few.held_out_weight().sum(axis=2), 1.0, rtol=1e-6)
