"""Laws against closed forms, designs against their laws; tolerances come from the sampling error."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxame.design import Beta, Grid, Law, PointMass, TruncatedUniform, _draw_masks, redraw_masks, sample_design

M, N = 2000, 21
KEY = jax.random.key(7)


@dataclasses.dataclass(frozen=True)
class TwoPoint(Law):
    """A law of a user's own: nothing but a quadrature."""

    low: float

    def quadrature(self):
        return np.array([self.low, 0.5]), np.array([0.25, 0.75])


LAWS = {
    "grid": Grid((0.2, 0.4, 0.6, 0.8)),
    "weighted grid": Grid((0.1, 0.5, 0.7), (3, 1, 1)),
    "uniform": TruncatedUniform(0.01),
    "extreme uniform": TruncatedUniform(1e-6),
    "beta": Beta(2, 3),
    "truncated beta": Beta(2, 5, eps=0.02),
    "truncated u-shaped beta": Beta(0.5, 0.8, eps=0.02),
    "point mass": PointMass(0.3),
    "own": TwoPoint(0.2),
}
CASES = [(name, coding) for name in LAWS for coding in ("weighted", "centered")]
POLYNOMIALS = (0, 1, 2, 9, 60, 400)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def drawn(request):
    """Return a law, whether `p` is tilted, and one design `[M, N]`."""
    name, coding = request.param
    return (
        LAWS[name],
        coding == "centered",
        sample_design(KEY, LAWS[name], num_submodels=M, num_sources=N, coding=coding),
    )


@pytest.fixture(scope="module")
def design():
    return sample_design(KEY, LAWS["uniform"], num_submodels=M, num_sources=N)


def residuals(packed, p):
    """Return `1[in] - p`, float64 `[M, N]`, and the variances `p(1-p)` `[M]` of a row's entries."""
    p = np.asarray(p, np.float64)
    masks = np.unpackbits(np.asarray(packed), axis=1, count=N, bitorder="little")
    return masks - p[:, None], p * (1 - p)


@pytest.mark.parametrize("f", [lambda p: p, np.square, special.logit], ids=["p", "p squared", "logit p"])
def test_p_follows_the_law(drawn, f):
    law, tilted, design = drawn
    density = (lambda p: 1 / (p * (1 - p)) / law.variance_scale) if tilted else np.ones_like
    mean = law.expectation(lambda p: density(p) * f(p))
    variance = law.expectation(lambda p: density(p) * (f(p) - mean) ** 2)
    sample = f(np.asarray(design.p, np.float64))
    assert abs(sample.mean() - mean) <= 5 * np.sqrt(variance / M) + 1e-7


def test_p_is_inside_the_support(drawn):
    law, _, design = drawn
    eps = getattr(law, "eps", 0)
    p = np.asarray(design.p, np.float64)
    assert design.p.dtype == jnp.float32
    assert np.all((p > 0) & (p < 1) & (p >= eps) & (p <= 1 - eps))
    if law.levels is not None:
        assert set(np.asarray(design.p)) == set(np.float32(law.levels))


def test_every_source_is_in_with_probability_p(drawn):
    """One standard normal per source: 378 in all, so that 5 is exceeded with probability 2e-4 under the law."""
    residual, variance = residuals(drawn[2].packed, drawn[2].p)
    assert np.abs(residual.sum(axis=0) / np.sqrt(variance.sum())).max() < 5


def test_sources_and_rows_are_independent(drawn):
    residual, variance = residuals(drawn[2].packed, drawn[2].p)
    sources = (residual[:, 1:] * residual[:, :-1]).sum(axis=0) / np.sqrt(np.sum(variance**2))
    rows = np.sum(residual[1:] * residual[:-1]) / np.sqrt(N * np.sum(variance[1:] * variance[:-1]))
    assert np.abs(sources).max() < 5
    assert abs(rows) < 5


def test_uncommon_p_is_drawn_at_its_rate():
    p = 2.0**-15
    packed = _draw_masks(jax.random.split(KEY, M), jnp.zeros(M, bool), jnp.full(M, p), 5000)
    inside = np.bitwise_count(np.asarray(packed)).sum(dtype=int)
    assert abs(inside - M * 5000 * p) < 5 * np.sqrt(M * 5000 * p)


