"""shapiq's approximators of Shapley values; `jaxame.interop` is for games that go between shapiq and us.

`pip install shapiq`, with lightgbm for those with trees. For Python 3.11 that is shapiq 1.4; 1.8 has more of them, and
leaves the packages that SPEX takes to its extra `sparse`. Settings are shapiq's own unless the name says otherwise.
"""

import dataclasses
import functools
import importlib
import math
import warnings
from collections.abc import Callable
from importlib import metadata, util
from typing import Any

import jax
import numpy as np

from benchmarks.shapley_peers.asked import Ask, Asked, RefusedError
from jaxame.attribution import Attribution
from jaxame.baselines.evaluation import Budget

_MOST_SOURCES = 1020  # above, shapiq's binomial coefficients and their inverses do not fit into float64
_MOST_BYTES = 4e9
_MOST_CELLS = 1e11  # some ten minutes
_WITH_TREES = ("shapiq", "lightgbm")
_TOO_FEW = "Insufficient budget"  # as SPEX says, which knows what it needs once it has begun


def _no_limit(num_sources: int, budget: int) -> str:
    del num_sources, budget
    return ""


def _binomials(num_sources: int, budget: int) -> str:
    del budget
    return "" if num_sources <= _MOST_SOURCES else f"binomial coefficients of more than {_MOST_SOURCES} overflow"


def _pairs(num_sources: int, budget: int) -> str:
    """Regression on all pairs of sources, a dense matrix of them by subsets and one of them by each other."""
    pairs = 1 + num_sources + math.comb(num_sources, 2)
    size = 8 * pairs * (2 * budget + pairs + num_sources)
    return _binomials(num_sources, budget) or ("" if size <= _MOST_BYTES else f"dense matrices of {size / 1e9:.0f} GB")


def _strata(num_sources: int, budget: int) -> str:
    """For every source, size and side, all subsets are gone over."""
    cells = 2.0 * num_sources * min(num_sources, budget) * budget * num_sources
    too_many = "" if cells <= _MOST_CELLS else f"goes over {cells:.0e} cells of subsets, one stratum at a time"
    return _binomials(num_sources, budget) or too_many


@dataclasses.dataclass(frozen=True)
class _Method:
    """A class of shapiq, the options that it is made with, and why it cannot do a problem of a size."""

    approximator: str
    options: Callable[[int, int], dict[str, Any]] = lambda num_sources, budget: {}
    limit: Callable[[int, int], str] = _binomials
    packages: tuple[str, ...] = ("shapiq",)


def _anchors(num_sources: int, budget: int) -> dict[str, Any]:
    """As many anchor points as shapiq takes by default, if the budget suffices for every source at each of them."""
    return {"n_anchor_points": min(10, max(1, (budget - 1) // (2 * num_sources)))}


_METHODS = {
    "shapiq permutation": _Method("PermutationSamplingSV", limit=_no_limit),
    "shapiq Owen": _Method("OwenSamplingSV", _anchors, _no_limit),
    "shapiq stratified": _Method("StratifiedSamplingSV", limit=_no_limit),
    "shapiq SVARM": _Method("SVARM", limit=_strata),
    "shapiq KernelSHAP": _Method("KernelSHAP"),
    "shapiq KernelSHAP, paired": _Method("KernelSHAP", lambda *_: {"pairing_trick": True}),
    "shapiq KernelSHAP, leverage": _Method("KernelSHAP", lambda n, _: {"sampling_weights": np.ones(n + 1)}),
    "shapiq unbiased KernelSHAP": _Method("UnbiasedKernelSHAP"),
    "shapiq kADD-SHAP": _Method("kADDSHAP", limit=_pairs),
    "shapiq SPEX": _Method("SPEX", lambda *_: {"index": "SV"}, packages=("shapiq", "sparse_transform", "galois")),
    "shapiq ProxySPEX": _Method("ProxySPEX", lambda *_: {"index": "SV"}, packages=_WITH_TREES),
    "shapiq LeverageSHAP": _Method("LeverageSHAP"),
    "shapiq OddSHAP": _Method("OddSHAP", packages=_WITH_TREES),
    "shapiq RegressionMSR, LightGBM": _Method(
        "RegressionMSR", lambda *_: {"index": "SV", "proxy_model": "lightgbm"}, packages=_WITH_TREES
    ),
}


def missing(name: str) -> str:
    """Return what an estimator lacks to run here, or an empty string."""
    method = _METHODS[name]
    if absent := [package for package in method.packages if util.find_spec(package) is None]:
        return f"not installed: {', '.join(absent)}"
    there = hasattr(importlib.import_module("shapiq.approximator"), method.approximator)
    return "" if there else f"shapiq {metadata.version('shapiq')} has no {method.approximator}"


def _estimate(name: str, game: Any, *, key: jax.Array, budget: int) -> Attribution:
    method = _METHODS[name]
    counted = Budget(game, key, budget, 2)
    problem = f"{name} with {counted.num_sources} sources and a budget of {budget}"
    if reason := method.limit(counted.num_sources, budget):
        raise RefusedError(f"{problem}: {reason}")
    seed = int(counted.rng.integers(2**31))

    def run(ask: Ask) -> np.ndarray:
        options = method.options(counted.num_sources, budget)
        approximator = getattr(importlib.import_module("shapiq.approximator"), method.approximator)
        made = approximator(n=counted.num_sources, random_state=seed, **options)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="shapiq|sparse_transform")  # of rounding, and of budgets to spare
            try:
                found = made.approximate(budget=budget, game=ask)
            except ValueError as error:
                if _TOO_FEW not in str(error):
                    raise
                raise RefusedError(f"{problem}: {error}") from error
        return np.array([found[(source,)] for source in range(counted.num_sources)])

    values = Asked(counted).values(run)
    return counted.result(name, values, None, version=metadata.version("shapiq"))


ESTIMATORS: dict[str, Callable[..., Attribution]] = {name: functools.partial(_estimate, name) for name in _METHODS}
