"""Values and intervals against closed forms, at the right scale, under every law and coding."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from helpers import FOLDS, GAME, GAMES, GRID, SIZES, M, N, Q, Stacked
from scipy import special, stats

import jaxame
from jaxame.design import Beta, PointMass, TruncatedUniform, sample_design
from jaxame.games import Additive, Saturating

KEY = jax.random.key(2)
# Shapley values from their axioms: what a game gives in all, shared among sources that are alike.
TOTAL_OF_SATURATING = special.expit(1.5 * 5) - special.expit(-1.5 * 3)
SHAPLEY = np.stack(
    [
        np.full(N, 3.0),
        GAMES["large additive"].weights,
        np.isin(np.arange(N), [2, 5, 11]) / 3,
        np.array([2.0, -0.75, -0.75, 1.0, 1.0, 1.0, 0.5, 0.5] + [0.0] * 16),
        np.isin(np.arange(N), range(5)) * 2 / 5,
        np.isin(np.arange(N), range(8, 16)) * TOTAL_OF_SATURATING / 8,
    ]
)


@dataclasses.dataclass(frozen=True)
class Reference:
    """A law as NumPy draws it: `p` under the law and under its tilted form, and `v`, all written down by hand."""

    law: object
    draw: object
    draw_tilted: object
    v: float


_POINTS = np.array(GRID.points)
_TILT = 1 / (_POINTS * (1 - _POINTS))


def truncated_uniform(eps):
    edge = math.log((1 - eps) / eps)
    return Reference(
        TruncatedUniform(eps),
        lambda rng, size: rng.uniform(eps, 1 - eps, size),
        lambda rng, size: special.expit(rng.uniform(-edge, edge, size)),
        2 * edge / (1 - 2 * eps),
    )


LAWS = {
    "grid": Reference(
        GRID,
        lambda rng, size: rng.choice(_POINTS, size),
        lambda rng, size: rng.choice(_POINTS, size, p=_TILT / _TILT.sum()),
        _TILT.mean(),
    ),
    "uniform": truncated_uniform(0.05),
    "beta": Reference(
        Beta(4, 6), lambda rng, size: rng.beta(4, 6, size), lambda rng, size: rng.beta(3, 5, size), 9 * 8 / (3 * 5)
    ),
    "banzhaf": Reference(
        PointMass(0.5), lambda rng, size: np.full(size, 0.5), lambda rng, size: np.full(size, 0.5), 4.0
    ),
}
CASES = [(law, coding) for law in LAWS for coding in ("weighted", "centered", "ame")]
REPEATS = 100
# Chance that any of all the comparisons below fails for a correct estimator: about 1 in 1,000.
LIMIT = stats.t.ppf(1 - 1e-3 / (2 * len(CASES) * Q * N), REPEATS - 1)


def reference_draws(reference, coding):
    """Plain least squares on all sources, on `REPEATS` designs that NumPy draws; float64 `[REPEATS, Q, N]`.

    Also the resolution of the utilities, which are float32, `[Q]`.
    """
    rng = np.random.default_rng(5)
    draw = reference.draw_tilted if coding == "centered" else reference.draw
    p = draw(rng, (REPEATS, M))[..., None]
    masks = rng.random((REPEATS, M, N)) < p
    utilities = GAME(None, masks.reshape(-1, N)).astype(np.float64).reshape(REPEATS, M, Q)
    x = np.where(masks, 1 / p, -1 / (1 - p)) if coding == "ame" else masks - p
    weight = 1 / (p * (1 - p)) if coding == "weighted" else np.ones_like(p)
    levels = reference.law.levels
    z = p ** np.arange(5) if levels is None else (p == np.array(levels)).astype(float)
    both = np.concatenate([x, z], axis=2)
    gram = both.transpose(0, 2, 1) @ (weight * both)
    moments = both.transpose(0, 2, 1) @ (weight * utilities)
    scale = reference.v if coding == "ame" else 1.0
    coef = scale * np.linalg.solve(gram, moments)[:, :N].transpose(0, 2, 1)
    return coef, np.finfo(np.float32).eps * np.abs(utilities).max(axis=(0, 1))


def sampling_error(draws, resolution):
    return draws.std(axis=0, ddof=1) + resolution[:, None]


def worst_deviation(values, truth, error):
    """Largest deviation from the truth of any source of each game, in standard errors of that source, `[Q]`."""
    return (np.abs(values - truth) / error).max(axis=1)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def estimated(request):
    """Return a law, estimated values, the closed form and the standard error of every source, `[Q, N]` each."""
    name, coding = request.param
    reference = LAWS[name]
    sizes = SIZES | {"copies": 0}
    result = jaxame.ame(GAME, key=KEY, law=reference.law, coding=coding, **sizes).check()
    draws, resolution = reference_draws(reference, coding)
    return reference, result.values, GAME.ame(reference.law), sampling_error(draws, resolution)


def test_values_agree_with_the_closed_form(estimated):
    _, values, truth, error = estimated
    assert values.shape == (Q, N)
    assert dict(zip(GAMES, worst_deviation(values, truth, error), strict=True)) == {
        game: pytest.approx(0, abs=LIMIT) for game in GAMES
    }


@pytest.mark.parametrize("wrong", ["times v", "over v", "all zero"])
def test_wrong_scales_and_zeros_would_be_noticed(estimated, wrong):
    reference, values, truth, error = estimated
    factor = {"times v": reference.v, "over v": 1 / reference.v, "all zero": 0.0}[wrong]
    assert worst_deviation(factor * values, truth, error).min() > LIMIT
    assert worst_deviation(factor * truth, truth, error).min() > LIMIT


def test_the_reference_itself_is_centred_on_the_closed_form():
    draws, resolution = reference_draws(LAWS["grid"], "weighted")
    error = sampling_error(draws, resolution) / math.sqrt(REPEATS) + resolution[:, None]
    assert worst_deviation(draws.mean(axis=0), GAME.ame(GRID), error).max() < LIMIT


def test_shapley_values():
    eps = 0.01
    result = jaxame.shapley(GAME, key=KEY, eps=eps, **SIZES | {"copies": 0})
    marginal = np.stack([GAME.ame(PointMass(p)) for p in np.linspace(eps, 1 - eps, 99)])
    error = sampling_error(*reference_draws(truncated_uniform(eps), "centered"))
    assert (np.abs(result.values - SHAPLEY) <= LIMIT * error + 2 * eps * np.ptp(marginal, axis=0)).all()
    assert result.about["law"] == "TruncatedUniform(eps=0.01)"


def coverages(law, paired, num_submodels, games, repeats):
    """Share of 95 % intervals that hold the closed form, of the sources with an effect and without, `[repeats, 2]`."""
    truth = np.stack([game.ame(law) for game in games])
    noise, found = np.random.default_rng(7), []
    for repeat in range(repeats):
        key, size = jax.random.key(100 + repeat), games[0].num_sources
        design = sample_design(key, law, num_submodels=num_submodels, num_sources=size, paired=paired)
        utilities = np.asarray(Stacked(games)(None, np.asarray(design.masks())), np.float64)
        utilities += noise.normal(size=utilities.shape) * 0.5 * utilities.std(axis=0)
        lower, upper = jaxame.estimate_ame(design, utilities, folds=FOLDS, copies=0).interval(0.95)
        inside = (lower <= truth) & (truth <= upper)
        found.append([inside[truth != 0].mean(), inside[truth == 0].mean()])
    return np.array(found)


_FEW = np.where(np.arange(120) < 8, np.linspace(0.5, 2.0, 120), 0.0)
COVERED = {
    "as many rows as sources": (120, (Additive(_FEW), Saturating(120, range(5), slope=1.5, centre=2.0)), 32),
    "many rows": (M, (GAMES["2 of 3"], GAMES["unanimity sum"], GAMES["majority"], GAMES["saturating"]), 16),
}


COVERAGES = [(name, law, False) for name in COVERED for law in ("grid", "uniform", "beta")]
COVERAGES += [("as many rows as sources", law, True) for law in ("grid", "beta")]  # complements, and pairs that share p


@pytest.mark.slow
@pytest.mark.parametrize(("name", "law", "paired"), COVERAGES)
def test_intervals_cover_what_they_should(name, law, paired):
    """93 to 97 % of the effects that are there, at least 93 % of those that are not; each within 4 standard errors."""
    draws = coverages(LAWS[law].law, paired, *COVERED[name])
    mean, error = draws.mean(axis=0), draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert (error < 0.02).all()
    assert 0.93 - 4 * error[0] <= mean[0] <= 0.97 + 4 * error[0]
    assert mean[1] >= 0.93 - 4 * error[1]
