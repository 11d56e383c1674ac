"""
The requests, without I/O: the form of each, and of its success.

The functions return plain :class:`Request` data; ``responses`` turns unsuccessful answers into errors. What is passed
to them was checked where it came in.

The facts come from the pages under https://developer.youcan.shop/store-admin (``introduction/errors``,
``orders/get``, ``orders/listing``, ``orders/statuses``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.orders import StatusContext, is_text

__all__ = [
    "BASE_URL",
    "MAX_BODY_BYTES",
    "MAX_PAGE_SIZE",
    "Freshness",
    "Request",
    "get_order",
    "get_store",
    "get_store_statuses",
    "is_list_of",
    "list_orders",
    "read_store_slugs",
    "update_order_status",
]

BASE_URL = "https://api.youcan.shop"

MAX_BODY_BYTES = 20_000_000
"""The most bytes of an answer that are read; a page of fifty orders has a quarter of a million."""

MAX_PAGE_SIZE = 50
"""The most orders that YouCan sends in a page; it takes a larger ``limit`` for this one."""

A_YEAR = 31_536_000.0

# Where ``GET /orders/settings`` keeps the statuses of each context.
STORE_STATUS_LISTS = {
    StatusContext.GENERAL: "ordersStatus",
    StatusContext.SHIPPING: "shipping",
    StatusContext.PAYMENT: "payment",
}


class Freshness(NamedTuple):
    """The age that a read status may have when the update that depends on it is sent."""

    max_age: float = math.inf
    """Seconds; infinite without a guard: then the read is stale only once the update was sent."""
    read_at: float | None = None
    """The time of the read, in seconds of the monotonic clock; ``None`` for the request right before the update."""


@dataclass(frozen=True)
class Request:
    """One request to the store-admin API, ready to be sent."""

    method: str
    path: str
    purpose: str
    """Its purpose, in the words of an error message: ``read order 72aa…``."""
    is_success: Callable[[Mapping[str, Any]], bool]
    """Tells whether the JSON object of a 2xx is YouCan's answer to this request."""
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """The JSON body."""
    form: Mapping[str, str] | None = field(default=None, repr=False)
    """The form-encoded body, for the token endpoint alone. It holds secrets."""
    scope: str | None = None
    """The scope that the access token needs, where YouCan documents one."""
    order_id: str | None = None
    freshness: Freshness | None = None
    """For an update that depends on a read: how fresh the read has to be. Each attempt needs a new read."""
    update_freshness: Freshness | None = None
    """For the read of a guarded update: how fresh it has to be. The limiter reserves the next turn for the update."""
    before: str | None = None
    """On an update that rests on a read: the status that was read."""


def update_order_status(
    order_id: str,
    status: str,
    context: StatusContext,
    freshness: Freshness | None = None,
    before: str | None = None,
) -> Request:
    """
    Build the request that sets one status of one order.

    :param order_id: the order's UUID, checked.
    :param status: the slug, checked; it is sent as it is given.
    :param context: which of the three statuses.
    :param freshness: how fresh the read that it depends on has to be; ``None`` if it may be repeated without reading
        (default).
    :param before: the status that was read (default ``None``: not known).
    """
    return Request(
        method="PUT",
        path=f"/orders/{order_id}{context.path}",
        purpose=f"set the {context} status of order {order_id} to {status!r}",
        is_success=_is_confirmation,
        body=_encode_status(status),
        scope="edit-orders",
        order_id=order_id,
        freshness=freshness,
        before=before,
    )


def _is_confirmation(payload: Mapping[str, Any]) -> bool:
    # The documented answer repeats the status code. A bare {} or an order confirms nothing.
    return payload.get("status") == 200 and "error" not in payload


@lru_cache(maxsize=256)
def _encode_status(status: str) -> bytes:
    return encode_json({"status": status})


def encode_json(value: Mapping[str, Any]) -> bytes:
    """Return a JSON object as it is sent."""
    return json.dumps(value).encode()


def get_order(
    order_id: str, include: Iterable[str] = ("payment", "shipping"), update_freshness: Freshness | None = None
) -> Request:
    """
    Build the request that reads one order.

    :param order_id: the order's UUID, checked.
    :param include: the sub-resources to send along, e.g. ``payment``, ``shipping``, ``customer``.
    :param update_freshness: how fresh the read has to be for the guarded update that follows; ``None`` if none follows
        (default).
    :raises YouCanInvalidInputError: if ``include`` can't be sent.
    """
    return Request(
        method="GET",
        path=f"/orders/{order_id}",
        purpose=f"read order {order_id}",
        # The answer about another order must never be taken for this one's.
        is_success=lambda payload: str(payload.get("id")).casefold() == order_id.casefold(),
        params=_include(include),
        scope="read-orders",
        order_id=order_id,
        update_freshness=update_freshness,
    )


