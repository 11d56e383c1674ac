"""The input of a run, from a table or from the plan of a dry run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.inputs import RunInput
from airflow_provider_youcan.reconciliation.planner import Guard, Outcome
from airflow_provider_youcan.reconciliation.record.reader import RecordedLine, RecordedTry
from airflow_provider_youcan.reconciliation.rows.desired import DesiredState
from airflow_provider_youcan.texts import shorten

__all__ = ["allow_from", "read_plan", "read_table"]


def read_table(desired: DesiredState, only_from: Mapping[StatusContext, Collection[str]]) -> RunInput:
    """
    Build the run's input from a table.

    :param desired: its rows.
    :param only_from: for the statuses that are guarded, the slugs that they may be moved from.
    """
    guards = {context: Guard(tuple(slugs)) for context, slugs in only_from.items()}
    return RunInput(desired, lambda _, context: guards.get(context), is_guarded=bool(guards))


def read_plan(plan: RecordedTry) -> RunInput:
    """
    Build the input that applies a plan: each planned status, while it still is what the plan saw.

    :param plan: the report of a dry run.
    :raises YouCanInvalidInputError: if it is not the whole report of a dry run.
    """
    end = _check_plan(plan)
    planned = [line for line in plan.lines if line.outcome is Outcome.PLANNED]
    lines = {line.key: line for line in planned}
    if len(lines) < len(planned):
        raise YouCanInvalidInputError(
            f"The plan {plan.name} names a status of an order more than once", advice="plan again."
        )
    unknown = "what it was could not be read when it was planned"
    guards = {key: allow_from([line.before], "the plan saw", unknown) for key, line in lines.items()}
    desired = DesiredState()
    for line in planned:
        desired.add_status(line.order_id, line.ref, line.context, line.wanted, line.error)
    return RunInput(
        desired,
        lambda order, context: guards.get((str(order.order_id), context)),
        is_guarded=True,
        total=len(plan.statuses),
        rows=end["rows"],
        stores={end["store"]} - {None},
        exceeded=end.get("max_changes"),
        holds=_find_holds(plan.lines),
    )


def allow_from(slugs: Sequence[str | None], who: str, unknown: str) -> Guard:
    """Return the guard that lets a status be moved only from the slugs that are known."""
    known = tuple(slug for slug in slugs if slug is not None)
    if not known:
        return Guard((), unknown)
    shown = " or ".join(shorten(slug) for slug in known).replace("{", "{{").replace("}", "}}")
    return Guard(known, f"{who} {shown}, but the shop now shows {{now!r}}")


def _check_plan(plan: RecordedTry) -> Mapping[str, Any]:
    """Return the last line of a plan that can be applied."""
    if plan.end is None or plan.cut_line is not None:
        raise YouCanInvalidInputError(
            f"The plan {plan.name} is cut off: its last line is missing", advice="plan again."
        )
    if not plan.is_plan:
        raise YouCanInvalidInputError(
            f"{plan.name} is not the report of a dry run", advice="give the report of a run with dry_run=True."
        )
    listed = sum(line.outcome is Outcome.NOT_REACHED for line in plan.lines)
    if missing := plan.end.get("not_reached") or listed:
        raise YouCanInvalidInputError(
            f"The dry run that wrote {plan.name} ended before it came to {missing:,} statuses", advice="plan again."
        )
    if plan.invalid and not plan.lines:
        raise YouCanInvalidInputError(
            f"The dry run that wrote {plan.name} refused its table",
            advice="correct the table, and plan again; there is nothing to apply.",
        )
    return plan.end


def _find_holds(lines: Iterable[RecordedLine]) -> dict[str, dict[StatusContext, str]]:
    """Return the statuses that were already right, and that a planned general status depends on."""
    closed = {
        line.order_id for line in lines if line.context is StatusContext.GENERAL and line.outcome is Outcome.PLANNED
    }
    holds: dict[str, dict[StatusContext, str]] = {}
    for line in lines:
        is_met = line.outcome is Outcome.UNCHANGED and line.before == line.wanted
        if is_met and line.order_id in closed and line.context is not StatusContext.GENERAL:
            holds.setdefault(line.order_id, {})[line.context] = line.wanted
    return holds
