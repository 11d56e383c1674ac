"""Compare desired with actual statuses. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from airflow_provider_youcan.orders import OrderStatuses, StatusContext

__all__ = ["CONTEXTS_IN_ORDER", "Outcome", "Step", "general_is_protected", "plan", "plan_status"]

CONTEXTS_IN_ORDER = (StatusContext.SHIPPING, StatusContext.PAYMENT, StatusContext.GENERAL)
"""The general status comes last, because an order is closed when all else is done."""


class Outcome(str, Enum):
    """What became of a status that a row asks for, or of a row that can't be used."""

    PLANNED = "planned"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    PROTECTED = "protected"
    NOT_FOUND = "not_found"
    FAILED = "failed"
    NOT_REACHED = "not_reached"
    INVALID = "invalid"

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done about one status, or what became of it."""

    outcome: Outcome
    before: str | None
    """What the status is, ``None`` where it can't be read."""
    reason: str | None = None


def plan(
    desired: Mapping[StatusContext, str],
    actual: OrderStatuses,
    only_from: Mapping[StatusContext, Collection[str]],
) -> dict[StatusContext, Step]:
    """
    Compare what an order should be with what it is.

    :param desired: what each status should be; one that isn't named is left alone.
    :param actual: what the statuses are.
    :param only_from: for the statuses that are guarded, the slugs that they may be moved from.
    :return: a step for each status that is desired, the general one last. That one is protected where another is.
    """
    steps: dict[StatusContext, Step] = {}
    for context in CONTEXTS_IN_ORDER:
        if context not in desired:
            continue
        step = plan_status(desired[context], actual[context], only_from.get(context))
        obstacle = next((other for other, made in steps.items() if made.outcome is Outcome.PROTECTED), None)
        if context is StatusContext.GENERAL and obstacle is not None and step.outcome is Outcome.PLANNED:
            step = general_is_protected(step.before, obstacle, "was protected")
        steps[context] = step
    return steps


def plan_status(desired: str, actual: str | None, only_from: Collection[str] | None) -> Step:
    """Compare one status: it is planned to change, unchanged or protected."""
    if actual == desired:
        return Step(Outcome.UNCHANGED, actual)
    if only_from is None:
        return Step(Outcome.PLANNED, actual)
    if actual is None:
        return Step(Outcome.PROTECTED, None, "the status can't be read, and only_from asks for it")
    if actual not in only_from:
        return Step(Outcome.PROTECTED, actual, f"{actual!r} is not in only_from")
    return Step(Outcome.PLANNED, actual)


def general_is_protected(before: str | None, obstacle: StatusContext, what: str) -> Step:
    """Return the step for a general status that is left alone, because another status of the order was not set."""
    return Step(Outcome.PROTECTED, before, f"the {obstacle} status of this order {what}, so the order is left as it is")
