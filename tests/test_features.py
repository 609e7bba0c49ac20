import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxame.design import Beta, Grid, PointMass, TruncatedUniform, redraw_masks, sample_design
from jaxame.features import code, exact_columns, exact_operator, mask_columns

LAWS = [Grid((0.2, 0.4, 0.6, 0.8)), TruncatedUniform(0.05), Beta(4.0, 6.0), PointMass(0.5)]
M, N = 64, 1100  # more sources than one block holds


def dense(design, coding, copies=None):
    masks = [np.asarray(design.masks())]
    if copies is not None:
        masks += [np.unpackbits(np.asarray(c), axis=1, count=N, bitorder="little").astype(bool) for c in copies]
    return np.concatenate([np.where(m, coding.high[:, None], coding.low[:, None]) for m in masks], axis=1)


@pytest.mark.parametrize("law", LAWS, ids=repr)
@pytest.mark.parametrize("name", ["ame", "centered", "weighted"])
def test_code_has_the_moments_its_scale_rests_on(law, name):
    """Given p the code has mean 0, and scale x E[w x^2] is 1 for the centred forms, v^2 for the raw one."""
    design = sample_design(jax.random.key(0), law, num_submodels=M, num_sources=N, coding=name)
    coding, p = code(design), np.asarray(design.p, np.float64)
    np.testing.assert_allclose(p * coding.high + (1 - p) * coding.low, 0.0, atol=1e-12)
    second = coding.weight * (p * coding.high**2 + (1 - p) * coding.low**2)
    expected = {"ame": 1 / (p * (1 - p)), "centered": p * (1 - p), "weighted": np.ones(M)}[name]
    np.testing.assert_allclose(second, expected, rtol=1e-12)
    assert coding.scale == (law.variance_scale if name == "ame" else 1.0)


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_unpenalised_columns(law):
    design = sample_design(jax.random.key(0), law, num_submodels=M, num_sources=8)
    z, p = code(design).z, np.asarray(design.p)
    wanted = [p == level for level in np.unique(p)] if law.levels else [p**degree for degree in range(5)]
    wanted = np.stack(wanted, axis=1).astype(float)
    assert z.shape == wanted.shape
    np.testing.assert_allclose(z @ np.linalg.lstsq(z, wanted)[0], wanted, atol=1e-6)


def test_implicit_columns_equal_the_dense_matrix():
    design = sample_design(jax.random.key(1), LAWS[0], num_submodels=M, num_sources=N)
    copies = redraw_masks(design, jax.random.key(2), 2)
    coding = code(design)
    columns, x = mask_columns(design, coding, copies), dense(design, coding, copies)
    assert columns.num_columns == 3 * N
    index = jnp.array([0, 7, N - 1, N, 2 * N + 5, 3 * N - 1, 3 * N])
    np.testing.assert_allclose(columns.gather(index)[:-1], x[:, index[:-1]].T, rtol=1e-6)
    np.testing.assert_array_equal(columns.gather(index)[-1], 0.0)
    rows = np.random.default_rng(0).normal(size=(M, 3))
    product = columns.product(jnp.asarray(rows.T, jnp.float32)).T
    np.testing.assert_allclose(product, x.T @ rows, atol=2e-5 * np.abs(x.T @ rows).max())


def test_exact_operator_equals_the_dense_matrix():
    design = sample_design(jax.random.key(1), LAWS[0], num_submodels=M, num_sources=N)
    coding = code(design)
    x, operator = dense(design, coding), exact_operator(design, coding)
    rng = np.random.default_rng(0)
    coef, rows = rng.normal(size=N) * (rng.random(N) < 0.02), rng.normal(size=(M, 3))
    np.testing.assert_allclose(operator @ coef, x @ coef, atol=1e-12)
    np.testing.assert_allclose(operator.T @ rows, x.T @ rows, atol=1e-12)
    np.testing.assert_allclose(operator.T @ rows[:, 0], x.T @ rows[:, 0], atol=1e-12)
    np.testing.assert_array_equal(exact_columns(design, coding, np.array([3, 9])), x[:, [3, 9]])
