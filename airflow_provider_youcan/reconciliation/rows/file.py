"""The rows of a file: CSV, JSON lines or Parquet, read as a stream from where ``ObjectStoragePath`` leads."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import logging
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.reconciliation.storage import open_file

if TYPE_CHECKING:
    from airflow_provider_youcan.reconciliation.rows.desired import DesiredState

__all__ = ["check_file_options", "read_orders_file"]

_log = logging.getLogger(__name__)

_ROWS_A_BATCH = 1000
_MAX_LINE = 1_000_000
_DELIMITERS = (",", ";", "\t", "|")
_OPTIONS = {"csv": {"delimiter", "encoding"}, "json": {"encoding"}, "parquet": set[str]()}
_KINDS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}


def read_orders_file(path: str, options: Mapping[str, str] | None, desired: DesiredState) -> None:
    """
    Read the rows of a file into a desired state. A broken line is an invalid row; what makes the rest of the file
    doubtful refuses it all.

    :param path: its path or URL, which ends in ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson``, each also with ``.gz``,
        or in ``.parquet``.
    :param options: as :func:`check_file_options` takes them.
    :param desired: takes the rows.
    :raises YouCanInvalidInputError: if it isn't there, is empty, or can't be read as what it is called.
    :raises YouCanConnectionError: if its storage is out of reach.
    """
    options = check_file_options(options)
    name = path.lower()
    is_compressed = name.endswith(".gz")
    name = name.removesuffix(".gz")
    kind = next((kind for ending, kind in _KINDS.items() if name.endswith(ending)), None)
    if kind is None or (kind == "parquet" and is_compressed):
        raise YouCanInvalidInputError(
            f"The name of {path} does not say how to read it, so nothing was sent: give a file that ends in .csv, "
            ".tsv, .jsonl or .ndjson, each also with .gz, or in .parquet."
        )
    if unfit := options.keys() - _OPTIONS[kind]:
        raise YouCanInvalidInputError(
            f"file_options has {' and '.join(map(repr, sorted(unfit)))}, which do not apply to {path}, so "
            "nothing was sent."
        )
    with open_file(path, "file") as file:
        if kind == "parquet":
            _read_parquet(file, path, desired)
            return
        stream = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if is_compressed else file
        lines = _read_lines(stream, path, options.get("encoding", "utf-8-sig"))
        if (first := next(lines, None)) is None:
            raise YouCanInvalidInputError(f"The file at {path} is empty, so nothing was sent: check what writes it.")
        lines = itertools.chain([first.removeprefix("\ufeff")], lines)
        if kind == "csv":
            _read_csv(lines, path, options.get("delimiter"), desired)
        else:
            _read_json(lines, desired)


def check_file_options(options: object) -> Mapping[str, str]:
    """
    Return how a file is to be read, if that can be.

    :param options: for CSV the ``delimiter``, one character (default: the one of ``,`` ``;`` tab and ``|`` that is most
        frequent in the header); for CSV and JSON lines the ``encoding`` (default UTF-8, with or without BOM); ``None``
        for the defaults.
    :raises YouCanInvalidInputError: for anything else.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not options.keys() <= _OPTIONS["csv"]:
        raise YouCanInvalidInputError(
            f"file_options is {options!r:.200}; nothing was sent: give a mapping of 'delimiter' and 'encoding', or one."
        )
    delimiter, encoding = options.get("delimiter", ","), options.get("encoding", "utf-8")
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n':
        raise YouCanInvalidInputError(f"The delimiter is {delimiter!r}; nothing was sent: give one character.")
    try:
        "".encode(encoding)
    except (LookupError, TypeError, ValueError):
        raise YouCanInvalidInputError(
            f"There is no encoding {encoding!r}; nothing was sent: give one that Python knows, such as 'cp1256'."
        ) from None
    return cast("Mapping[str, str]", options)


