"""What a report says: its answer in a sentence, its queries and their sources, and the numbers behind them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from jaxame.curves import EffectCurve, effect_curve
from jaxame.design import Design
from jaxame.knockoffs import Selection
from jaxame.report import charts, items
from jaxame.report.charts import Chart
from jaxame.types import Items, Status, SubmodelStatus

_NEXT, _MOST_ROWS, _CURVES, _FITTED, _CURVE_ROWS = 10, 300, 5, 16, 4
VERBS = {"two-sided": ("changes", "change"), "greater": ("raises", "raise"), "less": ("lowers", "lower")}
_BY_KNOCKOFFS = (
    "competing with copies of itself that have no effect (knockoffs), the source was so much more important than they "
    "that, at the rate asked for, it does not look like chance."
)
_BY_P_VALUES = (
    "the effect is larger than chance makes it, by its p-value and the rate asked for (Benjamini and Hochberg)."
)
_NOT_SELECTED = (
    "That a source is not selected does not show that it has no effect; more submodels find smaller effects."
)
Growth: TypeAlias = Sequence[tuple[int, Sequence[Selection]]]
"""Numbers of submodels, rising, each with the selection of every query from as many of them."""
Table: TypeAlias = tuple[str, list[tuple[str, str]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Told:
    """What is told of, besides the result.

    Attributes:
      selections: of every query.
      alternative: which sources were looked for.
      method: by which they were selected.
      unit: what a query counts.
      sources: what sources look like.
      queries: what queries look like.
      design: of the run, or None.
      utilities: `[M, Q]` of the run, or None.
      growth: of the selections, or empty.
      num_charted: queries that have charts, the first ones.
    """

    selections: Sequence[Selection]
    alternative: str
    method: str
    unit: str
    sources: Items
    queries: Items
    design: Design | None
    utilities: np.ndarray | None
    growth: Growth
    num_charted: int

    @functools.cached_property
    def share(self) -> np.ndarray:
        """Share of the sources in every subset, `[M]`."""
        assert self.design is not None
        return np.asarray(self.design.masks().mean(axis=1))

    @property
    def by_knockoffs(self) -> bool:
        """Whether the selections come of a competition with knockoff copies, and not of p-values."""
        return not self.method.startswith("bh")

    @property
    def statistic(self) -> str:
        """What the statistics of the selections are called."""
        return "statistic W" if self.by_knockoffs else "-log10 p"


@dataclasses.dataclass(frozen=True)
class Row:
    """A source in the table of a query."""

    source: int
    selected: bool
    picture: str
    caption: str
    excerpt: str
    whole: str
    ame: float
    ame_text: str
    interval: str
    statistic: float
    statistic_text: str


@dataclasses.dataclass(frozen=True)
class Query:
    """A query and what was found."""

    number: int
    caption: str
    picture: str
    excerpt: str
    whole: str
    status: str
    sentence: str
    num_selected: int
    largest: float
    largest_text: str
    rows: list[Row]
    rows_note: str
    charts: list[Chart]


def answer(result: Any, told: Told) -> str:
    """Say the answer to the whole in a sentence, with its rate, its sign and its unit."""
    num_sources = result.values.shape[1]
    counts = np.array([found.indices.size for found in told.selections])
    fdr, verbs = told.selections[0].fdr, VERBS[told.alternative]
    rate = f"at a false discovery rate of {fdr:.3g}"
    if told.method != "knockoff":  # which controls a weaker rate
        rate += f": on average at most {100 * fdr:.3g} % of those named for a query are wrong"
    if not counts.any():
        return f"No source is shown to {verbs[1]} the {told.unit}, {rate}."
    few, many = counts[counts > 0].min(), counts.max()
    number = f"{few:,}" if few == many else f"{few:,} to {many:,}"
    where = "" if counts.size == 1 else f" on {(counts > 0).sum()} of {counts.size} queries"
    effects = np.concatenate([result.debiased[q, found.indices] for q, found in enumerate(told.selections)])
    return (
        f"{number} of {num_sources:,} sources {verbs[int(many > 1)]} the {told.unit}{where}, {rate}. "
        f"{_by_how_much(effects)}, on average over random subsets of the other training data."
    )


def tell(result: Any, told: Told) -> list[Query]:
    """Tell of every query."""
    interval = None if result.stderr is None else result.interval()
    return [_query(result, told, q, interval) for q in range(result.values.shape[0])]


def warnings(result: Any) -> list[str]:
    """Say what a reader has to know before believing the answer."""
    found = list(result.problems())
    bad = int((result.submodel_status != SubmodelStatus.OK).sum())
    if bad:
        found.append(f"{bad:,} of {result.submodel_status.size:,} submodels failed and are left out.")
    if result.about.get("game", {}).get("warm_start"):
        found.append("the submodels started from a model that had seen all sources, so that effects are too small.")
    return found


def failures(result: Any) -> list[tuple[str, str]]:
    """Return what became of the submodels and the queries."""
    of_submodels = [f"{(result.submodel_status == one).sum():,} {one.name}" for one in SubmodelStatus]
    of_queries = [f"{number} {one.name}" for one in Status if (number := int((result.status == one).sum()))]
    return [
        ("submodels", ", ".join(of_submodels)),
        ("queries", ", ".join(of_queries)),
        ("rows left out, per query", f"{result.num_left_out.min()} to {result.num_left_out.max()}"),
    ]


def settings(about: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return what was run as a table; what belongs to something is named after it."""
    rows: list[tuple[str, str]] = []
    for name, value in about.items():
        if isinstance(value, Mapping):
            rows += settings(value, f"{prefix}{name}.")
        elif isinstance(value, list) and len(value) > _NEXT:
            rows.append((f"{prefix}{name}", f"{len(value)} values"))
        else:
            rows.append((f"{prefix}{name}", str(value)))
    return rows


