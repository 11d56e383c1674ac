"""The lines of a record: one for each status, one before each update, and the last one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from airflow_provider_youcan.reconciliation import background
from airflow_provider_youcan.reconciliation.planner import Step

__all__ = ["COMPLETE", "LINE_KEYS", "RECORD_VERSION", "Line", "NumberedLine", "Sink", "make_last_line", "make_line"]

RECORD_VERSION = 1
"""The version of the format, in the last line. What was written before it had one lacks ``unconfirmed``."""

COMPLETE = "complete"
"""The outcome of the last line, which is about no status."""

LINE_KEYS = ("order_id", "ref", "context", "before", "wanted", "outcome", "reason")
"""The keys that the lines of every version have."""

Line: TypeAlias = Mapping[str, Any]
"""Plain JSON."""

NumberedLine: TypeAlias = tuple[int, int | None, Line]
"""A line with its number within the try, from 1, and the row that it is about."""

Sink: TypeAlias = background.Sink[NumberedLine]
"""Keeps lines where they survive this process."""


def make_line(
    order_id: str | None, ref: str | None, context: str | None, wanted: str | None, step: Step
) -> dict[str, Any]:
    """
    Return the line of one status, or of a row that can't be used.

    :param order_id: the order's UUID, ``None`` if it is not known.
    :param ref: its ref, ``None`` if no row gives one.
    :param context: which of its statuses, ``None`` for a row that can't be used.
    :param wanted: the slug that the row asks for.
    :param step: what became of it.
    """
    return {
        "order_id": order_id,
        "ref": ref,
        "context": context,
        "before": step.before,
        "wanted": wanted,
        "outcome": step.outcome.value,
        "reason": step.reason,
        "unconfirmed": step.unconfirmed,
    }


def make_last_line(
    *, dry_run: bool, store: str | None, rows: int, not_reached: int, max_changes: str | None
) -> dict[str, Any]:
    """
    Return the last line, which says that nothing is missing.

    :param dry_run: whether nothing was sent.
    :param store: the store's slug, ``None`` if it was not asked for.
    :param rows: how many rows the table had.
    :param not_reached: how many statuses were not reached; more than 1,000 of them have no lines of their own.
    :param max_changes: the threshold, if more would change than it allows: such a plan is not applied unasked.
    """
    line: dict[str, Any] = {**dict.fromkeys(LINE_KEYS), "outcome": COMPLETE, "unconfirmed": False}
    line |= {"record_version": RECORD_VERSION, "dry_run": dry_run, "store": store, "rows": rows}
    line |= {"not_reached": not_reached}
    if not_reached:
        line["reason"] = f"{not_reached:,} statuses were not reached"
    return line if max_changes is None else line | {"max_changes": max_changes}
