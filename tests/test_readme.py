"""The Python of the README runs as printed."""

import re
from pathlib import Path

import numpy as np

README = Path(__file__).parents[1] / "README.md"


def test_python_examples_run(tmp_path, monkeypatch):
    """One after the other, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    names = {}
    values = None
    examples = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), flags=re.DOTALL)
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
        values = names["result"].values if values is None else values
    assert values.shape == (2, 300)
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(names["result"].values, values)  # that of the run on disk is the same
    assert names["bayes"].check().values.shape == (2, 300)
    assert len(examples) == 4


def test_its_pictures_and_modules_are_there():
    text = README.read_text("utf-8")
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    modules = set(re.findall(r"python -m ((?:experiments|benchmarks)\.\w+)", text))
    assert pictures
    assert len(modules) > 10
    for path in [*pictures, *(module.replace(".", "/") + ".py" for module in modules)]:
        assert (README.parent / path).is_file(), path
