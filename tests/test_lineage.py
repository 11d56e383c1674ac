"""Lineage, by the real openlineage provider and its file transport, inside DAG runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from airflow.providers.common.compat.sdk import Asset

from airflow_provider_youcan.operators.order_status import YouCanUpdatePaymentStatusOperator
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from tests.conftest import DAGS_FOLDER, Sandbox, register_assets
from tests.forked import DagRunner

# One worker for all of them, because they share a process.
pytestmark = [pytest.mark.usefixtures("_airflow_database"), pytest.mark.xdist_group("lineage")]

DAG = """
from datetime import datetime
from airflow.providers.common.compat.sdk import DAG, Asset
from airflow_provider_youcan.operators.order_status import YouCanUpdatePaymentStatusOperator
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from airflow_provider_youcan.transfers.orders_to_sql import YouCanOrdersToSqlOperator
with DAG("{name}", schedule=None, start_date=datetime(2026, 1, 1)):
    {task}
"""


@pytest.fixture
def warehouse(postgres: str, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    """A PostgreSQL, because SQLite's hook does not tell OpenLineage what its database is."""
    with closing(psycopg2.connect(host=postgres, user="postgres", dbname="postgres")) as database:
        with database.cursor() as cursor:
            cursor.execute("drop table if exists lineage_orders")
            cursor.execute("create table lineage_orders (order_id text, payment_status text)")
            for order in sandbox.shop.orders():
                cursor.execute("insert into lineage_orders values (%s, 'refunded')", (order["id"],))
        database.commit()
    connection = {"conn_type": "postgres", "host": postgres, "login": "postgres", "schema": "postgres"}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))


