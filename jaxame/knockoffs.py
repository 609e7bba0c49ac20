r"""Knockoff selection: which sources have an effect, at a chosen false discovery rate.

Given a row's `p`, its mask was drawn by us, so an independent redraw with the same `p` is an exact model-X knockoff.
With `c` redraws the original and its copies compete: for a source without effect each of the `1 + c` is equally likely
to be the most important, so the copies' wins count the false ones among the original's.

References:
  Barber and Candès, Annals of Statistics 43(5), 2015 (knockoff, knockoff+); Candès et al., JRSS B 80(3), 2018
  (model-X); Gimenez and Zou, AISTATS 2019 (several knockoffs).
"""

import dataclasses
import math

import numpy as np

from jaxame import checks

ALTERNATIVES = ("two-sided", "greater", "less")
METHODS = ("knockoff+", "knockoff")


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """The sources selected for one query.

    Attributes:
      indices: `[S]` selected sources, most important first.
      statistic: `[N]` importance of the winner among the source and its copies: positive where the source itself won,
        negative where a copy did, 0 where none was important. Unit of the query.
      threshold: sources with `statistic >= threshold` are selected; infinite if none.
      estimated_fdp: estimated false discovery proportion at the threshold; 0 if nothing was selected.
      fdr: the level asked for.
      reason: why nothing was selected and what would help; empty otherwise.
    """

    indices: np.ndarray
    statistic: np.ndarray
    threshold: float
    estimated_fdp: float
    fdr: float
    reason: str


def importance(entry: np.ndarray, sign: np.ndarray, alternative: str) -> np.ndarray:
    """Importance of every column under an alternative: its entry penalty if its sign at entry fits, else 0.

    Args:
      entry: `[..., N]` entry penalties, 0 where the column did not enter.
      sign: `[..., N]` sign of the coefficient at entry.
      alternative: "greater" looks for positive effects, "less" for negative ones, "two-sided" for both.
    """
    checks.require(
        alternative in ALTERNATIVES, f"alternative to be one of {ALTERNATIVES}", checks.describe(alternative)
    )
    wanted = {"two-sided": sign != 0, "greater": sign > 0, "less": sign < 0}[alternative]
    return np.where(wanted, entry, 0.0)


def compete(columns: np.ndarray) -> np.ndarray:
    """Signed statistic `[N]` of the competition of each source (row 0) with its copies, `[1+c, N]`."""
    best = columns.max(axis=0)
    return np.where(columns[0] > columns[1:].max(axis=0), best, -best)


def select(columns: np.ndarray, fdr: float, method: str = "knockoff+") -> Selection:
    r"""Select sources at a false discovery rate.

    The threshold is the smallest `t` with

        (1 + #{a copy wins, importance >= t}) / (c max(1, #{the source wins, importance >= t})) <= fdr,

    without the leading 1 for method "knockoff", which controls a slightly weaker rate. Ties between a source and its
    copy count for the copy.

    Args:
      columns: `[1+c, N]` importances of the sources (row 0) and of their copies, none negative.
      fdr: level, strictly between 0 and 1.
      method: "knockoff+" or "knockoff".

    Raises:
      ValueError: for a level outside (0, 1) or an unknown method.
    """
    fdr = checks.probability(fdr, "fdr")
    checks.require(method in METHODS, f"method to be one of {METHODS}", checks.describe(method))
    num_copies = columns.shape[0] - 1
    statistic = compete(columns)
    candidates = np.unique(np.abs(statistic[statistic != 0]))
    ordered = np.sort(statistic[statistic > 0])
    against = np.sort(-statistic[statistic < 0])
    wins = ordered.size - np.searchsorted(ordered, candidates)
    losses = against.size - np.searchsorted(against, candidates)
    offset = 1 if method == "knockoff+" else 0
    estimate = (offset + losses) / (num_copies * np.maximum(wins, 1))
    passing = np.flatnonzero((estimate <= fdr) & (wins > 0))
    if passing.size == 0:
        reason = _nothing_selected(estimate[wins > 0], wins[wins > 0], fdr, num_copies, offset)
        return Selection(np.zeros(0, np.int64), statistic, math.inf, 0.0, fdr, reason)
    threshold = float(candidates[passing[0]])
    chosen = np.flatnonzero(statistic >= threshold)
    order = np.argsort(-statistic[chosen], kind="stable")
    return Selection(chosen[order], statistic, threshold, float(estimate[passing[0]]), fdr, "")


def _nothing_selected(estimate: np.ndarray, wins: np.ndarray, fdr: float, num_copies: int, offset: int) -> str:
    if estimate.size == 0:
        return "nothing selected: no source was more important than its copies"
    best = int(estimate.argmin())
    text = f"nothing selected at fdr={fdr:g}: {int(wins[best])} sources would be at fdr={estimate[best]:.3g}"
    if offset:
        floor = math.ceil(1 / (num_copies * fdr))
        text += f"; with {num_copies} copies no fewer than {floor} can be selected at this level"
    return text
