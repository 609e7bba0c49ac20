"""Find the poisoned digits: the paper's poisoning experiment in small, the same code as `jaxame demo`."""

import sys

import tyro

from jaxame import cli, demo

if __name__ == "__main__":
    cli.run_demo(tyro.cli(demo.Settings, default=cli.demo_defaults(sys.argv), description=__doc__))
