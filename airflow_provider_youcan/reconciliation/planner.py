"""Compare desired with actual statuses. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from airflow_provider_youcan.orders import OrderStatuses, StatusContext

__all__ = ["Guard", "Outcome", "Step", "contexts_in_order", "general_is_protected", "plan", "plan_status"]

_CONTEXTS = (StatusContext.SHIPPING, StatusContext.PAYMENT, StatusContext.GENERAL)


def contexts_in_order(*, is_revert: bool = False) -> tuple[StatusContext, ...]:
    """
    Return the contexts in the order in which they are set.

    The general status comes last, because an order is closed when all else is done, and is reverted first.
    """
    return _CONTEXTS[::-1] if is_revert else _CONTEXTS


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
class Guard:
    """What a status may be moved from."""

    only_from: tuple[str, ...]
    """The slugs; none at all where it may not be moved."""
    refusal: str = "{now!r} is not in only_from"
    """Why another is not moved; ``now`` is what it is."""

    def refuse(self, now: str | None) -> str:
        """Return why a status is protected."""
        if now is None:
            return "the status can't be read, so its guard can't be checked"
        return self.refusal.format(now=now)


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
    guards: Mapping[StatusContext, Guard],
    *,
    is_revert: bool = False,
) -> dict[StatusContext, Step]:
    """
    Compare what an order should be with what it is.

    :param desired: what each status should be; one that isn't named is left alone.
    :param actual: what the statuses are.
    :param guards: for the statuses that are guarded, what they may be moved from.
    :param is_revert: whether each status is decided alone, the general one first (default ``False``).
    :return: a step for each status that is desired, the general one last. That one is protected where another is.
    """
    steps: dict[StatusContext, Step] = {}
    for context in contexts_in_order(is_revert=is_revert):
        if context not in desired:
            continue
        step = plan_status(desired[context], actual[context], guards.get(context))
        obstacle = next((other for other, made in steps.items() if made.outcome is Outcome.PROTECTED), None)
        may_be_held = context is StatusContext.GENERAL and not is_revert and step.outcome is Outcome.PLANNED
        if may_be_held and obstacle is not None:
            step = general_is_protected(step.before, obstacle, "was protected")
        steps[context] = step
    return steps


def plan_status(desired: str, actual: str | None, guard: Guard | None) -> Step:
    """Compare one status: it is planned to change, unchanged or protected."""
    if actual == desired:
        return Step(Outcome.UNCHANGED, actual)
    if guard is not None and actual not in guard.only_from:
        return Step(Outcome.PROTECTED, actual, guard.refuse(actual))
    return Step(Outcome.PLANNED, actual)


def general_is_protected(before: str | None, obstacle: StatusContext, what: str) -> Step:
    """Return the step for a general status that is left alone, because another status of the order was not set."""
    return Step(Outcome.PROTECTED, before, f"the {obstacle} status of this order {what}, so the order is left as it is")
