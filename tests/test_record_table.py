"""Outcomes as a table of the warehouse."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_youcan.exceptions import (
    YouCanConnectionError,
    YouCanInvalidInputError,
    YouCanOrderNotFoundError,
    YouCanRecordError,
    YouCanStoreSuspendedError,
    YouCanTransientError,
)
from airflow_provider_youcan.hooks.youcan import YouCanHook
from airflow_provider_youcan.operators.reconcile import (
    YouCanReconcileOrdersOperator,
)
from airflow_provider_youcan.reconciliation.background import BackgroundWriter
from airflow_provider_youcan.reconciliation.record.reader import read_tries
from airflow_provider_youcan.reconciliation.record.table import OutcomeTable
from airflow_provider_youcan.sandbox.shop import Request
from tests.conftest import (
    HOME,
    TABLE,
    UNKNOWN_ID,
    Sandbox,
    TaskInstance,
    all_statuses,
    outcomes,
    paid_rows,
    paths,
    payable,
    read_lines,
    read_report,
    reconcile,
    revert,
)

LINE_KEYS = {"order_id", "ref", "context", "before", "wanted", "outcome", "reason"}


KILLED_RUN = """
import json, sys
from pathlib import Path
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
class TaskInstance:
    dag_id, task_id, run_id, map_index, try_number = "warehouse", "reconcile", "manual__1", -1, 1
