"""The demo as a user runs it, and its parts."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxame import cli, demo

ROOT = Path(__file__).parents[1]
FIELDS = {
    "precision", "recall", "num_empty", "attack_success", "clean_accuracy", "num_submodels", "num_sources", "fdr",
    "copies", "seed", "seconds_total", "seconds_train", "seconds_regress", "peak_rss_mb", "versions", "devices",
}  # fmt: skip


def test_attack_changes_only_the_poisoned_images():
    settings, key = demo.Settings(), jax.random.key(7)
    attacked = demo.attack(settings, key)
    clean = demo.attack(demo.Settings(patch_value=0.0), key)
    changed = np.flatnonzero((attacked.train.x != clean.train.x).any(axis=(1, 2)))
    np.testing.assert_array_equal(changed, attacked.poisoned)
    assert (attacked.train.y[attacked.poisoned] == attacked.target).all()
    assert (attacked.train.x[attacked.poisoned][:, -2:, :2] == settings.patch_value).all()
    assert (attacked.query_y != attacked.target).all()
    assert attacked.query_x.shape == (20, 8, 8)


@pytest.mark.slow
def test_smoke_run_writes_everything(tmp_path):
    """In a process of its own, as a user would run it: `python -m experiments.poisoned_digits` is `jaxame demo`."""
    summary_file, out = tmp_path / "summary.json", tmp_path / "run"
    command = [sys.executable, "-m", "experiments.poisoned_digits", "--smoke", "--seed", "101"]
    done = subprocess.run(
        [*command, "--json", summary_file, "--out", out],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(summary_file.read_text())
    assert summary.keys() >= FIELDS
    assert summary["num_submodels"] == demo.SMOKE.num_submodels
    assert summary["seed"] == 101
    assert {path.name for path in out.iterdir()} == {
        "attribution.npz", "figure.png", "report.html", "run.npz", "settings.json", "summary.json"
    }  # fmt: skip
    with np.load(out / "run.npz", allow_pickle=False) as arrays:
        assert arrays["utilities"].shape == (summary["num_submodels"], 4)
    assert "attack success" in done.stdout
    assert "training submodels" in done.stdout


def test_smoke_check_can_fail():
    good = {"attack_success": 1.0, "precision": 1.0, "recall": 1.0}
    assert demo.makes_sense(good)
    for name in good:
        assert not demo.makes_sense(good | {name: 0.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_train": 5000}, "num_train less than"),
        ({"num_poisoned": 2000}, "num_poisoned from 1 to"),
        ({"num_queries": 0}, "num_queries from 1 to"),
        ({"patch_size": 0}, "patch_size to be an integer >= 1"),
        ({"fdr": 1.5}, "fdr strictly between 0 and 1"),
        ({"copies": 0}, "copies to be an integer >= 1"),
        ({"folds": 4000}, "at most 3000 folds"),
        ({"seed": 2**63}, "seed between"),
        ({"json": Path("/proc/none/summary.json")}, "--json in a folder that can be made"),
        ({"inclusion": (0.0, 0.5)}, "strictly"),
        ({"num_submodels": 1}, "num_submodels to be an integer >= 2"),
    ],
)
def test_bad_settings_are_refused_before_training(change, message, tmp_path, monkeypatch):
    def no_training(*_, **__):
        raise AssertionError("trained")

    monkeypatch.setattr(demo, "evaluate", no_training)
    monkeypatch.setattr(demo, "full_model", no_training)
    with pytest.raises(ValueError, match=message):
        demo.run(demo.Settings(out=tmp_path, **change), Console(quiet=True))


def test_command_line_reports_errors_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match="jaxame demo: needs fdr strictly between 0 and 1; got float 2"):
        cli.run_demo(demo.Settings(out=tmp_path, fdr=2.0))


def test_smoke_flag_changes_defaults_but_not_what_is_given():
    assert cli.demo_defaults(["demo", "--smoke"]) == demo.SMOKE
    assert cli.demo_defaults(["demo"]) == demo.Settings()
