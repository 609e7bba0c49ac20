r"""Empirical Bayes: what the errors of all estimates say about each of them.

Estimates `d_i`, normal about effects `b_i` with known standard errors `s_i`, are taken for draws from

    b_i ~ pi_0 [b = 0] + sum_k pi_k N(0, sigma_k^2),                                                                 (1)

with the weights `pi` estimated from all of them. The posterior mean of `b_i` pulls small estimates to zero and leaves
large ones nearly as they are; how small is small, the data say.

References:
  Stephens, Biostatistics 18(2), 2017 (the mixture, and the prior count of its weight at 0); Johnstone and Silverman,
  Annals of Statistics 32(4), 2004 (empirical Bayes for sparse effects).
"""

from typing import NamedTuple

import numpy as np

_STEPS = 200
_PRIOR_COUNT = 10.0  # of effects of zero: where the data cannot tell, less is said to matter
_MOST_SCALES = 40


class Posterior(NamedTuple):
    """Posterior means and standard deviations of effects, `[N]` each, in the unit of the estimates."""

    mean: np.ndarray
    sd: np.ndarray


def shrink(estimate: np.ndarray, stderr: np.ndarray) -> Posterior:
    """Return the posterior of every effect under (1).

    Args:
      estimate: `[N]`, any unit.
      stderr: `[N]` standard errors; an estimate without error is returned as it is.
    """
    mean, sd = estimate.astype(np.float64), np.zeros(estimate.size)
    noisy = stderr > 0
    if noisy.any():
        # A power of 2, so that estimates in a unit which differs by one have the same bits.
        unit = np.exp2(np.floor(np.log2(np.median(stderr[noisy]))))
        found = _posterior(mean[noisy] / unit, stderr[noisy] / unit)
        mean[noisy], sd[noisy] = found.mean * unit, found.sd * unit
    return Posterior(mean, sd)


def _posterior(d: np.ndarray, s: np.ndarray) -> Posterior:
    scales = _scales(d, s)
    own = _likelihood(d, s, scales) * _weights(d, s, scales)
    own /= own.sum(axis=1, keepdims=True)  # probability of each part
    kept = scales**2 / (s[:, None] ** 2 + scales**2)
    mean = (own * kept).sum(axis=1) * d
    square = (own * (kept * s[:, None] ** 2 + (kept * d[:, None]) ** 2)).sum(axis=1)
    return Posterior(mean, np.sqrt(np.maximum(square - mean**2, 0.0)))


def _weights(d: np.ndarray, s: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Weights `[K]` of the mixture, by expectation-maximisation."""
    likelihood = _likelihood(d, s, scales)
    count = np.where(scales == 0, _PRIOR_COUNT - 1, 0.0)
    weight = np.full(scales.size, 1 / scales.size)
    for _ in range(_STEPS):
        expected = weight * (likelihood.T @ (1 / (likelihood @ weight))) + count
        weight = expected / expected.sum()
    return weight


def _likelihood(d: np.ndarray, s: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Likelihood `[N, K]` of every part of the mixture, relative to the most likely one of the estimate."""
    variance = s[:, None] ** 2 + scales**2
    log_likelihood = -0.5 * (np.log(variance) + d[:, None] ** 2 / variance)
    likelihood: np.ndarray = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    return likelihood


def _scales(d: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Standard deviations of the mixture: 0, and powers of 2 from a quarter of an error to the largest estimate."""
    smallest = np.median(s) / 4
    octaves = np.log2(max(np.abs(d).max() / smallest, 4.0))
    number = min(int(np.ceil(octaves)) + 1, _MOST_SCALES)
    return np.append(0.0, smallest * np.exp2(np.linspace(0.0, octaves, number)))
