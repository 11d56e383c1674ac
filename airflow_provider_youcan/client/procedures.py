"""
What takes more than one request, written once, without I/O.

A procedure is a generator: it yields requests, is sent their payloads or thrown their errors, and returns its result.
``YouCanHook`` runs it by blocking and ``YouCanAsyncHook`` on asyncio; a test steps through it with ``next``, ``send``
and ``throw``. The idea is httpx's, whose authentication flows are generators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Iterable
from typing import Any, NamedTuple, TypeAlias, TypeVar

from airflow_provider_youcan.checks import (
    check_known_status,
    check_order_id,
    check_status_text,
    closest_statuses,
    join_slugs,
    known_statuses,
)
from airflow_provider_youcan.client import endpoints
from airflow_provider_youcan.client.attempts import Attempts, StaleReadError
from airflow_provider_youcan.client.pages import Pages
from airflow_provider_youcan.exceptions import (
    YouCanError,
    YouCanOrderNotFoundError,
    YouCanPermanentError,
    YouCanPermissionError,
    YouCanTransientError,
    YouCanUnknownStatusError,
)
from airflow_provider_youcan.orders import OrderStatuses, StatusContext

__all__ = [
    "CONFIRMED_BY_READING",
    "GUARD_MAX_AGE",
    "Move",
    "Procedure",
    "Read",
    "check_status",
    "check_statuses",
    "get_order_statuses",
    "get_store_statuses",
    "move_order_status",
    "next_page",
    "read_scopes",
    "read_store_slug",
    "request",
    "resume",
    "test_connection",
]

T = TypeVar("T")

Procedure: TypeAlias = Generator[endpoints.Request, dict[str, Any], T]
"""Yields requests, is sent their payloads or thrown their errors, and returns a ``T``."""

GUARD_MAX_AGE = 5.0
"""How many seconds old a status may be, by default, that a guarded update rests on."""

CONFIRMED_BY_READING = "confirmed by reading; another run may have set it"


def request(request: endpoints.Request) -> Procedure[dict[str, Any]]:
    """Send one request, and return its payload."""
    return (yield request)


def get_order_statuses(order_id: str) -> Procedure[OrderStatuses]:
    """Read the three statuses of one order."""
    return OrderStatuses.from_order((yield endpoints.get_order(order_id)))


def get_store_statuses(store_slugs: dict[StatusContext, list[str]]) -> Procedure[dict[StatusContext, list[str]]]:
    """
    Read the store's own lists of statuses, unless they are known.

    :param store_slugs: what is known of them; an empty mapping is filled with what is read.
    :return: a copy: for each context the slugs in the store's order.
    """
    if not store_slugs:
        store_slugs.update(endpoints.read_store_slugs((yield endpoints.get_store_statuses())))
    return {context: list(slugs) for context, slugs in store_slugs.items()}


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
    # What may have been applied stays unknown, whatever went wrong after it.
    answer.unconfirmed = attempts.unconfirmed  # type: ignore[attr-defined]  # a YouCanError or a StaleReadError
    return procedure.throw(answer)


# --- setting a status under a guard -----------------------------------------------------------------------


class Read(NamedTuple):
    """The statuses of an order that were read before."""

    statuses: OrderStatuses
    at: float
    """When, in seconds of the monotonic clock."""


class Move(NamedTuple):
    """What became of a status that was to be set."""

    before: str | None
    """What it was, ``None`` where it could not be read."""
    changed: bool
    reason: str | None = None
    """What there is to say of it, such as that it was confirmed by reading."""
    statuses: OrderStatuses | None = None
    """All of the order's statuses, where they were read for this."""