def reading(told: Told, has_intervals: bool) -> list[tuple[str, str]]:
    """Explain the words of the report."""
    terms = [
        ("Source", "what is in a subset of the training data or not: an example, or a group of them."),
        (
            "AME",
            f"average marginal effect, in the unit of the query ({told.unit}): what adding the source to a random "
            "subset of the other training data changes, on average. Positive: it raises the query.",
        ),
    ]
    if has_intervals:
        terms.append(("95 % interval", "covers the AME of a source with about this probability, selected or not."))
    terms += [
        ("Selected", f"{_BY_KNOCKOFFS if told.by_knockoffs else _BY_P_VALUES} {_NOT_SELECTED}"),
        ("Submodel", "the model, trained on a random subset. The effects are of training again and again, not on one."),
    ]
    return terms


def _by_how_much(effects: np.ndarray) -> str:
    up, down = effects[effects > 0], effects[effects <= 0]
    parts = [f"{verb} it by {_range(np.abs(own))}" for verb, own in (("raises", up), ("lowers", down)) if own.size]
    return "Adding one of them to the training data " + " or ".join(parts)


def _range(sizes: np.ndarray) -> str:
    low, high = f"{sizes.min():.2g}", f"{sizes.max():.2g}"
    return low if low == high else f"{low} to {high}"


def _query(result: Any, told: Told, q: int, interval: tuple[np.ndarray, np.ndarray] | None) -> Query:
    selection = told.selections[q]
    own = None if interval is None else (interval[0][q], interval[1][q])
    order = _shown(result.debiased[q], selection.indices, told.alternative)
    chosen = result.debiased[q, selection.indices]
    largest = float(chosen[np.abs(chosen).argmax()]) if chosen.size else 0.0
    excerpt, whole = items.text(told.queries, q)
    others = max(order.size - selection.indices.size, 0)
    left = max(selection.indices.size - order.size, 0)
    return Query(
        number=q,
        caption=items.caption(told.queries, q),
        picture=items.picture(told.queries, q),
        excerpt=excerpt,
        whole=whole,
        status=Status(int(result.status[q])).name.lower().replace("_", " "),
        sentence=_sentence(selection, chosen, told),
        num_selected=int(selection.indices.size),
        largest=largest,
        largest_text=f"{largest:+.3g}" if chosen.size else "-",
        rows=[_row(result, told, q, int(source), own) for source in order],
        rows_note=_note(told, others, left),
        charts=_charts(result, told, q, own, order) if q < told.num_charted else [],
    )


