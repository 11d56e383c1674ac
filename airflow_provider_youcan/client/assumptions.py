"""
What this provider takes for granted about YouCan, and whether it holds in a shop. It reads only.

The facts come from the pages under https://developer.youcan.shop/store-admin; what no page states is marked *assumed*.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import uuid4

from airflow_provider_youcan.checks import is_order_id, is_uuid
from airflow_provider_youcan.client import endpoints, oauth
from airflow_provider_youcan.client.responses import Answer, read_response
from airflow_provider_youcan.exceptions import (
    YouCanError,
    YouCanOrderNotFoundError,
    YouCanPermissionError,
    YouCanServerError,
)
from airflow_provider_youcan.orders import OrderStatuses, StatusContext

__all__ = ["MAX_REQUESTS", "Assumption", "Observations", "judge", "observe"]

MAX_REQUESTS = 20
_UNKNOWN_ROUTE = endpoints.Request("GET", "/no-such-route", "ask for a route that is not there", lambda _: False)


@dataclass(frozen=True)
class Assumption:
    """One thing that is taken for granted."""

    name: str
    source: str
    """The page of YouCan's that says so, or ``assumed``."""
    holds: bool | None
    """``None`` where this shop does not show it."""
    seen: str
    """What was seen, without anything of a customer's."""


@dataclass
class Observations:
    """What a shop answered to a few requests, by name."""

    requests: dict[str, endpoints.Request] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    token: str = ""

    def payload(self, name: str) -> dict[str, Any]:
        """
        Return the payload of a success.

        :raises YouCanError: if it was none, or the list, on which the others rest, was none.
        :raises LookupError: if it could not be asked, because the shop has no order.
        """
        if name not in self.answers:
            self.payload("page")
        return read_response(self.requests[name], self.answers[name], secret=self.token)

    def orders(self, name: str = "page") -> list[dict[str, Any]]:
        """Return the orders of a page."""
        orders: list[dict[str, Any]] = self.payload(name)["data"]
        return orders


def observe(send: Callable[[endpoints.Request], Answer], token: str) -> Observations:
    """
    Ask a shop for what shows whether the assumptions hold: ten requests, each of which reads.

    :param send: sends a request.
    :param token: the access token, which no finding may pass on.
    :raises YouCanError: if no answer came, the token or the store is refused, or there were too many requests.
    """
    seen = Observations(token=token)

    def ask(name: str, request: endpoints.Request) -> None:
        seen.requests[name], seen.answers[name] = request, send(request)
        if seen.answers[name].status_code in (401, 402, 429):
            # It is not about the shop's ways: the others would say the same.
            read_response(request, seen.answers[name], secret=token)

    oldest_first = {"sort_field": "created_at", "sort_order": "asc"}
    ask("store", endpoints.get_store())
    ask("settings", endpoints.get_store_statuses())
    ask("page", endpoints.list_orders(page_size=100))
    ask("first", endpoints.list_orders(page_size=3, query=oldest_first))
    ask("second", endpoints.list_orders(2, page_size=3, query=oldest_first))
    ask("unknown order", endpoints.get_order(str(uuid4())))
    ask("unknown route", _UNKNOWN_ROUTE)
    try:
        page = seen.payload("page")
    except YouCanError:
        return seen
    ask("beyond", endpoints.list_orders(page["meta"]["pagination"]["total_pages"] + 1, page_size=100))
    if (orders := page["data"]) and is_order_id(orders[0]["id"]):
        ask("order", endpoints.get_order(orders[0]["id"]))
        ask("search", endpoints.list_orders(query={"q": str(orders[0].get("ref"))}))
    return seen


def judge(seen: Observations) -> list[Assumption]:
    """Return for each assumption whether what was seen bears it out."""
    return [_judge(row, seen) for row in _rows(seen)]


_Row = tuple[str, str, Callable[[Observations], tuple[bool | None, str]]]


