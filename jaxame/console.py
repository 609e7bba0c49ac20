"""What a person sees while a run goes on: a bar per stage, or plain log lines where there is no terminal."""

import logging
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_STAGES = {
    "train": ("training submodels", "submodels"),
    "regress": ("cross-validating the LASSO", "penalties"),
    "select": ("competing with knockoffs", "penalties"),
}
log = logging.getLogger(__name__)


class StageProgress:
    """A context manager whose instance is a `jaxame.types.Progress` callback.

    On a terminal every stage has a bar with its rate and the time left; elsewhere a line is logged when a stage ends.
    """

    def __init__(self, console: Console):
        self._bars = Progress(
            TextColumn("{task.description:<27}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}

    def __enter__(self) -> "StageProgress":
        self._bars.start()
        self._last = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Move the bar of `stage` to `done` of `total`."""
        name, unit = _STAGES.get(stage, (stage, "steps"))
        if stage not in self._tasks:
            # The first report comes after the first chunk, which began when the stage before ended.
            self._started[stage] = self._last
            self._tasks[stage] = self._bars.add_task(name, total=total, rate="")
        self._last = time.perf_counter()
        rate = done / max(self._last - self._started[stage], 1e-9)
        self._bars.update(self._tasks[stage], completed=done, total=total, rate=f"{rate:,.0f} {unit}/s")
        if done == total:
            log.info("%s: %d %s in %.1f s", name, done, unit, self._last - self._started[stage])
