"""
The assumptions of this provider about YouCan, and a check of a shop against them, which only reads.

The facts come from the pages under https://developer.youcan.shop/store-admin; *assumed* marks what no page states.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from airflow_provider_youcan.checks import is_uuid
from airflow_provider_youcan.client import endpoints, oauth
from airflow_provider_youcan.client.probes import Answers, collect
from airflow_provider_youcan.client.responses import read_response
from airflow_provider_youcan.client.store import MAY_LACK_SCOPE
from airflow_provider_youcan.exceptions import (
    YouCanError,
    YouCanOrderNotFoundError,
    YouCanServerError,
)
from airflow_provider_youcan.orders import OrderStatuses, StatusContext

__all__ = ["Answers", "Assumption", "collect", "evaluate"]


@dataclass(frozen=True)
class Assumption:
    """One assumption about YouCan."""

    name: str
    source: str
    """The page of YouCan's documentation that states it, or ``assumed``."""
    holds: bool | None
    """``None`` if this shop does not show it."""
    seen: str
    """The shop's answer, without anything of a customer's."""


def evaluate(answers: Answers) -> list[Assumption]:
    """Return each assumption, and whether the answers confirm it."""
    return [Assumption(name, source, *_run(check, answers)) for name, source, check in _checks(answers)]


_Check = Callable[[Answers], tuple[bool, str]]


def _checks(answers: Answers) -> Iterator[tuple[str, str, _Check]]:
    scopes = {"read-orders": "page", "read-orders-statuses": "settings", "view-store-info": "store"}
    for scope, name in scopes.items():
        yield f"The token has the scope {scope}", "introduction/oauth-scopes", _has_scope(name)
    if (claims := oauth.read_scopes(answers.token)) is not None:
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
    yield "Webhooks are listed at the documented route, or the app template's", "resthooks/list", _webhook_route
    yield "A rate limit shows in X-RateLimit-*, or not at all", "assumed", _rate_limit


def _run(check: _Check, answers: Answers) -> tuple[bool | None, str]:
    try:
        return check(answers)
    except LookupError:
        return None, "this shop has too few orders to see it by"
    except YouCanServerError as error:
        # A transient failure says nothing about the assumption.
        return None, _describe(error)
    except YouCanError as error:
        return False, _describe(error)


def _describe(error: YouCanError) -> str:
    # Without the error's text, which may quote the shop.
    status = "no answer" if error.status_code is None else f"HTTP {error.status_code}"
    return f"{status}: {type(error).__name__}"


def _has_scope(name: str) -> _Check:
    def check(answers: Answers) -> tuple[bool, str]:
        try:
            answers.payload(name)
        except MAY_LACK_SCOPE as error:
            return False, f"refused with {error.status_code}: grant it in the seller area"
        return True, "granted"

    return check


def _has_slug(answers: Answers) -> tuple[bool, str]:
    slug = answers.payload("store").get("slug")
    return isinstance(slug, str) and slug != "", "there" if slug else "missing"


def _page_size(answers: Answers) -> tuple[bool, str]:
    per_page, number = answers.pagination().get("per_page"), len(answers.orders())
    what = f"asked for 100: {number}, of {_number(per_page)} a page"
    return per_page == endpoints.MAX_PAGE_SIZE and number <= endpoints.MAX_PAGE_SIZE, what


def _pagination(answers: Answers) -> tuple[bool, str]:
    pagination = answers.pagination()
    numbers = [pagination.get(name) for name in ("current_page", "total_pages", "total")]
    page, pages, total = map(_number, numbers)
    return numbers[0] == 1 and "?" not in (pages, total), f"page {page} of {pages}, {total} orders"


def _is_sorted(answers: Answers) -> tuple[bool, str]:
    dates = [str(order.get("created_at")) for name in ("first", "second") for order in answers.orders(name)]
    if len(dates) < 2:
        raise LookupError
    try:
        moments = [datetime.fromisoformat(date.replace("Z", "+00:00")) for date in dates]
        is_sorted = moments == sorted(moments)
    except (ValueError, TypeError):
        return False, "created_at is no date"
    return is_sorted, f"{len(dates)} orders, {'the oldest first' if is_sorted else 'not the oldest first'}"


def _follow_each_other(answers: Answers) -> tuple[bool, str]:
    first, second = ({order["id"] for order in answers.orders(name)} for name in ("first", "second"))
    if not second:
        raise LookupError
    repeated = len(first & second)
    return not repeated and len(first) == 3, f"{len(first)} and {len(second)} orders, {repeated} repeated"


