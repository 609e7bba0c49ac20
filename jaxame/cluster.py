"""Runs over a Ray cluster: every chunk is a task, and what it gives goes into the run.

Workers may die, and join, at any time: Ray gives the chunk of one that died to another, and a run that was stopped goes
on from what is committed. All of them need the packages and the place of the run.
"""

import functools
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import jax

from jaxame import factories, runs
from jaxame.types import Progress, silent, tell

_ALLOW_MORE = -1  # times that Ray tries a chunk again after a worker died


def train(
    place: str,
    *,
    address: str | None = None,
    cpus: float = 1,
    gpus: float = 0,
    progress: Progress = silent,
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Compute the chunks of a run that are missing, on a Ray cluster.

    Args:
      place: of a run whose manifest says how its game is made.
      address: of the cluster; see `ray.init`. A cluster that this process is connected to already is taken.
      cpus: cores that a worker takes; it trains on as many devices.
      gpus: GPUs that a worker takes.
      progress: called after every chunk with the rows that are done, of all.
      stopped: asked after every chunk whether to stop.

    Returns:
      rows computed.

    Raises:
      ValueError: if the game that a worker makes is not the run's, and as `Run.train` does.
      StoreError: if a worker cannot write.
    """
    import ray

    run = runs.open_run(place)
    made_by = json.dumps(run.manifest["made_by"])
    if not ray.is_initialized():
        search = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        ray.init(address=address, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": search})
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_ALLOW_MORE)(_train_chunk)
    waiting = [task.remote(place, made_by, max(1, int(cpus)), chunk) for chunk in run.missing()]
    done = run.how_far().done
    computed = 0
    tell(progress, "train", start=done, total=run.num_submodels)
    try:
        while waiting and not stopped():
            ready, waiting = ray.wait(waiting, timeout=1.0)
            for rows, facts in ray.get(ready):
                computed += rows
                if facts:
                    tell(progress, "train", **facts)
                progress("train", done + computed, run.num_submodels)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        for left in waiting:
            ray.cancel(left, force=True)
    return computed


class _Facts:
    """An `Observer` that keeps what it is told of new submodels."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Do nothing: how far the run is, the driver counts."""

    def note(self, stage: str, **facts: float) -> None:
        """Keep the facts, but for where the run stood."""
        if "start" not in facts:
            self.found = facts


def _train_chunk(place: str, made_by: str, num_devices: int, chunk: int) -> tuple[int, dict[str, float]]:
    """Compute one chunk, on a worker; return the rows computed, and what an `Observer` takes of them."""
    run, game = _opened(place, made_by, num_devices)
    facts = _Facts()
    return run.train(game, chunks=[chunk], progress=facts), facts.found


@functools.cache
def _opened(place: str, made_by: str, num_devices: int) -> tuple[runs.Run, Any]:
    """Open the run and make its game, once for all chunks of a worker."""
    jax.config.update("jax_num_cpu_devices", num_devices)
    return runs.open_run(place), factories.make_again(json.loads(made_by))
