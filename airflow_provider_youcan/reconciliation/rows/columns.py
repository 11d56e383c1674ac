"""The columns of a table: which are read, and their names in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.orders import StatusContext, normalize_text

__all__ = ["COLUMNS", "LATEST_BY", "STATUS_COLUMNS", "Columns"]

STATUS_COLUMNS = {
    StatusContext.GENERAL: "status",
    StatusContext.SHIPPING: "shipping_status",
    StatusContext.PAYMENT: "payment_status",
}
COLUMNS = ("order_id", "ref", *STATUS_COLUMNS.values())
LATEST_BY = "latest_by"


class Columns:
    """
    Finds the columns that are read among those of a table, ignoring letter case.

    :param columns: the table's names, if they differ: ``{"order_id": "youcan_id"}``. If it names a status, only
        the named ones are read.
    :param latest_by: the name of the column that says which row is the latest, ``None`` if there is none.
    :raises YouCanInvalidInputError: if ``columns`` makes no sense.
    """

    def __init__(self, columns: Mapping[str, str] | None, latest_by: str | None) -> None:
        self._renamed = _check_renamed(columns)
        self._names = _find_names(self._renamed) | ({} if latest_by is None else {LATEST_BY: latest_by})
        self._seen: dict[str, None] = {}
        self._layout: tuple[tuple[str, ...], dict[str, str]] = ((), {})

    def check(self, names: Iterable[str]) -> None:
        """
        Refuse a table without a column that every row needs.

        :param names: what its columns are called.
        :raises YouCanInvalidInputError: that says which column is missing.
        """
        names = tuple(names)
        self._seen.update(dict.fromkeys(map(str, names)))
        found = self._find(names)
        shown = ", ".join(map(repr, names))
        if LATEST_BY in self._names and LATEST_BY not in found:
            raise YouCanInvalidInputError(
                f"There is no column {self._names[LATEST_BY]!r}, which latest_by names", advice=f"there are {shown}."
            )
        if missing := [name for column, name in self._renamed.items() if column not in found]:
            raise YouCanInvalidInputError(
                f"There is no column {' or '.join(map(repr, missing))}, which columns names",
                advice=f"there are {shown}.",
            )
        folded = [_fold(str(name)) for name in names]
        if twice := [name for name in found.values() if folded.count(_fold(name)) > 1]:
            raise YouCanInvalidInputError(
                f"There are several columns {' and '.join(map(repr, twice))}, ignoring letter case",
                advice="give each a name of its own.",
            )
        if not {"order_id", "ref"} & found.keys():
            raise YouCanInvalidInputError(
                "No column says which order a row is about",
                advice=f"name one 'order_id' or 'ref', or say in columns what it is called; there are {shown}.",
            )
        if not set(STATUS_COLUMNS.values()) & found.keys():
            raise YouCanInvalidInputError(
                "No column says what should hold",
                advice=(
                    "name one 'status', 'shipping_status' or 'payment_status', or say in columns what it is "
                    f"called; there are {shown}."
                ),
            )

    def check_seen(self) -> None:
        """Check the columns of all rows together, as :meth:`check` does; call it after the last row."""
        if self._seen:
            self.check(list(self._seen))

    def find(self, names: Iterable[str]) -> list[str]:
        """Return which of the columns of a table are read."""
        return list(self._find(tuple(names)).values())

    def find_in_row(self, row: Mapping[Any, Any]) -> dict[str, str]:
        """Return the columns of a row that are read: our name of each, and its name in the row."""
        names = tuple(row)
        if names != self._layout[0]:  # most tables have one layout for all rows
            self._layout = (names, self._find(names))
            self._seen.update(dict.fromkeys(map(str, names)))
        return self._layout[1]

    def names(self, *columns: str) -> list[str]:
        """Return the names that some columns have in the table, quoted for an error."""
        return [repr(self._names[column]) for column in columns if column in self._names]

    def describe(self) -> str:
        """Return which columns were read as what: ``order_id from 'youcan_id', payment_status``."""
        found = self._find(tuple(self._seen))
        return ", ".join(column if column == name else f"{column} from {name!r}" for column, name in found.items())

    def _find(self, names: Collection[str]) -> dict[str, str]:
        # Some databases write all names in capitals.
        folded = {_fold(str(name)): name for name in reversed(tuple(names))}
        found = {column: name if name in names else folded.get(_fold(name)) for column, name in self._names.items()}
        return {column: name for column, name in found.items() if name is not None}


def _fold(name: str) -> str:
    return normalize_text(name).casefold()


def _find_names(renamed: Mapping[str, str]) -> dict[str, str]:
    """Return for each column that is read what it is called; a name that another column claims is not its own."""
    named_statuses = renamed.keys() & set(STATUS_COLUMNS.values())
    read = [column for column in COLUMNS if not named_statuses or column in (*named_statuses, "order_id", "ref")]
    claimed = {_fold(name) for name in renamed.values()}
    return {column: renamed.get(column, column) for column in read if column in renamed or column not in claimed}


def _check_renamed(columns: object) -> dict[str, str]:
    if columns is None:
        return {}
    if not isinstance(columns, Mapping) or not columns.keys() <= set(COLUMNS):
        raise YouCanInvalidInputError(
            f"columns is {columns!r}: its keys are {', '.join(map(repr, COLUMNS))}, its values what these are called "
            "in the table."
        )
    if not all(isinstance(name, str) and name for name in columns.values()):
        raise YouCanInvalidInputError(f"columns is {columns!r}: its values are names of columns.")
    return dict(columns)
