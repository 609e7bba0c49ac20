"""Figures of one result: effects, selection, and what they rest on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from numpy.typing import ArrayLike

from jaxame import checks
from jaxame.curves import EffectCurve
from jaxame.knockoffs import Selection
from jaxame.plot.style import BLUE, COLOURS, GREY, MARKERS, ORANGE, axes


def values(
    ame: np.ndarray,
    *,
    selected: np.ndarray,
    truth: np.ndarray | None = None,
    unit: str = "utility",
    ax: Axes | None = None,
) -> Axes:
    """Plot the AME of every source on one query, with the selected and, if known, the truly responsible marked.

    Args:
      ame: `[N]` values, in `unit`.
      selected: `[S]` indices of the selected sources.
      truth: `[T]` indices of the sources known to be responsible, or None.
      unit: what the values count.
      ax: where to draw; a new figure by default.
    """
    ax = axes(ax, (8, 3))
    ax.axhline(0, color="black", linewidth=0.6)
    ax.scatter(np.arange(ame.size), ame, s=9, color=GREY, linewidths=0, label=f"all {ame.size:,} sources")
    ax.scatter(selected, ame[selected], s=34, color=BLUE, linewidths=0, label=f"{len(selected)} selected")
    if truth is not None:
        label = f"{len(truth)} truly responsible"
        ax.scatter(truth, ame[truth], s=95, facecolors="none", edgecolors=ORANGE, linewidths=1.5, label=label)
    ax.set_xlabel("source")
    ax.set_ylabel(f"AME\n({unit})", parse_math=False)
    ax.margins(x=0.01)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return ax


def waterfall(
    ame: np.ndarray,
    *,
    selected: np.ndarray,
    interval: tuple[np.ndarray, np.ndarray] | None = None,
    most: int = 40,
    unit: str = "utility",
    ax: Axes | None = None,
) -> Axes:
    """Plot AMEs as bars from the highest to the lowest, the selected ones in colour.

    Args:
      ame: `[N]` values, in `unit`.
      selected: `[S]` indices of the selected sources.
      interval: lower and upper bounds, `[N]` each, drawn as whiskers; or None.
      most: how many bars to draw: those furthest from 0. Where the others would stand there is a gap that says so.
      unit: what the values count.
      ax: where to draw; a new figure by default.

    Raises:
      ValueError: if `most` is not a positive integer.
    """
    ax = axes(ax, (6, 3))
    shown = np.sort(np.argsort(-np.abs(ame), kind="stable")[: checks.count(most, "most")])
    shown = shown[np.argsort(-ame[shown], kind="stable")]
    place = np.arange(shown.size) + np.where(ame[shown] < 0, 3 * (shown.size < ame.size), 0)
    is_selected = np.isin(shown, selected)
    for mine, colour, label in ((is_selected, BLUE, "selected"), (~is_selected, GREY, "not selected")):
        if mine.any():
            ax.bar(place[mine], ame[shown[mine]], color=colour, width=0.8, label=label)
    if interval is not None:
        low, high = (np.asarray(bound)[shown] for bound in interval)
        ax.vlines(place, low, high, color="black", linewidth=0.8)
    ax.axhline(0, color="black", linewidth=0.6)
    if shown.size < ame.size:
        others = np.delete(ame, shown)
        between = (ame[shown] >= 0).sum() + 1
        text = f"{others.size:,} others:\n{others.min():.2g} to {others.max():.2g}"
        # Nothing hangs below zero on the left of the gap.
        ax.annotate(text, (between, 0), (-4, -4), textcoords="offset points", ha="right", va="top", fontsize="small")
        ax.axvline(between, color=GREY, linewidth=1, linestyle=":")
    ax.set_xticks([])
    ax.set_xlabel("sources, highest AME first")
    ax.set_ylabel(f"AME ({unit})", parse_math=False)
    ax.legend(frameon=False)
    return ax


def knockoffs(
    selection: Selection, *, most: int = 200, statistic: str = "statistic W (unit of the query)", ax: Axes | None = None
) -> Axes:
    """Plot the statistic of each source, furthest from 0 first, with the threshold that the selected reach.

    Those above 0 won against all their knockoff copies; below 0 a copy won, which tells how many of the others are
    false.

    Args:
      selection: what was selected.
      most: how many sources to draw, those furthest from 0.
      statistic: what the statistic is.
      ax: where to draw; a new figure by default.

    Raises:
      ValueError: if `most` is not a positive integer.
    """
    ax = axes(ax, (6, 3))
    w = selection.statistic
    order = np.argsort(-np.abs(w), kind="stable")[: checks.count(most, "most")]
    order = order[w[order] != 0]
    rank, w = 1 + np.arange(order.size), w[order]
    is_selected = np.isin(order, selection.indices)
    groups = (
        (is_selected, "o", BLUE, "selected"),
        (~is_selected & (w > 0), "^", GREY, "the source won"),
        (w < 0, "v", ORANGE, "a copy won"),
    )
    for mine, marker, colour, label in groups:
        if mine.any():
            ax.plot(rank[mine], w[mine], marker, color=colour, markersize=4, label=label)
    ax.axhline(0, color="black", linewidth=0.6)
    if np.isfinite(selection.threshold):
        for sign in (1, -1) if (w < 0).any() else (1,):
            label = f"threshold {selection.threshold:.3g}" if sign == 1 else "_hidden"
            ax.axhline(sign * selection.threshold, color="black", linewidth=0.8, linestyle="--", label=label)
    ax.set_xlabel("rank of the source by |W|")
    ax.set_ylabel(statistic, parse_math=False)
    if order.size:
        ax.legend(frameon=False)
    else:
        _say(ax, "nothing was important")
    return ax


def cv_curve(
    penalty: np.ndarray, error: np.ndarray, se: np.ndarray, *, unit: str = "utility", ax: Axes | None = None
) -> Axes:
    """Plot the cross-validated error of the LASSO against its penalty, with `lambda_min` and `lambda_1se`.

    Args:
      penalty: `[L]` penalties, falling; NaN after the path ended.
      error: `[L]` mean squared error, in the square of `unit`.
      se: `[L]` its standard error.
      unit: what utilities count.
      ax: where to draw; a new figure by default.
    """
    ax = axes(ax, (6, 3))
    kept = np.isfinite(penalty)
    penalty, error, se = penalty[kept], error[kept], se[kept]
    at_min = int(np.argmin(error))
    at_1se = int(np.argmax(error <= error[at_min] + se[at_min]))
    ax.fill_between(penalty, error - se, error + se, color=BLUE, alpha=0.25, linewidth=0, label="one standard error")
    ax.plot(penalty, error, color=BLUE)
    for at, style, name in ((at_min, "--", "min"), (at_1se, ":", "1se")):
        label = f"lambda_{name} = {penalty[at]:.2g}"
        ax.axvline(penalty[at], color="black", linewidth=1, linestyle=style, label=label)
    _penalty_axis(ax)
    ax.set_ylabel(f"held-out squared error\n({unit}, squared)", parse_math=False)
    ax.legend(frameon=False)
    return ax


def path(
    penalty: np.ndarray,
    coef: Any,
    *,
    selected: Sequence[int] | np.ndarray = (),
    unit: str = "utility",
    ax: Axes | None = None,
) -> Axes:
    """Plot the LASSO's coefficients against its penalty, those of the selected sources in colour.

    Args:
      penalty: `[L]` penalties, falling; NaN after the path ended.
      coef: `[L, N]` coefficients, an array or a sparse one, such as `jaxame.lasso.CrossValidation.path` has.
      selected: `[S]` indices of the selected sources.
      unit: what the coefficients count.
      ax: where to draw; a new figure by default.
    """
    ax = axes(ax, (6, 3))
    dense = np.asarray(coef.toarray() if hasattr(coef, "toarray") else coef)
    kept = np.isfinite(penalty)
    others = np.setdiff1d(np.flatnonzero(dense.any(axis=0)), selected)
    for index, colour, width, label in ((others, GREY, 0.6, "not selected"), (selected, BLUE, 1.4, "selected")):
        lines = ax.plot(penalty[kept], dense[kept][:, np.asarray(index, int)], color=colour, linewidth=width)
        if lines:
            lines[0].set_label(f"{len(lines)} {label}")
    ax.axhline(0, color="black", linewidth=0.6)
    _penalty_axis(ax)
    ax.set_ylabel(f"coefficient ({unit})", parse_math=False)
    ax.legend(frameon=False)
    return ax


def effect_curves(
    curve: EffectCurve, *, query: int = 0, level: float = 0.95, unit: str = "utility", ax: Axes | None = None
) -> Axes:
    """Plot the effect of sources as it depends on how much of the other data is there, with intervals.

    Args:
      curve: of the sources to draw, seven or fewer to tell them apart; see `jaxame.effect_curve`.
      query: number of the query.
      level: probability with which each point is to be covered.
      unit: what the effects count.
      ax: where to draw; a new figure by default.
    """
    ax = axes(ax, (6, 3))
    low, high = curve.interval(level)
    # Side by side, so that no interval hides another.
    apart = 0.06 * (curve.p.max() - curve.p.min() if curve.p.size > 1 else 1.0) / max(curve.sources.size, 1)
    for number, source in enumerate(curve.sources):
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        if curve.p.size > 8:
            ax.fill_between(
                curve.p, low[query, number], high[query, number], color=style["color"], alpha=0.2, linewidth=0
            )
            ax.plot(curve.p, curve.values[query, number], color=style["color"], label=f"source {source}")
            continue
        at = curve.p + (number - (curve.sources.size - 1) / 2) * apart
        ax.plot(at, curve.values[query, number], **style, markersize=4, linewidth=1, label=f"source {source}")
        ax.vlines(at, low[query, number], high[query, number], color=style["color"], linewidth=0.8)
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_xlabel("share p of the other sources that is there")
    ax.set_ylabel(f"effect of adding it\n({unit})", parse_math=False)
    ax.legend(frameon=False, fontsize="small")
    return ax


def utility_by_size(share: ArrayLike, utility: ArrayLike, *, unit: str = "utility", ax: Axes | None = None) -> Axes:
    """Plot the utility of subsets against their size: its median, and where the middle 80 % lie.

    Args:
      share: `[M]` share of the sources that each subset holds.
      utility: `[M]`, in `unit`; what is not finite is left out.
      unit: what the utility counts.
      ax: where to draw; a new figure by default.
    """
    ax = axes(ax, (6, 3))
    kept = np.isfinite(np.asarray(utility, float))
    sizes, heights = np.asarray(share, float)[kept], np.asarray(utility, float)[kept]
    # As many submodels in each part: a grid of p has its sizes in clusters.
    parts = np.array_split(np.argsort(sizes, kind="stable"), min(_BINS, sizes.size))
    centre = np.array([sizes[part].mean() for part in parts])
    low, middle, high = np.array([np.quantile(heights[part], (0.1, 0.5, 0.9)) for part in parts]).T
    ax.plot(sizes[:_MOST_POINTS], heights[:_MOST_POINTS], ".", color=GREY, markersize=2, label="submodels")
    ax.vlines(centre, low, high, color=BLUE, linewidth=3, alpha=0.6, label="middle 80 %")
    ax.plot(centre, middle, "o-", color=BLUE, markersize=4, label="median")
    ax.set_xlabel("share of the sources in the subset")
    ax.set_ylabel(unit, parse_math=False)
    ax.legend(frameon=False)
    return ax


def stability(
    num_submodels: ArrayLike, selected: Sequence[np.ndarray], *, most: int = 25, ax: Axes | None = None
) -> Axes:
    """Plot which sources are selected as submodels are added.

    Args:
      num_submodels: `[G]` numbers of submodels, rising.
      selected: for each of them the selected sources `[S]`, most important first.
      most: how many sources to draw: those of the last selection, then others that had been selected.
      ax: where to draw; a new figure by default.

    Raises:
      ValueError: if `most` is not a positive integer.
    """
    ax = axes(ax, (6, 3))
    order = list(dict.fromkeys(int(source) for own in reversed(selected) for source in own))[
        : checks.count(most, "most")
    ]
    for number, own in enumerate(selected):
        inside = np.array([source in own for source in order], bool)
        ax.plot(np.full(inside.sum(), number), np.flatnonzero(inside), "o", color=BLUE, markersize=6)
        ax.plot(np.full((~inside).sum(), number), np.flatnonzero(~inside), "x", color=GREY, markersize=4)
    counts = [f"{many:,}\n{len(own)} selected" for many, own in zip(np.asarray(num_submodels), selected, strict=True)]
    ax.set_xticks(range(len(selected)), counts)
    ax.set_yticks(range(len(order)), [f"{source}" for source in order], fontsize=7 if len(order) > _MANY else None)
    if not order:
        _say(ax, "nothing was selected")
    ax.set_xlim(-0.5, len(selected) - 0.5)
    ax.set_ylim(len(order) - 0.5 if order else 0.5, -0.5)
    ax.set_xlabel("submodels (dot: selected, cross: not)")
    ax.set_ylabel("source")
    return ax


_BINS, _MOST_POINTS, _MANY = 8, 400, 12


def _say(ax: Axes, text: str) -> None:
    """Write in the middle of axes that have nothing to show."""
    ax.annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color=GREY)


def _penalty_axis(ax: Axes) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.invert_xaxis()
    ax.set_xlabel("penalty, falling")
