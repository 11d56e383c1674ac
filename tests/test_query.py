"""The rows of a query: from real databases, and from stand-ins that behave as other databases' own hooks do."""

from __future__ import annotations

import json
import sqlite3
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import psycopg2
import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook
from airflow.providers.http.hooks.http import HttpHook

from airflow_provider_youcan.exceptions import YouCanConnectionError, YouCanError, YouCanInvalidInputError
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from tests.conftest import Sandbox, paid_rows, reconcile
from tests.warehouses import CREATE, MAX_MEGABYTES, QUERY, ROWS, make_rows, measure_reading

# --- what a query returns ---


@pytest.fixture
def courier(warehouse: sqlite3.Connection) -> sqlite3.Connection:
    """The database of the connection ``warehouse``, with an empty table."""
    warehouse.execute("create table courier (youcan_id text, state text, day text)")
    return warehouse


def test_the_rows_come_from_sqlite(sandbox: Sandbox, fresh: list[str], courier: sqlite3.Connection) -> None:
    rows = [(fresh[0], "COLLECTED", "mon"), (fresh[1], "RETURNED", "mon"), (fresh[2], "COLLECTED", "tue")]
    courier.executemany("insert into courier values (?, ?, ?)", rows)
    courier.commit()

    summary = reconcile(
        sql="select youcan_id, state from courier where day = :day",
        parameters={"day": "mon"},
        conn_id="warehouse",
        columns={"order_id": "youcan_id", "payment_status": "state"},
        status_map={"payment": {"COLLECTED": "paid", "RETURNED": "unpaid"}},
    )

    assert summary["rows"] == 2
    assert [sandbox.shop.statuses(order_id)["payment"] for order_id in fresh[:3]] == ["paid", "unpaid", "pending"]


@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        ("select youcan_id from courier", "No column says which order"),
        ("select youcan_id as order_id from courier", "No column says what should hold"),
        ("delete from courier", "contains DELETE"),
    ],
)
def test_a_query_that_lacks_a_column_is_refused_even_when_empty(
    sandbox: Sandbox, courier: sqlite3.Connection, sql: str, complaint: str
) -> None:
    with pytest.raises(YouCanInvalidInputError, match=complaint):
        reconcile(sql=sql, conn_id="warehouse")


def test_a_connection_that_runs_no_sql_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(YouCanInvalidInputError, match="runs no SQL"):
        reconcile(sql="select 1", conn_id="youcan_default")


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        (None, "add the connection of your warehouse"),
        ({"conn_type": "no_such_database"}, "has no hook for the Airflow connection 'warehouse'"),
        ({"conn_type": "youcan"}, "which runs no SQL"),
    ],
)
def test_a_database_that_airflow_can_not_talk_to_says_what_to_install(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, connection: dict[str, str] | None, message: str
) -> None:
    if connection is not None:
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))

    with pytest.raises(YouCanError, match=message):
        reconcile(sql="select 1", conn_id="warehouse")
    with pytest.raises(YouCanError, match=message):
        reconcile(paid_rows(sandbox), report_table="outcomes", report_conn_id="warehouse")

    assert sandbox.shop.requests() == []


# --- real databases ---


def run_query(sql: str = QUERY, **arguments: Any) -> dict[str, Any]:
    """Reconcile what a query of the warehouse returns."""
    return reconcile(sql=sql, conn_id="warehouse", **arguments)


@pytest.fixture(params=["sqlite", "duckdb", "postgres"])
def database(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Any]]:
    """An Airflow connection, and a connection to make a table with."""
    path = str(tmp_path / "warehouse.db")
    if request.param == "sqlite":
        connection, made = {"conn_type": "sqlite", "host": path}, sqlite3.connect(path)
    elif request.param == "duckdb":
        import duckdb

        connection, made = {"conn_type": "duckdb", "host": path}, duckdb.connect(path)
    else:
        host = request.getfixturevalue("postgres")
        connection = {"conn_type": "postgres", "host": host, "login": "postgres", "schema": "postgres"}
        made = psycopg2.connect(host=host, user="postgres", dbname="postgres")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))
    with closing(made), closing(made.cursor()) as cursor:
        cursor.execute("drop table if exists courier_orders")
        cursor.execute(CREATE)
        made.commit()
        yield json.dumps(connection), made


