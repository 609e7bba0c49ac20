"""The command line: `jaxame demo`."""

import logging
import os
import sys
from collections.abc import Sequence

import jax
import tyro
from rich.console import Console

from jaxame import demo
from jaxame.attribution import AttributionError


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that `argv` (by default the program's arguments) names; exits with 1 or 2 when it cannot."""
    given = list(sys.argv[1:] if argv is None else argv)
    defaults = demo_defaults(given)
    app = tyro.extras.SubcommandApp()

    @app.command(name="demo")
    def _(settings: tyro.conf.OmitArgPrefixes[demo.Settings] = defaults) -> None:
        """Find the poisoned digits behind a model's wrong predictions; writes a table, arrays and a figure."""
        run_demo(settings)

    app.cli(args=given, prog="jaxame", description="Measure the effect of training data on predictions.")


def demo_defaults(given: Sequence[str]) -> demo.Settings:
    """Return the defaults that flags then change: the small ones if `--smoke` is among the arguments."""
    return demo.SMOKE if "--smoke" in given else demo.Settings()


def run_demo(settings: demo.Settings) -> None:
    """Run the demo as a program: on all cores, with log lines where there is no terminal, with an exit status."""
    use_all_cores()
    console = Console()
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("jaxame").setLevel(logging.WARNING if console.is_terminal else logging.INFO)
    try:
        summary = demo.run(settings, console)
    except (ValueError, OSError, AttributionError) as error:
        sys.exit(f"jaxame demo: {error}")
    if settings.smoke and not demo.makes_sense(summary):
        sys.exit("jaxame demo --smoke: the answer does not make sense; see the table above")


def use_all_cores() -> None:
    """Give JAX one CPU device per core, unless the environment says otherwise: tiles then train side by side."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
