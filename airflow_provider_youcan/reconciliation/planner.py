"""Compare desired with actual statuses. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from airflow_provider_youcan.client.procedures import Decision, decide
from airflow_provider_youcan.orders import OrderStatuses, StatusContext

__all__ = ["Guard", "Outcome", "Step", "block_general", "contexts_in_order", "find_moved", "plan", "plan_status"]

_CONTEXTS = (StatusContext.SHIPPING, StatusContext.PAYMENT, StatusContext.GENERAL)


def contexts_in_order(*, is_revert: bool = False) -> tuple[StatusContext, ...]:
    """
    Return the contexts in the order in which they are set.

    The general status comes last, because an order is closed when all else is done, and is reverted first.
    """
    return _CONTEXTS[::-1] if is_revert else _CONTEXTS


class Outcome(str, Enum):
    """The result of a status that a row asks for, or of a row that can't be used."""

    PLANNED = "planned"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    PROTECTED = "protected"
    NOT_FOUND = "not_found"
    FAILED = "failed"
    NOT_REACHED = "not_reached"
    INVALID = "invalid"
    SENDING = "sending"
    """No outcome yet: an update is announced in the record."""

    __str__ = str.__str__
    __hash__ = str.__hash__


@dataclass(frozen=True, slots=True)
class Guard:
    """The statuses from which a status may be moved."""

    only_from: tuple[str, ...]
    """The slugs; none at all if it may not be moved."""
    refusal: str = "{now!r} is not in only_from"
    """The reason for which another is not moved; ``now`` is the present status."""

    def refuse(self, now: str | None) -> str:
        """Return why a status is protected."""
        if now is None:
            return "the status can't be read, so its guard can't be checked"
        return self.refusal.format(now=now)


@dataclass(frozen=True, slots=True)
class Step:
    """The plan for one status, or its result."""

    outcome: Outcome
    before: str | None
    """The present status, ``None`` if it can't be read."""
    reason: str | None = None
    unconfirmed: bool = False
    """True if an update may have been applied although no confirmation came."""


def plan(
    desired: Mapping[StatusContext, str],
    actual: OrderStatuses,
    guards: Mapping[StatusContext, Guard],
    holds: Mapping[StatusContext, str] | None = None,
    *,
    is_revert: bool = False,
) -> dict[StatusContext, Step]:
    """
    Compare what an order should be with what it is.

    :param desired: what each status should be; one that isn't named is left alone.
    :param actual: what the statuses are.
    :param guards: for the statuses that are guarded, what they may be moved from.
    :param holds: the statuses that have to hold for the general one to be set (default: none).
    :param is_revert: whether each status is decided alone, the general one first (default ``False``).
    :return: a step for each desired status, the general one last. It is protected if another one is.
    """
    steps: dict[StatusContext, Step] = {}
    for context in contexts_in_order(is_revert=is_revert):
        if context not in desired:
            continue
        step = plan_status(desired[context], actual[context], guards.get(context))
        if context is StatusContext.GENERAL and not is_revert and step.outcome is Outcome.PLANNED:
            moved = find_moved(actual, holds or {})
            reason = block_general(steps.items()) if moved is None else moved
            step = step if reason is None else Step(Outcome.PROTECTED, step.before, reason)
        steps[context] = step
    return steps


def plan_status(desired: str, actual: str | None, guard: Guard | None) -> Step:
    """Compare one status: it is planned to change, unchanged or protected."""
    decision = decide(desired, actual, None if guard is None else guard.only_from)
    if decision is Decision.UPDATE:
        return Step(Outcome.PLANNED, actual)
    if decision is Decision.UNCHANGED or guard is None:
        return Step(Outcome.UNCHANGED, actual)
    return Step(Outcome.PROTECTED, actual, guard.refuse(actual))


def block_general(steps: Iterable[tuple[StatusContext, Step]]) -> str | None:
    """
    Return why the general status of an order is left alone, ``None`` if it may be set.

    :param steps: what became of the order's other statuses.
    """
    for context, step in steps:
        what = _UNSET.get(step.outcome)
        if context is not StatusContext.GENERAL and what is not None:
            return f"the {context} status of this order {what}, so the order is left as it is"
    return None


def find_moved(actual: OrderStatuses, holds: Mapping[StatusContext, str]) -> str | None:
    """Return which status no longer holds, ``None`` if all of them do."""
    for context, slug in holds.items():
        if actual[context] != slug:
            now = "can't be read" if actual[context] is None else f"is now {actual[context]!r}"
            return f"the {context} status of this order {now}, and was {slug!r} when this was planned"
    return None


_UNSET = {
    Outcome.PROTECTED: "was protected",
    Outcome.FAILED: "was not set",
    Outcome.NOT_FOUND: "was not set",
    Outcome.NOT_REACHED: "was not set",
}
