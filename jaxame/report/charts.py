"""The charts of a report: each a figure of `jaxame.plot` as SVG that follows the page's colours, and its text."""

import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxame import plot
from jaxame.curves import EffectCurve
from jaxame.knockoffs import Selection

_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "jaxame", "font.size": 9.0, "font.family": "sans-serif"}
# What would be the same in all charts of a page, or is of no use in it.
_NOISE = re.compile(r'<\?xml.*?(?=<svg)|<metadata>.*?</metadata>|(?<=<g) id="[^"]*"', re.DOTALL)
_NAMES = re.compile(r'(?<= id=")|(?<=href="#)|(?<=url\(#)')


@dataclasses.dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
      title: what it shows.
      alt: what one sees in it, for those who do not.
      note: how to read it.
      svg: the drawing, black where it follows the colour of the text.
    """

    title: str
    alt: str
    note: str
    svg: str


def effects(ame: np.ndarray, selection: Selection, interval: tuple[np.ndarray, np.ndarray] | None, unit: str) -> Chart:
    """Chart the AMEs `[N]` of all sources on a query, with intervals if there are any."""
    top = int(np.argmax(ame))
    return Chart(
        "Effects, from the highest to the lowest",
        f"Bars of the average marginal effects. The highest is {ame[top]:.3g}, of source {top}; the lowest is "
        f"{ame.min():.3g}. {selection.indices.size} are marked as selected.",
        "What adding a source to a random subset changes, on average; whiskers: 95 % intervals.",
        _svg(lambda ax: plot.waterfall(ame, selected=selection.indices, interval=interval, unit=unit, ax=ax)),
    )


def competition(selection: Selection, statistic: str) -> Chart:
    """Chart the statistics of the sources and what the selected ones reach."""
    w = selection.statistic
    reached = (
        f"The threshold is {selection.threshold:.3g}; {selection.indices.size} sources reach it."
        if selection.indices.size
        else "No threshold keeps the rate, so nothing is selected."
    )
    return Chart(
        "The competition with knockoff copies",
        f"Statistics by rank: {(w > 0).sum()} sources won against their copies, {(w < 0).sum()} lost. {reached}",
        "A copy is what a source without any effect looks like; how often copies win beyond the threshold tells how "
        "many of the selected are there by chance.",
        _svg(lambda ax: plot.knockoffs(selection, statistic=statistic, ax=ax)),
    )


def cross_validation(penalty: np.ndarray, error: np.ndarray, se: np.ndarray, unit: str) -> Chart:
    """Chart the cross-validated error `[L]` against the penalty `[L]`."""
    kept = np.isfinite(penalty)
    best = int(np.argmin(error[kept]))
    return Chart(
        "How well the effects predict",
        f"Held-out squared error by penalty: {error[kept][0]:.3g} where all effects are zero, {error[kept][best]:.3g} "
        f"at its lowest, at a penalty of {penalty[kept][best]:.3g}.",
        "Held-out error of the LASSO; far below its start, the sources explain much of what differs between submodels.",
        _svg(lambda ax: plot.cv_curve(penalty, error, se, unit=unit, ax=ax)),
    )


def curves(curve: EffectCurve, query: int, unit: str) -> Chart:
    """Chart the effect curves of some sources on a query."""
    ends = [
        f"source {source}: {curve.values[query, number, 0]:.2g} at p = {curve.p[0]:.2g}, "
        f"{curve.values[query, number, -1]:.2g} at {curve.p[-1]:.2g}"
        for number, source in enumerate(curve.sources)
    ]
    return Chart(
        "Effects by how much else is there",
        f"Effect curves of the sources with the largest effects. {'; '.join(ends)}.",
        "Falling curves: the sources stand in for each other. Rising: they need company. Bars: 95 % intervals.",
        _svg(lambda ax: plot.effect_curves(curve, query=query, unit=unit, ax=ax)),
    )


def by_size(share: np.ndarray, utility: np.ndarray, unit: str) -> Chart:
    """Chart the utility `[M]` against the share `[M]` of the sources that a subset holds."""
    finite = np.isfinite(utility)
    small, large = (utility[finite & part] for part in (share <= np.median(share), share > np.median(share)))
    medians = [f"{np.median(part):.3g}" if part.size else "unknown" for part in (small, large)]
    return Chart(
        "Submodels by the size of their subset",
        f"Median utility: {medians[0]} in the smaller half of the subsets, {medians[1]} in the larger.",
        "Every dot is a submodel (no more than 400 are drawn).",
        _svg(lambda ax: plot.utility_by_size(share, utility, unit=unit, ax=ax)),
    )


def growth(num_submodels: Sequence[int], selected: Sequence[np.ndarray]) -> Chart:
    """Chart what is selected as submodels are added."""
    counts = ", ".join(f"{len(own)} at {many:,}" for many, own in zip(num_submodels, selected, strict=True))
    kept = len(np.intersect1d(selected[-1], selected[-2])) if len(selected) > 1 else 0
    return Chart(
        "The selection as submodels are added",
        f"Sources selected: {counts}. Of the last selection {kept} had been selected before.",
        "A selection that still changes from column to column needs more submodels.",
        _svg(lambda ax: plot.stability(num_submodels, selected, ax=ax), 3.4, 0.62),
    )


def _svg(draw: Callable[[Axes], Any], height: float = 2.9, below: float = 0.48) -> str:
    """Draw on axes of a height, with room below them, both in inches."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, height))
        # Faster than a layout made for each: the page shows what sticks out, too.
        figure.subplots_adjust(left=0.135, right=0.985, bottom=below / height, top=1 - 0.08 / height)
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True)
    return _NOISE.sub("", file.getvalue()).replace("#000000", "currentColor")


def named_apart(chart: Chart, prefix: str) -> Chart:
    """Return a chart whose drawing shares no names with others of the page, each with a prefix of its own."""
    return dataclasses.replace(chart, svg=_NAMES.sub(prefix, chart.svg))
