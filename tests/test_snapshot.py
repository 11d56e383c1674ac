"""What the shop shows: which order is meant, and how many requests it takes to know."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_youcan.exceptions import (
    FATAL_ERRORS,
    YouCanError,
    YouCanInvalidInputError,
    YouCanPermanentError,
    YouCanServerError,
    YouCanTransientError,
)
from airflow_provider_youcan.reconciliation.rows.desired import DesiredState
from airflow_provider_youcan.reconciliation.snapshot import Snapshot
from airflow_provider_youcan.sandbox.shop import Request
from tests.conftest import FRESH, Clock, Sandbox, paths, reconcile

# --- which order is meant ---


def test_a_ref_is_never_taken_for_one_that_contains_it(sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(220)
    by_ref = {order["ref"]: order["id"] for order in sandbox.shop.orders()}
    assert {"021", "210", "121"} <= by_ref.keys()
    assert "21" not in by_ref

    with pytest.raises(YouCanPermanentError, match="no order with this ref"):
        reconcile([{"ref": "21", "status": "closed"}])
    summary = reconcile([{"ref": "021", "status": "closed"}])

    assert summary["changed"] == 1
    assert {entry["order_id"] for entry in sandbox.shop.history()} == {by_ref["021"]}


def test_many_refs_are_found_through_the_list(sandbox: Sandbox) -> None:
    refs = [order["ref"] for order in sandbox.shop.orders()]

    summary = reconcile([{"ref": ref, "payment_status": "refunded"} for ref in refs])

    assert summary["changed"] == 20
    assert summary["requests"] == 22
    assert {order["payment_status"] for order in sandbox.shop.orders()} == {"refunded"}


def test_a_ref_of_several_orders_is_left_alone(sandbox: Sandbox, fresh: list[str], tmp_path: Path) -> None:
    sandbox.shop._write("update orders set ref = '777' where id in (?, ?)", fresh[0], fresh[1])

    for rows in ([{"ref": "777", "status": "closed"}], [{"ref": r, "status": "closed"} for r in ("777", "003")]):
        with pytest.raises(YouCanPermanentError, match="several orders of this ref"):
            reconcile(rows, report_path=str(tmp_path / "report.jsonl"))

    assert sandbox.shop.statuses(fresh[0]) == sandbox.shop.statuses(fresh[1]) == FRESH


def test_an_id_that_belongs_to_another_ref_is_left_alone(sandbox: Sandbox, fresh: list[str]) -> None:
    ref = {order["id"]: order["ref"] for order in sandbox.shop.orders()}[fresh[0]]

    with pytest.raises(YouCanPermanentError, match=f"knows this order by the ref '{ref}'"):
        reconcile([{"order_id": fresh[0], "ref": "999", "status": "closed"}])
    reconcile([{"order_id": fresh[0], "ref": ref, "status": "closed"}])

    assert [entry["after"] for entry in sandbox.shop.history()] == ["closed"]


def test_an_order_by_its_id_and_by_its_ref_may_not_be_wished_two_things(sandbox: Sandbox, fresh: list[str]) -> None:
    ref = {order["id"]: order["ref"] for order in sandbox.shop.orders()}[fresh[0]]
    rows = [{"order_id": fresh[0], "status": "closed"}, {"ref": ref, "status": "processed"}]

    with pytest.raises(YouCanInvalidInputError, match="contradict each other on the general status"):
        reconcile(rows)
    summary = reconcile([*rows, {"order_id": fresh[1], "status": "closed"}], on_invalid="skip")

    assert (summary["invalid"], summary["changed"]) == (2, 1)
    assert {entry["order_id"] for entry in sandbox.shop.history()} == {fresh[1]}


@pytest.mark.parametrize("number", [1, 20])
def test_an_id_in_capitals_is_the_same_order(sandbox: Sandbox, number: int) -> None:
    orders = sandbox.shop.order_ids()[:number]

    summary = reconcile([{"order_id": order_id.upper(), "payment_status": "captured"} for order_id in orders])

    assert summary["changed"] == number


def test_an_id_in_other_letters_is_the_same_order(sandbox: Sandbox, fresh: list[str]) -> None:
    summary = reconcile([{"order_id": order_id.upper(), "status": "closed"} for order_id in fresh])

    assert summary["changed"] == len(fresh)


def test_a_search_that_fails_for_now_is_made_again(
    sandbox: Sandbox, no_waiting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(max_attempts=2))
    sandbox.misbehave("status", route="GET /orders", status=500, times=2)

    assert reconcile([{"ref": "001", "status": "closed"}])["changed"] == 1


# --- how the shop is read ---


def test_a_few_orders_of_a_large_shop_are_read_one_by_one(sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(2000)
    oldest = sandbox.shop.order_ids()[:4]

    summary = reconcile([{"order_id": order_id, "payment_status": "refunded"} for order_id in oldest])

    assert summary["changed"] == 4
    assert summary["requests"] == 1 + 1 + 4 + 4, "the store's statuses, a page, then each order and its update"


def test_new_orders_are_found_on_the_first_pages(sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(2000)
    newest = sandbox.shop.order_ids()[-30:]

    summary = reconcile([{"order_id": order_id, "payment_status": "refunded"} for order_id in newest])

    assert summary["requests"] == 1 + 1 + 30


def test_all_orders_cost_as_many_requests_as_the_list_has_pages(sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(980)

    summary = reconcile(
        [{"order_id": order["id"], "status": order["general_status"]} for order in sandbox.shop.orders()]
    )

    assert (summary["unchanged"], summary["requests"]) == (1000, 20 + 1), "and a look at the store's own statuses"


def test_one_order_is_read_alone(sandbox: Sandbox, fresh: list[str]) -> None:
    assert reconcile([{"order_id": fresh[0], "payment_status": "paid"}])["requests"] == 3


def test_a_list_that_lacks_a_status_is_not_taken_for_its_word(sandbox: Sandbox, fresh: list[str]) -> None:
    sandbox.misbehave("terse", route="GET /orders")

    summary = reconcile([{"order_id": order_id, "status": "open"} for order_id in fresh])

    assert (summary["unchanged"], summary["changed"]) == (len(fresh), 0)
    assert summary["requests"] == 1 + 1 + len(fresh)


def test_old_reads_are_read_again(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_youcan.reconciliation.snapshot.MAX_READ_AGE", -1.0)
    orders = sandbox.shop.order_ids()

    summary = reconcile([{"order_id": order_id, "payment_status": "captured"} for order_id in orders])
    again = reconcile([{"order_id": order_id, "payment_status": "captured"} for order_id in orders])

    assert summary["changed"] == again["unchanged"] == len(orders)
    assert again["requests"] == 1 + 1 + len(orders)


def test_a_plans_reads_are_renewed_when_they_are_too_old(
    sandbox: Sandbox, fresh: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_youcan.reconciliation.snapshot.MAX_READ_AGE", -1.0)

    summary = reconcile([{"order_id": one, "payment_status": "paid"} for one in fresh], max_changes="100%")

    assert summary["changed"] == len(fresh)
    # Once for the plan, and once when it is carried out.
    assert [path.count("-") > 1 for path in paths(sandbox, "GET")].count(True) == 2 * len(fresh)


def test_a_page_that_cannot_be_read_costs_its_orders_a_request_each(sandbox: Sandbox, no_waiting: None) -> None:
    sandbox.shop.add_orders(80)
    orders = sandbox.shop.orders()
    list_orders = sandbox.shop.find_orders
    calls: list[int] = []

    def fail_from_the_second(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("the sandbox answers 500")
        return list_orders(*arguments, **options)

    sandbox.shop.find_orders = fail_from_the_second  # type: ignore[method-assign]
    summary = reconcile([{"order_id": order["id"], "status": order["general_status"]} for order in orders])

    assert summary["unchanged"] == 100


def test_a_list_that_says_the_same_again_and_again_is_left(sandbox: Sandbox, fresh: list[str]) -> None:
    page = {"data": [{"id": "other-order", "ref": "x"}], "meta": {"pagination": {"total_pages": 10**12}}}
    sandbox.misbehave("status", route="GET /orders", status=200, body=json.dumps(page))

    summary = reconcile([{"order_id": order_id, "status": "closed"} for order_id in fresh])
    with pytest.raises(YouCanTransientError, match="list repeats itself"):
        reconcile([{"ref": "021", "status": "closed"}])

    assert summary["changed"] == len(fresh)


def test_a_label_that_is_half_a_character_harms_nobody(sandbox: Sandbox, fresh: list[str], tmp_path: Path) -> None:
    body = json.dumps({"id": fresh[0], "ref": "1", "payment": {"status_object": {"slug": "\ud800"}}})
    sandbox.misbehave("status", route=f"GET /orders/{fresh[0]}", status=200, body=body)

    summary = reconcile([{"order_id": fresh[0], "payment_status": "paid"}], report_path=str(tmp_path / "report.jsonl"))

    assert summary["changed"] == 1


# --- without a socket, on a clock of its own ---


def statuses_of(payment: str) -> dict[str, Any]:
    return {"payment": {"status_object": {"slug": payment}}}


class Shop:
    """A list of orders, of which each page has one; ``answers`` has what a page answers instead."""

    def __init__(self, size: int, answers: dict[int, Exception] | None = None) -> None:
        self.order_ids = [f"order-{number}" for number in range(1, size + 1)]
        self.pages: list[int] = []
        self.is_terse = False
        self._answers = answers or {}

    async def run(self, procedure: Any) -> Any:
        answer: Any = None
        while True:
            try:
                request = procedure.throw(answer) if isinstance(answer, Exception) else procedure.send(answer)
            except StopIteration as end:
                return end.value
            answer = self._answer(int(request.params["page"]))

    def _answer(self, page: int) -> Any:
        self.pages.append(page)
        order_id = self.order_ids[page - 1]
        statuses = {} if self.is_terse else statuses_of("pending")
        listed = {"data": [{"id": order_id, "ref": str(page), **statuses}]}
        return self._answers.get(page, {**listed, "meta": {"pagination": {"total_pages": len(self.order_ids)}}})


def snapshot_of(shop: Shop, clock: Clock | None = None, max_concurrency: int = 4) -> tuple[Snapshot, DesiredState]:
    """Make a snapshot of a shop of which all orders are to be paid."""
    desired = DesiredState()
    for order_id in shop.order_ids:
        desired.add({"order_id": order_id, "payment_status": "paid"})
    log = logging.getLogger(__name__)
    return Snapshot(shop.run, desired, max_concurrency=max_concurrency, log=log, clock=clock or Clock()), desired


def read_list(snapshot: Snapshot) -> list[str | None]:
    async def main() -> list[str | None]:
        return [order.order_id async for orders in snapshot.read_list() for order in orders]

    return asyncio.run(main())


@pytest.mark.parametrize(("seconds", "is_known"), [(300.0, True), (300.1, False)])
def test_reads_older_than_five_minutes_are_renewed_before_a_report(seconds: float, is_known: bool) -> None:
    shop, clock = Shop(3), Clock()
    snapshot, desired = snapshot_of(shop, clock)
    read_list(snapshot)
    first, second, _ = desired.orders
    read = snapshot.pop_read(first)
    assert read is not None
    assert read.at == clock.now

    clock.now += seconds

    assert (snapshot.if_fresh(read) is not None) is is_known
    assert (snapshot.pop_read(second) is not None) is is_known


def test_a_status_is_as_old_as_the_request_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, clock = Shop(3), Clock()
    snapshot, desired = snapshot_of(shop, clock)
    asked_at = clock.now
    answer = shop._answer

    def answer_late(page: int) -> Any:
        clock.now += 4.0
        return answer(page)

    monkeypatch.setattr(shop, "_answer", answer_late)

    read_list(snapshot)

    # One page, and then two together.
    reads = [snapshot.pop_read(order) for order in desired.orders]
    assert [read and read.at for read in reads] == [asked_at, asked_at + 4.0, asked_at + 4.0]


def test_a_read_is_returned_once() -> None:
    snapshot, desired = snapshot_of(Shop(3))
    read_list(snapshot)
    first, *_ = desired.orders

    assert snapshot.pop_read(first) is not None
    assert snapshot.pop_read(first) is None


def test_the_orders_of_a_page_that_can_not_be_read_now_are_left_for_later() -> None:
    shop = Shop(4, {3: YouCanServerError("503")})
    snapshot, _ = snapshot_of(shop)

    assert read_list(snapshot) == ["order-1", "order-2", "order-4"]
    assert shop.pages == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", FATAL_ERRORS)
def test_an_error_that_ends_the_run_is_not_taken_for_a_page_that_is_missing(kind: type[YouCanError]) -> None:
    snapshot, _ = snapshot_of(Shop(4, {3: kind("no more")}))

    with pytest.raises(kind, match="no more"):
        read_list(snapshot)


def test_a_first_page_that_can_not_be_read_is_an_error() -> None:
    snapshot, _ = snapshot_of(Shop(4, {1: YouCanServerError("503")}))

    with pytest.raises(YouCanServerError):
        read_list(snapshot)


def test_no_more_pages_are_asked_for_together_than_there_are_workers() -> None:
    shop = Shop(9)
    snapshot, desired = snapshot_of(shop, max_concurrency=3)
    together: list[int] = []
    read_pages = snapshot._read_pages

    async def count(pages: Any, number: int) -> Any:
        together.append(number)
        return await read_pages(pages, number)

    snapshot._read_pages = count  # type: ignore[method-assign]

    # Where refs have to be found, the list is read at full speed.
    desired.add({"ref": "10", "payment_status": "paid"})
    read_list(snapshot)

    assert together == [1, 2, 3, 3]


def test_a_list_that_lacks_a_status_is_read_no_further() -> None:
    shop = Shop(9)
    shop.is_terse = True
    snapshot, _ = snapshot_of(shop)

    assert read_list(snapshot) == []
    assert shop.pages == [1]


def test_a_search_ends_behind_the_ref_and_not_before_because_another_order_may_have_it_too() -> None:
    shop = Shop(9)
    snapshot, desired = snapshot_of(shop)
    desired.add({"ref": "3", "payment_status": "paid"})

    asyncio.run(snapshot.search("3"))

    assert snapshot.ids["3"] == {"order-3"}
    assert shop.pages == [1, 2, 3, 4]


def test_a_search_that_is_tried_again_forgets_nothing(sandbox: Sandbox, no_waiting: None) -> None:
    (order,) = [one for one in sandbox.shop.orders() if one["ref"] == "003"]
    # Given refs that lead to many orders, and a second page of the search that fails at first,
    sandbox.shop.add_orders(300)
    failed: list[Request] = []

    def fail_once(request: Request) -> None:
        if "q=003" in request.query and not failed:
            failed.append(request)
            sandbox.misbehave("status", status=500, route="GET /orders", times=1)

    with sandbox.on_request(fail_once):
        assert reconcile([{"ref": "003", "status": "closed"}])["changed"] == 1
    assert sandbox.shop.statuses(order["id"])["general"] == "closed"


def test_an_order_whose_status_the_list_shows_as_a_label_is_read_itself(sandbox: Sandbox, fresh: list[str]) -> None:
    def translate(order: dict[str, Any]) -> dict[str, Any]:
        payment = {"status_text": "En attente"}
        return {**order, "payment": payment, "shipping": {"status_text": "Non traité"}}

    listed = [translate({"id": order_id, "ref": "x", "status": 1}) for order_id in fresh]
    page = {"data": listed, "meta": {"pagination": {"total_pages": 1, "current_page": 1}}}
    sandbox.misbehave("status", status=200, body=json.dumps(page), route="GET /orders")

    summary = reconcile(
        [{"order_id": order_id, "payment_status": "paid"} for order_id in fresh], only_from={"payment": "pending"}
    )

    assert (summary["changed"], summary["protected"]) == (len(fresh), 0)


def test_store_lists_that_php_wrote_as_objects_are_read(sandbox: Sandbox, fresh: list[str]) -> None:
    lists = {
        "ordersStatus": {"0": {"slug": "open"}, "2": {"slug": "closed"}},
        "shipping": {"1": {"slug": "shipped"}},
        "payment": [],
    }
    sandbox.misbehave("status", status=200, body=json.dumps(lists), route="GET /orders/settings")

    assert reconcile([{"order_id": fresh[0], "status": "closed"}])["changed"] == 1
