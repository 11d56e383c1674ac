"""The desired state: rows of any table, checked, and turned into orders and what is wished of them."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.orders import StatusContext, check_order_id, check_status

__all__ = ["COLUMNS", "STATUS_COLUMNS", "DesiredOrder", "DesiredState", "InvalidRow", "Wish", "check_mappings"]

STATUS_COLUMNS = {
    StatusContext.GENERAL: "status",
    StatusContext.SHIPPING: "shipping_status",
    StatusContext.PAYMENT: "payment_status",
}
COLUMNS = ("order_id", "ref", *STATUS_COLUMNS.values())


@dataclass(frozen=True, slots=True)
class Wish:
    """What one row says of one status: it should be ``wanted``."""

    row: int
    """Which row, from 1."""
    context: StatusContext
    wanted: str


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row that can't be used, and why."""

    row: int
    order_id: str | None
    ref: str | None
    reason: str
    error: YouCanInvalidInputError | None = None
    """The error that says so, where there is one."""


@dataclass(slots=True)
class DesiredOrder:
    """One order, by its id or its ref, and all that is wished of it."""

    order_id: str | None
    ref: str | None
    wishes: list[Wish] = field(default_factory=list)
    other_ref: str | None = None
    """Another ref that a row gives to the same order."""
    settled: frozenset[StatusContext] = frozenset()
    """The statuses of which it is known what became of them."""
    unconfirmed: Mapping[StatusContext, str | None] = field(default_factory=dict)
    """What the statuses were before an update that was sent and met an error."""

    @property
    def unsettled(self) -> dict[StatusContext, str]:
        """What each status should be that is spoken of and not settled."""
        return {wish.context: wish.wanted for wish in self.wishes if wish.context not in self.settled}

    @property
    def rows(self) -> list[int]:
        """The rows that speak of it."""
        return sorted({wish.row for wish in self.wishes})

    def find_contradiction(self) -> str | None:
        """Tell what the rows say of it that can't all be true, if they do."""
        if self.other_ref is not None:
            return f"the rows contradict each other on the ref of this order: {self.ref!r} and {self.other_ref!r}"
        if len(self.unsettled) == len(self.wishes):
            return None
        for context in StatusContext:
            wishes = [wish for wish in self.wishes if wish.context is context]
            if len({wish.wanted for wish in wishes}) > 1:
                rows = " and ".join(f"row {wish.row} wants {wish.wanted!r}" for wish in wishes[:4])
                return f"the rows contradict each other on the {context} status of this order: {rows}"
        return None


