"""``python -m airflow_provider_youcan plan``: a dry run of a file, from a terminal or from CI."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from airflow_provider_youcan.cli.reconciling import reconcile
from airflow_provider_youcan.exceptions import YouCanInvalidInputError

__all__ = ["DESCRIPTION", "add_arguments"]

DESCRIPTION = (
    "Compares a file with the shop of an Airflow connection, changes nothing, prints what would change, and writes it "
    "down as a plan. Exits with 0 if nothing would change, with 2 if something would, and with 1 after an error."
)
_CHANGES = 2
_FILE_OPTIONS = ("delimiter", "encoding", "header_row", "sheet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--file", required=True, help="CSV, JSON lines, Parquet or a workbook: a path or a URL")
    parser.add_argument("--delimiter", help="of a CSV file (default: found out)")
    parser.add_argument("--encoding", help="of a text file (default: UTF-8)")
    parser.add_argument("--header-row", help="the row of the header, from 1 (default: the first that is not empty)")
    parser.add_argument("--sheet", help="the sheet of a workbook: its name, or its number from 1 (default: the first)")
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="COLUMN=NAME",
        help="what the file calls a column, such as order_id=Commande payment_status=Paiement",
    )
    parser.add_argument("--status-map", help='a JSON file, such as {"payment": {"COLLECTED": "paid"}}')
    parser.add_argument(
        "--only-from",
        nargs="+",
        metavar="CONTEXT=SLUG,SLUG",
        help="what a status may be moved from, such as payment=pending,unpaid",
    )
    parser.add_argument("--latest-by", help="the column that says which of several rows of an order counts")
    parser.add_argument(
        "--on-invalid", choices=("fail", "skip"), default="fail", help="what a row does that is invalid"
    )
    parser.add_argument(
        "--on-not-found", choices=("fail", "skip"), default="fail", help="what a row of another shop's order does"
    )
    parser.add_argument("--min-rows", type=int, default=0, help="refuse a file of fewer rows")
    parser.add_argument("--max-changes", help="refuse more changes than this number, or share such as 10%%")
    parser.add_argument("--plan", default="plan.jsonl", help="where the plan is written")
    parser.add_argument("--conn-id", default="youcan_default", help="the Airflow connection of the shop")
    parser.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> int:
    arguments: dict[str, Any] = {
        "orders_file": options.file,
        "columns": _read_pairs("--columns", options.columns),
        "status_map": None if options.status_map is None else _read_json(options.status_map),
        "on_invalid": options.on_invalid,
        "on_not_found": options.on_not_found,
        "min_rows": options.min_rows,
        "report_path": options.plan,
        "youcan_conn_id": options.conn_id,
    }
    if file_options := {name: value for name in _FILE_OPTIONS if (value := getattr(options, name)) is not None}:
        sheet = file_options.get("sheet", "")
        arguments["file_options"] = file_options | ({"sheet": int(sheet)} if sheet.isdecimal() else {})
    if (guards := _read_pairs("--only-from", options.only_from)) is not None:
        arguments["only_from"] = {context: slugs.split(",") for context, slugs in guards.items()}
    for name in ("latest_by", "max_changes"):
        if (value := getattr(options, name)) is not None:
            arguments[name] = value
    summary, preview = reconcile(dry_run=True, **arguments)
    print(preview)
    path = summary["report_path"]
    if not summary["planned"]:
        print(f"\nNothing would change. The plan is at {path}.")
        return 0
    print(f"\nThe plan is at {path}. Apply it with: python -m airflow_provider_youcan apply {path}")
    return _CHANGES


def _read_pairs(option: str, texts: list[str] | None) -> dict[str, str] | None:
    if texts is None:
        return None
    pairs = [text.partition("=") for text in texts]
    if wrong := next((text for text, (name, _, value) in zip(texts, pairs, strict=True) if not (name and value)), None):
        raise YouCanInvalidInputError(f"{option} has {wrong!r}: give name=value.")
    return {name: value for name, _, value in pairs}


def _read_json(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise YouCanInvalidInputError(f"--status-map {path} can't be read: {error.strerror}.") from None
    except ValueError:
        raise YouCanInvalidInputError(f"--status-map {path} is not JSON: write one mapping for each context.") from None