@pytest.mark.parametrize(("law", "scale"), [(Beta(1, 1, eps=0.001), 0.001), (TruncatedUniform(0.001), 0.001)])
def test_tilted_uniform_is_logit_uniform(law, scale):
    """The tilted Beta has a parameter of zero here, which only the truncation makes a law."""
    p = jax.vmap(lambda k: law.sample(k, tilted=True))(jax.random.split(KEY, M))
    edge = -special.logit(scale)
    assert stats.kstest(special.logit(np.asarray(p, np.float64)), stats.uniform(-edge, 2 * edge).cdf).pvalue > 1e-4


def test_truncated_beta_follows_its_distribution_function():
    law = Beta(2, 5, eps=0.1)
    p = jax.vmap(law.sample)(jax.random.split(KEY, M))
    low, high = special.betainc(2, 5, (0.1, 0.9))
    assert stats.kstest(np.asarray(p), lambda x: (special.betainc(2, 5, x) - low) / (high - low)).pvalue > 1e-4


@pytest.mark.parametrize("eps", [0.3, 0.01, 1e-6, 1e-9])
def test_truncated_uniform_closed_forms(eps):
    law, width = TruncatedUniform(eps), 1 - 2 * eps
    for power in POLYNOMIALS:
        exact = ((1 - eps) ** (power + 1) - eps ** (power + 1)) / (power + 1) / width
        np.testing.assert_allclose(law.expectation(lambda p, k=power: p**k), exact, rtol=0, atol=1e-10)
    np.testing.assert_allclose(law.variance_scale, 2 * np.log((1 - eps) / eps) / width, rtol=1e-10)
    np.testing.assert_allclose(law.fourth_moment, (eps**-2 - (1 - eps) ** -2) / width, rtol=1e-6)


@pytest.mark.parametrize(("a", "b"), [(2, 3), (1.5, 1.5), (1.01, 7), (1.001, 1.001), (40, 60), (1000, 1000)])
def test_beta_closed_forms(a, b):
    law = Beta(a, b)
    for power in POLYNOMIALS:
        exact = np.exp(special.betaln(a + power, b) - special.betaln(a, b))
        np.testing.assert_allclose(law.expectation(lambda p, k=power: p**k), exact, rtol=0, atol=1e-10)
    v = (a + b - 1) * (a + b - 2) / ((a - 1) * (b - 1))
    np.testing.assert_allclose(law.variance_scale, v, rtol=1e-10)


def test_truncated_beta_closed_forms():
    """Uniform and arcsine laws restricted to [eps, 1-eps] have elementary moments."""
    eps = 0.001
    np.testing.assert_allclose(Beta(1, 1, eps).quadrature(), TruncatedUniform(eps).quadrature(), rtol=1e-12)
    angle = np.arcsin(1 - 2 * eps)  # p = (1 + sin(t)) / 2 with t uniform on [-angle, angle]
    arcsine = Beta(0.5, 0.5, eps)
    np.testing.assert_allclose(arcsine.expectation(np.square), 3 / 8 - np.sin(2 * angle) / (16 * angle), rtol=1e-10)
    np.testing.assert_allclose(arcsine.variance_scale, 4 * np.tan(angle) / angle, rtol=1e-10)


def test_finite_laws_are_exact():
    assert LAWS["grid"].variance_scale == pytest.approx(5.208333333333333, rel=1e-14)
    assert LAWS["weighted grid"].expectation(lambda p: p) == pytest.approx(0.6 * 0.1 + 0.2 * 0.5 + 0.2 * 0.7, rel=1e-14)
    assert PointMass(0.3).fourth_moment == pytest.approx(0.3**-3 + 0.7**-3, rel=1e-14)
    assert Grid([0.2, 0.4]) == Grid((0.2, 0.4), (2, 2))
    assert hash(Grid([0.2, 0.4])) == hash(Grid((0.2, 0.4), (2, 2)))


