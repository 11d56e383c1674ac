"""The desired state: rows of any table, checked, and turned into orders and what their statuses should be."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_youcan.checks import check_contexts, check_status_text
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.orders import OrderStatuses, StatusContext
from airflow_provider_youcan.reconciliation.rows.cells import read_cell, read_order_id, read_ref, translate

__all__ = ["COLUMNS", "STATUS_COLUMNS", "DesiredOrder", "DesiredState", "InvalidRow"]

STATUS_COLUMNS = {
    StatusContext.GENERAL: "status",
    StatusContext.SHIPPING: "shipping_status",
    StatusContext.PAYMENT: "payment_status",
}
COLUMNS = ("order_id", "ref", *STATUS_COLUMNS.values())

_NOTHING = OrderStatuses()


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row that can't be used, and why."""

    row: int
    """Which row, from 1."""
    order_id: str | None
    ref: str | None
    reason: str
    error: YouCanInvalidInputError | None = None
    """The error that says so, where there is one."""


@dataclass(slots=True, eq=False)
class DesiredOrder:
    """One order, by its id or its ref, and what its statuses should be. Most are named by a single row."""

    order_id: str | None
    ref: str | None
    row: int
    statuses: OrderStatuses
    more: tuple[tuple[int, OrderStatuses], ...] = ()
    """Further rows that name it."""
    other_ref: str | None = None
    """Another ref that a row gives to the same order."""

    @property
    def entries(self) -> Iterator[tuple[int, OrderStatuses]]:
        """The rows that name it, each with what it asks for."""
        yield self.row, self.statuses
        yield from self.more

    @property
    def desired(self) -> dict[StatusContext, str]:
        """What each status should be that a row asks for."""
        return {
            context: status
            for _, statuses in self.entries
            for context in StatusContext
            if (status := statuses[context]) is not None
        }

    def rows_for(self, context: StatusContext) -> list[tuple[int, str]]:
        """Return the rows that ask for a status, each with the slug."""
        return [(row, status) for row, statuses in self.entries if (status := statuses[context]) is not None]

    def find_contradiction(self) -> str | None:
        """Return what the rows say of it that can't all be true, if they do."""
        if self.other_ref is not None:
            return f"the rows contradict each other on the ref of this order: {self.ref!r} and {self.other_ref!r}"
        for context in StatusContext if self.more else ():
            wanted = self.rows_for(context)
            if len({status for _, status in wanted}) > 1:
                rows = " and ".join(f"row {row} wants {status!r}" for row, status in wanted[:4])
                return f"the rows contradict each other on the {context} status of this order: {rows}"
        return None

    def add(self, entries: Iterable[tuple[int, OrderStatuses]]) -> None:
        """Take what further rows ask for."""
        self.more = tuple(sorted((*self.more, *entries), key=lambda entry: entry[0]))

    def remove(self, rows: Collection[int]) -> None:
        """Forget what some of its rows ask for."""
        left = [(row, statuses) for row, statuses in self.entries if row not in rows]
        (self.row, self.statuses), *more = left or [(self.row, _NOTHING)]
        self.more = tuple(more)


