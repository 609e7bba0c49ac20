"""The randomisation test: uniform without an effect whatever the noise, powerful with one, and its formula."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import FOLDS, GRID, M, N, Q
from scipy import stats

import jaxame
from jaxame.design import redraw_masks, sample_design
from jaxame.games import Majority
from jaxame.lasso import solve_near
from jaxame.randomisation import randomisation_p_values

REDRAWS = 999


@pytest.fixture(scope="module", params=[False, True], ids=["independent", "paired"])
def drawn(request):
    """P-values `[8 Q, 2, N]` over 8 designs of odd games with noise of infinite variance, and their members."""
    rng, found, inside = np.random.default_rng(0), [], []
    for seed in range(8):
        design = sample_design(jax.random.key(seed), GRID, num_submodels=M, num_sources=N, paired=request.param)
        members = [rng.choice(N, 5, replace=False).tolist() for _ in range(Q)]
        exact = [np.asarray(Majority(N, own)(None, design.masks()), float) for own in members]
        targets = np.concatenate(exact, axis=1) + 0.05 * rng.standard_t(2, size=(M, Q))
        targets[rng.random((M, Q)) < 0.02] = np.nan
        found.append(randomisation_p_values(design, targets, jax.random.key(100 + seed), REDRAWS))
        inside.append([np.isin(np.arange(N), own) for own in members])
    return np.concatenate(found), np.concatenate(inside)


@pytest.mark.slow
def test_p_values_are_uniform_without_an_effect_and_small_with_one(drawn):
    """Shares of small p-values among the null sources, by design, within 4 standard errors of what they should be."""
    p, inside = drawn
    for side in (0, 1):
        for level in (0.02, 0.1, 0.5):
            null = np.where(inside, np.nan, p[:, side])
            share = np.nanmean(null.reshape(8, -1) <= level, axis=1) / (~inside).mean()
            assert abs(share.mean() - level) < 4 * share.std(ddof=1) / np.sqrt(8) + 1 / REDRAWS
    assert (p[:, 0][inside] <= 0.01).mean() > 0.8
    assert (p[:, 1][inside] > 0.5).mean() > 0.9


@pytest.mark.parametrize("first", [True, False])
def test_a_fit_that_does_not_converge_is_that_of_its_query(monkeypatch, first):
    """Whether it is the fit on all sources, or one of those without a source in its support."""
    design = sample_design(jax.random.key(9), GRID, num_submodels=M, num_sources=N)
    noise = np.random.default_rng(2).normal(size=(M, Q))
    targets = np.asarray(design.masks(), float)[:, :1] * (np.arange(Q) == 1) + 0.1 * noise

    def unmet(problem, penalties, near):
        fits, met = solve_near(problem, penalties, near)
        every = penalties.shape[1] == Q
        met[:, 1 if every else 0] = first != every
        return fits, met

    monkeypatch.setattr("jaxame.randomisation.solve_near", unmet)
    options = {"redraws": 19, "copies": 0, "folds": FOLDS}
    result = jaxame.estimate_ame(design, targets, **options)
    bad = np.isnan(result.randomisation_p).all(axis=(1, 2))
    assert bad[1]
    assert (result.status[bad] == jaxame.Status.NOT_CONVERGED).all()
    assert (result.status[~bad] == jaxame.Status.OK).all()
    assert np.isfinite(result.randomisation_p[~bad]).all()
    assert np.isfinite(result.values).all()


def test_p_values_are_the_formula():
    """One query by hand: scikit-learn's fit without the source, least squares on its support, every redraw."""
    rng = np.random.default_rng(1)
    design = sample_design(jax.random.key(9), GRID, num_submodels=M, num_sources=N)
    p, masks = np.asarray(design.p, float), np.asarray(design.masks(), float)
    y = masks[:, :3] @ [1.0, -0.7, 0.15] + rng.normal(size=M)
    targets = np.repeat(y[:, None], Q, axis=1)
    key = jax.random.key(3)
    found = randomisation_p_values(design, targets, key, 99)[0]
    null = dataclasses.replace(design, num_sources=99)
    redrawn = np.unpackbits(
        np.asarray(redraw_masks(null, jax.random.fold_in(key, 2**32 - 9), 1)[0]), axis=1, count=99, bitorder="little"
    )
    x, w = masks - p[:, None], 1 / (p * (1 - p))
    levels = (p[:, None] == np.unique(p)).astype(float)

    def rest(of, root):
        return of - root[:, None] * levels @ np.linalg.lstsq(root[:, None] * levels, of, rcond=None)[0]

    root = np.sqrt(w / w.sum())
    target = rest((root * y)[:, None], root)[:, 0]
    unit = np.linalg.norm(target)
    penalty = np.sqrt(2 * np.log(N) * ((w / w.sum()) ** 2 @ (p * (1 - p)))) * unit
    centred = rest(root[:, None] * x, root)
    for source in (0, 1, 2, 5):
        others = np.delete(np.arange(N), source)
        coef = _lasso(centred[:, others], target, penalty)
        support = others[np.abs(coef) > 1e-9]
        left = target - centred[:, support] @ np.linalg.lstsq(centred[:, support], target, rcond=None)[0]
        own = (root * left) @ x[:, source]
        chance = (root * left) @ (redrawn - p[:, None])
        greater, less = (1 + (chance >= own).sum()) / 100, (1 + (chance <= own).sum()) / 100
        np.testing.assert_allclose(found[:, source], [greater, less], atol=1e-12)


def _lasso(x, y, penalty):
    """Minimise `|y - x b|^2 / 2 + penalty |b|_1` by plain coordinate descent."""
    coef, residual, squares = np.zeros(x.shape[1]), y.copy(), (x**2).sum(axis=0)
    for _ in range(2000):
        for j in range(x.shape[1]):
            residual += x[:, j] * coef[j]
            pull = x[:, j] @ residual
            coef[j] = np.sign(pull) * max(abs(pull) - penalty, 0) / squares[j]
            residual -= x[:, j] * coef[j]
    return coef


def test_the_result_has_both_kinds_and_selects_by_either():
    rng = np.random.default_rng(2)
    design = sample_design(jax.random.key(11), GRID, num_submodels=M, num_sources=N)
    effect = np.where(np.arange(N) < 4, 0.8, 0.0)
    utilities = np.asarray(design.masks()) @ effect[:, None] + rng.normal(size=(M, Q)) * (np.arange(Q) < 5)
    utilities[:, 5] = 1.0
    result = jaxame.estimate_ame(design, utilities, folds=FOLDS, redraws=REDRAWS, copies=0)
    exact, rough = result.p_values(exact=True), result.p_values()
    assert exact[0, :4].max() <= 4 / (1 + REDRAWS)
    np.testing.assert_array_equal(exact[5], 1.0)  # nothing moves a constant
    assert stats.spearmanr(exact[0], rough[0]).statistic > 0.8
    for method in ("bh", "bh-approximate"):
        found = result.select(0.1, method=method)
        assert set(found.indices) >= {0, 1, 2, 3}
        assert found.estimated_fdp <= 0.1
        assert set(result.select(0.1, "all", method=method).indices) >= {0, 1, 2, 3}
    with pytest.raises(ValueError, match="randomisation test"):
        dataclasses.replace(result, randomisation_p=None).select(method="bh")
