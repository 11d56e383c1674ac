"""A table of the warehouse that is written to, through the connection's own ``DbApiHook``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

from airflow_provider_youcan.exceptions import YouCanConnectionError, YouCanError, YouCanInvalidInputError
from airflow_provider_youcan.reconciliation.databases import database_error, describe_error, get_database_hook
from airflow_provider_youcan.texts import shorten

__all__ = ["WarehouseTable", "add_columns", "check_table_name", "make_storable"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")


def check_table_name(name: object, argument: str) -> str:
    """
    Return the name of a table.

    :param name: ``name`` or ``schema.name``, of letters, digits and ``_``.
    :param argument: the argument that it comes from, for the error message.
    :raises YouCanInvalidInputError: for anything else.
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise YouCanInvalidInputError(
        f"{argument} is {shorten(name)}", advice="give the name of a table, or schema.name, of letters, digits and '_'."
    )


def make_storable(value: Any) -> Any:
    """Return a value as every database takes it: none stores half a character, and some no NUL."""
    if not isinstance(value, str) or (value.isascii() and "\0" not in value):
        return value
    return value.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


class WarehouseTable:
    """
    A table that is created if it is missing.

    :param table: its name, checked.
    :param conn_id: the Airflow connection of its database.
    :param hook_params: what the hook of that database is made with.
    :param columns: its columns, each with its type in SQL.
    :param primary_key: the primary key of the table, if it is created here (default: none).
    """

    def __init__(
        self,
        table: str,
        conn_id: str,
        hook_params: Mapping[str, Any],
        columns: Mapping[str, str],
        primary_key: str | None = None,
    ) -> None:
        self.name = f"The table {table}"
        self._table = table
        self._conn_id = conn_id
        self._hook_params = hook_params
        self._columns = columns
        self._primary_key = primary_key
        self._hook: Any = None
        self._connection: Any = None

    def open(self) -> None:
        """
        Create the table if it is missing, and find out whether it can be written to.

        :raises YouCanError: if it can't be.
        """
        try:
            self._hook = get_database_hook(self._conn_id, self._hook_params)
            self._connection = self._hook.get_conn()
        except YouCanError:
            raise
        except Exception as error:  # whatever a database's driver raises
            raise YouCanConnectionError(
                f"The database of {self._conn_id!r} can't be reached ({describe_error(error)})",
                advice="check the Airflow connection; it may work later",
                outcome=f"The table {self._table} could not be opened; nothing was sent",
            ) from None
        self._check_columns(self._find_columns())
        try:
            self._try_to_write()
        except Exception as error:  # whatever a database's driver raises
            raise database_error(
                f"The table {self._table} can't be written to", error, f"check what {self._conn_id!r} may do"
            ) from None

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        with suppress(Exception):
            connection.close()

    @property
    def placeholder(self) -> str:
        """The placeholder of a value in a statement."""
        return str(getattr(self._hook, "placeholder", "%s"))

    def _check_columns(self, found: set[str]) -> None:
        """Refuse a table that lacks columns: ``found`` are those that it has, in lower case."""
        raise NotImplementedError

    def _write_row(self, cursor: Any) -> None:
        """Write some row, which is taken back."""
        raise NotImplementedError

    @contextmanager
    def _transaction(self, *, is_kept: bool = True) -> Iterator[Any]:
        """Give a cursor, and commit what it has done, or nothing of it; a connection that broke is opened again."""
        if self._connection is None:
            self._connection = self._hook.get_conn()
        owner = self._connection
        try:
            with closing(self._connection.cursor()) as cursor:
                if self._hook.conn_type == "duckdb":
                    # Each of its cursors is a connection of its own, which commits each statement without a begin.
                    owner = cursor
                    cursor.begin()
                yield cursor
                if is_kept:
                    owner.commit()
                else:
                    owner.rollback()
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        """Take back what was not committed, and let go of a connection that is broken."""
        try:
            if self._hook.conn_type != "duckdb":  # a cursor that is closed has done so
                self._connection.rollback()
        except Exception:
            self.close()

    def _find_columns(self) -> set[str]:
        with suppress(Exception):  # there is no such table, or it can't be read
            return self._read_columns()
        failure: Exception | None = None
        try:
            self._create()
        except Exception as error:  # whatever a database's driver raises
            failure = error
        try:
            # If it could not be created, another task may have done so at the same moment.
            return self._read_columns()
        except Exception as error:  # no other task had created it
            raise database_error(
                f"The table {self._table} can be neither read nor created",
                failure or error,
                f"check what {self._conn_id!r} may do",
            ) from None

    def _read_columns(self) -> set[str]:
        with self._transaction(is_kept=False) as cursor:
            cursor.execute(f"select * from {self._table} where 1 = 0")  # noqa: S608  # the name is checked
            return {column[0].lower() for column in cursor.description}

    def _create(self) -> None:
        # MariaDB's timestamp changes by itself, and its tables may have no room for Arabic.
        is_mysql = self._hook.conn_type == "mysql"
        time, options = ("datetime(6)", " character set utf8mb4") if is_mysql else ("timestamp", "")
        columns = [f"{column} {time if kind == 'timestamp' else kind}" for column, kind in self._columns.items()]
        key = [] if self._primary_key is None else [f"primary key ({self._primary_key})"]
        with self._transaction() as cursor:
            cursor.execute(f"create table {self._table} ({', '.join(columns + key)}){options}")

    def _try_to_write(self) -> None:
        """Write a row, and roll it back: a user who may read a table may lack the right to write to it."""
        with self._transaction(is_kept=False) as cursor:
            if self._hook.get_autocommit(self._connection):
                # With autocommit the row could not be rolled back.
                columns = ", ".join(self._columns)
                nothing = f"select {columns} from {self._table} where 1 = 0"  # noqa: S608  # the name is checked
                cursor.execute(f"insert into {self._table} ({columns}) {nothing}")
            else:
                self._write_row(cursor)


def add_columns(table: str, columns: Mapping[str, str], missing: Sequence[str]) -> str:
    """Return the statements that add columns to a table."""
    return " ".join(f"alter table {table} add {column} {columns[column]};" for column in missing)
