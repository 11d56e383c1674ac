"""The outcomes of runs as a table of the warehouse, through the connection's own ``DbApiHook``."""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from datetime import datetime, timezone
from typing import Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_youcan.checks import shorten
from airflow_provider_youcan.exceptions import (
    YouCanConnectionError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanTransientError,
)

__all__ = ["OutcomeTable", "check_table_name", "get_database_hook", "read_outcomes"]

_KEYS = ("dag_id", "run_id", "task_id", "map_index", "try_number")
_LINE = {
    "order_id": "order_id",
    "ref": "ref",
    "status_context": "context",
    "status_before": "before",
    "status_wanted": "wanted",
    "outcome": "outcome",
    "reason": "reason",
}
_COLUMNS = (*_KEYS, "table_row", *_LINE, "recorded_at")
_TYPES = {
    "map_index": "integer",
    "try_number": "integer",
    "table_row": "integer",
    "order_id": "varchar(100)",
    "ref": "varchar(100)",
    "status_context": "varchar(20)",
    "status_before": "text",
    "status_wanted": "text",
    "outcome": "varchar(20)",
    "reason": "text",
}
_MAX_BATCH = 500
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
_log = logging.getLogger(__name__)


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


def get_database_hook(conn_id: str) -> Any:
    """
    Return the hook of a database.

    :param conn_id: its Airflow connection.
    :raises YouCanInvalidInputError: if that connection runs no SQL, or this Airflow has no hook for it.
    :raises YouCanConnectionError: if Airflow does not hand it out.
    """
    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        # Airflow 3 says so, too, when its secrets backend is out of reach.
        raise YouCanConnectionError(
            f"There is no Airflow connection {conn_id!r}, or Airflow's database or secrets backend is out of reach, so "
            "nothing was sent: install the Airflow provider of your database, restart Airflow, and add the connection."
        ) from None
    try:
        hook: Any = connection.get_hook()  # type: ignore[no-untyped-call]
    except Exception as error:  # an unknown type of connection ends in errors of several kinds
        raise YouCanInvalidInputError(
            f"This Airflow has no hook for the Airflow connection {conn_id!r} of type {connection.conn_type!r} "
            f"({_describe(error)}), so nothing was sent: install the Airflow provider of that database, such as "
            "apache-airflow-providers-postgres, and restart Airflow."
        ) from None
    if not hasattr(hook, "get_conn") or not hasattr(hook, "get_records"):
        raise YouCanInvalidInputError(
            f"The Airflow connection {conn_id!r} is of type {connection.conn_type!r}, which runs no SQL; "
            "nothing was sent: name one of a database."
        )
    return hook


