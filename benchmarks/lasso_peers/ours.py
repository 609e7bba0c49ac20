"""Our solver in a process of its own: `python -m benchmarks.lasso_peers.ours SIZE OUTPUT WARM_UP`.

It solves once for every line that it is sent and answers with the seconds; at the end of its input it writes the last
outcome to a file.
"""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from benchmarks.lasso_peers import outcome, processes
from benchmarks.lasso_peers.outcome import Outcome
from benchmarks.lasso_peers.problem import MIN_RATIO, Drawn, Size, draw
from benchmarks.lasso_peers.task import Fits
from jaxame import environment
from jaxame.cli import use_all_cores
from jaxame.features import mask_columns
from jaxame.lasso import Tolerance, cross_validate, make_problem

_GAP = 8e-5  # the solver works in float32; the benchmark asks for 1e-4 in float64
_SIDE = {"cpu": 2048, "gpu": 8192}
_COMPILING = ("/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration")
_compiled: list[float] = []


@contextlib.contextmanager
def started(size: Size, output: Path, warm_up: bool) -> Iterator[Callable[[], dict[str, float]]]:
    """Yield a function that solves the problem once and returns its `seconds` and `compile_seconds`.

    Args:
      size: the problem.
      output: file for the outcome, which is there at the end.
      warm_up: whether to solve a problem of another seed first; if not, the seconds hold compilation.
    """
    command = [sys.executable, "-m", "benchmarks.lasso_peers.ours"]
    arguments = [json.dumps(dataclasses.asdict(size)), str(output), json.dumps(warm_up)]
    with processes.start([*command, *arguments], {}) as (process, errors):

        def solve() -> dict[str, float]:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it has failed, and `finish` says why
                process.stdin.write("\n")
                process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                processes.finish(process, errors)
            return json.loads(answer)

        yield solve
        processes.finish(process, errors)


def main(size: Size, output: Path, warm_up: bool) -> None:
    """Answer every line of the input; see the text above."""
    use_all_cores()
    jax.monitoring.register_event_duration_secs_listener(_listen)
    compile_seconds = 0.0
    if warm_up:
        solve_ours(draw(dataclasses.replace(size, seed=size.seed + 1)), size)
        compile_seconds = sum(_compiled)
    drawn = draw(size)
    for _ in sys.stdin:
        _compiled.clear()
        solution = solve_ours(drawn, size)
        if not warm_up:
            compile_seconds = sum(_compiled)
        print(json.dumps({"seconds": solution["seconds"], "compile_seconds": compile_seconds}), flush=True)
    peak = outcome.peak_rss_mb()
    about = {"device": environment.devices()[0], "version": environment.versions()["jaxame"]}
    about["matmul_gflops"] = str(matmul_gflops())
    held_out = solution["error"] * drawn.coding.weight.sum()
    found = Outcome(solution["seconds"], solution["fits"], held_out, peak, about, solution["fold_fits"])
    outcome.save(output, found)


def solve_ours(drawn: Drawn, size: Size) -> dict[str, Any]:
    """Solve with `jaxame.lasso`.

    Returns:
      `seconds`; `fits`, those on all rows; `fold_fits`, those of every fold; `error` `[Q, L]`, the curve.
    """
    begin = time.perf_counter()
    columns = mask_columns(drawn.design, drawn.coding, drawn.copies)
    problem = make_problem(columns, drawn.targets, drawn.coding.weight, drawn.coding.z, drawn.fold)
    found = cross_validate(
        problem,
        num_penalties=size.penalties,
        min_ratio=MIN_RATIO,
        early_end=not size.full_path,
        keep_folds=True,
        tolerance=Tolerance(gap=_GAP),
        devices=jax.local_devices(),
    )
    seconds = time.perf_counter() - begin
    by_fold = [found.path, *zip(*found.fold_paths, strict=True)]
    fits, *fold_fits = [Fits(sparse.csr_matrix(sparse.vstack(paths)), found.penalty.T) for paths in by_fold]
    return {"seconds": seconds, "fits": fits, "fold_fits": tuple(fold_fits), "error": found.error_mean.T}


def matmul_gflops() -> float:
    """Return the rate of a large float32 matrix product, median of five."""
    side = _SIDE.get(jax.default_backend(), 4096)
    a = jnp.ones((side, side), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return 2e-9 * side**3 / float(np.median(seconds))


def _listen(event: str, duration_secs: float, **_: Any) -> None:
    if event in _COMPILING:
        _compiled.append(duration_secs)


if __name__ == "__main__":
    main(Size(**json.loads(sys.argv[1])), Path(sys.argv[2]), json.loads(sys.argv[3]))
