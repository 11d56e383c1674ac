"""The record as a table of the warehouse, through the connection's own ``DbApiHook``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from datetime import datetime, timezone
from typing import Any

from airflow_provider_youcan.exceptions import YouCanConnectionError, YouCanError, YouCanInvalidInputError
from airflow_provider_youcan.reconciliation.record.lines import RECORD_VERSION, Line
from airflow_provider_youcan.reconciliation.rows.query import describe_error, get_database_hook
from airflow_provider_youcan.texts import shorten

__all__ = ["KEYS", "LINE_COLUMNS", "OutcomeTable", "check_table_name", "refuse_missing_columns"]

KEYS = ("dag_id", "run_id", "task_id", "map_index", "try_number")
"""The columns that say which try of which task a row is of."""

LINE_COLUMNS = {
    "order_id": "order_id",
    "ref": "ref",
    "status_context": "context",
    "status_before": "before",
    "status_wanted": "wanted",
    "outcome": "outcome",
    "reason": "reason",
    "unconfirmed": "unconfirmed",
}
"""The columns of a line, each with its key there."""

_ADDED = ("unconfirmed", "line", "youcan_conn_id", "store", "record_version")
"""The columns that older tables lack."""

_COLUMNS = (*KEYS, "table_row", *LINE_COLUMNS, "line", "youcan_conn_id", "store", "record_version", "recorded_at")
_TYPES = {
    **dict.fromkeys(("map_index", "try_number", "table_row", "unconfirmed", "line", "record_version"), "integer"),
    **dict.fromkeys(("order_id", "ref"), "varchar(100)"),
    **dict.fromkeys(("status_context", "outcome"), "varchar(20)"),
    **dict.fromkeys(("status_before", "status_wanted", "reason"), "text"),
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")


def check_table_name(name: object) -> str:
    """
    Return the name of a table.

    :param name: ``name`` or ``schema.name``, of letters, digits and ``_``.
    :raises YouCanInvalidInputError: for anything else.
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise YouCanInvalidInputError(
        f"report_table is {shorten(name)}; nothing was sent: give the name of a table, or schema.name, of letters, "
        "digits and '_'."
    )


