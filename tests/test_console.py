"""What is shown while a run goes on: on a terminal, in a log, and to a caller's own observer."""

import io
import logging
import math
import re
import time

import jax
import numpy as np
import pytest
from rich.console import Console

import jaxame
from jaxame import cli, console, runs
from jaxame.console import StageProgress, duration
from jaxame.design import Grid
from jaxame.types import measured, tell_utilities

KEY, LAW = jax.random.key(0), Grid((0.3, 0.6))


LOSS = ("lowest_loss", "highest_loss")


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when told to."""
    now = [100.0]
    monkeypatch.setattr(console.time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def terminal(width=80):
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def seen_last(place):
    """Lines of the last frame: what follows when the cursor has gone up and wiped the one before."""
    *_, frame = re.split(r"\r\x1b\[2K(?:\x1b\[1A\x1b\[2K)*", place.file.getvalue())
    return [line.rstrip() for line in re.sub(r"\x1b\[[?0-9]*[a-zA-Z]", "", frame).splitlines() if line.strip()]


class Weighted:
    """An additive game of which some submodels fail: the first row diverges and the second does in part."""

    num_sources, chunk_size = 12, 50

    def __init__(self):
        self.called = False

    def __call__(self, keys, masks):
        utilities = np.asarray(masks) @ np.stack([np.arange(12.0), -np.ones(12)], axis=1)
        if not self.called and len(masks) > 1:
            utilities[0], utilities[1, 1] = np.nan, np.inf
            self.called = True
        return utilities


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self):
        self.told, self.calls = [], []

    def __call__(self, stage, done, total):
        self.calls.append((stage, done, total))

    def note(self, stage, **facts):
        self.told.append((stage, facts))

    def of(self, stage, name):
        return [facts[name] for told, facts in self.told if told == stage and name in facts]


@pytest.fixture(scope="module")
def observed():
    """A whole estimate, seen by an observer, and by a plain callable."""
    seen, plain = Recorder(), []
    options = {"key": KEY, "num_submodels": 200, "law": LAW, "copies": 2, "folds": 4}
    results = [jaxame.ame(Weighted(), **options, progress=one) for one in (seen, lambda *step: plain.append(step))]
    return seen, plain, results


def test_a_plain_callable_is_called_as_ever_and_changes_nothing(observed):
    seen, plain, results = observed
    assert plain == seen.calls
    assert plain[:4] == [("train", done, 200) for done in (50, 100, 150, 200)]
    np.testing.assert_array_equal(results[0].values, results[1].values)


def test_an_observer_is_told_what_was_measured(observed):
    seen, _, results = observed
    assert seen.told[0] == ("train", {"start": 0, "total": 200})
    assert seen.of("train", "diverged") == [1, 0, 0, 0]
    assert seen.of("train", "partly") == [1, 0, 0, 0]
    # Over all queries: the second, which is negative, holds the lowest, and the first the highest.
    assert min(seen.of("train", "lowest")) == results[0].about["utility_range"][1][0]
    assert max(seen.of("train", "highest")) == results[0].about["utility_range"][0][1]


def test_an_observer_is_told_how_many_columns_are_in(observed):
    seen, _, (result, _) = observed
    for stage, most in (("regress", 12), ("select", 36)):
        largest = seen.of(stage, "most")
        assert largest[0] == 0
        assert 0 < max(largest) <= most
        assert all(np.array(seen.of(stage, "fewest")) <= largest)
    # The path's last fit has at least the support of the fit that was chosen, of which all are responsible.
    assert max(seen.of("regress", "most")) >= (result.lasso_1se != 0).sum(axis=1).max()


def test_of_nothing_finite_there_is_no_range():
    told = measured(np.full((3, 2), np.nan))
    assert (told["diverged"], told["partly"]) == (3, 0)
    assert math.isnan(told["lowest"])
    assert math.isnan(told["highest"])


def show(progress, clock):
    """Train, regress and select, in 40 seconds."""
    progress.note("train", start=0, total=3000)
    clock(10)
    progress.note("train", diverged=2, partly=0, lowest=-1.5, highest=3.0)
    progress("train", 1000, 3000)
    clock(4)
    progress.note("train", diverged=0, partly=1, lowest=-12.25, highest=2.0)
    progress("train", 2000, 3000)


@pytest.mark.parametrize("width", [80, 100])
def test_bars_show_rate_time_left_failures_and_range(clock, width):
    place = terminal(width)
    with StageProgress(place) as progress:
        show(progress, clock)
    line, below = seen_last(place)
    assert len(line) <= width
    assert line.startswith("training submodels")
    # The first 10 seconds, with compilation, say nothing about how fast it goes on: 1,000 in 4 seconds.
    assert line.endswith("2,000/3,000   4.0 s left")
    assert below == "  250 submodels/s, 2 diverged, 1 not finite in part, utilities -12.2 to 3"


def test_bars_show_the_losses_of_a_game_that_has_them(clock):
    place = terminal(100)
    with StageProgress(place) as progress:
        progress.note("train", start=0, total=100)
        for number, ends in enumerate([(0.5, 2.0), (0.02, 1.3), (math.nan, math.nan)]):
            clock(1)
            progress.note("train", diverged=0, partly=0, lowest=0.0, highest=1.0, **dict(zip(LOSS, ends, strict=True)))
            progress("train", 10 * (number + 1), 100)
    assert seen_last(place)[1] == "  10 submodels/s, none failed, losses 0.02 to 2, utilities 0 to 1"


def test_losses_are_told_to_an_observer_only():
    """Of a game that has them; others have none."""

    class Trains:
        def training_losses(self):
            asked.append(1)
            return np.array([0.5, np.nan, 0.1])

    class Watching:
        def __call__(self, *_):
            pass

        def note(self, stage, **facts):
            told.append(facts)

    asked, told = [], []
    tell_utilities(lambda *_: None, np.zeros((3, 1)), Trains())
    assert asked == []
    tell_utilities(Watching(), np.zeros((3, 1)), Trains())
    assert [told[0][name] for name in LOSS] == [0.1, 0.5]
    tell_utilities(Watching(), np.zeros((3, 1)), object())
    assert all(math.isnan(told[1][name]) for name in LOSS)


def test_bars_of_the_regression_show_penalties_and_columns(clock):
    place = terminal()
    with StageProgress(place) as progress:
        progress.note("regress", start=0, total=200)
        progress("regress", 1, 200)
        clock(1)
        progress.note("regress", fewest=3, most=41)
        progress("regress", 50, 200)
        progress.note("select", start=0, total=100)
        clock(2)
        progress.note("select", fewest=5, most=5)
        progress("select", 99, 100)
        progress("select", 100, 100)
    text = seen_last(place)
    assert len(text) == 4
    assert text[0].startswith("cross-validating the LASSO")
    assert "50/200" in text[0]
    assert text[1] == "  49 penalties/s, 3 to 41 active columns"
    assert text[2].startswith("competing with knockoffs")
    assert text[2].endswith("100/100     in 2.0 s")
    assert text[3] == "  50 penalties/s, up to 5 active columns"


def test_a_resumed_run_counts_its_own_submodels_for_the_rate(clock):
    place = terminal()
    with StageProgress(place) as progress:
        progress.note("train", diverged=7, partly=0, lowest=math.nan, highest=math.nan)
        progress.note("train", start=2000, total=3000)
        clock(10)
        progress.note("train", diverged=1, partly=0, lowest=0.0, highest=1.0)
        progress("train", 2100, 3000)
    line, below = seen_last(place)
    assert below == "  10 submodels/s, 8 diverged, utilities 0 to 1"
    assert line.endswith("0:01:30 left")


def test_a_stage_that_begins_anew_is_timed_anew(clock):
    place = terminal()
    with StageProgress(place) as progress:
        for done in (500, 1000):
            clock(5)
            progress("own", done, 1000)
        clock(1)
        progress("own", 300, 600)
    line, below = seen_last(place)
    assert line.startswith("own")
    assert below == "  300 steps/s"


def test_elsewhere_lines_are_logged(clock, caplog):
    caplog.set_level(logging.INFO, "jaxame")
    with StageProgress(Console(file=io.StringIO())) as progress:
        show(progress, clock)
        clock(4)
        progress.note("train", diverged=0, partly=0, lowest=0, highest=4)
        progress("train", 3000, 3000)
    found = "2 diverged, 1 not finite in part, utilities -12.2 to"
    assert caplog.messages == [
        "training submodels: 1,000 of 3,000 submodels (33%), 20 s left, 100 submodels/s, 2 diverged, "
        "utilities -1.5 to 3",
        f"training submodels: 3,000 submodels in 18 s, 167 submodels/s, {found} 4",
    ]


def test_a_long_stage_logs_every_minute_or_tenth(clock, caplog):
    caplog.set_level(logging.INFO, "jaxame")
    with StageProgress(Console(file=io.StringIO())) as progress:
        progress.note("train", start=0, total=10_000)
        for done in range(10, 1010, 10):  # a step in 10 seconds: a minute comes before a tenth
            clock(10)
            progress("train", done, 10_000)
        assert len(caplog.messages) == 100 // 6
        caplog.clear()
        for done in range(1500, 10_001, 500):  # a twentieth in 3 seconds
            clock(3)
            progress("train", done, 10_000)
    assert len(caplog.messages) == 9
    assert "0:01:00" not in caplog.messages[-1]


def test_quiet_shows_and_logs_nothing(clock, caplog):
    caplog.set_level(logging.INFO, "jaxame")
    for place in (terminal(), Console(file=io.StringIO())):
        with StageProgress(place, quiet=True) as progress:
            show(progress, clock)
            progress("train", 3000, 3000)
        assert place.file.getvalue() == ""
    assert caplog.messages == []


def test_a_run_that_goes_on_tells_where_it_stands(tmp_path):
    game, seen = Weighted(), Recorder()
    run = runs.start(tmp_path, game, key=KEY, law=LAW, num_submodels=100)
    run.train(game, chunks=[0])
    run.train(game, progress=seen)
    assert seen.told[0] == ("train", {"start": 50, "total": 100})
    assert seen.of("train", "diverged") == [0]
    assert seen.calls == [("train", 100, 100)]


def test_log_lines_go_where_standard_output_is_then(capsys):
    """Handlers that keep the stream would write through the bars."""
    cli._ToStdout().emit(logging.makeLogRecord({"msg": "seen"}))
    assert capsys.readouterr().out == "seen\n"


def test_times_are_written_for_people():
    texts = {8.24: "8.2 s", 9.97: "10 s", 59.4: "59 s", 59.6: "0:01:00", 3723.2: "1:02:03"}
    assert {seconds: duration(seconds) for seconds in texts} == texts


def test_watching_costs_next_to_nothing():
    """A report with its facts takes far less than the millisecond or more of a penalty."""
    with StageProgress(terminal()) as progress:
        progress.note("regress", start=0, total=1000)
        begin = time.perf_counter()
        for done in range(1000):
            progress.note("regress", fewest=1, most=2)
            progress("regress", done + 1, 1000)
        assert time.perf_counter() - begin < 1.0
