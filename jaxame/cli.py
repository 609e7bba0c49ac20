"""The command line: `jaxame demo`, and the commands on a run (`jaxame.commands`)."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

import jax
import tyro
from rich.console import Console

from jaxame import commands, demo
from jaxame.attribution import AttributionError
from jaxame.cluster import ClusterError
from jaxame.exchange import ExchangeError

_DESCRIPTION = """Measure the effect of training data on predictions.

A run is a folder; it is started, stopped and gone on with at will:

    jaxame run runs/mine --game mygame:make --set width=64 --num-submodels 5000
    jaxame status runs/mine
    jaxame resume runs/mine
    jaxame attribute runs/mine --fdr 0.1 --out runs/mine.npz
    jaxame query runs/mine --query mygame:other_query
    jaxame report runs/mine --fdr 0.1
    jaxame export runs/mine.npz runs/mine.parquet

Exit status: 0 done, 1 an error, 2 a command that is not understood, 3 stopped before the end. `--debug` shows where an
error came from.
"""
_TOLD = (ValueError, OSError, ImportError, AttributionError, ClusterError, ExchangeError, jax.errors.JaxRuntimeError)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that `argv` (by default the program's arguments) names; see the description for exit codes."""
    given = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    defaults = demo_defaults(given)

    def find(settings: demo.Settings = defaults) -> None:
        """Find the poisoned digits behind a model's wrong predictions; writes a table, arrays and a figure."""
        _run_demo(settings)

    by_name = {"demo": find} | {one.__name__: one for one in commands.ALL}

    def work() -> None:
        tyro.extras.subcommand_cli_from_dict(
            by_name, prog="jaxame", description=_DESCRIPTION, args=given, config=(tyro.conf.OmitArgPrefixes,)
        )

    command = next((argument for argument in given if not argument.startswith("-")), "")
    with_errors_in_a_line(f"jaxame {command}", debug, work)


class _ToStdout(logging.StreamHandler[TextIO]):
    """Writes to `sys.stdout` as it is then: while bars are drawn, lines go above them."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)


def with_errors_in_a_line(name: str, debug: bool, work: Callable[[], None]) -> None:
    """Do `work` as a program: on all cores, with log lines where there is no terminal, and errors in one line."""
    use_all_cores()
    logging.basicConfig(format="%(message)s", handlers=[_ToStdout()])
    logging.getLogger("jaxame").setLevel(logging.WARNING if Console().is_terminal else logging.INFO)
    try:
        work()
    except commands.StoppedEarlyError as stopped:
        print(f"{name}: {stopped}", file=sys.stderr)
        sys.exit(commands.STOPPED)
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        sys.exit(commands.STOPPED)
    except _TOLD as error:
        if debug:
            raise
        sys.exit(f"{name}: {_in_a_line(error)}")


def _in_a_line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error} (pip install 'jaxame[data,ray]' has what commands need)"
    if isinstance(error, OSError) and error.filename is not None:
        return f"needs a file or folder that is there and may be used; got {error.filename}: {error.strerror}"
    if "RESOURCE_EXHAUSTED" in str(error):
        return f"needs more memory; take smaller batches or fewer queries. {str(error).splitlines()[0]}"
    return "; ".join(str(error).splitlines())


def demo_defaults(given: Sequence[str]) -> demo.Settings:
    """Return the defaults that flags then change: the small ones if `--smoke` is among the arguments."""
    return demo.SMOKE if "--smoke" in given else demo.Settings()


def run_demo(settings: demo.Settings) -> None:
    """Run the demo as a program, with an exit status."""
    with_errors_in_a_line("jaxame demo", False, lambda: _run_demo(settings))


def _run_demo(settings: demo.Settings) -> None:
    summary = demo.run(settings, Console())
    if settings.smoke and not demo.makes_sense(summary):
        sys.exit("jaxame demo --smoke: the answer does not make sense; see the table above")


def use_all_cores() -> None:
    """Give JAX one CPU device per core, unless the environment says otherwise: tiles then train side by side."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
