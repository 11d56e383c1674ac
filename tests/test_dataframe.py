"""Rows from what people have in hand: lists, generators, and tables of pandas, polars and pyarrow."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from tests.conftest import Sandbox, paid, reconcile

TABLES: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "list": lambda data: [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)],
    "generator": lambda data: (dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)),
    "list of lists": lambda data: [list(data), *map(list, zip(*data.values(), strict=True))],
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


def test_a_sheet_leaves_out_the_cells_at_the_end_of_a_row(sandbox: Sandbox, pending: list[str]) -> None:
    sheet = [
        ["youcan id", "Paiement", "Expédition"],
        [pending[0], "COLLECTED", ""],
        [],
        [pending[1], "", "shipped"],
        [pending[2], "COLLECTED"],
        ["", "", ""],
    ]

    summary = reconcile(
        orders=sheet,
        columns={"order_id": "youcan id", "payment_status": "Paiement", "shipping_status": "Expédition"},
        status_map={"payment": {"COLLECTED": "paid"}},
    )

    assert (summary["rows"], summary["invalid"], summary["changed"]) == (3, 0, 3)
    assert set(pending) & paid(sandbox) == {pending[0], pending[2]}


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        ([["Fatima", "+212600000000"], ["a", "paid"]], "whose first row is not a header"),
        ([["order_id", "status"], ["a", "closed", "x"]], "row 1: it has 3 cells, and the header 2"),
        ([["order_id", "status"], {"order_id": "a"}], "row 1: it is of type dict, and the header is a list"),
        ([["order_id", "status", "STATUS"], ["a", "closed", "x"]], "There are several columns 'status'"),
        ([[]], "whose first row is not a header"),
    ],
)
def test_a_sheet_that_can_not_be_read_is_refused(sandbox: Sandbox, sheet: Any, message: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match=message) as error:
        reconcile(orders=sheet)

    assert "Fatima" not in str(error.value)
    assert sandbox.shop.requests() == []


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
    with pytest.raises(YouCanInvalidInputError, match="1.0 is not a ref: read the column as text"):
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
def test_anything_but_a_table_is_refused(sandbox: Sandbox, table: Any, message: str) -> None:
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


def to_dict(dag: Any) -> Any:
    try:
        from airflow.serialization.serialized_objects import DagSerialization as Serialization
    except ImportError:  # before Airflow 3.2
        from airflow.serialization.serialized_objects import SerializedDAG as Serialization
    return Serialization.to_dict(dag)


def test_iterables_stay_out_of_the_serialized_dag() -> None:
    def serialize() -> str:
        with DAG("rows", schedule=None) as dag:
            YouCanReconcileOrdersOperator(task_id="a", orders=(row for row in []))
            YouCanReconcileOrdersOperator(task_id="b", orders=pd.DataFrame({"order_id": ["secret"]}))
        return str(to_dict(dag))

    first = serialize()

    assert first == serialize()
    assert "secret" not in first
    assert "generator" not in first
