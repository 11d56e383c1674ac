"""
Procedures about a store: its statuses, its name, a token's scopes, and webhooks.

The facts come from the pages under https://developer.youcan.shop/store-admin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from airflow_provider_youcan.checks import (
    check_known_status,
    check_status_text,
    closest_statuses,
    find_same,
    known_statuses,
)
from airflow_provider_youcan.client import endpoints, oauth, resthooks
from airflow_provider_youcan.client.procedures import Procedure
from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanError,
    YouCanPermanentError,
    YouCanPermissionError,
    YouCanUnexpectedResponseError,
    YouCanUnknownStatusError,
)
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.texts import join_slugs, show_cell

__all__ = [
    "StatusCheck",
    "check_status",
    "check_statuses",
    "get_store_statuses",
    "list_webhooks",
    "read_store",
    "read_store_slug",
    "subscribe_webhooks",
    "test_connection",
    "unsubscribe_webhook",
]


MAY_LACK_SCOPE = (YouCanPermissionError, YouCanAuthenticationError)
"""A missing scope is documented as a 401 for some endpoints (``resthooks/subscribe``), and as a 403 for none."""


_NO_SUCH_ROUTE = (YouCanPermanentError, YouCanUnexpectedResponseError)


def get_store_statuses(store_slugs: dict[StatusContext, list[str]]) -> Procedure[dict[StatusContext, list[str]]]:
    """
    Read the store's own lists of statuses, unless they are known.

    :param store_slugs: what is known of them; an empty mapping is filled with what is read.
    :return: a copy: for each context the slugs in the store's order.
    """
    if not store_slugs:
        store_slugs.update(endpoints.read_store_slugs((yield endpoints.get_store_statuses())))
    return {context: list(slugs) for context, slugs in store_slugs.items()}


# --- checking a status against the store's list -----------------------------------------------------------


def check_status(
    status: str, context: StatusContext, store_slugs: dict[StatusContext, list[str]], youcan_conn_id: str
) -> Procedure[str]:
    """
    Refuse a status that neither YouCan nor the store knows. A documented slug passes without a request.

    :param status: what is to be set.
    :param context: which of the three statuses.
    :param store_slugs: the store's own lists; an empty mapping is filled with what is read.
    :param youcan_conn_id: the Airflow connection to name in the error.
    :return: the status as the store has it: it may be written in another Unicode form, or with spaces around it.
    :raises YouCanUnknownStatusError: if it is unknown.
    :raises YouCanPermissionError: if the token may not read the lists.
    """
    if check_status_text(status) in context.documented_slugs:
        return status
    refusal: YouCanPermissionError | YouCanAuthenticationError | None = None
    if not store_slugs:
        try:
            store_slugs.update(endpoints.read_store_slugs((yield endpoints.get_store_statuses())))
        except MAY_LACK_SCOPE as error:
            refusal = error
        if refusal is not None:
            raise _unreadable_list_error(status, context, refusal, youcan_conn_id)
    known = known_statuses(context, store_slugs[context])
    if (slug := find_same(status, known)) is not None:
        return slug
    check_known_status(status, context, known)
    raise AssertionError("an unknown status raises")


def _unreadable_list_error(
    status: str,
    context: StatusContext,
    error: YouCanPermissionError | YouCanAuthenticationError,
    youcan_conn_id: str,
) -> YouCanPermanentError:
    closest = closest_statuses(status, context.documented_slugs)
    hint = f" (did you mean {join_slugs(closest)}?)" if closest else ""
    return type(error)(
        f"{status!r} is not a documented {context} status{hint}, and whether it is one of the store's own can't be "
        f"read, so nothing was sent: grant the scope 'read-orders-statuses' to the token in the Airflow connection "
        f"{youcan_conn_id!r}, or set allow_custom_label=True.",
        method=error.method,
        url=error.url,
        status_code=error.status_code,
        detail=error.detail,
    )


class StatusCheck(NamedTuple):
    """The result of checking many statuses against the store's own lists."""

    unknown: dict[tuple[StatusContext, str], YouCanUnknownStatusError]
    """The unknown ones, each with the error that says so."""
    incomplete: list[StatusContext]
    """The contexts whose list has no documented slug, as the example on YouCan's own page: the documented count too."""
    known: dict[StatusContext, list[str]]
    """For each context the slugs that there are, as far as that may be read."""
    same: dict[tuple[StatusContext, str], str]
    """The statuses that the store writes in another way, each with the store's slug."""


def check_statuses(statuses: Iterable[tuple[StatusContext, str]], youcan_conn_id: str) -> Procedure[StatusCheck]:
    """
    Check many statuses against the store's own lists, which are read once and decide, if the token may read them.

    :param statuses: what is to be set.
    :param youcan_conn_id: the Airflow connection to name in the error.
    :raises YouCanPermissionError: if the token may not read the lists, and a status is not documented.
    """
    refusal = None
    store_slugs: dict[StatusContext, list[str]] = {}
    try:
        store_slugs = endpoints.read_store_slugs((yield endpoints.get_store_statuses()))
    except MAY_LACK_SCOPE as error:
        refusal = error
    unknown: dict[tuple[StatusContext, str], YouCanUnknownStatusError] = {}
    same: dict[tuple[StatusContext, str], str] = {}
    incomplete = [context for context, slugs in store_slugs.items() if not set(slugs) & set(context.documented_slugs)]
    for context, status in statuses:
        if refusal is not None and status not in context.documented_slugs:
            raise _unreadable_list_error(status, context, refusal, youcan_conn_id)
        slugs = store_slugs.get(context, [])
        known = known_statuses(context, slugs) if context in incomplete or refusal is not None else slugs
        slug = find_same(status, known)
        if slug not in (None, status):
            same[context, status] = str(slug)
            continue
        try:
            check_known_status(status, context, known, show_cell)
        except YouCanUnknownStatusError as error:
            unknown[context, status] = error
    named = {context for context, _ in statuses}
    return StatusCheck(
        unknown,
        [context for context in incomplete if context in named],
        {context: known_statuses(context, store_slugs.get(context, [])) for context in StatusContext},
        same,
    )


