"""The loop between shop and warehouse as a real scheduler runs it: each of its DAGs starts when its input is new."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import ROOT, Sandbox
from tests.services import Airflow

COURIER = """
from datetime import datetime
from airflow.providers.common.compat.sdk import DAG, Asset
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
with DAG("courier", schedule=None, start_date=datetime(2026, 1, 1)):
    SQLExecuteQueryOperator(
        task_id="feed",
        conn_id="sqlite_default",
        sql="insert into courier_feed values ('{{ dag_run.conf.ref }}', null, '{{ dag_run.conf.state }}', 100000)",
        outlets=[Asset("courier_feed")],
    )
"""


@pytest.fixture
def warehouse(airflow: Airflow, sandbox: Sandbox, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    path = tmp_path / "warehouse.db"
    airflow.connect(
        youcan_default=sandbox.connection(), sqlite_default=json.dumps({"conn_type": "sqlite", "host": str(path)})
    )
    airflow.set_variables(youcan_reports=str(tmp_path / "reports"))
    (airflow.dags / "courier.py").write_text(COURIER)
    shutil.copy(ROOT / "example_dags" / "example_youcan_loop.py", airflow.dags)
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table courier_feed (ref text, tracking_number text, state text, collected integer)")
        database.commit()
        yield database
    for name in ("courier.py", "example_youcan_loop.py"):
        (airflow.dags / name).unlink()


def test_each_step_of_the_loop_starts_when_its_input_is_new(
    airflow: Airflow, sandbox: Sandbox, warehouse: sqlite3.Connection
) -> None:
    def applied() -> list[str]:
        query = "select run_id from dag_run where dag_id = 'example_youcan_loop_apply' order by id"
        return [run_id for (run_id,) in airflow.query(query)]

    order = next(order for order in sandbox.shop.orders() if order["shipping_status"] == "unfulfilled")
    airflow.wait_for(
        lambda: airflow.query("select 1 from serialized_dag where dag_id = 'example_youcan_loop_apply'"),
        "the loop to be found",
    )

    # When the courier's feed is new, and then the table of orders,
    airflow.trigger("courier", "picked_up", ref=order["ref"], state="PICKED_UP")
    assert airflow.wait_for_run("picked_up") == "success", airflow.task_logs()
    assert applied() == []
    airflow.trigger("example_youcan_loop_orders", "orders")
    assert airflow.wait_for_run("orders") == "success", airflow.task_logs()

    # then the difference goes to the shop, and its order is read again,
    airflow.wait_for(applied, "the loop's second DAG")
    (first,) = applied()
    assert airflow.wait_for_run(first) == "success", airflow.task_logs()
    assert sandbox.shop.statuses(order["id"])["shipping"] == "shipped"
    assert airflow.task_states(first).get("approve", "skipped") == "skipped"
    kept = dict(warehouse.execute("select order_id, shipping_status from youcan_orders"))
    assert (len(kept), kept[order["id"]]) == (20, "shipped")
    outcomes = dict(warehouse.execute("select outcome, count(*) from youcan_outcomes group by outcome"))
    assert outcomes == {"sending": 1, "changed": 1, "complete": 1}

    # and a further feed waits for the whole table, with what was ordered since.
    airflow.trigger("courier", "delivered", ref=order["ref"], state="DELIVERED")
    assert airflow.wait_for_run("delivered") == "success", airflow.task_logs()
    assert applied() == [first]
    airflow.trigger("example_youcan_loop_orders", "orders_again")
    airflow.wait_for(lambda: len(applied()) == 2, "the loop to turn once more")
    assert airflow.wait_for_run(applied()[1]) == "success", airflow.task_logs()
    assert sandbox.shop.statuses(order["id"]) | {"general": ""} == {
        "general": "",
        "shipping": "fulfilled",
        "payment": "paid",
    }
