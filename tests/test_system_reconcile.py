"""A table in a real PostgreSQL, reconciled by several workers of a real Airflow, and by one after an approval."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from airflow_provider_youcan.operators.reconcile import (
    YouCanReconcileOrdersOperator,
    YouCanRevertReconciliationOperator,
)
from airflow_provider_youcan.reconciliation.planner import Outcome, Step
from airflow_provider_youcan.reconciliation.record.lines import make_line
from airflow_provider_youcan.reconciliation.record.table import OutcomeTable
from tests.conftest import AIRFLOW_VERSION, HAS_APPROVALS, ROOT, Sandbox, all_statuses
from tests.services import Airflow

pytestmark = pytest.mark.airflow

EXAMPLES = ROOT / "example_dags"


@pytest.fixture
def warehouse(
    postgres: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Iterator[psycopg2.extensions.connection]:
    """A courier's feed of 400 orders, in a database of its own."""
    name = f"warehouse_{os.urandom(4).hex()}"
    with closing(psycopg2.connect(host=postgres, user="postgres", dbname="postgres")) as server:
        server.autocommit = True
        server.cursor().execute(f"create database {name}")
    connection = {"conn_type": "postgres", "host": postgres, "login": "postgres", "schema": name}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))
    sandbox.shop.add_orders(380)
    with (
        closing(psycopg2.connect(host=postgres, user="postgres", dbname=name)) as database,
        database.cursor() as cursor,
    ):
        cursor.execute("create table courier_orders (order_id uuid, shipping_status text, payment_status text)")
        for order_id in sandbox.shop.order_ids():
            cursor.execute("insert into courier_orders values (%s, null, 'unpaid')", (order_id,))
        database.commit()
        yield database


def test_the_rows_come_from_postgresql(warehouse: psycopg2.extensions.connection, sandbox: Sandbox) -> None:
    summary = YouCanReconcileOrdersOperator(
        task_id="reconcile",
        sql="select order_id, payment_status from courier_orders where payment_status = %(status)s",
        parameters={"status": "unpaid"},
        conn_id="warehouse",
    ).execute({})

    assert summary["rows"] == 400
    assert {order["payment_status"] for order in sandbox.shop.orders()} == {"unpaid"}


def test_outcomes_are_written_to_postgresql_and_taken_back_from_there(
    warehouse: psycopg2.extensions.connection, sandbox: Sandbox
) -> None:
    class TaskInstance:
        dag_id, task_id, run_id, map_index, try_number = "warehouse", "reconcile", "manual__1", -1, 1

        def xcom_push(self, **_: object) -> None:
            pass

    context: Any = {"ti": TaskInstance()}
    before = {order["id"]: order["payment_status"] for order in sandbox.shop.orders()}
    summary = YouCanReconcileOrdersOperator(
        task_id="reconcile",
        sql="select order_id, payment_status from courier_orders",
        conn_id="warehouse",
        report_table="public.youcan_outcomes",
    ).execute(context)

    with warehouse.cursor() as cursor:
        cursor.execute("select outcome, count(*) from youcan_outcomes group by outcome")
        assert dict(cursor.fetchall()) == {
            "sending": summary["changed"],
            "changed": summary["changed"],
            "unchanged": summary["unchanged"],
            "complete": 1,
        }
        cursor.execute(
            "select max(abs(extract(epoch from recorded_at - now() at time zone 'utc'))) from youcan_outcomes"
        )
        assert cursor.fetchone()[0] < 60
    # A warehouse in which this already is takes the next run as well.
    reverted = YouCanRevertReconciliationOperator(
        task_id="revert",
        reverts_run_id="manual__1",
        report_table="public.youcan_outcomes",
        report_conn_id="warehouse",
    ).execute({})
    assert reverted["changed"] == summary["changed"]
    assert {order["id"]: order["payment_status"] for order in sandbox.shop.orders()} == before


def test_one_of_several_mapped_tasks_creates_the_table(warehouse: psycopg2.extensions.connection) -> None:
    start = threading.Barrier(8)

    def open_at_once(map_index: int) -> int:
        table = OutcomeTable("outcomes", "warehouse", {}, {"map_index": map_index}, "youcan_default")
        start.wait()
        table.open()
        table.append([(1, None, make_line("abc", None, "payment", "paid", Step(Outcome.SENDING, "pending")))])
        table.close()
        return map_index

    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(open_at_once, range(8)))

    with warehouse.cursor() as cursor:
        cursor.execute("select map_index from outcomes order by 1")
        assert [map_index for (map_index,) in cursor.fetchall()] == written


