"""The estimators that `benchmarks.shapley` and the experiments on Shapley values compare, by name.

Each is `f(game, key=key, budget=B) -> Attribution`, with `B` evaluations of the game at most. Ours are all
`jaxame.shapley` at its defaults, but for what the name says.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxame
from jaxame import baselines
from jaxame.attribution import Attribution

Estimator = Callable[..., Attribution]


def ours(game: Any, *, key: jax.Array, budget: int, **options: Any) -> Attribution:
    """`jaxame.shapley`, values only, on `budget` evaluations, two of which are of no source and of all."""
    return jaxame.shapley(game, key=key, num_submodels=budget - 2, copies=0, devices=jax.local_devices(), **options)


OURS: dict[str, Estimator] = {
    "jaxame": ours,
    "jaxame, linear": functools.partial(ours, interactions=False),
}
LINEAR: dict[str, Estimator] = {
    "permutation": baselines.permutation,
    "antithetic permutation": functools.partial(baselines.permutation, antithetic=True),
    "truncated permutation": baselines.truncated_permutation,
    "Owen": baselines.owen,
    "SVARM": baselines.svarm,
    "KernelSHAP": functools.partial(baselines.kernel_shap, paired=False),
    "KernelSHAP, paired": baselines.kernel_shap,
    "KernelSHAP, leverage": functools.partial(baselines.kernel_shap, sampling="leverage"),
    "unbiased KernelSHAP": baselines.unbiased_kernel_shap,
    "regression-adjusted, linear": baselines.regression_adjusted,
    "group testing": baselines.group_testing,
    "compressive sensing": baselines.compressive_sensing,
}
"""Baselines that sample or fit a linear model."""
WITH_L1 = "KernelSHAP, L1"
"""Is told how many sources may have a value, as many as ours finds."""
TREES = "regression-adjusted, trees"
BASELINES: dict[str, Estimator] = LINEAR | {
    TREES: functools.partial(baselines.regression_adjusted, surrogate="trees"),
    "random": baselines.random,
}
NAMES = (*OURS, *BASELINES, WITH_L1)


class Outcome(NamedTuple):
    """What an estimator gave, or None and the reason; and the seconds it took, the game's included."""

    name: str
    result: Attribution | None
    reason: str
    seconds: float


def attribute(
    names: Sequence[str], game: Any, key: jax.Array, budget: int, further: Mapping[str, Estimator] | None = None
) -> Iterator[Outcome]:
    """Run estimators on one game at one budget.

    Args:
      names: of those to run, among `NAMES` and the further ones.
      game: of one or several queries.
      key: one typed key, the same for all.
      budget: evaluations.
      further: estimators by name, such as those of peers.
    """
    known = {**OURS, **BASELINES, **(further or {})}

    @functools.cache
    def mine() -> Outcome:
        return _run("jaxame", ours, game, key, budget)

    for name in names:
        if name == "jaxame":
            yield mine()
        elif name != WITH_L1:
            yield _run(name, known[name], game, key, budget)
        elif (found := mine().result) is None:  # nobody says how many features
            yield mine()._replace(name=name)
        else:
            yield _run(name, l1(found), game, key, budget)


def _run(name: str, estimator: Estimator, game: Any, key: jax.Array, budget: int) -> Outcome:
    begin = time.perf_counter()
    result, reason = None, ""
    try:
        result = estimator(game, key=key, budget=budget)
    except ValueError as error:  # a budget below the least of the method
        reason = str(error)
        _tell(f"skipped {name}: {reason}")
    return Outcome(name, result, reason, time.perf_counter() - begin)


@functools.cache
def _tell(text: str) -> None:
    """Print a line, once: every seed would have the same to say."""
    print(text, flush=True)


def l1(found: Attribution) -> Estimator:
    """Return KernelSHAP with L1, given as many features as ours found in each query (at `lambda_1se`)."""
    assert found.lasso_1se is not None
    number = np.clip(np.count_nonzero(found.lasso_1se, axis=1), 1, found.num_sources - 1)
    return functools.partial(baselines.kernel_shap, num_features=number)
