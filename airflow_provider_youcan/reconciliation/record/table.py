"""The outcomes of runs as a table of the warehouse, through the connection's own ``DbApiHook``."""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from airflow_provider_youcan.checks import shorten
from airflow_provider_youcan.exceptions import (
    YouCanConnectionError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanTransientError,
)
from airflow_provider_youcan.reconciliation.rows.query import describe_error, get_database_hook

__all__ = ["OutcomeTable", "TryOutcomes", "check_table_name", "read_outcomes"]

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
_MAX_REFUSED_IN_A_ROW = 3
"""After how many rows that can't be written the rest goes to the log, without a try."""
_MAX_RECONNECT_SECONDS = 60
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")
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


class OutcomeTable:
    """
    Writes the lines of a report to a table, in batches as they come, and in a thread, so that no update waits for it.

    :param name: the table, which is created where it is missing.
    :param conn_id: the Airflow connection of its database.
    :param hook_params: what its hook is made with.
    :param keys: what identifies the run: ``dag_id``, ``run_id``, ``task_id``, ``map_index`` and ``try_number``.
    :raises YouCanError: when it is opened, if the table can't be used.
    """

    def __init__(self, name: str, conn_id: str, hook_params: Mapping[str, Any], keys: Mapping[str, Any]) -> None:
        self._name = name
        self._conn_id = conn_id
        self._hook_params = hook_params
        self._keys = [keys.get(key) for key in _KEYS]
        self._lines: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._is_open = threading.Event()
        self._connection: Any = None
        self._insert = ""
        self._failure: Exception | None = None
        self._is_lost = False
        self._error: Exception | None = None
        """Why it could not be opened, or rows are missing."""
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
        self._lines.put(self._values(row, line))

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._lines.put(None)
        self._thread.join()
        if self._error is None:
            return
        if error is None:
            raise YouCanTransientError(
                f"Some outcomes could not be written to {self._name} ({describe_error(self._error)}). The updates "
                "themselves are done, and the missing outcomes are in the log of this task. A retry does not write "
                "them, and an undo by the run id does not see them."
            )
        _log.error("Some outcomes could not be written to %s: the missing ones are in this log.", self._name)

    def _values(self, row: int | None, line: Mapping[str, Any]) -> tuple[Any, ...]:
        recorded_at = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")
        values = {column: line[key] for column, key in _LINE.items()}
        if (before := values["status_before"]) is not None and _storable(before) != before:
            # An undo must not set what only looks like it.
            values["status_before"] = None
        return (*self._keys, row, *map(_storable, values.values()), recorded_at)

    def _run(self) -> None:
        try:
            self._connection = self._connect()
            self._prepare()
            self._is_open.set()
            for batch in self._batches():
                self._write(batch)
        except Exception as error:
            self._error = error if isinstance(error, YouCanError) else self._error or error
        finally:
            self._is_open.set()
            with suppress(Exception):
                self._connection.close()

    def _connect(self) -> Any:
        try:
            self._hook = get_database_hook(self._conn_id, self._hook_params)
            return self._hook.get_conn()
        except YouCanError:
            raise
        except Exception as error:  # whatever a database's driver raises
            reason = describe_error(error)
        raise YouCanConnectionError(
            f"The database of the Airflow connection {self._conn_id!r}, where {self._name} is, can't be reached "
            f"({reason}), so nothing was sent; it may work later."
        )

    def _prepare(self) -> None:
        """Create the table where it is missing, and find out whether it can be written to."""
        connection = self._connection
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
        placeholders = ", ".join([getattr(self._hook, "placeholder", "%s")] * len(_COLUMNS))
        self._insert = f"insert into {self._name} ({', '.join(_COLUMNS)}) values ({placeholders})"  # noqa: S608
        self._try_to_write(connection)

    def _try_to_write(self, connection: Any) -> None:
        """Write a row, and take it back: whoever may read a table need not be allowed to write to it."""
        columns = ", ".join(_COLUMNS)
        line = {**dict.fromkeys(_LINE.values()), "outcome": "unchanged"}
        try:
            with closing(connection.cursor()) as cursor:
                if self._hook.get_autocommit(connection):
                    # It could not be taken back.
                    nothing = f"select {columns} from {self._name} where 1 = 0"  # noqa: S608  # the name is checked
                    cursor.execute(f"insert into {self._name} ({columns}) {nothing}")
                else:
                    cursor.execute(self._insert, self._values(None, line))
            connection.rollback()
        except Exception as error:  # whatever a database's driver raises
            reason = describe_error(error)
        else:
            return
        raise YouCanConnectionError(
            f"The table {self._name} can't be written to ({reason}), so nothing was sent: check what the Airflow "
            f"connection {self._conn_id!r} may do."
        )

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
            reason = describe_error(error)
        else:
            return
        raise YouCanConnectionError(
            f"The table {self._name} can be neither read nor created ({reason}), so nothing was sent: check what the "
            f"Airflow connection {self._conn_id!r} may do."
        )

    def _write(self, batch: list[tuple[Any, ...]]) -> None:
        """Write a batch, over a new connection if need be; what can't be written goes to the log."""
        if not self._is_lost and (self._insert_all(batch) or (self._reconnect() and self._insert_all(batch))):
            return
        refused_in_a_row = 0
        for values in batch:
            # One by one, since a single one may be what the database refuses.
            self._is_lost = self._is_lost or refused_in_a_row == _MAX_REFUSED_IN_A_ROW
            if not self._is_lost and self._insert_all([values]):
                refused_in_a_row = 0
                continue
            refused_in_a_row += 1
            self._error = self._failure
            _log.warning("Outcome: %s", dict(zip(_COLUMNS, values, strict=True)))

    def _insert_all(self, batch: list[tuple[Any, ...]]) -> bool:
        try:
            with closing(self._connection.cursor()) as cursor:
                cursor.executemany(self._insert, batch)
            self._connection.commit()
        except Exception as error:  # whatever a database's driver raises
            self._keep_failure(error)
            with suppress(Exception):
                self._connection.rollback()
            return False
        return True

    def _reconnect(self) -> bool:
        """Connect again, since the connection may be what is broken; the run goes on meanwhile."""
        from tenacity import Retrying, stop_after_delay, wait_fixed

        with suppress(Exception):
            self._connection.close()
        connect = Retrying(stop=stop_after_delay(_MAX_RECONNECT_SECONDS), wait=wait_fixed(2), reraise=True)
        try:
            self._connection = connect(self._hook.get_conn)
        except Exception as error:  # whatever a database's driver raises
            self._keep_failure(error)
            self._is_lost = True
        return not self._is_lost

    def _keep_failure(self, error: Exception) -> None:
        self._failure = error
        _log.warning("Outcomes could not be written to %s (%s).", self._name, describe_error(error))

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


