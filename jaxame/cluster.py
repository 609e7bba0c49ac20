"""Runs over a Ray cluster: every chunk is a task, and what it gives goes into the run.

Workers may die, and join, at any time: the chunk of one that died goes to another, and a run that was stopped goes on
from what is committed. All of them need the packages and the place of the run.
"""

import collections
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxame import checks, factories, runs
from jaxame.types import Progress, silent, tell

_DEATHS = 4  # of workers at one chunk, until it is taken for their cause


class ClusterError(RuntimeError):
    """A chunk was given up, as every worker died that had it; the text says which. Chunks that are done stay."""


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
      place: of a run whose manifest says how its game is made; workers find a folder by its absolute path.
      address: of the cluster; see `ray.init`. A cluster that this process is connected to already is taken.
      cpus: cores that a worker takes; it trains on as many devices.
      gpus: GPUs that a worker takes.
      progress: called after every chunk with the rows that are done, of all.
      stopped: asked after every chunk whether to stop.

    Returns:
      rows computed.

    Raises:
      ValueError: if the game that a worker makes is not the run's, if no machine of the cluster has what a worker
        takes, and as `Run.train` does.
      StoreError: if a worker cannot write.
      ClusterError: if one chunk kills its workers.
    """
    import ray

    run = runs.open_run(place)
    if not ray.is_initialized():
        _connect(address)
    _require_room(cpus, gpus)
    # Unless told otherwise, Ray has a new process for every chunk that takes a GPU, and tries without end where memory
    # runs out.
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_calls=0, max_retries=0)(_train_chunk)
    given = _absolute(place), json.dumps(run.manifest["made_by"]), max(1, int(cpus))
    waiting = {task.remote(*given, chunk): chunk for chunk in run.missing()}
    deaths: collections.Counter[int] = collections.Counter()
    done = run.how_far().done
    computed = 0
    tell(progress, "train", start=done, total=run.num_submodels)
    try:
        while waiting and not stopped():
            for ready in ray.wait(list(waiting), timeout=1.0)[0]:
                chunk = waiting.pop(ready)
                try:
                    rows, facts = ray.get(ready)
                except _died() as error:
                    deaths[chunk] += 1
                    if deaths[chunk] == _DEATHS:
                        raise ClusterError(_given_up(chunk, run.place, error)) from error
                    waiting[task.remote(*given, chunk)] = chunk
                    continue
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


def _connect(address: str | None) -> None:
    """Connect to a cluster. Ray has a handler of SIGTERM of its own, which must not take the place of another's."""
    import ray

    search = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": search})
    finally:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and before not in (None, signal.SIG_DFL):
            signal.signal(signal.SIGTERM, before)


def _require_room(cpus: float, gpus: float) -> None:
    """Require a machine that a worker fits on: Ray would wait for one that joins."""
    import ray

    nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    each = [node["Resources"] for node in nodes() if node["Alive"]]
    machines = [(has.get("CPU", 0), has.get("GPU", 0)) for has in each]
    fits = any(has_cpus >= cpus and has_gpus >= gpus for has_cpus, has_gpus in machines)
    found = ", ".join(f"{has_cpus:g} and {has_gpus:g}" for has_cpus, has_gpus in sorted(set(machines)))
    checks.require(fits, f"a machine in the cluster with {cpus:g} cores and {gpus:g} GPUs for a worker", found)


def _absolute(place: str) -> str:
    """Return a place as workers find it, in whatever folder they are."""
    return place if "://" in place else str(Path(place).resolve())


def _died() -> tuple[type[Exception], ...]:
    """Return what Ray raises for a task whose worker died."""
    from ray import exceptions

    return exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError


def _given_up(chunk: int, place: str, error: Exception) -> str:
    why = str(error).partition("\n")[0]
    return f"needs workers that live through chunk {chunk} of {place}; got {_DEATHS} that died. The last: {why}"


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
    game = _made(made_by, num_devices)
    facts = _Facts()
    run = runs.open_run(place)  # as it is now: it may have grown
    return run.train(game, chunks=[chunk], progress=facts), facts.found


@functools.cache
def _made(made_by: str, num_devices: int) -> Any:
    """Make the game, once for all chunks of a worker."""
    jax.config.update("jax_num_cpu_devices", num_devices)
    return factories.make_again(json.loads(made_by))
