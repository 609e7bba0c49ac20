"""The Python of the README runs as printed."""

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_python_example_runs():
    (source,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), flags=re.DOTALL)
    names = {}
    exec(compile(source, "README.md", "exec"), names)
    assert names["result"].values.shape == (2, 300)
    assert np.isfinite(names["result"].values).all()
