"""What a run brings about: a table, a plan that was approved, or the way back from a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_youcan.checks import check_order_id, check_status_text, shorten
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.applier import IS_UNKNOWN
from airflow_provider_youcan.reconciliation.planner import Guard, Outcome
from airflow_provider_youcan.reconciliation.report import COMPLETE, LINE_KEYS
from airflow_provider_youcan.reconciliation.rows import STATUS_COLUMNS, DesiredOrder, DesiredState, InvalidRow

__all__ = [
    "RecordedLine",
    "RecordedReport",
    "Source",
    "read_plan",
    "read_recorded",
    "read_report",
    "read_revert",
    "read_table",
]

_NOT_KNOWN = "what it was before is not known, so it can't be set back"


@dataclass
class Source:
    """What should hold, and what binds the run that brings it about."""

    desired: DesiredState
    guard: Callable[[DesiredOrder, StatusContext], Guard | None] = lambda _order, _context: None
    """Returns what a status may be moved from, ``None`` for anything."""
    is_guarded: bool = False
    """Whether there is any guard."""
    total: int | None = None
    """What a share is a share of; ``None``: of the rows, and of the statuses that they ask for."""
    rows: int | None = None
    """How many rows the table had that a plan was made of."""
    stores: set[str] = field(default_factory=set)
    """The stores that it is for, as far as they are known."""
    exceeded: str | None = None
    """The ``max_changes`` that a plan is over."""
    is_revert: bool = False


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


@dataclass
class RecordedReport:
    """A report that was read back."""

    name: str
    """Where it was read from, for messages."""
    lines: list[RecordedLine]
    """What became of each status whose order was found."""
    statuses: int
    """How many lines are about a status."""
    end: Mapping[str, Any] | None = None
    """Its last line, ``None`` where the run was killed."""
    cut_line: int | None = None
    """Which line is cut off."""

    @property
    def is_plan(self) -> bool:
        """Whether it is the report of a dry run."""
        return self.end is not None and self.end["dry_run"] is True


def read_table(desired: DesiredState, only_from: Mapping[StatusContext, Collection[str]]) -> Source:
    """
    Return the source that a table is.

    :param desired: its rows.
    :param only_from: for the statuses that are guarded, the slugs that they may be moved from.
    """
    guards = {context: Guard(tuple(slugs)) for context, slugs in only_from.items()}
    return Source(desired, lambda _, context: guards.get(context), is_guarded=bool(guards))


def read_report(lines: Iterable[str], name: str) -> RecordedReport:
    """
    Read a report back.

    :param lines: its lines.
    :param name: where they come from, for messages.
    :raises YouCanInvalidInputError: if it is none. A line that is cut off ends it.
    """
    report = RecordedReport(name, [], 0)
    for number, text in enumerate(lines, 1):
        if report.end is not None or report.cut_line is not None:
            raise _no_report(name, number, "comes after the last one")
        try:
            line = json.loads(text) if text.endswith("\n") else None
        except ValueError:
            line = None
        if line is None:
            report.cut_line = number
            continue
        if not isinstance(line, dict) or not line.keys() >= set(LINE_KEYS):
            raise _no_report(name, number, "is none of a report")
        if line["outcome"] == COMPLETE:
            report.end = _check_end(name, number, line)
        elif line["context"] is not None:
            report.statuses += 1
            _add_line(report, number, line)
        elif line["outcome"] != Outcome.INVALID:
            raise _no_report(name, number, "is none of a report")
    return report


def read_recorded(lines: Iterable[Mapping[str, Any]], name: str) -> RecordedReport:
    """
    Read a report back that is in a table, where it has no last line. What was only planned counts for nothing.

    :param lines: its lines.
    :param name: the table, for messages.
    :raises YouCanInvalidInputError: if it is none.
    """
    report = RecordedReport(name, [], 0)
    for number, line in enumerate(lines, 1):
        if line["context"] is not None:
            report.statuses += 1
            _add_line(report, number, line)
    return report


def read_plan(report: RecordedReport) -> Source:
    """
    Return what applies a plan: each status that it planned, while that still is what the plan saw.

    :raises YouCanInvalidInputError: if it is not the whole report of a dry run.
    """
    if report.end is None or report.cut_line is not None:
        raise YouCanInvalidInputError(
            f"The plan {report.name} is cut off: its last line is missing, so nothing was sent; plan again."
        )
    if not report.is_plan:
        raise YouCanInvalidInputError(
            f"{report.name} is the report of a run that was no dry run, so nothing was sent: give the report of a run "
            "with dry_run=True."
        )
    if missing := sum(line.outcome == Outcome.NOT_REACHED for line in report.lines):
        raise YouCanInvalidInputError(
            f"The dry run that wrote {report.name} ended before it came to {missing:,} statuses, so nothing was sent; "
            "plan again."
        )
    planned = [line for line in report.lines if line.outcome == Outcome.PLANNED]
    wanted = {(line.order_id, line.context): (line.before, line.wanted) for line in planned}
    if len(wanted) < len(planned):
        raise YouCanInvalidInputError(
            f"The plan {report.name} names a status of an order more than once, so nothing was sent; plan again."
        )
    guards: dict[tuple[str, StatusContext], Guard] = {}
    for key, (before, _) in wanted.items():
        guards[key] = _guard(before, "the plan saw", "what it was could not be read when it was planned")
    source = _follow((line, line.wanted) for line in planned)
    source.guard = lambda order, context: guards.get((str(order.order_id), context))
    source.total, source.rows, source.exceeded = report.statuses, report.end["rows"], report.end.get("max_changes")
    source.stores = {report.end["store"]} - {None}
    return source


def read_revert(reports: Iterable[RecordedReport]) -> Source:
    """
    Return what takes a run back: each status that it changed, while that still is what the run set.

    :param reports: the reports of the run's tries, from the first on; a plan counts for what no report has a line of.
    """
    reports = list(reports)
    changes: dict[tuple[str, StatusContext], _Change] = {}
    recorded: set[tuple[str, StatusContext]] = set()
    total = 0
    for report in [*(one for one in reports if not one.is_plan), *(one for one in reports if one.is_plan)]:
        for line in report.lines:
            key = (line.order_id, line.context)
            if report.is_plan and key in recorded:
                continue
            total += 1
            if not report.is_plan:
                recorded.add(key)
            if _may_have_changed(line, is_plan=report.is_plan):
                changes.setdefault(key, _Change()).add(line)
    guards = {
        key: _guard(change.latest.wanted, "the run set", "what the run set is not known")
        for key, change in changes.items()
        if change.latest is not None
    }
    source = _follow((change.latest, change.before) for change in changes.values() if change.latest is not None)
    source.guard = lambda order, context: guards.get((str(order.order_id), context))
    source.total, source.is_revert = total, True
    source.stores = {report.end["store"] for report in reports if report.end is not None} - {None}
    return source


class _Change:
    """What the tries of a run did to one status."""

    def __init__(self) -> None:
        self.latest: RecordedLine | None = None
        self._first_changed: RecordedLine | None = None
        self._first: RecordedLine | None = None

    def add(self, line: RecordedLine) -> None:
        self.latest = line
        if self._first is None or self._first.before is None:
            self._first = line
        if self._first_changed is None and line.outcome == Outcome.CHANGED:
            self._first_changed = line

    @property
    def before(self) -> str | None:
        """What it was before the run."""
        line = self._first_changed or self._first
        return None if line is None else line.before


def _may_have_changed(line: RecordedLine, *, is_plan: bool) -> bool:
    if is_plan:
        return line.outcome == Outcome.PLANNED
    is_unknown = line.outcome == Outcome.FAILED and IS_UNKNOWN in (line.reason or "")
    return line.outcome == Outcome.CHANGED or is_unknown


def _follow(targets: Iterable[tuple[RecordedLine, str | None]]) -> Source:
    """Return the source of so many statuses, each with what it should be."""
    desired = DesiredState()
    for line, target in targets:
        if target is None:
            desired.rows += 1
            desired.invalid.append(InvalidRow(desired.rows, line.order_id, line.ref, _NOT_KNOWN))
        else:
            desired.add({"order_id": line.order_id, "ref": line.ref, STATUS_COLUMNS[line.context]: target})
    return Source(desired, is_guarded=True)


def _guard(slug: str | None, who: str, unknown: str) -> Guard:
    if slug is None:
        return Guard((), unknown)
    shown = shorten(slug).replace("{", "{{").replace("}", "}}")
    return Guard((slug,), f"{who} {shown}, and the shop shows {{now!r}}, so it has moved on since")


def _check_end(name: str, number: int, line: dict[str, Any]) -> dict[str, Any]:
    is_sound = (
        isinstance(line.get("dry_run"), bool)
        and isinstance(line.get("rows"), int)
        and isinstance(line.get("store"), (str, type(None)))
    )
    if not is_sound:
        raise _no_report(name, number, "is none of a report")
    return line


def _add_line(report: RecordedReport, number: int, line: Mapping[str, Any]) -> None:
    try:
        context, outcome = StatusContext(line["context"]), Outcome(line["outcome"])
        wanted = check_status_text(line["wanted"])
        before = None if line["before"] is None else check_status_text(line["before"])
        if line["order_id"] is None and outcome not in (Outcome.PLANNED, Outcome.CHANGED, Outcome.UNCHANGED):
            return  # of a ref that led to no order
        order_id = check_order_id(line["order_id"])
    except (ValueError, TypeError, YouCanInvalidInputError) as error:
        raise _no_report(report.name, number, f"makes no sense ({str(error).rstrip('.')})") from None
    ref = line["ref"] if isinstance(line["ref"], str) else None
    report.lines.append(RecordedLine(order_id, ref, context, before, wanted, outcome.value, line["reason"]))


def _no_report(name: str, number: int, what: str) -> YouCanInvalidInputError:
    return YouCanInvalidInputError(
        f"Line {number} of {name} {what}, so nothing was sent: give a report of this operator."
    )