class OutcomeTable:
    """
    Appends lines to a table, each batch in a transaction of its own.

    :param name: the table, which is created if it is missing.
    :param conn_id: the Airflow connection of its database.
    :param hook_params: what its hook is made with.
    :param keys: what identifies the try: ``dag_id``, ``run_id``, ``task_id``, ``map_index`` and ``try_number``.
    :param youcan_conn_id: the Airflow connection of the shop.
    """

    def __init__(
        self, name: str, conn_id: str, hook_params: Mapping[str, Any], keys: Mapping[str, Any], youcan_conn_id: str
    ) -> None:
        self.name = f"The table {name}"
        self.store: str | None = None
        """The store's slug, once it is known."""
        self._table = name
        self._conn_id = conn_id
        self._hook_params = hook_params
        self._keys = [keys.get(key) for key in KEYS]
        self._youcan_conn_id = youcan_conn_id
        self._hook: Any = None
        self._connection: Any = None
        self._insert = ""

    def open(self) -> None:
        """Create the table if it is missing, and find out whether it can be written to."""
        try:
            self._hook = get_database_hook(self._conn_id, self._hook_params)
            self._connection = self._hook.get_conn()
        except YouCanError:
            raise
        except Exception as error:  # whatever a database's driver raises
            raise YouCanConnectionError(
                f"The database of the Airflow connection {self._conn_id!r}, where {self._table} is, can't be reached "
                f"({describe_error(error)}), so nothing was sent; it may work later."
            ) from None
        refuse_missing_columns(self._table, self._find_columns())
        self._connection.rollback()
        placeholders = ", ".join([getattr(self._hook, "placeholder", "%s")] * len(_COLUMNS))
        self._insert = f"insert into {self._table} ({', '.join(_COLUMNS)}) values ({placeholders})"  # noqa: S608
        self._try_to_write()

    def append(self, lines: list[tuple[int, int | None, Line]]) -> None:
        """Insert lines; a connection that breaks is opened again for the next time."""
        try:
            if self._connection is None:
                self._connection = self._hook.get_conn()
            with closing(self._connection.cursor()) as cursor:
                cursor.executemany(self._insert, [self._values(*line) for line in lines])
            self._connection.commit()
        except Exception:
            # The connection may be what is broken. If it was the commit's answer that was lost, the lines are there
            # twice, with the same numbers: a reader takes each once.
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        with suppress(Exception):
            connection.close()

    def _values(self, number: int, row: int | None, line: Line) -> tuple[Any, ...]:
        recorded_at = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")
        values = {column: line[key] for column, key in LINE_COLUMNS.items()}
        values["unconfirmed"] = int(line["unconfirmed"])
        if (before := values["status_before"]) is not None and _storable(before) != before:
            # Store NULL, so that an undo can't restore an altered text.
            values["status_before"] = None
        own = (number, self._youcan_conn_id, self.store, RECORD_VERSION)
        return (*self._keys, row, *map(_storable, values.values()), *own, recorded_at)

    def _find_columns(self) -> set[str]:
        try:
            return self._read_columns()
        except Exception:  # there is no such table, or it can't be read
            self._connection.rollback()
        try:
            self._create()
        except Exception as error:  # whatever a database's driver raises
            self._connection.rollback()
            reason = describe_error(error)
        else:
            return self._read_columns()
        try:
            # Another task may have created it at the same moment.
            return self._read_columns()
        except Exception:  # it was not that
            raise YouCanConnectionError(
                f"The table {self._table} can be neither read nor created ({reason}), so nothing was sent: check what "
                f"the Airflow connection {self._conn_id!r} may do."
            ) from None

    def _read_columns(self) -> set[str]:
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(f"select * from {self._table} where 1 = 0")  # noqa: S608  # the name is checked
            return {column[0].lower() for column in cursor.description}

    def _create(self) -> None:
        # MariaDB's timestamp changes by itself, and its tables may have no room for Arabic.
        is_mysql = getattr(self._hook, "conn_type", "") == "mysql"
        time, options = ("datetime(6)", " character set utf8mb4") if is_mysql else ("timestamp", "")
        columns = ", ".join(f"{column} {time if column == 'recorded_at' else _type(column)}" for column in _COLUMNS)
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(f"create table {self._table} ({columns}){options}")
        self._connection.commit()

    def _try_to_write(self) -> None:
        """Write a row, and take it back: whoever may read a table need not be allowed to write to it."""
        columns = ", ".join(_COLUMNS)
        line = {**dict.fromkeys(LINE_COLUMNS.values()), "outcome": "unchanged", "unconfirmed": False}
        try:
            with closing(self._connection.cursor()) as cursor:
                if self._hook.get_autocommit(self._connection):
                    # It could not be taken back.
                    nothing = f"select {columns} from {self._table} where 1 = 0"  # noqa: S608  # the name is checked
                    cursor.execute(f"insert into {self._table} ({columns}) {nothing}")
                else:
                    cursor.execute(self._insert, self._values(0, None, line))
            self._connection.rollback()
        except Exception as error:  # whatever a database's driver raises
            raise YouCanConnectionError(
                f"The table {self._table} can't be written to ({describe_error(error)}), so nothing was sent: check "
                f"what the Airflow connection {self._conn_id!r} may do."
            ) from None


def refuse_missing_columns(table: str, found: set[str]) -> None:
    """
    Refuse a table that lacks columns.

    :param table: its name.
    :param found: its columns, in lower case.
    :raises YouCanInvalidInputError: that says how to add them, if it was made by an older version.
    """
    missing = [column for column in _COLUMNS if column not in found]
    if not missing:
        return
    if set(missing) <= set(_ADDED):
        statements = " ".join(_add_columns(table, missing))
        raise YouCanInvalidInputError(
            f"The table {table} was made by an older version, and lacks {' and '.join(missing)}",
            advice=f"run {statements}",
        )
    raise YouCanInvalidInputError(
        f"The table {table} has no column {' and no '.join(missing)}, so nothing was sent: name another one in "
        "report_table, which is created where it is missing."
    )


def _add_columns(table: str, columns: list[str]) -> Iterator[str]:
    for column in columns:
        yield f"alter table {table} add {column} {_type(column)};"


def _type(column: str) -> str:
    return _TYPES.get(column, "varchar(250)")


def _storable(value: Any) -> Any:
    """Return a value as every database takes it: none stores half a character, and some no NUL."""
    if not isinstance(value, str):
        return value
    return value.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
