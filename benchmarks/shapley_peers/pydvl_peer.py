"""pyDVL's estimators of Shapley values, in an environment of its own, as it needs numpy below 2.

`python -m benchmarks.environments pydvl DIR` makes that, and says what the variable `JAXAME_PYDVL_PYTHON` is to be.

Not among them: group testing, which states a constraint for every pair of sources to a general solver; uniform samplers
and maximum sample reuse, whose weights for Shapley values grow as 2^N; delta-Shapley, which leaves sizes out.
"""

import functools
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.shapley_peers.asked import Ask, Asked
from jaxame import checks, exchange
from jaxame.attribution import Attribution
from jaxame.baselines.evaluation import Budget

PYTHON = "JAXAME_PYDVL_PYTHON"
_ROOT = Path(__file__).parents[2]
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
        with exchange.start(_command(job), variables={"PYTHONPATH": str(_ROOT)}) as channel:
            outcome.update(channel.answer(ask, num_sources))
        return np.array(outcome["values"])

    values = Asked(counted).values(run)
    return counted.result(f"pyDVL {method}", values, None, version=outcome["version"])


ESTIMATORS: dict[str, Callable[..., Attribution]] = {
    f"pyDVL {method}": functools.partial(_estimate, method) for method in _LEAST
}
