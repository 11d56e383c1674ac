"""
Procedures of more than one request, written once, without I/O.

A procedure is a generator: it yields requests, is sent their payloads or thrown their errors, and returns its result.
``YouCanHook`` runs it by blocking and ``YouCanAsyncHook`` on asyncio; a test steps through it with ``next``, ``send``
and ``throw``. The idea is httpx's, whose authentication flows are generators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Iterable
from enum import Enum
from typing import Any, NamedTuple, TypeAlias, TypeVar

from airflow_provider_youcan.checks import check_order_id, check_status_text
from airflow_provider_youcan.client import endpoints
from airflow_provider_youcan.client.attempts import Attempts, StaleReadError
from airflow_provider_youcan.client.endpoints import Freshness
from airflow_provider_youcan.exceptions import (
    NOTHING_SENT,
    YouCanError,
    YouCanOrderNotFoundError,
    YouCanPermanentError,
    YouCanTransientError,
)
from airflow_provider_youcan.orders import OrderStatuses, StatusContext

__all__ = [
    "CONFIRMED_BY_READING",
    "GUARD_MAX_AGE",
    "Decision",
    "Procedure",
    "Read",
    "UpdateResult",
    "decide",
    "get_order",
    "get_order_statuses",
    "move_order_status",
    "request",
    "resume",
    "update_order_status",
    "update_under_guard",
]

T = TypeVar("T")

Procedure: TypeAlias = Generator[endpoints.Request, dict[str, Any], T]
"""Yields requests, is sent their payloads or thrown their errors, and returns a ``T``."""

GUARD_MAX_AGE = 5.0
"""The age in seconds that a status may have, by default, for a guarded update."""

CONFIRMED_BY_READING = "confirmed by reading; another run may have set it"


def request(request: endpoints.Request) -> Procedure[dict[str, Any]]:
    """Send one request, and return its payload."""
    return (yield request)


def get_order(order_id: str, include: Iterable[str]) -> Procedure[dict[str, Any]]:
    """Read one order."""
    return (yield endpoints.get_order(check_order_id(order_id), include))


def get_order_statuses(order_id: str) -> Procedure[OrderStatuses]:
    """Read the three statuses of one order."""
    return OrderStatuses.from_order((yield endpoints.get_order(check_order_id(order_id))))


def update_order_status(order_id: str, status: str, context: StatusContext | str) -> Procedure[None]:
    """Set one status of one order, whatever its present value is."""
    yield endpoints.update_order_status(check_order_id(order_id), check_status_text(status), StatusContext(context))


def resume(procedure: Procedure[Any], answer: object, attempts: Attempts) -> endpoints.Request:
    """
    Go on with what came back, and return the next request; both drivers call this.

    :param procedure: the procedure.
    :param answer: the payload of its last request, or the error in place of it; ``None`` to begin.
    :param attempts: its attempts.
    :raises StopIteration: that holds what the procedure returned.
    """
    if not isinstance(answer, Exception):
        return procedure.send(answer)  # type: ignore[arg-type]
    # An unconfirmed update stays unconfirmed, whatever went wrong after it.
    answer.unconfirmed = attempts.unconfirmed  # type: ignore[attr-defined]  # a YouCanError or a StaleReadError
    request = procedure.throw(answer)
    # The procedure continues after a refusal, which may have been for one missing scope.
    attempts.forget_refusals()
    return request


# --- setting a status under a guard -----------------------------------------------------------------------


class Read(NamedTuple):
    """The statuses of an order that were read before."""

    statuses: OrderStatuses
    at: float
    """The time of the read, in seconds of the monotonic clock."""


class UpdateResult(NamedTuple):
    """The result of an update."""

    before: str | None
    """The status before, ``None`` if it could not be read."""
    changed: bool
    reason: str | None = None
    """A remark: how it was confirmed, or why it was not set although its guard allows it."""
    statuses: OrderStatuses | None = None
    """All of the order's statuses, if they were read for this."""


class Decision(Enum):
    """A guard's decision about an update."""

    UPDATE = "update"
    UNCHANGED = "unchanged"
    PROTECTED = "protected"


def decide(status: str, found: str | None, only_from: Collection[str] | None) -> Decision:
    """
    Apply the guard, which is the same wherever a status is set.

    :param status: the slug to set.
    :param found: what the status is, ``None`` where it can't be read.
    :param only_from: the slugs that it may be moved from; ``None`` allows any status, even one that can't be read.
    """
    if found == status:
        return Decision.UNCHANGED
    if only_from is not None and found not in only_from:
        return Decision.PROTECTED
    return Decision.UPDATE