def move_order_status(
    order_id: str,
    status: str,
    context: StatusContext | str,
    only_from: Collection[str] | None = None,
    *,
    read: Read | None = None,
    guard_max_age: float = GUARD_MAX_AGE,
    unconfirmed: Move | None = None,
) -> Procedure[Move]:
    """
    Set one status of one order, if it is one that it may be moved from, and not the target already.

    An update under a guard is sent only while what it rests on is fresh: the driver throws :class:`StaleReadError` in
    place of sending it where it is not, and then the status is read again.

    :param order_id: the order's UUID.
    :param status: the slug to set.
    :param context: which of the three statuses.
    :param only_from: the slugs that the status may be moved from, ``None`` for any, and for one that can't be read.
    :param read: what was read before, which saves a request; ``None`` reads it (default).
    :param guard_max_age: how old ``read`` may be under a guard, in seconds.
    :param unconfirmed: what an earlier run of this procedure found, if it ended without knowing whether its update was
        applied (default ``None``).
    :return: what the status was, and whether it was changed.
    :raises YouCanTransientError: with ``unconfirmed``, if an update was sent and it is unknown whether it was applied.
    :raises YouCanPermanentError: if there is a guard, and the status can't be read.
    """
    order_id, status, context = check_order_id(order_id), check_status_text(status), StatusContext(context)
    max_age = math.inf if only_from is None else max(guard_max_age, GUARD_MAX_AGE)
    is_unconfirmed = unconfirmed is not None
    before = unconfirmed.before if unconfirmed is not None else None
    statuses: OrderStatuses | None = None
    while True:
        if read is not None and not is_unconfirmed:
            look = endpoints.Look(math.inf if only_from is None else guard_max_age, read.at)
            found = read.statuses[context]
        else:
            look = endpoints.Look(max_age)
            statuses = yield from _look(order_id, look, before, is_unconfirmed=is_unconfirmed)
            found = statuses[context]
        read = None
        if found == status:
            is_changed, reason = (True, CONFIRMED_BY_READING) if is_unconfirmed else (False, None)
            return Move(before if is_unconfirmed else found, is_changed, reason, statuses)
        is_allowed = only_from is None or found in only_from
        if is_unconfirmed and not is_allowed:
            raise _unconfirmed_error(order_id, status, context, found, before)
        if found is None and only_from is not None:
            raise YouCanPermanentError(
                f"The {context} status of order {order_id} can't be read, so only_from can't be checked and nothing "
                "was sent: look at the order, or leave only_from out."
            )
        if not is_allowed:
            return Move(found, False, None, statuses)
        before = before if is_unconfirmed else found
        try:
            yield endpoints.update_order_status(order_id, status, context, look)
        except StaleReadError as stale:
            is_unconfirmed = is_unconfirmed or stale.unconfirmed
        except YouCanError as error:
            error.status_before = before
            raise
        else:
            return Move(before, True, None, statuses)


def _look(order_id: str, look: endpoints.Look, before: str | None, *, is_unconfirmed: bool) -> Procedure[OrderStatuses]:
    """Read the statuses that an update will rest on."""
    try:
        order = yield endpoints.get_order(order_id, look_max_age=look.max_age if look.is_guard else None)
    except YouCanOrderNotFoundError:
        if not is_unconfirmed:
            raise
        # Gone after an update that may have been applied: that is what there is to say.
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
        f"An update of the {context} status of order {order_id} to {status!r} was sent, but no confirmation came, and "
        f"the status now {now}: whether YouCan applied the update before that is unknown; look at the order."
    )
    error.unconfirmed, error.status_before = True, before
    return error


# --- checking a status against the store's list -----------------------------------------------------------


def check_status(
    status: str, context: StatusContext, store_slugs: dict[StatusContext, list[str]], youcan_conn_id: str
) -> Procedure[None]:
    """
    Refuse a status that neither YouCan nor the store knows. A documented slug passes without a request.

    :param status: what is to be set.
    :param context: which of the three statuses.
    :param store_slugs: the store's own lists; an empty mapping is filled with what is read.
    :param youcan_conn_id: the Airflow connection to name in the error.
    :raises YouCanUnknownStatusError: if it is unknown.
    :raises YouCanPermissionError: if the token may not read the lists.
    """
    if check_status_text(status) in context.documented_slugs:
        return
    refusal: YouCanPermissionError | None = None
    if not store_slugs:
        try:
            store_slugs.update(endpoints.read_store_slugs((yield endpoints.get_store_statuses())))
        except YouCanPermissionError as error:
            refusal = error
        if refusal is not None:
            raise _unreadable_list_error(status, context, refusal, youcan_conn_id)
    check_known_status(status, context, known_statuses(context, store_slugs[context]))


def _unreadable_list_error(
    status: str, context: StatusContext, error: YouCanPermissionError, youcan_conn_id: str
) -> YouCanPermissionError:
    closest = closest_statuses(status, context.documented_slugs)
    hint = f" (did you mean {join_slugs(closest)}?)" if closest else ""
    return YouCanPermissionError(
        f"{status!r} is not a documented {context} status{hint}, and whether it is one of the store's own can't be "
        f"read, so nothing was sent: grant the scope 'read-orders-statuses' to the token in the Airflow connection "
        f"{youcan_conn_id!r}, or set allow_custom_label=True.",
        method=error.method,
        url=error.url,
        status_code=error.status_code,
        detail=error.detail,
    )


