"""The commands of ``python -m airflow_provider_youcan``, which ``airflow youcan`` has as well."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from airflow_provider_youcan.exceptions import YouCanError

__all__ = ["COMMANDS", "Command", "main", "run"]


class Command(NamedTuple):
    """One of the commands."""

    name: str
    help: str
    module: str
    """The module that has its ``add_arguments``, and perhaps a ``DESCRIPTION``."""

    @property
    def add_arguments(self) -> Callable[[argparse.ArgumentParser], None]:
        """Adds its options to a parser."""
        add: Callable[[argparse.ArgumentParser], None] = import_module(self.module).add_arguments
        return add

    @property
    def description(self) -> str | None:
        """A description of the command, in a few sentences."""
        return getattr(import_module(self.module), "DESCRIPTION", None)


COMMANDS = (
    Command("authorize", "get the first tokens of an app, with the consent of a seller", f"{__package__}.authorize"),
    Command("check", "check whether a shop behaves as this provider assumes", f"{__package__}.check"),
    Command("plan", "show what a file would change in a shop, and keep that as a plan", f"{__package__}.plan"),
    Command("apply", "apply a plan, once you have agreed", f"{__package__}.apply"),
    Command("sandbox", "run a local shop that speaks YouCan's API", f"{__package__}.sandbox"),
    Command("webhooks", "receive YouCan's webhooks", f"{__package__}.webhooks"),
)


def main(arguments: list[str] | None = None) -> int:
    """
    Run a command.

    :param arguments: its name and its options (default: those of the process).
    :return: the exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_youcan", description="YouCan for Airflow.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        added = commands.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        command.add_arguments(added)
    return run(parser.parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """
    Run the command that options were given for.

    :param options: as its parser read them.
    :return: the exit code.
    """
    try:
        code: int = options.run(options)
    except YouCanError as error:
        print(error, file=sys.stderr)
    except (KeyboardInterrupt, EOFError):
        print("Stopped: nothing more was done.", file=sys.stderr)
    else:
        return code
    return 1
