"""Tasks on several processes, each on cores of its own."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def run_all(function: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[R]:
    """Yield what a function returns for each task, in order; one worker is this process."""
    if workers == 1:
        yield from map(function, tasks)
        return
    num_cores = os.cpu_count() or 1
    threads = str(max(num_cores // workers, 1))
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)  # the workers inherit it
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    for worker in range(workers):
        cores.put(set(range(worker % num_cores, num_cores, workers)))
    with ProcessPoolExecutor(workers, context, _stay_on, (cores,)) as pool:
        yield from pool.map(function, tasks)


def _stay_on(cores: Any) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores.get())
