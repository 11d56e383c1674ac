"""An event for each new order: what is new, what is remembered, and what a watcher survives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import requests

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.triggers.new_orders import YouCanNewOrdersTrigger
from tests.conftest import AIRFLOW_3, Sandbox

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.skipif(not AIRFLOW_3, reason="asset watchers exist from Airflow 3.0"),
]


class StateStore:
    """What Airflow 3.3 gives a trigger that watches one asset."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.error: Exception | None = None

    async def aget(self, key: str, default: Any = None) -> Any:
        if self.error is not None:
            raise self.error
        return self.kept.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        if self.error is not None:
            raise self.error
        self.kept[key] = json.loads(json.dumps(value))


class Watcher(YouCanNewOrdersTrigger):
    """For which no time goes by: between one poll and the next something happens, and after the last of it the end."""

    between: list[Callable[[], object]]
    pauses: list[float]

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if not self.between:
            raise asyncio.CancelledError
        self.between.pop(0)()


def watch(*between: Callable[[], object], store: StateStore | None = None) -> tuple[list[dict[str, Any]], list[float]]:
    """Watch for as many polls as there is something between them and one more; return the events and the pauses."""
    watcher, events = Watcher(poll_interval=30), []
    watcher.between, watcher.pauses = list(between), []
    watcher.asset_state_store = store  # type: ignore[assignment]

    async def run() -> None:
        with suppress(asyncio.CancelledError):
            async for event in watcher.run():
                events.append(event.payload)  # noqa: PERF401  # those before the end count

    asyncio.run(run())
    return events, watcher.pauses


def nothing() -> None:
    pass


def test_each_order_that_comes_in_is_one_event_and_the_oldest_comes_first(
    sandbox: Sandbox,
) -> None:
    made: list[str] = []

    events, _ = watch(
        lambda: made.extend(sandbox.shop.add_orders(3)),
        nothing,
        lambda: made.extend(sandbox.shop.add_orders(1)),
    )

    assert [event["order_id"] for event in events] == made
    for event in events:
        order = sandbox.shop.order(event["order_id"])
        assert order is not None
        # Nothing of the customer.
        assert event == {"order_id": order["id"], "ref": order["ref"], "created_at": order["created_at"]}


def test_more_orders_than_a_page_holds_are_all_found(sandbox: Sandbox) -> None:
    made: list[str] = []
    events, _ = watch(lambda: made.extend(sandbox.shop.add_orders(170)))
    assert [event["order_id"] for event in events] == made


def test_changes_and_deletions_are_no_new_orders(sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(100)

    def interfere() -> None:
        for order_id in sandbox.shop.order_ids()[-60:-2]:
            sandbox.shop.delete_order(order_id)
        sandbox.shop.set_status(sandbox.shop.order_ids()[-1], "payment", "paid")

    events, _ = watch(interfere, nothing)

    assert events == []


def test_another_triggerer_goes_on_where_the_last_one_was(sandbox: Sandbox) -> None:
    store = StateStore()
    watch(store=store)
    made = sandbox.shop.add_orders(2)

    events, _ = watch(store=store)
    again, _ = watch(store=store)

    assert [event["order_id"] for event in events] == made
    assert again == []


def test_without_a_state_store_new_is_what_comes_in_from_now_on(
    sandbox: Sandbox, log_lines: Callable[[], list[str]]
) -> None:
    watch()
    sandbox.shop.add_orders(2)

    events, _ = watch()

    assert events == []
    assert "New are the orders that come in from now on" in "\n".join(log_lines())


def test_the_first_order_of_a_shop_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(orders=0) as shop:
        monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", shop.connection())
        events, _ = watch(lambda: shop.shop.add_orders(1))
    assert len(events) == 1


def test_a_watcher_survives_what_a_shop_and_its_token_do(sandbox: Sandbox) -> None:
    made: list[str] = []

    def heal() -> None:
        requests.delete(f"{sandbox.url}/sandbox/misbehaviours", timeout=5)

    events, pauses = watch(
        lambda: sandbox.misbehave("status", status=401),
        heal,
        lambda: sandbox.misbehave("html"),
        heal,
        lambda: made.extend(sandbox.shop.add_orders(1)),
    )

    assert [event["order_id"] for event in events] == made
    # A minute for a person who renews the token.
    assert sum(60 <= pause <= 66 for pause in pauses) == 1


def test_a_shop_that_asks_for_a_rest_has_it(sandbox: Sandbox) -> None:
    _, pauses = watch(lambda: sandbox.misbehave("status", status=429, headers={"Retry-After": "600"}), nothing)
    assert pauses[1] >= 600


def test_a_state_store_that_is_away_loses_no_order(sandbox: Sandbox) -> None:
    store = StateStore()
    watch(store=store)
    made = sandbox.shop.add_orders(1)
    store.error = RuntimeError("the API server is away")

    def heal() -> None:
        store.error = None

    events, _ = watch(nothing, heal, store=store)

    assert [event["order_id"] for event in events] == made


def test_a_trigger_is_plain_json() -> None:
    path, arguments = YouCanNewOrdersTrigger(youcan_conn_id="shop", poll_interval=5).serialize()
    assert path == "airflow_provider_youcan.triggers.new_orders.YouCanNewOrdersTrigger"
    assert json.loads(json.dumps(arguments)) == {"youcan_conn_id": "shop", "poll_interval": 5.0}


@pytest.mark.parametrize("poll_interval", [0, -1, "soon", 1e9])
def test_an_interval_that_makes_no_sense_is_refused(poll_interval: Any) -> None:
    with pytest.raises(YouCanInvalidInputError, match="poll_interval"):
        YouCanNewOrdersTrigger(poll_interval=poll_interval)
