"""A summary for a person who decides about a run: Markdown, as Airflow's approval page shows it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.planner import Outcome
from airflow_provider_youcan.reconciliation.summary import Report
from airflow_provider_youcan.texts import pluralize

__all__ = ["write_preview"]

MAX_LENGTH = 4000
_MAX_TRANSITIONS = 5
_MAX_LINE = 110
"""Orders share a line of this many characters, so that the buttons below are on a screen of 1400 x 1000."""

_MAX_CELL = 60
_WORDS = re.compile(r"[^\W_]+(?:[ _-][^\W_]+)*…?")


def write_preview(report: Report, notes: Sequence[str] = (), youcan_conn_id: str = "") -> str:
    """
    Return a preview of at most 4,000 characters: the numbers, the transitions, some changes, and what can't be used.

    :param report: what became of each status.
    :param notes: sentences to put first.
    :param youcan_conn_id: the Airflow connection of the shop (default: it is not named).
    """
    parts = [
        *notes,
        _headline(report, youcan_conn_id),
        _outcomes(report),
        _unknown_orders(report),
        _invalid_rows(report),
    ]
    transitions = [
        f"{context}: {_status(before)} → {_escape(after)}: {number:,}"
        for context, before, after, number in report.transitions(_MAX_TRANSITIONS)
    ]
    by_order: dict[str, list[str]] = {}
    for order, context, before, after in report.changes:
        by_order.setdefault(order, []).append(f"{context} {_status(before)} → {_escape(after)}")
    changes = [f"{_escape(order)}: {', '.join(statuses)}" for order, statuses in by_order.items()]
    parts += [_list("Transitions", transitions), _list(_title(report), _fill_lines(changes))]
    return _join([part for part in parts if part])


def _unknown_orders(report: Report) -> str:
    if not (number := report.count(Outcome.NOT_FOUND)):
        return ""
    statuses = "1 status is" if number == 1 else f"{number:,} statuses are"
    return f"**Not in this shop**: {statuses} for orders that this shop does not have; the run leaves them out."


def _invalid_rows(report: Report) -> str:
    if not report.invalid:
        return ""
    # Only the row numbers: a cell may hold a customer's data.
    rows = ", ".join(str(row.row) for row in report.invalid_rows)
    more = report.invalid - len(report.invalid_rows)
    return f"**Rows that can't be used**: {rows}{f' and {more:,} more' if more else ''}; the report says why."


def _status(slug: str | None) -> str:
    return "unknown" if slug is None else _escape(slug)


def _outcomes(report: Report) -> str:
    outcomes = report.outcomes()
    if not outcomes:
        return "Nothing is to be done."
    lines = ["| outcome | " + " | ".join(context.value for context in StatusContext) + " |", "|---|---|---|---|"]
    for outcome, counts in outcomes:
        numbers = " | ".join(f"{counts[context]:,}" for context in StatusContext)
        lines.append(f"| {outcome.value.replace('_', ' ')} | {numbers} |")
    return "\n".join(lines)


def _headline(report: Report, youcan_conn_id: str) -> str:
    """Return how many statuses of how many orders change, and in which shop."""
    planned, changed = report.count(Outcome.PLANNED), report.count(Outcome.CHANGED)
    if not planned + changed:
        return ""
    shop = "" if report.store is None else f" {_escape(report.store)}"
    connection = f" (connection `{youcan_conn_id}`)" if youcan_conn_id else ""
    what = "would change" if planned else "changed"
    number = pluralize(planned + changed, "status", "statuses")
    return f"**{number} of {pluralize(len(report.changed_orders), 'order')}** {what} in the shop{shop}{connection}."


def _fill_lines(items: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(item) < _MAX_LINE:
            lines[-1] = f"{lines[-1]}; {item}"
        else:
            lines.append(item)
    return lines


def _title(report: Report) -> str:
    total, shown = report.count(Outcome.PLANNED) + report.count(Outcome.CHANGED), len(report.changes)
    return "The changes" if shown == total else f"The first {shown} of {total:,} changes"


def _list(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"**{title}**", "", *(f"- {line}" for line in lines)]) if lines else ""


def _join(parts: Sequence[str]) -> str:
    """Join the parts, and leave lines at the end out rather than cut one in two."""
    lines = "\n\n".join(parts).split("\n")
    while len("\n".join(lines)) > MAX_LENGTH:
        lines.pop()
    return "\n".join(lines).rstrip()


def _escape(text: str) -> str:
    """
    Return text of the shop or the table as plain text in Markdown: a label may hold anything.

    What is more than words is shown as code, in which nothing is markup and no address becomes a link; what can't be
    seen, or turns text around, is left out.
    """
    plain = " ".join("".join(character for character in text if character.isspace() or _is_seen(character)).split())
    plain = plain if len(plain) <= _MAX_CELL else f"{plain[: _MAX_CELL - 1]}…"
    if _WORDS.fullmatch(plain):
        return plain
    return "`" + plain.replace("`", "'") + "`"


def _is_seen(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn")
