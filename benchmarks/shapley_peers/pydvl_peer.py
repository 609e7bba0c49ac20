"""pyDVL's estimators of Shapley values, in an environment of its own, as it needs numpy below 2.

`python -m venv DIR && DIR/bin/pip install pydvl`; the variable `JAXAME_PYDVL_PYTHON` names `DIR/bin/python`.

Not among them: group testing, which states a constraint for every pair of sources to a general solver; uniform samplers
and maximum sample reuse, whose weights for Shapley values grow as 2^N; delta-Shapley, which leaves sizes out.
"""

import functools
import json
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.lasso_peers import processes
from benchmarks.shapley_peers.asked import Ask, Asked
from jaxame import checks
from jaxame.attribution import Attribution
from jaxame.baselines.evaluation import Budget

PYTHON = "JAXAME_PYDVL_PYTHON"
_WORKER = "benchmarks.shapley_peers.pydvl_worker"
_HAS_PYDVL = "import importlib.util, sys; sys.exit(importlib.util.find_spec('pydvl') is None)"
_LEAST: dict[str, Callable[[int], int]] = {
    "permutation": lambda num_sources: num_sources + 1,
    "antithetic permutation": lambda num_sources: 2 * num_sources,
    "truncated permutation": lambda num_sources: num_sources + 1,
    "Owen": lambda num_sources: 2 * num_sources,
    "antithetic Owen": lambda num_sources: 4 * num_sources,
    "stratified": lambda num_sources: 2 * num_sources,
}
"""Evaluations with which every source has an estimate."""


def missing(name: str) -> str:
    """Return what an estimator lacks to run here, or an empty string."""
    del name
    python = os.environ.get(PYTHON)
    if not python:
        return f"{PYTHON} does not name a Python with pyDVL"
    if not Path(python).is_file():
        return f"{PYTHON} is {python}, which is no file"
    found = subprocess.run([python, "-c", _HAS_PYDVL], check=False).returncode == 0
    return "" if found else f"{python} has no pyDVL"


def _command(job: dict[str, Any]) -> list[str]:
    return [os.environ[PYTHON], "-m", _WORKER, json.dumps(job)]


def _estimate(method: str, game: Any, *, key: jax.Array, budget: int) -> Attribution:
    num_sources = checks.count(getattr(game, "num_sources", 0), "game.num_sources")
    counted = Budget(game, key, budget, _LEAST[method](num_sources))
    seed = int(counted.rng.integers(2**31))
    job = {"method": method, "num_sources": num_sources, "budget": counted.budget, "seed": seed}
    outcome: dict[str, Any] = {}

    def run(ask: Ask) -> np.ndarray:
        outcome.update(converse(_command(job), num_sources, ask))
        return np.array(outcome["values"])

    values = Asked(counted).values(run)
    return counted.result(f"pyDVL {method}", values, None, version=outcome["version"])


def converse(command: list[str], num_sources: int, ask: Ask) -> dict[str, Any]:
    """Answer what a worker asks, see `pydvl_worker`, and return its outcome.

    Raises:
      WorkerError: if the worker ends without one.
    """
    with processes.start(command, {}) as (process, errors):
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                return json.loads(line)
            bits = np.frombuffer(bytes.fromhex(line), np.uint8)
            utility = ask(np.unpackbits(bits, count=num_sources).astype(bool))[0]
            with suppress(BrokenPipeError):  # of a worker that is gone: then there is no further line
                print(float(utility), file=process.stdin, flush=True)
        processes.finish(process, errors)
    raise processes.WorkerError("the worker ended without an outcome")


ESTIMATORS: dict[str, Callable[..., Attribution]] = {
    f"pyDVL {method}": functools.partial(_estimate, method) for method in _LEAST
}
