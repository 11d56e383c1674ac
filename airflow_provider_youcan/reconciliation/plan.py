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

__all__ = ["RunInput", "allow_from", "follow", "read_plan", "read_table"]

_NOT_KNOWN = "what it was before is not known, so it can't be set back"


@dataclass
class RunInput:
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


def read_table(desired: DesiredState, only_from: Mapping[StatusContext, Collection[str]]) -> RunInput:
    """
    Return the source that a table is.

    :param desired: its rows.
    :param only_from: for the statuses that are guarded, the slugs that they may be moved from.
    """
    guards = {context: Guard(tuple(slugs)) for context, slugs in only_from.items()}
    return RunInput(desired, lambda _, context: guards.get(context), is_guarded=bool(guards))


def read_plan(report: RecordedReport) -> RunInput:
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
        guards[key] = allow_from([before], "the plan saw", "what it was could not be read when it was planned")
    source = follow((line, line.wanted) for line in planned)
    source.guard = lambda order, context: guards.get((str(order.order_id), context))
    source.total, source.rows, source.exceeded = report.statuses, report.end["rows"], report.end.get("max_changes")
    source.stores = {report.end["store"]} - {None}
    return source


def follow(targets: Iterable[tuple[RecordedLine, str | None]]) -> RunInput:
    """Return the source of so many statuses, each with what it should be."""
    desired = DesiredState()
    for line, target in targets:
        if target is None:
            desired.rows += 1
            desired.invalid.append(InvalidRow(desired.rows, line.order_id, line.ref, _NOT_KNOWN))
        else:
            desired.add({"order_id": line.order_id, "ref": line.ref, STATUS_COLUMNS[line.context]: target})
    return RunInput(desired, is_guarded=True)


def allow_from(slugs: Sequence[str | None], who: str, unknown: str) -> Guard:
    """Return the guard that lets a status be moved only from the slugs that are known."""
    known = tuple(slug for slug in slugs if slug is not None)
    if not known:
        return Guard((), unknown)
    shown = " or ".join(shorten(slug) for slug in known).replace("{", "{{").replace("}", "}}")
    return Guard(known, f"{who} {shown}, but the shop now shows {{now!r}}")
