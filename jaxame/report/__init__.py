"""A report on a result: one HTML file that needs nothing else, for somebody who did not run it.

Every text that comes from data is escaped by the template engine, and the page's policy lets no script run but its own.
"""

import base64
import dataclasses
import hashlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import ArrayLike

from jaxame import checks
from jaxame.design import Design
from jaxame.files import replacing
from jaxame.report import items, story
from jaxame.report.story import Growth
from jaxame.types import Items

__all__ = ["Growth", "Items", "write"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Page:
    """What the template shows."""

    title: str
    question: str
    answer: str
    warnings: list[str]
    unit: str
    statistic: str
    has_pictures: bool
    shows_sources: bool
    has_intervals: bool
    queries: list[story.Query]
    reading: list[tuple[str, str]]
    tables: list[story.Table]
    command: str
    num_charted: int


def write(
    result: Any,
    path: str | PathLike[str],
    *,
    fdr: float = 0.1,
    alternative: str = "two-sided",
    method: str = "knockoff+",
    game: Any = None,
    design: Design | None = None,
    utilities: ArrayLike | None = None,
    growth: Growth = (),
    charted: int = 50,
    sources: Items | None = None,
    queries: Items | None = None,
    unit: str | None = None,
    title: str = "Which training data is responsible?",
    question: str | None = None,
    facts: Mapping[str, str] | None = None,
    command: str = "",
) -> Path:
    """Write a report on a result; see `jaxame.Attribution.report`, which calls it.

    Args:
      result: the `jaxame.Attribution`.
      path: HTML file to write; its folder is made.
      fdr: false discovery rate of the selections.
      alternative: which sources to select, see `jaxame.Attribution.select`.
      method: likewise.
      game: what was evaluated; tells what sources and queries look like and count, where it knows.
      design: the run's, for effect curves and the utility by size of the subset; with `utilities`.
      utilities: `[M, Q]` of the run.
      growth: selections from fewer submodels, see `jaxame.growth.selections`.
      charted: how many queries, the first ones, get charts; the others have a table only.
      sources: what the sources look like, `N` of them; by default what the game tells.
      queries: what the queries look like, `Q` of them; likewise.
      unit: what a query counts; likewise.
      title: of the page.
      question: what was asked, in a sentence.
      facts: what else to tell, such as times, by name.
      command: how to make it again.

    Returns:
      The path.

    Raises:
      ValueError: for a bad argument, or items that are not as many as there are sources or queries.
      OSError: if the file cannot be written.
    """
    num_queries, num_sources = result.values.shape
    checks.require((design is None) == (utilities is None), "both design and utilities, or neither", "one of them")
    told = story.Told(
        selections=[result.select(fdr, q, alternative=alternative, method=method) for q in range(num_queries)],
        alternative=alternative,
        method=method,
        unit=_unit(game, result) if unit is None else unit,
        sources=items.checked(items.items_of_sources(game) if sources is None else sources, num_sources, "sources"),
        queries=items.checked(
            items.items_of_queries(game, num_queries) if queries is None else queries, num_queries, "queries"
        ),
        design=design,
        utilities=_checked_utilities(utilities, design, num_queries),
        growth=growth,
        num_charted=checks.count(charted, "charted", 0),
    )
    asked = [("fdr", f"{fdr:g}"), ("alternative", alternative), ("method", method)]
    page = _Page(
        title=title,
        question=_question(result, told) if question is None else question,
        answer=story.answer(result, told),
        warnings=story.warnings(result),
        unit=told.unit,
        statistic=told.statistic,
        has_pictures=told.queries.images is not None,
        shows_sources=any(part is not None for part in dataclasses.astuple(told.sources)),
        has_intervals=result.stderr is not None,
        queries=story.tell(result, told),
        reading=story.reading(told, result.stderr is not None),
        tables=[
            ("Time and failures", [*(facts or {}).items(), *story.failures(result)]),
            ("Settings", [*asked, *story.settings(_without(result.about, "versions"))]),
            ("Versions of the run", story.settings(result.about.get("versions", {}))),
        ],
        command=command,
        num_charted=told.num_charted,
    )
    out = Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as part:
        part.write_text(_render(page), encoding="utf-8")
    return out


def _render(page: _Page) -> str:
    loader = jinja2.PackageLoader("jaxame.report", "assets")
    engine = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    script = engine.get_template("report.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return engine.get_template("report.html").render(page=page, script=script, script_hash=f"sha256-{digest}")


def _without(about: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {known: value for known, value in about.items() if known != name}


def _unit(game: Any, result: Any) -> str:
    known = getattr(getattr(game, "query", None), "unit", None)
    return str(known or result.about.get("game", {}).get("unit", "utility"))


def _question(result: Any, told: story.Told) -> str:
    num_queries, num_sources = result.values.shape
    many = f"{int(result.about['num_submodels']):,} submodels" if "num_submodels" in result.about else "Submodels"
    what = "one query" if num_queries == 1 else f"{num_queries:,} queries"
    return (
        f"{many} were trained on random subsets of {num_sources:,} sources of training data, and {what} measured on "
        f"each. Which sources {story.VERBS[told.alternative][1]} the {told.unit}?"
    )


def _checked_utilities(utilities: ArrayLike | None, design: Design | None, num_queries: int) -> np.ndarray | None:
    if utilities is None or design is None:
        return None
    given = np.asarray(utilities, np.float64)
    fits = given.ndim == 2 and given.shape[0] == design.num_submodels and given.shape[1] <= num_queries
    checks.require(fits, f"utilities [M={design.num_submodels}, Q={num_queries}]", list(given.shape))
    return given
