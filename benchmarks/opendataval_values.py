"""Our values of data for OpenDataVal: `python -m benchmarks.opendataval_values JOB`, the job in JSON.

Started by `opendataval_worker`, which trains its model on the masks that this asks for, see `jaxame.exchange`.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import jax

import jaxame
from jaxame import exchange
from jaxame.attribution import Attribution
from jaxame.design import Grid, PointMass
from jaxame.interop import MaskGame

METHODS: dict[str, Callable[..., Attribution]] = {
    "AME": lambda game, **sizes: jaxame.ame(game, law=Grid((0.2, 0.4, 0.6, 0.8)), **sizes),
    "Banzhaf": lambda game, **sizes: jaxame.ame(game, law=PointMass(0.5), **sizes),
    "Shapley": jaxame.shapley,
}


def main(job: dict[str, Any], channel: exchange.Channel) -> None:
    """Estimate values; `job` has `method`, `num_sources`, `num_submodels` and `seed`."""
    game = MaskGame(channel.ask, job["num_sources"])
    key = jax.random.key(job["seed"])
    found = METHODS[job["method"]](game, key=key, num_submodels=job["num_submodels"], copies=0).check()
    channel.finish({"values": found.values[0].tolist()})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), exchange.to_starter())
