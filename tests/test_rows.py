"""Rows from anywhere: what people have in hand, what a function returns, and files."""

from __future__ import annotations

import copy
import gzip
import json
import math
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowSkipException, task
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_youcan.decorators.reconcile import youcan_reconcile_task
from airflow_provider_youcan.exceptions import YouCanConnectionError, YouCanInvalidInputError
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from airflow_provider_youcan.reconciliation.rows.cells import read_cell, read_ref, translate
from airflow_provider_youcan.reconciliation.rows.desired import DesiredState
from airflow_provider_youcan.reconciliation.rows.file import read_orders_file
from tests.conftest import HOME, RunDag, Sandbox

UNKNOWN = ["order-1", "order-2", "order-3"]


def reconcile(**arguments: Any) -> dict[str, Any]:
    return YouCanReconcileOrdersOperator(task_id="reconcile", **arguments).execute({})


def puts(sandbox: Sandbox) -> int:
    return len([request for request in sandbox.shop.requests() if request["method"] == "PUT"])


@pytest.fixture
def pending(sandbox: Sandbox) -> list[str]:
    """Three orders that are to be paid for."""
    return [order["id"] for order in sandbox.shop.orders() if order["payment_status"] == "pending"][:3]


def paid(sandbox: Sandbox) -> set[str]:
    return {order["id"] for order in sandbox.shop.orders() if order["payment_status"] == "paid"}


# --- cells ---


@pytest.mark.parametrize(
    "null", [None, math.nan, np.nan, np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), Decimal("NaN")]
)
def test_whatever_stands_for_a_null_is_one(null: object) -> None:
    assert read_cell(null) is None
    assert read_ref(null) is None


@pytest.mark.parametrize(
    ("cell", "ref"),
    [
        (21, "21"),
        (np.int64(21), "21"),
        (np.uint8(21), "21"),
        (Decimal(21), "21"),
        (Decimal("21.0"), "21"),
        ("021", "021"),
        (np.str_("021"), "021"),
    ],
)
def test_a_ref_is_text_or_a_whole_number(cell: object, ref: str) -> None:
    assert read_ref(cell) == ref
    assert type(read_ref(cell)) is str


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (21.0, "a column of numbers with a null among them"),
        (np.float64(21), "a column of numbers with a null among them"),
        (21.5, "is not a ref"),
        (True, "is not a ref"),
        (np.bool_(True), "is not a ref"),
        (Decimal("21.5"), "is not a ref"),
        (Decimal("Infinity"), "is not a ref"),
        (Decimal("1E+5000"), "is not a ref"),
        (date(2026, 1, 1), "is not a ref"),
        (np.array([1, 2]), "is not a ref"),
        (10**18, "is not a ref"),
    ],
)
def test_what_is_no_ref_is_refused_with_the_reason(cell: object, message: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match=message):
        read_ref(cell)


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        (1, "1"),
        (1.0, "1"),
        (np.int64(1), "1"),
        (Decimal("1.0"), "1"),
        (Decimal("1.50"), "1.50"),
        (True, "True"),
        (date(2026, 1, 31), "2026-01-31"),
        (UUID(int=1), str(UUID(int=1))),
    ],
)
def test_a_word_is_what_a_cell_says(cell: object, word: str) -> None:
    assert translate(read_cell(cell), {word: "paid"}) == "paid"


@given(st.one_of(st.integers(), st.floats(), st.decimals(), st.text(), st.binary(), st.lists(st.integers())))
def test_no_cell_breaks_anything_but_its_row(cell: object) -> None:
    desired = DesiredState(status_map={"payment": {"x": "paid"}})

    desired.add({"order_id": cell, "payment_status": "paid"})
    desired.add({"ref": cell, "payment_status": "paid"})
    desired.add({"order_id": "abc", "payment_status": cell})

    assert desired.rows == 3


# --- tables ---

TABLES: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "list": lambda data: [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)],
    "generator": lambda data: (dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)),
    "pandas": pd.DataFrame,
    "polars": lambda data: pl.DataFrame(data, strict=False),
    "pyarrow": pa.table,
    "pyarrow batch": pa.RecordBatch.from_pydict,
    "pyarrow reader": lambda data: pa.table(data).to_reader(),
}


