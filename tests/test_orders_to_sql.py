"""The shop's orders as a table or a file of the warehouse: which are read, what is written, and what is refused."""

from __future__ import annotations

import csv
import gzip
import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2
import pyarrow.parquet
import pytest
import requests
from airflow.providers.common.compat.sdk import Asset
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_youcan.exceptions import (
    YouCanConnectionError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanPermissionError,
    YouCanServerError,
    YouCanTaskStoppedError,
)
from airflow_provider_youcan.orders import StatusContext, read_time
from airflow_provider_youcan.transfers.columns import COLUMNS, OrderColumns
from airflow_provider_youcan.transfers.orders_to_sql import YouCanOrdersToSqlOperator
from airflow_provider_youcan.transfers.table import OrdersTable
from tests.conftest import UNKNOWN_ID, Sandbox, TaskInstance, execute, on_request, paths

try:
    from airflow.sdk.io.store import attach
except ImportError:  # Airflow 2
    from airflow.io.store import attach

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def transfer(**arguments: Any) -> dict[str, Any]:
    return execute(YouCanOrdersToSqlOperator(task_id="orders", **arguments))


@pytest.fixture(params=["sqlite", "duckdb", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The database of the connection ``warehouse``: what runs a statement in it, and returns its rows."""
    path = str(tmp_path / "warehouse.db")
    if request.param == "postgres":
        host = request.getfixturevalue("postgres")
        connection = {"conn_type": "postgres", "host": host, "login": "postgres", "schema": "postgres"}
    else:
        connection = {"conn_type": request.param, "host": path}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))

    def connect() -> Any:
        if request.param == "sqlite":
            return sqlite3.connect(path)
        if request.param == "duckdb":
            import duckdb

            return duckdb.connect(path)
        return psycopg2.connect(host=connection["host"], user="postgres", dbname="postgres")

    def run(statement: str) -> list[tuple[Any, ...]]:
        with closing(connect()) as opened, closing(opened.cursor()) as cursor:
            cursor.execute(statement)
            rows = cursor.fetchall() if statement.startswith("select") else []
            opened.commit()
            return rows

    run("drop table if exists youcan_orders")
    yield run
    run("drop table if exists youcan_orders")


# --- the table ---


def test_each_order_is_a_row_in_the_stores_own_slugs(sandbox: Sandbox, database: Any) -> None:
    summary = transfer()

    rows = database("select order_id, ref, status, shipping_status, payment_status, store from youcan_orders")
    assert sorted(rows) == sorted(
        (
            order["id"],
            order["ref"],
            order["general_status"],
            order["shipping_status"],
            order["payment_status"],
            "sandbox",
        )
        for order in sandbox.shop.orders()
    )
    seconds = summary.pop("seconds")
    assert seconds >= 0
    created = [sandbox.shop.order(order_id)["created_at"] for order_id in sandbox.shop.order_ids()]  # type: ignore[index]
    assert summary == {
        "orders": 20,
        "not_found": 0,
        "pages": 1,
        "requests": 3,  # the store, its statuses, and a page
        "oldest": created[0],
        "newest": created[-1],
        "unreadable": 0,
    }


def test_all_columns_are_written_and_nothing_of_the_customer(sandbox: Sandbox, database: Any) -> None:
    shipped = next(order["id"] for order in sandbox.shop.orders() if order["shipping_status"] == "shipped")

    transfer()

    ((created_at, updated_at, total, currency, gateway, tracking, read_at),) = database(
        "select created_at, updated_at, total, currency, payment_gateway, tracking_number, read_at from youcan_orders "
        f"where order_id = '{shipped}'"
    )
    order = sandbox.shop.order(shipped)
    assert order is not None
    assert [as_utc(created_at), as_utc(updated_at)] == [read_time(order["created_at"]), read_time(order["updated_at"])]
    assert (float(total), currency, gateway) == (order["total"], "MAD", "Cash on Delivery")
    assert tracking == f"AM{order['ref']:0>6}MA"
    assert abs(as_utc(read_at) - datetime.now(timezone.utc)) < timedelta(minutes=1)
    customer = json.loads(order["customer"])
    everything = str(database("select * from youcan_orders"))
    assert not [value for name, value in customer.items() if value in everything]


def as_utc(value: Any) -> datetime:
    return (datetime.fromisoformat(value) if isinstance(value, str) else value).replace(tzinfo=timezone.utc)


def test_a_second_run_replaces_the_rows(sandbox: Sandbox, database: Any) -> None:
    transfer()
    order_id = sandbox.shop.order_ids()[3]
    sandbox.shop.set_status(order_id, "payment", "captured")

    transfer()

    assert database("select count(*), count(distinct order_id) from youcan_orders") == [(20, 20)]
    assert database(f"select payment_status from youcan_orders where order_id = '{order_id}'") == [("captured",)]


def test_a_row_that_was_read_later_stays(sandbox: Sandbox, database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = sandbox.shop.order_ids()[:2]
    transfer()
    database(f"update youcan_orders set read_at = '2999-01-01 00:00:00', status = 'later' where order_id = '{first}'")
    database(f"update youcan_orders set read_at = '2001-01-01 00:00:00', status = 'old' where order_id = '{second}'")

    transfer()

    statuses = dict(database(f"select order_id, status from youcan_orders where order_id in ('{first}', '{second}')"))
    assert statuses == {first: "later", second: sandbox.shop.statuses(second)["general"]}


@pytest.mark.parametrize("minutes", [(0, 5, 9), (9, 5, 0), (5, 0, 9), (5, 9, 0)])
def test_the_latest_reading_counts_when_runs_meet(database: Any, minutes: tuple[int, ...]) -> None:
    for minute in minutes:
        other = NOW + timedelta(minutes=20 - minute)
        write([row("a", NOW + timedelta(minutes=minute), f"at {minute}"), row("b", other, f"at {20 - minute}")])

    assert sorted(database("select order_id, status from youcan_orders")) == [("a", "at 9"), ("b", "at 20")]


def row(order_id: str, read_at: datetime, status: str) -> tuple[Any, ...]:
    return tuple((dict.fromkeys(COLUMNS) | {"order_id": order_id, "status": status, "read_at": read_at}).values())


def write(rows: list[tuple[Any, ...]]) -> None:
    table = OrdersTable("youcan_orders", "warehouse", COLUMNS)
    table.open()
    table.append(rows)
    table.close()


@pytest.mark.parametrize("database", ["postgres", "sqlite"], indirect=True)
def test_many_runs_at_once_leave_one_row_for_each_order(database: Any, sandbox: Sandbox) -> None:
    # Given more than one run that writes the same orders at the same time,
    write([])
    errors: list[Exception] = []

    def run(number: int) -> None:
        try:
            for attempt in range(5):
                moment = NOW + timedelta(seconds=10 * attempt + number)
                rows = [row(f"order {one:03d}", moment, f"{10 * attempt + number}") for one in range(150)]
                table = OrdersTable("youcan_orders", "warehouse", COLUMNS)
                table.open()
                keep_trying(table, rows)
                table.close()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # then each order has one row, the one that was read last.
    assert errors == []
    assert database("select status, count(*) from youcan_orders group by status") == [("43", 150)]


def keep_trying(table: OrdersTable, rows: list[tuple[Any, ...]]) -> None:
    """Write rows as the thread that writes does, whatever meets them."""
    for _ in range(50):
        try:
            table.append(rows)
        except Exception:
            continue
        return
    raise AssertionError("it was never written")


def test_the_table_may_have_its_columns_in_any_order_and_more_of_them(sandbox: Sandbox, database: Any) -> None:
    columns = [f"{name} {'varchar(100)' if kind == 'text' else kind}" for name, kind in COLUMNS.items()]
    database(f"create table youcan_orders (own integer, {', '.join(reversed(columns))})")

    transfer()

    assert database("select count(*), count(status) from youcan_orders") == [(20, 20)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("order_id varchar(100), ref text", "lacks 'status' .*alter table youcan_orders add status text;"),
        ("id integer, name text", "is another one: it has no column 'order_id'"),
    ],
)
def test_a_table_with_other_columns_is_refused_before_the_shop_is_asked(
    sandbox: Sandbox, database: Any, columns: str, message: str
) -> None:
    database(f"create table youcan_orders ({columns})")

    with pytest.raises(YouCanInvalidInputError, match=message):
        transfer()

    assert sandbox.shop.requests() == []


def test_extra_columns_are_what_a_user_asks_for(sandbox: Sandbox, database: Any) -> None:
    transfer(extra_columns={"city": "shipping.address.city", "product": "variants.0.name", "missing": "no.such.thing"})

    order_id, city, product, missing = database("select order_id, city, product, missing from youcan_orders")[0]
    order = sandbox.shop.order(order_id)
    assert order is not None
    assert (city, product) == (json.loads(order["customer"])["city"], json.loads(order["variants"])[0]["name"])
    assert missing is None


def test_a_path_to_more_than_one_value_is_refused(sandbox: Sandbox, warehouse: sqlite3.Connection) -> None:
    with pytest.raises(YouCanInvalidInputError, match=r"extra_columns\['who'\] leads to more than one value"):
        transfer(extra_columns={"who": "customer"})


# --- which orders ---


def test_the_list_is_read_until_its_orders_are_too_old(
    warehouse: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sandbox(orders=1000) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection())

        summary = transfer(created_within=timedelta(minutes=7 * 120))

    assert summary["orders"] in (120, 121)
    # The page that is older, and what was asked for meanwhile.
    assert 3 < summary["pages"] <= 10
    within = datetime.now(timezone.utc) - timedelta(minutes=7 * 120 + 1)
    assert min(as_utc(at) for (at,) in warehouse.execute("select created_at from youcan_orders")) > within


def test_all_orders_are_read_without_a_horizon(warehouse: sqlite3.Connection, sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(500)
    assert transfer(created_within=None)["orders"] == 520


@pytest.mark.parametrize("max_concurrency", [1, 2, 5, 16])
def test_orders_that_come_in_meanwhile_push_no_other_out(
    warehouse: sqlite3.Connection, sandbox: Sandbox, max_concurrency: int
) -> None:
    # Given a shop whose pages are answered in any order while orders come in,
    sandbox.shop.add_orders(700)
    before = set(sandbox.shop.order_ids())
    pauses = random.Random(max_concurrency)

    def come_in(*_: object) -> None:
        sandbox.shop.add_orders(pauses.choice((0, 1, 7)))
        time.sleep(pauses.choice((0, 0.01, 0.03)))

    on_request(sandbox, come_in)

    transfer(created_within=None, max_concurrency=max_concurrency)

    ids = [order_id for (order_id,) in warehouse.execute("select order_id from youcan_orders")]
    assert before <= set(ids)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(("number", "pages", "singles"), [(1, 0, 1), (2, 1, 2), (40, 7, 0)])
def test_orders_by_their_ids_take_as_few_requests_as_can_be(
    warehouse: sqlite3.Connection, sandbox: Sandbox, number: int, pages: int, singles: int
) -> None:
    sandbox.shop.add_orders(300)
    step = 320 // number
    wanted = sandbox.shop.order_ids()[: step * number : step]

    summary = transfer(order_ids=wanted)

    assert {order_id for (order_id,) in warehouse.execute("select order_id from youcan_orders")} == set(wanted)
    assert (summary["orders"], summary["pages"]) == (number, pages)
    assert (
        len([path for path in paths(sandbox, "GET") if path.startswith("/orders/") and "settings" not in path])
        == singles
    )


def test_an_id_that_the_shop_does_not_have_is_told(
    warehouse: sqlite3.Connection, sandbox: Sandbox, log_lines: Callable[[], list[str]]
) -> None:
    order_id = sandbox.shop.order_ids()[0]

    summary = transfer(order_ids=[order_id.upper(), UNKNOWN_ID, order_id])

    assert (summary["orders"], summary["not_found"]) == (1, 1)
    assert "1 order not in this shop" in "\n".join(log_lines())


def test_no_ids_are_no_work(warehouse: sqlite3.Connection, sandbox: Sandbox) -> None:
    assert transfer(order_ids=[])["orders"] == 0
    assert sandbox.shop.requests() == []


def test_a_status_that_can_not_be_read_is_null_and_counted(warehouse: sqlite3.Connection, sandbox: Sandbox) -> None:
    sandbox.misbehave("terse")
    sandbox.shop.set_status(sandbox.shop.order_ids()[0], "payment", "Payé par chèque")

    summary = transfer()

    # The list has no slug of the general status then, and its texts are believed as far as they are slugs.
    unknown = warehouse.execute("select count(*) from youcan_orders where payment_status is null").fetchall()
    assert unknown == [(1,)]
    assert (
        summary["unreadable"]
        == 1 + warehouse.execute("select count(*) from youcan_orders where status is null").fetchone()[0]
    )


# --- files ---


@pytest.mark.parametrize("name", ["orders.csv", "orders.csv.gz", "orders.jsonl", "orders.ndjson.gz", "orders.parquet"])
def test_a_file_holds_the_same_rows(sandbox: Sandbox, tmp_path: Path, name: str) -> None:
    path = tmp_path / "new" / name
    sandbox.shop.add_orders(100)

    summary = transfer(path=str(path))

    rows = read_file(path)
    assert len(rows) == summary["orders"] == 120
    assert list(rows[0]) == list(COLUMNS)
    by_id = {row["order_id"]: row for row in rows}
    for order in sandbox.shop.orders():
        assert by_id[order["id"]]["payment_status"] == order["payment_status"]
        assert by_id[order["id"]]["ref"] == order["ref"]
    assert [one.name for one in path.parent.iterdir()] == [name]


def read_file(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    if ".csv" in path.name:
        return list(csv.DictReader(text.splitlines()))
    return [json.loads(line) for line in text.splitlines()]


def test_a_file_in_an_object_store_is_there_once_it_is_whole(sandbox: Sandbox) -> None:
    store = MemoryFileSystem()
    attach("memory", fs=store)
    seen: list[bool] = []
    on_request(sandbox, lambda *_: seen.append(store.exists("/lake/orders.parquet")))

    transfer(path="memory://lake/orders.parquet")

    assert seen == [False] * 3
    with store.open("/lake/orders.parquet") as file:
        assert pyarrow.parquet.read_table(file).num_rows == 20


def test_a_run_that_fails_leaves_the_file_that_was_there(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text("of yesterday")
    sandbox.shop.add_orders(200)
    sandbox.misbehave("status", status=403, route="GET /orders", times=100)

    with pytest.raises(YouCanPermissionError):
        transfer(path=str(path))

    assert [one.name for one in tmp_path.iterdir()] == ["orders.csv"]
    assert path.read_text() == "of yesterday"


def test_no_orders_are_a_file_with_a_header(sandbox: Sandbox, tmp_path: Path) -> None:
    for name in ("orders.csv", "orders.parquet", "orders.jsonl"):
        transfer(path=str(tmp_path / name), created_within=timedelta(microseconds=1))
    assert (tmp_path / "orders.csv").read_text().split() == [",".join(COLUMNS)]
    assert pyarrow.parquet.read_table(tmp_path / "orders.parquet").column_names == list(COLUMNS)
    assert (tmp_path / "orders.jsonl").read_text() == ""


# --- how it ends ---


def test_a_shop_that_fails_leaves_whole_batches(
    warehouse: sqlite3.Connection, sandbox: Sandbox, no_waiting: None
) -> None:
    sandbox.shop.add_orders(400)
    pages = 0

    def fail_later(method: str, status: int | None) -> None:
        nonlocal pages
        pages += 1
        if pages == 5:
            sandbox.misbehave("status", status=503, route="GET /orders")

    on_request(sandbox, fail_later)
    with pytest.raises(YouCanServerError):
        transfer()

    (number,) = warehouse.execute("select count(*) from youcan_orders").fetchone()
    assert 0 < number < 420
    requests.delete(f"{sandbox.url}/sandbox/misbehaviours", timeout=5)

    assert transfer()["orders"] == 420
    assert warehouse.execute("select count(*) from youcan_orders").fetchone() == (420,)


def test_a_warehouse_that_goes_away_is_waited_for(
    warehouse: sqlite3.Connection, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([sqlite3.OperationalError("database is locked")] * 2)
    replace = OrdersTable._replace

    def fail(table: OrdersTable, cursor: Any, rows: Any) -> None:
        replace(table, cursor, rows)
        if (error := next(failures, None)) is not None and len(rows) > 1:
            raise error

    monkeypatch.setattr(OrdersTable, "_replace", fail)

    transfer()

    assert warehouse.execute("select count(*) from youcan_orders").fetchone() == (20,)


def test_a_warehouse_that_stays_away_is_a_transient_error(
    warehouse: sqlite3.Connection, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(table: OrdersTable, rows: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(OrdersTable, "append", fail)
    monkeypatch.setattr("airflow_provider_youcan.reconciliation.background.MAX_WAIT", 0.3)

    with pytest.raises(
        YouCanConnectionError, match=r"youcan_orders takes no rows \(OperationalError: disk I/O error\)"
    ):
        transfer()

    assert warehouse.execute("select count(*) from youcan_orders").fetchone() == (0,)


def test_a_task_that_is_stopped_reads_no_further(warehouse: sqlite3.Connection, sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(1000)
    operator = YouCanOrdersToSqlOperator(task_id="orders", max_concurrency=2)

    def stop(method: str, _: int | None) -> None:
        if len(sandbox.shop.requests()) == 6:
            operator.on_kill()

    on_request(sandbox, stop)
    with pytest.raises(YouCanTaskStoppedError, match="stopped before all orders were written"):
        execute(operator)

    assert len(sandbox.shop.requests()) < 12


def test_the_events_of_the_shops_orders_say_how_many(warehouse: sqlite3.Connection, sandbox: Sandbox) -> None:
    asset = Asset(uri="youcan://sandbox/orders")
    operator = YouCanOrdersToSqlOperator(task_id="orders", outlets=[asset])

    event = SimpleNamespace(extra={})

    class Events:
        def __getitem__(self, _: Asset) -> SimpleNamespace:
            return event

    operator.execute({"ti": TaskInstance(), "outlet_events": Events()})

    assert event.extra["orders"] == 20


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"table": "orders; drop"}, "table is 'orders; drop'"),
        ({"table": "x", "path": "x.csv"}, "Give table or path, not both"),
        ({"path": "orders.json"}, "does not say how to write it"),
        ({"path": "orders.parquet.gz"}, "does not say how to write it"),
        ({"created_within": timedelta(days=-1)}, "give a positive timedelta"),
        ({"created_within": timedelta(0)}, "give a positive timedelta"),
        ({"created_within": 60}, "give a positive timedelta"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"requests_per_second": "5"}, "requests_per_second"),
        ({"extra_columns": {"status": "status"}}, "there already"),
        ({"extra_columns": {"City": "a", "city": "b"}}, "there already"),
        ({"extra_columns": {"a b": "a"}}, "give a name of letters"),
        ({"extra_columns": {"city": ""}}, "give a path"),
        ({"extra_columns": {"city": "a..b"}}, "give a path"),
        ({"extra_columns": ["city"]}, "give a mapping"),
    ],
)
def test_wrong_arguments_are_refused_when_the_dag_is_parsed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match=message):
        YouCanOrdersToSqlOperator(task_id="orders", **arguments)


@pytest.mark.parametrize(
    ("name", "rendered"),
    [("path", None), ("path", ""), ("order_ids", None), ("order_ids", "['a']"), ("order_ids", ["../x"]), ("table", "")],
)
def test_empty_rendered_arguments_are_refused_before_a_request(
    warehouse: sqlite3.Connection, sandbox: Sandbox, name: str, rendered: Any
) -> None:
    operator = YouCanOrdersToSqlOperator(task_id="orders", **{name: "{{ params.x }}"})
    setattr(operator, name, rendered)

    with pytest.raises(YouCanInvalidInputError):
        execute(operator)

    assert sandbox.shop.requests() == []


@pytest.mark.parametrize("conn_id", ["youcan_default", "no_such_warehouse"])
def test_a_connection_that_runs_no_sql_is_refused_before_the_shop_is_asked(sandbox: Sandbox, conn_id: str) -> None:
    with pytest.raises(YouCanError, match="runs no SQL|no Airflow connection 'no_such_warehouse'"):
        transfer(conn_id=conn_id)
    assert sandbox.shop.requests() == []


def test_a_path_that_is_a_directory_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "orders.csv").mkdir()
    with pytest.raises(YouCanInvalidInputError, match="it is a directory"):
        transfer(path=str(tmp_path / "orders.csv"))
    with pytest.raises(YouCanInvalidInputError):
        transfer(path="nowhere://lake/orders.csv")


# --- what stands in the cells, whatever YouCan sends ---

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
order_like = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("ref", "total", "currency", "created_at", "updated_at", "status_object", "status"), anything),
        "payment": anything | st.fixed_dictionaries({"gateway_type_text": anything, "status_object": anything}),
        "shipping": anything | st.fixed_dictionaries({"tracking_number": anything, "status_text": anything}),
    },
)


@given(order_like)
def test_any_order_makes_a_row_of_plain_values(order: dict[str, Any]) -> None:
    columns = OrderColumns({})

    made = columns.make_row({"id": "a", **order}, NOW)

    assert len(made) == len(COLUMNS)
    for name, value in zip(COLUMNS, made, strict=True):
        if name in ("created_at", "updated_at", "read_at"):
            assert value is None or value.utcoffset() == timedelta(0)
        elif name == "total":
            assert value is None or abs(value) < 1e15
        else:
            assert value is None or (isinstance(value, str) and "\0" not in value and value.encode())
    assert columns.counts.unreadable == [made[2], made[3], made[4]].count(None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-01T12:00:00+00:00", NOW),
        ("2026-03-01T13:00:00+01:00", NOW),
        ("2026-03-01T12:00:00.000000Z", NOW),
        ("2026-03-01 12:00:00", NOW),
        ("0001-01-01T00:00:00+14:00", None),
        ("yesterday", None),
        (None, None),
        (5, None),
    ],
)
def test_times_are_in_utc(text: Any, moment: datetime | None) -> None:
    assert read_time(text) == moment


def test_the_store_may_be_unknown(warehouse: sqlite3.Connection, sandbox: Sandbox) -> None:
    sandbox.misbehave("status", status=403, route="GET /me")
    sandbox.misbehave("status", status=403, route="GET /orders/settings")

    transfer()

    assert warehouse.execute("select distinct store from youcan_orders").fetchall() == [(None,)]
    slugs = warehouse.execute("select status from youcan_orders").fetchall()
    assert {slug for (slug,) in slugs} >= set(StatusContext.GENERAL.documented_slugs) & {"open", "processed"}
