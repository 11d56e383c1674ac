"""The rows of a file: CSV, JSON lines, Parquet or a workbook, read from where ``ObjectStoragePath`` leads."""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.reconciliation.rows.parquet import read_parquet
from airflow_provider_youcan.reconciliation.rows.workbook import read_sheet
from airflow_provider_youcan.reconciliation.storage import open_file

if TYPE_CHECKING:
    from airflow_provider_youcan.reconciliation.rows.desired import DesiredState

__all__ = ["check_file_options", "read_orders_file"]

_log = logging.getLogger(__name__)

_MAX_LINE = 1_000_000
_DELIMITERS = (",", ";", "\t", "|")
_OPTIONS = {
    "csv": {"delimiter", "encoding", "header_row"},
    "json": {"encoding"},
    "parquet": set[str](),
    "workbook": {"sheet", "header_row"},
}
_KINDS = {
    **dict.fromkeys([".csv", ".tsv"], "csv"),
    **dict.fromkeys([".jsonl", ".ndjson"], "json"),
    ".parquet": "parquet",
    **dict.fromkeys([".xlsx", ".xlsm", ".xls", ".ods"], "workbook"),
}
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
_DECOMPRESSION_ERRORS: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error, lzma.LZMAError)
with suppress(ImportError):
    from zstandard import ZstdError

    _DECOMPRESSION_ERRORS += (ZstdError,)
_BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_orders_file(path: str, options: Mapping[str, Any] | None, desired: DesiredState) -> None:
    """
    Read the rows of a file into a desired state. A broken line is an invalid row; what makes the rest of the file
    doubtful refuses it all.

    :param path: its path or URL, which ends in ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson``, each also with ``.gz``,
        ``.bz2``, ``.xz`` or ``.zst``, or in ``.parquet``, ``.xlsx``, ``.xlsm``, ``.xls`` or ``.ods``.
    :param options: as :func:`check_file_options` takes them.
    :param desired: takes the rows.
    :raises YouCanInvalidInputError: if it isn't there, is empty, or is not of the kind that its name says.
    :raises YouCanConnectionError: if its storage is out of reach.
    """
    options = check_file_options(options)
    name = path.lower()
    compression = next((kind for ending, kind in _COMPRESSIONS.items() if name.endswith(ending)), None)
    if compression is not None:
        name = name.rpartition(".")[0]
    kind = next((kind for ending, kind in _KINDS.items() if name.endswith(ending)), None)
    if kind is None or (kind not in ("csv", "json") and compression is not None):
        raise YouCanInvalidInputError(
            f"The name of {path} does not say how to read it",
            advice=(
                "give a file that ends in .csv, .tsv, .jsonl or .ndjson, each also with .gz, .bz2, .xz or .zst, "
                "or in .parquet, .xlsx, .xlsm, .xls or .ods. Of any other, read the rows with "
                "@task.youcan_reconcile."
            ),
        )
    if unfit := options.keys() - _OPTIONS[kind]:
        raise YouCanInvalidInputError(
            f"file_options has {' and '.join(map(repr, sorted(unfit)))}, which do not apply to {path}, so "
            "nothing was sent."
        )
    header_row = int(options.get("header_row", 0))
    with open_file(path, "file") as file:
        if kind == "parquet":
            read_parquet(file, path, desired)
        elif kind == "workbook":
            _read_workbook(read_sheet(file, path, options.get("sheet")), path, header_row, desired)
        else:
            lines = _read_lines(_decompress(file, path, compression), path, options.get("encoding"), compression)
            if (first := next(lines, None)) is None:
                raise YouCanInvalidInputError(f"The file at {path} is empty", advice="check what writes it.")
            lines = itertools.chain([first.removeprefix("\ufeff")], lines)
            if kind == "csv":
                _read_csv(lines, path, options.get("delimiter"), header_row, desired)
            else:
                _read_json(lines, desired)