@pytest.mark.parametrize("library", TABLES)
def test_rows_are_taken_from_what_people_have_in_hand(sandbox: Sandbox, pending: list[str], library: str) -> None:
    made = TABLES[library]({"order_id": pending, "payment_status": ["paid", None, "paid"], "amount": [1, 2, 3]})

    summary = reconcile(orders=made)

    assert (summary["rows"], summary["changed"]) == (3, 2)
    assert set(pending) & paid(sandbox) == {pending[0], pending[2]}


@pytest.mark.parametrize("library", [name for name in TABLES if name not in ("list", "generator")])
def test_a_table_lacks_a_column_also_where_it_has_no_rows(sandbox: Sandbox, library: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match="No column says what should hold"):
        reconcile(orders=TABLES[library]({"order_id": []}))


@pytest.mark.parametrize("name", ["delivered_at", "delivered.at"])
def test_a_column_that_nobody_reads_may_hold_anything(
    sandbox: Sandbox, pending: list[str], tmp_path: Path, name: str
) -> None:
    far = pa.array([10**15], pa.timestamp("s"))  # later than Python's last date
    table = pa.table({"order_id": pending[:1], "payment_status": ["paid"], name: far})
    path = tmp_path / "feed.parquet"
    pa.parquet.write_table(table, path)

    assert reconcile(orders=table, dry_run=True)["planned"] == 1
    assert reconcile(orders_file=str(path), dry_run=True)["planned"] == 1


def test_refs_of_a_frame_are_whole_numbers_or_refused(sandbox: Sandbox) -> None:
    order = sandbox.shop.orders()[0]
    whole = pd.DataFrame({"ref": [int(order["ref"])], "status": ["closed"]})
    fractions = pd.DataFrame({"ref": [int(order["ref"]), None], "status": ["closed", "closed"]})

    # The shop's is 001 and so on: a number has lost its zeros, and is found nowhere.
    assert reconcile(orders=whole, dry_run=True, max_failures=1)["not_found"] == 1
    with pytest.raises(YouCanInvalidInputError, match="1.0 is not a ref: a column of numbers with a null among them"):
        reconcile(orders=fractions)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.Series(["a"]), "is of type Series"),
        (pl.Series(["a"]), "is of type Series"),
        (pl.LazyFrame({"order_id": []}), "is a LazyFrame, which holds no rows yet"),
        (5, "is of type int"),
        (b"abc", "is of type bytes"),
        ({"order_id": "x"}, "is of type dict"),
        (pd.DataFrame([["a", "b", "paid"]], columns=["order_id", "order_id", "status"]), "There are several columns"),
    ],
)
def test_what_is_no_table_of_rows_is_refused(sandbox: Sandbox, table: Any, message: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match=message):
        reconcile(orders=table)
    assert sandbox.shop.requests() == []