def _read_lines(stream: BinaryIO, path: str, encoding: str) -> Iterator[str]:
    text = io.TextIOWrapper(stream, encoding=encoding, newline="")
    number = 0
    try:
        while line := text.readline(_MAX_LINE + 1):
            number += 1
            if len(line) > _MAX_LINE:
                raise YouCanInvalidInputError(
                    f"Line {number:,} of {path} is longer than {_MAX_LINE:,} characters, so nothing was sent: no order "
                    "takes that much."
                )
            yield line
    except UnicodeError as error:
        if isinstance(error, UnicodeDecodeError):
            number += 1 + error.object[: error.start].count(b"\n")
        failure = (
            f"Line {number:,} of {path} is not in the encoding {encoding!r}, so nothing was sent: name its own in "
            "file_options, such as {'encoding': 'cp1252'}."
        )
    except (gzip.BadGzipFile, EOFError, zlib.error):
        failure = f"The file at {path} is not a complete gzip file, so nothing was sent: check what writes it."
    else:
        return
    raise YouCanInvalidInputError(failure)


def _read_csv(lines: Iterator[str], path: str, delimiter: str | None, desired: DesiredState) -> None:
    skipped, header = 0, ""
    for header in lines:
        if header.strip():
            break
        skipped += 1
    else:
        raise YouCanInvalidInputError(f"{path} has no header, so nothing was sent: all of its lines are blank.")
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
                    f"What begins on line {line:,} of {path} can't be read as CSV ({error}), so nothing was sent: a "
                    "quote that is not closed takes in all that follows."
                ) from None
            row = YouCanInvalidInputError(f"it can't be read as CSV: {error}")
        else:
            if names is None:
                names = [name.strip() for name in cells]
                _check_header(names, path, line, delimiter, desired)
                continue
            if not cells:  # an empty line
                continue
            row = dict(zip(names, cells, strict=False))
            if len(cells) != len(names):
                row = YouCanInvalidInputError(f"it has {len(cells)} cells, and the header {len(names)}")
        desired.add(row, line)


def _find_delimiter(header: str) -> str:
    unquoted = re.sub('"[^"]*"', "", header)
    return max(_DELIMITERS, key=unquoted.count)


def _check_header(names: Sequence[str], path: str, line: int, delimiter: str, desired: DesiredState) -> None:
    if not desired.find_columns(names):
        # What stands there instead is not shown: it may be a customer's.
        raise YouCanInvalidInputError(
            f"Line {line:,} of {path} is not a header, so nothing was sent: separated by {delimiter!r}, none of its "
            "cells is the name of a column that is read. Columns are 'order_id' or 'ref', 'status', 'shipping_status' "
            "and 'payment_status', or what columns calls them; file_options names another delimiter."
        )
    if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
        raise YouCanInvalidInputError(
            f"Line {line:,} of {path} has the column {' and '.join(map(repr, twice))} more than once, so nothing was "
            "sent: give each a name of its own."
        )
    desired.check_columns(names)


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
    desired.check_rows()


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise YouCanInvalidInputError("it is a JSON object that has a key more than once")
    return found


def _read_parquet(file: BinaryIO, path: str, desired: DesiredState) -> None:
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise YouCanInvalidInputError(
            f"Reading {path} needs pyarrow, which is not installed here, so nothing was sent: install it, or write the "
            "file as CSV or JSON lines."
        ) from None
    try:
        table = ParquetFile(file)
        names = table.schema_arrow.names
        desired.check_columns(names)
        columns = desired.find_columns(names)
        # A name with a dot in it would be taken for a path.
        is_plain = not any("." in str(name) for name in names)
        for batch in table.iter_batches(batch_size=_ROWS_A_BATCH, columns=columns if is_plain else None):
            for row in batch.select(columns).to_pylist():
                desired.add(row)
    except (pa.ArrowException, OSError, UnicodeError, OverflowError):  # pyarrow calls damaged pages an OSError
        raise YouCanInvalidInputError(
            f"The file at {path} is not a complete Parquet file, or has values that can't be read, so nothing was "
            "sent: check what writes it."
        ) from None
