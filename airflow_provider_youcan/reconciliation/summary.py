"""The result of each status: counted for the summary, and written to the report as it happens."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.planner import Outcome, Step
from airflow_provider_youcan.reconciliation.record.lines import make_line
from airflow_provider_youcan.reconciliation.record.writer import Record
from airflow_provider_youcan.reconciliation.rows.order import DesiredOrder, InvalidRow

__all__ = ["MAX_SHOWN", "Report"]

MAX_SHOWN = 20
"""The most transitions, changes and invalid rows that are shown."""

_MAX_FAILURES = 3
"""The most failures of a kind that the error names."""

_CHANGES = (Outcome.CHANGED, Outcome.PLANNED)
_OUTCOMES = [outcome for outcome in Outcome if outcome not in (Outcome.INVALID, Outcome.SENDING)]


class Report:
    """
    Keeps what became of each status that a row asks for, and of each row that can't be used.

    :param record: keeps a line of each (default: nowhere).
    :param clock: returns the time in seconds (default the machine's monotonic one).
    """

    def __init__(self, record: Record | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.record = record or Record()
        self.rows = 0
        self.invalid = 0
        self.requests = 0
        self.store: str | None = None
        """The slug of the shop's store, if it was asked for."""
        self.describe_line: Callable[[int], str] = lambda _row: ""
        """Returns which line of a file a row is, in parentheses."""
        self.failed_rows: dict[Outcome, set[int]] = {Outcome.FAILED: set(), Outcome.NOT_FOUND: set()}
        """The rows of which a status failed, and those whose order the shop does not have."""
        self.failures: dict[Outcome, list[str]] = {Outcome.FAILED: [], Outcome.NOT_FOUND: []}
        """The first of these, each in a sentence."""
        self.changes: list[tuple[str, StatusContext, str | None, str]] = []
        """The first of the changes that were made, or planned: of which order, its status, from what, to what."""
        self.changed_orders: set[int] = set()
        """The orders of these, each by its first row."""
        self.invalid_rows: list[InvalidRow] = []
        """The first of the rows that can't be used."""
        self._clock = clock
        self._start = clock()
        self._counts: dict[StatusContext, Counter[Outcome]] = {context: Counter() for context in StatusContext}
        self._transitions: Counter[tuple[StatusContext, str | None, str]] = Counter()

    def add(self, order: DesiredOrder, context: StatusContext, step: Step, ref: str | None = None) -> None:
        """
        Keep what became of one status of an order, once for each row that asks for it.

        :param order: the order.
        :param context: which of its statuses.
        :param step: what became of it.
        :param ref: the shop's ref of the order, if it is known and the rows have none (default ``None``).
        """
        if step.outcome in _CHANGES and len(self.changes) < MAX_SHOWN:
            shown = order.ref or ref or str(order.order_id)
            self.changes.append((shown, context, step.before, order.desired[context]))
        first: int | None = None
        if order.more is None:
            self._add(order, context, order.row, order.statuses[context], step)
            return
        for row, wanted in order.rows_for(context):
            if first is not None and step.outcome in _CHANGES:
                # The change happens once.
                again = Step(Outcome.UNCHANGED, step.before, f"row {first} asks for the same")
                self._add(order, context, row, wanted, again)
                continue
            first = row
            self._add(order, context, row, wanted, step)

    def add_left_out(self, order: DesiredOrder, context: StatusContext, row: int, wanted: str, reason: str) -> None:
        """
        Record that a status that a row asks for does not count.

        :param order: the order.
        :param context: which of its statuses.
        :param row: the row.
        :param wanted: what it asks for.
        :param reason: why that does not count.
        """
        self._add(order, context, row, wanted, Step(Outcome.UNCHANGED, None, reason))

    def add_sending(self, order: DesiredOrder, context: StatusContext, before: str | None) -> None:
        """
        Announce an update in the record. It is no outcome, and is not counted.

        :param order: the order.
        :param context: which of its statuses.
        :param before: the status that the update rests on.
        """
        if self.record.is_kept:
            row, wanted = order.rows_for(context)[0]
            step = Step(Outcome.SENDING, before)
            self.record.write(row, make_line(order.order_id, order.ref, context.value, wanted, step))

    def count_unreached(self, order: DesiredOrder, contexts: Iterable[StatusContext]) -> None:
        """Count statuses that were not reached, without a line for each."""
        for context in contexts:
            self._counts[context][Outcome.NOT_REACHED] += len(order.rows_for(context))

    def add_invalid(self, row: InvalidRow) -> None:
        """Keep why a row can't be used."""
        self.invalid += 1
        if len(self.invalid_rows) < MAX_SHOWN:
            self.invalid_rows.append(row)
        step = Step(Outcome.INVALID, None, self.describe_invalid(row))
        if self.record.is_kept:
            self.record.write(row.row, make_line(row.order_id, row.ref, None, None, step))

    def describe_invalid(self, row: InvalidRow) -> str:
        """Describe a row that can't be used: its number, the order that it names, and what is wrong with it."""
        return f"row {row.row:,}{_name(row)}: {row.reason}{self.describe_line(row.row)}"

    def count(self, outcome: Outcome) -> int:
        """Return how many statuses ended so."""
        return sum(counts[outcome] for counts in self._counts.values())

    def has_protected(self, context: StatusContext) -> bool:
        """Return whether a status of this context was protected from being changed."""
        return self._counts[context][Outcome.PROTECTED] > 0

    @property
    def seconds(self) -> float:
        """For how long it has been kept."""
        return self._clock() - self._start

    def summarise(self) -> dict[str, Any]:
        """Return the counts, as plain JSON."""
        return {
            "rows": self.rows,
            "invalid": self.invalid,
            **{outcome.value: self.count(outcome) for outcome in _OUTCOMES},
            "requests": self.requests,
            "seconds": round(self.seconds, 1),
            "transitions": [
                {"context": context.value, "before": before, "after": after, "count": number}
                for context, before, after, number in self.transitions(MAX_SHOWN)
            ],
            "by_context": {
                context.value: {outcome.value: counts[outcome] for outcome in _OUTCOMES}
                for context, counts in self._counts.items()
            },
        }

    def as_table(self) -> str:
        """Return the summary as a small table, and below it the transitions that happened most often."""
        shown = [outcome for outcome in _OUTCOMES if self.count(outcome)]
        if not shown:
            return "No status was compared with the shop."
        table = Table("status", *(outcome.value.replace("_", " ") for outcome in shown))
        for column in table.columns[1:]:
            column.justify = "right"
        for context, counts in self._counts.items():
            if counts:
                table.add_row(context.value, *(f"{counts[outcome]:,}" for outcome in shown))
        written = StringIO()
        Console(file=written, width=120, color_system=None, markup=False, emoji=False).print(table)
        lines = self.describe_transitions(MAX_SHOWN)
        if (more := len(self._transitions) - MAX_SHOWN) > 0:
            lines.append(f"and {more:,} other transitions")
        return written.getvalue() + "\n".join(lines)

    def transitions(self, most: int) -> list[tuple[StatusContext, str | None, str, int]]:
        """Return the most frequent changes: of which status, from what, to what, and how many."""
        return [(*change, number) for change, number in self._transitions.most_common(most)]

    def describe_transitions(self, most: int) -> list[str]:
        """Return the most frequent changes, each in a line with its number."""
        return [
            f"{context}: {'unknown' if before is None else before} → {after}: {number:,}"
            for context, before, after, number in self.transitions(most)
        ]

    def outcomes(self) -> list[tuple[Outcome, dict[StatusContext, int]]]:
        """Return the number of statuses by outcome and context, without outcomes that no status had."""
        return [
            (outcome, {context: counts[outcome] for context, counts in self._counts.items()})
            for outcome in _OUTCOMES
            if self.count(outcome)
        ]

    def _add(self, order: DesiredOrder, context: StatusContext, row: int, wanted: str, step: Step) -> None:
        self._counts[context][step.outcome] += 1
        if step.outcome in _CHANGES:
            self._transitions[context, step.before, wanted] += 1
            self.changed_orders.add(order.row)
        if (rows := self.failed_rows.get(step.outcome)) is not None:
            if row not in rows and len(rows) < _MAX_FAILURES:
                reason = str(step.reason).rstrip(".")
                self.failures[step.outcome].append(f"Row {row:,}{_name(order)}: {reason}{self.describe_line(row)}.")
            rows.add(row)
        if self.record.is_kept:
            self.record.write(row, make_line(order.order_id, order.ref, context.value, wanted, step))


def _name(order: DesiredOrder | InvalidRow) -> str:
    return f", order #{order.ref}" if order.ref else f", order {order.order_id}" if order.order_id else ""