def move_order_status(
    order_id: str,
    status: str,
    context: StatusContext | str,
    only_from: Collection[str] | None = None,
    *,
    read: Read | None = None,
) -> Procedure[UpdateResult]:
    """
    Set one status of one order, as :func:`update_under_guard` does.

    :raises YouCanInvalidInputError: if one of the arguments can't be sent.
    :raises YouCanPermanentError: if there is a guard, and the status can't be read.
    """
    order_id, status, context = check_order_id(order_id), check_status_text(status), StatusContext(context)
    result = yield from update_under_guard(order_id, status, context, only_from, read=read)
    if only_from is not None and result.before is None and not result.changed:
        raise YouCanPermanentError(
            f"The {context} status can't be read, so only_from can't be checked",
            advice=f"look at order {order_id}, or leave only_from out",
            outcome=NOTHING_SENT,
        )
    return result


def update_under_guard(
    order_id: str,
    status: str,
    context: StatusContext,
    only_from: Collection[str] | None = None,
    *,
    read: Read | None = None,
    guard_max_age: float = GUARD_MAX_AGE,
    unconfirmed: UpdateResult | None = None,
    check: Callable[[OrderStatuses], str | None] | None = None,
) -> Procedure[UpdateResult]:
    """
    Set one status of one order, if the guard allows it, and if it is not the target already.

    An update is sent only while the read that it rests on is fresh: otherwise the driver throws
    :class:`StaleReadError` in place of sending it, and the status is read again.

    :param order_id: the order's UUID, checked.
    :param status: the slug to set, checked.
    :param context: which of the three statuses.
    :param only_from: the slugs that the status may be moved from; ``None`` allows any, even one that can't be read.
    :param read: what was read before, which saves a request; ``None`` reads it (default).
    :param guard_max_age: how old ``read`` may be under a guard, in seconds (default 5).
    :param unconfirmed: what an earlier run of this procedure found, if it ended without knowing whether its update was
        applied (default ``None``).
    :param check: is called with the order's statuses that the update depends on, and returns a reason not to send it,
        if there is one (default ``None``: nothing else is checked).
    :return: what the status was, and whether it was changed.
    :raises YouCanTransientError: with ``unconfirmed``, if an update was sent and it is unknown whether it was applied.
    """
    own_max_age = math.inf if only_from is None else max(guard_max_age, GUARD_MAX_AGE)
    is_unconfirmed = unconfirmed is not None
    before = unconfirmed.before if unconfirmed is not None else None
    statuses: OrderStatuses | None = None
    while True:
        if read is not None and not is_unconfirmed:
            freshness = Freshness(math.inf if only_from is None else guard_max_age, read.at)
            found, refusal = read.statuses[context], check and check(read.statuses)
        else:
            freshness = Freshness(own_max_age)
            statuses = yield from _read_for_update(order_id, freshness, before, is_unconfirmed=is_unconfirmed)
            found, refusal = statuses[context], check and check(statuses)
        read = None
        decision = decide(status, found, only_from)
        if is_unconfirmed and decision is Decision.UNCHANGED:
            return UpdateResult(before, True, CONFIRMED_BY_READING, statuses)
        if is_unconfirmed and decision is Decision.PROTECTED:
            raise _unconfirmed_error(order_id, status, context, found, before)
        if decision is not Decision.UPDATE:
            return UpdateResult(found, False, None, statuses)
        if refusal is not None and is_unconfirmed:
            raise _unconfirmed_error(order_id, status, context, found, before)
        if refusal is not None:
            return UpdateResult(found, False, refusal, statuses)
        before = before if found is None else found
        try:
            yield endpoints.update_order_status(order_id, status, context, freshness, found)
        except StaleReadError as stale:
            is_unconfirmed = is_unconfirmed or stale.unconfirmed
        except YouCanError as error:
            error.status_before = before
            raise
        else:
            return UpdateResult(before, True, None, statuses)


def _read_for_update(
    order_id: str, freshness: Freshness, before: str | None, *, is_unconfirmed: bool
) -> Procedure[OrderStatuses]:
    """Read the statuses that an update will rest on."""
    is_guarded = freshness.max_age < math.inf
    try:
        order = yield endpoints.get_order(order_id, update_freshness=freshness if is_guarded else None)
    except YouCanOrderNotFoundError:
        if not is_unconfirmed:
            raise
        # The order is gone after an update that may have been applied.
        return OrderStatuses()
    except YouCanError as error:
        error.status_before = before
        raise
    return OrderStatuses.from_order(order)


def _unconfirmed_error(
    order_id: str, status: str, context: StatusContext, found: str | None, before: str | None
) -> YouCanTransientError:
    now = "can't be read" if found is None else f"is {found!r}"
    error = YouCanTransientError(
        f"It is unknown whether YouCan set the {context} status to {status!r}, which now {now}",
        advice=f"look at order {order_id}",
        outcome="The update was sent, but no confirmation came",
    )
    error.unconfirmed, error.status_before = True, before
    return error
