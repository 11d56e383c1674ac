"""Metrics: what a real UDP listener behind Airflow's own statsd client receives."""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_provider_youcan.hooks.youcan import YouCanHook
from tests.conftest import DAGS_FOLDER, Sandbox
from tests.forked import DagRunner

# One worker for all of them, because they share a process.
pytestmark = [pytest.mark.usefixtures("_airflow_database"), pytest.mark.xdist_group("metrics")]

DAG = """
from datetime import datetime
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_youcan.operators.order_status import YouCanUpdatePaymentStatusOperator
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from airflow_provider_youcan.transfers.orders_to_sql import YouCanOrdersToSqlOperator
with DAG("{name}", schedule=None, start_date=datetime(2026, 1, 1)):
    {task}
"""


Run = Callable[[str], Counter[str]]


@pytest.fixture(scope="module")
def run(_airflow_database: None) -> Iterator[Run]:
    """Run a task, and return what was counted, by name without Airflow's prefix; of timings how many there were."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
        listener.setblocking(False)
        runner = DagRunner(
            AIRFLOW__METRICS__STATSD_ON="True",
            AIRFLOW__METRICS__STATSD_HOST="127.0.0.1",
            AIRFLOW__METRICS__STATSD_PORT=str(listener.getsockname()[1]),
            AIRFLOW__METRICS__STATSD_PREFIX="airflow",
        )

        def run(task: str) -> Counter[str]:
            name = f"metrics_{os.urandom(4).hex()}"
            file = DAGS_FOLDER / f"{name}.py"
            file.write_text(DAG.format(name=name, task=task))
            try:
                runner.run(name)
            finally:
                file.unlink()
            return count(listener)

        yield run
        runner.close()


def count(listener: socket.socket) -> Counter[str]:
    counted: Counter[str] = Counter()
    while True:
        try:
            packet = listener.recv(65_536).decode()
        except BlockingIOError:
            return counted
        for line in packet.splitlines():
            name, _, value = line.partition(":")
            if name.startswith("airflow.youcan."):
                number, kind = value.split("|")[:2]
                counted[name.removeprefix("airflow.youcan.")] += int(float(number)) if kind == "c" else 1


def test_requests_refusals_and_retries_are_counted(sandbox: Sandbox, run: Run, order_id: str) -> None:
    sandbox.misbehave("status", route="PUT *", status=429, headers={"Retry-After": "0"}, times=1)
    sandbox.misbehave("drop", route="PUT *", times=1)

    counted = run(f"YouCanUpdatePaymentStatusOperator(task_id='x', order_id='{order_id}', status='paid')")

    assert sandbox.shop.statuses(order_id)["payment"] == "paid"
    assert counted["requests.put.2xx"] == 1
    assert counted["requests.put.4xx"] == counted["rate_limited"] == 1
    assert counted["requests.put.lost"] == 1
    assert counted["retries"] == 2


def test_a_reconciliation_counts_its_rows_and_outcomes(sandbox: Sandbox, run: Run) -> None:
    sandbox.misbehave("rate-limit", limit=10, seconds=1)
    due = [order["id"] for order in sandbox.shop.orders() if order["payment_status"] != "refunded"]
    rows = [{"order_id": order_id, "payment_status": "refunded"} for order_id in [*due, "gone"]]

    counted = run(f"YouCanReconcileOrdersOperator(task_id='x', orders={rows}, max_failures=1)")

    assert counted["reconcile.rows"] == len(rows)
    assert counted["reconcile.payment.changed"] == len(due)
    assert counted["reconcile.payment.not_found"] == 1
    assert counted["requests.put.2xx"] == len(due)
    assert counted["limit_wait"] >= 1


def test_the_rows_that_reach_a_table_or_a_file_are_counted(
    sandbox: Sandbox, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.shop.add_orders(100)
    warehouse = {"conn_type": "sqlite", "host": str(tmp_path / "warehouse.db")}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(warehouse))

    targets = ("conn_id='warehouse'", f"path='{tmp_path}/orders.jsonl'")

    counted = run("\n    ".join(f"YouCanOrdersToSqlOperator(task_id='x{n}', {one})" for n, one in enumerate(targets)))

    assert counted["orders_to_sql.rows"] == 2 * 120
    assert counted["requests.get.2xx"] >= 2 * 3


def test_a_renewal_is_counted(sandbox: Sandbox, run: Run, order_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = {"client_id": "sandbox-client", "client_secret": "sandbox-client-secret"}
    refresh_token = sandbox.shop.issue_token()["refresh_token"]
    connection = sandbox.connection("refused", refresh_token=refresh_token, **client)
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", connection)

    counted = run(f"YouCanUpdatePaymentStatusOperator(task_id='x', order_id='{order_id}', status='paid')")

    assert counted["token_renewals"] == 1
    assert counted["requests.put.4xx"] == 1
    assert counted["requests.put.2xx"] == 1


def test_a_metric_that_fails_loses_no_answer(sandbox: Sandbox, order_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("no metrics today")

    monkeypatch.setattr("airflow_provider_youcan.metrics._stats", fail)

    YouCanHook().update_order_status(order_id, "paid", "payment")

    assert sandbox.shop.statuses(order_id)["payment"] == "paid"
