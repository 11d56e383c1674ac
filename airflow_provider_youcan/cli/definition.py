"""``airflow youcan``: the same commands in Airflow's own command line, from Airflow 3.2 on."""

from __future__ import annotations

import argparse
import sys

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand, GroupCommand

from airflow_provider_youcan.cli.commands import COMMANDS, Command, run

__all__ = ["get_youcan_cli_commands"]


def get_youcan_cli_commands() -> list[CLICommand]:
    """Return the commands, as Airflow asks its providers for them."""
    commands = [
        ActionCommand(name=command.name, help=command.help, func=_run, args=(_Options(command),))
        for command in COMMANDS
    ]
    return [GroupCommand(name="youcan", help="Drive a YouCan shop's orders", subcommands=commands)]


class _Options(Arg):
    """All options of a command: they are added as its own parser has them."""

    def __init__(self, command: Command) -> None:
        super().__init__(flags=("--options",))  # type: ignore[no-untyped-call]
        self._command = command

    def add_to_parser(self, parser: argparse.ArgumentParser) -> None:
        self._command.add_arguments(parser)


def _run(options: argparse.Namespace) -> None:
    sys.exit(run(options))
