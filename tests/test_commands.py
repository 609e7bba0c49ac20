"""The commands on a run, as a user types them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
import run_games

import jaxame
from jaxame import cli, commands, factories, runs
from jaxame.design import Beta, Grid, PointMass, TruncatedUniform

M, GAME = 200, "run_games:threshold"


@pytest.fixture(autouse=True)
def _program(monkeypatch):
    """The devices of this process are already chosen; tables are wide enough for their lines."""
    monkeypatch.setattr(cli, "use_all_cores", lambda: None)
    monkeypatch.setenv("COLUMNS", "400")


def command(*words):
    cli.main([str(word) for word in words])


def start(place, *more):
    command("run", place, "--game", GAME, "--num-submodels", M, *more)


def test_a_run_from_start_to_table(tmp_path, capsys):
    place = tmp_path / "run"
    start(place, "--quiet", "--law", "grid:0.3,0.6", "--seed", 5)
    assert capsys.readouterr().out == f"200 of 200 submodels are in {place}.\n"
    found = runs.open_run(place)
    assert found.law == Grid((0.3, 0.6))
    key = jax.random.key(5)
    wanted = jaxame.ame(factories.make(GAME, ())[0], key=key, num_submodels=M, law=Grid((0.3, 0.6)))
    command("status", place)
    assert "200 of 200 submodels (100%)" in capsys.readouterr().out
    command("status", place, "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["done"], told["total"], told["seconds_left"]) == (M, M, 0)
    out = tmp_path / "made" / "result.npz"
    command("attribute", place, "--fdr", 0.2, "--alternative", "greater", "--out", out, "--quiet")
    text = capsys.readouterr().out
    np.testing.assert_array_equal(jaxame.load(out).values, wanted.values)
    for source in wanted.select(0.2, alternative="greater").indices:
        assert f"{source} ({wanted.values[0, source]:+.3g})" in text
    command("report", place, "--fdr", 0.2, "--alternative", "greater", "--quiet")
    assert capsys.readouterr().out == f"Written to {place}/report.html.\n"
    report = (place / "report.html").read_text("utf-8")
    assert f"jaxame run {place} --game {GAME} --num-submodels {M} --law grid:0.3,0.6 --seed 5" in report
    assert f"jaxame report {place} --fdr 0.2 --alternative greater --copies 4" in report
    for source in wanted.select(0.2, alternative="greater").indices:
        assert f"{wanted.debiased[0, source]:+.3g}</td>" in report
    command("export", place, tmp_path / "run.parquet")
    frame = pd.read_parquet(tmp_path / "run.parquet")
    np.testing.assert_array_equal(frame["utility_0"], found.utilities()[:, 0])
    np.testing.assert_array_equal(frame["submodel"], np.arange(M))
    assert (frame["status"] == "OK").all()
    command("export", out, tmp_path / "result.csv")
    np.testing.assert_allclose(pd.read_csv(tmp_path / "result.csv")["value"], wanted.values[0])


def test_runs_go_on_and_grow(tmp_path, capsys):
    command("run", tmp_path, "--game", GAME, "--num-submodels", 100, "--shard", "1/2", "--set", "num_sources=20")
    assert runs.open_run(tmp_path).how_far().done == 48
    command("resume", tmp_path)
    assert runs.open_run(tmp_path).how_far().done == 100
    start(tmp_path, "--set", "num_sources=20")
    assert runs.open_run(tmp_path).how_far().done == M
    assert "200 of 200" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "num_sources=13"), "num_sources: 12 in the run, 13 here"),
        (("--set", "color=red"), "needs arguments that run_games:threshold takes"),
        (("--set", "color"), "needs arguments as name=value"),
        (("--law", "cauchy:1"), "needs a law such as grid:0.2,0.4"),
        (("--law", "beta:1"), "needs a law such as grid:0.2,0.4"),
        (("--law", "point:x"), "could not convert"),
        (("--law", "uniform"), "needs a law such as grid:0.2,0.4 (one of grid, uniform, beta, point); got uniform: "),
        (("--seed", 2**63), "needs seed between -2**63 and 2**63; got int 9223372036854775808"),
        (("--distributed", "somewhere"), "needs --distributed to be auto or host:port,i/n; got somewhere"),
        (("--shard", "2/2"), "needs a shard i/n"),
        (("--shard", "1/2", "--ray"), "needs one of --shard"),
        (("--game", "run_games:nothing"), "needs a function nothing in a module run_games"),
        (("--game", "run_games:NOTHING"), "needs a function NOTHING in a module run_games; got int 3"),
        (("--game", "no.such:game"), "needs a function game in a module no.such"),
        (("--game", "run_games"), "needs package.module:factory or one of"),
    ],
)
def test_errors_are_one_line_and_exit_with_1(tmp_path, words, message):
    start(tmp_path)
    with pytest.raises(SystemExit) as caught:
        start(tmp_path, *words)
    text = str(caught.value.code)
    assert text.startswith("jaxame run: ")
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("attribute", "RUN", "--alternative", "up"), "needs alternative to be one of"),
        (("attribute", "RUN", "--copies", 0), "needs copies to be an integer >= 1; got int 0"),
        (("attribute", "RUN", "--out", "RUN"), "needs --out to be a file that can be written; got"),
        (("report", "RUN", "--out", "RUN/manifest.json/report.html"), "needs --out in a folder that can be made; got"),
        (("export", "RUN", "RUN/manifest.json/table.csv"), "needs the table in a folder that can be made; got"),
        (("export", "RUN/none.npz", "table.csv"), "none.npz: No such file or directory"),
        (("export", "RUN/cut.npz", "table.csv"), "cut.npz, which is not one (BadZipFile)"),
    ],
)
def test_mistakes_are_told_in_a_line_and_before_the_work(tmp_path, monkeypatch, words, message):
    start(tmp_path, "--quiet")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs.Run, "estimate", lambda *_, **__: pytest.fail("estimated"))
    with pytest.raises(SystemExit) as caught:
        command(*(str(word).replace("RUN", str(tmp_path)) for word in words))
    text = str(caught.value.code)
    assert text.startswith(f"jaxame {words[0]}: needs ")
    assert message in text
    assert "\n" not in text


def test_what_is_wrong_for_any_game_is_told_before_it_is_made(tmp_path, monkeypatch):
    start(tmp_path, "--quiet")
    monkeypatch.setattr("run_games.threshold", lambda: pytest.fail("made"))
    for words, message in (
        (("--law", "cauchy:1"), "needs a law such as"),
        (("--seed", 2**63), "needs seed between"),
        (("--num-submodels", 1), "needs num_submodels to be an integer >= 2; got int 1"),
        (("--chunk-rows", 0), "needs chunk_rows to be an integer >= 1; got int 0"),
        (("--gpus", 1), "needs --ray with --address, --cpus and --gpus; got them without it"),
        (("--address", "auto"), "needs --ray with --address, --cpus and --gpus; got them without it"),
        (("--cpus", 2), "needs --ray with --address, --cpus and --gpus; got them without it"),
        (("--law", "point:0.5"), "law.name: Grid in the run, PointMass here"),
        (("--seed", 1), "key: [0, 0] in the run, [0, 1] here"),
        (("--paired",), "paired: False in the run, True here"),
        (("--num-submodels", M - 1), f"needs at least the {M} submodels"),
    ):
        with pytest.raises(SystemExit) as caught:
            start(tmp_path, *words)
        assert message in str(caught.value.code)


def test_what_is_wrong_for_any_game_is_told_before_a_row_is_trained(tmp_path):
    start(tmp_path, "--quiet")

    def game(keys, masks):
        pytest.fail("trained")

    game.num_sources = 12
    with pytest.raises(ValueError, match=r"law\.name"):
        runs.start(tmp_path, game, key=jax.random.key(0), law=PointMass(0.5), num_submodels=M)


@pytest.mark.parametrize(("array", "how"), [("seconds", "cut"), ("seconds", "removed"), ("utilities", "cut")])
def test_a_damaged_run_is_told_of_and_mended(tmp_path, capsys, array, how):
    start(tmp_path, "--quiet")
    path = tmp_path / array / "c" / ("3/0" if array == "utilities" else "3")
    path.write_bytes(path.read_bytes()[:9])
    if how == "removed":
        path.unlink()
    command("status", tmp_path)
    assert ("184 of 200" in capsys.readouterr().out) == (array == "seconds")
    with pytest.raises(SystemExit, match="needs all 200 rows"):
        command("report", tmp_path, "--quiet")
    assert path.exists() == (how == "cut")
    command("resume", tmp_path, "--quiet")
    assert capsys.readouterr().out.endswith(f"200 of 200 submodels are in {tmp_path}.\n")
    assert runs.open_run(tmp_path).missing() == {}


def report_of(place, monkeypatch, *more):
    """Return what a report is told, but for its pages."""
    told = {}
    monkeypatch.setattr(jaxame.Attribution, "report", lambda self, path, **own: told.update(own, result=self) or path)
    monkeypatch.setattr("jaxame.growth.selections", lambda *_, **__: [])
    command("report", place, "--quiet", *more)
    return told


def test_a_report_has_no_pictures_of_another_game(tmp_path, monkeypatch, caplog):
    start(tmp_path, "--quiet")
    make = run_games.threshold

    def made(num_sources):
        game = make()
        game.fingerprint, game.about = {"num_sources": num_sources}, {"num_sources": 99, "unit": "points"}
        return game

    monkeypatch.setattr("run_games.threshold", lambda: made(12))
    told = report_of(tmp_path, monkeypatch)
    assert told["game"].about["unit"] == "points"
    assert told["result"].about["game"] == {"num_sources": 12, "unit": "points"}  # what trained it, not what reports
    assert "no pictures" not in caplog.text
    monkeypatch.setattr("run_games.threshold", lambda: made(13))
    told = report_of(tmp_path, monkeypatch)
    assert told["game"] is None
    assert told["result"].about["game"] == {"num_sources": 12}
    assert f"no pictures: the game of {tmp_path} is another one when made here: num_sources: 12 in" in caplog.text


def test_a_report_on_some_rows_says_so(tmp_path, monkeypatch):
    start(tmp_path, "--quiet", "--shard", "0/2")
    with monkeypatch.context() as patched:
        patched.setattr(commands, "make_again", lambda _: pytest.fail("made"))
        with pytest.raises(SystemExit, match="needs all 200 rows"):
            command("report", tmp_path)
    lines = report_of(tmp_path, monkeypatch, "--partial")["command"].splitlines()
    assert lines[1].endswith("--copies 4 --partial")


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (jaxame.AttributionError("query 0: no\nquery 1: no"), "jaxame x: query 0: no; query 1: no"),
        (FileNotFoundError(2, "No such file", "a.npz"), "jaxame x: needs a file or folder .*; got a.npz: No such file"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB\nmore"), "jaxame x: needs more memory; .* 9 GB$"),
    ],
)
def test_errors_of_several_lines_take_one(error, message):
    with pytest.raises(SystemExit, match=message):
        cli.with_errors_in_a_line("jaxame x", False, raising(error))
    with pytest.raises(type(error)):
        cli.with_errors_in_a_line("jaxame x", True, raising(error))


def test_an_interrupted_command_says_so(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.with_errors_in_a_line("jaxame demo", False, raising(KeyboardInterrupt()))
    assert caught.value.code == commands.STOPPED
    assert capsys.readouterr().err == "jaxame demo: stopped\n"


def test_debug_shows_where_an_error_came_from(tmp_path):
    for words in (("status", tmp_path / "none"), ("resume", tmp_path / "none"), ("export", tmp_path, "a.xls")):
        with pytest.raises(SystemExit) as caught:
            command(*words)
        assert str(caught.value.code).startswith(f"jaxame {words[0]}: needs ")
    with pytest.raises(FileNotFoundError):
        command("status", tmp_path / "none", "--debug")


def test_a_package_that_is_missing_is_told(tmp_path, monkeypatch):
    start(tmp_path, "--quiet")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit, match=r"jaxame resume: .*ray.*pip install 'jaxame\[data,ray\]'"):
        command("resume", tmp_path, "--ray")


def test_a_run_from_python_is_resumed_from_python(tmp_path):
    game = factories.make(GAME, ())[0]
    runs.start(tmp_path, game, key=jax.random.key(0), law=PointMass(0.5), num_submodels=9)
    with pytest.raises(SystemExit, match=r"use jaxame\.runs from Python"):
        command("resume", tmp_path)


def test_laws_by_name():
    known = {"grid:0.2,0.4": Grid((0.2, 0.4)), "uniform:0.01": TruncatedUniform(0.01), "beta:2,3": Beta(2, 3)}
    known |= {"beta:2,3,0.1": Beta(2, 3, 0.1), "point:0.5": PointMass(0.5)}
    assert {text: commands.parse_law(text) for text in known} == known


@pytest.mark.slow
def test_a_bug_in_a_factory_is_not_taken_for_wrong_arguments(tmp_path):
    with pytest.raises(TypeError, match="has no len"):
        command("run", tmp_path, "--game", "run_games:broken", "--num-submodels", 10)


def test_a_new_query_needs_no_training(tmp_path, capsys):
    run = tmp_path / "run"
    command("run", run, "--game", "run_games:keeping", "--num-submodels", 40, "--quiet")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    options = "--copies", 2, "--quiet", "--out", tmp_path / "result.npz"
    command("query", run, "--query", "run_games:margins", "--set", "number=3", *options)
    assert {path: path.read_bytes() for path in before} == before
    game = factories.make("run_games:keeping", ())[0]
    opened = runs.open_run(run)
    found, _ = jaxame.load(tmp_path / "result.npz"), capsys.readouterr()
    wanted = opened.estimate(opened.ask(factories.make("run_games:margins", ["number=3"])[0], game), copies=2)
    np.testing.assert_array_equal(found.values, wanted.values)
    assert found.num_queries == 3
    with pytest.raises(SystemExit, match="needs points among the 5 whose outputs are kept; got 1 others"):
        command("query", run, "--query", "run_games:margins", "--set", "number=6", *options)


def test_a_query_of_a_run_that_is_not_done_is_refused_before_it_is_answered(tmp_path, monkeypatch):
    run = tmp_path / "run"
    command(
        "run",
        run,
        "--game",
        "run_games:keeping",
        "--num-submodels",
        80,
        "--quiet",
        "--shard",
        "0/2",
        "--chunk-rows",
        16,
    )
    monkeypatch.setattr(runs, "answer", lambda *_: pytest.fail("answered"))
    with pytest.raises(SystemExit, match="needs all 80 rows"):
        command("query", run, "--query", "run_games:margins", "--set", "number=3")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped_says_how_to_go_on(tmp_path, kind):
    program = [sys.executable, "-m", "jaxame"]
    words = ["run", str(tmp_path / "run"), "--game", GAME, "--num-submodels", str(M), "--set", "seconds=0.3"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen([*program, *words], env=environment, stderr=subprocess.PIPE, text=True)
    while len(list((tmp_path / "run").glob("commits/*"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(kind)
    text = process.communicate()[1]
    if kind != signal.SIGKILL:
        assert process.returncode == commands.STOPPED
        assert f"To go on: jaxame resume {tmp_path}/run" in text
    found = runs.open_run(tmp_path / "run")
    done = found.how_far().done
    assert 2 * 16 <= done < M
    assert found.train(factories.make(GAME, ())[0]) == M - done
    game = factories.make(GAME, ())[0]
    np.testing.assert_array_equal(found.utilities(), np.asarray(game(None, found.design().masks())))
