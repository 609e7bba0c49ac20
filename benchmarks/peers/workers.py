"""Worker processes that prepare apart, start together and are timed until the last of them is done."""

import contextlib
import functools
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from benchmarks.peers.common import Outcome, Setting, Task, Trainable

Prepare = Callable[[Task, np.ndarray, np.ndarray, Setting], Trainable]
"""`(task, masks, seeds, setting)` to a `Trainable`; a function at the top of a module, so that it can be pickled."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")
# A step frees what the next one needs: the C library must not return it to the kernel, and PyTorch may use huge pages.
_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "THP_MEM_ALLOC_ENABLE": "1",
}
_BARRIER_SECONDS = 1800.0
_EXIT_SECONDS = 10.0
_ERROR_CHARACTERS = 2000


class WorkerError(RuntimeError):
    """A worker process failed; the text is the end of its traceback."""


def race(
    prepare: Prepare, task: Task, masks: np.ndarray, seeds: np.ndarray, setting: Setting, repeats: int = 1
) -> Outcome:
    """Deal the submodels out to `setting["processes"]` new processes of `setting["threads"]` threads and time them.

    Every worker imports, prepares and warms up first; then all wait at a barrier, train and note when they end. A
    repeat counts from the first worker's start to the last worker's end, on the monotonic clock that they share.

    Args:
      prepare: what a worker does before the clock starts.
      task: the task.
      masks: bool `[m, n]`.
      seeds: int `[m]`.
      setting: the setting, passed on to `prepare`.
      repeats: how often to train all submodels again.

    Raises:
      WorkerError: if a worker fails or dies.
    """
    shares = np.array_split(np.arange(len(masks)), min(setting["processes"], len(masks)))
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(shares))
    with contextlib.ExitStack() as stack:
        stack.enter_context(_environment(setting["threads"]))
        pipes = []
        for share in shares:
            job = functools.partial(prepare, task, masks[share], seeds[share], setting)
            pipes.append(stack.enter_context(_process(context, job, barrier, repeats)))
        results = _collect(pipes)
    times = np.array([result[0] for result in results])  # [processes, repeats, 2]
    seconds = times[:, :, 1].max(axis=0) - times[:, :, 0].min(axis=0)
    return Outcome(setting, tuple(seconds.tolist()), np.concatenate([result[1] for result in results]))


@contextlib.contextmanager
def _process(context: Any, job: Callable[[], Trainable], barrier: Any, repeats: int) -> Iterator[Connection]:
    """Start a worker and yield the pipe that its result comes through; at the end it is gone, whatever happened."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, barrier, repeats, sender), daemon=True)
    process.start()
    sender.close()
    try:
        yield receiver
        process.join(_EXIT_SECONDS)
    finally:
        process.terminate()
        process.join()
        process.close()
        receiver.close()


def _work(job: Callable[[], Trainable], barrier: Any, repeats: int, pipe: Connection) -> None:
    """Prepare, wait for the others, train, report: the times `[repeats, 2]` and the objectives, or the error's text."""
    try:
        ready = job()
        times = [_timed(ready.train, barrier) for _ in range(repeats)]
        pipe.send((times, ready.objectives()))
    except Exception:  # the parent raises it
        pipe.send(traceback.format_exc()[-_ERROR_CHARACTERS:])


def _timed(train: Callable[[], None], barrier: Any) -> tuple[float, float]:
    """Train once all are ready; return when it began and when it ended."""
    barrier.wait(_BARRIER_SECONDS)
    start = time.monotonic()
    train()
    return start, time.monotonic()


def _collect(pipes: list[Connection]) -> list[tuple[list[tuple[float, float]], np.ndarray]]:
    """Receive one result per worker, in their order; the first failure ends the wait."""
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        for pipe in wait([pipe for i, pipe in enumerate(pipes) if i not in results]):
            assert isinstance(pipe, Connection)
            try:
                message = pipe.recv()
            except EOFError as error:
                raise WorkerError("a worker process died") from error
            if isinstance(message, str):
                raise WorkerError(message)
            results[pipes.index(pipe)] = message
    return [results[i] for i in range(len(pipes))]


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Set what numerical libraries and the C library read when a process starts; new processes inherit it."""
    before = dict(os.environ)
    os.environ.update(_MEMORY, **dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name in (*_MEMORY, *_THREAD_VARIABLES):
            del os.environ[name]
        os.environ.update(before)