class DesiredState:
    """
    Takes in rows, one by one, and keeps of each what is wished, or why it can't be used.

    :param columns: what a column is called in the rows, where its name is another: ``{"order_id": "youcan_id"}``.
    :param status_map: for each context the words of the rows and the slugs that they mean, or ``None`` for a word
        that leaves the status alone: ``{"payment": {"COLLECTED": "paid"}}``.
    :raises YouCanInvalidInputError: if one of them makes no sense.
    """

    def __init__(
        self,
        columns: Mapping[str, str] | None = None,
        status_map: Mapping[str, Mapping[Any, str | None]] | None = None,
    ) -> None:
        self.rows = 0
        self.invalid: list[InvalidRow] = []
        self._renamed = _check_columns(columns)
        self._names = {column: column for column in COLUMNS} | self._renamed
        self._seen_columns: dict[str, None] = {}
        self._layout: tuple[tuple[str, ...], dict[str, str]] = ((), {})
        maps = check_mappings("status_map", status_map)
        if not all(isinstance(words, Mapping) for words in maps.values()):
            raise YouCanInvalidInputError("status_map has for each context a mapping from words to slugs.")
        self._words: dict[StatusContext, Mapping[Any, str | None]] = maps
        self._orders: dict[tuple[str, str], DesiredOrder] = {}

    def add(self, row: object) -> None:
        """Take in a row: a mapping from column names to values."""
        self.rows += 1
        order_id = ref = None
        try:
            values = self._read_columns(row)
            order_id, ref = _read_order_id(values.get("order_id")), _read_ref(values.get("ref"))
            if order_id is None and ref is None:
                raise YouCanInvalidInputError(
                    f"it names no order: {self._names['order_id']!r} and {self._names['ref']!r} are empty or missing"
                )
            if not any(column in values for column in STATUS_COLUMNS.values()):
                names = ", ".join(repr(self._names[column]) for column in STATUS_COLUMNS.values())
                raise YouCanInvalidInputError(f"it says nothing: it has none of the columns {names}")
            wishes = list(self._read_wishes(values))
        except YouCanInvalidInputError as error:
            # Without its traceback, which would keep the whole row in memory.
            reason, error = str(error).rstrip("."), error.with_traceback(None)
            self.invalid.append(InvalidRow(self.rows, order_id, ref, reason, error))
            return
        key = ("order_id", order_id.casefold()) if order_id is not None else ("ref", str(ref))
        order = self._orders.setdefault(key, DesiredOrder(order_id, ref))
        order.wishes += wishes
        order.ref = order.ref or ref
        if ref not in (None, order.ref):
            order.other_ref = ref

    def check_columns(self, names: Iterable[str]) -> None:
        """
        Refuse a table that lacks what every row would lack.

        :param names: what its columns are called.
        :raises YouCanInvalidInputError: that says which column is missing.
        """
        found = self._find_columns(tuple(names))
        shown = ", ".join(map(repr, names))
        if missing := [name for column, name in self._renamed.items() if column not in found]:
            raise YouCanInvalidInputError(
                f"There is no column {' or '.join(map(repr, missing))}, which columns names, so nothing was sent; "
                f"there are {shown}."
            )
        folded = [str(name).casefold() for name in names]
        if twice := [name for name in found.values() if folded.count(name.casefold()) > 1]:
            raise YouCanInvalidInputError(
                f"There are several columns {' and '.join(map(repr, twice))}, letter case aside, so nothing was sent: "
                "give each a name of its own."
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

    def check_rows(self) -> None:
        """Refuse rows that all lack the same, as :meth:`check_columns` does; call it after the last of them."""
        if self._seen_columns:
            self.check_columns(list(self._seen_columns))

    @property
    def orders(self) -> list[DesiredOrder]:
        """The orders that something is wished of."""
        return [order for order in self._orders.values() if order.wishes]

    @property
    def statuses(self) -> list[tuple[StatusContext, str]]:
        """All that is wished for, each once."""
        return list(dict.fromkeys((wish.context, wish.wanted) for order in self.orders for wish in order.wishes))

    def refuse_statuses(self, errors: Mapping[tuple[StatusContext, str], YouCanInvalidInputError]) -> None:
        """Take the rows that wish for one of these statuses for invalid."""
        for order in self.orders:
            refused = {wish.row: error for wish in order.wishes if (error := errors.get((wish.context, wish.wanted)))}
            self.invalid += [
                InvalidRow(row, order.order_id, order.ref, str(error).rstrip("."), error)
                for row, error in refused.items()
            ]
            order.wishes = [wish for wish in order.wishes if wish.row not in refused]

    def refuse_contradictions(self) -> None:
        """Take the rows that want different things of the same order for invalid."""
        for order in self.orders:
            if reason := order.find_contradiction():
                self.discard(order, reason)

    def join(self, order_ids: Mapping[str, str]) -> None:
        """
        Bring together what is wished of the same order, once by its id and once by its ref.

        :param order_ids: the ids that refs turned out to belong to.
        """
        for ref, order_id in order_ids.items():
            order = self._orders.pop(("ref", ref))
            joined = self._orders.setdefault(("order_id", order_id.casefold()), DesiredOrder(order_id, ref))
            joined.ref = joined.ref or ref
            joined.wishes += order.wishes
            joined.wishes.sort(key=lambda wish: wish.row)

    def discard(self, order: DesiredOrder, reason: str) -> None:
        """Take all rows of an order for invalid."""
        self.invalid += [InvalidRow(row, order.order_id, order.ref, reason) for row in order.rows]
        order.wishes = []

    def _read_columns(self, row: object) -> dict[str, Any]:
        if not isinstance(row, Mapping):
            raise YouCanInvalidInputError(f"it is of type {type(row).__name__}, not a mapping from columns to values")
        names = tuple(row)
        if names != self._layout[0]:  # most tables have one layout for all rows
            self._layout = (names, self._find_columns(names))
            self._seen_columns.update(dict.fromkeys(map(str, names)))
        return {column: row[name] for column, name in self._layout[1].items()}

    def _find_columns(self, names: Collection[str]) -> dict[str, str]:
        """Tell for each column that is there what it is called."""
        # Some databases write all names in capitals.
        folded = {str(name).casefold(): name for name in reversed(tuple(names))}
        found = {column: name if name in names else folded.get(name.casefold()) for column, name in self._names.items()}
        return {column: name for column, name in found.items() if name is not None}

    def _read_wishes(self, values: Mapping[str, Any]) -> Iterator[Wish]:
        for context, column in STATUS_COLUMNS.items():
            value = values.get(column)
            if words := self._words.get(context):
                value = _translate(value, words)
            if not _is_null(value):
                yield Wish(self.rows, context, check_status(value))


def check_mappings(argument: str, value: object) -> dict[StatusContext, Any]:
    """
    Return a mapping that has something to say for some contexts.

    :param argument: what it is called, for the error message.
    :param value: a mapping whose keys are contexts, or ``None``.
    :raises YouCanInvalidInputError: if it is none.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise YouCanInvalidInputError(
            f"{argument} is {value!r}: give a mapping whose keys are 'general', 'shipping' and 'payment'."
        )
    return {StatusContext(context): entry for context, entry in value.items()}


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


def _is_null(value: object) -> bool:
    # A frame of pandas has NaN, the one value that differs from itself, in place of a null.
    return value is None or (isinstance(value, float) and value != value)


def _translate(value: object, words: Mapping[Any, str | None]) -> object:
    # A number in the table may be a text in a mapping that came as JSON. What can't be a key is no word.
    for word in (value, str(value)):
        if isinstance(word, Hashable) and word in words:
            return words[word]
    return value


def _read_order_id(value: object) -> str | None:
    if _is_null(value):
        return None
    return check_order_id(str(value) if isinstance(value, UUID) else value)


def _read_ref(value: object) -> str | None:
    if _is_null(value):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
        return str(value)
    if isinstance(value, str) and value.strip() not in ("", "None") and value.isprintable() and len(value) <= 100:
        return value
    raise YouCanInvalidInputError(f"{value!r:.100} is no ref: give it as text, such as '021'")
