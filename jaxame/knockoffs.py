r"""Knockoff selection: which sources have an effect, at a chosen false discovery rate.

Given a row's `p`, its mask was drawn by us, so an independent redraw with the same `p` is an exact model-X knockoff.
With `c` redraws the original and its copies compete: for a source without effect each of the `1 + c` is equally likely
to be the most important, so the copies' wins count the false ones among the original's.

References:
  Barber and Candès, Annals of Statistics 43(5), 2015 (knockoff, knockoff+); Candès et al., JRSS B 80(3), 2018
  (model-X); Gimenez and Zou, AISTATS 2019 (several knockoffs); Ren and Barber, JRSS B 86(1), 2024 (e-values of several
  draws); Wang and Ramdas, JRSS B 84(3), 2022 (e-BH).
"""

import dataclasses
import math

import numpy as np
import scipy

from jaxame import checks, notebook

ALTERNATIVES = ("two-sided", "greater", "less")
METHODS = ("knockoff+", "knockoff")
_SHOWN = 30  # in a notebook


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """The sources selected for one query.

    Attributes:
      indices: `[S]` selected sources (or groups), most important first.
      statistic: `[N]` what is compared with the threshold. Of knockoffs: importance of the winner among the source and
        its copies: positive where the source itself won, negative where a copy did, 0 where none was important, in the
        unit of the query. Of several draws of knockoffs: e-values. Of p-values: `-log10(p)`.
      threshold: sources with `statistic >= threshold` are selected; infinite if none.
      estimated_fdp: the smallest level at which these sources would be selected; 0 if nothing was.
      fdr: the level asked for.
      reason: why nothing was selected and what would help; empty otherwise.
    """

    indices: np.ndarray
    statistic: np.ndarray
    threshold: float
    estimated_fdp: float
    fdr: float
    reason: str

    def __repr__(self) -> str:
        what = f"{self.indices.tolist()} of {self.statistic.size}" if self.indices.size else self.reason
        return f"<Selection at fdr={self.fdr:g}: {what}>"

    def _repr_html_(self) -> str:
        number = self.indices.size
        caption = f"Selection: {number} of {self.statistic.size:,} sources at a false discovery rate of {self.fdr:g}"
        caption += f" (would hold at {self.estimated_fdp:.2g})" if number else f". {self.reason}"
        rows = [[str(source), f"{self.statistic[source]:.4g}"] for source in self.indices[:_SHOWN]]
        rows += [[f"{number - _SHOWN:,} more", ""]] * (number > _SHOWN)
        return notebook.table(["source", f"statistic (threshold {self.threshold:.4g})"], rows, caption)


def importance(signed: np.ndarray, alternative: str) -> np.ndarray:
    """Importance of every column under an alternative: its size if its sign fits, else 0.

    Args:
      signed: `[..., N]` entry penalty with the sign of the coefficient at entry, or another signed importance.
      alternative: "greater" looks for positive effects, "less" for negative ones, "two-sided" for both.
    """
    require_alternative(alternative)
    wanted = {"two-sided": signed != 0, "greater": signed > 0, "less": signed < 0}[alternative]
    return np.where(wanted, np.abs(signed), 0.0)


def require_alternative(alternative: str) -> None:
    """Refuse what is not an alternative."""
    known = f"alternative to be one of {ALTERNATIVES}"
    checks.require(alternative in ALTERNATIVES, known, checks.describe(alternative))


