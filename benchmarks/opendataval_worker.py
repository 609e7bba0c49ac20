"""OpenDataVal's experiments on one data set: `python -m benchmarks.opendataval_worker JOB`, the job in JSON.

Runs in an environment of its own, with OpenDataVal and without us, started by `benchmarks.opendataval`.
"""

import json
import sys
from importlib import metadata
from typing import Any

import numpy as np
import torch
from jaxame_exchange import start, to_starter
from opendataval.dataloader import DataFetcher, mix_labels
from opendataval.dataval import (
    AME,
    DataBanzhaf,
    DataEvaluator,
    DataOob,
    InfluenceSubsample,
    KNNShapley,
    LeaveOneOut,
    ModelMixin,
    RandomEvaluator,
)
from opendataval.experiment import ExperimentMediator
from opendataval.experiment.exper_methods import discover_corrupted_sample, noisy_detection, remove_high_low
from opendataval.metrics import accuracy
from opendataval.model import ModelFactory
from sklearn.datasets import load_digits
from torch.utils.data import Subset

_PACKAGES = ("opendataval", "numpy", "torch", "scikit-learn")


class Jaxame(DataEvaluator, ModelMixin):
    """Values by jaxame, which runs in its own environment and asks this one to train.

    Args:
      method: one of `opendataval_values.METHODS`.
      num_models: subsets to train on.
      python: interpreter of jaxame's environment.
      random_state: decides the subsets.
    """

    def __init__(self, method: str, num_models: int, python: str, random_state: Any = None):
        super().__init__(random_state)
        self.method, self.num_models, self.python = method, num_models, python

    def train_data_values(self, *args: Any, **kwargs: Any) -> "Jaxame":
        """Let jaxame estimate, training the model on every subset that it asks for."""

        def utility(mask: np.ndarray) -> float:
            indices = mask.nonzero()[0].tolist()
            model = self.pred_model.clone()
            model.fit(Subset(self.x_train, indices), Subset(self.y_train, indices), *args, **kwargs)
            return float(self.evaluate(self.y_valid, model.predict(self.x_valid)))

        num_sources = len(self.x_train)
        sizes = {"num_sources": num_sources, "num_submodels": self.num_models}
        job = {"method": self.method, "seed": int(self.random_state.randint(2**31)), **sizes}
        with start([self.python, "-m", "benchmarks.opendataval_values", json.dumps(job)]) as channel:
            outcome = channel.answer(lambda masks: [utility(mask) for mask in masks], num_sources)
        self.values = np.array(outcome["values"])
        return self

    def evaluate_data_values(self) -> np.ndarray:
        """Return what was estimated, `[N]`."""
        return self.values


def evaluators(job: dict[str, Any]) -> dict[str, DataEvaluator]:
    """Evaluators by name, each with as many models but for those that have a number of their own."""
    number, seed = job["num_models"], job["seed"]
    ours = {
        f"jaxame {method}": Jaxame(method, number, job["python"], random_state=seed)
        for method in ("AME", "Banzhaf", "Shapley")
    }
    return ours | {
        "AME": AME(number // 4, random_state=seed),  # for each of its four inclusion probabilities
        "DataBanzhaf": DataBanzhaf(number, random_state=seed),
        "DataOob": DataOob(number, random_state=seed),
        "InfluenceSubsample": InfluenceSubsample(number, random_state=seed),
        "KNNShapley": KNNShapley(random_state=seed),
        "LeaveOneOut": LeaveOneOut(random_state=seed),
        "RandomEvaluator": RandomEvaluator(random_state=seed),
    }


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Run the experiments; `job` has `seed`, `num_train`, `num_valid`, `num_test`, `num_models` and `python`."""
    torch.manual_seed(job["seed"])
    x, y = load_digits(return_X_y=True)
    fetcher = (
        DataFetcher.from_data(x / 16, np.eye(10)[y], one_hot=True, random_state=job["seed"])
        .split_dataset_by_count(job["num_train"], job["num_valid"], job["num_test"])
        .noisify(mix_labels, noise_rate=0.2)
    )
    named = evaluators(job)
    mediator = ExperimentMediator(fetcher, ModelFactory("sklogreg", fetcher), metric_name=accuracy, raises_error=True)
    mediator.compute_data_values(list(named.values()))
    found = {name: {"seconds": mediator.timings[evaluator].total_seconds()} for name, evaluator in named.items()}
    for experiment in (noisy_detection, discover_corrupted_sample, remove_high_low):
        for name, evaluator in named.items():
            mediator.data_evaluators = [evaluator]
            table = mediator.evaluate(experiment)
            found[name] |= {
                column: table[column].astype(float).tolist() for column in table.columns if column != "axis"
            }
    return {"found": found, "versions": {package: metadata.version(package) for package in _PACKAGES}}


if __name__ == "__main__":
    to_starter().finish(main(json.loads(sys.argv[1])))