def check_file_options(options: object) -> Mapping[str, Any]:
    """
    Return the options for reading a file, if they are valid.

    :param options: for CSV the ``delimiter``, one character (default: the one of ``,`` ``;`` tab and ``|`` that is most
        frequent in the header, or what a line ``sep=;`` says); for CSV and JSON lines the ``encoding`` (default UTF-8;
        a BOM decides); for CSV and workbooks the ``header_row``, from 1 (default: the first line that is not blank);
        for workbooks the ``sheet``, its name or its number from 1 (default: the first); ``None`` for the defaults.
    :raises YouCanInvalidInputError: for anything else.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not options.keys() <= set().union(*_OPTIONS.values()):
        raise YouCanInvalidInputError(
            f"file_options is {options!r:.200}",
            advice="give a mapping with one or some of 'delimiter', 'encoding', 'header_row' and 'sheet'.",
        )
    delimiter, encoding = options.get("delimiter", ","), options.get("encoding", "utf-8")
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n':
        raise YouCanInvalidInputError(f"The delimiter is {delimiter!r}", advice="give one character.")
    try:
        "".encode(encoding)
    except (LookupError, TypeError, ValueError):
        raise YouCanInvalidInputError(
            f"There is no encoding {encoding!r}", advice="give one that Python knows, such as 'cp1256'."
        ) from None
    if not re.fullmatch("[1-9][0-9]{0,6}", str(options.get("header_row", 1))):
        raise YouCanInvalidInputError(
            f"header_row is {options['header_row']!r:.100}", advice="give the number of the row, from 1."
        )
    sheet = options.get("sheet", 1)
    if isinstance(sheet, bool) or not isinstance(sheet, (str, int)) or sheet == "":
        raise YouCanInvalidInputError(f"The sheet is {sheet!r:.100}", advice="give its name, or its number from 1.")
    return options


def _decompress(file: BinaryIO, path: str, compression: str | None) -> BinaryIO:
    if compression is None:
        return file
    from fsspec.compression import compr  # type: ignore[import-untyped]

    if compression not in compr:
        raise YouCanInvalidInputError(
            f"Reading {path} needs zstandard, which is not installed here",
            advice="install it, or compress the file with gzip.",
        )
    return cast("BinaryIO", compr[compression](file, mode="r"))


def _read_lines(stream: BinaryIO, path: str, typed: str | None, kind: str | None) -> Iterator[str]:
    number = 0
    try:
        buffered = cast("io.BufferedReader", stream if hasattr(stream, "peek") else io.BufferedReader(stream))
        start = buffered.peek(3)[:3]
        encoding = next((name for bom, name in _BOMS.items() if start.startswith(bom)), typed or "utf-8")
        text = io.TextIOWrapper(buffered, encoding=encoding, newline="")
        while line := text.readline(_MAX_LINE + 1):
            number += 1
            if len(line) > _MAX_LINE:
                raise YouCanInvalidInputError(
                    f"Line {number:,} of {path} is longer than {_MAX_LINE:,} characters",
                    advice="no order takes that much.",
                )
            yield line
    except UnicodeError as error:
        suggested = "'cp1252'"
        if isinstance(error, UnicodeDecodeError):
            number += 1 + error.object[: error.start].count(b"\n")
            suggested = _suggest_encoding(error.object[error.start :])
        what = f"not in the encoding {'UTF-8' if typed is None else repr(typed)}"
        failure = (
            f"Line {number:,} of {path} is {what}, so nothing was sent: name its own in file_options, such as "
            f"{{'encoding': {suggested}}}."
        )
    except _DECOMPRESSION_ERRORS:
        failure = f"The file at {path} is not a complete {kind} file, so nothing was sent: check what writes it."
    else:
        return
    raise YouCanInvalidInputError(failure)


def _suggest_encoding(data: bytes) -> str:
    """Suggest an encoding for bytes that are not UTF-8: Windows' Arabic, if that decodes them to Arabic letters."""
    high = bytes(byte for byte in data[:1000] if byte >= 0x80)
    arabic = sum("\u0600" <= letter <= "\u06ff" for letter in high.decode("cp1256", "replace"))
    return "'cp1256'" if arabic > 0.9 * len(high) and len(high) > 2 else "'cp1252'"


