"""Shapley values at equal budget: ours against 15 baselines, on games whose values are known.

`python -m benchmarks.shapley --json FILE` runs estimators x games x budgets. The error of an estimate is its L2
distance from the true values. For every game and budget the table gives the mean error over seeds of the best estimator
that is not ours, and ours relative to it, with the jackknife standard error of the ratio over seeds. Two means that
differ by less than two joint standard errors, or are both below 1e-6, are called a tie.

Three kinds of games: "sparse", at most 10 of 1,000 sources matter; "dense", all of 200 do; "tiny", with 10 sources.
`--peers shapiq,pydvl` adds those packages' own implementations, see `benchmarks.shapley_peers`. Some of them take
minutes for a game of 1,000 sources; `--estimators` names those to run.
"""

import dataclasses
import functools
import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro

from benchmarks import shapley_estimators as known
from benchmarks import shapley_games, workers
from jaxame import checks, cli, environment

Record = dict[str, Any]
KINDS: dict[str, tuple[Callable[[int], dict[str, tuple[Any, float]]], tuple[int, ...]]] = {
    "sparse": (shapley_games.sparse, (2**10, 2**11, 2**12, 2**13, 2**14)),
    "dense": (shapley_games.dense, (2**9, 2**11, 2**13)),
    "tiny": (shapley_games.tiny, (2**6, 2**8)),
}
SEED, NO_ERROR = 70, 1e-6
_PEERS = ("shapiq", "pydvl")
_LEFT_OUT = ("jaxame, linear",)  # takes as long as the default, which is better


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to race."""

    kinds: tuple[str, ...] = tuple(KINDS)
    """Kinds of games."""
    budgets: tuple[int, ...] = ()
    """Evaluations; by default those of each kind."""
    seeds: int = 20
    """Every seed has games, subsets and noise of its own."""
    estimators: tuple[str, ...] = ()
    """Which to run, by name; by default all, those of the peers too, but for "jaxame, linear"."""
    workers: int = 1
    """Processes, each on a core of its own; seconds are then those of a core."""
    peers: str = ""
    """Comma-separated: shapiq, pydvl. What is not installed is skipped."""
    earlier: Path | None = None
    """File of an earlier run on as many seeds, whose results are kept but for those that are found anew."""
    json: Path | None = None
    """File for the records."""


def main(settings: Settings) -> dict[str, Any]:
    """Run the race and return what goes into the JSON file."""
    unknown = set(settings.kinds) - set(KINDS)
    checks.require(not unknown, f"kinds among {tuple(KINDS)}", sorted(unknown))
    checks.count(settings.workers, "workers")
    peers = tuple(name for name in settings.peers.split(",") if name)
    every = (*known.NAMES, *find_peers(peers))
    names = settings.estimators or tuple(name for name in every if name not in _LEFT_OUT)
    unknown = set(names) - set(every)
    checks.require(not unknown, f"estimators among {every}", sorted(unknown))
    tasks = [
        Task(kind, budget, seed, names, peers)
        for kind in settings.kinds
        for budget in settings.budgets or KINDS[kind][1]
        for seed in range(settings.seeds)
    ]
    found = Found.read(settings, tasks) if settings.earlier else Found({}, {}, {}, {})
    begin = time.perf_counter()
    for task, outcomes in zip(tasks, workers.run_all(play, tasks, settings.workers), strict=True):
        found.add(task, outcomes)
        print(f"{task.kind}, budget {task.budget:,}, seed {task.seed}: {time.perf_counter() - begin:.0f} s", flush=True)
    return {
        "records": summarise(found.errors, found.seconds),
        "skipped": [
            {"kind": kind, "budget": budget, "estimator": name, "reason": reason}
            for (kind, budget, name), reason in found.skipped.items()
        ],
        "settings": {"seeds": settings.seeds, "estimators": list(names), "workers": settings.workers},
        "seconds": time.perf_counter() - begin,
        "devices": environment.devices(),
        "versions": environment.versions(),
        "earlier": found.earlier,
    }


class Task(NamedTuple):
    """The games of one kind and seed at one budget, and who plays."""

    kind: str
    budget: int
    seed: int
    names: tuple[str, ...]
    peers: tuple[str, ...]


Outcome = tuple[str, dict[str, float] | None, str, float]
"""Estimator; its error by game, or None and the reason; seconds."""


class Found(NamedTuple):
    """What was found.

    Attributes:
      errors: of every seed, by kind, game, budget and estimator.
      seconds: of every seed, by kind, budget and estimator.
      skipped: reasons, by kind, budget and estimator.
      earlier: the run of which there are results too.
    """

    errors: dict[tuple[str, str, int, str], list[float]]
    seconds: dict[tuple[str, int, str], list[float]]
    skipped: dict[tuple[str, int, str], str]
    earlier: dict[str, Any]

    @staticmethod
    def read(settings: Settings, tasks: list[Task]) -> "Found":
        """Read what an earlier run found, but for what the tasks find anew.

        Raises:
          ValueError: if it has another number of seeds.
        """
        assert settings.earlier is not None
        run = json.loads(settings.earlier.read_text())
        seeds = run["settings"]["seeds"]
        checks.require(seeds == settings.seeds, f"an earlier run on {settings.seeds} seeds", seeds)
        anew = {(task.kind, task.budget, name) for task in tasks for name in task.names}
        records, skipped = (
            [one for one in run[part] if (one["kind"], one["budget"], one["estimator"]) not in anew]
            for part in ("records", "skipped")
        )
        return Found(
            {(one["kind"], one["game"], one["budget"], one["estimator"]): one["errors"] for one in records},
            {(one["kind"], one["budget"], one["estimator"]): [one["seconds"]] for one in records},
            {(one["kind"], one["budget"], one["estimator"]): one["reason"] for one in skipped},
            {name: run[name] for name in ("settings", "seconds", "devices", "versions")},
        )

    def add(self, task: Task, outcomes: list[Outcome]) -> None:
        """Add what the estimators of a task gave."""
        for name, of_games, reason, took in outcomes:
            if of_games is None:
                self.skipped[task.kind, task.budget, name] = reason
                continue
            self.seconds.setdefault((task.kind, task.budget, name), []).append(took)
            for label, error in of_games.items():
                self.errors.setdefault((task.kind, label, task.budget, name), []).append(error)


def play(task: Task) -> list[Outcome]:
    """Run all estimators on the games of one task."""
    named = KINDS[task.kind][0](task.seed)
    own, noise = zip(*named.values(), strict=True)
    game = shapley_games.SideBySide(own, np.array(noise))
    truth, key = game.shapley(), jax.random.fold_in(jax.random.key(SEED), task.seed)
    outcomes: list[Outcome] = []
    for name, result, reason, took in known.attribute(task.names, game, key, task.budget, find_peers(task.peers)):
        of_games = None
        if result is not None:
            errors = np.linalg.norm(result.values - truth, axis=1).tolist()
            of_games = dict(zip(named, errors, strict=True))
        outcomes.append((name, of_games, reason, took))
    return outcomes


@functools.cache
def find_peers(packages: tuple[str, ...]) -> dict[str, known.Estimator]:
    """Return the estimators of other packages that can run here; print why the others cannot."""
    unknown = set(packages) - set(_PEERS)
    checks.require(not unknown, f"peers among {', '.join(_PEERS)}, separated by commas", sorted(unknown))
    found: dict[str, known.Estimator] = {}
    for package in packages:
        peer: Any = importlib.import_module(f"benchmarks.shapley_peers.{package}_peer")
        for name, estimator in peer.ESTIMATORS.items():
            if reason := peer.missing(name):
                print(f"skipped {name}: {reason}", flush=True)
            else:
                found[name] = estimator
    return found


def summarise(
    errors: dict[tuple[str, str, int, str], list[float]], seconds: dict[tuple[str, int, str], list[float]]
) -> list[Record]:
    """Return a record per game, budget and estimator; `relative` is to the best that is not ours."""
    found = []
    for cell in dict.fromkeys(key[:3] for key in errors):
        own = {key[3]: np.array(values) for key, values in errors.items() if key[:3] == cell}
        others = [name for name in own if name not in known.OURS]
        best = min(others, key=lambda name: own[name].mean()) if others else None
        for name, error in own.items():
            record: Record = dict(zip(("kind", "game", "budget"), cell, strict=True)) | {
                "estimator": name,
                "l2_error": float(error.mean()),
                "l2_error_se": _standard_error(error),
                "errors": error.tolist(),
                "seconds": float(np.median(seconds[cell[0], cell[2], name])),
                "best": name == best,
            }
            found.append(record | ({} if best is None else compare(error, own[best])))
    return found


def compare(own: np.ndarray, best: np.ndarray) -> dict[str, Any]:
    """Compare an estimator's errors over seeds with those of the best that is not ours."""
    difference = own.mean() - best.mean()
    joint = float(np.hypot(_standard_error(own), _standard_error(best)))
    tie = max(own.mean(), best.mean()) < NO_ERROR or abs(difference) < 2 * joint
    with np.errstate(divide="ignore", invalid="ignore"):
        left = (own.sum() - own) / (best.sum() - best)
        ratio = own.mean() / best.mean()
    error = np.sqrt((own.size - 1) / own.size * ((left - left.mean()) ** 2).sum())
    return {
        "relative": float(ratio),
        "relative_se": float(error),
        "verdict": "tie" if tie else "wins" if difference < 0 else "loses",
    }


def _standard_error(error: np.ndarray) -> float:
    return float(error.std(ddof=1) / np.sqrt(error.size)) if error.size > 1 else float("nan")


def show(results: dict[str, Any]) -> None:
    """Print a line per game and budget: the best that is not ours, and ours relative to it."""
    cells: dict[tuple[str, str, int], list[Record]] = {}
    for record in results["records"]:
        cells.setdefault((record["kind"], record["game"], record["budget"]), []).append(record)
    for (kind, game, budget), own in cells.items():
        best = next((record for record in own if record["best"]), None)
        text = "" if best is None else f" {best['estimator']} {best['l2_error']:.3g};"
        for record in own:
            if record["estimator"] in known.OURS and best is not None:
                ratio = f"{record['relative']:.2g} +- {record['relative_se']:.1g}"
                text += f" {record['estimator']} {record['l2_error']:.3g} ({ratio}, {record['verdict']});"
        print(f"{kind}, {game}, {budget:,}:{text}")


if __name__ == "__main__":
    cli.use_all_cores()
    chosen = tyro.cli(Settings, description=__doc__)
    results = main(chosen)
    show(results)
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(results, indent=2) + "\n")
