"""Is leaving out the non-finite rows harmless? Tests of missingness against `p` and against every source."""

import numpy as np
import scipy

from jaxame.types import Status

_TILTS = np.concatenate([-np.geomspace(0.01, 20, 60), np.geomspace(0.01, 20, 60)])
_LEVEL = 1e-3


def diagnose(p: np.ndarray, masks: np.ndarray, finite: np.ndarray) -> Status:
    """Test one query's left-out rows against chance.

    Given `p`, each source was in independently of everything else with probability `p`. So over left-out rows that
    have nothing to do with source `j`, the number that contain it is a sum of independent Bernoulli(`p_i`) variables,
    and the Chernoff bound gives a valid p-value however few rows there are; the smallest over sources is corrected for
    `N` looks. The `p` of the rows left out and kept are compared by the two-sample Kolmogorov-Smirnov test. The level
    of each test is .001.

    Args:
      p: `[M]`.
      masks: bool `[M, N]`.
      finite: bool `[M]` rows kept.

    Returns:
      `OK`, `LEFT_OUT_RELATED_TO_P` or `LEFT_OUT_RELATED_TO_SOURCE`.
    """
    out = ~finite
    if not out.any():
        return Status.OK
    # A source that matters is in more often where p is high, so p alone would be blamed for it: sources come first.
    if inclusion_p_values(p[out], masks[out].sum(axis=0)).min() * masks.shape[1] < _LEVEL:
        return Status.LEFT_OUT_RELATED_TO_SOURCE
    if finite.any() and scipy.stats.ks_2samp(p[out], p[finite]).pvalue < _LEVEL:
        return Status.LEFT_OUT_RELATED_TO_P
    return Status.OK


def inclusion_p_values(p: np.ndarray, times_in: np.ndarray) -> np.ndarray:
    """Two-sided Chernoff bounds `[N]` for `times_in [N]` as sums of independent Bernoulli(`p [m]`)."""
    log_moment = np.log1p(p[:, None] * np.expm1(_TILTS)).sum(axis=0)
    log_tail = (log_moment[:, None] - _TILTS[:, None] * times_in).min(axis=0)
    p_values: np.ndarray = np.minimum(1.0, 2 * np.exp(np.minimum(log_tail, 0.0)))
    return p_values
