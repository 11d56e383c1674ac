"""A reconciling task that is stopped, in a real Airflow 3: by a SIGTERM, and by a person who marks it as failed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import AIRFLOW_3, Sandbox, read_report
from tests.services import Airflow

# Airflow 2 raises out of its signal handler; tests/test_guards.py stops a run in that way, too.
pytestmark = [
    pytest.mark.airflow,
    pytest.mark.skipif(not AIRFLOW_3, reason="the API that marks a task as failed is Airflow 3's"),
]

STOPPABLE = """
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
"""


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with Sandbox(orders=1500) as sandbox:
        sandbox.misbehave("latency", route="PUT *", seconds=0.2)
        yield sandbox


@pytest.fixture(autouse=True)
def _dags(airflow: Airflow, shop: Sandbox, tmp_path: Path) -> None:
    airflow.connect(youcan_default=shop.connection())
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
