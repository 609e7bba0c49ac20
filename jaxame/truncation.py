"""What leaving out the ends of (0, 1) does to a Shapley value, and how much of them to leave out."""

import math

import numpy as np

from jaxame import checks

_PER_ROOT, _LARGEST_EPS = 1.28, 0.05


def choose_eps(num_submodels: int) -> float:
    """Return the truncation `eps` for a number of submodels: the rarer the ends, the more submodels see them.

    The variance of an estimate grows with `log(1 / eps)`, the bias of the truncation with `eps`; a bias in proportion
    to the standard error, which falls with the root of `num_submodels`, balances them.
    """
    return min(_LARGEST_EPS, _PER_ROOT / math.sqrt(checks.count(num_submodels, "num_submodels")))


def bias_bound(eps: float, utility_range: np.ndarray, values: np.ndarray) -> np.ndarray:
    r"""Bound how far the AME under `U(eps, 1 - eps)` is from the Shapley value, for every query `[Q]`.

    With the expected marginal effect `m_i(p)`, `|m_i| <= R`,

        phi_i - AME_i = integral of m_i over both ends - 2 eps AME_i,   at most   2 eps (R + |AME_i|)  in size.

    Args:
      eps: the truncation.
      utility_range: `[Q]` `R`, largest less smallest utility of any subset.
      values: `[Q, N]` the AME.
    """
    bound: np.ndarray = 2 * eps * (utility_range + np.abs(values).max(axis=1))
    return bound
