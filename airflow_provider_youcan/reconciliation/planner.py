"""What has to be done so that an order stands as it is wished to. It asks nobody and sends nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from airflow_provider_youcan.orders import OrderStatuses, StatusContext

__all__ = ["Outcome", "Step", "plan"]


class Outcome(str, Enum):
    """What became of a wish, or of a row that can't be used."""

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
    """What is to be done about one status: it is planned to change, unchanged or protected."""

    outcome: Outcome
    before: str | None
    """What the status is, ``None`` where it can't be read."""
    reason: str | None = None


def plan(
    wanted: Mapping[StatusContext, str],
    found: OrderStatuses,
    only_from: Mapping[StatusContext, Collection[str]],
) -> dict[StatusContext, Step]:
    """
    Compare what an order should be with what it is.

    :param wanted: what each status should be; one that isn't named is left alone.
    :param found: what the statuses are.
    :param only_from: for the statuses that are guarded, the slugs that they may be moved from.
    :return: a step for each status that is wanted. The general one comes last, because an order is closed when
        all else is done.
    """
    contexts = (StatusContext.SHIPPING, StatusContext.PAYMENT, StatusContext.GENERAL)
    return {
        context: _plan(wanted[context], found[context], only_from.get(context))
        for context in contexts
        if context in wanted
    }


def _plan(wanted: str, found: str | None, only_from: Collection[str] | None) -> Step:
    if found == wanted:
        return Step(Outcome.UNCHANGED, found)
    if only_from is None:
        return Step(Outcome.PLANNED, found)
    if found is None:
        return Step(Outcome.PROTECTED, None, "the status can't be read, and only_from asks for it")
    if found not in only_from:
        return Step(Outcome.PROTECTED, found, f"{found!r} is not in only_from")
    return Step(Outcome.PLANNED, found)
