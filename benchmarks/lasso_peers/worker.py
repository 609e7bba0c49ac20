"""Solve some fits with one library: `python -m benchmarks.lasso_peers.worker JOB`, the job in JSON."""

import importlib
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from benchmarks.lasso_peers import outcome
from benchmarks.lasso_peers.task import Split, Task, add_errors, load, split

_WARM_UP = 5  # penalties, and ten times as many columns


def main(job: dict[str, Any]) -> None:
    """Solve the fits of a job, one fold after the other, and write the outcome.

    Args:
      job: `peer`, the name of its module; `task` and `output`, files; `fits`, numbers of folds, where `F` is the fit on
        all rows; `queries`; `setting`, for the peer.
    """
    warnings.simplefilter("ignore")  # a tolerance that was not met shows in the certificate
    task, queries, setting = load(Path(job["task"])), job["queries"], job["setting"]
    peer: Any = importlib.import_module(f"benchmarks.lasso_peers.{job['peer']}_peer")
    seconds, fits = 0.0, None
    held_out = np.zeros((len(queries), task.penalties.shape[1]))
    for number, fold in enumerate(job["fits"]):
        part = split(task, fold, queries, setting["dtype"])
        if number == 0:
            _warm_up(peer, part, task, queries[0], setting)
        kept = []
        for k, query in enumerate(queries):
            y = part.y[:, k].copy()
            begin = time.perf_counter()
            coef = peer.path(part.x, y, task.penalties[query], setting, task.full_path)
            if fold != task.num_folds:
                add_errors(held_out, part, k, coef)
            seconds += time.perf_counter() - begin
            if fold == task.num_folds:
                kept.append(sparse.csr_matrix(coef.T))
        if fold == task.num_folds:
            fits = outcome.collect(kept, task.penalties[queries])
        del part  # before the next one is made
    about = {"version": peer.version()}
    outcome.save(Path(job["output"]), outcome.Outcome(seconds, fits, held_out, outcome.peak_rss_mb(), about))


def _warm_up(peer: Any, part: Split, task: Task, query: int, setting: dict[str, Any]) -> None:
    """Let a library that compiles do so."""
    few = np.asfortranarray(part.x[:, : 10 * _WARM_UP])
    peer.path(few, part.y[:, 0].copy(), task.penalties[query, :_WARM_UP], setting, task.full_path)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
