"""The Python of the README runs as printed."""

import re
from pathlib import Path

import numpy as np

README = Path(__file__).parents[1] / "README.md"


def test_python_examples_run(tmp_path, monkeypatch):
    """One after the other, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), flags=re.DOTALL)
    names = {}
    exec(compile(first, "README.md", "exec"), names)
    values = names["result"].values
    assert values.shape == (2, 300)
    assert np.isfinite(values).all()
    exec(compile(second, "README.md", "exec"), names)
    np.testing.assert_array_equal(names["result"].values, values)