def fill(made: Any, rows: Any) -> None:
    module = type(made).__module__.partition(".")[0]
    with closing(made.cursor()) as cursor:
        if module == "psycopg2":
            from psycopg2.extras import execute_values

            execute_values(cursor, "insert into courier_orders values %s", rows, page_size=5000)
        elif module == "sqlite3":
            cursor.executemany("insert into courier_orders values (?, ?, ?)", rows)
        else:
            import pyarrow as pa

            names = ["order_id", "shipping_status", "payment_status"]
            table = pa.table([list(column) for column in zip(*rows, strict=True)], names=names)
            made.register("made_rows", table)
            made.execute("insert into courier_orders select * from made_rows")
    made.commit()
    if module not in ("psycopg2", "sqlite3"):
        made.close()  # DuckDB lets one process in


def test_a_real_warehouse_is_reconciled(sandbox: Sandbox, database: tuple[str, Any]) -> None:
    order_ids = sandbox.shop.order_ids()[:3]
    fill(database[1], [(order_id, "shipped", None) for order_id in order_ids])

    # with a semicolon at the end, as people write it
    summary = run_query(f"{QUERY};\n")

    assert summary["rows"] == 3
    assert {sandbox.shop.statuses(order_id)["shipping"] for order_id in order_ids} == {"shipped"}


def test_reading_takes_no_more_memory_than_what_is_kept_of_a_row(database: tuple[str, Any]) -> None:
    fill(database[1], list(make_rows()))

    rows, megabytes = measure_reading(database[0])

    assert rows == ROWS
    assert megabytes <= MAX_MEGABYTES


@pytest.mark.parametrize("sql", ["select order_id from no_such_table", "select no_such_column from courier_orders"])
def test_sql_that_is_wrong_is_a_permanent_mistake(sandbox: Sandbox, database: tuple[str, Any], sql: str) -> None:
    fill(database[1], [("abc", "shipped", None)])

    with pytest.raises(YouCanInvalidInputError, match="The sql failed .*no_such"):
        run_query(sql)

    assert sandbox.shop.requests() == []


def test_a_value_that_the_database_can_not_read_is_in_no_error(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DUCK", json.dumps({"conn_type": "duckdb", "host": str(tmp_path / "duck.db")}))

    with pytest.raises(YouCanInvalidInputError, match=r"The sql failed \(ConversionException\)") as error:
        YouCanReconcileOrdersOperator(
            task_id="r", sql="select cast('0612345678x' as integer) as order_id, 'paid' as status", conn_id="duck"
        ).execute({})

    assert "0612345678" not in "".join(traceback.format_exception(error.value))


def test_a_database_that_is_locked_may_be_free_later(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, tmp_path: Path
) -> None:
    path = tmp_path / "warehouse.db"
    connection = {"conn_type": "sqlite", "host": str(path), "extra": {"timeout": "0"}}
    monkeypatch.setenv("AIRFLOW_CONN_LOCKED", json.dumps(connection))
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table orders (order_id text, status text)")
        database.execute("begin exclusive")

        with pytest.raises(YouCanConnectionError, match=r"The sql failed .*locked.* it may work later"):
            YouCanReconcileOrdersOperator(task_id="r", sql="select * from orders", conn_id="locked").execute({})


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("delete from courier_orders returning *", "The sql contains DELETE, which may change data"),
        ("update courier_orders set payment_status = 'paid'", "contains UPDATE"),
        ("insert into courier_orders values ('a', 'b', 'c')", "contains INSERT"),
        ("drop table courier_orders", "contains DROP"),
        ("explain analyze delete from courier_orders", "contains EXPLAIN"),
        ("copy (select 1) to 'x'", "contains COPY"),
        ("vacuum into 'x'", "contains VACUUM"),
        ("pragma user_version = 7", "contains PRAGMA"),
        ("call empty_it()", "contains CALL"),
        ("select * into elsewhere from courier_orders", "contains INTO"),
        ("with gone as (delete from courier_orders returning *) select * from gone", "contains DELETE"),
        ("/* a */ (truncate table courier_orders)", "contains TRUNCATE"),
        ("select 1; select 2", "has 2 statements"),
        ("set x = 1; select 2", "has 2 statements"),
        ("-- nothing", "has 0 statements"),
    ],
)
def test_anything_but_a_single_query_is_refused_and_not_run(
    sandbox: Sandbox, database: tuple[str, Any], sql: str, message: str
) -> None:
    fill(database[1], [("abc", "shipped", None)])

    with pytest.raises(YouCanInvalidInputError, match=message):
        run_query(sql)

    connection = json.loads(database[0])
    if connection["conn_type"] == "sqlite":
        with closing(sqlite3.connect(connection["host"])) as again:
            assert again.execute("select count(*) from courier_orders").fetchone() == (1,)
    assert sandbox.shop.requests() == []


