"""
The orders as a table of the warehouse.

A batch is one transaction: the rows of its orders are deleted and inserted. A row that was read later than the one of
the batch stays, whoever wrote it. If two runs insert the same order at once, the table's primary key refuses one of
them, and that batch is written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.reconciliation.warehouse import WarehouseTable, add_columns
from airflow_provider_youcan.transfers.columns import Row

__all__ = ["OrdersTable"]

_CHUNK = 100
"""The number of rows in a statement: some databases take 2,100 values at most."""


class OrdersTable(WarehouseTable):
    """
    Keeps one row for each order.

    :param table: its name, checked; it is created if it is missing.
    :param conn_id: the Airflow connection of its database.
    :param columns: its columns, each with its type in SQL; among them ``order_id``, the first, and ``read_at``.
    """

    def __init__(self, table: str, conn_id: str, columns: Mapping[str, str]) -> None:
        super().__init__(table, conn_id, {}, columns, primary_key="order_id")
        self._read_at = list(columns).index("read_at")
        self._times = [index for index, kind in enumerate(columns.values()) if kind == "timestamp"]

    def append(self, rows: list[Row]) -> None:
        """Write rows, or none of them; a connection that breaks is opened again for the next time."""
        # The last one was read last.
        by_id = {row[0]: row for row in sorted(rows, key=lambda row: row[self._read_at])}
        with self._transaction() as cursor:
            for chunk in _chunks(list(by_id.values())):
                self._replace(cursor, chunk)

    def _replace(self, cursor: Any, rows: Sequence[Row]) -> None:
        ids = [row[0] for row in rows]
        earliest = min(row[self._read_at] for row in rows)
        one, marks = self.placeholder, self._mark(len(ids))
        where = f"where order_id in ({marks}) and read_at > {one}"
        values = [*ids, self._as_value(earliest)]
        cursor.execute(f"select order_id, read_at from {self._table} {where}", values)  # noqa: S608  # checked
        newer = {str(order_id): _as_datetime(read_at) for order_id, read_at in cursor.fetchall()}
        rows = [row for row in rows if row[0] not in newer or newer[row[0]] <= row[self._read_at]]
        for row in rows if newer else ():
            if row[0] in newer:
                self._delete(cursor, [row[0]], row[self._read_at])
        if rows:
            self._delete(cursor, [row[0] for row in rows], earliest)
            line = f"({self._mark(len(self._columns))})"
            lines = ", ".join([line] * len(rows))
            insert = f"insert into {self._table} ({', '.join(self._columns)}) values {lines}"  # noqa: S608  # checked
            cursor.execute(insert, [value for row in rows for value in self._as_values(row)])

    def _delete(self, cursor: Any, ids: list[str], read_at: datetime) -> None:
        # A row that another run has written meanwhile is later: it stays, and the primary key refuses ours.
        where = f"where order_id in ({self._mark(len(ids))}) and (read_at is null or read_at <= {self.placeholder})"
        cursor.execute(f"delete from {self._table} {where}", [*ids, self._as_value(read_at)])  # noqa: S608  # checked

    def _mark(self, number: int) -> str:
        return ", ".join([self.placeholder] * number)

    def _as_values(self, row: Row) -> Row:
        values = list(row)
        for index in self._times:
            if values[index] is not None:
                values[index] = self._as_value(values[index])
        return tuple(values)

    def _as_value(self, moment: datetime) -> Any:
        """Return a moment, which is in UTC, as the database takes it."""
        kind = self._hook.conn_type
        if kind == "postgres":
            # With its zone, so that the session's zone does not matter.
            return moment.isoformat(" ", "microseconds")
        naive = moment.replace(tzinfo=None)
        return naive.isoformat(" ", "microseconds") if kind == "sqlite" else naive

    def _check_columns(self, found: set[str]) -> None:
        if not (missing := [column for column in self._columns if column.lower() not in found]):
            return
        known = {column for column in self._columns if column.lower() in found}
        if not known & {"order_id"}:
            raise YouCanInvalidInputError(
                f"The table {self._table} is another one: it has no column 'order_id'",
                advice="name another table, which is created where it is missing.",
                outcome="nothing was written",
            )
        raise YouCanInvalidInputError(
            f"The table {self._table} lacks {' and '.join(map(repr, missing))}",
            advice=f"run {add_columns(self._table, self._columns, missing)}",
            outcome="nothing was written",
        )

    def _write_row(self, cursor: Any) -> None:
        values = dict.fromkeys(self._columns) | {"order_id": "-", "read_at": datetime.now(timezone.utc)}
        self._replace(cursor, [tuple(values.values())])


def _chunks(rows: list[Row]) -> Iterator[list[Row]]:
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]


def _as_datetime(value: Any) -> datetime:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)
