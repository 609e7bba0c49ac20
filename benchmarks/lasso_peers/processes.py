"""Runs a solver in processes of its own, so that its memory is its own."""

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.lasso_peers import outcome
from benchmarks.lasso_peers.outcome import Outcome

_ROOT = Path(__file__).parents[2]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_ERROR_CHARACTERS = 2000


class WorkerError(RuntimeError):
    """A process failed; the text is the end of what it wrote to its error stream."""


def run(python: str, worker: str, job: dict[str, Any]) -> Outcome:
    """Deal the fits of a job out to `job["setting"]["processes"]` processes and wait for them.

    Args:
      python: the interpreter.
      worker: name of the module in this package.
      job: see `worker.main`; without `output`.

    Returns:
      One outcome: the seconds of the slowest process, and the sum of their memory.

    Raises:
      WorkerError: if a process fails.
    """
    setting, fits = job["setting"], job["fits"]
    shares = [share for i in range(setting["processes"]) if (share := fits[i :: setting["processes"]])]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        outputs = [Path(name) / f"{i}.npz" for i in range(len(shares))]
        jobs = [job | {"fits": share, "output": str(path)} for share, path in zip(shares, outputs, strict=True)]
        threads = dict.fromkeys(_THREADS, str(setting["threads"]))
        command = [python, "-m", f"benchmarks.lasso_peers.{worker}"]
        started = [stack.enter_context(start([*command, json.dumps(part)], threads)) for part in jobs]
        for process, errors in started:
            finish(process, errors)
        return _merge([outcome.load(path) for path in outputs])


@contextlib.contextmanager
def start(command: list[str], variables: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Start a process with pipes and yield it and the file of its errors; at the end it is gone."""
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), **variables}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            yield process, errors
        finally:
            process.kill()
            process.communicate()


def finish(process: subprocess.Popen[str], errors: IO[str]) -> None:
    """Wait for a process.

    Raises:
      WorkerError: if it failed.
    """
    process.communicate()
    if process.returncode:
        errors.seek(0)
        raise WorkerError(errors.read()[-_ERROR_CHARACTERS:] or f"exit status {process.returncode}")


def _merge(parts: list[Outcome]) -> Outcome:
    return Outcome(
        seconds=max(part.seconds for part in parts),
        fits=next((part.fits for part in parts if part.fits is not None), None),
        held_out=np.sum([part.held_out for part in parts], axis=0),
        peak_rss_mb=sum(part.peak_rss_mb for part in parts),
        about=parts[0].about,
    )