@pytest.mark.parametrize(
    "sql",
    [
        f"-- update\n({QUERY})",
        f"with recent as ({QUERY}) select * from recent;",
        f"{QUERY} where shipping_status <> 'delete into'",
        'select order_id, shipping_status, payment_status as "update" from courier_orders',
        "select replace(order_id, 'x', 'x') as order_id, shipping_status from courier_orders",
    ],
)
def test_a_query_that_only_reads_is_run(sandbox: Sandbox, database: tuple[str, Any], sql: str) -> None:
    order_id = sandbox.shop.order_ids()[0]
    fill(database[1], [(order_id, "shipped", None)])
    if json.loads(database[0])["conn_type"] == "sqlite":
        sql = sql.replace(f"({QUERY})", QUERY, 1) if sql.startswith("--") else sql

    assert run_query(sql)["changed"] == 1


def test_a_query_that_locks_its_rows_only_reads(sandbox: Sandbox) -> None:
    from airflow_provider_youcan.reconciliation.rows.query import _find_change

    assert _find_change("select * from t for update skip locked") is None
    assert _find_change("select * from t for no key update") is None


def test_parameters_of_a_hook_that_are_text_are_refused(sandbox: Sandbox, database: tuple[str, Any]) -> None:
    with pytest.raises(YouCanInvalidInputError, match="hook_params is of type str"):
        run_query(hook_params="{'location': 'EU'}")


def test_a_query_of_more_words_than_a_parser_reads_is_left_to_the_database(
    sandbox: Sandbox, database: tuple[str, Any]
) -> None:
    order_id = sandbox.shop.order_ids()[0]
    fill(database[1], [(order_id, "shipped", None)])
    many = ", ".join(f"'{number}'" for number in range(6000))

    assert run_query(f"{QUERY} where order_id not in ({many})")["changed"] == 1


# --- stand-ins ---


class Cursor:
    """A cursor as Python's DB-API describes it."""

    def __init__(self, connection: StandIn) -> None:
        self.description: Any = None
        self._rows: list[Any] = []
        self._connection = connection

    def execute(self, sql: str, parameters: Any = None) -> None:
        assert parameters is None
        if self._connection.refuses_semicolons:
            assert not sql.rstrip().endswith(";"), f"mismatched input ';': {sql}"
        self._rows = list(self._connection.rows)
        self.description = self._connection.describe(["ORDER_ID", "SHIPPING_STATUS"])

    def fetchmany(self, size: int) -> Any:
        rows, self._rows = self._rows[:size], self._rows[size:]
        return self._connection.batch(rows)

    def close(self) -> None:
        self._connection.closed_cursors += 1


