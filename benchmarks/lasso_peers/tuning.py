"""Finds the fastest setting of a peer that reaches the gap."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.lasso_peers.outcome import Outcome
from benchmarks.lasso_peers.processes import WorkerError
from benchmarks.lasso_peers.task import Task, relative_gaps

LARGEST_GAP = 1e-4
Record = dict[str, Any]
Run = Callable[[dict[str, Any], list[int], list[int]], Outcome]
"""`(setting, fits, queries)` to the outcome."""
_LONGEST_TRIAL = 300.0  # seconds of one process
_ALONE = {"processes": 1, "threads": 1}


def tune(name: str, peer: Any, run: Run, task: Task, num_queries: int) -> tuple[dict[str, Any], list[Record]]:
    """Return the best setting, and a record of all that were tried.

    Every base setting has its tolerance lowered until the fit of query 0 on all rows reaches the gap. The fastest has
    it lowered further until the fits of all queries do. Then every layout solves query 0 with all folds; where that
    would take too long, it is one process per core.

    Args:
      name: of the peer.
      peer: its module.
      run: solves with a setting.
      task: the problem.
      num_queries: the first of the queries, which the peer will be raced on.
    """
    tried: list[Record] = []
    all_rows, queries = [task.num_folds], list(range(num_queries))

    def attempt(setting: dict[str, Any], fits: list[int], queries: list[int]) -> Record:
        tried.append(_attempt(name, run, task, setting, fits, queries))
        print("  tried", describe(tried[-1]), flush=True)
        return tried[-1]

    reached = list(_bases(peer, task.num_columns, lambda setting: attempt(setting, all_rows, [0])))
    setting = min(reached or tried, key=_by_seconds if reached else _by_gap)["setting"]
    for tolerance in peer.TOLERANCES[peer.TOLERANCES.index(setting["tolerance"]) :] if num_queries > 1 else ():
        setting = setting | {"tolerance": tolerance}
        if attempt(setting, all_rows, queries)["reached"]:
            break
    every = [task.num_folds, *range(task.num_folds)]
    layouts = [setting | layout for layout in peer.layouts()]
    if tried[-1]["error"] or tried[-1]["seconds"] * len(every) / tried[-1]["queries_run"] > _LONGEST_TRIAL:
        return layouts[0], tried
    return min((attempt(layout, every, [0]) for layout in layouts), key=_by_seconds)["setting"], tried


def _bases(peer: Any, num_columns: int, attempt: Callable[[dict[str, Any]], Record]) -> Iterator[Record]:
    """Yield the first record that reaches the gap of every base setting that is not slower than another already."""
    fastest = np.inf
    for base in peer.bases(num_columns):
        for tolerance in peer.TOLERANCES:
            record = attempt({**base, **_ALONE, "tolerance": tolerance})
            if record["reached"]:
                fastest = min(fastest, record["seconds"])
                yield record
            if record["reached"] or record["error"] or record["seconds"] > fastest:
                break


def _attempt(name: str, run: Run, task: Task, setting: dict[str, Any], fits: list[int], queries: list[int]) -> Record:
    """Run a setting once and return its record; one that fails has the error in it."""
    record = {"solver": name, "setting": setting, "num_fits": len(fits), "queries_run": len(queries)}
    try:
        outcome = run(setting, fits, queries)
    except WorkerError as error:
        return record | {"seconds": None, "max_relative_gap": None, "reached": False, "error": str(error)}
    gap = largest_gap(task, queries, outcome)
    return record | {
        "seconds": outcome.seconds,
        "max_relative_gap": gap,
        "reached": gap <= LARGEST_GAP,
        "error": "",
    }


def largest_gap(task: Task, queries: list[int], outcome: Outcome) -> float:
    """Return the largest relative gap of an outcome's fits, those of folds too; infinite if one is not finite."""
    assert outcome.fits is not None
    given = np.isfinite(outcome.fits.penalty)
    gaps = [relative_gaps(task, queries, outcome.fits)[given]]
    gaps += [relative_gaps(task, queries, fits, fold)[given] for fold, fits in enumerate(outcome.fold_fits)]
    return float(np.nan_to_num(gaps, nan=np.inf).max())


def _by_seconds(record: Record) -> float:
    return np.inf if record["error"] else record["seconds"]


def _by_gap(record: Record) -> float:
    return np.inf if record["error"] else record["max_relative_gap"]


def describe(record: Record) -> str:
    """Return a line about a setting that was tried."""
    setting = " ".join(f"{key}={value}" for key, value in record["setting"].items())
    if record["error"]:
        return f"{record['solver']} {setting}: {record['error'][-200:]}"
    fits = f"{record['num_fits']} fits of {record['queries_run']} queries"
    return f"{record['solver']} {setting}: {fits} in {record['seconds']:.3g} s, gap {record['max_relative_gap']:.1e}"
