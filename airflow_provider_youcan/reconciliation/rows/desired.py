"""The desired state: rows of any table, checked, and turned into orders and what their statuses should be."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_youcan.checks import check_contexts, check_status_text, closest_statuses
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.orders import StatusContext, normalize_text
from airflow_provider_youcan.reconciliation.rows.cells import check_words, read_cell, read_order_id, read_ref, translate
from airflow_provider_youcan.reconciliation.rows.columns import COLUMNS, LATEST_BY, STATUS_COLUMNS, Columns
from airflow_provider_youcan.reconciliation.rows.moments import Moments
from airflow_provider_youcan.reconciliation.rows.order import DesiredOrder, InvalidRow, Statuses
from airflow_provider_youcan.texts import show_cell

__all__ = ["DesiredOrder", "DesiredState", "InvalidRow"]

_PLAIN = {str, type(None)}
_NO_CELLS = (None,) * len(STATUS_COLUMNS)
_MAX_COMBINATIONS = 10_000
"""The number of combinations of cells that are kept: a column of free text has too many."""


class DesiredState:
    """
    Takes rows, one by one, and keeps of each what it asks for, or why it can't be used.

    :param columns: the rows' names of the columns, if they differ: ``{"order_id": "youcan_id"}``. If
        it names a status, only the named ones are read.
    :param status_map: for each context the words of the rows and the slugs that they mean, or ``None`` for a word
        that leaves the status alone: ``{"payment": {"COLLECTED": "paid"}}``.
    :param empty_is_null: treat an empty text as a null, unless ``status_map`` has a word for it.
    :param latest_by: the column that says which of several rows of an order counts (default ``None``: they must agree).
    :raises YouCanInvalidInputError: if one of them makes no sense.
    """

    def __init__(
        self,
        columns: Mapping[str, str] | None = None,
        status_map: Mapping[str, Mapping[Any, str | None]] | None = None,
        *,
        empty_is_null: bool = False,
        latest_by: str | None = None,
    ) -> None:
        self.rows = 0
        self.invalid: list[InvalidRow] = []
        self.columns = Columns(columns, latest_by)
        """The columns that are read."""
        self._moments = None if latest_by is None else Moments(latest_by)
        self._words = _check_status_map(status_map)
        translated = {STATUS_COLUMNS[context] for context, words in self._words.items() if "" in words}
        self.empty_is_null = empty_is_null
        """True if an empty text is a null, unless ``status_map`` has a word for it."""
        self._nullable = set(COLUMNS) - translated
        # One object for each combination of statuses, of which a million rows have a handful.
        self._combinations: dict[tuple[str | None, ...], Statuses] = {}
        self._numbers: set[str] = set()  # the refs that were numbers
        self._lines: list[tuple[int, int]] = []  # from each of these rows on: how far the file's line is ahead
        self._by_cells: dict[tuple[object, ...], Statuses] = {}
        self._by_id: dict[str, DesiredOrder] = {}
        self._by_ref: dict[str, DesiredOrder] = {}

    def add(self, row: object, line: int | None = None) -> None:
        """
        Take a row.

        :param row: a mapping from column names to values; or the error that stands in for it.
        :param line: which line of a file it is (default: it is of no file).
        """
        self.rows += 1
        if line is not None and (not self._lines or self._lines[-1][1] != line - self.rows):
            self._lines.append((self.rows, line - self.rows))
        order_id = ref = None
        try:
            if isinstance(row, YouCanInvalidInputError):
                raise row
            values = self._read_values(row)
            if values and _are_empty(values.values()):
                self.rows -= 1  # an empty row, such as a feed's last line, does not count
                return
            order_id, ref = read_order_id(values.get("order_id")), read_ref(values.get("ref"))
            if self._moments is not None:
                self._moments.add(self.rows, order_id, ref, values.get(LATEST_BY))
            if order_id is None and ref is None:
                raise YouCanInvalidInputError(
                    f"it names no order: {' and '.join(self.columns.names('order_id', 'ref'))} are empty or missing"
                )
            statuses = self._read_statuses(values)
        except YouCanInvalidInputError as error:
            # Without its traceback, which would keep the whole row in memory.
            if self._moments is not None:
                self._moments.refuse(self.rows)
            self.invalid.append(InvalidRow(self.rows, order_id, ref, error.reason, error.with_traceback(None)))
            return
        if ref is not None and not isinstance(values["ref"], str):
            self._numbers.add(ref)
        orders, key = (self._by_id, order_id) if order_id is not None else (self._by_ref, str(ref))
        if (order := orders.get(key)) is None:
            orders[key] = DesiredOrder(order_id, ref, self.rows, statuses, statuses)
            return
        order.add(self.rows, statuses)
        order.ref = order.ref or ref
        if ref not in (None, order.ref):
            order.other_ref = ref

    def add_status(
        self, order_id: str, ref: str | None, context: StatusContext, status: str, error: YouCanInvalidInputError | None
    ) -> None:
        """
        Take one status that a record names: it is not checked again.

        :param order_id: the order's UUID.
        :param ref: its ref, ``None`` if the record has none.
        :param context: which of its statuses.
        :param status: what it should be.
        :param error: why it can't be set, ``None`` if it can.
        """
        self.rows += 1
        if error is not None:
            self.invalid.append(InvalidRow(self.rows, order_id, ref, error.reason, error))
        elif (order := self._by_id.get(order_id)) is None:
            self._by_id[order_id] = DesiredOrder(order_id, ref, self.rows, {context: status}, {context: status})
        else:
            order.add(self.rows, {context: status})

    @property
    def orders(self) -> list[DesiredOrder]:
        """The orders of which a row asks for something."""
        return [order for orders in (self._by_id, self._by_ref) for order in orders.values() if order.desired]

    @property
    def orders_by_ref(self) -> list[tuple[str, DesiredOrder]]:
        """The orders that are named by a ref alone, those of refused rows too: an id may name the same order."""
        return [(ref, order) for ref, order in self._by_ref.items() if order.desired or order.contradiction]

    @property
    def refs(self) -> list[str]:
        """The refs of these orders."""
        return [ref for ref, _ in self.orders_by_ref]

    def is_number(self, ref: str) -> bool:
        """Return whether a row has this ref as a number, which may have lost its zeros."""
        return ref in self._numbers

    def describe_line(self, row: int) -> str:
        """Return which line of the file a row is: `` (line 1,207)``, or nothing if the rows are of no file."""
        index = bisect_right(self._lines, row, key=lambda entry: entry[0])
        return f" (line {row + self._lines[index - 1][1]:,})" if index else ""

    @property
    def mapped(self) -> dict[tuple[StatusContext, str], str]:
        """The slugs that ``status_map`` leads to, each with a word that means it."""
        return {
            (context, slug): str(word)
            for context, words in self._words.items()
            for word, slug in words.items()
            if isinstance(slug, str)
        }

    def is_ref(self, ref: str) -> bool:
        """Return whether a row names an order by this ref alone."""
        return ref in self._by_ref

    def find(self, order_id: str, ref: str | None) -> DesiredOrder | None:
        """Return the desired order for an order of the shop, if a row names it."""
        return self._by_id.get(order_id) or (self._by_ref.get(ref) if ref is not None else None)

    @property
    def statuses(self) -> list[tuple[StatusContext, str]]:
        """All statuses that are asked for, each once."""
        by_identity = {id(order.desired): order.desired for order in self.orders if order.more is None}
        by_identity |= {id(one): one for order in self.orders if order.more for _, one in order.entries}
        return list(dict.fromkeys(item for statuses in by_identity.values() for item in statuses.items()))

    def count_statuses(self) -> int:
        """Return for how many statuses the rows ask, counting each once, however many rows ask for it."""
        return sum([len(order.desired) for order in self.orders])

    def rename_statuses(self, same: Mapping[tuple[StatusContext, str], str]) -> None:
        """Replace statuses by the store's own spelling, if both have the same normal form."""
        for order in self.orders if same else ():
            order.rename(same)

    def refuse_statuses(
        self, errors: Mapping[tuple[StatusContext, str], YouCanInvalidInputError], advice: str = ""
    ) -> None:
        """
        Mark the rows that ask for one of these statuses as invalid.

        :param errors: the statuses, each with what is wrong with it.
        :param advice: what to do about it first.
        """
        near = {error: self._find_near_word(*item) for item, error in errors.items()}
        for order in self.orders if errors else ():
            refused = {
                row: errors[item] for row, statuses in order.entries for item in statuses.items() if item in errors
            }
            for row, error in refused.items():
                reason = f"{error.problem}: {advice}{near[error]}{error.advice}".rstrip(".")
                self.invalid.append(InvalidRow(row, order.order_id, order.ref, reason, error))
            if self._moments is not None:
                for row in refused:
                    self._moments.refuse(row)
            order.remove(refused)

    def _find_near_word(self, context: StatusContext, status: str) -> str:
        """Return a hint if a word of the ``status_map`` resembles an unknown status."""
        closest = closest_statuses(status, [word for word in self._words.get(context, ()) if isinstance(word, str)])
        return f"status_map has {closest[0]!r}; " if closest else ""

    def leave_out_earlier(self) -> list[tuple[DesiredOrder, StatusContext, int, str, str]]:
        """
        Leave out what an earlier row of an order asks for.

        :return: the order, the status, the row, what it asks for, and why that does not count.
        :raises YouCanInvalidInputError: if the values of ``latest_by`` can't be compared.
        """
        if self._moments is None:
            return []
        self._moments.check()
        left_out = []
        for order in self.orders:
            if order.more is not None or self._moments.has_refused(order):
                left_out += [(order, *one) for one in order.keep_latest(self._moments)]
        return left_out

    def refuse_contradictions(self) -> None:
        """Mark the rows that contradict each other about the same order as invalid."""
        for order in self.orders:
            if reason := (order.more or order.other_ref or order.contradiction) and order.find_contradiction():
                rows = [row for row, statuses in order.entries if statuses]
                self.invalid += [InvalidRow(row, order.order_id, order.ref, reason) for row in rows]
                order.remove(rows)
                order.contradiction = reason

    def join(self, order_ids: Mapping[str, str]) -> None:
        """
        Merge the rows of one order that name it by its id with those that name it by its ref.

        :param order_ids: the ids that refs turned out to belong to.
        """
        for ref, order_id in order_ids.items():
            order = self._by_ref.pop(ref)
            order.order_id = order_id
            joined = self._by_id.setdefault(order_id, order)
            if joined is not order:
                joined.join(order)

    def _read_values(self, row: object) -> dict[str, Any]:
        if not isinstance(row, Mapping):
            raise YouCanInvalidInputError(f"it is of type {type(row).__name__}, not a mapping from columns to values")
        return {
            column: None if self.empty_is_null and column in self._nullable and _is_blank(row[name]) else row[name]
            for column, name in self.columns.find_in_row(row).items()
        }

    def _read_statuses(self, values: Mapping[str, Any]) -> Statuses:
        cells = tuple([values.get(column) for column in STATUS_COLUMNS.values()])
        # Cells that were seen were checked. 1 and True are the same key, so only texts and nulls are remembered.
        is_plain = {*map(type, cells)} <= _PLAIN
        if is_plain and (known := self._by_cells.get(cells)):
            return known
        if cells == _NO_CELLS and not values.keys() & set(STATUS_COLUMNS.values()):
            names = ", ".join(self.columns.names(*STATUS_COLUMNS.values()))
            raise YouCanInvalidInputError(f"it asks for nothing: it has none of the columns {names}")
        found: dict[StatusContext, str] = {}
        for context, cell in zip(StatusContext, cells, strict=True):
            value = read_cell(cell)
            if value is not None and (words := self._words.get(context)):
                value = translate(value, words)
            if value is not None:
                found[context] = check_status_text(value, show_cell)
        statuses = self._combinations.setdefault(tuple([found.get(context) for context in StatusContext]), found)
        if is_plain and len(self._by_cells) < _MAX_COMBINATIONS:
            self._by_cells[cells] = statuses
        return statuses


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not normalize_text(value)


def _are_empty(cells: Iterable[object]) -> bool:
    for cell in cells:
        if cell is None:
            continue
        if type(cell) is str and cell.isascii() and cell.strip():  # nearly all are
            return False
        value = read_cell(cell)
        if value is not None and not (isinstance(value, str) and not value):
            return False
    return True


def _check_status_map(status_map: object) -> dict[StatusContext, Mapping[Any, str | None]]:
    maps = {} if status_map is None else check_contexts("status_map", status_map)
    if not all(isinstance(words, Mapping) for words in maps.values()):
        raise YouCanInvalidInputError("status_map must have for each context a mapping from words to slugs.")
    check_words(status_map)
    return {
        context: {normalize_text(word) if isinstance(word, str) else word: slug for word, slug in words.items()}
        for context, words in maps.items()
    }
