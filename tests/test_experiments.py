"""Running every experiment, and the page of their results."""

import dataclasses
import sys
import types
from pathlib import Path

import pytest

from experiments import all as every
from experiments import gradient_baselines, other_attacks, page

FOLDER = Path(page.__file__).parent
RAN = []


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of an experiment that is none."""

    smoke: bool = False
    out: Path | None = None
    figure: Path | None = None


def stub(name, monkeypatch, end=None):
    """Make an experiment that notes that it ran and then ends as told."""

    def main(settings):
        RAN.append((name, settings))
        if end is not None:
            raise end
        return {"records": [{"found": 1.0}]}

    experiment = types.SimpleNamespace(
        Settings=Settings, main=main, draw=lambda results, path: path.write_text("drawn")
    )
    monkeypatch.setitem(sys.modules, f"experiments.{name}", experiment)
    monkeypatch.setattr(every, "NAMES", (*every.NAMES, name))


def test_every_experiment_is_run_and_has_a_row():
    programs = {path.stem for path in FOLDER.glob("*.py") if "records.run(" in path.read_text("utf-8")} - {"records"}
    assert programs | {"poisoned_digits"} == set(every.NAMES)
    assert set(page.ROWS) == set(every.NAMES)


def test_one_that_fails_does_not_keep_others_from_running(monkeypatch, capsys):
    RAN.clear()
    ends = {"good": None, "untrue": SystemExit("the claim is not met"), "broken": RuntimeError("a bug"), "last": None}
    for name, end in ends.items():
        stub(name, monkeypatch, end)
    with pytest.raises(SystemExit, match=r"untrue: the claim is not met\nbroken: (.*\n)*RuntimeError: a bug"):
        every.main(every.Settings(names=tuple(ends), smoke=True))
    assert [name for name, _ in RAN] == list(ends)
    assert all(settings.smoke and settings.out.name == "out" for _, settings in RAN)
    assert "== last: done" in capsys.readouterr().out


def test_one_without_its_data_is_left_out(monkeypatch, capsys):
    stub("far", monkeypatch, FileNotFoundError("needs MNIST"))
    every.main(every.Settings(names=("far",), smoke=True))
    assert "far is left out: needs MNIST" in capsys.readouterr().out


def test_stored_results_are_what_a_run_of_all_writes(monkeypatch, tmp_path):
    """Every file that the page is made from has the name that running all would give it, and no other lies beside."""
    commands = []
    done = types.SimpleNamespace(returncode=0)
    monkeypatch.setattr(every.subprocess, "run", lambda command, check: commands.append(command) or done)
    every.main(every.Settings(results=tmp_path))
    written = {Path(command[command.index("--json") + 1]).name for command in commands}
    stored = {path.name for path in (FOLDER / "results").glob("*.cpu-2-cores*.json")}
    variants = {path for path in stored if path.split(".")[0] == "poisoned_cifar10" and path not in written}
    assert written == stored - variants
    assert {"poisoned_digits.cpu-2-cores.seed4.json", "poisoned_cifar10.cpu-2-cores.json"} < written


def test_a_figure_that_cannot_be_drawn_is_a_failure(monkeypatch):
    stub("undrawn", monkeypatch)
    sys.modules["experiments.undrawn"].draw = lambda results, path: path.with_name("none").read_text()
    with pytest.raises(SystemExit, match="FileNotFoundError"):
        every.main(every.Settings(names=("undrawn",), smoke=True))


def test_what_is_none_is_refused_before_anything_runs(monkeypatch):
    RAN.clear()
    stub("good", monkeypatch)
    with pytest.raises(SystemExit, match=r"needs names among poisoned_digits, .*; got nobody"):
        every.main(every.Settings(names=("good", "nobody"), smoke=True))
    assert not RAN
    with pytest.raises(ValueError, match=r"needs estimators among .*; got .'nobody'"):
        gradient_baselines.main(gradient_baselines.Settings(estimators=("nobody",)))
    with pytest.raises(ValueError, match=r"needs attacks among .*; got .'nobody'"):
        other_attacks.main(other_attacks.Settings(attacks=("nobody",)))


def test_the_page_is_that_of_the_stored_results():
    assert (FOLDER / "README.md").read_text("utf-8") == page.page()