def of_groups(columns: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Importance `[..., G]` of groups of sources: the sum over their members of `columns [..., N]`.

    A group none of whose members has an effect is exchangeable with the same group of copies, so groups compete as
    sources do, and may be formed after the run. Sources that stand in for each other share one effect, which the sum
    puts together again.

    Args:
      columns: `[..., N]`.
      groups: int `[N]` group of every source, from 0.
    """
    of_groups: np.ndarray = columns @ (groups[:, None] == np.arange(groups.max() + 1)).astype(float)
    return of_groups


def compete(columns: np.ndarray) -> np.ndarray:
    """Signed statistic `[N]` of the competition of each source (row 0) with its copies, `[1+c, N]`."""
    best = columns.max(axis=0)
    signed: np.ndarray = np.where(columns[0] > columns[1:].max(axis=0), best, -best)
    return signed


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
    offset = 1 if method == "knockoff+" else 0
    candidates, wins, losses = _tally(statistic)
    estimate = (offset + losses) / (num_copies * np.maximum(wins, 1))
    passing = np.flatnonzero((estimate <= fdr) & (wins > 0))
    if passing.size == 0:
        reason = _nothing_selected(estimate[wins > 0], wins[wins > 0], fdr, num_copies, offset)
        return Selection(_NONE, statistic, math.inf, 0.0, fdr, reason)
    return _beyond(statistic, float(candidates[passing[0]]), float(estimate[passing[0]]), fdr)


def select_by_e_values(columns: np.ndarray, fdr: float) -> Selection:
    r"""Select sources at a false discovery rate from several draws of knockoffs, which chance then matters less for.

    Each draw gives a source that its knockoff+ threshold at level `fdr / 2` passes the e-value

        c N / (1 + #{a copy wins, importance >= threshold})

    and the others 0. The means over the draws are compared with `N / (fdr S)`, for the largest `S` that as many reach.

    Args:
      columns: `[D, 1+c, N]` importances in `D` draws of the sources (row 0) and of their copies, none negative.
      fdr: level, strictly between 0 and 1.

    Raises:
      ValueError: for a level outside (0, 1).
    """
    fdr = checks.probability(fdr, "fdr")
    statistic = np.mean([_e_values(draw, fdr / 2) for draw in columns], axis=0)
    num_sources = statistic.size
    ordered = np.sort(statistic)[::-1]
    with np.errstate(divide="ignore"):
        level = num_sources / (np.arange(1, num_sources + 1) * ordered)
    passing = np.flatnonzero(level <= fdr)
    if passing.size == 0:
        floor = math.ceil(2 / ((columns.shape[1] - 1) * fdr))
        reason = f"nothing selected at fdr={fdr:g} from {len(columns)} draws: "
        reason += "no draw selects anything at half the level" if ordered[0] == 0 else "the draws do not agree"
        reason += f"; with {columns.shape[1] - 1} copies a draw selects no fewer than {floor} at half the level"
        return Selection(_NONE, statistic, math.inf, 0.0, fdr, reason)
    return _beyond(statistic, float(ordered[passing[-1]]), float(level[passing[-1]]), fdr)


def select_by_p_values(p: np.ndarray, fdr: float) -> Selection:
    """Select sources at a false discovery rate from p-values `[N]`, by Benjamini and Hochberg (JRSS B 57(1), 1995).

    A source whose p-value is NaN is not tested, and so neither selected nor counted.

    Raises:
      ValueError: for a level outside (0, 1).
    """
    fdr = checks.probability(fdr, "fdr")
    q_values = adjusted(p)
    with np.errstate(divide="ignore"):
        statistic = -np.log10(p)
    chosen = q_values <= fdr
    if np.isnan(p).all():
        return Selection(_NONE, statistic, math.inf, 0.0, fdr, "nothing selected: no source has a p-value")
    if not chosen.any():
        best = int((q_values == np.nanmin(q_values)).sum())
        reason = f"nothing selected at fdr={fdr:g}: {best} sources would be at fdr={np.nanmin(q_values):.3g}"
        return Selection(_NONE, statistic, math.inf, 0.0, fdr, reason)
    return _beyond(statistic, float(statistic[chosen].min()), float(q_values[chosen].max()), fdr)


def adjusted(p: np.ndarray) -> np.ndarray:
    """Adjust p-values `[N]` as Benjamini and Hochberg do; NaN where they are, which are not counted."""
    found, known = np.full(p.shape, np.nan), ~np.isnan(p)
    if known.any():
        found[known] = scipy.stats.false_discovery_control(p[known])
    return found


_NONE = np.zeros(0, np.int64)


def _tally(statistic: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds to try, rising, and how many sources and how many copies win at or beyond each."""
    candidates = np.unique(np.abs(statistic[statistic != 0]))
    ordered = np.sort(statistic[statistic > 0])
    against = np.sort(-statistic[statistic < 0])
    wins = ordered.size - np.searchsorted(ordered, candidates)
    losses = against.size - np.searchsorted(against, candidates)
    return candidates, wins, losses


def _e_values(columns: np.ndarray, level: float) -> np.ndarray:
    """E-values `[N]` of one draw."""
    found = select(columns, level)
    losses = (-found.statistic >= found.threshold).sum()
    return np.where(found.statistic >= found.threshold, (len(columns) - 1) * columns.shape[1] / (1.0 + losses), 0.0)


def _beyond(statistic: np.ndarray, threshold: float, estimate: float, fdr: float) -> Selection:
    """Select what reaches the threshold, most important first."""
    chosen = np.flatnonzero(statistic >= threshold)
    order = np.argsort(-statistic[chosen], kind="stable")
    return Selection(chosen[order], statistic, threshold, estimate, fdr, "")


def _nothing_selected(estimate: np.ndarray, wins: np.ndarray, fdr: float, num_copies: int, offset: int) -> str:
    if estimate.size == 0:
        return "nothing selected: no source was more important than its copies"
    best = int(estimate.argmin())
    text = f"nothing selected at fdr={fdr:g}: {int(wins[best])} sources would be at fdr={estimate[best]:.3g}"
    if offset:
        floor = math.ceil(1 / (num_copies * fdr))
        text += f"; with {num_copies} copies no fewer than {floor} can be selected at this level"
    return text