class OutcomeTable:
    """
    Writes the lines of a report to a table, in batches as they come, and in a thread, so that no update waits for it.

    :param name: the table, which is created where it is missing.
    :param conn_id: the Airflow connection of its database.
    :param keys: what identifies the run: ``dag_id``, ``run_id``, ``task_id``, ``map_index`` and ``try_number``.
    :raises YouCanError: when it is opened, if the table can't be used.
    """

    def __init__(self, name: str, conn_id: str, keys: Mapping[str, Any]) -> None:
        self._name = name
        self._conn_id = conn_id
        self._keys = [keys.get(key) for key in _KEYS]
        self._lines: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._is_open = threading.Event()
        self._error: Exception | None = None
        # One thread has the connection from its beginning to its end: SQLite's belong to one.
        self._thread = threading.Thread(target=self._run, name="youcan-outcomes", daemon=True)

    def __enter__(self) -> OutcomeTable:
        self._thread.start()
        self._is_open.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def write(self, row: int | None, line: Mapping[str, Any]) -> None:
        """Have a line of the report written."""
        recorded_at = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")
        self._lines.put((*self._keys, row, *(line[key] for key in _LINE.values()), recorded_at))

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._lines.put(None)
        self._thread.join()
        if self._error is None:
            return
        if error is None:
            raise YouCanTransientError(
                f"The outcomes could not all be written to {self._name} ({_describe(self._error)}): those that are "
                "missing are in the log of this task. What was sent is done; a retry sends only what is missing."
            )
        _log.error("The outcomes could not all be written to %s: those that are missing are in this log.", self._name)

    def _run(self) -> None:
        try:
            with closing(self._connect()) as connection:
                placeholders = self._prepare(connection)
                self._is_open.set()
                self._write_all(connection, placeholders)
        except Exception as error:
            self._error = error if isinstance(error, YouCanError) else self._error or error
            self._is_open.set()

    def _connect(self) -> Any:
        try:
            self._hook = get_database_hook(self._conn_id)
            return self._hook.get_conn()
        except YouCanError:
            raise
        except Exception as error:  # whatever a database's driver raises
            reason = _describe(error)
        raise YouCanConnectionError(
            f"The database of the Airflow connection {self._conn_id!r}, where {self._name} is, can't be reached "
            f"({reason}), so nothing was sent; it may work later."
        )

    def _prepare(self, connection: Any) -> str:
        """Create the table where it is missing, and return how to write to it."""
        try:
            found = self._read_columns(connection)
        except Exception:  # there is no such table, or it can't be read
            connection.rollback()
            self._create(connection)
            found = self._read_columns(connection)
        if missing := [column for column in _COLUMNS if column not in found]:
            raise YouCanInvalidInputError(
                f"The table {self._name} has no column {' and no '.join(missing)}, so nothing was sent: name another "
                "one in report_table, which is created where it is missing."
            )
        connection.rollback()
        placeholder = getattr(self._hook, "placeholder", "%s")
        return ", ".join([placeholder] * len(_COLUMNS))

    def _read_columns(self, connection: Any) -> set[str]:
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"select * from {self._name} where 1 = 0")  # noqa: S608  # the name is checked
            return {column[0].lower() for column in cursor.description}

    def _create(self, connection: Any) -> None:
        # MariaDB's timestamp changes by itself, and its tables may have no room for Arabic.
        is_mysql = getattr(self._hook, "conn_type", "") == "mysql"
        time, options = ("datetime(6)", " character set utf8mb4") if is_mysql else ("timestamp", "")
        columns = ", ".join(
            f"{column} {time if column == 'recorded_at' else _TYPES.get(column, 'varchar(250)')}" for column in _COLUMNS
        )
        try:
            with closing(connection.cursor()) as cursor:
                cursor.execute(f"create table {self._name} ({columns}){options}")
            connection.commit()
        except Exception as error:  # whatever a database's driver raises
            reason = _describe(error)
        else:
            return
        raise YouCanConnectionError(
            f"The table {self._name} can be neither read nor created ({reason}), so nothing was sent: check what the "
            f"Airflow connection {self._conn_id!r} may do."
        )

    def _write_all(self, connection: Any, placeholders: str) -> None:
        statement = f"insert into {self._name} ({', '.join(_COLUMNS)}) values ({placeholders})"  # noqa: S608
        for batch in self._batches():
            if self._error is None:
                try:
                    with closing(connection.cursor()) as cursor:
                        cursor.executemany(statement, batch)
                    connection.commit()
                    continue
                except Exception as error:  # whatever a database's driver raises
                    self._error = error
                    _log.warning(
                        "The outcomes can't be written to %s any more (%s): the rest follows here.",
                        self._name,
                        _describe(error),
                    )
                    with suppress(Exception):
                        connection.rollback()
            for values in batch:
                _log.warning("Outcome: %s", dict(zip(_COLUMNS, values, strict=True)))

    def _batches(self) -> Iterator[list[tuple[Any, ...]]]:
        while (line := self._lines.get()) is not None:
            batch, is_over = [line], False
            while len(batch) < _MAX_BATCH and not is_over:
                try:
                    further = self._lines.get_nowait()
                except queue.Empty:
                    break
                is_over = further is None
                if further is not None:
                    batch.append(further)
            yield batch
            if is_over:
                return


def read_outcomes(
    name: str, conn_id: str, run_id: str, dag_id: str | None, task_id: str | None
) -> list[dict[str, Any]]:
    """
    Read what a run left in a table, the earliest first.

    :param name: the table.
    :param conn_id: the Airflow connection of its database.
    :param run_id: the run.
    :param dag_id: its DAG, ``None`` where only one has a run of this id.
    :param task_id: its task, ``None`` where only one wrote.
    :return: the lines of its report.
    :raises YouCanInvalidInputError: if there is no such run, or several tasks are meant.
    """
    hook = get_database_hook(conn_id)
    given = {"run_id": run_id, "dag_id": dag_id, "task_id": task_id}
    given = {column: value for column, value in given.items() if value is not None}
    placeholder = getattr(hook, "placeholder", "%s")
    condition = " and ".join(f"{column} = {placeholder}" for column in given)
    statement = f"select dag_id, task_id, {', '.join(_LINE)} from {name} where {condition}"  # noqa: S608
    try:
        with closing(hook.get_conn()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(f"{statement} order by recorded_at, try_number", tuple(given.values()))
            rows = cursor.fetchall()
    except Exception as error:  # whatever a database's driver raises
        reason = _describe(error)
        raise YouCanConnectionError(
            f"The outcomes in {name} can't be read ({reason}), so nothing was sent: check the table's name and the "
            f"Airflow connection {conn_id!r}; it may work later."
        ) from None
    tasks = sorted({(row[0], row[1]) for row in rows})
    if not tasks:
        raise YouCanInvalidInputError(
            f"The table {name} has no outcomes of the run {run_id!r}, so nothing was sent: look for its run id there."
        )
    if len(tasks) > 1:
        found = ", ".join(f"{dag}.{task}" for dag, task in tasks)
        raise YouCanInvalidInputError(
            f"Several tasks wrote to {name} under the run id {run_id!r} ({found}), so nothing was sent: say which one "
            "with reverts_dag_id and reverts_task_id."
        )
    return [dict(zip(_LINE.values(), row[2:], strict=True)) for row in rows]


def _describe(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