def list_orders(
    page: int = 1,
    page_size: int = MAX_PAGE_SIZE,
    include: Iterable[str] = ("payment", "shipping"),
    query: Mapping[str, Any] | None = None,
) -> Request:
    """
    Build the request that lists one page of the orders.

    :param page: which page, from 1.
    :param page_size: how many orders a page; YouCan sends at most 50, whatever more is asked for (default 50).
    :param include: the sub-resources to send along.
    :param query: ``sort_field`` (``ref``, ``total``, ``created_at``), ``sort_order`` (``asc``, ``desc``),
        ``q`` (a text to search for) and ``filters`` (a list of mappings with ``field``, ``operator`` and
        ``value``); ``None`` leaves one out.
    :raises YouCanInvalidInputError: if the page, its size or a filter makes no sense.
    """
    for name, number in (("page", page), ("page_size", page_size)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise YouCanInvalidInputError(f"{name} is {number!r}: give a whole number from 1.")
    query = dict(query or {})
    # YouCan passes over a name that it doesn't know, and so would list every order there is.
    if unknown := query.keys() - {"sort_field", "sort_order", "q", "filters"}:
        raise YouCanInvalidInputError(
            f"Orders can't be listed by {', '.join(sorted(unknown))}: use sort_field, sort_order, q and filters."
        )
    params = {"page": str(page), "limit": str(page_size), **_include(include), **_filters(query.pop("filters", None))}
    params.update({name: str(value) for name, value in query.items() if value is not None})
    if not all(map(is_text, params.values())):
        raise YouCanInvalidInputError(
            "The query holds a lone surrogate, which can't be sent: check where it comes from."
        )

    def is_success(payload: Mapping[str, Any]) -> bool:
        pagination = _mapping(_mapping(payload.get("meta")).get("pagination"))
        return (
            is_list_of(payload.get("data"), lambda order: isinstance(order.get("id"), str) and bool(order["id"]))
            and type(pagination.get("total_pages")) is int
            # Only the last page can be empty.
            and (page >= pagination["total_pages"] or len(payload["data"]) > 0)
            and (page <= pagination["total_pages"] or len(payload["data"]) == 0)
            and pagination.get("current_page", page) == page
        )

    return Request(
        method="GET",
        path="/orders",
        purpose=f"list the orders (page {page})",
        is_success=is_success,
        params=params,
        scope="read-orders",
    )


def get_store_statuses() -> Request:
    """Build the request that reads the store's own lists of statuses."""
    return Request(
        method="GET",
        path="/orders/settings",
        purpose="read the store's list of statuses",
        # PHP writes a list with gaps in it as an object.
        is_success=lambda payload: all(
            isinstance(payload.get(name), (list, dict)) for name in STORE_STATUS_LISTS.values()
        ),
        scope="read-orders-statuses",
    )


def get_store() -> Request:
    """Build the request that reads the store itself: its slug, name, email and currency."""
    return Request(
        method="GET",
        path="/me",
        purpose="read the store",
        is_success=lambda payload: (
            any(isinstance(payload.get(name), str) for name in ("slug", "name"))
            and not {"detail", "error"} & payload.keys()
        ),
        scope="view-store-info",
    )


def read_store_slugs(payload: Mapping[str, Any]) -> dict[StatusContext, list[str]]:
    """Read the slugs of each context from the answer to :func:`get_store_statuses`, in the store's order."""
    return {
        context: [slug for status in _items(payload[name]) if isinstance(slug := _mapping(status).get("slug"), str)]
        for context, name in STORE_STATUS_LISTS.items()
    }


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _include(include: Iterable[str]) -> dict[str, str]:
    names = [include] if isinstance(include, str) else list(include)
    if not all(isinstance(name, str) and is_text(name) for name in names):
        raise YouCanInvalidInputError("include names sub-resources, such as 'payment' and 'shipping'.")
    return {"include": ",".join(names)} if names else {}


def _filters(filters: object) -> dict[str, str]:
    if filters is None:
        return {}
    if not is_list_of(filters, lambda item: item.keys() == {"field", "operator", "value"}):
        raise YouCanInvalidInputError("filters must be a list of mappings, each with field, operator and value.")
    assert isinstance(filters, list)  # noqa: S101  # for the type checker: _is_list_of checked it
    return {
        f"filters[{number}][{key}]": str(value) for number, item in enumerate(filters) for key, value in item.items()
    }


def is_list_of(value: object, is_item: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Return whether a value is a list of mappings that are each such an item."""
    return isinstance(value, list) and all(isinstance(item, dict) and is_item(item) for item in value)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
