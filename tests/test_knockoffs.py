"""Selection against its formula, and what the formula promises: fair copies, false discoveries at the level asked."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from helpers import COPIES, FOLDS, GRID, M, N, Q
from scipy import stats

import jaxame
from jaxame import games, knockoffs
from jaxame.design import sample_design

DESIGNS, SIGNAL_QUERIES, CULPRITS = 12, 4, 5
FDR = 0.2


def select_by_hand(columns, fdr, method):
    """The smallest threshold of the formula in `knockoffs.select`, tried one by one with plain loops."""
    copies = len(columns) - 1
    thresholds = sorted({max(of_source) for of_source in zip(*columns, strict=True)} - {0.0})
    for t in thresholds:
        chosen, losses = [], 0
        for source in range(len(columns[0])):
            own, best_copy = columns[0][source], max(row[source] for row in columns[1:])
            if own > best_copy and own >= t:
                chosen.append(source)
            elif own <= best_copy and best_copy >= t:
                losses += 1
        estimate = ((method == "knockoff+") + losses) / (copies * max(1, len(chosen)))
        if estimate <= fdr and chosen:
            return t, estimate, sorted(chosen, key=lambda source: -columns[0][source])
    return math.inf, 0.0, []


def random_columns(rng, copies):
    """Importances with strong and null sources, ties between and within sources, and zeros."""
    columns = rng.exponential(size=(1 + copies, 20))
    columns[0, :6] += rng.choice([0, 1, 4])
    columns = np.round(columns, rng.choice([0, 1, 6]))
    columns[rng.random(columns.shape) < rng.choice([0, 0.3])] = 0
    columns[:, rng.random(20) < 0.1] = 0
    return columns


@pytest.mark.parametrize("method", knockoffs.METHODS)
@pytest.mark.parametrize("copies", [1, 2, 4])
def test_select_is_its_formula(copies, method):
    rng = np.random.default_rng(copies)
    sizes = []
    for _ in range(200):
        columns = random_columns(rng, copies)
        fdr = rng.choice([0.05, 0.1, 0.2, 0.35, 0.5])
        found = knockoffs.select(columns, fdr, method)
        threshold, estimate, chosen = select_by_hand(columns.tolist(), fdr, method)
        assert (found.threshold, found.indices.tolist()) == (threshold, chosen)
        assert found.estimated_fdp == pytest.approx(estimate)
        assert found.fdr == fdr
        assert (found.reason == "") == bool(chosen)
        sizes.append(len(chosen))
    assert min(sizes) == 0
    assert max(sizes) >= 6


def test_statistic_is_the_winner_with_its_sign():
    columns = np.array([[3.0, 1.0, 2.0, 0.0, 0.5], [1.0, 2.0, 2.0, 0.0, 0.0], [0.0, 0.5, 1.0, 0.0, 0.2]])
    np.testing.assert_array_equal(knockoffs.compete(columns), [3.0, -2.0, -2.0, 0.0, 0.5])


def clear_winners(num_winners, copies):
    """Columns in which some sources win by themselves and no copy ever does."""
    columns = np.zeros((1 + copies, 30))
    columns[0, :num_winners] = np.linspace(1, 2, num_winners)
    return columns


@pytest.mark.parametrize("copies", [1, 2, 4, 10])
@pytest.mark.parametrize("fdr", [0.05, 0.1, 0.2])
def test_the_smallest_selection_is_one_over_copies_times_level(copies, fdr):
    floor = math.ceil(1 / (copies * fdr) - 1e-9)
    found = knockoffs.select(clear_winners(floor, copies), fdr)
    assert found.indices.tolist() == list(range(floor))[::-1]
    below = knockoffs.select(clear_winners(floor - 1, copies), fdr)
    assert below.indices.size == 0
    assert below.threshold == math.inf
    if floor > 1:
        assert below.reason.endswith(f"with {copies} copies no fewer than {floor} can be selected at this level")
        assert f"{floor - 1} sources would be at fdr={1 / (copies * (floor - 1)):.3g}" in below.reason
        assert knockoffs.select(clear_winners(1, copies), fdr, "knockoff").indices.tolist() == [0]


def test_the_reason_when_no_source_wins():
    for columns in (np.zeros((3, 5)), np.array([[1.0, 0.0], [2.0, 1.0]]), np.ones((2, 4))):
        assert "no source was more important than its copies" in knockoffs.select(columns, 0.2).reason


def test_plain_knockoff_does_not_speak_of_a_smallest_selection():
    columns = np.concatenate([np.ones((1, 10)), np.full((1, 10), 2.0)])
    columns[0, 0] = 3.0
    columns[1, 1] = 4.0
    assert (
        knockoffs.select(columns, 0.2, "knockoff").reason == "nothing selected at fdr=0.2: 1 sources would be at fdr=1"
    )


def test_importance_follows_the_alternative():
    signed = np.array([3.0, -2.0, 0.0, -1.0])
    np.testing.assert_array_equal(knockoffs.importance(signed, "two-sided"), [3.0, 2.0, 0.0, 1.0])
    np.testing.assert_array_equal(knockoffs.importance(signed, "greater"), [3.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(knockoffs.importance(signed, "less"), [0.0, 2.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def runs():
    """Return results of `DESIGNS` designs and the effects `[DESIGNS, Q, N]`; the last queries are pure noise.

    The utility has `CULPRITS` effects of either sign, a trend in `p` and noise.
    """
    rng = np.random.default_rng(6)
    effects = np.zeros((DESIGNS, Q, N))
    results = []
    for number in range(DESIGNS):
        design = sample_design(jax.random.key(100 + number), GRID, num_submodels=M, num_sources=N)
        for query in range(SIGNAL_QUERIES):
            culprits = rng.choice(N, CULPRITS, replace=False)
            effects[number, query, culprits] = rng.uniform(0.35, 0.7, CULPRITS) * rng.choice([-1, 1], CULPRITS)
        trend = 2 * np.asarray(design.p)[:, None] ** 2
        utilities = np.asarray(design.masks()) @ effects[number].T + trend + rng.normal(size=(M, Q))
        results.append(jaxame.estimate_ame(design, utilities, folds=FOLDS, copies=COPIES))
    return results, effects


def unfairness(runs, use):
    """P-value of "each of the 1 + c is equally likely to be the most important", over the sources that `use` picks.

    Queries share a design, so one source of one design is one observation: the counts of its wins over the queries.
    """
    observations = []
    for result, effect in zip(*runs, strict=True):
        entry = np.abs(result.importance[:, 0])
        winner = entry.argmax(axis=1)
        counted = use(effect) & (entry.max(axis=1) > 0)
        wins = (winner[:, None] == np.arange(COPIES)[:, None]) & counted[:, None]
        observations.append((wins - counted[:, None] / (1 + COPIES)).sum(axis=0).T)
    excess = np.concatenate(observations)
    total = excess.sum(axis=0)
    return stats.chi2.sf(total @ np.linalg.pinv(excess.T @ excess, hermitian=True) @ total, COPIES)


@pytest.mark.slow
def test_a_source_without_effect_wins_no_more_often_than_its_copies(runs):
    assert unfairness(runs, lambda effect: (effect == 0) & (np.arange(Q) >= SIGNAL_QUERIES)[:, None]) > 1e-3
    assert unfairness(runs, lambda effect: (effect == 0) & (np.arange(Q) < SIGNAL_QUERIES)[:, None]) > 1e-3
    assert unfairness(runs, lambda effect: effect != 0) < 1e-9


def rates(runs, alternative, select):
    """False discovery proportion and power of every design, averaged over its queries: `[DESIGNS]` each."""
    false, power = [], []
    for result, effects in zip(*runs, strict=True):
        columns = knockoffs.importance(result.importance[:, 0], alternative)
        for query in range(SIGNAL_QUERIES):
            wanted = {"two-sided": effects != 0, "greater": effects > 0, "less": effects < 0}[alternative][query]
            chosen = select(result, columns, query)
            false.append((~wanted[chosen]).sum() / max(1, len(chosen)))
            power.append(wanted[chosen].sum() / max(1, wanted.sum()))
    return (np.reshape(rate, (DESIGNS, -1)).mean(axis=1) for rate in (false, power))


def bound(rate_of_design):
    """`FDR` and three standard errors over the designs."""
    return FDR + 3 * rate_of_design.std(ddof=1) / math.sqrt(DESIGNS)


@pytest.mark.parametrize("alternative", knockoffs.ALTERNATIVES)
def test_false_discoveries_stay_at_the_level_and_culprits_are_found(runs, alternative):
    false, power = rates(
        runs, alternative, lambda result, columns, query: result.select(FDR, query, alternative=alternative).indices
    )
    assert false.mean() <= bound(false)
    assert power.mean() > (0.9 if alternative == "two-sided" else 0.6)


def test_a_selector_that_ignores_the_copies_wins_would_be_noticed(runs):
    def every_winner(result, columns, query):
        return np.flatnonzero(knockoffs.compete(columns[query]) > 0)

    false, _ = rates(runs, "two-sided", every_winner)
    assert false.mean() > bound(false)


def test_a_statistic_without_information_would_be_noticed(runs):
    rng = np.random.default_rng(7)
    _, power = rates(runs, "two-sided", lambda result, columns, query: rng.choice(N, CULPRITS, replace=False))
    assert power.mean() < 0.6


def test_noise_alone_is_rarely_selected(runs):
    """Without effects every discovery is false, so at most a share `FDR` of selections may be non-empty."""
    alarms = np.array(
        [[result.select(FDR, q).indices.size > 0 for q in range(SIGNAL_QUERIES, Q)] for result in runs[0]]
    ).mean(axis=1)
    assert alarms.mean() <= bound(alarms)


def null_wins(paired_copies):
    """Share of the sources without effect that win against one copy, over paired designs and odd games, `[DESIGNS]`."""
    shares = []
    rng = np.random.default_rng(8)
    for number in range(DESIGNS):
        design = sample_design(jax.random.key(300 + number), GRID, num_submodels=M, num_sources=N, paired=True)
        members = [rng.choice(N, 5, replace=False).tolist() for _ in range(Q)]
        exact = [np.asarray(games.Majority(N, own)(None, design.masks()), np.float64) for own in members]
        drawn_as = design if paired_copies else dataclasses.replace(design, paired=False)
        result = jaxame.estimate_ame(drawn_as, np.concatenate(exact, axis=1), folds=FOLDS, copies=COPIES)
        columns = np.abs(result.importance[:, 0])
        null = ~np.array([np.isin(np.arange(N), own) for own in members])
        decided = null & (columns.max(axis=1) > 0)
        shares.append((columns.argmax(axis=1) == 0)[decided].mean())
    return np.array(shares)


def test_copies_of_pairs_are_pairs():
    """Redrawn row by row, sources of an odd game without effect would win far more often than their fair share."""
    fair = 1 / (1 + COPIES)
    shares, wrong = null_wins(True), null_wins(False)
    assert abs(shares.mean() - fair) < 4 * shares.std(ddof=1) / math.sqrt(DESIGNS)
    assert wrong.mean() - fair > 8 * wrong.std(ddof=1) / math.sqrt(DESIGNS)


def e_values_by_hand(columns, level):
    """E-values of one draw from the threshold tried one by one."""
    threshold, _, chosen = select_by_hand(columns.tolist(), level, "knockoff+")
    losses = sum(max(own) >= threshold and own[0] <= max(own[1:]) for own in columns.T.tolist())
    copies, size = columns.shape[0] - 1, columns.shape[1]
    return np.where(np.isin(np.arange(size), chosen), copies * size / (1 + losses), 0.0)


@pytest.mark.parametrize("draws", [1, 2, 5])
def test_e_values_are_their_formula(draws):
    rng = np.random.default_rng(draws)
    sizes = []
    for _ in range(100):
        columns = np.stack([random_columns(rng, 4) for _ in range(draws)])
        columns[:, 0, :6] += rng.choice([0, 3])
        fdr = rng.choice([0.1, 0.2, 0.5])
        found = knockoffs.select_by_e_values(columns, fdr)
        mean = np.mean([e_values_by_hand(draw, fdr / 2) for draw in columns], axis=0)
        np.testing.assert_allclose(found.statistic, mean)
        enough = [size for size in range(1, 21) if np.sort(mean)[-size] >= 20 / (fdr * size)]
        chosen = np.flatnonzero(mean >= np.sort(mean)[-max(enough)]).tolist() if enough else []
        assert sorted(found.indices.tolist()) == chosen
        assert (found.reason == "") == bool(chosen)
        assert found.estimated_fdp <= fdr
        sizes.append(len(chosen))
    assert min(sizes) == 0
    assert max(sizes) >= 6


def test_several_draws_say_why_nothing_is_selected():
    none = knockoffs.select_by_e_values(np.zeros((3, 5, 20)), 0.1)
    assert none.reason.endswith(
        "no draw selects anything at half the level; with 4 copies a draw selects no fewer than 5 at half the level"
    )
    one = np.zeros((4, 5, 20))
    one[0] = clear_winners(5, 4)[:, :20]
    assert "the draws do not agree" in knockoffs.select_by_e_values(one, 0.1).reason


def test_benjamini_hochberg_is_its_formula():
    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(100):
        p = rng.uniform(size=30) ** rng.choice([1, 4])
        fdr = rng.choice([0.05, 0.2])
        found = knockoffs.select_by_p_values(p, fdr)
        passing = [size for size in range(1, 31) if np.sort(p)[size - 1] <= fdr * size / 30]
        assert sorted(found.indices.tolist()) == sorted(np.argsort(p)[: max(passing, default=0)].tolist())
        assert (found.reason == "") == bool(passing)
        sizes.append(max(passing, default=0))
    assert min(sizes) == 0
    assert max(sizes) > 5


def test_sources_without_a_p_value_are_not_tested():
    rng = np.random.default_rng(1)
    p, known = rng.uniform(size=30) ** 4, rng.uniform(size=30) < 0.6
    found, tested = (knockoffs.select_by_p_values(own, FDR) for own in (np.where(known, p, np.nan), p[known]))
    assert tested.indices.size
    np.testing.assert_array_equal(found.indices, np.flatnonzero(known)[tested.indices])
    nothing = knockoffs.select_by_p_values(np.full(3, np.nan), FDR)
    assert (nothing.indices.size, nothing.reason) == (0, "nothing selected: no source has a p-value")


def test_groups_are_the_sums_of_their_members():
    columns = np.arange(12.0).reshape(2, 6)
    groups = np.array([0, 1, 0, 2, 1, 0])
    np.testing.assert_array_equal(knockoffs.of_groups(columns, groups), [[7, 5, 3], [25, 17, 9]])


@pytest.mark.parametrize("fdr", [0, 1, -0.1, 1.5, math.nan, "0.1", True])
def test_levels_outside_0_to_1_are_refused(fdr):
    with pytest.raises(ValueError, match="needs fdr strictly between 0 and 1; got"):
        knockoffs.select(np.ones((2, 3)), fdr)


def test_unknown_methods_and_alternatives_are_refused():
    with pytest.raises(ValueError, match=r"needs method to be one of .*'knockoff\+'.*; got str 'bh'"):
        knockoffs.select(np.ones((2, 3)), 0.1, "bh")
    with pytest.raises(ValueError, match=r"needs alternative to be one of .*'greater'.*; got str 'up'"):
        knockoffs.importance(np.ones(3), "up")