class StandIn:
    """A connection that differs from the DB-API as a database's own does."""

    def __init__(self, rows: list[tuple[str, str]], **ways: Any) -> None:
        self.refuses_semicolons = ways.get("refuses_semicolons", False)
        make_row = ways.get("row", tuple)
        self.rows = [make_row(row) for row in rows]
        self.describe = ways.get("describe", lambda names: [(name, None) for name in names])
        self.batch = ways.get("batch", list)
        self.closed_cursors = 0
        self.is_closed = False

    def cursor(self) -> Cursor:
        return Cursor(self)

    def close(self) -> None:
        self.is_closed = True


class OdbcRow:
    """A row that is no tuple, as pyodbc's."""

    def __init__(self, values: tuple[str, str]) -> None:
        self._values = values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


WAYS: dict[str, dict[str, Any]] = {
    "trino": {"refuses_semicolons": True, "row": list},
    "presto": {"refuses_semicolons": True},
    "athena": {"refuses_semicolons": True},
    "oracle": {"refuses_semicolons": True},
    "snowflake": {"describe": lambda names: [SimpleMetadata(name) for name in names]},
    "snowflake of mappings": {"row": lambda row: dict(zip(["ORDER_ID", "SHIPPING_STATUS"], row, strict=True))},
    "redshift": {"row": list, "batch": tuple},
    "mssql": {},
    "clickhouse": {"describe": lambda names: [SimpleMetadata(name) for name in names]},
    "odbc": {"row": OdbcRow},
    "jdbc": {"row": list},
}


class SimpleMetadata(tuple[Any, ...]):
    """A description that is a tuple with names."""

    __slots__ = ()

    def __new__(cls, name: str) -> SimpleMetadata:
        return super().__new__(cls, (name, "text", None, None, None, None, True))