YouCanReconcileOrdersOperator(
    task_id="reconcile", orders=json.loads(Path(sys.argv[1]).read_text()),
    report_table="youcan_outcomes", report_conn_id="warehouse",
).execute({"ti": TaskInstance()})
"""


def test_outcomes_are_rows_of_the_warehouse(sandbox: Sandbox, warehouse: sqlite3.Connection, tmp_path: Path) -> None:
    rows = [*paid_rows(sandbox), {"order_id": "gone", "payment_status": "paid"}]
    path = tmp_path / "report.jsonl"

    reconcile(
        rows,
        TaskInstance(map_index=4, try_number=2),
        max_failures=1,
        report_path=str(path),
        report_table="youcan_outcomes",
        report_conn_id="warehouse",
    )

    *found, last = [row for row in outcomes(warehouse) if row["outcome"] != "sending"]
    assert len(found) == len(rows)
    assert {tuple(row[key] for key in ("dag_id", "run_id", "task_id", "map_index", "try_number")) for row in found} == {
        ("warehouse", "manual__1", "reconcile", 4, 2)
    }
    names = {"context": "status_context", "before": "status_before", "wanted": "status_wanted"}
    assert [[row[names.get(key, key)] for key in sorted(LINE_KEYS)] for row in found] == [
        [line[key] for key in sorted(LINE_KEYS)] for line in read_report(path)
    ]
    assert sorted(row["table_row"] for row in found) == list(range(1, len(rows) + 1))
    assert all(row["recorded_at"][:4].isdigit() for row in found)
    assert (last["outcome"], last["record_version"]) == ("complete", 1)
    everything = outcomes(warehouse)
    assert [row["line"] for row in everything] == list(range(1, len(everything) + 1))
    assert {row["youcan_conn_id"] for row in everything} == {"youcan_default"}
    assert {row["unconfirmed"] for row in everything} == {0}
    assert {row["store"] for row in everything} == {None}, "it was not asked for"


def test_a_table_without_these_columns_is_refused_before_anything_is_sent(
    sandbox: Sandbox, warehouse: sqlite3.Connection
) -> None:
    warehouse.execute("create table youcan_outcomes (order_id text)")

    with pytest.raises(YouCanInvalidInputError, match="has no column dag_id"):
        reconcile(paid_rows(sandbox), report_table="youcan_outcomes", report_conn_id="warehouse")

    assert sandbox.shop.requests() == []


@pytest.mark.parametrize("name", ["a b", "a;drop table b", "a.b.c", "", "é", 'a"b', "a-b", "1", "a.1"])
def test_a_table_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match="report_table"):
        YouCanReconcileOrdersOperator(task_id="x", orders=[], report_table=name, report_conn_id="warehouse")


def test_a_table_needs_a_connection() -> None:
    with pytest.raises(YouCanInvalidInputError, match="report_conn_id"):
        YouCanReconcileOrdersOperator(task_id="x", orders=[], report_table="outcomes")


def test_a_warehouse_that_is_out_of_reach_is_found_out_before_anything_is_sent(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "sqlite", "host": "/no/such/folder/warehouse.db"}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))

    with pytest.raises(YouCanTransientError, match=r"can't be reached|can be neither"):
        reconcile(paid_rows(sandbox), report_table="outcomes", report_conn_id="warehouse")

    assert sandbox.shop.requests() == []


def drop_outcomes_after(sandbox: Sandbox, updates: int, folder: Path) -> None:
    """Have the table of outcomes dropped, once the shop has taken so many updates."""

    def keep(_: Request) -> None:
        if len(paths(sandbox, "PUT")) == updates:
            with closing(sqlite3.connect(folder / "warehouse.db", timeout=60)) as database:
                database.execute("drop table if exists youcan_outcomes")
                database.commit()

    sandbox.on_request(keep)


def test_a_warehouse_that_goes_away_ends_the_run_before_anything_else_is_sent(
    sandbox: Sandbox, warehouse: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("airflow_provider_youcan.reconciliation.background.MAX_WAIT", 0.3)
    drop_outcomes_after(sandbox, 3, tmp_path)
    path = tmp_path / "report.jsonl"
    with pytest.raises(YouCanRecordError, match=r"youcan_outcomes takes no lines .*no such table"):
        reconcile(paid_rows(sandbox), report_path=str(path), **TABLE, max_concurrency=1)

    assert len(paths(sandbox, "PUT")) == 3
    assert Counter(line["outcome"] for line in read_report(path))["changed"] == 3
    assert read_lines(path)[-1]["outcome"] == "complete", "what can be kept is kept"


def test_a_table_that_can_only_be_read_is_found_out_before_anything_is_sent(
    sandbox: Sandbox, warehouse: sqlite3.Connection
) -> None:
    reconcile([], **TABLE)
    warehouse.execute("create trigger locked before insert on youcan_outcomes begin select raise(abort, 'no'); end")
    warehouse.commit()
    sent = len(sandbox.shop.requests())

    with pytest.raises(YouCanConnectionError, match="youcan_outcomes can't be written to"):
        reconcile(paid_rows(sandbox), **TABLE)

    assert len(sandbox.shop.requests()) == sent


def test_trying_a_table_leaves_no_row(sandbox: Sandbox, warehouse: sqlite3.Connection) -> None:
    reconcile([], **TABLE)

    assert [row["outcome"] for row in outcomes(warehouse)] == ["complete"]


def test_an_update_whose_announcement_the_database_refuses_is_not_sent(
    sandbox: Sandbox, warehouse: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_youcan.reconciliation.background.MAX_WAIT", 0.3)
    first, *_ = payable(sandbox)
    reconcile([], **TABLE)
    warehouse.execute(
        "create trigger picky before insert on youcan_outcomes "
        f"when new.order_id = '{first}' begin select raise(abort, 'not that one'); end"
    )
    warehouse.commit()

    with pytest.raises(YouCanRecordError, match="not that one"):
        reconcile(paid_rows(sandbox), **TABLE)

    assert not any(first in path for path in paths(sandbox, "PUT"))


def test_a_database_that_comes_back_has_every_line(
    sandbox: Sandbox, warehouse: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a connection that breaks in the middle, and twice can't be made again,
    from airflow.providers.sqlite.hooks.sqlite import SqliteHook

    connect, made = SqliteHook.get_conn, []

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise sqlite3.OperationalError("server closed the connection")

    def get_conn(hook: SqliteHook) -> Any:
        made.append(1)
        if len(made) in (2, 3):
            raise sqlite3.OperationalError("could not connect")
        return connect(hook)

    monkeypatch.setattr(SqliteHook, "get_conn", get_conn)
    rows, written = paid_rows(sandbox), []
    append = OutcomeTable.append

    def break_once(table: OutcomeTable, lines: list[Any]) -> None:
        if not written:
            table._connection = Broken()
        written.append(lines)
        append(table, lines)

    monkeypatch.setattr(OutcomeTable, "append", break_once)

    # when a run writes to it, then nothing is missing, and nothing is there twice.
    reconcile(rows, **TABLE)
    numbers = [row["line"] for row in outcomes(warehouse)]
    assert sorted(numbers) == list(range(1, 2 * len(rows) + 2)), "two for each update, and the last one"
    assert len(made) == 4


def test_the_lines_of_a_try_are_in_their_order_though_the_clock_was_set_back(
    sandbox: Sandbox, warehouse: sqlite3.Connection
) -> None:
    rows = paid_rows(sandbox)
    reconcile(rows, **TABLE)
    warehouse.execute("update youcan_outcomes set recorded_at = printf('2026-01-01 00:00:%02d', 59 - line)")
    warehouse.commit()

    reader = {"dag_id": "other", "run_id": "other", "task_id": "other"}
    ids = {"run_id": "manual__1", "dag_id": None, "task_id": None, "map_index": None}
    (one,) = read_tries("youcan_outcomes", "warehouse", **ids, youcan_conn_id="youcan_default", reader=reader)

    written = [row["order_id"] for row in outcomes(warehouse) if row["order_id"]]
    assert [line.order_id for line in one.lines] == written


def test_text_that_no_database_takes_is_no_status_to_set_back(sandbox: Sandbox, warehouse: sqlite3.Connection) -> None:
    (order_id, *_) = payable(sandbox)
    sandbox.shop.set_status(order_id, "payment", "a\0label")

    reconcile([{"order_id": order_id, "payment_status": "paid"}], **TABLE)

    assert [row["status_before"] for row in outcomes(warehouse) if row["outcome"] == "changed"] == [None]


def test_a_run_that_is_killed_leaves_its_outcomes(
    sandbox: Sandbox, warehouse: sqlite3.Connection, tmp_path: Path
) -> None:
    sandbox.shop.add_orders(200)
    before = all_statuses(sandbox)
    sandbox.misbehave("latency", route="PUT *", seconds=0.1)
    (tmp_path / "rows.json").write_text(json.dumps(paid_rows(sandbox)))
    command = [sys.executable, "-c", KILLED_RUN, str(tmp_path / "rows.json")]
    with subprocess.Popen(command, env=os.environ | {"AIRFLOW_HOME": str(HOME)}) as process:
        while process.poll() is None and len(paths(sandbox, "PUT")) < 50:
            time.sleep(0.01)
        process.kill()
    # The shop comes to what was under way before it comes to this.
    for _ in range(2):
        with pytest.raises(YouCanOrderNotFoundError), YouCanHook() as hook:
            hook.update_order_status(UNKNOWN_ID, "paid", "payment")
    changed = {order_id for order_id, statuses in before.items() if sandbox.shop.statuses(order_id) != statuses}

    # Every update that the shop took was announced, and what was announced can be taken back.
    announced = {row["order_id"] for row in outcomes(warehouse) if row["outcome"] == "sending"}
    assert changed
    assert changed <= announced
    revert(reverts_run_id="manual__1", report_table="youcan_outcomes", report_conn_id="warehouse")
    assert all_statuses(sandbox) == before


def test_a_permanent_error_is_not_hidden_by_the_warehouse(
    sandbox: Sandbox, warehouse: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("airflow_provider_youcan.reconciliation.background.MAX_WAIT", 0.3)
    (order_id, *_) = payable(sandbox)
    sandbox.shop.suspended = True
    drop_outcomes_after(sandbox, 0, tmp_path)
    with pytest.raises(YouCanStoreSuspendedError):
        reconcile([{"order_id": order_id, "payment_status": "paid"}], **TABLE)


def test_a_value_that_a_warehouse_refuses_is_in_no_warning_and_in_no_error(caplog: pytest.LogCaptureFixture) -> None:
    class DataError(Exception):
        """As the drivers of PEP 249 name it."""

    class Sink:
        name = "The table orders"

        def open(self) -> None:
            """Nothing to do."""

        def append(self, items: list[str]) -> None:
            raise DataError(f"invalid input syntax for type integer: {items[0]!r}")

        def close(self) -> None:
            """Nothing to do."""

    writer = BackgroundWriter[str](Sink(), 10, lambda why: YouCanRecordError(why))
    writer.open()
    writer.write("Salma +212600000000")

    deadline = time.monotonic() + 0.3
    error = writer.close(lambda: deadline)

    assert "DataError" in str(error)
    assert "212600000000" not in f"{error} {caplog.text}"
