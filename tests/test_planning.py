"""The planner, the detectable effect, R2 from a pilot and planted sources: against closed forms and simulation."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from helpers import GRID
from scipy import stats

from jaxame import knockoffs, planning
from jaxame.design import Beta, Grid, TruncatedUniform, redraw_masks, sample_design
from jaxame.features import code, mask_columns
from jaxame.games import Additive, Threshold
from jaxame.lasso import entry_path, make_problem

pytestmark = pytest.mark.slow  # under one version of Python

KEY = jax.random.key(3)
V = GRID.variance_scale


def select_all(design, utilities, key, fdr):
    """The sources selected for every query."""
    coding = code(design)
    columns = mask_columns(design, coding, redraw_masks(design, key, 4))
    path = entry_path(make_problem(columns, utilities, coding.weight, coding.z, None))
    shape = (utilities.shape[1], 5, design.num_sources)
    importance = path.penalty.reshape(shape)
    return [knockoffs.select(of_query, fdr).indices for of_query in importance]


def additive(effect, members, noise, num_submodels, num_sources, seed, num_queries=20):
    """A design, utilities `[M, Q]` with new members per query, and these, `[Q, members]`."""
    rng = np.random.default_rng(seed)
    design = sample_design(jax.random.key(seed), GRID, num_submodels=num_submodels, num_sources=num_sources)
    chosen = np.stack([rng.permutation(num_sources)[:members] for _ in range(num_queries)])
    count = np.asarray(design.masks())[:, chosen].sum(axis=2)
    return design, effect * count + rng.normal(0, noise, count.shape), chosen


def recovered(*problem, fdr=0.1, designs=2):
    """Share of the members selected, and its standard error over designs and queries."""
    shares = []
    for seed in range(designs):
        design, utilities, members = additive(*problem, seed)
        found = select_all(design, utilities, design.key, fdr)
        shares += [np.isin(own, chosen).mean() for own, chosen in zip(members, found, strict=True)]
    return np.mean(shares), np.std(shares, ddof=1) / math.sqrt(len(shares))


def test_the_plan_is_its_formula():
    assert planning.plan(10, 1000, 0.5) == math.ceil(4.5 * 10 * math.log(1000) / 0.5)
    assert planning.plan(10, 1000, 1) == 311


@pytest.mark.slow
@pytest.mark.parametrize("r2", [0.35, 0.7])
def test_the_plan_recovers_nine_in_ten_and_is_not_wasteful(r2):
    """Known from the games tried: between 2.7 and 4.9 `k ln N / R2` are needed, so that 2.2 are too few."""
    members, num_sources = 6, 100
    noise = math.sqrt(members / V * (1 / r2 - 1))
    planned = planning.plan(members, num_sources, r2)
    share, error = recovered(1.0, members, noise, planned, num_sources)
    assert share + 3 * error >= 0.9
    share, error = recovered(1.0, members, noise, math.ceil(planned * 2.2 / 4.5), num_sources)
    assert share - 3 * error <= 0.9


def test_the_detectable_effect_is_found_as_often_as_said():
    """By a test of each source on its own at the threshold that keeps the false discovery rate."""
    sizes = {"num_submodels": 400, "num_sources": 300, "num_effects": 10}
    for law in (GRID, TruncatedUniform(0.05)):
        for power in (0.5, 0.9):
            effect = planning.detectable_effect(2.0, law, **sizes, power=power)
            error = 2.0 * math.sqrt(law.variance_scale / 400)
            draws = np.random.default_rng(0).normal(effect / error, 1, 20_000)
            z = stats.norm.isf(10 * 0.1 / 0.9 / 290 / 2)
            assert (draws > z).mean() == pytest.approx(power, abs=5 * 0.5 / math.sqrt(20_000))


@pytest.mark.slow
def test_the_detectable_effect_is_found_by_selection():
    members, size, rows, noise = 6, 100, 300, 1.0
    effect, spread = 0.0, noise
    for _ in range(50):  # the effects are part of the spread that hides them
        effect = planning.detectable_effect(
            spread, GRID, num_submodels=rows, num_sources=size, num_effects=members, power=0.9
        )
        spread = math.sqrt(noise**2 + members * effect**2 / V)
    assert recovered(0.0, members, noise, rows, size)[0] < 0.1
    share, error = recovered(effect, members, noise, rows, size)
    assert 0.8 - 3 * error <= share
    share, error = recovered(effect / 2, members, noise, rows, size)
    assert share + 3 * error <= 0.7


WEIGHTS = np.where(np.arange(60) < 8, np.linspace(0.5, 1.5, 60), 0.0)
R2_GAMES = {"additive": (Additive(WEIGHTS), 1.0), "2 of 3": (Threshold(60, [2, 5, 11], 2), 0.2)}


def variance_given_p(name, p):
    if name == "additive":
        return (WEIGHTS**2).sum() * p * (1 - p)
    passing = 3 * p**2 - 2 * p**3
    return passing * (1 - passing)


def closed_form_r2(name, law, coding):
    """Linear over whole variance, both as the coding weighs rows."""
    game, noise = R2_GAMES[name]
    linear = (game.ame(law) ** 2).sum()
    if coding == "ame":
        return linear / law.variance_scale / law.expectation(lambda p: variance_given_p(name, p) + noise**2)
    return linear / law.expectation(lambda p: (variance_given_p(name, p) + noise**2) / (p * (1 - p)))


def pilots(law, coding, paired, num_submodels, repeats):
    found = []
    for seed in range(repeats):
        design = sample_design(
            jax.random.key(seed), law, num_submodels=num_submodels, num_sources=60, coding=coding, paired=paired
        )
        masks = np.asarray(design.masks())
        exact = np.concatenate([np.asarray(game(None, masks), np.float64) for game, _ in R2_GAMES.values()], axis=1)
        noise = np.random.default_rng(seed).normal(size=exact.shape) * [noise for _, noise in R2_GAMES.values()]
        found.append(planning.estimate_r2(design, exact + noise))
    return np.array([pilot.r2 for pilot in found]), np.array([pilot.stderr for pilot in found])


PILOTED = 64
PILOTS = {
    "fewer rows than sources": (GRID, "weighted", False, 48),
    "grid": (GRID, "weighted", False, 300),
    "the paper's code": (GRID, "ame", False, 300),
    "uniform": (TruncatedUniform(0.05), "centered", False, 300),
    "pairs": (Beta(4, 6), "weighted", True, 300),
    "complements": (GRID, "weighted", True, 300),
}


@pytest.mark.parametrize("name", PILOTS)
def test_r2_of_a_pilot_is_unbiased_and_its_error_honest(name):
    law, coding, paired, rows = PILOTS[name]
    values, errors = pilots(law, coding, paired, rows, PILOTED)
    truth = np.array([closed_form_r2(game, law, coding) for game in R2_GAMES])
    assert ((truth > 0.25) & (truth < 0.9)).all()
    spread = values.std(axis=0, ddof=1)
    # A ratio of unbiased estimates: the bias of the ratio is of the order of its variance.
    assert (np.abs(values.mean(axis=0) - truth) < 4 * spread / math.sqrt(PILOTED) + spread**2 / 2).all()
    typical = np.sqrt((errors**2).mean(axis=0))
    assert (typical > spread * (1 - 4 / math.sqrt(2 * PILOTED))).all()
    assert (typical < 2 * spread).all()


def test_r2_of_noise_is_zero_and_the_jackknife_is_that_of_its_definition():
    design = sample_design(KEY, GRID, num_submodels=40, num_sources=30, paired=True)
    y = np.random.default_rng(0).normal(size=(40, 3))
    y[5, 1] = np.nan
    pilot = planning.estimate_r2(design, y)
    p, masks = np.asarray(design.p, np.float64), np.asarray(design.masks())
    x, weight = masks - p[:, None], 1 / (p * (1 - p))
    for q, target in enumerate(y.T):
        kept = np.isfinite(target)
        apart = np.zeros(40)
        for i in np.flatnonzero(kept):
            same = kept & (p == p[i]) & (np.arange(40) != i)
            apart[i] = target[i] - target[same].mean()
        count = np.array([(kept & (p == each)).sum() for each in p])
        square = np.where(kept, weight * apart**2 * (1 - 1 / count), 0.0)

        def share(rows, square=square, apart=apart):
            products = (weight * apart)[rows, None] * x[rows]
            gram = products @ products.T
            other = design.units[rows, None] != design.units[rows]
            return gram[other].mean() / square[rows].mean()

        rows = np.flatnonzero(kept)
        assert pilot.r2[q] == pytest.approx(share(rows), rel=1e-9)
        without = np.array([share(rows[design.units[rows] != unit]) for unit in range(20)])
        assert pilot.stderr[q] == pytest.approx(math.sqrt(19 * without.var()), rel=1e-9)


def test_planted_sources_are_drawn_like_the_others_and_come_last():
    for law, paired in ((GRID, True), (Beta(4, 6), True), (Grid((0.3,)), False)):
        design = sample_design(KEY, law, num_submodels=400, num_sources=13, paired=paired)
        wider, planted = planning._with_planted(design, KEY, 37)
        masks, p = np.asarray(wider.masks()), np.asarray(wider.p, np.float64)[:, None]
        np.testing.assert_array_equal(masks[:, :13], design.masks())
        np.testing.assert_array_equal(masks[:, 13:], planted)
        np.testing.assert_array_equal(wider.packed, np.packbits(masks, axis=1, bitorder="little"))
        spread = math.sqrt((p * (1 - p)).sum())
        assert np.abs((planted - p).sum(axis=0) / spread).max() < 5
        with_copy = np.asarray(dataclasses.replace(wider, packed=redraw_masks(wider, KEY, 1)[0]).masks()) - p
        assert abs(((masks - p)[:, 13:] * with_copy[:, 13:]).sum()) < 5 * math.sqrt(37 * ((p * (1 - p)) ** 2).sum())
        if paired:
            low = p[0::2, 0] < 0.499
            assert not (planted[0::2] & planted[1::2])[low].any()


MEMBERS, SIZE, ROWS, REPEATS, NOISE, EFFECT = 6, 60, 300, 20, 1.0, 0.5


@pytest.mark.slow
def test_planted_power_is_that_of_fresh_experiments():
    """Four data sets with planted sources against four with a source that was there from the start."""
    planted, direct = [], []
    for seed in range(4):
        design, utilities, _ = additive(1.0, MEMBERS, NOISE, ROWS, SIZE, seed, num_queries=1)
        check = planning.planted_power(
            design, utilities, (0.0, EFFECT), key=jax.random.key(100 + seed), repeats=REPEATS
        )
        planted.append(check.power)
        other, utilities, members = additive(
            1.0, MEMBERS, NOISE, ROWS, SIZE + REPEATS, 50 + seed, num_queries=2 * REPEATS
        )
        free = np.array([np.setdiff1d(np.arange(SIZE + REPEATS), own)[0] for own in members])
        utilities = utilities + EFFECT * np.asarray(other.masks())[:, free]
        found = select_all(other, utilities, other.key, 0.1)
        direct.append(np.mean([own in chosen for own, chosen in zip(free, found, strict=True)]))
    planted, direct = np.array(planted), np.array(direct)
    power = planted[:, 1].mean()
    error = math.hypot(planted[:, 1].std(ddof=1), direct.std(ddof=1)) / math.sqrt(4)
    assert error < 0.2
    assert abs(power - direct.mean()) < 4 * error
    assert 0.2 < power < 0.95
    # A source without effect is selected no more often than a false discovery rate of .1 of 6 to 7 sources allows.
    assert planted[:, 0].mean() < 0.05


def test_planted_power_of_what_cannot_be_missed_and_of_nothing():
    """A source without effect is selected no more often than the false discovery rate allows among six true ones."""
    design, utilities, _ = additive(1.0, MEMBERS, NOISE, ROWS, SIZE, 0, num_queries=1)
    both = np.concatenate([utilities * np.nan, utilities], axis=1)
    check = planning.planted_power(design, both, (0.0, 3.0, -3.0), key=KEY, repeats=REPEATS, query=1)
    assert check.found.shape == (3, REPEATS)
    np.testing.assert_array_equal(check.power[1:], 1.0)
    assert check.power[0] <= stats.binom.isf(1e-4, REPEATS, 0.1 * (MEMBERS + 1) / SIZE) / REPEATS
    assert ((check.stderr > 0.01) & (check.stderr < 0.15)).all()


DESIGN = sample_design(KEY, GRID, num_submodels=8, num_sources=5)
U = np.arange(8.0)[:, None]
BAD = {
    "no effect": (lambda: planning.plan(0, 10, 0.5), "num_effects to be an integer >= 1; got int 0"),
    "more effects than sources": (lambda: planning.plan(10, 10, 0.5), "num_sources to be an integer >= 11; got int 10"),
    "R2 of nothing": (lambda: planning.plan(2, 10, 0), "r2 above 0 and at most 1; got int 0"),
    "R2 above 1": (lambda: planning.plan(2, 10, 1.2), "r2 above 0 and at most 1"),
    "R2 as text": (lambda: planning.plan(2, 10, "0.5"), "r2 above 0 and at most 1; got str '0.5'"),
    "negative spread": (
        lambda: planning.detectable_effect(-1.0, GRID, num_submodels=9, num_sources=20),
        "spread finite and not negative; got float -1.0",
    ),
    "power of 1": (
        lambda: planning.detectable_effect(1.0, GRID, num_submodels=9, num_sources=20, power=1),
        "power strictly between 0 and 1",
    ),
    "no law": (
        lambda: planning.detectable_effect(1.0, 0.5, num_submodels=9, num_sources=20),
        "a jaxame.design.Law.*; got float 0.5",
    ),
    "utilities of another length": (
        lambda: planning.estimate_r2(DESIGN, U[:-1]),
        r"utilities \[M=8, Q\]; got \[7, 1\]",
    ),
    "no design": (lambda: planning.estimate_r2(U, U), "a jaxame.design.Design"),
    "no variance": (lambda: planning.estimate_r2(DESIGN, 0 * U), "utilities of query 0 that vary given p; got none"),
    "few finite rows": (
        lambda: planning.estimate_r2(DESIGN, np.where(np.arange(8)[:, None] < 2, U, np.nan)),
        "finite rows for query 0; got 2",
    ),
    "no effects": (lambda: planning.planted_power(DESIGN, U, (), key=KEY), r"effects \[E\], finite"),
    "infinite effect": (lambda: planning.planted_power(DESIGN, U, (np.inf,), key=KEY), r"effects \[E\], finite"),
    "unknown query": (
        lambda: planning.planted_power(DESIGN, U, (1.0,), key=KEY, query=1),
        "query to be a number below 1",
    ),
    "untyped key": (lambda: planning.planted_power(DESIGN, U, (1.0,), key=3), "key to be one typed key"),
    "no copies": (lambda: planning.planted_power(DESIGN, U, (1.0,), key=KEY, copies=0), "copies to be an integer >= 1"),
    "no repeats": (lambda: planning.planted_power(DESIGN, U, (1.0,), key=KEY, repeats=0), "repeats to be an integer"),
    "fdr of 0": (lambda: planning.planted_power(DESIGN, U, (1.0,), key=KEY, fdr=0.0), "fdr strictly between"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
