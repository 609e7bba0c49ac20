"""Columns on eight devices give the answer of columns on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxame.design import Grid, redraw_masks, sample_design
from jaxame.features import code, mask_columns
from jaxame.lasso import DenseColumns, assign_folds, cross_validate, make_problem, shard_columns

M, N = 64, 601  # 1,202 columns, which eight devices cannot share evenly


@pytest.fixture(scope="module")
def design():
    return sample_design(jax.random.key(0), Grid((0.3, 0.6)), num_submodels=M, num_sources=N)


@pytest.fixture(scope="module")
def columns(design):
    return mask_columns(design, code(design), redraw_masks(design, jax.random.key(1), 1))


def test_products_and_columns_are_those_of_one_device(columns):
    sharded = shard_columns(columns, jax.devices())
    assert sharded.num_columns == columns.num_columns == 2 * N
    index = jnp.array([0, 1, N, 2 * N - 1, 2 * N, 2 * N + 7])
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(3, M)), jnp.float32)

    @jax.jit
    def everything(some):
        return some.gather(index), some.product(rows), some.squares(rows[0] ** 2)

    for got, wanted in zip(everything(sharded), everything(columns), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_a_dense_matrix_is_spread_too(columns):
    dense = DenseColumns(columns.gather(jnp.arange(7)))
    sharded = shard_columns(dense, jax.devices()[:2])
    np.testing.assert_array_equal(sharded.gather(jnp.arange(8))[:7], dense.x)


def test_each_device_holds_its_own_columns_only(columns):
    shards = shard_columns(columns, jax.devices()).local.packed.addressable_shards
    assert len(shards) == len(jax.devices()) > 1
    assert {shard.data.shape[0] for shard in shards} == {-(-2 * N // len(shards))}


@pytest.mark.slow
def test_the_cross_validated_path_is_that_of_one_device(design, columns):
    coding = code(design)
    rng = np.random.default_rng(0)
    targets = np.asarray(columns.gather(jnp.arange(3)), np.float64).T @ np.diag([1.0, -1.0, 0.5])
    targets = targets[:, :2] + 0.3 * rng.normal(size=(M, 2))
    fold = np.asarray(assign_folds(jax.random.key(2), M, 3))
    one, eight = (
        cross_validate(make_problem(c, targets, coding.weight, coding.z, fold), num_penalties=12, min_ratio=0.2)
        for c in (columns, shard_columns(columns, jax.devices()))
    )
    np.testing.assert_array_equal(one.at_min, eight.at_min)
    np.testing.assert_allclose(one.coef_min, eight.coef_min, atol=1e-4)
    np.testing.assert_allclose(one.error_mean, eight.error_mean, rtol=1e-4)
    assert (one.coef_min != 0).any()