@dataclass
class TryOutcomes:
    """What one try of a task left in a table."""

    dag_id: str
    task_id: str
    map_index: int | None
    try_number: int
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_plan(self) -> bool:
        """Whether it planned, and sent nothing."""
        outcomes = {line["outcome"] for line in self.lines}
        return "planned" in outcomes and "changed" not in outcomes


def read_outcomes(
    name: str, conn_id: str, run_id: str, dag_id: str | None, task_id: str | None, reader: Mapping[str, Any]
) -> list[TryOutcomes]:
    """
    Read what the tries of a run's task left in a table, the earliest first, and the plan that another task left there.

    :param name: the table.
    :param conn_id: the Airflow connection of its database.
    :param run_id: the run.
    :param dag_id: its DAG, ``None`` where only one has a run of this id.
    :param task_id: its task, ``None`` where only one wrote.
    :param reader: the keys of the task that reads; what its own earlier tries wrote is left out beside what others did.
    :raises YouCanInvalidInputError: if there is no such run, or several tasks are meant.
    """
    tries = _query_outcomes(name, conn_id, run_id, dag_id)
    own = (reader["dag_id"], reader["run_id"], reader["task_id"])
    # Within the run that it takes back, its own rows are those of a try before it.
    tries = [one for one in tries if (one.dag_id, run_id, one.task_id) != own] or tries
    found = [one for one in tries if task_id is None or one.task_id == task_id]
    if not found:
        raise YouCanInvalidInputError(
            f"The table {name} has no outcomes of the run {run_id!r}, so nothing was sent: look for its run id there."
        )
    runs = [one for one in found if not one.is_plan]
    for one in runs:
        # What was only planned under the same keys, such as by a test of the task, is no part of the run.
        one.lines = [line for line in one.lines if line["outcome"] != "planned"]
    tasks = sorted({(one.dag_id, one.task_id) for one in runs})
    if len(tasks) > 1:
        shown = ", ".join(f"{dag}.{task}" for dag, task in tasks)
        raise YouCanInvalidInputError(
            f"Several tasks wrote to {name} under the run id {run_id!r} ({shown}), so nothing was sent: say which one "
            "with reverts_dag_id and reverts_task_id."
        )
    plans = {
        (one.task_id, one.map_index): one
        for one in tries
        if one.is_plan and tasks and one.dag_id == tasks[0][0] and one.task_id != tasks[0][1]
    }
    # Of several plans nobody can tell which one was applied.
    return runs + (list(plans.values()) if len({task for task, _ in plans}) == 1 else [])


def _query_outcomes(name: str, conn_id: str, run_id: str, dag_id: str | None) -> list[TryOutcomes]:
    hook = get_database_hook(conn_id)
    given = {"run_id": run_id} | ({} if dag_id is None else {"dag_id": dag_id})
    placeholder = getattr(hook, "placeholder", "%s")
    condition = " and ".join(f"{column} = {placeholder}" for column in given)
    keys = ("dag_id", "task_id", "map_index", "try_number")
    statement = f"select {', '.join((*keys, *_LINE))} from {name} where {condition}"  # noqa: S608  # the name is checked
    tries: dict[tuple[Any, ...], TryOutcomes] = {}
    try:
        with closing(hook.get_conn()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(f"{statement} order by recorded_at, try_number", tuple(given.values()))
            for row in cursor.fetchall():
                key = tuple(row[: len(keys)])
                line = dict(zip(_LINE.values(), row[len(keys) :], strict=True))
                tries.setdefault(key, TryOutcomes(*key)).lines.append(line)
    except Exception as error:  # whatever a database's driver raises
        reason = describe_error(error)
    else:
        return list(tries.values())
    raise YouCanConnectionError(
        f"The outcomes in {name} can't be read ({reason}), so nothing was sent: check the table's name and the "
        f"Airflow connection {conn_id!r}; it may work later."
    )


def _storable(value: Any) -> Any:
    """Return a value as every database takes it: none stores half a character, and some no NUL."""
    if not isinstance(value, str):
        return value
    return value.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
