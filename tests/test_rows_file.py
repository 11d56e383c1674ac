"""Rows of a file: CSV, JSON lines and Parquet, compressed or not, and all that can be wrong with them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import openpyxl
import pyarrow as pa
import pyarrow.parquet
import pytest
import xlwt
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_youcan.checks import check_status_text
from airflow_provider_youcan.exceptions import YouCanConnectionError, YouCanInvalidInputError, YouCanPermanentError
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from airflow_provider_youcan.orders import StatusContext, normalize_text
from airflow_provider_youcan.reconciliation.rows.desired import DesiredState
from airflow_provider_youcan.reconciliation.rows.file import read_orders_file
from airflow_provider_youcan.reconciliation.storage import as_path
from tests.conftest import Sandbox, paid, paths, payable, reconcile

try:
    from airflow.sdk.io.store import attach
except ImportError:  # Airflow 2
    from airflow.io.store import attach

BIG = "x" * 10_000_000
_zip = io.BytesIO()
with zipfile.ZipFile(_zip, "w") as archive:
    archive.writestr("a.txt", "no workbook")
ZIP = _zip.getvalue()
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
    "arabic.csv": ("order_id,status\na,مدفوع\n".encode("cp1256"), "Line 2 of .* 'cp1256'"),
    "french.csv": ("order_id,status\na,réglé\n".encode("cp1252"), "Line 2 of .* 'cp1252'"),
    "utf16le.csv": ("order_id,status\n".encode("utf-16-le"), "Line 1 of .* is not a header"),
    "big.csv": (f"order_id,status\na,{BIG}\n".encode(), "Line 2 of .* is longer than 1,000,000 characters"),
    "bigish.csv": (f"order_id,status\na,{BIG[:200000]}\n".encode(), r"row 1: it can't be read as CSV: field larger"),
    "rows.json": (b"[]", "does not say how to read it"),
    "rows.xlsx": (b"PK", "is not a whole workbook"),
    "zip.xlsx": (ZIP, "is not a whole workbook"),
    "empty.ods": (b"", "is not a whole workbook"),
    "rows.xlsx.gz": (b"x", "does not say how to read it"),
    "rows.feather": (b"x", "does not say how to read it.*@task.youcan_reconcile"),
    "rows.parquet.gz": (b"x", "does not say how to read it"),
    "rows.jsonl": (b'{"order_id": "a", "status": "closed"}\n[1]\n', r"row 2: it is not a JSON object \(line 2\)"),
    "cut.jsonl": (b'{"order_id": "a", "status": "closed"}\n\n{"order', r"row 2: it is not a JSON object \(line 3\)"),
    "twice.jsonl": (b'{"order_id": "a", "status": "closed", "status": "open"}', "that has a key more than once"),
    "deep.jsonl": (b"[" * 100_000, "it is not a JSON object"),
    "empty.ndjson": (b"", "is empty"),
    "cut.csv.gz": (gzip.compress(b"order_id,status\na,closed\n" * 999)[:-20], "is not a complete gzip file"),
    "no.csv.gz": (b"order_id,status\n", "is not a complete gzip file"),
    "no.csv.bz2": (b"order_id,status\n", "is not a complete bz2 file"),
    "cut.csv.xz": (lzma.compress(b"order_id,status\na,closed\n" * 999)[:-20], "is not a complete xz file"),
    "empty.csv.gz": (gzip.compress(b""), "is empty"),
    "empty.parquet": (b"", "is not a complete Parquet file"),
    "no.parquet": (b"order_id,status\n" * 99, "is not a complete Parquet file"),
}


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


def test_file_options_say_how_a_csv_is_read(sandbox: Sandbox, pending: list[str], tmp_path: Path) -> None:
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
    assert paths(sandbox, "PUT") == []


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
    for path in ("klingon://bucket/feed.csv", "abfs://bucket/feed.csv"):  # no such storage, and no provider for it
        with pytest.raises(YouCanInvalidInputError, match="can't be read"):
            reconcile(orders_file=path)
    with pytest.raises(YouCanInvalidInputError, match="orders_file is ''"):
        reconcile(orders_file="")


class StorageError(Exception):
    """An error such as botocore's, which has no more to do with Python's own than being one."""


@pytest.mark.parametrize("name", ["feed.csv", "feed.csv.gz", "feed.parquet"])
def test_a_storage_that_fails_while_a_file_is_read_is_transient(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*arguments: object) -> bytes:
        raise StorageError("the storage went away")

    attach("memory", fs=MemoryFileSystem())
    as_path(f"memory://feeds/{name}").write_bytes(b"order_id,payment_status\n" * 99)
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.read", fail)

    with pytest.raises(YouCanConnectionError, match=r"can't be read \(StorageError: the storage went away\)"):
        reconcile(orders_file=f"memory://feeds/{name}")


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


def is_plain_status(text: str) -> bool:
    """Return whether a text can be a status, and is in its normal form already."""
    with suppress(YouCanInvalidInputError):
        return check_status_text(text) == normalize_text(text)
    return False


@given(
    st.lists(
        st.tuples(
            st.text("abcdef0123456789-", min_size=1, max_size=20),
            st.text(min_size=1).filter(is_plain_status),
        ),
        max_size=20,
    )
)
def test_a_csv_writers_rows_are_read_unchanged(
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
        pytest.fail("what was written is read")

    found = [
        (order.order_id, row, status.get(StatusContext.GENERAL))
        for order in desired.orders
        for row, status in order.entries
    ]
    expected = [(order_id, number, text) for number, (order_id, text) in enumerate(rows, 1)]
    assert sorted(found, key=lambda entry: entry[1]) == expected
    assert desired.invalid == []


# --- workbooks, title lines, and what else spreadsheets do ---


def write_workbook(path: Path, sheets: dict[str, list[list[Any]]]) -> str:
    """Write sheets as Excel does, or LibreOffice, or Excel of 1997."""
    if path.suffix == ".xls":
        old = xlwt.Workbook()
        for name, rows in sheets.items():
            sheet = old.add_sheet(name)
            for row, cells in enumerate(rows):
                for column, cell in enumerate(cells):
                    if cell is not None:
                        sheet.write(row, column, cell)
        old.save(str(path))
    elif path.suffix == ".ods":
        write_ods(path, sheets)
    else:
        new = openpyxl.Workbook()
        new.remove(new.active)
        for name, rows in sheets.items():
            sheet = new.create_sheet(name)
            for cells in rows:
                sheet.append(cells)
        new.save(path)
    return str(path)


def write_ods(path: Path, sheets: dict[str, list[list[Any]]]) -> None:
    def cell(value: Any) -> str:
        if value is None:
            return "<table:table-cell/>"
        if isinstance(value, (int, float)):
            return f'<table:table-cell office:value-type="float" office:value="{value}"/>'
        text = f"<text:p>{escape(str(value))}</text:p>"
        return f'<table:table-cell office:value-type="string">{text}</table:table-cell>'

    tables = "".join(
        f'<table:table table:name="{name}">'
        + "".join(f"<table:table-row>{''.join(map(cell, row))}</table:table-row>" for row in rows)
        + "</table:table>"
        for name, rows in sheets.items()
    )
    names = "".join(
        f' xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in ("office", "table", "text")
    )
    body = f"<office:body><office:spreadsheet>{tables}</office:spreadsheet></office:body>"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("META-INF/manifest.xml", "<x/>")
        archive.writestr("content.xml", f"<office:document-content{names}>{body}</office:document-content>")


@pytest.mark.parametrize("ending", ["xlsx", "xlsm", "xls", "ods"])
def test_a_workbook_is_a_table(sandbox: Sandbox, tmp_path: Path, ending: str) -> None:
    first, second, third, *_ = payable(sandbox)
    numbers = {order["id"]: order["ref"] for order in sandbox.shop.orders()}
    sheets = {
        "Notes": [["nothing"]],
        "Mars": [
            ["Courier's feed", None, None],
            [None, None, None],
            ["ref", "payment_status", "remark"],
            [
                int(numbers[first])
                if numbers[first].isdecimal() and not numbers[first].startswith("0")
                else numbers[first],
                "paid",
                12.5,
            ],
            [numbers[second], "paid", "Fatima"],
            [None, None, None],
            [numbers[third], None, None],
        ],
    }
    path = write_workbook(tmp_path / f"feed.{ending}", sheets)

    for options in ({"sheet": "Mars", "header_row": 3}, {"sheet": 2, "header_row": "3"}):
        summary = reconcile(orders_file=path, file_options=options)
    assert (summary["rows"], summary["invalid"], summary["unchanged"]) == (3, 0, 2)
    assert paid(sandbox) >= {first, second}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sheet": "April"}, "has no sheet 'April': there are 'Mars'"),
        ({"sheet": 2}, "has no sheet 2"),
        ({"sheet": 0}, "has no sheet 0"),
        ({"header_row": 9}, "in row 9, which is beyond its end"),
        ({"header_row": 2}, "Row 2 of .* is not a header"),
        ({"delimiter": ";"}, "file_options has 'delimiter', which do not apply"),
    ],
)
def test_a_sheet_that_is_not_there_is_refused(
    sandbox: Sandbox, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    path = write_workbook(tmp_path / "feed.xlsx", {"Mars": [["order_id", "status"], ["abc", "closed"]]})

    with pytest.raises(YouCanInvalidInputError, match=message):
        reconcile(orders_file=path, file_options=options)
    assert sandbox.shop.requests() == []


def test_an_empty_sheet_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "feed.xlsx", {"Mars": []})
    with pytest.raises(YouCanInvalidInputError, match="has no header"):
        reconcile(orders_file=path)


def test_a_workbook_without_its_reader_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "feed.xlsx", {"Mars": [["order_id", "status"]]})
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(YouCanInvalidInputError, match=r"airflow-provider-youcan\[excel\]"):
        read_orders_file(path, None, DesiredState())


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("sep=;\norder_id;payment_status\n{};paid\n", {}),
        ("SEP=|\r\norder_id|payment_status\r\n{}|paid\r\n|\r\n", {}),
        ("Courier,Express\n\norder_id,payment_status\n{},paid\n,\n", {"header_row": 3}),
        ("order_id,note,payment_status,note\n{},a,paid,b\n,,,\n", {}),
    ],
)
def test_a_spreadsheets_additions_to_a_csv_are_understood(
    sandbox: Sandbox, tmp_path: Path, text: str, options: dict[str, Any]
) -> None:
    order_id = payable(sandbox)[0]
    (tmp_path / "feed.csv").write_text(text.format(order_id), newline="")

    summary = reconcile(orders_file=str(tmp_path / "feed.csv"), file_options=options or None)
    assert (summary["rows"], summary["changed"]) == (1, 1)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_bom_decides(sandbox: Sandbox, tmp_path: Path, encoding: str) -> None:
    order_id = payable(sandbox)[0]
    (tmp_path / "feed.csv").write_bytes(f"order_id,payment_status\n{order_id},paid\n".encode(encoding))

    assert reconcile(orders_file=str(tmp_path / "feed.csv"), file_options={"encoding": "cp1252"})["changed"] == 1


@pytest.mark.parametrize(("ending", "compress"), [("bz2", bz2.compress), ("xz", lzma.compress), ("gz", gzip.compress)])
def test_a_compressed_file_is_read(sandbox: Sandbox, tmp_path: Path, ending: str, compress: Any) -> None:
    order_id = payable(sandbox)[0]
    path = tmp_path / f"feed.csv.{ending}"
    path.write_bytes(compress(f"order_id,payment_status\n{order_id},paid\n".encode()))

    assert reconcile(orders_file=str(path))["changed"] == 1


@pytest.mark.parametrize("name", ["feed.csv", "feed.jsonl", "feed.xlsx"])
def test_a_row_that_fails_is_found_by_its_line(sandbox: Sandbox, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rows = [("ref", "status"), ("", ""), ("9001", "closed"), ("", ""), ("9002", "closed")]
    if name.endswith("csv"):
        path.write_text("Mars\n" + "".join(f"{ref},{status}\n" for ref, status in rows))
    elif name.endswith("jsonl"):
        path.write_text("\n\n" + "".join(f'{{"ref": "{ref}", "status": "{status}"}}\n' for ref, status in rows[1:]))
    else:
        book = openpyxl.Workbook()
        for row in [("Mars",), *rows]:
            book.active.append(row)
        book.save(path)

    with pytest.raises(YouCanPermanentError) as error:
        reconcile(orders_file=str(path), file_options=None if name.endswith("jsonl") else {"header_row": 2})

    assert "Row 1, order #9001: the shop has no order with this ref (line 4)." in str(error.value)
    assert "Row 2, order #9002: the shop has no order with this ref (line 6)." in str(error.value)
