"""OpenDataVal's experiments with ours among them: our side against a stub, and all of it where OpenDataVal is."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import environments, opendataval, opendataval_values
from jaxame import exchange

ROOT = Path(__file__).parents[1]
N = 6
WEIGHTS = np.linspace(-1, 1.5, N)


@pytest.mark.slow
@pytest.mark.parametrize("method", opendataval_values.METHODS)
def test_our_values_of_what_somebody_else_trains(method):
    """An additive game has the same values under every law."""
    job = {"method": method, "num_sources": N, "num_submodels": 60, "seed": 3}
    command = [sys.executable, "-m", "benchmarks.opendataval_values", json.dumps(job)]
    asked = []

    def utility(masks):
        asked.append(len(masks))
        return masks @ WEIGHTS + 2

    with exchange.start(command, variables={"PYTHONPATH": str(ROOT)}, patience=120.0) as channel:
        outcome = channel.answer(utility, N)
    assert sum(asked) == 60 + 2 * (method == "Shapley")  # all sources, and none
    np.testing.assert_allclose(outcome["values"], WEIGHTS, atol=0.02)


def test_summary_of_seeds():
    def found(share):
        steps = np.arange(21) / 20
        removed = {
            f"remove_{which}_influential_first_accuracy": (share * steps).tolist() for which in ("least", "most")
        }
        return {"corrupt_found": (share * steps).tolist(), "kmeans_f1": [share], "seconds": 2.0, **removed}

    record = opendataval.summarise([found(0.5), found(1.0)])
    np.testing.assert_allclose(record["wrong labels in lowest fifth"], 0.2 * 0.75)
    np.testing.assert_allclose(record["wrong labels in lowest fifth, se"], 0.2 * 0.25)
    np.testing.assert_allclose([record["F1"], record["F1, se"], record["seconds, se"]], [0.75, 0.25, 0.0])
    np.testing.assert_allclose(record["accuracy without highest fifth"], 0.15)


def test_what_is_not_there_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv(opendataval.PYTHON, "/nowhere/python")
    with pytest.raises(ValueError, match=r"JAXAME_OPENDATAVAL_PYTHON to name a Python .*; got str '/nowhere/python'"):
        opendataval.main(opendataval.Settings())
    with pytest.raises(ValueError, match="a folder that is not there yet"):
        environments.main(environments.Settings("pydvl", tmp_path))
    with pytest.raises(ValueError, match="one of"):
        environments.main(environments.Settings("numpy", tmp_path / "new"))


@pytest.mark.slow
def test_the_experiments_run():
    if opendataval.PYTHON not in os.environ:
        pytest.skip(f"{opendataval.PYTHON} does not name a Python with OpenDataVal")
    sizes = {"num_train": 100, "num_valid": 50, "num_test": 100, "num_models": 8}
    results = opendataval.main(opendataval.Settings(seeds=2, **sizes))
    by_name = {record["evaluator"]: record for record in results["records"]}
    assert {"jaxame AME", "jaxame Banzhaf", "jaxame Shapley", "AME", "DataOob"} <= set(by_name)
    assert all(0 <= record["accuracy without lowest fifth"] <= 1 for record in by_name.values())
    assert {len(found["corrupt_found"]) for run in results["runs"] for found in run.values()} == {21}
    assert int(results["versions_there"]["numpy"].split(".")[0]) < 2
