"""Solve some fits with glmnet: `python -m benchmarks.lasso_peers.glmnet_worker JOB`, as `worker` does with others.

Time and memory are those of R. What `cv.glmnet` forks is not in the memory.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from benchmarks.lasso_peers import outcome
from benchmarks.lasso_peers.task import Split, Task, add_errors, load, split

_SCRIPT = Path(__file__).with_name("glmnet.R")


def main(job: dict[str, Any]) -> None:
    """Solve the fits of a job (see `worker.main`) and write the outcome."""
    task, queries, setting = load(Path(job["task"])), job["queries"], job["setting"]
    seconds, peak, version, fits = 0.0, 0.0, "", None
    held_out = np.zeros((len(queries), task.penalties.shape[1]))
    for fold in [task.num_folds] if setting["cv"] else job["fits"]:
        part = split(task, fold, queries)
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            _write(directory, part, task, queries)
            _run(directory, setting, task.full_path)
            spent, own_peak = np.fromfile(directory / "figures")
            coefs = [_coef(directory, k, task.num_columns) for k in range(len(queries))]
            version = (directory / "version").read_text().strip()
            if setting["cv"]:
                curves = [np.fromfile(directory / f"cvm{k + 1}") for k in range(len(queries))]
                held_out = np.stack(curves) * task.weight.sum()
        seconds, peak = seconds + spent, max(peak, own_peak)
        if fold == task.num_folds:
            fits = outcome.collect(coefs, task.penalties[queries])
            continue
        for k, coef in enumerate(coefs):
            add_errors(held_out, part, k, coef.T)
    about = {"version": version}
    outcome.save(Path(job["output"]), outcome.Outcome(float(seconds), fits, held_out, float(peak), about))


def _write(directory: Path, part: Split, task: Task, queries: list[int]) -> None:
    """Write what the script reads, all in Fortran order."""
    part.x.T.tofile(directory / "x")
    part.y.T.tofile(directory / "y")
    task.penalties[queries].tofile(directory / "penalties")
    task.fold.astype(np.int32).tofile(directory / "fold")
    size = (*part.x.shape, len(queries), task.penalties.shape[1])
    (directory / "size").write_text(" ".join(map(str, size)))


def _run(directory: Path, setting: dict[str, Any], full_path: bool) -> None:
    words = (setting["type"], setting["tolerance"], setting["cv"], setting["threads"], full_path)
    flags = [str(word).upper() if isinstance(word, bool) else str(word) for word in words]
    done = subprocess.run(["Rscript", _SCRIPT, directory, *flags], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def _coef(directory: Path, k: int, num_columns: int) -> sparse.csr_matrix:
    """Read the coefficients `[L', P]` of query number `k`."""
    data, indices, indptr = (
        np.fromfile(directory / f"{name}{k + 1}", dtype)
        for name, dtype in (("data", np.float64), ("indices", np.int32), ("indptr", np.int32))
    )
    return sparse.csr_matrix((data, indices, indptr), shape=(indptr.size - 1, num_columns))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
