"""What the screening proves holds, and what it leaves open is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxame.design import Grid, redraw_masks, sample_design
from jaxame.features import code, mask_columns
from jaxame.lasso import assign_folds, make_problem, screen, workset

M, N, Q, F = 96, 700, 2, 3


@pytest.fixture(scope="module")
def setting():
    """Problems with known gradients at two residuals, and a third residual near their line."""
    design = sample_design(jax.random.key(0), Grid((0.3, 0.6)), num_submodels=M, num_sources=N)
    coding = code(design)
    columns = mask_columns(design, coding, redraw_masks(design, jax.random.key(1), 1))
    rng = np.random.default_rng(0)
    fold = np.asarray(assign_folds(jax.random.key(2), M, F))
    problem = make_problem(columns, rng.normal(size=(M, Q)), coding.weight, coding.z, fold)
    rows = [jnp.asarray(rng.normal(size=(Q, F + 1, M)), jnp.float32) for _ in range(3)]
    references = screen.start(problem)
    for residual in (rows[0], rows[0] + 0.1 * rows[1]):
        references = screen.refer(problem, references, residual, jnp.arange(Q))
    near = rows[0] + 0.15 * rows[1] + 1e-3 * rows[2]
    return problem, references, near


def exact_scores(problem, residual, bound):
    x = np.asarray(problem.columns.gather(jnp.arange(2 * N)), np.float64)
    weighted = np.asarray(problem.training_weight() * residual, np.float64)
    return (np.abs(weighted @ x.T) / np.asarray(bound)[..., None]).max(axis=1)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_scores_beyond_the_bound_are_exact_and_none_is_missed(setting, quantile):
    problem, references, residual = setting
    pulls = exact_scores(problem, residual, np.ones((Q, F + 1)))
    bound = np.quantile(pulls, quantile) * np.ones((Q, F + 1))
    scores, settled = screen.screen(
        problem, references, workset.empty(problem, 1), residual, jnp.asarray(bound, jnp.float32), 2 * N
    )
    exact = exact_scores(problem, residual, bound)
    assert settled.all()
    beyond = exact > 1
    assert beyond.any()
    np.testing.assert_allclose(np.asarray(scores)[beyond], exact[beyond], rtol=1e-4)
    assert (np.asarray(scores)[~beyond] <= 1 + 1e-6).all()


def test_the_bound_settles_most_columns_near_the_references_and_few_far_away(setting):
    problem, references, residual = setting
    pulls = exact_scores(problem, residual, np.ones((Q, F + 1)))
    bound = jnp.full((Q, F + 1), np.quantile(pulls, 0.9), jnp.float32)
    far = jnp.asarray(np.random.default_rng(1).normal(size=residual.shape), jnp.float32)
    few = N // 2
    near_settled, far_settled = (
        screen.screen(problem, references, workset.empty(problem, 1), rows, bound, few)[1] for rows in (residual, far)
    )
    assert near_settled.all()
    assert not far_settled.any()


def test_queries_that_are_not_asked_about_score_nothing(setting):
    problem, references, residual = setting
    bound = jnp.full((Q, F + 1), 0.05, jnp.float32).at[1].set(jnp.inf)
    scores, settled = screen.screen(problem, references, workset.empty(problem, 1), residual, bound, 2 * N)
    assert np.asarray(scores)[0].any()
    assert not np.asarray(scores)[1].any()
    assert settled.all()


def test_columns_of_the_working_set_score_nothing(setting):
    problem, references, residual = setting
    bound = jnp.full((Q, F + 1), 0.05, jnp.float32)
    added = jnp.tile(jnp.arange(workset.BLOCK, dtype=jnp.int32), (Q, 1))
    working = workset.append(problem, workset.empty(problem, 1), added, jnp.ones(Q, bool))
    for scores in (
        screen.screen(problem, references, working, residual, bound, 2 * N)[0],
        screen.score(problem, references, working, bound),
    ):
        assert not np.asarray(scores)[:, : workset.BLOCK].any()
        assert np.asarray(scores)[:, workset.BLOCK :].any()
