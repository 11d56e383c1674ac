"""The list of orders, page by page."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_youcan.client.pages import Pages
from airflow_provider_youcan.client.procedures import Procedure
from airflow_provider_youcan.exceptions import (
    YouCanInvalidInputError,
    YouCanUnexpectedResponseError,
)
from airflow_provider_youcan.hooks.youcan import YouCanHook
from airflow_provider_youcan.orders import OrderStatuses
from tests.conftest import Sandbox


def order(payment: str | None) -> dict[str, Any]:
    return {"id": "abc", "payment": {"status_object": {"slug": payment}}}


def end(procedure: Procedure[Any], answer: object) -> Any:
    """Give a procedure its last answer, and return its result."""
    with pytest.raises(StopIteration) as stop:
        procedure.throw(answer) if isinstance(answer, Exception) else procedure.send(answer)
    return stop.value.value


def page(*ids: str, total_pages: int = 3) -> dict[str, Any]:
    return {"data": [{"id": order_id} for order_id in ids], "meta": {"pagination": {"total_pages": total_pages}}}


def test_pages_are_read_until_the_last_and_an_order_comes_once() -> None:
    pages = Pages(2)
    found: list[str] = []
    for answer in (page("a", "b"), page("b", "c"), page("d")):
        procedure = pages.read_next()
        next(procedure)
        found += [order["id"] for order in end(procedure, answer)]

    assert pages.is_over
    assert found == ["a", "b", "c", "d"]


def test_a_list_without_end_is_given_up() -> None:
    pages = Pages()

    def go_on(_: int) -> None:
        pages.take_requests()
        pages.add(page("a", total_pages=1000))

    with pytest.raises(YouCanUnexpectedResponseError, match="10 pages in a row held nothing new"):
        list(map(go_on, range(12)))


def test_empty_pages_say_nothing_again_and_again() -> None:
    pages = Pages()

    for number in range(1, 13):
        pages.take_requests()
        assert pages.add(page(total_pages=13)) == []
        assert pages.next_page == number + 1


def test_several_pages_are_asked_for_together() -> None:
    pages = Pages()
    pages.take_requests()
    pages.add(page("a", total_pages=4))

    assert [request.params["page"] for request in pages.take_requests(10)] == ["2", "3", "4"]
    assert pages.pages_left == 0


# --- over a real socket ---


def test_it_reads_all_orders_page_by_page(hook: YouCanHook, sandbox: Sandbox) -> None:
    orders = list(hook.iter_orders(page_size=7))

    assert [order["id"] for order in orders] == sandbox.shop.order_ids()[::-1]
    assert len(sandbox.shop.requests()) == 3
    assert OrderStatuses.from_order(orders[0])["payment"] is not None


def test_it_reads_the_orders_that_match(hook: YouCanHook) -> None:
    assert [
        order["ref"] for order in hook.iter_orders(q="customer2", sort_field="ref", sort_order="asc", include=())
    ] == [
        "002",
        "020",
    ]
    assert list(hook.iter_orders(q="no such text")) == []


def test_an_order_that_moves_between_pages_comes_once(hook: YouCanHook, sandbox: Sandbox) -> None:
    seen = []
    for number, order in enumerate(hook.iter_orders(page_size=5)):
        seen.append(order["id"])
        if number == 2:
            # Two newer orders push two of the first page over to the second.
            sandbox.shop.add_orders(2)

    assert len(seen) == len(set(seen))
    assert set(sandbox.shop.order_ids()[:20]) <= set(seen)


def test_it_follows_no_link_to_another_host(hook: YouCanHook, sandbox: Sandbox) -> None:
    list(hook.iter_orders(page_size=5))

    assert [request["query"].partition("&")[0] for request in sandbox.shop.requests()] == [
        f"page={page}" for page in (1, 2, 3, 4)
    ]


@pytest.mark.parametrize("query", [{"status": "paid"}, {"page": 2}, {"limit": 5}])
def test_orders_are_listed_by_nothing_that_youcan_passes_over(hook: YouCanHook, query: dict[str, Any]) -> None:
    with pytest.raises(YouCanInvalidInputError, match="can't be listed by"):
        list(hook.iter_orders(**query))


def test_a_hook_gives_up_a_list_without_end(hook: YouCanHook, sandbox: Sandbox) -> None:
    body = '{"data": [{"id": "a"}], "meta": {"pagination": {"total_pages": 1000000}}}'
    sandbox.misbehave("status", status=200, body=body)
    yielded = []

    with pytest.raises(YouCanUnexpectedResponseError, match="nothing new"):
        yielded.extend(hook.iter_orders())

    assert [order["id"] for order in yielded] == ["a"]
