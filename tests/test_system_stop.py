"""A reconciling task that is stopped, in a real Airflow 3: by a SIGTERM, and by a person who marks it as failed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import AIRFLOW_3, Sandbox, on_request, paths, read_report
from tests.services import Airflow

# Airflow 2 raises out of its signal handler; tests/test_guards.py stops a run in that way, too.
pytestmark = [
    pytest.mark.airflow,
    pytest.mark.skipif(not AIRFLOW_3, reason="the API that marks a task as failed is Airflow 3's"),
]

STOPPABLE = '''
import os
from datetime import datetime
from pathlib import Path
from airflow.providers.common.compat.sdk import DAG, task
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator

FOLDER = Path({folder!r})

def keep_pid(context):
    (FOLDER / (context["run_id"] + ".pid")).write_text(str(os.getpid()))

with DAG("stoppable", schedule=None, start_date=datetime(2026, 1, 1)):
    @task
    def read_orders():
        from airflow_provider_youcan.hooks.youcan import YouCanHook
        with YouCanHook() as hook:
            return [{{"order_id": order["id"], "payment_status": "refunded"}} for order in hook.iter_orders()]
    YouCanReconcileOrdersOperator(
        task_id="reconcile", orders=read_orders(), report_path=str(FOLDER) + "/{{{{ run_id }}}}.jsonl",
        on_execute_callback=keep_pid, max_concurrency=4,
    )

# A query in C, and pages of the shop: both come before anything is sent.
QUERY = """
    with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < 1000000000)
    select 'abc' as order_id, 'refunded' as payment_status from numbers where n = 1000000000
"""
for source, rows in {{
    "query": {{"sql": QUERY, "conn_id": "warehouse"}}, "pages": {{"orders_file": str(FOLDER / "rows.jsonl")}}
}}.items():
    with DAG("stoppable_" + source, schedule=None, start_date=datetime(2026, 1, 1)):
        YouCanReconcileOrdersOperator(
            task_id="reconcile", report_path=str(FOLDER / (source + ".jsonl")), on_execute_callback=keep_pid, **rows
        )
'''


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with Sandbox(orders=1500) as sandbox:
        sandbox.misbehave("latency", route="PUT *", seconds=0.2)
        yield sandbox


@pytest.fixture(autouse=True)
def _dags(airflow: Airflow, shop: Sandbox, tmp_path: Path) -> None:
    warehouse = {"conn_type": "sqlite", "host": str(tmp_path / "warehouse.db")}
    airflow.connect(youcan_default=shop.connection(), warehouse=json.dumps(warehouse))
    (airflow.dags / "stoppable.py").write_text(STOPPABLE.format(folder=str(tmp_path)))


def is_whole(report: Path) -> bool:
    return '"outcome": "complete"' in report.read_text().splitlines()[-1]


def test_a_task_that_is_stopped_ends_as_failed_and_sends_nothing_more(
    airflow: Airflow, shop: Sandbox, tmp_path: Path
) -> None:
    for run_id in ("terminated", "marked"):
        before = len(shop.shop.history())
        airflow.trigger("stoppable", run_id)
        airflow.wait_for(lambda before=before: len(shop.shop.history()) > before + 20, "the first updates")

        if run_id == "terminated":
            os.kill(int((tmp_path / "terminated.pid").read_text()), signal.SIGTERM)
        else:
            task = f"dags/stoppable/dagRuns/{run_id}/taskInstances/reconcile"
            airflow.request("PATCH", task, new_state="failed")

        assert airflow.wait_for_run(run_id) == "failed"
        assert airflow.task_states(run_id)["reconcile"] == "failed"
        # A run that is marked as failed learns so by its next heartbeat.
        report = tmp_path / f"{run_id}.jsonl"
        airflow.wait_for(lambda report=report: is_whole(report), "the report to be whole", 30)
        taken = len(shop.shop.history())
        time.sleep(2)
        assert len(shop.shop.history()) == taken, "nothing more is sent"

        changed = [line["order_id"] for line in read_report(report) if line["outcome"] == "changed"]
        happened = [entry["order_id"] for entry in shop.shop.history()[before:]]
        assert Counter(changed) == Counter(happened), "what the shop took is what the report says"
        assert len(changed) < 1400


@pytest.mark.parametrize("source", ["query", "pages"])
def test_a_task_that_is_marked_as_failed_before_its_first_update_sends_none(
    airflow: Airflow, shop: Sandbox, tmp_path: Path, source: str
) -> None:
    rows = [{"order_id": order_id, "payment_status": "refunded"} for order_id in shop.shop.order_ids()]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked, released = threading.Event(), threading.Event()

    def keep_waiting(*_: Any) -> None:
        asked.set()
        released.wait(120)

    on_request(shop, keep_waiting)
    airflow.trigger(f"stoppable_{source}", source)
    pid = tmp_path / f"{source}.pid"
    airflow.wait_for(lambda: pid.exists() and pid.read_text(), "the task to begin")
    assert source == "query" or asked.wait(60), "the first page is under way"
    airflow.request("PATCH", f"dags/stoppable_{source}/dagRuns/{source}/taskInstances/reconcile", new_state="failed")

    assert airflow.wait_for_run(source) == "failed"
    airflow.wait_for(lambda: not Path("/proc", pid.read_text()).exists(), "the task's process to end", 60)
    released.set()
    assert paths(shop, "PUT") == []
    report = tmp_path / f"{source}.jsonl"
    assert source == "query" or is_whole(report)
