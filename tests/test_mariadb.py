"""A warehouse and a table of outcomes in a real MariaDB, which the system has to have: make test-mariadb."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.operators.reconcile import (
    YouCanReconcileOrdersOperator,
    YouCanRevertReconciliationOperator,
)
from airflow_provider_youcan.transfers.orders_to_sql import YouCanOrdersToSqlOperator
from tests.conftest import Sandbox, TaskInstance, reconcile
from tests.warehouses import CREATE, MAX_MEGABYTES, ROWS, make_rows, measure_reading

pytestmark = pytest.mark.mariadb


@pytest.fixture(scope="module")
def mariadb() -> Iterator[str]:
    """The socket of a MariaDB of the tests' own."""
    server = shutil.which("mariadbd") or "/usr/sbin/mariadbd"
    folder = Path(tempfile.mkdtemp(prefix="youcan-mariadb-"))
    data, sock = folder / "data", folder / "socket"
    options = ["--no-defaults", f"--datadir={data}", f"--user={os.environ.get('USER', 'root')}"]
    subprocess.run(["mariadb-install-db", *options, "--auth-root-authentication-method=normal"], check=True)
    with subprocess.Popen([server, *options, f"--socket={sock}", "--skip-networking"]) as process:
        while not sock.exists() and process.poll() is None:
            time.sleep(0.1)
        subprocess.run(["mariadb", f"--socket={sock}", "--user=root", "-e", "create database warehouse"], check=True)
        yield str(sock)
        process.terminate()
    shutil.rmtree(folder)


def test_reading_takes_no_more_memory_than_what_is_kept_of_a_row(
    mariadb: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = json.dumps(
        {"conn_type": "mysql", "login": "root", "schema": "warehouse", "extra": {"unix_socket": mariadb}}
    )
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", connection)
    from airflow.providers.mysql.hooks.mysql import MySqlHook

    with closing(MySqlHook("warehouse").get_conn()) as database, closing(database.cursor()) as cursor:
        cursor.execute(CREATE)
        cursor.executemany("insert into courier_orders values (%s, %s, %s)", list(make_rows()))
        database.commit()

    rows, megabytes = measure_reading(connection)

    assert rows == ROWS
    assert megabytes <= MAX_MEGABYTES
    # A query that is left in the middle leaves nothing behind.
    with pytest.raises(YouCanInvalidInputError, match="No column says what should hold"):
        YouCanReconcileOrdersOperator(
            task_id="x", sql="select order_id from courier_orders", conn_id="warehouse"
        ).execute({})


def test_outcomes_are_written_to_mariadb_and_taken_back_from_there(
    mariadb: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "mysql", "login": "root", "schema": "warehouse", "extra": {"unix_socket": mariadb}}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))
    before = {order["id"]: order["payment_status"] for order in sandbox.shop.orders()}
    rows = [{"order_id": order_id, "payment_status": "مدفوع ✓"} for order_id in before]
    table: dict[str, Any] = {
        "report_table": "youcan_outcomes",
        "report_conn_id": "warehouse",
        "allow_custom_label": True,
    }

    for try_number in (1, 2):
        reconcile(rows, TaskInstance(try_number=try_number), **table)

    from airflow.providers.mysql.hooks.mysql import MySqlHook

    with closing(MySqlHook("warehouse").get_conn()) as database, closing(database.cursor()) as cursor:
        cursor.execute(
            "select try_number, outcome, count(*), max(status_wanted) from youcan_outcomes "
            "where outcome not in ('sending', 'complete') group by 1, 2"
        )
        assert sorted(cursor.fetchall()) == [(1, "changed", 20, "مدفوع ✓"), (2, "unchanged", 20, "مدفوع ✓")]
    YouCanRevertReconciliationOperator(task_id="revert", reverts_run_id="manual__1", **table).execute({})
    assert {order["id"]: order["payment_status"] for order in sandbox.shop.orders()} == before


def test_the_shops_orders_are_a_table_of_mariadb(
    mariadb: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "mysql", "login": "root", "schema": "warehouse", "extra": {"unix_socket": mariadb}}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))
    first, second = sandbox.shop.order_ids()[:2]
    sandbox.shop.set_status(first, "general", "مؤكد ✓")

    def transfer() -> None:
        YouCanOrdersToSqlOperator(task_id="orders").execute({})

    transfer()
    from airflow.providers.mysql.hooks.mysql import MySqlHook

    with closing(MySqlHook("warehouse").get_conn()) as database, closing(database.cursor()) as cursor:
        cursor.execute(f"update youcan_orders set status = 'old', read_at = '2001-01-01' where order_id = '{first}'")
        cursor.execute(f"update youcan_orders set status = 'later', read_at = '2999-01-01' where order_id = '{second}'")
        database.commit()
        transfer()
        cursor.execute("select count(*), count(distinct order_id), min(created_at) from youcan_orders")
        number, distinct, oldest = cursor.fetchone()
        cursor.execute(f"select status from youcan_orders where order_id in ('{first}', '{second}')")
        statuses = {status for (status,) in cursor.fetchall()}
    assert (number, distinct, statuses) == (20, 20, {"مؤكد ✓", "later"})
    order = sandbox.shop.order(first)
    assert order is not None
    assert oldest.isoformat() == order["created_at"].removesuffix("+00:00")
