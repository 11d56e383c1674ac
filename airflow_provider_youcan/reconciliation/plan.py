"""What a run brings about: a table, a plan that was approved, or the way back from a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from airflow_provider_youcan.checks import shorten
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.planner import Guard, Outcome
from airflow_provider_youcan.reconciliation.record.reader import RecordedLine, RecordedReport
from airflow_provider_youcan.reconciliation.rows.desired import STATUS_COLUMNS, DesiredOrder, DesiredState, InvalidRow

__all__ = ["Source", "read_plan", "read_revert", "read_table"]

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

    @property
    def is_plan(self) -> bool:
        """Whether it is a plan that was approved."""
        return self.rows is not None


def read_table(desired: DesiredState, only_from: Mapping[StatusContext, Collection[str]]) -> Source:
    """
    Return the source that a table is.

    :param desired: its rows.
    :param only_from: for the statuses that are guarded, the slugs that they may be moved from.
    """
    guards = {context: Guard(tuple(slugs)) for context, slugs in only_from.items()}
    return Source(desired, lambda _, context: guards.get(context), is_guarded=bool(guards))


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
            f"{report.name} is not the report of a dry run, so nothing was sent: give the report of a run with "
            "dry_run=True."
        )
    if missing := sum(line.outcome == Outcome.NOT_REACHED for line in report.lines):
        raise YouCanInvalidInputError(
            f"The dry run that wrote {report.name} ended before it came to {missing:,} statuses, so nothing was sent; "
            "plan again."
        )
    if report.invalid and not report.lines:
        raise YouCanInvalidInputError(
            f"The dry run that wrote {report.name} refused its table, so there is nothing to apply and nothing was "
            "sent: correct the table, and plan again."
        )
    planned = [line for line in report.lines if line.outcome == Outcome.PLANNED]
    wanted = {line.key: (line.before, line.wanted) for line in planned}
    if len(wanted) < len(planned):
        raise YouCanInvalidInputError(
            f"The plan {report.name} names a status of an order more than once, so nothing was sent; plan again."
        )
    guards: dict[tuple[str, StatusContext], Guard] = {}
    for key, (before, _) in wanted.items():
        guards[key] = _guard([before], "the plan saw", "what it was could not be read when it was planned")
    source = _follow((line, line.wanted) for line in planned)
    source.guard = lambda order, context: guards.get((str(order.order_id), context))
    source.total, source.rows, source.exceeded = report.statuses, report.end["rows"], report.end.get("max_changes")
    source.stores = {report.end["store"]} - {None}
    return source


def read_revert(reports: Iterable[RecordedReport]) -> Source:
    """
    Return what takes a run back: each status that it changed, while that still is what the run set.

    :param reports: the reports of the run's tries, from the first on. A plan counts for what no report is sure of.
    :raises YouCanInvalidInputError: if one is a plan that is cut off, or they say nothing at all.
    """
    reports = list(reports)
    for report in reports:
        _refuse_silence(report, reports)
    changes: dict[tuple[str, StatusContext], _Change] = {}
    sure, seen, was_killed, total = set(), set(), False, 0
    for report in (one for one in reports if not one.is_plan):
        total += report.statuses
        for line in report.lines:
            seen.add(line.key)
            if line.may_have_changed:
                changes.setdefault(line.key, _Change()).add(line)
            # A try that follows one that was killed finds done what that one did, and has no record of.
            if line.may_have_changed or not (was_killed or report.is_retry):
                sure.add(line.key)
        was_killed = was_killed or report.end is None
    for report in (one for one in reports if one.is_plan):
        for line in report.lines:
            # A plan that is in a table need not be the one that was applied.
            counts = line.outcome == Outcome.PLANNED and (report.end is not None or line.key in seen)
            if counts and line.key not in sure:
                total += line.key not in seen
                changes.setdefault(line.key, _Change()).add(line)
    guards = {
        key: _guard(change.may_be, "the run set", "what the run set is not known") for key, change in changes.items()
    }
    source = _follow((change.latest, change.before) for change in changes.values())
    source.guard = lambda order, context: guards.get((str(order.order_id), context))
    source.total, source.is_revert = total, True
    source.stores = {report.end["store"] for report in reports if report.end is not None} - {None}
    return source


def _refuse_silence(report: RecordedReport, reports: Sequence[RecordedReport]) -> None:
    """Refuse what would have a revert succeed that did nothing."""
    if not report.is_plan and report.end is None and any(line.outcome == Outcome.PLANNED for line in report.lines):
        raise YouCanInvalidInputError(
            f"The plan {report.name} is cut off: its last line is missing, so nothing was sent; give the whole one."
        )
    if report.is_empty and not any(other.lines or other.end for other in reports):
        raise YouCanInvalidInputError(
            f"The report {report.name} is empty, so it does not say what to take back, and nothing was sent: its run "
            "was killed, or its storage keeps nothing of a file that is not closed. Give the plan, or reverts_run_id."
        )


class _Change:
    """What the tries of a run did to one status, from the first on."""

    def __init__(self) -> None:
        self._lines: list[RecordedLine] = []

    def add(self, line: RecordedLine) -> None:
        self._lines.append(line)

    @property
    def latest(self) -> RecordedLine:
        return self._lines[-1]

    @property
    def may_be(self) -> list[str | None]:
        """What the run left it at: what it set last, or before that, where the last is not confirmed."""
        confirmed = [number for number, line in enumerate(self._lines) if line.outcome == Outcome.CHANGED]
        return list(dict.fromkeys(line.wanted for line in reversed(self._lines[confirmed[-1] if confirmed else 0 :])))

    @property
    def before(self) -> str | None:
        """What it was before the run."""
        changed = (number for number, line in enumerate(self._lines) if line.outcome == Outcome.CHANGED)
        known = (number for number, line in enumerate(self._lines) if line.before is not None)
        first = next(changed, next(known, 0))
        before = self._lines[first].before
        for line in reversed(self._lines[:first]):
            if line.wanted == before:
                # It was not confirmed, and shows by what came after it.
                before = line.before
        return before


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


def _guard(slugs: Sequence[str | None], who: str, unknown: str) -> Guard:
    known = tuple(slug for slug in slugs if slug is not None)
    if not known:
        return Guard((), unknown)
    shown = " or ".join(shorten(slug) for slug in known).replace("{", "{{").replace("}", "}}")
    return Guard(known, f"{who} {shown}, but the shop now shows {{now!r}}")