Run = Callable[[str], tuple[bool, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def run(_airflow_database: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run a task with the file transport, and return whether it succeeded, and the events of its end."""
    written = tmp_path_factory.mktemp("lineage") / "events.jsonl"
    transport = {"type": "file", "log_file_path": str(written), "append": True}
    runner = DagRunner(AIRFLOW__OPENLINEAGE__TRANSPORT=json.dumps(transport))

    def run(task: str) -> tuple[bool, list[dict[str, Any]]]:
        name = f"lineage_{os.urandom(4).hex()}"
        file = DAGS_FOLDER / f"{name}.py"
        file.write_text(DAG.format(name=name, task=task))
        try:
            if "outlets=" in task:
                register_assets()
            is_success = runner.run(name)
        finally:
            file.unlink()
        found = [json.loads(line) for line in written.read_text().splitlines()]
        return is_success, [
            event
            for event in found
            if event["eventType"] in ("COMPLETE", "FAIL") and event["job"]["name"].startswith(f"{name}.")
        ]

    yield run
    runner.close()


def test_a_reconciliation_reads_the_tables_of_its_sql_and_writes_the_shop(
    warehouse: None, sandbox: Sandbox, run: Run
) -> None:
    due = sum(order["payment_status"] != "refunded" for order in sandbox.shop.orders())

    _, (event,) = run(
        "YouCanReconcileOrdersOperator(task_id='x', conn_id='warehouse',"
        " sql='select order_id, payment_status from lineage_orders')",
    )

    assert event["eventType"] == "COMPLETE"
    assert [dataset["name"].rpartition(".")[2] for dataset in event["inputs"]] == ["lineage_orders"]
    (output,) = event["outputs"]
    assert (output["namespace"], output["name"]) == ("youcan://sandbox", "orders")
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == due


def test_a_failure_says_what_was_changed_before_it(warehouse: None, sandbox: Sandbox, run: Run) -> None:
    order_id = sandbox.shop.order_ids()[0]
    rows = [{"order_id": order_id, "payment_status": "refunded"}, {"order_id": "gone", "payment_status": "paid"}]

    _, (event,) = run(f"YouCanReconcileOrdersOperator(task_id='x', orders={rows})")

    assert event["eventType"] == "FAIL"
    assert event["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 1


def test_an_operator_writes_the_shop_that_its_outlet_names(sandbox: Sandbox, run: Run, order_id: str) -> None:
    _, (event,) = run(
        f"YouCanUpdatePaymentStatusOperator(task_id='x', order_id='{order_id}', status='paid',"
        " outlets=[Asset(uri='youcan://my-store/orders')])",
    )

    counted = [one for one in event["outputs"] if "outputStatistics" in one.get("outputFacets", {})]
    assert [(one["namespace"], one["name"]) for one in counted] == [("youcan://my-store", "orders")]
    assert counted[0]["outputFacets"]["outputStatistics"]["rowCount"] == 1
    # The outlet is named, so the shop is not asked what it is called.
    assert [request["path"] for request in sandbox.shop.requests() if request["path"] == "/me"] == []


def test_an_asset_of_a_shop_is_a_dataset() -> None:
    from airflow.providers.openlineage.utils import utils

    translate = getattr(utils, "translate_airflow_asset", None) or utils.translate_airflow_dataset
    dataset = translate(Asset(uri="youcan://my-store/orders"), None)
    assert (dataset.namespace, dataset.name) == ("youcan://my-store", "orders")


def test_a_file_is_an_input(sandbox: Sandbox) -> None:
    operator = YouCanReconcileOrdersOperator(task_id="x", orders_file="s3://conn@feeds/2026/courier.csv")
    (dataset,) = operator.get_openlineage_facets_on_complete(None).inputs
    assert (dataset.namespace, dataset.name) == ("s3://feeds", "2026/courier.csv")

    operator = YouCanReconcileOrdersOperator(task_id="x", orders_file="abfss://Feeds@account/courier.csv")
    (dataset,) = operator.get_openlineage_facets_on_complete(None).inputs
    assert (dataset.namespace, dataset.name) == ("abfss://Feeds@account", "courier.csv")

    operator = YouCanReconcileOrdersOperator(task_id="x", orders_file="/feeds/courier.csv")
    (dataset,) = operator.get_openlineage_facets_on_complete(None).inputs
    assert (dataset.namespace, dataset.name) == ("file", "/feeds/courier.csv")


def test_nothing_of_it_can_fail_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    # A warehouse and a shop that are not there,
    operator = YouCanReconcileOrdersOperator(task_id="x", sql="select ! from (", conn_id="nowhere", youcan_conn_id="no")
    lineage = operator.get_openlineage_facets_on_complete(None)
    assert (list(lineage.inputs), list(lineage.outputs)) == ([], [])

    # and no openlineage provider.
    monkeypatch.setitem(sys.modules, "airflow.providers.openlineage.extractors", None)
    update = YouCanUpdatePaymentStatusOperator(task_id="y", order_id="a", status="paid")
    assert update.get_openlineage_facets_on_complete(None) is None
    assert update.get_openlineage_facets_on_failure(None) is None


def test_orders_come_from_the_shop_and_go_to_a_table_with_its_columns(
    warehouse: None, sandbox: Sandbox, run: Run
) -> None:
    is_success, (event,) = run("YouCanOrdersToSqlOperator(task_id='orders', table='lineage_shop')")

    assert is_success
    assert [(one["namespace"], one["name"]) for one in event["inputs"]] == [("youcan://sandbox", "orders")]
    (output,) = event["outputs"]
    assert output["name"] == "postgres.public.lineage_shop"
    assert [field["name"] for field in output["facets"]["schema"]["fields"]][:3] == ["order_id", "ref", "status"]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 20


def test_orders_in_a_file_are_an_output_too(sandbox: Sandbox, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    is_success, (event,) = run(f"YouCanOrdersToSqlOperator(task_id='orders', path={str(path)!r})")

    assert is_success
    assert [(one["namespace"], one["name"]) for one in event["outputs"]] == [("file", str(path))]
