"""How fast the cross-validated LASSO is: ours and the peers, on one problem, in one run on one machine.

`python -m benchmarks.lasso --queries 20 --full-path --peers sklearn,skglm,celer,glmnet,adelie --json FILE`

The law is {.2, .4, .6, .8}; of every query 20 sources are active: `U = sigmoid(count - 6) + 0.1 normal noise`. All
solvers have the same design, folds and penalties and are run to a relative duality gap of 1e-4 on the path of all rows
(ours on those of all folds too), recomputed here in float64. Every solver has processes of its own. Peers get a dense
design, which is prepared before the clock starts; they go from query to query, at the fastest of the settings that were
tried.

glmnet needs `Rscript` with the packages glmnet and doMC (Debian: `apt install r-cran-glmnet r-cran-domc`), skglm and
scikit-learn are taken from the interpreter that runs this, and two peers need an environment of their own:

    python -m venv adelie-env && adelie-env/bin/pip install adelie "numpy<2"
    python -m venv celer-env && celer-env/bin/pip install celer "scikit-learn<1.7"

which `--adelie-python adelie-env/bin/python` and `--celer-python celer-env/bin/python` name, or the environment
variables JAXAME_ADELIE_PYTHON and JAXAME_CELER_PYTHON. `--growth 10000,20000,40000` times ours at several numbers of
sources instead.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from benchmarks.lasso_peers import growth, ours, processes
from benchmarks.lasso_peers import outcome as outcomes
from benchmarks.lasso_peers.outcome import Outcome
from benchmarks.lasso_peers.problem import Size, as_task, draw
from benchmarks.lasso_peers.task import Task
from benchmarks.lasso_peers.tuning import largest_gap, tune
from benchmarks.peers.common import cores
from jaxame import checks, environment

Record = dict[str, Any]
_PEERS = ("sklearn", "skglm", "celer", "glmnet", "adelie")
_SAME_PENALTY = 1e-3  # float32 and float64


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to race."""

    submodels: int = 1000
    """Rows."""
    sources: int = 1000
    """Columns, without knockoffs; at least 20."""
    queries: int = 1
    """Targets."""
    folds: int = 10
    """Of the cross-validation."""
    penalties: int = 100
    """From the smallest that gives zero to its hundredth."""
    seed: int = 0
    """Of everything."""
    knockoffs: bool = True
    """Whether the columns have a redrawn copy."""
    full_path: bool = False
    """Whether early ending is off for every solver."""
    peers: str = ""
    """Comma-separated: sklearn, skglm, celer, glmnet, adelie. One that is not installed is skipped."""
    peer_queries: int | None = None
    """Peers solve the first of the queries only; `seconds_per_query` is that of those."""
    repeats: int = 3
    """Timings of each solver, in turns. With 1, ours has no warm-up, and its seconds hold compilation."""
    adelie_python: str = os.environ.get("JAXAME_ADELIE_PYTHON", sys.executable)
    """Interpreter of the environment with adelie."""
    celer_python: str = os.environ.get("JAXAME_CELER_PYTHON", sys.executable)
    """Interpreter of the environment with celer."""
    growth: str = ""
    """Comma-separated numbers of sources: times ours at each, without peers, and fits the exponents."""
    json: Path | None = None
    """File for the records."""


@dataclasses.dataclass(eq=False)
class Solver:
    """Something to race.

    Attributes:
      record: what is known of it before the race.
      queries: that it solves.
      solve: solves once and returns the seconds, and whatever else is to be recorded.
      outcome: returns the last outcome, once the race is over.
      times: of every timing.
    """

    record: Record
    queries: list[int]
    solve: Callable[[], dict[str, float]]
    outcome: Callable[[], Outcome]
    times: list[dict[str, float]] = dataclasses.field(default_factory=list)


def main(settings: Settings) -> dict[str, Any]:
    """Run the race, or the growth, and return what goes into the JSON file."""
    names = [name for name in settings.peers.split(",") if name]
    checks.require(set(names) <= set(_PEERS), f"peers among {', '.join(_PEERS)}, separated by commas", settings.peers)
    checks.count(settings.sources, "sources", 20)
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(Size)}
    size = Size(**fields)
    if settings.growth:
        results = growth.measure(size, [int(number) for number in settings.growth.split(",")])
    else:
        results = _race(settings, names, size)
    here = ("json", "adelie_python", "celer_python")
    about = {name: value for name, value in dataclasses.asdict(settings).items() if name not in here}
    machine = {"machine": platform.machine(), "system": platform.platform(), "cores": cores()}
    return results | {"settings": about, "machine": machine, "versions": environment.versions()}


