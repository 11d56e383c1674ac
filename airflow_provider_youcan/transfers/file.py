"""The orders as a file: written beside its name, and put in its place when it is whole."""

from __future__ import annotations

import csv
import gzip
import io
import json
import secrets
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from airflow_provider_youcan.exceptions import YouCanConnectionError, YouCanInvalidInputError
from airflow_provider_youcan.reconciliation.storage import as_path, is_local
from airflow_provider_youcan.transfers.columns import Row

__all__ = ["OrdersFile", "check_orders_path"]

_ENDINGS = (".parquet", ".jsonl", ".ndjson", ".csv")
_ROWS_A_GROUP = 20_000


def check_orders_path(path: str) -> str:
    """
    Return a path whose name says how the file is written.

    :param path: a path or URL that ends in ``.parquet``, or in ``.jsonl``, ``.ndjson`` or ``.csv``, each also with
        ``.gz``.
    :raises YouCanInvalidInputError: for anything else.
    """
    name = path.lower()
    if name.removesuffix(".gz").endswith(_ENDINGS) and not name.endswith(".parquet.gz"):
        return path
    raise YouCanInvalidInputError(
        f"The name of {path} does not say how to write it",
        advice="let it end in .parquet, or in .jsonl, .ndjson or .csv, each also with .gz.",
        outcome="nothing was read",
    )


class OrdersFile:
    """
    Writes rows to a file that is there once it is whole: ``None`` after the last row completes it.

    :param path: its path or URL, checked. What is there already is replaced.
    :param columns: the columns, each with its type in SQL.
    """

    def __init__(self, path: str, columns: Mapping[str, str]) -> None:
        self.name = f"The file at {path}"
        self._path = path
        self._columns = columns
        self._target: Any = None
        self._temporary: Path | None = None
        self._file: BinaryIO | None = None
        self._format: _Text | _Parquet

    def open(self) -> None:
        """Create a file beside the name, or in the folder for temporary files if that is in an object store."""
        kind = self._path.lower().removesuffix(".gz").rpartition(".")[2]
        try:
            self._target = as_path(self._path)
            if is_local(self._target):
                target = Path(self._target.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.is_dir():
                    raise IsADirectoryError("it is a directory")
                self._temporary = target.parent / f".{target.name}.{secrets.token_hex(4)}"
            else:
                self._target.fs.exists(self._target.path)  # it is seen at once if the storage is out of reach
                self._temporary = Path(tempfile.mkdtemp(prefix="youcan-")) / "orders"
            self._file = self._temporary.open("w+b")
            if kind == "parquet":
                self._format = _Parquet(self._file, self._columns)
            else:
                encode = _encode_csv if kind == "csv" else _encode_json
                self._format = _Text(self._file, self._columns, encode, is_compressed=self._path.lower().endswith("gz"))
        except (ImportError, ValueError, IsADirectoryError, NotADirectoryError) as error:
            raise YouCanInvalidInputError(
                f"The file at {self._path} can't be written", advice=f"{error}.", outcome="nothing was read"
            ) from None
        except Exception as error:  # whatever a storage raises
            raise YouCanConnectionError(
                f"The file at {self._path} can't be written ({type(error).__name__}: {error})",
                advice="it may work later; nothing was read.",
            ) from None

    def append(self, rows: list[Row | None]) -> None:
        """Write rows, or none of them; ``None`` puts the file in its place."""
        self._format.write([row for row in rows if row is not None])
        if None in rows:
            self._complete()

    def close(self) -> None:
        """Remove what is left if the file was not completed."""
        if self._file is not None:
            self._file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
            if not is_local(self._target):
                with suppress(OSError):
                    self._temporary.parent.rmdir()

    def _complete(self) -> None:
        assert self._file is not None  # noqa: S101  # for the type checker: it is open
        assert self._temporary is not None  # noqa: S101
        self._format.finish()
        self._file.flush()
        if is_local(self._target):
            self._temporary.replace(self._target.path)
        else:
            self._target.fs.put_file(str(self._temporary), self._target.path)


class _Text:
    """CSV or JSON lines."""

    def __init__(
        self, file: BinaryIO, columns: Mapping[str, str], encode: Callable[..., str], *, is_compressed: bool
    ) -> None:
        self._file = file
        self._names = list(columns)
        self._encode = encode
        self._is_compressed = is_compressed
        self._size = 0
        self._needs_header = encode is _encode_csv

    def write(self, rows: list[Row]) -> None:
        text = self._encode(self._names, rows, self._needs_header)
        # Members of gzip that follow each other are one file.
        data = gzip.compress(text.encode()) if self._is_compressed else text.encode()
        # After an error, what was written of these rows is written over.
        self._file.seek(self._size)
        self._file.truncate()
        self._file.write(data)
        self._file.flush()
        self._size += len(data)
        self._needs_header = False

    def finish(self) -> None:
        pass


class _Parquet:
    def __init__(self, file: BinaryIO, columns: Mapping[str, str]) -> None:
        try:
            import pyarrow as pa
            from pyarrow.parquet import ParquetWriter
        except ImportError:
            raise ImportError("it takes pyarrow, which is not installed here") from None
        kinds = {"timestamp": pa.timestamp("us", "UTC"), "decimal(20, 4)": pa.float64()}
        self._pa = pa
        self._schema = pa.schema([(name, kinds.get(kind, pa.string())) for name, kind in columns.items()])
        self._writer = ParquetWriter(file, self._schema)
        self._rows: list[Row] = []

    def write(self, rows: list[Row]) -> None:
        waiting = self._rows + rows
        if len(waiting) >= _ROWS_A_GROUP:
            self._write_group(waiting)
            waiting = []
        self._rows = waiting

    def finish(self) -> None:
        if self._rows:
            self._write_group(self._rows)
            self._rows = []
        self._writer.close()

    def _write_group(self, rows: list[Row]) -> None:
        columns = list(zip(*rows, strict=True))
        arrays = [self._pa.array(cells, field.type) for cells, field in zip(columns, self._schema, strict=True)]
        self._writer.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))


def _encode_csv(names: list[str], rows: list[Row], needs_header: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    if needs_header:
        writer.writerow(names)
    writer.writerows([[_as_text(value) for value in row] for row in rows])
    return text.getvalue()


def _encode_json(names: list[str], rows: list[Row], _: bool) -> str:
    lines = [dict(zip(names, map(_as_text, row), strict=True)) for row in rows]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _as_text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