def _note(told: Told, others: int, left: int) -> str:
    more = f"{left:,} more are selected." if left else f"Below the selected: the {others} next in effect."
    return f"AME in units of {told.unit}. {more}"


def _sentence(selection: Selection, chosen: np.ndarray, told: Told) -> str:
    if not chosen.size:
        return selection.reason[:1].upper() + selection.reason[1:] + "."
    verb = VERBS[told.alternative][chosen.size > 1]
    who = "1 source" if chosen.size == 1 else f"{chosen.size:,} sources"
    return (
        f"{who} {verb} the {told.unit}. {_by_how_much(chosen)}. The same would be selected at a rate of "
        f"{selection.estimated_fdp:.2g}; {selection.fdr:.2g} was asked for."
    )


def _shown(effects: np.ndarray, chosen: np.ndarray, alternative: str) -> np.ndarray:
    """Return the sources of a query's table: those selected, by effect, then the largest others."""
    size = {"two-sided": np.abs(effects), "greater": effects, "less": -effects}[alternative]
    order = np.argsort(-size, kind="stable")
    is_chosen = np.isin(order, chosen)
    return np.concatenate([order[is_chosen], order[~is_chosen][:_NEXT]])[:_MOST_ROWS]


def _row(result: Any, told: Told, q: int, source: int, interval: tuple[np.ndarray, np.ndarray] | None) -> Row:
    selection, ame = told.selections[q], float(result.debiased[q, source])
    statistic = float(selection.statistic[source]) + 0.0  # no -0
    excerpt, whole = items.text(told.sources, source)
    return Row(
        source=source,
        selected=bool(np.isin(source, selection.indices)),
        picture=items.picture(told.sources, source),
        caption=items.caption(told.sources, source),
        excerpt=excerpt,
        whole=whole,
        ame=ame,
        ame_text=f"{ame:+.3g}",
        interval="" if interval is None else f"{interval[0][source]:+.3g} to {interval[1][source]:+.3g}",
        statistic=statistic,
        statistic_text=f"{statistic:.3g}",
    )


def _charts(
    result: Any, told: Told, q: int, interval: tuple[np.ndarray, np.ndarray] | None, order: np.ndarray
) -> list[Chart]:
    selection, unit = told.selections[q], told.unit
    found = [charts.effects(result.debiased[q], selection, interval, unit)]
    if told.by_knockoffs:
        found.append(charts.competition(selection, told.statistic))
    if told.growth:
        found.append(charts.growth([many for many, _ in told.growth], [own[q].indices for _, own in told.growth]))
    # Contrasts come after the queries that were measured, and have no utilities of their own.
    if told.design is not None and told.utilities is not None and q < told.utilities.shape[1]:
        curve = _curve(told.design, told.utilities[:, q], order, result.debiased[q])
        found += [] if curve is None else [charts.curves(curve, 0, unit)]
        found.append(charts.by_size(told.share, told.utilities[:, q], unit))
    if result.cv_penalty is not None and np.isfinite(result.cv_penalty[:, q]).any():
        penalty, error, se = (part[:, q] for part in (result.cv_penalty, result.cv_error, result.cv_error_se))
        found.append(charts.cross_validation(penalty, error, se, unit))
    return [charts.named_apart(chart, f"q{q}c{number}-") for number, chart in enumerate(found)]


def _curve(design: Design, utility: np.ndarray, order: np.ndarray, effects: np.ndarray) -> EffectCurve | None:
    """Return the effect curves of the first sources; None if there are too few rows for any.

    They are fitted beside those of the largest others, which else were noise.
    """
    if design.parent is not None:
        return None
    per_source = _CURVE_ROWS if design.law.levels is None else len(design.law.levels)
    units = int(np.unique(design.units[np.isfinite(utility)]).size)
    largest = np.argsort(-np.abs(effects), kind="stable")
    sources = np.array(list(dict.fromkeys([*order[:_CURVES], *largest])))[: min(_FITTED, units // (4 * per_source))]
    if not sources.size:
        return None
    try:
        curve = effect_curve(design, utility[:, None], sources.tolist())
    except ValueError:  # a source is never out, or never in, at some p
        return None
    return EffectCurve(curve.p, curve.sources[:_CURVES], curve.values[:, :_CURVES], curve.stderr[:, :_CURVES])
