"""How time and memory of our solver grow with the number of sources."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lasso_peers import ours, outcome
from benchmarks.lasso_peers.problem import Size, as_task, draw
from benchmarks.lasso_peers.tuning import largest_gap


def measure(size: Size, sources: list[int]) -> dict[str, Any]:
    """Solve once for every number of sources and return `records` and the exponents of `seconds` and `peak_rss_mb`."""
    records: list[dict[str, Any]] = []
    for number in sources:
        own = dataclasses.replace(size, sources=number)
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "ours.npz"
            with ours.started(own, path, warm_up=False) as solve:
                times = solve()
            found = outcome.load(path)
        gap = largest_gap(as_task(draw(own), own), list(range(size.queries)), found)
        record = {"solver": "jaxame", "sources": number, "peak_rss_mb": found.peak_rss_mb, "max_relative_gap": gap}
        records.append(record | times | found.about | {"matmul_gflops": float(found.about["matmul_gflops"])})
        print(f"  {number} sources: {times['seconds']:.4g} s, {found.peak_rss_mb:.0f} MB, gap {gap:.1e}", flush=True)
    exponents = {key: exponent(sources, [record[key] for record in records]) for key in ("seconds", "peak_rss_mb")}
    return {"records": records, "exponents": exponents}


def exponent(sizes: list[int], values: list[float]) -> float:
    """Return the slope of the least-squares line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
