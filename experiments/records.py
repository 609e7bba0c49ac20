"""How experiments run as programs, and how they end: records printed and, where asked for, written and drawn."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from jaxame import cli, environment


def run(
    settings: type,
    main: Callable[[Any], dict[str, Any]],
    description: str | None,
    draw: Callable[[dict[str, Any], Path], None] | None = None,
) -> None:
    """Run an experiment on all cores, as its command line says.

    Args:
      settings: dataclass of the flags, with a field `json` and, if there is something to draw, `figure`.
      main: maps settings to results with `records`; the file also says on what it ran and, unless the results do, how
        long.
      description: of the command line's help.
      draw: draws the results to a file.
    """
    program, *given = sys.argv
    debug = "--debug" in given  # as in `jaxame`: shows where an error came from
    args = [argument for argument in given if argument != "--debug"]
    chosen: Any = tyro.cli(settings, description=description, args=args)
    cli.with_errors_in_a_line(Path(program).stem, debug, lambda: _run(chosen, main, draw))


def _run(
    chosen: Any,
    main: Callable[[Any], dict[str, Any]],
    draw: Callable[[dict[str, Any], Path], None] | None,
) -> None:
    begin = time.perf_counter()
    results = main(chosen)
    seconds = time.perf_counter() - begin
    about = {"seconds": seconds, "devices": environment.devices(), "versions": environment.versions()}
    results = about | results
    finish(results, chosen.json)
    if draw is not None and chosen.figure:
        draw(results, chosen.figure)


def finish(results: dict[str, Any], path: Path | None) -> None:
    """Print a line per record of `results["records"]`, and write all of `results` to `path`."""
    for record in results["records"]:
        cells = [(name, f"{value:.3g}" if isinstance(value, float) else value) for name, value in record.items()]
        print(", ".join(f"{name} {text}" for name, text in cells))
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=2) + "\n")