def _read_workbook(rows: Iterable[list[Any]], path: str, header_row: int, desired: DesiredState) -> None:
    numbered = enumerate(rows, 1)
    names: list[str] = []
    for number, cells in numbered:
        if number == header_row or (not header_row and any(cell is not None for cell in cells)):
            names = ["" if cell is None else str(cell) for cell in cells]
            _check_header(names, f"Row {number:,} of {path}", None, desired)
            break
    else:
        raise _no_header(path, header_row)
    for number, cells in numbered:
        desired.add(dict(zip(names, cells, strict=False)), number)


def _no_header(path: str, header_row: int) -> YouCanInvalidInputError:
    where = f"in row {header_row:,}, which is beyond its end" if header_row else "all of its lines are blank"
    return YouCanInvalidInputError(f"{path} has no header", advice=f"{where}.")


def _read_csv(lines: Iterator[str], path: str, delimiter: str | None, header_row: int, desired: DesiredState) -> None:
    skipped, header = 0, ""
    for header in lines:
        if skipped == 0 and (named := re.fullmatch(r"sep=(.)\s*", header, re.IGNORECASE)):
            delimiter = delimiter or named[1]  # Excel's own line, with its delimiter
        elif skipped + 1 == header_row or (not header_row and header.strip()):
            break
        skipped += 1
    else:
        raise _no_header(path, header_row)
    delimiter = delimiter or _find_delimiter(header)
    _log.info("Reading %s, whose cells are separated by %r.", path, delimiter)
    is_at_end = False

    def text() -> Iterator[str]:
        nonlocal is_at_end
        yield header
        yield from lines
        is_at_end = True

    reader = csv.reader(text(), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        line = skipped + reader.line_num + 1
        row: Any
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            if names is None or skipped + reader.line_num > line or is_at_end:
                raise YouCanInvalidInputError(
                    f"What begins on line {line:,} of {path} can't be read as CSV ({error})",
                    advice="a quote that is not closed takes in all that follows.",
                ) from None
            row = YouCanInvalidInputError(f"it can't be read as CSV: {error}")
        else:
            if names is None:
                names = [name.strip() for name in cells]
                _check_header(names, f"Line {line:,} of {path}", delimiter, desired)
                continue
            if not any(cell.strip() for cell in cells):
                continue
            row = dict(zip(names, cells, strict=False))
            if len(cells) != len(names):
                row = YouCanInvalidInputError(f"it has {len(cells)} cells, and the header {len(names)}")
        desired.add(row, line)


def _find_delimiter(header: str) -> str:
    unquoted = re.sub('"[^"]*"', "", header)
    return max(_DELIMITERS, key=unquoted.count)


def _check_header(names: Sequence[str], where: str, delimiter: str | None, desired: DesiredState) -> None:
    if not (found := desired.columns.find(names)):
        # The line itself is not shown: it may be a customer's.
        separated = "" if delimiter is None else f"separated by {delimiter!r}, "
        other = "file_options names another row" + ("" if delimiter is None else ", or another delimiter")
        raise YouCanInvalidInputError(
            f"{where} is not a header",
            advice=(
                f"{separated}none of its cells is the name of a column that is read. Columns are 'order_id' or "
                f"'ref', 'status', 'shipping_status' and 'payment_status', or what columns calls them; {other}."
            ),
        )
    if twice := [name for name in dict.fromkeys(found) if names.count(name) > 1]:
        raise YouCanInvalidInputError(
            f"{where} has the column {' and '.join(map(repr, twice))} more than once",
            advice="give each a name of its own.",
        )
    desired.columns.check(names)


def _read_json(lines: Iterator[str], desired: DesiredState) -> None:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line, object_pairs_hook=_as_object)
        except (ValueError, RecursionError) as error:
            row = error if isinstance(error, YouCanInvalidInputError) else None
        if not isinstance(row, (dict, YouCanInvalidInputError)):
            row = YouCanInvalidInputError("it is not a JSON object")
        desired.add(row, number)
    desired.columns.check_seen()


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise YouCanInvalidInputError("it is a JSON object that has a key more than once")
    return found
