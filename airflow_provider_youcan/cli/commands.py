"""The command line: ``python -m airflow_provider_youcan authorize``, ``check`` and ``webhooks``."""

from __future__ import annotations

import argparse
import sys

from airflow_provider_youcan.cli.authorize import add_authorize
from airflow_provider_youcan.cli.check import add_check
from airflow_provider_youcan.cli.webhooks import add_webhooks
from airflow_provider_youcan.exceptions import YouCanError

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """
    Run a command.

    :param arguments: its name and its options (default: those of the process).
    :return: the exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_youcan", description="YouCan for Airflow.")
    commands = parser.add_subparsers(dest="command", required=True)
    add_authorize(commands)
    add_check(commands)
    add_webhooks(commands)
    options = parser.parse_args(arguments)
    try:
        return 0 if options.run(options) else 1
    except YouCanError as error:
        print(error, file=sys.stderr)
    except (KeyboardInterrupt, EOFError):
        print("Stopped: nothing more was done.", file=sys.stderr)
    return 1
