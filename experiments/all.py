"""Every experiment, one after the other.

`python -m experiments.all --smoke` runs each in small, all in one process, and checks its claim at a loose bound; one
whose data files are not there is left out. Without `--smoke` each runs in a process of its own, as the stored results
were made, and writes its records and its figure to `--results`, named by `--machine`; `python -m experiments.tables`
then makes the tables of them.
"""

import dataclasses
import importlib
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import tyro

from experiments import records
from jaxame import cli

NAMES = (
    "poisoned_digits",
    "poisoned_cifar10",
    "gradient_baselines",
    "robustness",
    "other_attacks",
    "wrong_predictions",
    "hierarchy",
    "fdr_calibration",
    "selection_options",
    "interval_coverage",
    "estimator_ablation",
    "sample_complexity",
    "planning",
    "shapley_threshold",
    "shapley_mnist",
    "valuation",
    "common_random_numbers",
    "warm_start",
)
OPTIONS: dict[str, tuple[str, ...]] = {
    "poisoned_cifar10": ("--seeds", "0", "1"),
    "shapley_threshold": ("--workers", "2"),
    "shapley_mnist": ("--seeds", "3", "--workers", "2"),
}
"""What the stored results were made with, besides defaults."""
SEEDS = {"poisoned_digits": range(5)}
"""Experiments of one seed each that were run several times."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which experiments to run, and how."""

    names: tuple[str, ...] = NAMES
    """Experiments."""
    smoke: bool = False
    """In small, in this process; ends with an error if a claim is not met."""
    results: Path = Path("experiments/results")
    """Folder for records and figures, unless in small."""
    machine: str = "cpu-2-cores"
    """Kind of machine, for the names of the files."""


def smoke(name: str) -> str:
    """Run an experiment in small, write its records and draw its figure; return why it failed, or nothing."""
    experiment = importlib.import_module(f"experiments.{name}")
    with tempfile.TemporaryDirectory() as folder:
        out = {"out": Path(folder) / "out"} if _takes(experiment, "out") else {}
        try:
            results = experiment.main(experiment.Settings(smoke=True, **out))
        except SystemExit as exit_:
            return str(exit_)
        except FileNotFoundError as error:
            print(f"{name} is left out: {error}")
            return ""
        except Exception:  # the others are to run all the same
            return traceback.format_exc()
        try:
            records.finish(results, Path(folder) / "records.json")
            if _takes(experiment, "figure"):
                experiment.draw(results, Path(folder) / "figure.png")
        except Exception:
            return traceback.format_exc()
    return ""


def runs(name: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return of every stored run of an experiment what ends the names of its files, and its options."""
    if name not in SEEDS:
        return [("", OPTIONS.get(name, ()))]
    return [(f".seed{seed}", ("--seed", str(seed))) for seed in SEEDS[name]]


def run(name: str, settings: Settings) -> str:
    """Run an experiment as a program, as often as it has stored runs; return why it failed, or nothing."""
    experiment = importlib.import_module(f"experiments.{name}")
    for ending, options in runs(name):
        path = settings.results / f"{name}.{settings.machine}{ending}.json"
        command = [sys.executable, "-m", f"experiments.{name}", *options, "--json", str(path)]
        if _takes(experiment, "figure"):
            command += ["--figure", str(path.with_suffix(".png"))]
        status = subprocess.run(command, check=False).returncode
        if status:
            return f"status {status}"
    return ""


def _takes(experiment: Any, setting: str) -> bool:
    return any(field.name == setting for field in dataclasses.fields(experiment.Settings))


def main(settings: Settings) -> None:
    """Run them; ends with an error that names those that failed."""
    unknown = set(settings.names) - set(NAMES)
    if unknown:
        raise SystemExit(f"needs names among {', '.join(NAMES)}; got {', '.join(sorted(unknown))}")
    failed = {}
    for name in settings.names:
        begin = time.perf_counter()
        reason = smoke(name) if settings.smoke else run(name, settings)
        if reason:
            failed[name] = reason
        seconds = time.perf_counter() - begin
        print(f"== {name}: {'failed' if reason else 'done'} after {seconds:.0f} s", flush=True)
    if failed:
        raise SystemExit("\n".join(f"{name}: {reason}" for name, reason in failed.items()))


if __name__ == "__main__":
    chosen = tyro.cli(Settings, description=__doc__)
    cli.use_all_cores()
    if chosen.smoke:  # in small, compilation takes most of the time, and less optimised code compiles faster
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=1"
    main(chosen)
