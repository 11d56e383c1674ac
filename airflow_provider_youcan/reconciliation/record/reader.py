"""Reports that are read back: what became of each status, and whether anything is missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_youcan.checks import check_order_id, check_status_text
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.order import IS_UNKNOWN
from airflow_provider_youcan.reconciliation.planner import Outcome
from airflow_provider_youcan.reconciliation.record.lines import COMPLETE, LINE_KEYS

__all__ = ["RecordedLine", "RecordedReport", "read_report", "read_rows"]


@dataclass(frozen=True, slots=True)
class RecordedLine:
    """One line of a report: what became of one status."""

    order_id: str
    ref: str | None
    context: StatusContext
    before: str | None
    wanted: str
    outcome: str
    reason: str | None

    @property
    def key(self) -> tuple[str, StatusContext]:
        """Which status of which order it is about."""
        return self.order_id, self.context

    @property
    def may_have_changed(self) -> bool:
        """Whether the status was changed, as far as the run could tell."""
        return self.outcome == Outcome.CHANGED or (self.outcome == Outcome.FAILED and IS_UNKNOWN in (self.reason or ""))


@dataclass
class RecordedReport:
    """A report that was read back."""

    name: str
    """Where it was read from, for messages."""
    lines: list[RecordedLine] = field(default_factory=list)
    """What became of each status whose order was found."""
    invalid: int = 0
    """How many rows could not be used."""
    end: Mapping[str, Any] | None = None
    """Its last line, ``None`` where the run was killed."""
    cut_line: int | None = None
    """Which line is cut off."""
    is_plan: bool = False
    """Whether nothing was sent: it tells what a dry run planned."""
    is_retry: bool = False
    """Whether it is of a second or later try, as far as it tells that."""
    _statuses: set[tuple[Any, StatusContext]] = field(default_factory=set)

    @property
    def statuses(self) -> int:
        """How many statuses it is about, each counted once, however many rows asked for it."""
        return len(self._statuses)

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing at all, not even that there was nothing to do."""
        return not self._statuses and not self.invalid and self.end is None

    def add(self, number: int, line: Mapping[str, Any]) -> None:
        """
        Take a line that is about a status.

        :param number: which line it is, for messages.
        :param line: the line.
        :raises YouCanInvalidInputError: if it makes no sense.
        """
        try:
            context, outcome = StatusContext(line["context"]), Outcome(line["outcome"])
            wanted = check_status_text(line["wanted"])
            before = None if line["before"] is None else check_status_text(line["before"])
            found = outcome in (Outcome.PLANNED, Outcome.CHANGED, Outcome.UNCHANGED)
            # A ref that led to no order has none.
            order_id = None if line["order_id"] is None and not found else check_order_id(line["order_id"])
        except (ValueError, TypeError, YouCanInvalidInputError) as error:
            raise _no_report(self.name, number, f"makes no sense ({str(error).rstrip('.')})") from None
        ref, reason = (line[key] if isinstance(line[key], str) else None for key in ("ref", "reason"))
        self._statuses.add((order_id or ("ref", ref), context))
        if order_id is not None:
            self.lines.append(RecordedLine(order_id, ref, context, before, wanted, outcome.value, reason))


def read_report(lines: Iterable[str], name: str) -> RecordedReport:
    """
    Read a report back.

    :param lines: its lines.
    :param name: where they come from, for messages.
    :raises YouCanInvalidInputError: if it is none. A line that is cut off ends it.
    """
    report = RecordedReport(name)
    for number, text in enumerate(lines, 1):
        if report.end is not None or report.cut_line is not None:
            raise _no_report(name, number, "comes after the last one")
        try:
            line = json.loads(text) if text.endswith("\n") else None
        except (ValueError, RecursionError):
            line = None
        if line is None:
            report.cut_line = number
            continue
        if not isinstance(line, dict) or not line.keys() >= set(LINE_KEYS):
            raise _no_report(name, number, "is not a line of a report")
        if line["outcome"] == COMPLETE:
            report.end = _check_end(name, number, line)
            report.is_plan = line["dry_run"]
        elif line["context"] is not None:
            report.add(number, line)
        elif line["outcome"] == Outcome.INVALID:
            report.invalid += 1
        else:
            raise _no_report(name, number, "is not a line of a report")
    return report


def read_rows(rows: Iterable[Mapping[str, Any]], name: str, *, is_plan: bool, is_retry: bool) -> RecordedReport:
    """
    Read a report back that is in a table, where it has no last line.

    :param rows: its lines.
    :param name: the table, for messages.
    :param is_plan: whether it tells what a dry run planned.
    :param is_retry: whether it is of a second or later try.
    :raises YouCanInvalidInputError: if it is none.
    """
    report = RecordedReport(name, is_plan=is_plan, is_retry=is_retry)
    for number, row in enumerate(rows, 1):
        if row["context"] is not None:
            report.add(number, row)
        else:
            report.invalid += 1
    return report


def _check_end(name: str, number: int, line: dict[str, Any]) -> dict[str, Any]:
    is_sound = (
        isinstance(line.get("dry_run"), bool)
        and isinstance(line.get("rows"), int)
        and isinstance(line.get("store"), (str, type(None)))
    )
    if not is_sound:
        raise _no_report(name, number, "is not a line of a report")
    return line


def _no_report(name: str, number: int, what: str) -> YouCanInvalidInputError:
    return YouCanInvalidInputError(
        f"Line {number} of {name} {what}, so nothing was sent: give a report of this operator."
    )
