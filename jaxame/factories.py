"""Games and queries by name: how the command line, and workers elsewhere, make them."""

import importlib
import inspect
import json
import sys
from collections.abc import Sequence
from typing import Any

from jaxame import checks

GAMES = {"demo": "jaxame.demo:game"}
"""Games by name, besides those of a user's own."""


def make(factory: str, arguments: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """Make a game or a query, and say how to make it again.

    Args:
      factory: `package.module:function`, or a name in `GAMES`; the working directory is searched too.
      arguments: `name=value`, by keyword.

    Raises:
      ValueError: if there is no such function, or it takes no such arguments.
    """
    module, _, name = GAMES.get(factory, factory).partition(":")
    checks.require(bool(module and name), f"package.module:factory or one of {sorted(GAMES)}", factory)
    settings = dict(map(_parse_argument, arguments))
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"needs a function {name} in a module {module}; got {error}") from error
    checks.require(callable(function), f"a function {name} in a module {module}", checks.describe(function))
    try:
        inspect.signature(function).bind(**settings)
    except TypeError as error:
        raise ValueError(f"needs arguments that {factory} takes; got {error}") from error
    return function(**settings), {"factory": factory, "settings": settings}


def make_again(made_by: dict[str, Any] | None) -> Any:
    """Make a game as `make` said that it was made.

    Raises:
      ValueError: if nobody said so.
    """
    checks.require(made_by is not None, "a run that `jaxame run` started; use jaxame.runs from Python", made_by)
    assert made_by is not None
    arguments = [f"{name}={json.dumps(value)}" for name, value in made_by["settings"].items()]
    return make(made_by["factory"], arguments)[0]


def _parse_argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    checks.require(bool(name and equals), "arguments as name=value", text)
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
