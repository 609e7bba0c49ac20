"""Values: least squares on the LASSO's support, one step from there, empirical Bayes."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import FOLDS, GRID, M, N, Stacked

import jaxame
from jaxame.design import Beta, TruncatedUniform, sample_design
from jaxame.features import code
from jaxame.games import Additive, Saturating, Threshold, UnanimitySum
from jaxame.lasso import refit
from jaxame.values import estimate_values

WEIGHTS = np.where(np.arange(N) < 6, np.arange(1.0, N + 1), 0.0)
GAMES = (Additive(WEIGHTS), Threshold(N, [2, 5, 11], 2), Saturating(N, range(8, 16), 1.5, 3.0))
GAME, Q = Stacked(GAMES), len(GAMES)
SUPPORT = np.ones((Q, N)) * (np.arange(N) % 3 != 1)


def by_hand(design, utilities, coef, interactions=False):
    """Return posterior means from dense matrices and normal equations."""
    del interactions
    coding, masks, found = code(design), np.asarray(design.masks()), []
    x = np.where(masks, coding.high[:, None], coding.low[:, None])
    w, z = coding.weight, coding.z
    for y, own in zip(utilities.T, coef, strict=True):
        support = np.flatnonzero(own)
        both = np.column_stack([x[:, support], z])
        fit = np.linalg.solve(both.T @ (w[:, None] * both), both.T @ (w * y))
        pull = w * (y - both @ fit)
        total = (w @ coding.second_moment) * (1 - (support.size + z.shape[1]) / len(y))
        start = np.zeros(N)
        start[support] = fit[: support.size]
        found.append((start + x.T @ pull / total, np.sqrt((x**2).T @ pull**2) / total))
    return coding.scale, found


@pytest.mark.parametrize("coding", ["ame", "weighted", "centered"])
def test_the_step_is_what_the_formula_says(monkeypatch, coding):
    design = sample_design(jax.random.key(0), GRID, num_submodels=200, num_sources=N, coding=coding)
    exact = np.asarray(GAME(None, design.masks()), np.float64)
    noisy = exact + np.random.default_rng(0).normal(size=exact.shape)
    seen = []
    monkeypatch.setattr("jaxame.values.shrink", lambda *own: seen.append(own) or own)
    found = estimate_values(design, code(design), noisy, SUPPORT, interactions=False, shrunken=True)
    scale, expected = by_hand(design, noisy, SUPPORT)
    for own, other in zip(seen, expected, strict=True):
        np.testing.assert_allclose(own[0], other[0], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(own[1], other[1], rtol=1e-8)
    np.testing.assert_allclose(found.mean, scale * np.stack([own[0] for own in expected]), rtol=1e-8, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "interactions"), [(GRID, False), (TruncatedUniform(0.05), False), (Beta(4, 6), False), (GRID, True)]
)
def test_errors_are_as_large_as_the_posterior_says(law, interactions):
    """Against closed forms, over designs and sources, also for those outside of the support: a mean square each."""
    truth, made, promised, relaxed = GAME.ame(law), np.zeros(Q), np.zeros(Q), np.zeros(Q)
    for repeat in range(8):
        design = sample_design(jax.random.key(repeat), law, num_submodels=M, num_sources=N)
        exact = np.asarray(GAME(None, design.masks()), np.float64)
        noisy = exact + np.random.default_rng(repeat).normal(size=exact.shape) * exact.std(axis=0) / 2
        found = estimate_values(design, code(design), noisy, SUPPORT, interactions=interactions, shrunken=True)
        made += ((found.mean - truth) ** 2).sum(axis=1)
        promised += (found.sd**2).sum(axis=1)
        fit = estimate_values(design, code(design), noisy, SUPPORT, interactions=interactions, shrunken=False)
        relaxed += ((fit.mean - truth) ** 2).sum(axis=1)
        assert (made < 8 * 0.05 * (truth**2).sum(axis=1)).all()
    assert ((made / promised > 0.5) & (made / promised < 1.8)).all(), made / promised
    assert (made < 0.7 * relaxed).all()  # which misses what is outside of the support, and keeps noise inside


def test_products_take_variance_out_of_the_values():
    design = sample_design(jax.random.key(1), GRID, num_submodels=M, num_sources=N)
    game = UnanimitySum(N, [(2, 5), (5, 11), (7, 8, 9)], [2.0, -1.5, 3.0])
    utility = np.asarray(game(None, design.masks()), np.float64)
    support, truth = (game.ame(GRID) != 0)[None].astype(float), game.ame(GRID)
    plain, with_products = (
        estimate_values(design, code(design), utility, support, interactions=own, shrunken=True)
        for own in (False, True)
    )
    np.testing.assert_allclose(with_products.mean[0], truth, atol=1e-6)
    assert np.abs(plain.mean[0] - truth).max() > 1e-2


@pytest.mark.slow
def test_shrinking_is_the_default_and_can_be_left_out():
    design = sample_design(jax.random.key(2), GRID, num_submodels=M, num_sources=N)
    exact = np.asarray(GAME(None, design.masks()), np.float64)
    noisy = exact + np.random.default_rng(5).normal(size=exact.shape) * exact.std(axis=0)
    noisy[3, 1] = np.nan
    plain, shrunken = (
        jaxame.estimate_ame(design, noisy, copies=0, folds=FOLDS, **own) for own in ({"shrunken": False}, {})
    )
    assert (plain.about["shrunken"], shrunken.about["shrunken"]) == (False, True)
    assert plain.values_sd is None
    assert shrunken.values_sd.shape == (Q, N)
    coding = code(design)
    x = np.where(np.asarray(design.masks()), coding.high[:, None], coding.low[:, None])
    for q in range(Q):
        support = plain.lasso_1se[q] != 0
        assert (plain.values[q, ~support] == 0).all()
        np.testing.assert_allclose(
            plain.values[q, support], refit(x[:, support], noisy[:, q], coding.weight, coding.z), rtol=1e-8
        )
    one = estimate_values(design, coding, noisy, shrunken.lasso_1se, interactions=False, shrunken=True)
    np.testing.assert_array_equal(one.mean, shrunken.values)


def test_rows_left_out_of_a_query_do_not_count():
    design = sample_design(jax.random.key(3), GRID, num_submodels=M, num_sources=N)
    exact = np.asarray(GAME(None, design.masks()), np.float64)
    kept = np.arange(M) >= 40
    some = np.where(kept[:, None], exact, np.nan)
    rest = dataclasses.replace(design, p=design.p[40:], packed=design.packed[40:])
    for interactions in (False, True):
        options = {"interactions": interactions, "shrunken": True}
        found = estimate_values(design, code(design), some, SUPPORT, **options)
        alone = estimate_values(rest, code(rest), exact[40:], SUPPORT, **options)
        np.testing.assert_allclose(found.mean, alone.mean, rtol=1e-6, atol=1e-9)