def _rows(seen: Observations) -> Iterator[_Row]:
    for scope, name in (
        ("read-orders", "page"),
        ("read-orders-statuses", "settings"),
        ("view-store-info", "store"),
    ):
        yield f"The token has the scope {scope}", "introduction/oauth-scopes", _has_scope(name)
    if (claims := oauth.read_scopes(seen.token)) is not None:
        has = bool(claims & {"edit-orders", "*"})
        yield "The token has the scope edit-orders", "assumed", lambda _: (has, "the token says so itself")
    yield "The store has a slug, by which a plan knows it", "store/details", _has_slug
    yield "A page has at most 50 orders", "introduction/query-filters", _page_size
    yield "A page has a number, and says how many there are", "orders/listing", _pagination
    yield "Orders come in the order of created_at", "orders/listing", _is_sorted
    yield "Pages follow each other without a repeat", "orders/listing", _follow_each_other
    yield "Behind the last page is an empty one", "assumed", _is_empty_beyond
    yield "An order's id is a UUID in lower case", "entities/order", _ids
    yield "An order has a ref, as text", "entities/order", _refs
    yield "The list shows each status of an order", "orders/listing", _list_statuses
    yield "include sends payment and shipping along", "assumed", _include
    yield "An order shows each of its statuses as a slug", "orders/get", _order_statuses
    yield "List and order say the same statuses", "assumed", _same_statuses
    yield "A search for a ref finds its order", "orders/listing", _search
    yield "The store's lists have documented statuses", "orders/statuses", _store_lists
    yield "An unknown order is answered with a 404 that says so", "orders/statuses", _unknown_order
    yield "An unknown route is not taken for an unknown order", "assumed", _unknown_route
    yield "A rate limit shows in X-RateLimit-*, or not at all", "assumed", _rate_limit


def _judge(row: _Row, seen: Observations) -> Assumption:
    name, source, look = row
    try:
        holds, what = look(seen)
    except LookupError:
        holds, what = None, "this shop has too few orders to see it by"
    except YouCanServerError as error:
        # It is the server's trouble of the moment, and says nothing of what is assumed.
        holds, what = None, _describe(error)
    except YouCanError as error:
        holds, what = False, _describe(error)
    return Assumption(name, source, holds, what)


def _describe(error: YouCanError) -> str:
    # Not its own text, which may quote what the shop said.
    status = "no answer" if error.status_code is None else f"HTTP {error.status_code}"
    return f"{status}: {type(error).__name__}"


def _has_scope(name: str) -> Callable[[Observations], tuple[bool | None, str]]:
    def look(seen: Observations) -> tuple[bool | None, str]:
        try:
            seen.payload(name)
        except YouCanPermissionError:
            return False, "refused with 403: grant it in the seller area"
        return True, "granted"

    return look


def _has_slug(seen: Observations) -> tuple[bool | None, str]:
    slug = seen.payload("store").get("slug")
    return isinstance(slug, str) and slug != "", "there" if slug else "missing"


def _page_size(seen: Observations) -> tuple[bool | None, str]:
    per_page, number = _pagination_of(seen).get("per_page"), len(seen.orders())
    what = f"asked for 100: {number}, of {_number(per_page)} a page"
    return per_page == endpoints.MAX_PAGE_SIZE and number <= endpoints.MAX_PAGE_SIZE, what


def _pagination(seen: Observations) -> tuple[bool | None, str]:
    pagination = _pagination_of(seen)
    numbers = [pagination.get(name) for name in ("current_page", "total_pages", "total")]
    page, pages, total = map(_number, numbers)
    return numbers[0] == 1 and "?" not in (pages, total), f"page {page} of {pages}, {total} orders"


def _is_sorted(seen: Observations) -> tuple[bool | None, str]:
    dates = [str(order.get("created_at")) for name in ("first", "second") for order in seen.orders(name)]
    if len(dates) < 2:
        raise LookupError
    try:
        moments = [datetime.fromisoformat(date.replace("Z", "+00:00")) for date in dates]
        is_sorted = moments == sorted(moments)
    except (ValueError, TypeError):
        return False, "created_at is no date"
    return is_sorted, f"{len(dates)} orders, {'the oldest first' if is_sorted else 'not the oldest first'}"


def _follow_each_other(seen: Observations) -> tuple[bool | None, str]:
    first, second = ({order["id"] for order in seen.orders(name)} for name in ("first", "second"))
    if not second:
        raise LookupError
    repeated = len(first & second)
    return not repeated and len(first) == 3, f"{len(first)} and {len(second)} orders, {repeated} repeated"


def _is_empty_beyond(seen: Observations) -> tuple[bool | None, str]:
    number = len(seen.orders("beyond"))
    return number == 0, f"{number} orders"


def _ids(seen: Observations) -> tuple[bool | None, str]:
    ids = [order["id"] for order in _some_orders(seen)]
    odd = sum(not is_uuid(order_id) or order_id != order_id.lower() for order_id in ids)
    return not odd, f"{odd} of {len(ids)} are not"