class Hook(DbApiHook):
    """A hook of the right kind."""

    conn_name_attr = "warehouse_conn_id"
    connection_made: ClassVar[Any] = None

    def __init__(self, *arguments: Any, **params: Any) -> None:
        super().__init__(*arguments)
        self.params = params
        self.conn_type = "stand-in"  # type: ignore[misc]

    def get_conn(self) -> Any:
        return self.connection_made


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``stand_in(connection, hook)`` has the Airflow connection ``warehouse`` lead to a connection."""

    def use(made: Any, hook_class: type = Hook, conn_type: str = "stand-in") -> list[Mapping[str, Any]]:
        params: list[Mapping[str, Any]] = []
        monkeypatch.setattr(hook_class, "connection_made", made, raising=False)

        def get_hook(*, hook_params: Mapping[str, Any] | None = None) -> Any:
            params.append(hook_params or {})
            return hook_class(**(hook_params or {}))

        connection = SimpleNamespace(conn_id="warehouse", conn_type=conn_type, get_hook=get_hook)
        get_connection = "airflow_provider_youcan.reconciliation.databases.BaseHook.get_connection"
        monkeypatch.setattr(get_connection, lambda _: connection)
        return params

    return use


def read(sql: str = "select order_id, shipping_status from courier_orders;", **arguments: Any) -> list[tuple[Any, Any]]:
    operator = YouCanReconcileOrdersOperator(task_id="reconcile", sql=sql, conn_id="warehouse", **arguments)
    source = operator._read_input()
    assert source.desired.invalid == []
    return [(order.order_id, order.desired["shipping"]) for order in source.desired.orders]


@pytest.mark.parametrize("warehouse", WAYS)
def test_a_warehouse_with_ways_of_its_own_is_read(stand_in: Any, warehouse: str) -> None:
    connection = StandIn([(f"order-{number}", "shipped") for number in range(2500)], **WAYS[warehouse])
    stand_in(connection)

    rows = read()

    assert rows == [(f"order-{number}", "shipped") for number in range(2500)]
    assert connection.is_closed
    assert connection.closed_cursors == 1


def test_a_hook_is_made_with_hook_params(stand_in: Any) -> None:
    params = stand_in(StandIn([("a", "shipped")]))

    read(hook_params={"driver": "ODBC Driver 18"})

    assert params == [{"driver": "ODBC Driver 18"}]
    assert "hook_params" in YouCanReconcileOrdersOperator.template_fields


def test_bigquery_is_asked_in_standard_sql(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    class BigQueryHook(Hook):
        def __init__(self, **params: Any) -> None:
            made.append(params)
            super().__init__(**params)

    module = ModuleType("bigquery")
    module.BigQueryHook = BigQueryHook  # type: ignore[attr-defined]
    for name in ("google", "google.cloud", "google.cloud.hooks"):
        monkeypatch.setitem(sys.modules, f"airflow.providers.{name}", ModuleType(name))
    monkeypatch.setitem(sys.modules, "airflow.providers.google.cloud.hooks.bigquery", module)
    for conn_type in ("gcpbigquery", "google_cloud_platform"):
        stand_in(StandIn([("a", "shipped")]), BigQueryHook, conn_type)
        assert read(hook_params={"location": "EU"}) == [("a", "shipped")]

    assert made == [{"gcp_conn_id": "warehouse", "use_legacy_sql": False, "location": "EU"}] * 2


def test_databricks_is_asked_by_its_sql_hook(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    class DatabricksSqlHook(Hook):
        def __init__(self, **params: Any) -> None:
            made.append(params)
            super().__init__(**params)

    module = ModuleType("databricks_sql")
    module.DatabricksSqlHook = DatabricksSqlHook  # type: ignore[attr-defined]
    for name in ("databricks", "databricks.hooks"):
        monkeypatch.setitem(sys.modules, f"airflow.providers.{name}", ModuleType(name))
    monkeypatch.setitem(sys.modules, "airflow.providers.databricks.hooks.databricks_sql", module)
    stand_in(StandIn([("a", "shipped")]), DatabricksSqlHook, "databricks")

    assert read(hook_params={"http_path": "/sql/1"}) == [("a", "shipped")]
    assert made == [{"databricks_conn_id": "warehouse", "http_path": "/sql/1"}]


@pytest.mark.parametrize("conn_type", ["gcpbigquery", "databricks"])
def test_a_warehouse_whose_provider_is_missing_says_so(stand_in: Any, conn_type: str) -> None:
    stand_in(None, Hook, conn_type)

    with pytest.raises(YouCanInvalidInputError, match="install the Airflow provider of that database"):
        read()


def test_a_connection_without_cursors_is_refused_in_words(stand_in: Any) -> None:
    class Exasol:
        is_closed = False

        def execute(self, sql: str) -> None:
            raise AssertionError(sql)

        def close(self) -> None:
            self.is_closed = True

    connection = Exasol()
    stand_in(connection)

    with pytest.raises(YouCanInvalidInputError, match="has no cursors"):
        read()
    assert connection.is_closed


def test_an_http_connection_runs_no_sql(stand_in: Any) -> None:
    class Http(HttpHook):
        def __init__(self) -> None:
            super().__init__(http_conn_id="warehouse")

    stand_in(None, Http, "http")

    with pytest.raises(YouCanInvalidInputError, match="is of type 'http', which runs no SQL"):
        read()


def test_a_connection_that_was_added_before_its_provider_has_to_be_added_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "generic", "host": "x"}))

    with pytest.raises(YouCanInvalidInputError, match="delete it, and add it again with its own type"):
        run_query()


def test_arguments_of_a_query_are_refused_without_one() -> None:
    with pytest.raises(YouCanInvalidInputError, match="hook_params"):
        YouCanReconcileOrdersOperator(task_id="x", orders=[], hook_params={})
