"""What became of each wish: counted for the summary, and written to the report as it happens."""

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
from airflow_provider_youcan.reconciliation.planner import Outcome
from airflow_provider_youcan.reconciliation.rows import DesiredOrder, InvalidRow, Wish

__all__ = ["Record"]

_OUTCOMES = [outcome for outcome in Outcome if outcome is not Outcome.INVALID]
_MOST_TRANSITIONS = 20


class Record:
    """
    Keeps what became of each wish, and of each row that can't be used.

    :param report: where a JSON line of each is written at once, or ``None``.
    :param clock: tells the time in seconds (default the machine's monotonic one).
    """

    def __init__(self, report: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.rows = 0
        self.invalid = 0
        self.requests = 0
        self.failed_rows: set[int] = set()
        self.first_failure: str | None = None
        self._report = report
        self._clock = clock
        self._start = clock()
        self._counts: dict[StatusContext, Counter[Outcome]] = {context: Counter() for context in StatusContext}
        self._transitions: Counter[tuple[StatusContext, str | None, str]] = Counter()

    def add(
        self, order: DesiredOrder, wish: Wish, outcome: Outcome, before: str | None = None, reason: str | None = None
    ) -> None:
        """
        Keep what became of a wish.

        :param order: the order that it is about.
        :param wish: the wish.
        :param outcome: what became of it.
        :param before: what the status was, ``None`` where it was not read.
        :param reason: why, where the outcome alone doesn't say it.
        """
        self._counts[wish.context][outcome] += 1
        if outcome in (Outcome.CHANGED, Outcome.PLANNED):
            self._transitions[wish.context, before, wish.wanted] += 1
        if outcome in (Outcome.FAILED, Outcome.NOT_FOUND):
            self.failed_rows.add(wish.row)
            self.first_failure = self.first_failure or f"row {wish.row}: {reason}"
        self._write(order.order_id, order.ref, wish.context, before, wish.wanted, outcome, reason)

    def add_invalid(self, row: InvalidRow) -> None:
        """Keep why a row can't be used."""
        self.invalid += 1
        self._write(row.order_id, row.ref, None, None, None, Outcome.INVALID, f"row {row.row}: {row.reason}")

    def count(self, outcome: Outcome) -> int:
        """Return how many wishes ended so."""
        return sum(counts[outcome] for counts in self._counts.values())

    def has_protected(self, context: StatusContext) -> bool:
        """Tell whether a guard kept a status of this context from being changed."""
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

    def draw(self) -> str:
        """Return the summary as a small table, and below it the transitions that happened most often."""
        shown = [outcome for outcome in _OUTCOMES if self.count(outcome) or outcome in (Outcome.CHANGED,)]
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
            for (context, before, after), number in self._transitions.most_common(_MOST_TRANSITIONS)
        ]
        if (more := len(self._transitions) - _MOST_TRANSITIONS) > 0:
            lines.append(f"and {more:,} other transitions")
        return written.getvalue() + "\n".join(lines)

    def _write(
        self,
        order_id: str | None,
        ref: str | None,
        context: StatusContext | None,
        before: str | None,
        wanted: str | None,
        outcome: Outcome,
        reason: str | None,
    ) -> None:
        if self._report is None:
            return
        line = {
            "order_id": order_id,
            "ref": ref,
            "context": context and context.value,
            "before": before,
            "wanted": wanted,
            "outcome": outcome.value,
            "reason": reason,
        }
        try:
            self._report.write(json.dumps(line, ensure_ascii=False) + "\n")
            # At once, so that a task that is killed leaves what it did.
            self._report.flush()
        except OSError:
            # A full disk takes no more; what is under way is still counted.
            self._report = None
            raise
