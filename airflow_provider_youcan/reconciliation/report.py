"""What became of each status: counted for the summary, and written to the report as it happens."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from io import StringIO
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.planner import Outcome, Step
from airflow_provider_youcan.reconciliation.rows import DesiredOrder, InvalidRow

__all__ = ["Report"]

_OUTCOMES = [outcome for outcome in Outcome if outcome is not Outcome.INVALID]
_MAX_TRANSITIONS = 20


class Report:
    """
    Keeps what became of each status that a row asks for, and of each row that can't be used.

    :param file: where a JSON line of each is written at once, or ``None``.
    :param clock: returns the time in seconds (default the machine's monotonic one).
    """

    def __init__(self, file: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.rows = 0
        self.invalid = 0
        self.requests = 0
        self.failed_rows: set[int] = set()
        self.first_failure: str | None = None
        self._file = file
        self._clock = clock
        self._start = clock()
        self._counts: dict[StatusContext, Counter[Outcome]] = {context: Counter() for context in StatusContext}
        self._transitions: Counter[tuple[StatusContext, str | None, str]] = Counter()

    def add(self, order: DesiredOrder, context: StatusContext, step: Step) -> None:
        """
        Keep what became of one status of an order, once for each row that asks for it.

        :param order: the order.
        :param context: which of its statuses.
        :param step: what became of it.
        """
        first: int | None = None
        for row, wanted in order.rows_for(context):
            if first is not None and step.outcome in (Outcome.CHANGED, Outcome.PLANNED):
                # It happens once.
                again = Step(Outcome.UNCHANGED, step.before, f"row {first} asks for the same")
                self._add(order, context, row, wanted, again)
                continue
            first = row
            self._add(order, context, row, wanted, step)

    def add_invalid(self, row: InvalidRow) -> None:
        """Keep why a row can't be used."""
        self.invalid += 1
        step = Step(Outcome.INVALID, None, f"row {row.row}: {row.reason}")
        self._write(row.order_id, row.ref, None, None, step)

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
            "by_context": {
                context.value: {outcome.value: counts[outcome] for outcome in _OUTCOMES}
                for context, counts in self._counts.items()
            },
        }

    def as_table(self) -> str:
        """Return the summary as a small table, and below it the transitions that happened most often."""
        shown = [outcome for outcome in _OUTCOMES if self.count(outcome)] or [Outcome.CHANGED]
        table = Table("status", *(outcome.value.replace("_", " ") for outcome in shown))
        for column in table.columns[1:]:
            column.justify = "right"
        for context, counts in self._counts.items():
            if counts:
                table.add_row(context.value, *(f"{counts[outcome]:,}" for outcome in shown))
        written = StringIO()
        Console(file=written, width=120, color_system=None).print(table)
        lines = [
            f"{context}: {'unknown' if before is None else before} → {after}: {number:,}"
            for (context, before, after), number in self._transitions.most_common(_MAX_TRANSITIONS)
        ]
        if (more := len(self._transitions) - _MAX_TRANSITIONS) > 0:
            lines.append(f"and {more:,} other transitions")
        return written.getvalue() + "\n".join(lines)

    def _add(self, order: DesiredOrder, context: StatusContext, row: int, wanted: str, step: Step) -> None:
        self._counts[context][step.outcome] += 1
        if step.outcome in (Outcome.CHANGED, Outcome.PLANNED):
            self._transitions[context, step.before, wanted] += 1
        if step.outcome in (Outcome.FAILED, Outcome.NOT_FOUND):
            self.failed_rows.add(row)
            self.first_failure = self.first_failure or f"row {row}: {step.reason}"
        self._write(order.order_id, order.ref, context, wanted, step)

    def _write(
        self, order_id: str | None, ref: str | None, context: StatusContext | None, wanted: str | None, step: Step
    ) -> None:
        if self._file is None:
            return
        line = {
            "order_id": order_id,
            "ref": ref,
            "context": context and context.value,
            "before": step.before,
            "wanted": wanted,
            "outcome": step.outcome.value,
            "reason": step.reason,
        }
        try:
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            # At once, so that a task that is killed leaves what it did.
            self._file.flush()
        except Exception:  # whatever a storage raises
            # A full disk takes no more; what is under way is still counted.
            self._file = None
            raise
