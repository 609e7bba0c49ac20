"""Many queries a batch at a time: what a batch holds bounds the memory, and devices take batches side by side."""

import concurrent.futures
import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxame.lasso import admm, condense
from jaxame.lasso.problem import Problem
from jaxame.lasso.workset import BLOCK
from jaxame.types import Progress, tell

QUERIES_AT_ONCE = 5
"""Enough for the products over all columns to run near full speed, with their folds."""

_PROCESS_BYTES = 500_000_000
T = TypeVar("T")


Report = Callable[..., None]
"""Called as `report(step, **facts)` by a batch after each of its steps; see `jaxame.types.Observer` for the facts."""


def column_counts(counts: np.ndarray, queries: np.ndarray) -> dict[str, int]:
    """Return what an `Observer` takes of the numbers of columns `[Q]` in the fits of some `queries`, `bool [Q]`."""
    return {"fewest": int(counts[queries].min()), "most": int(counts[queries].max())} if queries.any() else {}


def batch_size(num_queries: int, num_devices: int, at_once: int = QUERIES_AT_ONCE) -> int:
    """Return the number of queries in a batch: batches of one size, so that they are compiled once."""
    num_batches = -(-num_queries // at_once)
    num_batches = -(-num_batches // num_devices) * num_devices
    return -(-num_queries // min(num_batches, num_queries))


def _take(problem: Problem, start: int, size: int) -> Problem:
    """Queries `start` to `start + size` of a problem, constant ones in place of those beyond the last."""
    query = np.arange(start, start + size)
    index = jnp.asarray(np.minimum(query, problem.y.shape[0] - 1))
    missing = jnp.asarray(query >= problem.y.shape[0])
    factor = problem.penalty.factor
    return dataclasses.replace(
        problem,
        y=jnp.where(missing[:, None], 0.0, problem.y[index]),
        weight=problem.weight[index],
        z_inverse=problem.z_inverse[index],
        unit=jnp.where(missing, 0.0, problem.unit[index]),
        penalty=dataclasses.replace(problem.penalty, factor=factor[index] if len(factor) > 1 else factor),
    )


def in_batches(
    problem: Problem,
    solve: Callable[[Problem, np.ndarray, Report], T],
    *,
    steps: int,
    devices: Sequence[jax.Device] | None,
    progress: Progress,
    stage: str,
    at_once: int = QUERIES_AT_ONCE,
) -> list[T]:
    """Solve the problems of all queries, batch by batch.

    Args:
      problem: `Q` queries.
      solve: solves one batch, given the numbers of its queries too (the last in place of those beyond it); calls its
        `Report` after each of at most `steps` steps.
      steps: at most so many per batch.
      devices: to share the batches out to; by default the one where the problem is.
      progress: called with `stage` and the steps of all batches.
      stage: name for `progress`.
      at_once: largest number of queries in a batch.

    Returns:
      what `solve` returned for each batch, of `batch_size` queries; the last may hold some beyond the `Q`th.
    """
    num_queries, places = problem.y.shape[0], list(devices or [None])
    size = batch_size(num_queries, len(places), at_once)
    starts = range(0, num_queries, size)
    lock, done = threading.Lock(), dict.fromkeys(starts, 0)

    def report(start: int, step: int, **facts: int) -> None:
        with lock:
            done[start] = step
            if facts:
                tell(progress, stage, **facts)
            progress(stage, sum(done.values()), steps * len(starts))

    def run(batch: int, start: int) -> T:
        place = places[batch % len(places)]
        part = jax.device_put(_take(problem, start, size), place)
        with problem.numerics(), jax.default_device(place):
            own = np.minimum(np.arange(start, start + size), num_queries - 1)
            result = solve(part, own, functools.partial(report, start))
        if done[start] < steps:  # it ended early
            report(start, steps)
        return result

    tell(progress, stage, start=0, total=steps * len(starts))
    with concurrent.futures.ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(run, range(len(starts)), starts))


def memory(
    num_rows: int,
    num_columns: int,
    num_queries: int,
    num_folds: int,
    *,
    num_devices: int = 1,
    support: int | None = None,
    packed: bool = True,
    itemsize: int = 4,
) -> int:
    """Estimate the memory that solving takes at its peak, in bytes, the process and its compiled code with it.

    Checked against a run of the size of the paper's problem.

    Args:
      num_rows: `M`.
      num_columns: `P`, knockoff copies counted.
      num_queries: `Q`; only a batch of them is held at a time.
      num_folds: `F`.
      num_devices: batches held at a time.
      support: columns in the working set of a query, that is in the support of any of its problems; default
        `min(2 M, P)`, as many as at the end of a long path.
      packed: whether the design is bits, or a dense matrix.
      itemsize: bytes of a number.
    """
    size, problems = batch_size(num_queries, num_devices), num_folds + 1
    working = BLOCK * -(-min(2 * num_rows if support is None else support, num_columns) // BLOCK)
    design = num_columns * (-(-num_rows // 8) if packed else num_rows * itemsize)
    few = condense.num_rows_after(num_rows, num_columns, 1, num_folds) if num_folds else num_rows
    if few < num_rows:
        return design + memory(
            few,
            num_columns,
            num_queries,
            num_folds,
            num_devices=num_devices,
            support=support,
            packed=False,
            itemsize=itemsize,
        )
    # Two references, and as much again for products on their way into them.
    gradients = 6 * size * problems * num_columns
    residuals = 8 * size * problems * num_rows
    # Room is doubled when it is used up, and copied.
    sets = 3 * size * working * (num_rows + (BLOCK + 4) * problems)
    side_by_side = admm.memory(num_rows, num_columns, num_queries, num_folds)
    if side_by_side > admm.MOST_BYTES:
        side_by_side = 0
    one_by_one = itemsize * (gradients + residuals + sets)
    return _PROCESS_BYTES + design + num_devices * max(one_by_one, side_by_side)