def _is_empty_beyond(answers: Answers) -> tuple[bool, str]:
    number = len(answers.orders("beyond"))
    return number == 0, f"{number} orders"


def _ids(answers: Answers) -> tuple[bool, str]:
    ids = [order["id"] for order in answers.some_orders()]
    odd = sum(not is_uuid(order_id) or order_id != order_id.lower() for order_id in ids)
    return not odd, f"{odd} of {len(ids)} are not"


def _refs(answers: Answers) -> tuple[bool, str]:
    orders = answers.some_orders()
    odd = sum(not isinstance(order.get("ref"), str) or not order["ref"] for order in orders)
    return not odd, f"{odd} of {len(orders)} have none"


def _list_statuses(answers: Answers) -> tuple[bool, str]:
    orders = answers.some_orders()
    lacking = _count_lacking([OrderStatuses.from_order(order) for order in orders])
    return not lacking, lacking or f"all of {len(orders)} orders"


def _include(answers: Answers) -> tuple[bool, str]:
    missing = [name for name in ("payment", "shipping") if not isinstance(answers.payload("order").get(name), Mapping)]
    return not missing, f"missing: {', '.join(missing)}" if missing else "both"


def _order_statuses(answers: Answers) -> tuple[bool, str]:
    lacking = _count_lacking([OrderStatuses.from_order(answers.payload("order"))])
    return not lacking, lacking or "all three"


def _same_statuses(answers: Answers) -> tuple[bool, str]:
    order = answers.payload("order")
    listed = next((one for one in answers.orders() if one["id"].casefold() == order["id"].casefold()), None)
    if listed is None:
        return False, "not in the list"
    one, other = OrderStatuses.from_order(listed), OrderStatuses.from_order(order)
    differing = [context.value for context in StatusContext if one[context] != other[context]]
    return not differing, f"another {' and '.join(differing)} status" if differing else "the same three"


def _search(answers: Answers) -> tuple[bool, str]:
    wanted = answers.payload("order")["id"].casefold()
    is_found = wanted in [order["id"].casefold() for order in answers.orders("search")]
    return is_found, "found" if is_found else "not found"


def _store_lists(answers: Answers) -> tuple[bool, str]:
    slugs = endpoints.read_store_slugs(answers.payload("settings"))
    lacks = {context: [slug for slug in context.documented_slugs if slug not in slugs[context]] for context in slugs}
    described = [f"{context} lacks {', '.join(lacking)}" for context, lacking in lacks.items() if lacking]
    own = sum(slug not in context.documented_slugs for context in slugs for slug in slugs[context])
    is_known = all(len(lacks[context]) < len(context.documented_slugs) for context in lacks)
    return is_known, "; ".join([*described, f"{own} of the store's own"])


def _unknown_order(answers: Answers) -> tuple[bool, str]:
    try:
        answers.payload("unknown order")
    except YouCanOrderNotFoundError:
        return True, "HTTP 404"
    return False, "an order"


def _unknown_route(answers: Answers) -> tuple[bool, str]:
    (request, _), (_, answer) = answers.by_name["unknown order"], answers.by_name["unknown route"]
    try:
        # Judged as the answer to a request for an order.
        read_response(request, answer)
    except YouCanOrderNotFoundError:
        return False, "it speaks of an order"
    except YouCanError as error:
        return error.status_code == 404, f"HTTP {error.status_code}"
    return False, f"HTTP {answer.status_code}"


def _webhook_route(answers: Answers) -> tuple[bool, str]:
    is_template = "webhooks of the template" in answers.by_name
    try:
        answers.payload("webhooks of the template" if is_template else "webhooks")
    except MAY_LACK_SCOPE as error:
        return True, f"not shown: refused with {error.status_code}, and webhooks take an app"
    return True, "at /resthooks, the app template's" if is_template else "at /resthooks/list, the documented one"


def _rate_limit(answers: Answers) -> tuple[bool, str]:
    shown = set()
    for _, answer in answers.by_name.values():
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


def _count_lacking(orders: list[OrderStatuses]) -> str:
    numbers = {context: sum(statuses[context] is None for statuses in orders) for context in StatusContext}
    return "; ".join(f"{number} of {len(orders)} lack {context}" for context, number in numbers.items() if number)
