"""An order is paid on YouCan, and a DAG runs: the sandbox, the receiver, and a real Airflow behind it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import requests

from airflow_provider_youcan.__main__ import main
from tests.conftest import AIRFLOW_3, ROOT, Sandbox
from tests.services import Airflow

pytestmark = pytest.mark.usefixtures("_airflow_database")

BURST = 1_000
OUTAGE_SECONDS = 30

LISTENER = """
from datetime import datetime
from airflow.providers.common.compat.sdk import DAG, Asset
from airflow_provider_youcan.operators.order_status import YouCanUpdateShippingStatusOperator
# It never runs: so that Airflow knows the asset.
with DAG("listener", schedule=None, start_date=datetime(2026, 1, 1)):
    YouCanUpdateShippingStatusOperator(
        task_id="x", order_id="x", status="shipped", outlets=[Asset(uri="youcan://sandbox/orders/updated")])
"""


class Receiver:
    """``webhooks serve``, as a process that may be killed."""

    def __init__(self, folder: Path, airflow: Airflow) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._output = folder / "receiver.out"
        options = ["--port", str(self.port), "--spool", str(folder / "spool.db"), "--airflow-url", airflow.url]
        login = [] if AIRFLOW_3 else ["--airflow-username", "youcan"]
        self._command = [sys.executable, "-m", "airflow_provider_youcan", "webhooks", "serve", *options, *login]
        self._environment = airflow.environment | {
            "AIRFLOW_CONN_YOUCAN_DEFAULT": os.environ["AIRFLOW_CONN_YOUCAN_DEFAULT"],
            "YOUCAN_WEBHOOKS_AIRFLOW_PASSWORD": "secret",
        }

    def start(self) -> None:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=output, stderr=output)

    def kill(self) -> None:
        assert self._process.poll() is None, self.output
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    # On a disk that takes seconds for a write, the receiver asks for each delivery again, and again.
    monkeypatch.setattr("airflow_provider_youcan.sandbox.webhooks.MAX_FAILURES", BURST * 10)
    # What was refused is delivered again after 24 s, and after two minutes more if the receiver was not up by then.
    with Sandbox(orders=BURST, webhook_pace=0.4) as sandbox:
        tokens = sandbox.shop.issue_token()
        client = {"client_id": "sandbox-client", "client_secret": "sandbox-client-secret"}
        connection = sandbox.connection(tokens["access_token"], refresh_token=tokens["refresh_token"], **client)
        monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", connection)
        yield sandbox


@pytest.fixture(autouse=True)
def _dags(airflow: Airflow, shop: Sandbox, postgres: str) -> Iterator[None]:
    airflow.connect(youcan_default=os.environ["AIRFLOW_CONN_YOUCAN_DEFAULT"])
    example = (ROOT / "example_dags" / "example_youcan_webhooks.py").read_text()
    assert "my-store" in example
    (airflow.dags / "webhooks.py").write_text(example.replace("my-store", "sandbox"))
    (airflow.dags / "listener.py").write_text(LISTENER)
    if not AIRFLOW_3:
        user = {"username": "youcan", "password": "secret", "firstname": "x", "lastname": "x", "email": "x@example.com"}
        options = [word for name, value in user.items() for word in (f"--{name}", value)]
        airflow.run_command("users", "create", "--role", "Admin", *options)
        # Airflow 2 hashes the password again for each event, 0.1 s long: a thousand times that is not what is tested.
        quick = f"pbkdf2:sha256:1$salt${hashlib.pbkdf2_hmac('sha256', b'secret', b'salt', 1).hex()}"
        with closing(psycopg2.connect(host=postgres, user="postgres", dbname="airflow")) as database, database:
            database.cursor().execute("update ab_user set password = %s", (quick,))
        airflow.start_service("webserver", "webserver", "-p", airflow.url.rpartition(":")[2])
    yield
    if not AIRFLOW_3:
        airflow.kill_service("webserver")


@pytest.fixture
def receiver(airflow: Airflow, tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path, airflow)
    receiver.start()
    yield receiver
    receiver.kill()


def test_a_webhook_starts_dags_and_nothing_is_lost(airflow: Airflow, shop: Sandbox, receiver: Receiver) -> None:
    airflow.wait_for(lambda: is_up(f"{receiver.url}health"), "the receiver")
    for dag_id in ("example_youcan_webhooks", "listener"):
        airflow.wait_for(lambda dag_id=dag_id: airflow.query("select 1 from dag where dag_id = ?", dag_id), dag_id)
    web = "/api/v2/version" if AIRFLOW_3 else "/api/v1/version"
    airflow.wait_for(lambda: is_up(airflow.url + web), "Airflow's API")
    assert main(["webhooks", "subscribe", "--url", receiver.url, "--event", "order.paid", "order.updated"]) == 0

    # When an order is paid,
    fresh = [order["id"] for order in shop.shop.orders() if order["shipping_status"] == "unfulfilled"]
    paid = next(order_id for order_id in fresh if shop.shop.statuses(order_id)["payment"] == "pending")
    shop.shop.set_status(paid, "payment", "paid")

    # then within seconds a DAG run has prepared it for shipping.
    airflow.wait_for(lambda: shop.shop.statuses(paid)["shipping"] == "processing", "the order to be prepared", 60)

    # When a thousand orders change, and meanwhile the receiver is killed twice, and Airflow is away for a while,
    waves = [shop.shop.order_ids()[start::3] for start in range(3)]
    change(airflow, shop, waves[0], receiver.kill)
    receiver.start()
    airflow.wait_for(lambda: is_up(f"{receiver.url}health"), "the receiver")
    web_service = "api-server" if AIRFLOW_3 else "webserver"
    airflow.kill_service(web_service)
    outage_ends = time.monotonic() + OUTAGE_SECONDS
    change(airflow, shop, waves[1], receiver.kill)
    receiver.start()
    airflow.wait_for(lambda: time.monotonic() > outage_ends, "the outage to end")
    airflow.restart_service(web_service)
    change(airflow, shop, waves[2])

    # then each has an event in the end, and none is lost.
    while missing := set(shop.shop.order_ids()) - orders_with_events(airflow):
        airflow.wait_for(
            lambda before=missing: not before <= set(shop.shop.order_ids()) - orders_with_events(airflow),
            f"one more event: {len(missing)} of {BURST} orders have none; the receiver:\n{receiver.output[-3000:]}",
            600,
        )
    health = f"{receiver.url}health"
    airflow.wait_for(lambda: requests.get(health, timeout=5).text == "0 waiting", "the spool to be empty")
    customer = json.loads(shop.shop.order(paid)["customer"])  # type: ignore[index]
    assert customer["phone"] not in receiver.output
    assert "sandbox-client-secret" not in receiver.output
    extras = json.dumps(read_extras(airflow, "updated"))
    assert customer["phone"] not in extras
    assert set(read_extras(airflow, "paid")[0]) == {"event", "order_id", "store", "time", "delivery_id"}


def change(
    airflow: Airflow, shop: Sandbox, order_ids: list[str], in_the_middle: Callable[[], None] = lambda: None
) -> None:
    """Change orders as fast as it goes, and wait until each was delivered once, or refused."""

    def count() -> int:
        return sum(delivery["attempt"] == 0 for delivery in shop.shop.deliveries())

    before = count()
    for number, order_id in enumerate(order_ids):
        shop.shop.set_status(order_id, "general", "processed")
        if number == len(order_ids) // 2:
            in_the_middle()
    airflow.wait_for(lambda: count() >= before + len(order_ids), f"{len(order_ids)} deliveries", 600)


def is_up(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def read_extras(airflow: Airflow, event: str) -> list[dict[str, Any]]:
    """Return what the events of an asset say."""
    kind = "asset" if AIRFLOW_3 else "dataset"
    rows = airflow.query(
        f"select {kind}_event.extra from {kind}_event join {kind} on {kind}.id = {kind}_id where uri = ?",
        f"youcan://sandbox/orders/{event}",
    )
    extras = [row[0] if isinstance(row[0], dict) else json.loads(row[0]) for row in rows]
    return [{name: value for name, value in extra.items() if name != "from_rest_api"} for extra in extras]


def orders_with_events(airflow: Airflow) -> set[str]:
    return {extra["order_id"] for extra in read_extras(airflow, "updated")}
