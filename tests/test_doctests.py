"""The examples in docstrings run as printed, and the main entry points have some."""

import doctest
import importlib
from pathlib import Path

import pytest

import jaxame
from tests.documentation import modules

WITH_EXAMPLES = {
    "jaxame": ["ame", "effect_curve", "estimate_ame", "evaluate", "foreign_design", "load", "shapley"],
    "jaxame.baselines": ["exact", "permutation"],
    "jaxame.design": ["sample_design"],
    "jaxame.games": ["Additive"],
    "jaxame.lasso": ["Lasso", "LassoCV"],
    "jaxame.metrics": ["datamodeling_score", "mislabel_auc"],
    "jaxame.planning": ["estimate_r2", "plan"],
    "jaxame.queries": ["contrast", "logit_margin"],
    "jaxame.submodels": ["TrainingGame"],
}
SOURCES = {name: Path(importlib.import_module(name).__file__).read_text("utf-8") for name in modules()}


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if ">>> " in source])
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module in WITH_EXAMPLES for name in WITH_EXAMPLES[module]]
)
def test_entry_points_have_examples(module, name):
    assert ">>> " in getattr(importlib.import_module(module), name).__doc__


@pytest.mark.parametrize("method", ["select", "save"])
def test_methods_of_results_have_examples(method):
    assert ">>> " in getattr(jaxame.Attribution, method).__doc__