def _refs(seen: Observations) -> tuple[bool | None, str]:
    orders = _some_orders(seen)
    odd = sum(not isinstance(order.get("ref"), str) or not order["ref"] for order in orders)
    return not odd, f"{odd} of {len(orders)} have none"


def _list_statuses(seen: Observations) -> tuple[bool | None, str]:
    orders = _some_orders(seen)
    lacking = _count_lacking([OrderStatuses.from_order(order) for order in orders])
    return not lacking, lacking or f"all of {len(orders)} orders"


def _include(seen: Observations) -> tuple[bool | None, str]:
    missing = [name for name in ("payment", "shipping") if not isinstance(seen.payload("order").get(name), Mapping)]
    return not missing, f"missing: {', '.join(missing)}" if missing else "both"


def _order_statuses(seen: Observations) -> tuple[bool | None, str]:
    lacking = _count_lacking([OrderStatuses.from_order(seen.payload("order"))])
    return not lacking, lacking or "all three"


def _same_statuses(seen: Observations) -> tuple[bool | None, str]:
    order = seen.payload("order")
    listed = next((one for one in seen.orders() if one["id"].casefold() == order["id"].casefold()), None)
    if listed is None:
        return False, "the list has it not"
    one, other = OrderStatuses.from_order(listed), OrderStatuses.from_order(order)
    differing = [context.value for context in StatusContext if one[context] != other[context]]
    return not differing, f"another {' and '.join(differing)} status" if differing else "the same three"


def _search(seen: Observations) -> tuple[bool | None, str]:
    wanted = seen.payload("order")["id"].casefold()
    is_found = wanted in [order["id"].casefold() for order in seen.orders("search")]
    return is_found, "found" if is_found else "not found"


def _store_lists(seen: Observations) -> tuple[bool | None, str]:
    slugs = endpoints.read_store_slugs(seen.payload("settings"))
    lacks = {context: [slug for slug in context.documented_slugs if slug not in slugs[context]] for context in slugs}
    described = [f"{context} lacks {', '.join(lacking)}" for context, lacking in lacks.items() if lacking]
    own = sum(slug not in context.documented_slugs for context in slugs for slug in slugs[context])
    is_known = all(len(lacks[context]) < len(context.documented_slugs) for context in lacks)
    return is_known, "; ".join([*described, f"{own} of the store's own"])


def _unknown_order(seen: Observations) -> tuple[bool | None, str]:
    try:
        seen.payload("unknown order")
    except YouCanOrderNotFoundError:
        return True, "HTTP 404"
    return False, "an order"


def _unknown_route(seen: Observations) -> tuple[bool | None, str]:
    request, answer = seen.requests["unknown order"], seen.answers["unknown route"]
    try:
        # As if it were the answer to a request for an order.
        read_response(request, answer)
    except YouCanOrderNotFoundError:
        return False, "it speaks of an order"
    except YouCanError as error:
        return error.status_code == 404, f"HTTP {error.status_code}"
    return False, f"HTTP {answer.status_code}"


def _rate_limit(seen: Observations) -> tuple[bool | None, str]:
    shown = set()
    for answer in seen.answers.values():
        headers = {name.lower(): value for name, value in answer.headers.items()}
        pair = tuple(headers.get(f"x-ratelimit-{name}") for name in ("limit", "remaining"))
        if any(value is not None for value in pair):
            shown.add(pair)
    if not shown:
        return True, "not shown"
    is_number = all(re.fullmatch("[0-9]+", value or "") for pair in shown for value in pair)
    limits = ", ".join(sorted({str(limit)[:20] for limit, _ in shown}))
    return is_number, f"{limits} a window" if is_number else "shown, but not as numbers"


def _number(value: object) -> str:
    return str(value) if type(value) is int else "?"


def _pagination_of(seen: Observations) -> Mapping[str, Any]:
    pagination: Mapping[str, Any] = seen.payload("page")["meta"]["pagination"]
    return pagination


def _some_orders(seen: Observations) -> list[dict[str, Any]]:
    if not (orders := seen.orders()):
        raise LookupError
    return orders


def _count_lacking(orders: list[OrderStatuses]) -> str:
    numbers = {context: sum(statuses[context] is None for statuses in orders) for context in StatusContext}
    return "; ".join(f"{number} of {len(orders)} lack {context}" for context, number in numbers.items() if number)
