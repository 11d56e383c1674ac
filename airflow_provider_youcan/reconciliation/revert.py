"""What takes a run back: read from the reports of its tries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.plan import RunInput, allow_from, follow
from airflow_provider_youcan.reconciliation.planner import Outcome
from airflow_provider_youcan.reconciliation.record.reader import RecordedLine, RecordedReport

__all__ = ["read_revert"]


def read_revert(reports: Iterable[RecordedReport]) -> RunInput:
    """
    Return what takes a run back: each status that it changed, while that still is what the run set.

    :param reports: the reports of the run's tries, from the first on. A plan counts for what no report is sure of.
    :raises YouCanInvalidInputError: if one is a plan that is cut off, or they say nothing at all.
    """
    reports = list(reports)
    for report in reports:
        _refuse_silence(report, reports)
    changes: dict[tuple[str, StatusContext], _Change] = {}
    sure, seen, was_killed, total = set(), set(), False, 0
    for report in (one for one in reports if not one.is_plan):
        total += report.statuses
        for line in report.lines:
            seen.add(line.key)
            if line.may_have_changed:
                changes.setdefault(line.key, _Change()).add(line)
            # A try that follows one that was killed finds done what that one did, and has no record of.
            if line.may_have_changed or not (was_killed or report.is_retry):
                sure.add(line.key)
        was_killed = was_killed or report.end is None
    for report in (one for one in reports if one.is_plan):
        for line in report.lines:
            # A plan that is in a table need not be the one that was applied.
            counts = line.outcome == Outcome.PLANNED and (report.end is not None or line.key in seen)
            if counts and line.key not in sure:
                total += line.key not in seen
                changes.setdefault(line.key, _Change()).add(line)
    guards = {
        key: allow_from(change.may_be, "the run set", "what the run set is not known")
        for key, change in changes.items()
    }
    source = follow((change.latest, change.before) for change in changes.values())
    source.guard = lambda order, context: guards.get((str(order.order_id), context))
    source.total, source.is_revert = total, True
    source.stores = {report.end["store"] for report in reports if report.end is not None} - {None}
    return source


def _refuse_silence(report: RecordedReport, reports: Sequence[RecordedReport]) -> None:
    """Refuse what would have a revert succeed that did nothing."""
    if not report.is_plan and report.end is None and any(line.outcome == Outcome.PLANNED for line in report.lines):
        raise YouCanInvalidInputError(
            f"The plan {report.name} is cut off: its last line is missing, so nothing was sent; give the whole one."
        )
    if report.is_empty and not any(other.lines or other.end for other in reports):
        raise YouCanInvalidInputError(
            f"The report {report.name} is empty, so it does not say what to take back, and nothing was sent: its run "
            "was killed, or its storage keeps nothing of a file that is not closed. Give the plan, or reverts_run_id."
        )


class _Change:
    """What the tries of a run did to one status, from the first on."""

    def __init__(self) -> None:
        self._lines: list[RecordedLine] = []

    def add(self, line: RecordedLine) -> None:
        self._lines.append(line)

    @property
    def latest(self) -> RecordedLine:
        return self._lines[-1]

    @property
    def may_be(self) -> list[str | None]:
        """What the run left it at: what it set last, or before that, where the last is not confirmed."""
        confirmed = [number for number, line in enumerate(self._lines) if line.outcome == Outcome.CHANGED]
        return list(dict.fromkeys(line.wanted for line in reversed(self._lines[confirmed[-1] if confirmed else 0 :])))

    @property
    def before(self) -> str | None:
        """What it was before the run."""
        changed = (number for number, line in enumerate(self._lines) if line.outcome == Outcome.CHANGED)
        known = (number for number, line in enumerate(self._lines) if line.before is not None)
        first = next(changed, next(known, 0))
        before = self._lines[first].before
        for line in reversed(self._lines[:first]):
            if line.wanted == before:
                # It was not confirmed, and shows by what came after it.
                before = line.before
        return before