def test_fourth_moment_of_beta():
    exact = stats.beta(5, 6).expect(lambda p: p**-3 + (1 - p) ** -3)
    assert Beta(5, 6).fourth_moment == pytest.approx(exact, rel=1e-8)
    assert Beta(3, 6).fourth_moment == np.inf
    truncated = stats.beta(3, 6).expect(lambda p: p**-3 + (1 - p) ** -3, lb=0.1, ub=0.9, conditional=True)
    assert Beta(3, 6, eps=0.1).fourth_moment == pytest.approx(truncated, rel=1e-8)


@pytest.mark.parametrize("name", ["uniform", "beta", "truncated beta", "own"])
def test_a_longer_design_starts_with_the_shorter(name):
    long, again = (sample_design(KEY, LAWS[name], num_submodels=M, num_sources=N) for _ in range(2))
    short = sample_design(KEY, LAWS[name], num_submodels=37, num_sources=N)
    np.testing.assert_array_equal(long.p, again.p)
    np.testing.assert_array_equal(long.packed, again.packed)
    np.testing.assert_array_equal(long.p[:37], short.p)
    np.testing.assert_array_equal(long.packed[:37], short.packed)
    other = sample_design(jax.random.key(8), LAWS[name], num_submodels=M, num_sources=N)
    assert np.any(other.packed != long.packed)


def test_ame_and_weighted_rows_are_the_same():
    ame, weighted = (
        sample_design(KEY, LAWS["grid"], num_submodels=M, num_sources=N, coding=coding)
        for coding in ("ame", "weighted")
    )
    assert (ame.coding, weighted.coding) == ("ame", "weighted")
    np.testing.assert_array_equal(ame.packed, weighted.packed)


def test_auto_coding():
    codings = {
        name: sample_design(KEY, LAWS[name], num_submodels=M, num_sources=N).coding
        for name in ("uniform", "grid", "own")
    }
    assert codings == {"uniform": "centered", "grid": "weighted", "own": "weighted"}


def test_packed_layout(design):
    masks = design.masks()
    assert masks.shape == (M, N)
    assert masks.dtype == bool
    np.testing.assert_array_equal(design.packed, np.packbits(np.asarray(masks), axis=1, bitorder="little"))
    assert design.packed.shape == (M, 3)
    assert np.all(np.asarray(design.packed)[:, -1] < 2 ** (N - 16)), "padding bits are zero"
    np.testing.assert_array_equal(design.masks(5, 9), masks[5:9])
    assert design.num_submodels == M


def test_design_is_a_pytree(design):
    total = jax.jit(lambda d: d.masks().sum() + d.num_sources)(design)
    assert int(total) == int(design.masks().sum()) + N


@pytest.mark.parametrize("key", [KEY, jax.random.key(11)], ids=["the key of the design", "another key"])
def test_redraw_is_independent_given_p(design, key):
    copies = redraw_masks(design, key, 3)
    assert copies.shape == (3, M, 3)
    assert np.all(np.asarray(copies)[..., -1] < 2 ** (N - 16)), "padding bits are zero"
    residual, variance = residuals(design.packed, design.p)
    drawn = [residual] + [residuals(copy, design.p)[0] for copy in copies]
    for index, one in enumerate(drawn):
        assert np.abs(one.sum(axis=0) / np.sqrt(variance.sum())).max() < 5
        for other in drawn[:index]:
            by_source = (one * other).sum(axis=0) / np.sqrt(np.sum(variance**2))
            assert np.abs(by_source).max() < 5


def test_redraw_rows_are_addressed_by_key_copy_and_row(design):
    copies = redraw_masks(design, KEY, 3)
    np.testing.assert_array_equal(copies[:1], redraw_masks(design, KEY, 1))
    short = sample_design(KEY, LAWS["uniform"], num_submodels=37, num_sources=N)
    np.testing.assert_array_equal(copies[:, :37], redraw_masks(short, KEY, 3))


PAIRED_LAWS = ("grid", "uniform", "beta", "weighted grid")


def test_symmetric_laws_are_known():
    symmetric = {name for name, law in LAWS.items() if law.symmetric}
    assert symmetric == {"grid", "uniform", "extreme uniform"}
    assert PointMass(0.5).symmetric
    assert Beta(4, 4).symmetric
    assert Beta(2, 2, eps=0.1).symmetric
    assert not Grid((0.2, 0.8), (1, 2)).symmetric