def check_statuses(
    statuses: Iterable[tuple[StatusContext, str]], youcan_conn_id: str
) -> Procedure[tuple[dict[tuple[StatusContext, str], YouCanUnknownStatusError], list[StatusContext]]]:
    """
    Check many statuses against the store's own lists, which are read once and decide, where they may be read.

    :param statuses: what is to be set.
    :param youcan_conn_id: the Airflow connection to name in the error.
    :return: the unknown ones, each with the error that says so; and the contexts whose list has none of the documented
        slugs in it, as the example on YouCan's own page has: those are taken for incomplete, and the documented slugs
        count too.
    :raises YouCanPermissionError: if the token may not read the lists, and a status is not documented.
    """
    refusal = None
    store_slugs: dict[StatusContext, list[str]] = {}
    try:
        store_slugs = endpoints.read_store_slugs((yield endpoints.get_store_statuses()))
    except YouCanPermissionError as error:
        refusal = error
    unknown: dict[tuple[StatusContext, str], YouCanUnknownStatusError] = {}
    incomplete = [context for context, slugs in store_slugs.items() if not set(slugs) & set(context.documented_slugs)]
    for context, status in statuses:
        if refusal is not None and status not in context.documented_slugs:
            raise _unreadable_list_error(status, context, refusal, youcan_conn_id)
        slugs = store_slugs.get(context, [])
        known = known_statuses(context, slugs) if context in incomplete or refusal is not None else slugs
        try:
            check_known_status(status, context, known)
        except YouCanUnknownStatusError as error:
            unknown[context, status] = error
    return unknown, [context for context in incomplete if any(context is named for named, _ in statuses)]


# --- reading the list of orders ---------------------------------------------------------------------------


def next_page(pages: Pages) -> Procedure[list[dict[str, Any]]]:
    """Read the next page of a list, and return its orders that are new."""
    (page,) = pages.take_requests()
    return pages.add((yield page))


# --- webhooks ---------------------------------------------------------------------------------------------


def list_webhooks() -> Procedure[list[dict[str, Any]]]:
    """Read the app's subscriptions: ``id``, ``event`` and ``target_url`` of each."""
    webhooks: list[dict[str, Any]] = (yield endpoints.list_webhooks())["data"]
    return webhooks


def subscribe_webhooks(events: Iterable[str], target_url: str) -> Procedure[dict[str, str]]:
    """Subscribe an address to events, and return for each the id of its subscription."""
    ids: dict[str, str] = {}
    for event in events:
        ids[event] = str((yield endpoints.subscribe_webhook(event, target_url))["id"])
    return ids


def unsubscribe_webhook(subscription_id: str) -> Procedure[bool]:
    """End a subscription, and return whether there was one."""
    try:
        yield endpoints.unsubscribe_webhook(subscription_id)
    except YouCanPermanentError as error:
        if error.status_code == 404:
            return False
        raise
    return True


# --- testing a connection ---------------------------------------------------------------------------------


def read_store_name() -> Procedure[str | None]:
    """Read the store's name, or ``None`` where the token may not read it."""
    try:
        store = yield endpoints.get_store()
    except YouCanPermissionError:
        return None
    return str(store.get("name") or store.get("slug"))


def read_store_slug() -> Procedure[str | None]:
    """Read the store's slug, or ``None`` where the token may not read it."""
    try:
        store = yield endpoints.get_store()
    except YouCanPermissionError:
        return None
    return None if store.get("slug") is None else str(store["slug"])


def read_scopes() -> Procedure[dict[str, bool]]:
    """Find out which scopes a token has, as far as reading shows, and change nothing."""
    scopes: dict[str, bool] = {}
    for probe in (endpoints.list_orders(page_size=1, include=()), endpoints.get_store_statuses()):
        try:
            yield probe
        except YouCanPermissionError:
            scopes[str(probe.scope)] = False
        else:
            scopes[str(probe.scope)] = True
    return scopes


def test_connection(get_token: Callable[[], str]) -> Procedure[str]:
    """
    Find out what a token may do, and change nothing.

    :param get_token: returns the token that is in use once the procedure has ended; it may say itself what it may do.
    :return: in one sentence or a few the store, and the scopes that the token has and lacks.
    """
    name = yield from read_store_name()
    scopes = yield from read_scopes()
    claims = endpoints.read_scopes(get_token())
    if claims is not None:
        scopes["edit-orders"] = bool(claims & {"edit-orders", "*"})
    scopes["view-store-info"] = name is not None
    granted = ", ".join(repr(scope) for scope, has in scopes.items() if has)
    missing = ", ".join(repr(scope) for scope, has in scopes.items() if not has)
    sentences = [
        f"Connected to the YouCan store {name!r}." if name is not None else "Connected to a YouCan store.",
        f"Scopes of its token: {granted}." if granted else "",
        f"Missing, to be granted in YouCan's seller area: {missing}." if missing else "",
        "" if claims is not None else "Whether it has 'edit-orders' can't be known without changing an order.",
    ]
    return " ".join(filter(None, sentences))