def test_no_library_of_tables_is_imported() -> None:
    code = (
        "import sys, airflow_provider_youcan.decorators.reconcile, airflow_provider_youcan.reconciliation.rows.file;"
        "import airflow_provider_youcan.reconciliation.rows.dataframe;"
        "print({'pandas', 'polars', 'pyarrow', 'numpy'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "set()"


def test_a_generator_is_read_once(sandbox: Sandbox, pending: list[str]) -> None:
    rows = ({"order_id": order_id, "payment_status": "paid"} for order_id in pending)
    operator = YouCanReconcileOrdersOperator(task_id="reconcile", orders=rows)
    assert operator.execute({})["changed"] == 3

    with pytest.raises(YouCanInvalidInputError, match="was read already"):
        operator.execute({})
    with pytest.raises(YouCanInvalidInputError, match="was read already"):
        copy.copy(operator).execute({})


def test_copies_of_an_operator_share_its_generator(sandbox: Sandbox, pending: list[str]) -> None:
    rows = ({"order_id": order_id, "payment_status": "paid"} for order_id in pending)
    operator = YouCanReconcileOrdersOperator(task_id="reconcile", orders=rows)
    copied = copy.deepcopy(operator)
    assert copied.execute({})["changed"] == 3

    # What the copy has read is not a success of nothing for the operator.
    with pytest.raises(YouCanInvalidInputError, match="was read already"):
        operator.execute({})


def test_an_argument_of_the_function_that_ends_in_sql_is_no_template() -> None:
    assert ".sql" not in youcan_reconcile_task(list)("queries/orders.sql").operator.template_ext


def test_what_is_no_list_stays_out_of_the_serialized_dag() -> None:
    def serialize() -> str:
        with DAG("rows", schedule=None) as dag:
            YouCanReconcileOrdersOperator(task_id="a", orders=(row for row in []))
            YouCanReconcileOrdersOperator(task_id="b", orders=pd.DataFrame({"order_id": ["secret"]}))
        return str(to_dict(dag))

    first = serialize()

    assert first == serialize()
    assert "secret" not in first
    assert "generator" not in first


def to_dict(dag: Any) -> Any:
    try:
        from airflow.serialization.serialized_objects import DagSerialization as Serialization
    except ImportError:  # before Airflow 3.2
        from airflow.serialization.serialized_objects import SerializedDAG as Serialization
    return Serialization.to_dict(dag)


# --- what a function returns ---


def decorated(function: Callable[..., Any], **arguments: Any) -> Any:
    with DAG("decorated", schedule=None) as dag:
        youcan_reconcile_task(function, **arguments)()
    (operator,) = dag.tasks
    return operator


def test_a_function_that_yields_runs_to_its_end_before_anything_is_sent(sandbox: Sandbox, pending: list[str]) -> None:
    def courier() -> Iterator[dict[str, str]]:
        for order_id in pending:
            yield {"order_id": order_id, "payment_status": "paid"}
            assert sandbox.shop.requests() == []
        raise AirflowSkipException("the courier's feed is not complete")

    with pytest.raises(AirflowSkipException):
        decorated(courier).execute({})

    assert sandbox.shop.requests() == []


def test_a_function_may_be_async(sandbox: Sandbox, pending: list[str]) -> None:
    async def one() -> list[dict[str, str]]:
        return [{"order_id": pending[0], "payment_status": "paid"}]

    async def others() -> AsyncIterator[dict[str, str]]:
        for order_id in pending[1:]:
            yield {"order_id": order_id, "payment_status": "paid"}

    assert decorated(one).execute({})["changed"] == 1
    assert decorated(others).execute({})["changed"] == 2
    assert not getattr(decorated(one), "is_async", False)


@pytest.mark.parametrize("returned", [None, "text", 5])
def test_a_function_that_returns_no_rows_is_refused(sandbox: Sandbox, returned: Any) -> None:
    with pytest.raises(YouCanInvalidInputError, match="What the function returns is of type"):
        decorated(lambda: returned, task_id="x").execute({})


@pytest.mark.parametrize("source", ["orders", "orders_file", "sql", "plan", "conn_id", "parameters"])
def test_a_function_is_the_only_source(source: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match=f"Leave {source} out of @task.youcan_reconcile"):
        task.youcan_reconcile(**{source: "x"})(list)


def test_the_summary_is_one_xcom_whatever_the_function_is_annotated_with() -> None:
    def rows() -> dict[str, str]:
        return {}

    assert decorated(rows).multiple_outputs is False


@pytest.mark.airflow
def test_rows_of_a_function_go_to_the_shop_and_nowhere_else(
    run_dag: RunDag, sandbox: Sandbox, pending: list[str]
) -> None:
    run = run_dag(
        f"""
        @task
        def number():
            return [2]

        @task.youcan_reconcile(status_map={{"payment": {{"COLLECTED": "paid"}}}}, only_from={{"payment": "pending"}})
        def courier(numbers, ti=None, word="COLLECTED"):
            import pandas as pd
            assert ti.task_id == "courier"
            (number,) = numbers
            order_ids = {pending}[:number]
            statuses, phone = [word] * number, "+2126" + "99887766"
            return pd.DataFrame({{"order_id": order_ids, "payment_status": statuses, "phone": phone}})

        @task.youcan_reconcile(max_changes="{{{{ 5 }}}}")
        def rest():
            yield {{"order_id": "{pending[2]}", "payment_status": "paid", "phone": "+2126" + "99887766"}}

        courier(number()) >> rest()
        """
    )

    assert run.state == "success"
    assert run.tasks["courier"].result["changed"] == 2
    assert run.tasks["rest"].result["changed"] == 1
    assert set(pending) <= paid(sandbox)
    assert "+212699887766" not in run.log
    # neither in an XCom, nor among the rendered fields; Airflow keeps the source of the DAG, too, where it is in two
    assert b"+212699887766" not in (HOME / "airflow.db").read_bytes()


@pytest.mark.airflow
def test_a_function_can_be_mapped_over_shops(run_dag: RunDag, sandbox: Sandbox, pending: list[str]) -> None:
    run = run_dag(
        f"""
        @task.youcan_reconcile
        def shop(order_id):
            return [{{"order_id": order_id, "payment_status": "paid"}}]

        shop.override(youcan_conn_id="youcan_default").expand(order_id={pending})
        """
    )

    assert run.state == "success"
    assert [run.tasks[f"shop[{index}]"].result["changed"] for index in range(3)] == [1, 1, 1]


# --- files ---


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(("encoding", "ending"), [("utf-8", "\n"), ("utf-8-sig", "\r\n")])
def test_a_csv_is_read_whatever_separates_its_cells(
    sandbox: Sandbox, pending: list[str], tmp_path: Path, delimiter: str, encoding: str, ending: str
) -> None:
    path = tmp_path / "feed.csv"
    lines = [["order_id", "payment_status", "ref", '"note, of; the | day"']]
    lines += [[order_id, "مدفوع", "", "a"] for order_id in pending]
    path.write_bytes("".join(delimiter.join(line) + ending for line in lines).encode(encoding))

    summary = reconcile(orders_file=str(path), status_map={"payment": {"مدفوع": "paid"}})

    assert (summary["rows"], summary["changed"]) == (3, 3)


def test_how_a_csv_is_read_can_be_said(sandbox: Sandbox, pending: list[str], tmp_path: Path) -> None:
    path = tmp_path / "feed.tsv"
    path.write_bytes(f"a,b;order_id;a,c;payment_status\n1;{pending[0]};2;payé\n".replace(";", "~").encode("cp1252"))

    options = {"delimiter": "~", "encoding": "cp1252"}
    summary = reconcile(orders_file=str(path), file_options=options, status_map={"payment": {"payé": "paid"}})

    assert summary["changed"] == 1


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "ndjson", "csv.gz", "jsonl.gz", "CSV.GZ", "parquet"])
def test_each_kind_of_file_says_the_same(sandbox: Sandbox, pending: list[str], tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"feed.{kind}"
    table = pa.table(
        {
            "amount": [1, 2, 3],
            "order_id": pending,
            "ref": [None, None, ""],
            "payment_status": ["paid", None, "paid"],
            "shipping_status": [None, "shipped", None],
        }
    )
    if kind == "parquet":
        pa.parquet.write_table(table, path)
    else:
        rows = table.to_pylist()
        text = "".join(json.dumps(row) + "\n" for row in rows)
        if "json" not in kind:
            cells = [",".join("" if value is None else str(value) for value in row.values()) for row in rows]
            text = "\n".join([",".join(rows[0]), *cells])
        data = text.encode()
        path.write_bytes(gzip.compress(data) if kind.lower().endswith(".gz") else data)

    summary = reconcile(orders_file=f"file://{path}")

    assert (summary["rows"], summary["changed"]) == (3, 3)
    assert sandbox.shop.statuses(pending[1])["shipping"] == "shipped"


def test_an_empty_cell_is_a_null_unless_a_word_says_what_it_means(
    sandbox: Sandbox, pending: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "feed.csv"
    path.write_text(f"order_id,payment_status,shipping_status\n{pending[0]},,\n")

    assert reconcile(orders_file=str(path))["changed"] == 0
    assert reconcile(orders_file=str(path), status_map={"payment": {"": "unpaid"}})["changed"] == 1
    assert sandbox.shop.statuses(pending[0])["payment"] == "unpaid"


def test_a_header_without_rows_is_an_empty_table(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "feed.csv"
    path.write_text("order_id,payment_status\n")

    assert reconcile(orders_file=str(path))["rows"] == 0
    with pytest.raises(YouCanInvalidInputError, match="fewer than min_rows=1"):
        reconcile(orders_file=str(path), min_rows=1)


BIG = "x" * 10_000_000
BAD_FILES = {
    "feed.csv": (b"", "is empty"),
    "blank.csv": (b"\n\n", "has no header"),
    "data.csv": (b"3116f8a6-b453-49ce-9174-db3dffbb8629,Fatima\n", "Line 1 of .* is not a header"),
    "later.csv": (b"\n\nFatima;paid\n", "Line 3 of .* is not a header"),
    "page.csv": (b"<!DOCTYPE html>\n<html>\n", "Line 1 of .* is not a header"),
    "twice.csv": (b"order_id,status,order_id\na,closed,b\n", "Line 1 of .* has the column 'order_id' more than once"),
    "case.csv": (b"order_id,status,STATUS\na,closed,b\n", "There are several columns 'status'"),
    "lacks.csv": (b"status\nclosed\n", "No column says which order"),
    "short.csv": (b"order_id,status\na,closed\nb\n", r"row 2: it has 1 cells, and the header 2 \(line 3\)"),
    "long.csv": (b'order_id,status\n"a\nb",closed\nb,c,d\n', r"it has 3 cells, and the header 2 \(line 4\)"),
    "quote.csv": (b'order_id,status\n"a"b,closed\nc,closed\n', r"row 1: it can't be read as CSV: .* \(line 2\)"),
    "open.csv": (b'order_id,status\na,closed\n"b,closed\nc,closed\n', "What begins on line 3 .* quote"),
    "last.csv": (b'order_id,status\na,"closed', "What begins on line 2 .* quote"),
    "id.csv": (b"order_id,status\n+212600000000,closed\n", r"row 1: .* is not an order id.* \(line 2\)"),
    "latin.csv": ("order_id,status\na,closed\nb,ferm\u00e9\n".encode("latin-1"), "Line 3 of .* is not in the encoding"),
    "utf16.csv": ("order_id,status\n".encode("utf-16"), "Line 1 of .* is not in the encoding"),
    "big.csv": (f"order_id,status\na,{BIG}\n".encode(), "Line 2 of .* is longer than 1,000,000 characters"),
    "bigish.csv": (f"order_id,status\na,{BIG[:200000]}\n".encode(), r"row 1: it can't be read as CSV: field larger"),
    "rows.json": (b"[]", "does not say how to read it"),
    "rows.xlsx": (b"PK", "does not say how to read it"),
    "rows.parquet.gz": (b"x", "does not say how to read it"),
    "rows.jsonl": (b'{"order_id": "a", "status": "closed"}\n[1]\n', r"row 2: it is not a JSON object \(line 2\)"),
    "cut.jsonl": (b'{"order_id": "a", "status": "closed"}\n\n{"order', r"row 2: it is not a JSON object \(line 3\)"),
    "twice.jsonl": (b'{"order_id": "a", "status": "closed", "status": "open"}', "that has a key more than once"),
    "deep.jsonl": (b"[" * 100_000, "it is not a JSON object"),
    "empty.ndjson": (b"", "is empty"),
    "cut.csv.gz": (gzip.compress(b"order_id,status\na,closed\n" * 999)[:-20], "is not a complete gzip file"),
    "no.csv.gz": (b"order_id,status\n", "is not a complete gzip file"),
    "empty.csv.gz": (gzip.compress(b""), "is empty"),
    "empty.parquet": (b"", "is not a complete Parquet file"),
    "no.parquet": (b"order_id,status\n" * 99, "is not a complete Parquet file"),
}


def test_a_damaged_parquet_file_is_refused_and_never_tried_again(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "feed.parquet"
    table = pa.table({"order_id": [f"order-{number}" for number in range(500)], "payment_status": ["paid"] * 500})
    pyarrow.parquet.write_table(table, path, compression="snappy", use_dictionary=False)
    whole = path.read_bytes()
    refused = 0
    for place in range(4, len(whole) - 8, len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_orders_file(str(path), None, DesiredState())
        except YouCanInvalidInputError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_can_not_be_read_is_refused_in_one_sentence(sandbox: Sandbox, tmp_path: Path, name: str) -> None:
    path, (data, message) = tmp_path / name, BAD_FILES[name]
    path.write_bytes(data)

    with pytest.raises(YouCanInvalidInputError, match=message) as error:
        reconcile(orders_file=str(path))

    assert str(error.value).count("nothing was sent") == 1
    assert "Fatima" not in str(error.value)
    assert len(str(error.value)) < 1000
    assert puts(sandbox) == 0


def test_a_broken_line_can_be_left_out_and_an_open_quote_can_not(
    sandbox: Sandbox, pending: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "feed.csv"
    path.write_text(f'order_id,payment_status\n"x"y,paid\n{pending[0]},paid\nz\n')
    summary = reconcile(orders_file=str(path), on_invalid="skip")
    assert (summary["rows"], summary["invalid"], summary["changed"]) == (3, 2, 1)

    path.write_text(f'order_id,payment_status\n{pending[1]},paid\n"x,paid\n{pending[2]},paid\n')
    with pytest.raises(YouCanInvalidInputError, match="a quote that is not closed takes in all that follows"):
        reconcile(orders_file=str(path), on_invalid="skip")
    assert paid(sandbox) & set(pending) == {pending[0]}


def test_a_file_that_is_not_there_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for path in (tmp_path / "nowhere.csv", tmp_path / "folder.csv"):
        with pytest.raises(YouCanInvalidInputError, match=f"There is no file at {path}"):
            reconcile(orders_file=str(path))
    with pytest.raises(YouCanConnectionError, match="can't be read"):
        reconcile(orders_file="s3://bucket/feed.csv")
    with pytest.raises(YouCanInvalidInputError, match="orders_file is ''"):
        reconcile(orders_file="")


@pytest.mark.parametrize(
    "arguments",
    [
        {"orders_file": "a.csv", "orders": []},
        {"orders_file": "a.csv", "sql": "select 1", "conn_id": "x"},
        {"orders_file": "a.csv", "plan": "p.jsonl"},
        {"orders": [], "file_options": {}},
        {"orders_file": "a.csv", "file_options": {"delimeter": ";"}},
        {"orders_file": "a.csv", "file_options": {"delimiter": ""}},
        {"orders_file": "a.csv", "file_options": {"delimiter": "::"}},
        {"orders_file": "a.csv", "file_options": {"encoding": "klingon"}},
        {"orders_file": "a.csv", "file_options": {"encoding": "base64"}},
        {"orders_file": "a.csv", "file_options": {"encoding": "utf\0"}},
        {"orders_file": "a.csv", "file_options": ";"},
    ],
)
def test_sources_that_make_no_sense_are_refused_when_the_dag_is_parsed(arguments: dict[str, Any]) -> None:
    with pytest.raises(YouCanInvalidInputError):
        YouCanReconcileOrdersOperator(task_id="reconcile", **arguments)


def test_an_option_that_a_file_has_no_use_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(YouCanInvalidInputError, match="file_options has 'delimiter', which do not apply to feed.jsonl"):
        read_orders_file("feed.jsonl", {"delimiter": ";"}, DesiredState())


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "feed.parquet"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(YouCanInvalidInputError, match="needs pyarrow, which is not installed here"):
        read_orders_file(str(path), None, DesiredState())


@given(st.binary(max_size=300), st.sampled_from(["csv", "jsonl", "csv.gz", "parquet"]))
def test_any_bytes_are_rows_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, kind: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{kind}"
    path.write_bytes(b"order_id,status\n" + data if kind == "csv" else data)
    desired = DesiredState(empty_is_null=True)

    try:
        read_orders_file(str(path), None, desired)
    except YouCanInvalidInputError as error:
        assert "nothing was sent" in str(error)


@given(
    st.lists(
        st.tuples(
            st.text("abcdef0123456789-", min_size=1, max_size=20),
            st.text(min_size=1).filter(lambda text: text.strip() not in ("", "None") and "\x00" not in text),
        ),
        max_size=20,
    )
)
def test_what_a_csv_writer_writes_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    import csv

    path = tmp_path_factory.getbasetemp() / "written.csv"
    with path.open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        writer = csv.writer(file)
        writer.writerows([("order_id", "status"), *rows])
    desired = DesiredState()
    try:
        read_orders_file(str(path), None, desired)
    except YouCanInvalidInputError:
        assert any("\ud800" <= character <= "\udfff" for _, text in rows for character in text)
        return

    found = [(order.order_id, row, status.general) for order in desired.orders for row, status in order.entries]
    expected = [(order_id, number, text) for number, (order_id, text) in enumerate(rows, 1)]
    assert sorted(found, key=lambda entry: entry[1]) == expected
    assert desired.invalid == []
