"""
``python -m airflow_provider_youcan check``: the assumptions about YouCan, tested in one shop.

The output holds no token, and nothing of a customer.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from typing import TYPE_CHECKING

from airflow_provider_youcan import __version__
from airflow_provider_youcan.hooks.standalone import open_hook

if TYPE_CHECKING:
    from airflow_provider_youcan.client.assumptions import Assumption

__all__ = ["DESCRIPTION", "add_arguments"]


DESCRIPTION = (
    "Asks the shop of an Airflow connection a few things, reading only, and prints what this provider assumes "
    "about YouCan, and whether it holds there. Exits with 0 where all of it does."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--conn-id", default="youcan_default", help="the Airflow connection of the shop")
    parser.add_argument("--json", action="store_true", help="print it as JSON, for a bug report")
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    with open_hook(options.conn_id) as hook:
        found = hook.check_assumptions()
    holds = all(assumption.holds for assumption in found)
    if options.json:
        print(json.dumps({**_versions(), "holds": holds, "assumptions": [vars(one) for one in found]}, indent=2))
    else:
        _print_table(found)
        if not any("edit-orders" in one.name for one in found):
            note = "Whether the token may change an order (edit-orders) can't be seen without changing one."
            print(note, file=sys.stderr)
    return 0 if holds else 1


def _versions() -> dict[str, str]:
    import airflow

    return {
        "airflow_provider_youcan": __version__,
        "airflow": airflow.__version__,
        "python": platform.python_version(),
    }


def _print_table(found: list[Assumption]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("assumption", "holds", "what was seen", "source")
    for one in found:
        holds = {True: "yes", False: "NO", None: "not seen"}[one.holds]
        table.add_row(one.name, holds, escape(one.seen), one.source)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
