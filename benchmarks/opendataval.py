"""OpenDataVal's experiments, with ours as a `DataEvaluator` beside its own.

`python -m benchmarks.environments opendataval DIR` makes the environment that it needs; then
`python -m benchmarks.opendataval --json FILE`. OpenDataVal trains all models, in its environment; ours asks it to, by
`jaxame.exchange`, and estimates in this one.

300 digits of scikit-learn's with a fifth of the labels wrong, and a fifth of those of the 200 digits that utilities
(accuracy) are measured on; scikit-learn's logistic regression; 1,000 models for each evaluator (ours for Shapley values
two more); means of 5 seeds with their standard errors. A fifth of the data, by OpenDataVal's own
`discover_corrupted_sample` and `remove_high_low`:

                      wrong labels      test accuracy without       seconds
                      in lowest fifth   lowest       highest
  jaxame AME          .48 +- .03        .907         .808           42
  jaxame Banzhaf      .55 +- .02        .913         .735           38
  jaxame Shapley      .38 +- .03        .896         .814           41
  AME                 .25 +- .04        .865         .857           20
  DataBanzhaf         .54 +- .03        .909         .762           18
  DataOob             .90 +- .01        .913         .869           32
  InfluenceSubsample  .44 +- .03        .900         .767           25
  KNNShapley          .89 +- .00        .917         .735            0
  LeaveOneOut         .31 +- .04        .872         .804            8
  RandomEvaluator     .23 +- .04        .867         .866            0

So at 1,000 models our AME and Banzhaf values find about twice the wrong labels that OpenDataVal's own AME does, as many
as its own Banzhaf values or a few less; our Shapley values find fewer. What does not go by way of accuracy on 200
digits, but looks at the labels themselves, finds far more: DataOob and KNNShapley. Seconds are on two cores that did
other work too, and hold start and compilation, with which ours take 13 to 16 for 8 models. The table is that of
`results/opendataval.cpu-2-cores.json`, of jax 0.10.2 here; there OpenDataVal 1.3.0, numpy 1.25.2, torch 2.1.2.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments import records
from jaxame import checks, exchange

PYTHON = "JAXAME_OPENDATAVAL_PYTHON"
_ROOT = Path(__file__).parents[1]
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_ACCURACY = "remove_{}_influential_first_accuracy"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to run."""

    seeds: int = 5
    """Each has a split, label noise and subsets of its own."""
    num_train: int = 300
    """Digits to value, a fifth of them with a wrong label."""
    num_valid: int = 200
    """Digits that utilities are measured on, a fifth of them with a wrong label, too."""
    num_test: int = 1000
    """Digits that the experiments measure on."""
    num_models: int = 1000
    """Models that every evaluator trains, but for KNNShapley, LeaveOneOut and RandomEvaluator."""
    json: Path | None = None
    """File for the records."""


def main(settings: Settings) -> dict[str, Any]:
    """Run all seeds and return what goes into the JSON file."""
    python = os.environ.get(PYTHON, "")
    checks.require(Path(python).is_file(), f"{PYTHON} to name a Python with OpenDataVal", checks.describe(python))
    outcomes = [run(settings, seed, python) for seed in range(checks.count(settings.seeds, "seeds", 2))]
    runs = [outcome["found"] for outcome in outcomes]
    return {
        "records": [{"evaluator": name} | summarise([found[name] for found in runs]) for name in runs[0]],
        "settings": {k: v for k, v in dataclasses.asdict(settings).items() if k != "json"},
        "versions_there": outcomes[0]["versions"],
        "runs": runs,
    }


def run(settings: Settings, seed: int, python: str) -> dict[str, Any]:
    """Run the experiments of one seed in the other environment."""
    sizes = {name: getattr(settings, name) for name in ("num_train", "num_valid", "num_test", "num_models")}
    command = [python, "-m", "benchmarks.opendataval_worker"]
    job = {"seed": seed, "python": sys.executable, **sizes}
    variables = {"PYTHONPATH": str(_ROOT), **_ONE_THREAD}
    with exchange.start([*command, json.dumps(job)], variables=variables) as channel:
        return channel.answer(lambda masks: masks, 0)  # it asks nothing


def summarise(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return means over seeds of what the experiments found for one evaluator, and their standard errors."""
    fifth = len(runs[0]["corrupt_found"]) // 5  # steps of OpenDataVal's that make a fifth of the data
    least, most = (_ACCURACY.format(which) for which in ("least", "most"))
    of_seeds = {
        "wrong labels in lowest fifth": [found["corrupt_found"][fifth] for found in runs],
        "F1": [found["kmeans_f1"][0] for found in runs],
        "accuracy without lowest fifth": [found[least][fifth] for found in runs],
        "accuracy without highest fifth": [found[most][fifth] for found in runs],
        "seconds": [found["seconds"] for found in runs],
    }
    means = {name: float(np.mean(values)) for name, values in of_seeds.items()}
    errors = {f"{name}, se": float(np.std(values, ddof=1) / len(runs) ** 0.5) for name, values in of_seeds.items()}
    return {name: value for both in zip(means.items(), errors.items(), strict=True) for name, value in both}


if __name__ == "__main__":
    records.run(Settings, main, __doc__)
