"""Masks that somebody else drew: used as they are, and refused where they cannot be what they are said to be."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import COPIES, FOLDS, GRID, M, N, assert_same

import jaxame
from jaxame.design import Beta, Grid, PointMass, TruncatedUniform, sample_design
from jaxame.foreign import Empirical
from jaxame.games import Additive, Threshold

pytestmark = pytest.mark.slow  # under one version of Python

KEY = jax.random.key(2)
LAWS = {"grid": GRID, "uniform": TruncatedUniform(0.05), "beta": Beta(4, 6), "banzhaf": PointMass(0.5)}


def drawn(p, num_sources, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((len(p), num_sources)) < np.asarray(p)[:, None]


@pytest.mark.parametrize("paired", [False, True], ids=["independent", "paired"])
@pytest.mark.parametrize("name", LAWS)
def test_our_own_masks_come_back_as_the_same_design(name, paired):
    design = sample_design(KEY, LAWS[name], num_submodels=M + 1, num_sources=N, coding="weighted", paired=paired)
    foreign = jaxame.foreign_design(np.asarray(design.masks()), design.p, law=LAWS[name], paired=paired)
    np.testing.assert_array_equal(foreign.packed, design.packed)
    np.testing.assert_array_equal(foreign.p, design.p)
    assert (foreign.law, foreign.coding, foreign.paired) == (design.law, "weighted", paired)
    assert foreign.key is None


def test_estimates_are_those_of_the_same_rows():
    design = sample_design(KEY, GRID, num_submodels=M, num_sources=N)
    utilities = jaxame.evaluate(Threshold(N, [2, 5, 11], 2), design)
    foreign = jaxame.foreign_design(np.asarray(design.masks()), design.p)
    assert foreign.law.levels == tuple(np.float32(GRID.points).tolist())
    options = {"knockoff_key": KEY, "folds": FOLDS, "copies": COPIES}
    own = jaxame.estimate_ame(dataclasses.replace(design, key=None), utilities, **options)
    assert_same(jaxame.estimate_ame(foreign, utilities, **options), own)
    with pytest.raises(ValueError, match="needs knockoff_key"):
        jaxame.estimate_ame(foreign, utilities)


def test_the_law_of_unknown_origin_is_that_of_the_values_of_p():
    p = np.random.default_rng(0).uniform(0.1, 0.9, 200)
    foreign = jaxame.foreign_design(drawn(p, 40), p)
    assert isinstance(foreign.law, Empirical)
    assert repr(foreign.law) == f"Empirical(200 values from {p.min():.4g} to {p.max():.4g})"
    assert foreign.law.levels is None
    with pytest.raises(ValueError, match="a law with a density"):
        jaxame.estimate_ame(foreign, np.zeros((200, 1)), law=Beta(2, 2), copies=0)
    uneven = jaxame.foreign_design(drawn([0.3] * 50 + [0.6] * 150, 40), [0.3] * 50 + [0.6] * 150)
    np.testing.assert_allclose(uneven.law.weights, [0.25, 0.75])
    assert jaxame.foreign_design(drawn([0.3] * 50, 40), 0.3).law.levels == (float(np.float32(0.3)),)


@pytest.mark.parametrize("fixed_size", [False, True], ids=["estimated p", "subsets of one size"])
def test_what_a_share_in_place_of_p_costs(fixed_size):
    """By itself, an additive source is seen less the mean effect of the others; with the true `p`, as it is."""
    num_rows, num_sources = 1500, 40
    weights = np.linspace(0.2, 2, num_sources)
    rng = np.random.default_rng(0)
    p = np.full(num_rows, 0.3) if fixed_size else rng.uniform(0.2, 0.8, num_rows)
    masks = drawn(p, num_sources)
    if fixed_size:
        masks = rng.permuted(np.broadcast_to(np.arange(num_sources) < 12, masks.shape), axis=1)
    utilities = np.asarray(Additive(weights)(None, masks))
    in_exchange = weights - (weights.sum() - weights) / (num_sources - 1)

    def worst(p, truth):
        design = jaxame.foreign_design(masks, p)
        curves = [jaxame.effect_curve(design, utilities, [i], degree=0) for i in range(num_sources)]
        z = [(curve.values[0, 0] - truth[i]) / curve.stderr[0, 0] for i, curve in enumerate(curves)]
        return np.abs(z).max()

    assert worst(None, in_exchange) < 5
    assert worst(None, weights) > 10
    assert fixed_size or worst(p, weights) < 5
    if fixed_size:
        return
    # The LASSO regresses on all sources together, so that those without effect take the exchange upon them.
    sparse = np.where(np.arange(num_sources) < 5, 2.0, 0.0)
    utilities = np.asarray(Additive(sparse)(None, masks)) + rng.normal(0, 0.5, (num_rows, 1))
    found = jaxame.estimate_ame(jaxame.foreign_design(masks), utilities, copies=0, folds=FOLDS).check()
    np.testing.assert_allclose(found.values[0], sparse, atol=0.15)


DRAWS = {
    "extreme": lambda rng, size: rng.uniform(0.0005, 0.002, size),
    "other extreme": lambda rng, size: 1 - rng.uniform(0.0005, 0.002, size),
    "wide": lambda rng, size: rng.uniform(0.01, 0.99, size),
    "half": lambda rng, size: np.full(size, 0.5),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("shape", [(4, 1000), (300, 40), (200, 1)], ids=str)
def test_good_masks_are_not_refused(name, shape):
    for seed in range(40):
        p = DRAWS[name](np.random.default_rng(seed), shape[0])
        masks = drawn(p, shape[1], seed)
        jaxame.foreign_design(masks, p)
        if shape[1] >= 30:
            jaxame.foreign_design(masks)


P = np.tile([0.2, 0.4, 0.6, 0.8], 75)
MASKS = drawn(P, 50)
EQUAL = np.repeat([0.3, 0.7, 0.5], 100)
_U = np.random.default_rng(5).random((150, 1, 50))
PAIRS = (np.concatenate([_U, 1 - _U], axis=1) < EQUAL.reshape(150, 2, 1)).reshape(300, 50)


def with_changed(array, index, value):
    changed = array.copy()
    changed[index] = value
    return changed


def in_groups(p, size):
    return np.repeat(drawn(p, 50 // size), size, axis=1)


REFUSED = {
    "not masks": ({"masks": MASKS.astype(float)}, r"masks bool \[M >= 2, N\]; got float64\[300, 50\]"),
    "one row": ({"masks": MASKS[:1], "p": P[:1]}, "masks bool"),
    "p of another length": ({"p": P[:-1]}, r"p to be a number or \[300\]; got float64\[299\]"),
    "p of 0": ({"p": with_changed(P, 7, 0.0)}, r"p strictly between 0 and 1 in float32; got \[0.\]"),
    "p not a number": ({"p": with_changed(P, 7, np.nan)}, "p strictly between 0 and 1"),
    "few sources and no p": ({"masks": MASKS[:, :29], "p": None}, "p, for fewer than 30 sources; got 29 sources"),
    "a source always in": (
        {"masks": with_changed(MASKS, np.s_[:, 17], True)},
        "with the row's probability, about 150 times; got source 17 in 300 of 300 rows",
    ),
    "a source always in, p unknown": ({"masks": with_changed(MASKS, np.s_[:, 17], True), "p": None}, "got source 17"),
    "p of another row": ({"p": P[::-1]}, "every row to hold about p N sources.*; got row"),
    "a full row": ({"masks": with_changed(MASKS, 4, True)}, "got row 4 with 50 of 50 and p = 0.2"),
    "sources in groups": ({"masks": in_groups(P, 10)}, "independently of each other; got row"),
    "pairs not said to be": ({"masks": PAIRS, "p": EQUAL}, "paired=True; got rows 0 and 1, 2 and 3.*depend"),
    "pairs split": ({"masks": PAIRS[1:-1], "p": EQUAL[1:-1]}, "paired=True; got rows 1 and 2, 3 and 4.*depend"),
    "same masks twice": ({"masks": np.repeat(MASKS[::2], 2, axis=0), "p": np.repeat(P[::2], 2)}, "depend on each"),
    "no pairs": ({"paired": True}, r"the same p, or p and 1 - p; got pair \[0\] of rows \[0\] and \[1\]"),
    "no pairs, same p": (
        {"masks": drawn(EQUAL, 50), "p": EQUAL, "paired": True},
        r"antithetic pairs in rows 2j and 2j \+ 1; got pair \[0\], rows \[0\] and \[1\]",
    ),
    "pairs that are split": (
        {"masks": PAIRS[1:100], "p": EQUAL[1:100], "paired": True},
        r"antithetic pairs.*; got pair \[0\]",
    ),
    "pairs that are split, p unknown": ({"masks": PAIRS[1:], "p": None, "paired": True}, "antithetic pairs"),
    "one pair exchanged with another": (
        {"masks": PAIRS[[*range(21), 23, 22, 21, *range(24, 300)]], "p": EQUAL, "paired": True},
        r"got pair \[10\], rows \[20\] and \[21\]",
    ),
    "law without such p": ({"law": Grid((0.2, 0.4))}, r"p that Grid.* can draw; got p = \[0.6"),
    "law of other frequencies": (
        {"law": Grid((0.2, 0.4, 0.6, 0.8), (1, 1, 1, 9))},
        r"p drawn from Grid.*with a mean of p\^1 near 0.7; got 0.5",
    ),
    "not a law": ({"law": 0.5}, "a jaxame.design.Law"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_refused(change, message):
    arguments = {"masks": MASKS, "p": P} | change
    with pytest.raises(ValueError, match=message):
        jaxame.foreign_design(arguments.pop("masks"), arguments.pop("p"), **arguments)


def test_pairs_with_and_without_their_p():
    jaxame.foreign_design(MASKS, P)
    known = jaxame.foreign_design(PAIRS, EQUAL, paired=True)
    assert known.paired
    jaxame.foreign_design(PAIRS[:-1], EQUAL[:-1], paired=True)
    jaxame.foreign_design(PAIRS, paired=True)
    mirrored = np.stack([MASKS, ~MASKS], axis=1).reshape(600, 50)
    estimated = jaxame.foreign_design(mirrored, paired=True)
    np.testing.assert_allclose(estimated.p[::2] + estimated.p[1::2], 1, rtol=1e-6)
