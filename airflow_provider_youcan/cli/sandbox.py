"""``python -m airflow_provider_youcan sandbox``: the local shop."""

from __future__ import annotations

import argparse

from airflow_provider_youcan.sandbox import __main__ as sandbox

__all__ = ["DESCRIPTION", "add_arguments"]

DESCRIPTION = "Serves a made-up shop that speaks YouCan's API on this machine, until you stop it with Ctrl-C."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    sandbox.add_arguments(parser)
    parser.set_defaults(run=sandbox.serve)
