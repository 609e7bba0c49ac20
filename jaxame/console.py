"""What a person sees while a run goes on: a bar per stage, or plain log lines where there is no terminal."""

import collections
import logging
import math
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

_STAGES = {
    "train": ("training submodels", "submodels"),
    "regress": ("cross-validating the LASSO", "penalties"),
    "select": ("competing with knockoffs", "penalties"),
}
_ENDS: dict[str, Callable[..., float]] = {"lowest": min, "highest": max}
_WINDOW = 30.0  # seconds that the rate is taken over
# A line is logged once so much more of a stage is done, but not within some seconds of the last; and at least so often.
_LOG_SHARE, _LOG_LEAST, _LOG_MOST = 0.1, 5.0, 60.0
log = logging.getLogger(__name__)


def duration(seconds: float) -> str:
    """Write a time for people: `8.2 s`, `45 s`, `1:02:03`."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class _Stage:
    """How far a stage is, how fast, and what it found."""

    def __init__(self, stage: str):
        self.name, self.unit = _STAGES.get(stage, (stage, "steps"))
        self.total = 0
        self.facts: dict[str, float] = {}

    def begin(self, now: float, done: int) -> None:
        """Begin, or begin another round; one from nothing finds everything anew."""
        self.begun, self.before, self.done = now, done, done
        self.points = collections.deque([(now, done)])
        self.logged_at, self.logged = now, done
        if not done:
            self.facts = {}

    def take(self, facts: dict[str, float]) -> None:
        """Add what was found: counts add up, a range widens, other facts are those of the last call."""
        old, new = self.facts, dict(facts)
        for name in {"diverged", "partly"} & old.keys() & new.keys():
            new[name] += old[name]
        for name, wider in {f"{end}{of}": wider for end, wider in _ENDS.items() for of in ("", "_loss")}.items():
            known = [each[name] for each in (old, new) if not math.isnan(each.get(name, math.nan))]
            if name in new and known:
                new[name] = wider(known)
        self.facts = old | new | {"ever": max(old.get("ever", 0), new.get("most", 0))}

    def move(self, now: float, done: int, total: int) -> None:
        """Take how far the stage is."""
        self.done, self.total = done, total
        self.points.append((now, done))
        # The time up to the first report holds compilation.
        while len(self.points) > 2 and (self.points[0][0] == self.begun or now - self.points[0][0] > _WINDOW):
            self.points.popleft()

    @property
    def finished(self) -> bool:
        return self.done >= self.total

    @property
    def rate(self) -> float:
        """How many a second: of late, or over the whole stage once it has ended."""
        (begin, first), (end, last) = self.points[0], self.points[-1]
        if self.finished:
            begin, first = self.begun, self.before
        return (last - first) / max(end - begin, 1e-9)

    @property
    def took(self) -> float:
        """Seconds from the beginning to the last report."""
        return self.points[-1][0] - self.begun

    @property
    def ends(self) -> float:
        """When the stage will end; NaN if nobody knows."""
        return self.points[-1][0] + (self.total - self.done) / self.rate if self.rate > 0 else math.nan

    def found(self) -> str:
        """Say how fast the stage is and what it found."""
        parts = [f"{self.rate:,.0f}" if self.rate >= 10 else f"{self.rate:.2g}"]
        parts = [f"{parts[0]} {self.unit}/s", *self._of_submodels(), *self._of_fits()]
        return ", ".join(parts)

    def _of_submodels(self) -> list[str]:
        if "diverged" not in self.facts:
            return []
        counts = {"diverged": self.facts["diverged"], "not finite in part": self.facts["partly"]}
        failed = [f"{number:,} {what}" for what, number in counts.items() if number]
        return (failed or ["none failed"]) + self._range("_loss", "losses") + self._range("", "utilities")

    def _range(self, of: str, name: str) -> list[str]:
        lowest, highest = (self.facts.get(f"{end}{of}", math.nan) for end in _ENDS)
        return [] if math.isnan(lowest) else [f"{name} {lowest:.3g} to {highest:.3g}"]

    def _of_fits(self) -> list[str]:
        if "most" not in self.facts:
            return []
        if self.finished:
            return [f"up to {self.facts['ever']:,} active columns"]
        fewest, most = self.facts["fewest"], self.facts["most"]
        return [f"{fewest:,} to {most:,} active columns" if fewest < most else f"{most:,} active columns"]


class _TimeColumn(ProgressColumn):
    """The time left, or taken."""

    def render(self, task: Task) -> Text:
        stage: _Stage = task.fields["stage"]
        if stage.total and stage.finished:
            return Text(f"in {duration(stage.took)}".rjust(12), style="progress.elapsed")
        left = "" if math.isnan(stage.ends) else f"{duration(max(stage.ends - time.perf_counter(), 0.0))} left"
        return Text(left.rjust(12), style="progress.remaining")


class _Bars(Progress):
    """A line with a bar for every stage, and one below it with what the stage found."""

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.tasks:
            yield self.make_tasks_table([task])
            if task.fields["found"]:
                yield Text(f"  {task.fields['found']}", style="dim")


class StageProgress:
    """A context manager whose instance is a `jaxame.types.Observer`.

    On a terminal every stage has a bar, the time left, and a line that says how fast it is and what it found. Elsewhere
    lines are logged: whenever a tenth more of a stage is done, every minute, and when it ends.

    Args:
      console: where to draw.
      quiet: show nothing, and log nothing.
    """

    def __init__(self, console: Console, quiet: bool = False):
        self._bars = _Bars(
            TextColumn("{task.description:<26}", markup=False),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            TextColumn("{task.fields[count]:>13}"),
            _TimeColumn(),
            console=console,
            expand=True,
            disable=quiet or not console.is_terminal,
        )
        self._logs = not quiet and not console.is_terminal
        self._stages: dict[str, _Stage] = {}
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "StageProgress":
        self._bars.start()
        self._last = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def note(self, stage: str, **facts: float) -> None:
        """Take what is known of a stage; see `jaxame.types.Observer`."""
        known = self._stage(stage)
        if "start" in facts:
            known.begin(time.perf_counter(), int(facts["start"]))
            known.total = int(facts["total"])
            self._draw(stage)
        else:
            known.take(facts)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Move the bar of `stage` to `done` of `total`."""
        known = self._stage(stage)
        if done < known.done:
            known.begin(self._last, 0)
        self._last = time.perf_counter()
        known.move(self._last, done, total)
        self._draw(stage)
        if self._logs:
            _log(known, self._last)

    def _stage(self, stage: str) -> _Stage:
        if stage not in self._stages:
            self._stages[stage] = _Stage(stage)
            # A stage of which only reports come, after each part, began when the stage before ended.
            self._stages[stage].begin(self._last, 0)
        return self._stages[stage]

    def _draw(self, stage: str) -> None:
        known = self._stages[stage]
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(known.name, stage=known, count="", found="")
        self._bars.update(
            self._tasks[stage],
            completed=known.done,
            total=known.total,
            count=f"{known.done:,}/{known.total:,}",
            found=known.found() if known.done > known.before else "",
        )


def _log(stage: _Stage, now: float) -> None:
    """Log a line if one is due."""
    since = now - stage.logged_at
    much = stage.done - stage.logged >= _LOG_SHARE * stage.total and since >= _LOG_LEAST
    if not (stage.finished or much or since >= _LOG_MOST):
        return
    stage.logged_at, stage.logged = now, stage.done
    if stage.finished:
        text = f"{stage.total - stage.before:,} {stage.unit} in {duration(stage.took)}"
    else:
        left = "" if math.isnan(stage.ends) else f", {duration(stage.ends - now)} left"
        text = f"{stage.done:,} of {stage.total:,} {stage.unit} ({stage.done / stage.total:.0%}){left}"
    log.info("%s: %s, %s", stage.name, text, stage.found())
