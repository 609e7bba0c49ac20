"""Empirical Bayes: the posterior against integrals, its weights against another optimiser, its error against Bayes'."""

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from jaxame import shrinkage
from jaxame.shrinkage import shrink


def draw(rng, count, share, spread):
    """Return effects, of which a share is not zero, and estimates of them with unequal errors."""
    effect = rng.normal(size=count) * spread * (rng.random(count) < share)
    stderr = rng.uniform(0.5, 1.5, count)
    return effect, effect + stderr * rng.normal(size=count), stderr


def objective(weight, d, s, scales):
    """Return the log likelihood of weights `[K]` and the prior count of effects of zero."""
    density = stats.norm.pdf(d[:, None], scale=np.hypot(s[:, None], scales))
    return np.log(density @ weight).sum() + (shrinkage._PRIOR_COUNT - 1) * np.log(weight[0])


def test_weights_are_those_of_another_optimiser():
    _, d, s = draw(np.random.default_rng(0), 300, 0.2, 4.0)
    scales = shrinkage._scales(d, s)

    def weights(free):
        shifted = np.exp(free - free.max())
        return shifted / shifted.sum()

    peer = optimize.minimize(lambda free: -objective(weights(free), d, s, scales), np.zeros(scales.size))
    assert objective(shrinkage._weights(d, s, scales), d, s, scales) == pytest.approx(-peer.fun, abs=0.05)


def test_moments_are_those_of_the_posterior_density():
    _, d, s = draw(np.random.default_rng(1), 60, 0.3, 3.0)
    scales, found = shrinkage._scales(d, s), shrink(d, s)
    weight = shrinkage._weights(d, s, scales)
    for i in (0, int(np.abs(d).argmax())):

        def moment(power, i=i):
            def density(b):
                prior = weight[1:] @ stats.norm.pdf(b, scale=scales[1:])
                return b**power * prior * stats.norm.pdf(d[i], b, s[i])

            at_zero = weight[0] * stats.norm.pdf(d[i], 0.0, s[i]) * (power == 0)
            wide = 12 * max(scales[-1], s[i])
            return at_zero + integrate.quad(density, -wide, wide, points=(0.0, d[i]), limit=500)[0]

        mean = moment(1) / moment(0)
        assert found.mean[i] == pytest.approx(mean, rel=1e-6, abs=1e-9)
        assert found.sd[i] == pytest.approx(np.sqrt(moment(2) / moment(0) - mean**2), rel=1e-5)


@pytest.mark.parametrize(("share", "spread"), [(0.02, 5.0), (0.2, 3.0), (1.0, 1.0)])
def test_the_error_is_close_to_that_of_knowing_the_prior(share, spread):
    rng, errors = np.random.default_rng(2), []
    for _ in range(20):
        effect, d, s = draw(rng, 500, share, spread)
        slab = share * stats.norm.pdf(d, scale=np.hypot(s, spread))
        null = (1 - share) * stats.norm.pdf(d, scale=s)
        bayes = slab / (slab + null) * d * spread**2 / (spread**2 + s**2)
        found = shrink(d, s)
        estimates = found.mean, bayes, d, np.where(np.abs(d) > 1.96 * s, d, 0.0)
        errors.append([((own - effect) ** 2).mean() for own in estimates] + [(found.sd**2).mean()])
    ours, best, raw, thresholded, promised = np.mean(errors, axis=0)
    assert best < ours < 1.1 * best
    assert ours < 0.8 * min(raw, thresholded)
    assert promised == pytest.approx(ours, rel=0.15)


def test_units_do_not_matter():
    _, d, s = draw(np.random.default_rng(3), 50, 0.2, 4.0)
    for unit in (1e-8, -1e6):
        scaled, found = shrink(unit * d, abs(unit) * s), shrink(d, s)
        np.testing.assert_allclose(scaled.mean, unit * found.mean)
        np.testing.assert_allclose(scaled.sd, abs(unit) * found.sd)
    scaled = shrink(-(2.0**20) * d, 2.0**20 * s)
    np.testing.assert_array_equal(scaled.mean, -(2.0**20) * found.mean)


def test_nothing_but_noise_is_pulled_to_zero_and_large_effects_stay():
    rng = np.random.default_rng(4)
    noise = rng.normal(size=400)
    assert np.square(shrink(noise, np.ones(400)).mean).mean() < 0.02
    large = np.append(noise, [40.0, -60.0])
    np.testing.assert_allclose(shrink(large, np.ones(402)).mean[400:], [40.0, -60.0], rtol=0.02)


def test_estimates_without_error_are_returned():
    found = shrink(np.array([3.0, -1.0, 0.0]), np.zeros(3))
    np.testing.assert_array_equal(found.mean, [3.0, -1.0, 0.0])
    np.testing.assert_array_equal(found.sd, 0.0)
    some = shrink(np.array([3.0, 0.1, 5.0]), np.array([0.0, 1.0, 1.0]))
    assert some.mean[0] == 3.0
    assert 0 < some.mean[1] < 0.1