@pytest.mark.parametrize("name", PAIRED_LAWS)
def test_pairs_decide_with_u_and_one_minus_u(name):
    """The first rows are those of independent rows; how often a pair agrees is a known function of its `p`."""
    law = LAWS[name]
    paired, single = (
        sample_design(KEY, law, num_submodels=M + 1, num_sources=N, paired=paired) for paired in (True, False)
    )
    np.testing.assert_array_equal(paired.packed[0::2], single.packed[0::2])
    np.testing.assert_array_equal(paired.units, np.arange(M + 1) // 2)
    np.testing.assert_array_equal(single.units, np.arange(M + 1))
    masks, p = np.asarray(paired.masks()), np.asarray(paired.p, np.float64)
    first, second, p = masks[0:M:2], masks[1:M:2], p[:M].reshape(-1, 2)
    if law.symmetric:
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
        assert (first != second).mean() > 1 - 1e-4
    else:
        np.testing.assert_array_equal(p[:, 0], p[:, 1])
        both, neither = np.maximum(2 * p[:, :1] - 1, 0), np.maximum(1 - 2 * p[:, :1], 0)
        for seen, chance in ((first & second, both), (~first & ~second, neither)):
            variance = np.maximum((chance * (1 - chance)).sum() * N, 1e-12)
            assert abs((seen - chance).sum()) <= 5 * np.sqrt(variance)
        assert (both + neither).mean() > 0.1
    if law.levels is not None:
        assert set(np.unique(paired.p)) == set(np.float32(law.levels))


@pytest.mark.parametrize("name", PAIRED_LAWS)
def test_pairs_are_drawn_again_as_pairs(name):
    design = sample_design(KEY, LAWS[name], num_submodels=M + 1, num_sources=N, paired=True)
    copies = redraw_masks(design, KEY, 2)
    rowwise = redraw_masks(dataclasses.replace(design, paired=False), KEY, 2)
    np.testing.assert_array_equal(copies[:, 0::2], rowwise[:, 0::2])
    for packed in copies:
        residual, variance = residuals(packed, design.p)
        original, _ = residuals(design.packed, design.p)
        assert np.abs(residual.sum(axis=0) / np.sqrt(2 * variance.sum())).max() < 5
        same = (residual * original).sum() / np.sqrt(2 * N * np.sum(variance**2))
        assert abs(same) < 5
        inside = np.unpackbits(np.asarray(packed), axis=1, count=N, bitorder="little").astype(bool)
        u_and_its_mirror = inside[0:M:2] & inside[1:M:2]
        assert not u_and_its_mirror[np.asarray(design.p)[0:M:2] < 0.499].any()
    short = sample_design(KEY, LAWS[name], num_submodels=37, num_sources=N, paired=True)
    np.testing.assert_array_equal(copies[:, :37], redraw_masks(short, KEY, 2))
    np.testing.assert_array_equal(design.packed[:37], short.packed)
    np.testing.assert_array_equal(design.p[:37], short.p)


def test_drawing_needs_little_memory_beyond_its_result():
    """The size of the paper's largest experiment, compiled but not run; unpacked it would take 500 MB."""
    num_submodels, num_sources = 2498, 50_000
    keys = jax.eval_shape(lambda: jax.random.split(KEY, num_submodels))
    p = jax.ShapeDtypeStruct((num_submodels,), jnp.float32)
    mirrored = jax.ShapeDtypeStruct((num_submodels,), jnp.bool_)
    memory = _draw_masks.lower(keys, mirrored, p, num_sources).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 100e6


def test_heavy_tails_warn():
    law = TruncatedUniform(0.001)
    with pytest.warns(UserWarning, match=r'heavy-tailed.*"weighted" or "centered"'):
        sample_design(KEY, law, num_submodels=M, num_sources=N, coding="ame")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample_design(KEY, law, num_submodels=M, num_sources=N, coding="weighted")
        sample_design(KEY, LAWS["grid"], num_submodels=M, num_sources=N, coding="ame")


BAD_LAWS = {
    "no points": (lambda: Grid(()), "at least one point; got none"),
    "point at zero": (lambda: Grid((0.0, 0.5)), "strictly between 0 and 1; got float 0.0"),
    "point at one in float32": (lambda: Grid((0.5, 1 - 1e-9)), r"at least 2\^-24 from 0 and 1"),
    "equal points": (lambda: Grid((0.5, 0.5)), r"distinct in float32; got \(0.5, 0.5\)"),
    "too few weights": (lambda: Grid((0.2, 0.5), (1,)), "2 finite positive numbers"),
    "negative weight": (lambda: Grid((0.2, 0.5), (1, -1)), "2 finite positive numbers"),
    "point mass at one": (lambda: PointMass(1), "p strictly between 0 and 1; got int 1"),
    "uniform on (0, 1)": (
        lambda: TruncatedUniform(0.0),
        r"use TruncatedUniform\(0.01\).*2 eps range\(m_i\) = 0.02 range.*infinite v",
    ),
    "empty interval": (lambda: TruncatedUniform(0.5), r"eps in \[1e-12, 0.5\); got 0.5"),
    "negative eps": (lambda: TruncatedUniform(-0.1), "eps strictly between 0 and 1; got float -0.1"),
    "Beta(1, 1)": (lambda: Beta(1, 1), r"use Beta\(1.0, 1.0, eps=0.01\).*= 0.02 range\(m_i\)"),
    "Beta(2, 1)": (lambda: Beta(2, 1), r"a > 1 and b > 1: use Beta\(2.0, 1.0, eps=0.01\).*= 0.02 range\(m_i\)"),
    "Beta(0, 2)": (lambda: Beta(0, 2), "a finite and positive; got int 0"),
    "Beta(2, nan)": (lambda: Beta(2, np.nan), "b finite and positive; got float nan"),
    "Beta eps": (lambda: Beta(2, 2, eps=0.7), r"eps in \[1e-12, 0.5\); got 0.7"),
}


@pytest.mark.parametrize(("make", "message"), BAD_LAWS.values(), ids=BAD_LAWS.keys())
def test_bad_laws_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


BAD_DESIGNS = {
    "one submodel": ({"num_submodels": 1}, "num_submodels to be an integer >= 2; got int 1"),
    "fractional submodels": ({"num_submodels": 2.5}, "num_submodels to be an integer >= 2; got float 2.5"),
    "no sources": ({"num_sources": 0}, "num_sources to be an integer >= 1; got int 0"),
    "unknown coding": ({"coding": "banzhaf"}, "coding to be \"auto\" or one of .*; got str 'banzhaf'"),
    "no law": ({"law": 0.5}, "jaxame.design.Law.*; got float 0.5"),
    "law that reaches zero": ({"law": TwoPoint(0.0)}, r"strictly inside \(0, 1\); got TwoPoint"),
    "untyped key": ({"key": jax.random.PRNGKey(0)}, r"one typed key.*; got uint32\[2\]"),
    "several keys": ({"key": jax.random.split(KEY)}, "one typed key"),
    "key of another generator": ({"key": jax.random.key(0, impl="rbg")}, "threefry2x32 key.*; got rbg"),
}


@pytest.mark.parametrize(("change", "message"), BAD_DESIGNS.values(), ids=BAD_DESIGNS.keys())
def test_bad_designs_are_refused(change, message):
    arguments = {"key": KEY, "law": LAWS["grid"], "num_submodels": 4, "num_sources": 3} | change
    with pytest.raises(ValueError, match=message):
        sample_design(arguments.pop("key"), arguments.pop("law"), **arguments)


def test_bad_redraws_and_ranges_are_refused(design):
    with pytest.raises(ValueError, match="num_copies to be an integer >= 1; got int 0"):
        redraw_masks(design, KEY, 0)
    with pytest.raises(ValueError, match="one typed key"):
        redraw_masks(design, 3, 1)
    with pytest.raises(ValueError, match=f"0 <= start < stop <= {M}; got start 3, stop 2"):
        design.masks(3, 2)
    with pytest.raises(ValueError, match=f"start 0, stop {M + 1}"):
        design.masks(0, M + 1)
