"""A new order starts a DAG without a webhook: a watcher in the triggerer of a real Airflow, which is killed as well."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.conftest import AIRFLOW_3, AIRFLOW_VERSION, Sandbox
from tests.services import Airflow

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.usefixtures("_airflow_database"),
    pytest.mark.skipif(not AIRFLOW_3, reason="asset watchers exist from Airflow 3.0"),
]

DAG = """
from datetime import datetime
from airflow.sdk import DAG, Asset, AssetWatcher, task
from airflow_provider_youcan.triggers.new_orders import YouCanNewOrdersTrigger
watcher = AssetWatcher(name="new_orders", trigger=YouCanNewOrdersTrigger(poll_interval=1))
with DAG("new_orders", schedule=[Asset("youcan_new_orders", watchers=[watcher])], start_date=datetime(2026, 1, 1)):
    @task
    def read_ids(triggering_asset_events=None):
        return [event.extra["payload"]["order_id"] for events in triggering_asset_events.values() for event in events]
    read_ids()
"""


@pytest.fixture
def shop(airflow: Airflow) -> Iterator[Sandbox]:
    with Sandbox(orders=20) as sandbox:
        airflow.connect(youcan_default=sandbox.connection())
        path = airflow.dags / "new_orders.py"
        path.write_text(DAG)
        yield sandbox
        path.unlink()


def test_each_new_order_has_an_event_though_the_triggerer_is_killed(airflow: Airflow, shop: Sandbox) -> None:
    # Given a watcher that has seen the shop,
    airflow.wait_for(lambda: len(shop.requests) >= 2, "the watcher to poll")
    old = set(shop.shop.order_ids())

    # when orders come in, then each has an event.
    made = set(shop.shop.add_orders(3))
    airflow.wait_for(lambda: made <= events(airflow), "an event for each")

    # And when the triggerer is killed, and orders come in meanwhile, then these have theirs, where Airflow remembers.
    airflow.kill_service("triggerer")
    missed = set(shop.shop.add_orders(2))
    airflow.restart_service("triggerer")
    polls = len(shop.requests)
    airflow.wait_for(lambda: len(shop.requests) >= polls + 2, "the watcher to poll again")
    later = set(shop.shop.add_orders(1))
    airflow.wait_for(lambda: later <= events(airflow), "the event of the last one")
    if AIRFLOW_VERSION >= (3, 3):
        assert missed <= events(airflow)
    assert not events(airflow) & old


def events(airflow: Airflow) -> set[str]:
    """Return the orders that have an event."""
    rows = airflow.query(
        "select asset_event.extra from asset_event join asset on asset.id = asset_id where asset.name = ?",
        "youcan_new_orders",
    )

    extras = [row[0] if isinstance(row[0], dict) else json.loads(row[0]) for row in rows]
    return {extra["payload"]["order_id"] for extra in extras if "payload" in extra}
