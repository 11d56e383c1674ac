"""The same feed of a courier from every source that people have: each promise about cells and rows holds for all."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import polars as pl
import psycopg2
import pyarrow as pa
import pyarrow.parquet
import pytest

from airflow_provider_youcan.exceptions import YouCanPermanentError
from airflow_provider_youcan.orders import StatusContext
from tests.conftest import Sandbox, reconcile

Rows = list[dict[str, Any]]
Source = Callable[[Rows], dict[str, Any]]
"""Returns the arguments of the operator by which these rows are its source."""

SOURCES = ("list", "sheet", "csv", "excel", "jsonl", "parquet", "pandas", "polars", "sqlite", "postgres")


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    kind = request.param

    def from_sql(rows: Rows) -> dict[str, Any]:
        path = str(tmp_path / "warehouse.db")
        if kind == "sqlite":
            connection: dict[str, Any] = {"conn_type": "sqlite", "host": path}
            opened: Any = sqlite3.connect(path)
        else:
            host = request.getfixturevalue("postgres")
            connection = {"conn_type": "postgres", "host": host, "login": "postgres", "schema": "postgres"}
            opened = psycopg2.connect(host=host, user="postgres", dbname="postgres")
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))
        with closing(opened), closing(opened.cursor()) as cursor:
            cursor.execute("drop table if exists feed")
            # Padded, as CHAR columns are.
            text = "char(40)" if kind == "postgres" else "text"
            cursor.execute(f"create table feed (number {text}, state {text}, paid {text}, at text, note text)")
            mark = "?" if kind == "sqlite" else "%s"
            cursor.executemany(
                f"insert into feed values ({', '.join([mark] * 5)})", [tuple(row.values()) for row in rows]
            )
            opened.commit()
        return {"sql": "select * from feed order by note", "conn_id": "warehouse"}

    def from_file(rows: Rows) -> dict[str, Any]:
        path = tmp_path / f"feed.{ {'excel': 'xlsx'}.get(kind, kind) }"
        if kind == "csv":
            lines = [
                ";".join(rows[0]),
                *(";".join("" if cell is None else str(cell) for cell in row.values()) for row in rows),
            ]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        elif kind == "excel":
            book = openpyxl.Workbook()
            for line in [list(rows[0]), *(list(row.values()) for row in rows)]:
                book.active.append(line)
            book.save(path)
        elif kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
        return {"orders_file": str(path)}

    def from_memory(rows: Rows) -> dict[str, Any]:
        made = {
            "list": lambda: rows,
            "sheet": lambda: [list(rows[0]), *(list(row.values()) for row in rows)],
            "pandas": lambda: pd.DataFrame(rows),
            "polars": lambda: pl.DataFrame(rows),
        }
        return {"orders": made[kind]()}

    if kind in ("sqlite", "postgres"):
        return from_sql
    return from_memory if kind in ("list", "sheet", "pandas", "polars") else from_file


def run(source: Source, rows: Rows, **arguments: Any) -> dict[str, Any]:
    return reconcile(
        **source([{"number": None, "state": None, "paid": None, "at": None, "note": None, **row} for row in rows]),
        columns={"ref": "number", "shipping_status": "state", "payment_status": "paid"},
        status_map={"shipping": {"Livré": "fulfilled", "Expédié": "shipped"}, "payment": {"Encaissé": "paid"}},
        **arguments,
    )


@pytest.fixture
def refs(sandbox: Sandbox) -> list[str]:
    """The numbers of orders that nothing has happened to."""
    return [order["ref"] for order in sandbox.shop.orders() if order["payment_status"] == "pending"][:4]


def statuses(sandbox: Sandbox, ref: str) -> tuple[str, str]:
    (order,) = [order for order in sandbox.shop.orders() if order["ref"] == ref]
    return order["shipping_status"], order["payment_status"]


def test_cells_are_read_in_their_normal_form(sandbox: Sandbox, source: Source, refs: list[str]) -> None:
    rows = [
        {"number": f"  {refs[0]}\u00a0", "state": "Livre\u0301 ", "note": "1"},
        {"number": refs[1], "state": "\u200eLivré", "paid": " Encaissé", "note": "2"},
        {"number": refs[2], "state": None, "paid": "paid ", "note": "3"},
    ]

    summary = run(source, rows)

    assert (summary["rows"], summary["invalid"]) == (3, 0)
    assert statuses(sandbox, refs[0])[0] == "fulfilled"
    assert statuses(sandbox, refs[1]) == ("fulfilled", "paid")
    assert statuses(sandbox, refs[2])[1] == "paid"


def test_a_row_of_nothing_is_no_row(sandbox: Sandbox, source: Source, refs: list[str]) -> None:
    summary = run(source, [{"number": refs[0], "state": "Livré", "note": "1"}, {"note": "2"}, {"note": "3"}])
    assert (summary["rows"], summary["invalid"], summary["changed"]) == (1, 0, 1)


def test_the_latest_event_of_an_order_counts(sandbox: Sandbox, source: Source, refs: list[str]) -> None:
    rows = [
        {"number": refs[0], "state": "Livré", "at": "2026-03-02T15:00:00", "note": "1"},
        {"number": refs[0], "state": "Expédié", "paid": "Encaissé", "at": "2026-03-02T09:00:00", "note": "2"},
    ]

    summary = run(source, rows, latest_by="at")

    assert (summary["changed"], summary["unchanged"]) == (2, 1)
    assert statuses(sandbox, refs[0]) == ("fulfilled", "paid")


def test_orders_of_another_shop_can_be_left_out(sandbox: Sandbox, source: Source, refs: list[str]) -> None:
    rows = [{"number": refs[0], "state": "Livré", "note": "1"}, {"number": "77777", "state": "Livré", "note": "2"}]

    assert run(source, rows, on_not_found="skip")["not_found"] == 1
    with pytest.raises(YouCanPermanentError, match=r"1 not in this shop\): .*\. Row 2, order #77777"):
        run(source, rows)


def test_invalid_rows_are_named_and_may_be_left_out(sandbox: Sandbox, source: Source, refs: list[str]) -> None:
    rows = [{"number": refs[0], "state": "Livré", "note": "1"}, {"number": refs[1], "state": "Livrer", "note": "2"}]

    with pytest.raises(
        YouCanPermanentError, match=rf"\nrow 2, order #{refs[1]}: 'Livrer' is not a .*status_map has 'Livré'"
    ):
        run(source, rows)
    summary = run(source, rows, on_invalid="skip")
    assert (summary["invalid"], summary["changed"]) == (1, 1)


@pytest.mark.parametrize("source", ["excel", "pandas", "polars", "parquet", "jsonl", "list"], indirect=True)
def test_a_number_that_is_no_ref_may_have_lost_its_zeros(sandbox: Sandbox, source: Source) -> None:
    with pytest.raises(YouCanPermanentError, match="the cell is a number, which may have lost its zeros"):
        run(source, [{"number": 77777, "state": "Livré", "note": "1"}])


def test_the_documented_slugs_need_no_map(sandbox: Sandbox, source: Source, refs: list[str]) -> None:
    slug = StatusContext.SHIPPING.documented_slugs[2]
    assert run(source, [{"number": refs[0], "state": slug, "note": "1"}])["changed"] == 1