class DesiredState:
    """
    Takes rows, one by one, and keeps of each what it asks for, or why it can't be used.

    :param columns: what a column is called in the rows, where its name is another: ``{"order_id": "youcan_id"}``. Where
        it names a status, only the named ones are read.
    :param status_map: for each context the words of the rows and the slugs that they mean, or ``None`` for a word
        that leaves the status alone: ``{"payment": {"COLLECTED": "paid"}}``.
    :param empty_is_null: take an empty text for a null, where ``status_map`` has no word for it.
    :raises YouCanInvalidInputError: if one of them makes no sense.
    """

    def __init__(
        self,
        columns: Mapping[str, str] | None = None,
        status_map: Mapping[str, Mapping[Any, str | None]] | None = None,
        *,
        empty_is_null: bool = False,
    ) -> None:
        self.rows = 0
        self.invalid: list[InvalidRow] = []
        self._renamed = _check_columns(columns)
        named_statuses = self._renamed.keys() & set(STATUS_COLUMNS.values())
        read = [column for column in COLUMNS if not named_statuses or column in (*named_statuses, "order_id", "ref")]
        self._names = {column: self._renamed.get(column, column) for column in read}
        self._seen_columns: dict[str, None] = {}
        self._layout: tuple[tuple[str, ...], dict[str, str]] = ((), {})
        self._words = _check_status_map(status_map)
        translated = {STATUS_COLUMNS[context] for context, words in self._words.items() if "" in words}
        self._null_if_empty = set(COLUMNS) - translated if empty_is_null else set()
        # One object for each combination of statuses, of which a million rows have a handful.
        self._combinations: dict[OrderStatuses, OrderStatuses] = {}
        self._by_id: dict[str, DesiredOrder] = {}
        self._by_ref: dict[str, DesiredOrder] = {}

    def add(self, row: object, line: int | None = None) -> None:
        """
        Take a row.

        :param row: a mapping from column names to values; or the error that says why there is none.
        :param line: which line of a file it is (default: it is of no file).
        """
        self.rows += 1
        order_id = ref = None
        try:
            if isinstance(row, YouCanInvalidInputError):
                raise row
            values = self._read_columns(row)
            order_id, ref = read_order_id(values.get("order_id")), read_ref(values.get("ref"))
            if order_id is None and ref is None:
                raise YouCanInvalidInputError(
                    f"it names no order: {self._names['order_id']!r} and {self._names['ref']!r} are empty or missing"
                )
            statuses = self._read_statuses(values)
        except YouCanInvalidInputError as error:
            # Without its traceback, which would keep the whole row in memory.
            reason = _reason(error) if line is None else f"{_reason(error)} (line {line:,})"
            self.invalid.append(InvalidRow(self.rows, order_id, ref, reason, error.with_traceback(None)))
            return
        orders, key = (self._by_id, order_id) if order_id is not None else (self._by_ref, str(ref))
        if (order := orders.get(key)) is None:
            orders[key] = DesiredOrder(order_id, ref, self.rows, statuses)
            return
        order.add([(self.rows, statuses)])
        order.ref = order.ref or ref
        if ref not in (None, order.ref):
            order.other_ref = ref

    def check_columns(self, names: Iterable[str]) -> None:
        """
        Refuse a table that lacks what every row would lack.

        :param names: what its columns are called.
        :raises YouCanInvalidInputError: that says which column is missing.
        """
        names = tuple(names)
        self._seen_columns.update(dict.fromkeys(map(str, names)))
        found = self._find_columns(names)
        shown = ", ".join(map(repr, names))
        if missing := [name for column, name in self._renamed.items() if column not in found]:
            raise YouCanInvalidInputError(
                f"There is no column {' or '.join(map(repr, missing))}, which columns names, so nothing was sent; "
                f"there are {shown}."
            )
        folded = [str(name).casefold() for name in names]
        if twice := [name for name in found.values() if folded.count(name.casefold()) > 1]:
            raise YouCanInvalidInputError(
                f"There are several columns {' and '.join(map(repr, twice))}, ignoring letter case, so nothing was "
                "sent: give each a name of its own."
            )
        if not {"order_id", "ref"} & found.keys():
            raise YouCanInvalidInputError(
                "No column says which order a row is about, so nothing was sent: name one 'order_id' or 'ref', or say "
                f"in columns what it is called; there are {shown}."
            )
        if not set(STATUS_COLUMNS.values()) & found.keys():
            raise YouCanInvalidInputError(
                "No column says what should hold, so nothing was sent: name one 'status', 'shipping_status' or "
                f"'payment_status', or say in columns what it is called; there are {shown}."
            )

    def find_columns(self, names: Iterable[str]) -> list[str]:
        """Return which of the columns of a table are read."""
        return list(self._find_columns(tuple(names)).values())

    def check_rows(self) -> None:
        """Refuse rows that all lack the same, as :meth:`check_columns` does; call it after the last of them."""
        if self._seen_columns:
            self.check_columns(list(self._seen_columns))

    def describe_columns(self) -> str:
        """Return which columns are read as what: ``order_id from 'youcan_id', payment_status``."""
        found = self._find_columns(tuple(self._seen_columns))
        return ", ".join(column if column == name else f"{column} from {name!r}" for column, name in found.items())

    @property
    def orders(self) -> Iterator[DesiredOrder]:
        """The orders of which a row asks for something."""
        for orders in (self._by_id, self._by_ref):
            yield from (order for order in orders.values() if order.statuses != _NOTHING or order.more)

    @property
    def refs(self) -> list[str]:
        """The refs of the orders that are named by a ref alone."""
        return [ref for ref, order in self._by_ref.items() if order.desired]

    def is_ref(self, ref: str) -> bool:
        """Return whether a row names an order by this ref alone."""
        return ref in self._by_ref

    def find(self, order_id: str, ref: str | None) -> DesiredOrder | None:
        """Return the order that an order of the shop is, if a row names it."""
        return self._by_id.get(order_id) or (self._by_ref.get(ref) if ref is not None else None)

    @property
    def statuses(self) -> list[tuple[StatusContext, str]]:
        """All statuses that are asked for, each once."""
        combinations = dict.fromkeys(statuses for order in self.orders for _, statuses in order.entries)
        found = ((context, statuses[context]) for statuses in combinations for context in StatusContext)
        return list(dict.fromkeys((context, status) for context, status in found if status is not None))

    def count_statuses(self) -> int:
        """Return for how many statuses the rows ask, counting each once, however many rows ask for it."""
        return sum(len(order.desired) for order in self.orders)

    def refuse_statuses(
        self, errors: Mapping[tuple[StatusContext, str], YouCanInvalidInputError], advice: str = ""
    ) -> None:
        """
        Take the rows that ask for one of these statuses for invalid.

        :param errors: the statuses, each with what is wrong with it.
        :param advice: what else can be done about it.
        """
        for order in list(self.orders) if errors else ():
            refused = {
                row: error
                for row, statuses in order.entries
                for context in StatusContext
                if (error := errors.get((context, statuses[context] or ""))) is not None
            }
            self.invalid += [
                InvalidRow(row, order.order_id, order.ref, f"{_reason(error)}{advice}", error)
                for row, error in refused.items()
            ]
            order.remove(refused)

    def refuse_contradictions(self) -> None:
        """Take the rows that want different things of the same order for invalid."""
        for order in list(self.orders):
            if reason := order.find_contradiction():
                rows = [row for row, _ in order.entries]
                self.invalid += [InvalidRow(row, order.order_id, order.ref, reason) for row in rows]
                order.remove(rows)

    def join(self, order_ids: Mapping[str, str]) -> None:
        """
        Bring together what is desired of the same order, once by its id and once by its ref.

        :param order_ids: the ids that refs turned out to belong to.
        """
        for ref, order_id in order_ids.items():
            order = self._by_ref.pop(ref)
            order.order_id = order_id
            joined = self._by_id.setdefault(order_id, order)
            if joined is not order:
                joined.ref = joined.ref or ref
                joined.add(order.entries)

    def _read_columns(self, row: object) -> dict[str, Any]:
        if not isinstance(row, Mapping):
            raise YouCanInvalidInputError(f"it is of type {type(row).__name__}, not a mapping from columns to values")
        names = tuple(row)
        if names != self._layout[0]:  # most tables have one layout for all rows
            self._layout = (names, self._find_columns(names))
            self._seen_columns.update(dict.fromkeys(map(str, names)))
        return {
            column: None if column in self._null_if_empty and row[name] == "" else row[name]
            for column, name in self._layout[1].items()
        }

    def _find_columns(self, names: Collection[str]) -> dict[str, str]:
        """Return for each column that is there what it is called."""
        # Some databases write all names in capitals.
        folded = {str(name).casefold(): name for name in reversed(tuple(names))}
        found = {column: name if name in names else folded.get(name.casefold()) for column, name in self._names.items()}
        return {column: name for column, name in found.items() if name is not None}

    def _read_statuses(self, values: Mapping[str, Any]) -> OrderStatuses:
        if not values.keys() & set(STATUS_COLUMNS.values()):
            names = ", ".join(repr(name) for column, name in self._names.items() if column in STATUS_COLUMNS.values())
            raise YouCanInvalidInputError(f"it asks for nothing: it has none of the columns {names}")
        found: dict[str, str] = {}
        for context, column in STATUS_COLUMNS.items():
            value = read_cell(values.get(column))
            if value is not None and (words := self._words.get(context)):
                value = translate(value, words)
            if value is not None:
                found[context.value] = check_status_text(value)
        statuses = OrderStatuses(**found)
        return self._combinations.setdefault(statuses, statuses)


def _reason(error: YouCanInvalidInputError) -> str:
    """Return what an error says of one row; that nothing was sent is said of the table, once."""
    return re.sub("(; |, so )nothing was sent", "", str(error)).rstrip(".")


def _check_columns(columns: object) -> dict[str, str]:
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


def _check_status_map(status_map: object) -> dict[StatusContext, Mapping[Any, str | None]]:
    maps = {} if status_map is None else check_contexts("status_map", status_map)
    if not all(isinstance(words, Mapping) for words in maps.values()):
        raise YouCanInvalidInputError("status_map must have for each context a mapping from words to slugs.")
    return maps
