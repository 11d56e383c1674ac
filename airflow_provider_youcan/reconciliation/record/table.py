"""The record as a table of the warehouse, through the connection's own ``DbApiHook``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.reconciliation.record.lines import RECORD_VERSION, Line
from airflow_provider_youcan.reconciliation.warehouse import WarehouseTable, add_columns, make_storable

__all__ = ["KEYS", "LINE_COLUMNS", "OutcomeTable", "refuse_missing_columns"]

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

_NAMES = (*KEYS, "table_row", *LINE_COLUMNS, "line", "youcan_conn_id", "store", "record_version", "recorded_at")
_COLUMNS = {
    **dict.fromkeys(_NAMES, "varchar(250)"),
    **dict.fromkeys(("map_index", "try_number", "table_row", "unconfirmed", "line", "record_version"), "integer"),
    **dict.fromkeys(("order_id", "ref"), "varchar(100)"),
    **dict.fromkeys(("status_context", "outcome"), "varchar(20)"),
    **dict.fromkeys(("status_before", "status_wanted", "reason"), "text"),
    "recorded_at": "timestamp",
}


class OutcomeTable(WarehouseTable):
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
        super().__init__(name, conn_id, hook_params, _COLUMNS)
        self.store: str | None = None
        """The store's slug, once it is known."""
        self._keys = [keys.get(key) for key in KEYS]
        self._youcan_conn_id = youcan_conn_id

    def append(self, lines: list[tuple[int, int | None, Line]]) -> None:
        """Insert lines; a connection that breaks is opened again for the next time."""
        # If it was the commit's answer that was lost, the lines are there twice, with the same numbers: a reader takes
        # each once.
        with self._transaction() as cursor:
            cursor.executemany(self._insert, [self._values(*line) for line in lines])

    @property
    def _insert(self) -> str:
        placeholders = ", ".join([self.placeholder] * len(_COLUMNS))
        return f"insert into {self._table} ({', '.join(_COLUMNS)}) values ({placeholders})"  # noqa: S608  # checked

    def _check_columns(self, found: set[str]) -> None:
        refuse_missing_columns(self._table, found)

    def _write_row(self, cursor: Any) -> None:
        line = {**dict.fromkeys(LINE_COLUMNS.values()), "outcome": "unchanged", "unconfirmed": False}
        cursor.execute(self._insert, self._values(0, None, line))

    def _values(self, number: int, row: int | None, line: Line) -> tuple[Any, ...]:
        recorded_at = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")
        values = {column: line[key] for column, key in LINE_COLUMNS.items()}
        values["unconfirmed"] = int(line["unconfirmed"])
        if (before := values["status_before"]) is not None and make_storable(before) != before:
            # Store NULL, so that an undo can't restore an altered text.
            values["status_before"] = None
        own = (number, self._youcan_conn_id, self.store, RECORD_VERSION)
        return (*self._keys, row, *map(make_storable, values.values()), *own, recorded_at)


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
        statements = add_columns(table, _COLUMNS, missing)
        raise YouCanInvalidInputError(
            f"The table {table} was made by an older version, and lacks {' and '.join(missing)}",
            advice=f"run {statements}",
        )
    raise YouCanInvalidInputError(
        f"The table {table} has no column {' and no '.join(missing)}",
        advice="name another one in report_table, which is created where it is missing.",
    )