@pytest.fixture
def _dags(airflow: Airflow, warehouse: psycopg2.extensions.connection, sandbox: Sandbox, tmp_path: Path) -> None:
    airflow.connect(youcan_default=sandbox.connection(), warehouse=os.environ["AIRFLOW_CONN_WAREHOUSE"])
    airflow.set_variables(youcan_warehouse="warehouse", youcan_reports=str(tmp_path / "reports"))
    # The examples as they are, but for the size, and for a person who answers at once.
    chunks = (EXAMPLES / "example_youcan_reconcile_chunks.py").read_text()
    assert "ROWS_A_CHUNK = 10_000" in chunks
    (airflow.dags / "chunks.py").write_text(chunks.replace("ROWS_A_CHUNK = 10_000", "ROWS_A_CHUNK = 50"))
    example = (EXAMPLES / "example_youcan_reconcile.py").read_text()
    line = '            task_id="approve",\n'
    assert line in example
    answer = ""
    if HAS_APPROVALS:
        answer = '            defaults="Approve",\n'
        assert "timedelta(days=1)" in example
        # An answer that comes before the scheduler has seen the asking task's process end fails the task in 3.3.2; on
        # 3.1 this is also the time that the task has to begin waiting.
        example = example.replace("timedelta(days=1)", f"timedelta(seconds={15 if AIRFLOW_VERSION >= (3, 2) else 20})")
    airflow.set_pool("youcan", 3)
    # A task that is killed has no second try here: it is taken back instead.
    (airflow.dags / "reconcile.py").write_text(example.replace(line, line + answer).replace("retries=3", "retries=0"))
    shutil.copy(EXAMPLES / "example_youcan_revert.py", airflow.dags / "revert.py")


@pytest.mark.usefixtures("_dags")
def test_a_table_in_chunks_and_a_table_with_approval(
    airflow: Airflow, warehouse: psycopg2.extensions.connection, sandbox: Sandbox
) -> None:
    # Given a table of 400 rows in eight chunks, under a pool of three slots,
    due = sum(order["payment_status"] == "pending" for order in sandbox.shop.orders())
    airflow.trigger("example_youcan_reconcile_chunks", "chunks")
    assert airflow.wait_for_run("chunks") == "success", airflow.task_logs()

    # then all is done, several tasks at a time and never more than the pool has slots for,
    totals = airflow.read_xcom("chunks", "add_up")
    assert totals["rows"] == 400
    assert totals["changed"] == due == len(sandbox.shop.history())
    times = airflow.task_times("chunks", "reconcile")
    assert len(times) == 8
    at_once = [sum(start <= moment < end for start, end in times) for moment, _ in times]
    assert 2 <= max(at_once) <= 3

    # and then the courier delivers: a dry run, an approval where Airflow has them, and the real run.
    with warehouse.cursor() as cursor:
        cursor.execute("update courier_orders set payment_status = 'COLLECTED', shipping_status = 'DELIVERED'")
        warehouse.commit()
    airflow.trigger("example_youcan_reconcile", "approved")
    assert airflow.wait_for_run("approved") == "success", airflow.task_logs()

    states = airflow.task_states("approved")
    assert states.pop("approve", "success" if not HAS_APPROVALS else "missing") == "success"
    assert set(states.values()) == {"success"}
    planned, done = airflow.read_xcom("approved", "plan"), airflow.read_xcom("approved", "reconcile")
    assert done["changed"] == planned["planned"] > 400
    assert {order["shipping_status"] for order in sandbox.shop.orders() if order["shipping_status"] != "canceled"} == {
        "fulfilled"
    }
    assert "sandbox-access-token" not in airflow.task_logs()


@pytest.mark.slow
@pytest.mark.usefixtures("_dags")
def test_the_runbook_takes_back_a_run_that_was_killed(
    airflow: Airflow, warehouse: psycopg2.extensions.connection, sandbox: Sandbox
) -> None:
    # Given a wrong table, whose run is killed in the middle of its updates,
    before = all_statuses(sandbox)
    sandbox.misbehave("latency", route="PUT *", seconds=0.1)
    airflow.trigger("example_youcan_reconcile", "wrong")
    airflow.wait_for(lambda: len(sandbox.shop.history()) > 50, "some updates")
    statement = "select pid from task_instance where run_id = ? and task_id = ?"
    os.kill(airflow.query(statement, "wrong", "reconcile")[0][0], signal.SIGKILL)
    assert airflow.wait_for_run("wrong") == "failed"
    taken = len(sandbox.shop.history())
    assert 50 < taken < len(sandbox.shop.order_ids())
    sandbox.misbehaviours.clear()

    # when the five commands of the docs are run, one after the other,
    airflow.run_command("dags", "pause", "example_youcan_revert")
    runbook = (ROOT / "docs" / "trust.md").read_text().split("```bash\n")[-1].split("```")[0].splitlines()
    assert len(runbook) == 5
    said = []
    for command in runbook:
        words = shlex.split(re.sub(r"manual__[^\"]+", "wrong", command))
        assert words.pop(0) == "airflow"
        said.append(airflow.run_command(*words))

    # then nothing of it is left, and the shop heard no more than that.
    assert all_statuses(sandbox) == before
    assert len(sandbox.shop.history()) == 2 * taken
    assert "cut off" in said[1]
    assert "cut off" in said[2]