def _race(settings: Settings, names: list[str], size: Size) -> dict[str, Any]:
    """Tune the peers, then time all solvers in turns."""
    pythons = {"adelie": settings.adelie_python, "celer": settings.celer_python}
    chosen = {name: pythons.get(name, sys.executable) for name in names}
    for name in names:
        if reason := missing(name, chosen[name]):
            print(f"skipped {name}: {reason}", flush=True)
            del chosen[name]
    task = as_task(draw(size), size)
    num_queries = min(settings.peer_queries or size.queries, size.queries)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "task.npz"
        task.save(path)
        peers = [_peer(name, python, task, path, num_queries) for name, python in chosen.items()]
        with _ours(size, path.with_name("ours.npz"), settings.repeats > 1) as first:
            solvers = [first, *(solver for solver, _ in peers)]
            for _ in range(settings.repeats):
                for solver in solvers:
                    solver.times.append(solver.solve())
        records = [_finished(solver, task) for solver in solvers]
    rate = float(records[0].pop("matmul_gflops"))
    return {"records": records, "tried": [record for _, tried in peers for record in tried], "matmul_gflops": rate}


@contextlib.contextmanager
def _ours(size: Size, path: Path, warm_up: bool) -> Iterator[Solver]:
    with ours.started(size, path, warm_up) as solve:
        yield Solver({"solver": "jaxame"}, list(range(size.queries)), solve, lambda: outcomes.load(path))


def _peer(name: str, python: str, task: Task, path: Path, num_queries: int) -> tuple[Solver, list[Record]]:
    """Return a peer at its best setting, and a record of every setting that was tried."""
    peer: Any = importlib.import_module(f"benchmarks.lasso_peers.{name}_peer")

    def run(setting: Record, fits: list[int], queries: list[int]) -> Outcome:
        job = {"peer": name, "task": str(path), "fits": fits, "queries": queries, "setting": setting}
        return processes.run(python, peer.WORKER, job)

    best, tried = tune(name, peer, run, task, num_queries)
    queries, last = list(range(num_queries)), list[Outcome]()

    def solve() -> dict[str, float]:
        last[:] = [run(best, [task.num_folds, *range(task.num_folds)], queries)]
        return {"seconds": last[0].seconds}

    record = {"solver": name, "setting": best, "device": "cpu"}
    return Solver(record, queries, solve, lambda: last[0]), tried


def missing(name: str, python: str) -> str:
    """Return why a peer cannot run, or an empty string."""
    peer: Any = importlib.import_module(f"benchmarks.lasso_peers.{name}_peer")
    if name == "glmnet":
        return _glmnet_missing()
    try:
        found = subprocess.run([python, "-c", f"import scipy, {name}"], capture_output=True).returncode == 0
    except OSError:
        found = False
    packages = " ".join(f'"{package}"' for package in peer.PACKAGES)
    return "" if found else f"{python} cannot import it; `pip install {packages}`{_where(name)}"


def _where(name: str) -> str:
    return f" in an environment of its own and name that by --{name}-python" if name in ("adelie", "celer") else ""


def _glmnet_missing() -> str:
    if shutil.which("Rscript") is None:
        return "there is no Rscript"
    done = subprocess.run(["Rscript", "-e", "library(glmnet)"], capture_output=True, text=True)
    return f"Rscript says {done.stderr.strip()[-200:]}" if done.returncode else ""


def _finished(solver: Solver, task: Task) -> Record:
    """Return the record of a solver, with medians and the certificate."""
    outcome, queries = solver.outcome(), solver.queries
    assert outcome.fits is not None
    given = np.isfinite(outcome.fits.penalty)
    same = np.isclose(outcome.fits.penalty[given], task.penalties[queries][given], rtol=_SAME_PENALTY)
    checks.require(bool(same.all()), "the penalties of the problem", f"others from {solver.record['solver']}")
    times = {key: float(np.median([time[key] for time in solver.times])) for key in solver.times[0]}
    return (
        solver.record
        | times
        | outcome.about
        | {
            "seconds_per_query": times["seconds"] / len(queries),
            "all_seconds": [time["seconds"] for time in solver.times],
            "queries_run": len(queries),
            "max_relative_gap": largest_gap(task, queries, outcome),
            "num_gaps_checked": int(given.sum()) * (1 + len(outcome.fold_fits)),
            "num_penalties_fitted": float(np.isfinite(outcome.held_out).sum(axis=1).mean()),
            "at_min": np.nanargmin(outcome.held_out, axis=1).tolist(),
            "peak_rss_mb": outcome.peak_rss_mb,
        }
    )


def _print(results: dict[str, Any]) -> None:
    for row in results["records"]:
        if "seconds_per_query" in row:
            time = f"{row['seconds']:10.4g} s, {row['seconds_per_query']:10.4g} s a query"
            print(f"{row['solver']:8} {time}, gap {row['max_relative_gap']:.1e}, {row['peak_rss_mb']:.0f} MB")
    for key, value in results.get("exponents", {}).items():
        print(f"exponent of {key} in the number of sources: {value:.3f}")
    if "matmul_gflops" in results:
        print(f"matrix product: {results['matmul_gflops']:.0f} GFLOP/s")


if __name__ == "__main__":
    chosen = tyro.cli(Settings, description=__doc__)
    jax.config.update("jax_platforms", "cpu")  # an accelerator is for the process of our solver
    results = main(chosen)
    _print(results)
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(results, indent=2) + "\n")
