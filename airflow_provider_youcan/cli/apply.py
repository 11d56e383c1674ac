"""``python -m airflow_provider_youcan apply``: a plan, once a person has agreed."""

from __future__ import annotations

import argparse
import sys

from airflow_provider_youcan.cli.reconciling import reconcile
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.texts import pluralize

__all__ = ["DESCRIPTION", "add_arguments"]

DESCRIPTION = (
    "Shows what of a plan still applies, asks, and applies exactly that: each status only while it still is what the "
    "plan saw. The report that it writes can be undone."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("plan", help="the plan, as the command plan or a dry run has written it")
    parser.add_argument("--yes", action="store_true", help="don't ask")
    parser.add_argument("--report", help="where the report is written (default: beside the plan)")
    parser.add_argument("--conn-id", default="youcan_default", help="the Airflow connection of the shop")
    parser.set_defaults(run=_apply)


def _apply(options: argparse.Namespace) -> int:
    report = options.report or f"{options.plan.removesuffix('.jsonl')}.applied.jsonl"
    summary, preview = reconcile(plan=options.plan, dry_run=True, youcan_conn_id=options.conn_id)
    print(preview)
    if not summary["planned"]:
        print("\nNothing is left to change.")
        return 0
    number = pluralize(summary["planned"], "status", "statuses")
    if not options.yes and not _agrees(f"\nSet {number} in the shop of {options.conn_id!r}? [y/N] "):
        print("Nothing was sent.")
        return 1
    summary, preview = reconcile(plan=options.plan, report_path=report, youcan_conn_id=options.conn_id)
    print(f"\n{preview}\n\nThe report is at {summary['report_path']}: keep it, an undo needs it.")
    return 0


def _agrees(question: str) -> bool:
    if not sys.stdin.isatty():
        raise YouCanInvalidInputError("Nobody can be asked here", advice="give --yes to apply the plan.")
    return input(question).strip().lower() in ("y", "yes")
