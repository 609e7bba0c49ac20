"""The shape of the package: imports go one way, importing it is light, and the top level stays as agreed."""

import ast
import importlib
import inspect
import resource
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import numpy as np
import pytest

import jaxame
from experiments import tables

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxame"
# A module or a package of this name may import only what stands on an earlier line.
LAYERS = [
    ("types", "checks", "environment", "exchange", "files", "notebook", "interrupts"),
    ("laws", "data", "store", "fingerprint", "factories"),
    ("design", "manifest"),
    ("games", "submodels"),
    ("queries", "features", "lasso"),
    ("knockoffs", "leftout", "inference", "randomisation", "penalties", "interactions"),
    ("reweight", "curves", "shrinkage", "truncation"),
    ("foreign", "values", "kept", "plot"),
    ("report",),
    ("attribution", "planning"),
    ("stopping", "evaluation"),
    ("estimators",),
    ("hierarchy", "baselines", "metrics", "shapley_values", "growth"),
    ("console", "runs", "interop"),
    ("cluster",),
    ("demo", "commands"),
    ("cli",),
    ("__init__", "__main__"),
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
# Their modules may import each other, without cycles.
PACKAGES = {"data", "games", "submodels", "lasso", "baselines", "plot", "report"}
IMPORTS_ONLY = {"lasso": {"checks", "types"}}  # what a package takes from outside of itself, if less than it might
HEAVY = {"jinja2", "sklearn", "matplotlib", "pandas", "pyarrow", "PIL", "datasets", "tyro", "ray", "tensorstore"}
# scipy itself is light, and loads these when they are first asked for.
PARTS_OF_SCIPY = {f"scipy.{part}" for part in ("linalg", "optimize", "sparse", "spatial", "special", "stats")}
TOP_LEVEL = {"pyproject.toml", "jaxame", "experiments", "tests", "benchmarks", "README.md", "LICENSE"}
NOT_TRACKED = {"build", "dist", "runs", "jaxame.egg-info"}

SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text("utf-8")
    for path in sorted(PACKAGE.rglob("*.py"))
}


def unit(module):
    """Return the top-level module or package that a module, named from within the package, belongs to."""
    return module.split(".")[0]


def imported(name, source, known):
    """Return the modules of the package, named from within it, that `source` imports anywhere."""
    parent = ".".join(["jaxame", *name.split(".")[:-1]])
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), parent) if node.level else node.module
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {module_of(path, known) for path in found if path.split(".")[0] == "jaxame"} - {name}


def module_of(path, known):
    """Return the known module that `path`, a module or a name in one, lies in."""
    parts = path.split(".")[1:]
    for length in range(len(parts), -1, -1):
        head = ".".join(parts[:length])
        for candidate in (head, f"{head}.__init__".lstrip(".")):
            if candidate in known:
                return candidate
    raise AssertionError(f"{path} is not in the package")


def upward_edges(sources):
    """Return `(module, imported module)` for every import that does not go to a lower rank."""
    edges = {(name, other) for name, source in sources.items() for other in imported(name, source, sources)}
    within = {(a, b) for a, b in edges if unit(a) == unit(b) and unit(a) in PACKAGES}
    return {(a, b) for a, b in edges - within if RANK[unit(b)] >= RANK[unit(a)]}


def test_every_module_has_a_rank():
    assert {unit(name) for name in SOURCES} <= RANK.keys()
    assert {unit(name) for name in SOURCES if "." in name} <= PACKAGES
    assert len(RANK) == sum(map(len, LAYERS))


def test_imports_go_down_only():
    assert upward_edges(SOURCES) == set()


def test_packages_have_no_cycles():
    graph = {name: imported(name, source, SOURCES) for name, source in SOURCES.items()}
    assert set(TopologicalSorter(graph).static_order()) == SOURCES.keys()


@pytest.mark.parametrize("package", IMPORTS_ONLY)
def test_packages_that_could_stand_alone(package):
    outside = {
        other
        for name, source in SOURCES.items()
        if unit(name) == package
        for other in imported(name, source, SOURCES)
        if unit(other) != package
    }
    assert outside <= IMPORTS_ONLY[package]


@pytest.mark.parametrize(
    ("module", "line", "edge"),
    [
        ("types", "from jaxame.design import Design", ("types", "design")),
        ("types", "from jaxame import design", ("types", "design")),
        ("types", "import jaxame.design", ("types", "design")),
        ("types", "def f():\n    from .design import Design", ("types", "design")),
        ("types", "from . import design", ("types", "design")),
        ("laws", "import jaxame", ("laws", "__init__")),
        ("features", "from jaxame.lasso.path import walk_path", ("features", "lasso.path")),
        ("features", "from jaxame.lasso import cross_validate", ("features", "lasso.__init__")),
        ("lasso.prox", "from .. import knockoffs", ("lasso.prox", "knockoffs")),
        ("lasso.prox", "from ..knockoffs import select", ("lasso.prox", "knockoffs")),
    ],
)
def test_an_upward_import_would_be_noticed(module, line, edge):
    assert upward_edges(SOURCES | {module: f"{SOURCES[module]}\n{line}\n"}) == {edge}


def test_importing_the_package_is_light_and_changes_no_setting():
    program = (
        "import os, sys, jax\n"
        "settings, environment = dict(jax.config.values), dict(os.environ)\n"
        "import jaxame\n"
        "assert dict(jax.config.values) == settings, 'jax settings'\n"
        "assert dict(os.environ) == environment, 'environment'\n"
        f"print(sorted({HEAVY | PARTS_OF_SCIPY!r} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "[]"


def import_seconds(names):
    """Processor time of a new process that imports these, which other work on the machine hardly changes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-c", f"import {names}"], timeout=120, check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def test_importing_takes_little_longer_than_what_it_stands_on():
    both = [[import_seconds(names) for names in ("jaxame", "jax, flax, optax")] for _ in range(5)]
    own, others = np.median(both, axis=0)
    assert own < 1.2 * others


def test_public_names_exist_and_are_documented():
    assert len(set(jaxame.__all__)) == len(jaxame.__all__)
    for name in jaxame.__all__:
        assert inspect.getdoc(getattr(jaxame, name)), name
    assert {"Attribution", "ame", "estimate_ame", "load", "shapley"} <= set(jaxame.__all__)


@pytest.mark.parametrize("package", ["jaxame", "jaxame.lasso", "jaxame.design"])
def test_what_is_said_to_be_public_is_there(package):
    module = importlib.import_module(package)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def top_level_entries():
    """Return the tracked names at the top; without git, the names present less what a build or a run leaves."""
    if not (ROOT / ".git").exists():
        return {path.name for path in ROOT.iterdir()} - NOT_TRACKED
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {entry.split("/")[0] for entry in listing.split("\0") if entry}


def test_the_top_level_holds_what_was_agreed():
    assert {name for name in top_level_entries() if not name.startswith(".")} == TOP_LEVEL


def test_readme_tables_are_those_of_the_stored_results():
    text = (ROOT / "README.md").read_text("utf-8")
    assert "| seed |" in text
    assert tables.updated(text) == text
