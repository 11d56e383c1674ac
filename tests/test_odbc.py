"""The rows of a query through a real ODBC driver, which the system has to have: make test-odbc."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from tests.conftest import Sandbox
from tests.warehouses import CREATE, MAX_MEGABYTES, QUERY, ROWS, make_rows, measure_reading

pytestmark = pytest.mark.odbc


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An SQLite file, to which the connection ``warehouse`` leads by way of ODBC."""
    path = tmp_path / "warehouse.db"
    with closing(sqlite3.connect(path)) as made:
        made.execute(CREATE)
    # Without these two the driver holds the whole result in memory.
    extra = {"driver": "SQLite3", "Database": str(path), "StepAPI": "1", "NoTXN": "1"}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "odbc", "extra": extra}))
    return path


def fill(path: Path, rows: Any) -> None:
    with closing(sqlite3.connect(path)) as made, made:
        made.executemany("insert into courier_orders values (?, ?, ?)", rows)


HOOK_PARAMS = {"driver": "SQLite3"}


def test_orders_are_reconciled_with_a_query_through_odbc(sandbox: Sandbox, warehouse: Path) -> None:
    order_ids = sandbox.shop.order_ids()[:3]
    fill(warehouse, [(order_id, "shipped", None) for order_id in order_ids])
    operator = YouCanReconcileOrdersOperator(
        task_id="reconcile", sql=f"{QUERY};", conn_id="warehouse", hook_params=HOOK_PARAMS
    )

    assert operator.execute({})["rows"] == 3
    assert {sandbox.shop.statuses(order_id)["shipping"] for order_id in order_ids} == {"shipped"}


def test_changing_statements_are_not_run_through_odbc(sandbox: Sandbox, warehouse: Path) -> None:
    fill(warehouse, [("abc", "shipped", None)])
    operator = YouCanReconcileOrdersOperator(
        task_id="reconcile", sql="delete from courier_orders", conn_id="warehouse", hook_params=HOOK_PARAMS
    )

    with pytest.raises(YouCanInvalidInputError, match="was not run"):
        operator.execute({})
    with closing(sqlite3.connect(warehouse)) as made:
        assert made.execute("select count(*) from courier_orders").fetchone() == (1,)


def test_reading_through_odbc_takes_no_more_memory_than_what_is_kept_of_a_row(
    warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    fill(warehouse, make_rows())

    rows, megabytes = measure_reading(os.environ["AIRFLOW_CONN_WAREHOUSE"], hook_params=HOOK_PARAMS)

    assert rows == ROWS
    assert megabytes <= MAX_MEGABYTES
