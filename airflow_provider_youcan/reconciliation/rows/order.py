"""One order of a table: the rows that name it, and what its statuses should be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.orders import StatusContext

if TYPE_CHECKING:
    from airflow_provider_youcan.reconciliation.rows.moments import Moments

__all__ = ["DesiredOrder", "InvalidRow", "Statuses"]

Statuses: TypeAlias = Mapping[StatusContext, str]
"""The slugs that a row asks for. Rows that ask for the same share one mapping."""


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row that can't be used, and why."""

    row: int
    """The number of the row, from 1."""
    order_id: str | None
    ref: str | None
    reason: str
    error: YouCanInvalidInputError | None = None
    """The error that says so, if there is one."""


@dataclass(slots=True, eq=False)
class DesiredOrder:
    """One order, by its id or its ref, and what its statuses should be. Most are named by a single row."""

    order_id: str | None
    ref: str | None
    row: int
    """The first row that names it."""
    statuses: Statuses
    """The statuses that this row asks for."""
    desired: Statuses
    """The desired statuses, of all rows together."""
    more: list[tuple[int, Statuses]] | None = None
    """Further rows that name it."""
    other_ref: str | None = None
    """Another ref that a row gives to the same order."""
    contradiction: str | None = None
    """The contradiction for which its rows were refused: whatever row joins them is refused, too."""

    @property
    def entries(self) -> list[tuple[int, Statuses]]:
        """The rows that name it, each with what it asks for."""
        return [(self.row, self.statuses), *(self.more or ())]

    def rows_for(self, context: StatusContext) -> list[tuple[int, str]]:
        """Return the rows that ask for a status, each with the slug."""
        if self.more is None:
            return [(self.row, self.statuses[context])]
        return [(row, statuses[context]) for row, statuses in self.entries if context in statuses]

    def find_contradiction(self) -> str | None:
        """Return the contradiction between its rows, ``None`` if there is none."""
        if self.contradiction is not None:
            return self.contradiction
        if self.other_ref is not None:
            return f"the rows contradict each other on the ref of this order: {self.ref!r} and {self.other_ref!r}"
        for context in StatusContext if self.more is not None else ():
            wanted = self.rows_for(context)
            if len({status for _, status in wanted}) > 1:
                rows = " and ".join(f"row {row} wants {status!r}" for row, status in wanted[:4])
                return f"the rows contradict each other on the {context} status of this order: {rows}"
        return None

    def add(self, row: int, statuses: Statuses) -> None:
        """Take what a further row asks for."""
        self.more = self.more or []
        self.more.append((row, statuses))
        self.desired = {**self.desired, **statuses}

    def join(self, other: DesiredOrder) -> None:
        """Take the rows that name the same order in another way."""
        self._take(sorted(self.entries + other.entries, key=lambda entry: entry[0]))
        self.ref = self.ref or other.ref
        self.contradiction = self.contradiction or other.contradiction

    def keep_latest(self, moments: Moments) -> list[tuple[StatusContext, int, str, str]]:
        """Forget what earlier rows ask for, and return that: the status, the row, the slug, and why."""
        left_out = []
        for context in list(self.desired):
            wanted = self.rows_for(context)
            latest = moments.find_latest(self, [row for row, _ in wanted])
            reason = f"row {latest} is later" + ("" if latest in [row for row, _ in wanted] else ", and can't be used")
            left_out += [(context, row, slug, reason) for row, slug in wanted if moments.is_earlier(row, latest)]
        gone = {(row, context) for context, row, _, _ in left_out}
        self._take(
            [
                (row, {context: slug for context, slug in statuses.items() if (row, context) not in gone})
                for row, statuses in self.entries
            ]
        )
        return left_out

    def rename(self, same: Mapping[tuple[StatusContext, str], str]) -> None:
        """Write statuses as the store does."""
        self._take(
            [
                (row, {context: same.get((context, status), status) for context, status in statuses.items()})
                for row, statuses in self.entries
            ]
        )

    def remove(self, rows: Collection[int]) -> None:
        """Forget what some of its rows ask for."""
        left = [(row, statuses) for row, statuses in self.entries if row not in rows]
        self._take(left or [(self.row, {})])

    def _take(self, entries: list[tuple[int, Statuses]]) -> None:
        (self.row, self.statuses), *more = entries
        self.more = more or None
        self.desired = {context: status for _, statuses in entries for context, status in statuses.items()}
