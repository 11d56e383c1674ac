"""The latest row of each order, by a column of the table."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.reconciliation.rows.cells import read_cell
from airflow_provider_youcan.texts import show_cell

if TYPE_CHECKING:
    from airflow_provider_youcan.reconciliation.rows.order import DesiredOrder

__all__ = ["Moments"]

_EARLIEST = (0, None)


class Moments:
    """
    The values of one column, row by row.

    :param column: its name, for errors.
    """

    def __init__(self, column: str) -> None:
        self._column = column
        self._by_row: dict[int, tuple[int, Any]] = {}
        self._kinds: dict[str, object] = {}
        self._names: dict[int, str] = {}
        self._refused: dict[str, int] = {}

    def add(self, row: int, order_id: str | None, ref: str | None, value: object) -> None:
        """
        Take the value of a row.

        :param row: which row, from 1.
        :param order_id: the id of its order, if it has one.
        :param ref: its ref, if it has one.
        :param value: the cell.
        """
        kind, moment = _read_moment(value)
        if kind is not None:
            self._kinds.setdefault(kind, value)
        self._by_row[row] = _EARLIEST if kind is None else (1, moment)
        self._names[row] = order_id or ref or ""

    def check(self) -> None:
        """Refuse values that can't be compared with each other."""
        if unfit := self._kinds.get("other"):
            raise YouCanInvalidInputError(
                f"latest_by names the column {self._column!r}, which has {show_cell(unfit)}",
                advice="its values are dates, numbers, or texts such as ISO times.",
            )
        if len(self._kinds) > 1:
            shown = " and ".join(sorted(self._kinds))
            raise YouCanInvalidInputError(
                f"latest_by names the column {self._column!r}, which has {shown}", advice="give values of one kind."
            )

    def refuse(self, row: int) -> None:
        """Remember the latest unusable row of an order: earlier rows of the order are outdated by it, too."""
        name = self._names.get(row)
        if name and (name not in self._refused or self._by_row[row] > self._by_row[self._refused[name]]):
            self._refused[name] = row

    def has_refused(self, order: DesiredOrder) -> bool:
        """Return whether a row of an order can't be used."""
        return self._latest_refused(order) is not None

    def find_latest(self, order: DesiredOrder, rows: list[int]) -> int:
        """Return the latest of some rows of an order, or one that can't be used, if that is later."""
        latest = max(rows, key=self._by_row.__getitem__)
        refused = self._latest_refused(order)
        if refused is not None and self._by_row[refused] > self._by_row[latest]:
            return refused
        return latest

    def is_earlier(self, row: int, latest: int) -> bool:
        """Return whether a row is earlier than another."""
        return self._by_row[row] < self._by_row[latest]

    def _latest_refused(self, order: DesiredOrder) -> int | None:
        rows = [self._refused[name] for name in (order.order_id, order.ref) if name in self._refused]
        return max(rows, key=self._by_row.__getitem__, default=None)


def _read_moment(value: object) -> tuple[str | None, Any]:
    """Return the kind of a value, ``None`` for a null, and the value as it is compared."""
    if type(value).__module__ == "numpy" and type(value).__name__ == "datetime64":
        value = value.item()  # type: ignore[attr-defined]
    value = read_cell(value)
    if value is None or value == "":
        return None, None
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            return "times without a zone", value
        return "times with a zone", value.astimezone(datetime.timezone.utc)
    if isinstance(value, datetime.date):
        return "times without a zone", datetime.datetime(value.year, value.month, value.day)
    if isinstance(value, str):
        return "texts", value
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return "numbers", value
    return "other", value
