"""One estimate by pyDVL: `python -m benchmarks.shapley_peers.pydvl_worker JOB`, the job in JSON.

Runs in an environment of its own, with pyDVL and without us, started by `pydvl_peer` as `jaxame.exchange` says. It asks
for every subset once.
"""

import json
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
from jaxame_exchange import Channel, to_starter
from joblib import parallel_config
from pydvl.utils.status import Status
from pydvl.valuation import (
    AntitheticOwenSampler,
    AntitheticPermutationSampler,
    ConstantSampleSize,
    Dataset,
    NoTruncation,
    OwenSampler,
    PermutationSampler,
    RandomSizeIteration,
    RelativeTruncation,
    SequentialIndexIteration,
    ShapleyValuation,
    StratifiedSampler,
    UniformOwenStrategy,
)
from pydvl.valuation.stopping import StoppingCriterion
from pydvl.valuation.utility.base import UtilityBase


class Asking(UtilityBase):
    """A utility that asks the other process."""

    def __init__(self, num_sources: int, channel: Channel):
        self.num_sources, self.channel = num_sources, channel
        self.known: dict[bytes, float] = {}

    def __call__(self, sample: Any) -> float:
        """Return the utility of a sample of pyDVL, None being the empty one."""
        mask = np.zeros(self.num_sources, bool)
        if sample is not None:
            mask[sample.subset] = True
        name = np.packbits(mask).tobytes()
        if name not in self.known:
            self.known[name] = float(self.channel.ask(mask[None])[0, 0])
        return self.known[name]


class Spent(StoppingCriterion):
    """Stops when what is left of the budget may not suffice for a further batch of samples."""

    def __init__(self, utility: Asking, budget: int, cost: int):
        super().__init__()
        self.utility, self.budget, self.cost = utility, budget, cost

    def _check(self, result: Any) -> Status:
        spent = len(self.utility.known) + self.cost > self.budget
        self._converged = np.full(result.values.shape, spent)
        return Status.Converged if spent else Status.Pending


def methods(num_sources: int, seed: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """Samplers by the name of the method, and the evaluations that a batch of theirs takes at most.

    Samplers of subsets take the sources in turn, so that each has its share. An antithetic pair is one batch.
    """
    sizes = {"sample_sizes": ConstantSampleSize(), "sample_sizes_iteration": RandomSizeIteration}
    turns = {"index_iteration": SequentialIndexIteration, "seed": seed}
    owen = {"outer_sampling_strategy": UniformOwenStrategy(1, seed + 1), "n_samples_inner": 1, **turns}
    order = num_sources - 1  # with all sources known, and none
    return {
        "permutation": (lambda: PermutationSampler(NoTruncation(), seed), order),
        "antithetic permutation": (
            lambda: AntitheticPermutationSampler(NoTruncation(), seed, batch_size=2),
            2 * order,
        ),
        "truncated permutation": (lambda: PermutationSampler(RelativeTruncation(0.01, 0.4), seed), order),
        "Owen": (lambda: OwenSampler(**owen), 2),
        "antithetic Owen": (lambda: AntitheticOwenSampler(**owen, batch_size=2), 4),
        "stratified": (lambda: StratifiedSampler(**sizes, **turns), 2),
    }


def main(job: dict[str, Any], channel: Channel) -> None:
    """Estimate values; `job` has `method`, `num_sources`, `budget` and `seed`."""
    num_sources = job["num_sources"]
    utility = Asking(num_sources, channel)
    make, cost = methods(num_sources, job["seed"])[job["method"]]
    valuation = ShapleyValuation(utility, make(), Spent(utility, job["budget"], cost))
    nothing = Dataset(np.zeros((num_sources, 1)), np.zeros(num_sources))  # the sources are known to the game only
    with parallel_config(backend="threading", n_jobs=1):
        values = valuation.fit(nothing).result.values
    channel.finish({"values": values.tolist(), "version": metadata.version("pydvl")})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), to_starter())