# --- webhooks ---------------------------------------------------------------------------------------------


def list_webhooks() -> Procedure[list[dict[str, Any]]]:
    """Read all of the app's subscriptions: ``id``, ``event`` and ``target_url`` of each."""
    is_template = False
    try:
        payload = yield resthooks.list_webhooks()
    except _NO_SUCH_ROUTE as error:
        if error.status_code not in (404, 405):
            raise
        is_template = True
        payload = yield resthooks.list_webhooks(is_template=True)
    webhooks = {str(one["id"]): one for one in resthooks.read_subscriptions(payload) or ()}
    page = 1
    while page < resthooks.read_last_page(payload):
        page += 1
        payload = yield resthooks.list_webhooks(page, is_template=is_template)
        more = {str(one["id"]): one for one in resthooks.read_subscriptions(payload) or ()}
        if more.keys() <= webhooks.keys():
            break  # it has no pages after all
        webhooks |= more
    return list(webhooks.values())


def subscribe_webhooks(events: Iterable[str], target_url: str) -> Procedure[dict[str, str]]:
    """Subscribe an address to events, and return for each the id of its subscription."""
    ids: dict[str, str] = {}
    for event in events:
        ids[event] = str((yield resthooks.subscribe_webhook(event, target_url))["id"])
    return ids


def unsubscribe_webhook(subscription_id: str) -> Procedure[bool]:
    """
    End a subscription, and return whether there was one.

    :param subscription_id: its id.
    :raises YouCanError: if that is not known.
    """
    for is_template in (False, True):
        try:
            yield resthooks.unsubscribe_webhook(subscription_id, is_template=is_template)
        except _NO_SUCH_ROUTE as error:
            if error.detail is not None and error.detail.strip(" .").casefold() == "subscription not found":
                return False
            # Any other 404 is about the route.
            if error.status_code not in (404, 405) or is_template:
                raise
        else:
            return True
    raise AssertionError("the last time it returns or raises")


# --- testing a connection ---------------------------------------------------------------------------------


def read_store_slug() -> Procedure[str | None]:
    """Read the store's slug, or ``None`` where the token may not read it."""
    try:
        store = yield endpoints.get_store()
    except MAY_LACK_SCOPE:
        return None
    return None if store.get("slug") is None else str(store["slug"])


def read_store() -> Procedure[str | None]:
    """Read the store's slug and its id, as ``slug=id``, or ``None`` where the token may not read it."""
    try:
        store = yield endpoints.get_store()
    except MAY_LACK_SCOPE:
        return None
    slug, store_id = store.get("slug"), store.get("id")
    if slug is None:
        return None
    return f"{slug}={store_id}" if isinstance(store_id, (str, int)) and store_id != "" else str(slug)


def test_connection(get_token: Callable[[], str]) -> Procedure[str]:
    """
    Find out what a token may do, and change nothing.

    :param get_token: returns the token that is in use at the end of the procedure; its scopes may be written into it.
    :return: in one sentence or a few the store, and the scopes that the token has and lacks.
    :raises YouCanAuthenticationError: if the token may do none of it.
    """
    payloads: dict[str, dict[str, Any] | None] = {}
    refusals: list[YouCanError] = []
    for probe in (
        endpoints.list_orders(page_size=1, include=()),
        endpoints.get_store_statuses(),
        endpoints.get_store(),
    ):
        payloads[str(probe.scope)] = None
        try:
            payloads[str(probe.scope)] = yield probe
        except MAY_LACK_SCOPE as error:
            refusals.append(error)
    denials = [error for error in refusals if isinstance(error, YouCanAuthenticationError)]
    if denials and len(refusals) == len(payloads):
        raise denials[0]
    store = payloads["view-store-info"]
    name = None if store is None else str(store.get("name") or store.get("slug"))
    scopes = {scope: payload is not None for scope, payload in payloads.items()}
    claims = oauth.read_scopes(get_token())
    if claims is not None:
        scopes["edit-orders"] = bool(claims & {"edit-orders", "*"})
    granted = ", ".join(repr(scope) for scope, has in scopes.items() if has)
    missing = ", ".join(repr(scope) for scope, has in scopes.items() if not has)
    sentences = [
        f"Connected to the YouCan store {name!r}." if name is not None else "Connected to a YouCan store.",
        f"Scopes of its token: {granted}." if granted else "",
        f"Missing, to be granted in YouCan's seller area: {missing}." if missing else "",
        "" if claims is not None else "Whether it has 'edit-orders' can't be known without changing an order.",
    ]
    return " ".join(filter(None, sentences))
