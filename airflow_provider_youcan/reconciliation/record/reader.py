"""Records that are read again: what became of each status in a try of a run, and whether anything is missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_youcan.checks import check_order_id, check_status_text
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.databases import database_error, get_database_hook
from airflow_provider_youcan.reconciliation.planner import Outcome
from airflow_provider_youcan.reconciliation.record.lines import COMPLETE, LINE_KEYS
from airflow_provider_youcan.reconciliation.record.table import LINE_COLUMNS, refuse_missing_columns

__all__ = ["RecordedLine", "RecordedTry", "read_record", "read_tries"]

_OLD_UNCONFIRMED = "whether YouCan took it is unknown"
"""The sentence by which versions without ``unconfirmed`` said the same."""


@dataclass(frozen=True, slots=True)
class RecordedLine:
    """One line of a record: an update that was announced, or what became of a status."""

    order_id: str
    ref: str | None
    context: StatusContext
    before: str | None
    wanted: str
    outcome: Outcome
    unconfirmed: bool
    recorded_at: str = ""
    """The time at which it was written; empty in a file."""
    error: YouCanInvalidInputError | None = None
    """The reason for which ``wanted`` can't be set, if it can't."""

    @property
    def key(self) -> tuple[str, StatusContext]:
        """The order, and which of its statuses."""
        return self.order_id, self.context


@dataclass
class RecordedTry:
    """The record of one try of a run, or a plan."""

    name: str
    """Its source, for messages."""
    map_index: int | None = None
    try_number: int | None = None
    """The map index of the task, in a table; a file doesn't say."""
    lines: list[RecordedLine] = field(default_factory=list)
    """In the order in which they were written, without those whose order was not found."""
    invalid: int = 0
    """The number of rows that could not be used."""
    end: Mapping[str, Any] | None = None
    """Its last line, ``None`` if the run was cut off."""
    cut_line: int | None = None
    """The number of the line that is cut off."""
    is_plan: bool = False
    """True if it is the record of a dry run, which sent nothing."""
    statuses: set[tuple[Any, StatusContext]] = field(default_factory=set)
    """The statuses that it is about, each once, however many rows asked for it."""

    @property
    def is_empty(self) -> bool:
        """True if it says nothing at all, not even that there was nothing to do."""
        return not self.statuses and not self.invalid and self.end is None

    def add(self, number: int, line: Mapping[str, Any]) -> None:
        """
        Take a line that is about a status.

        :param number: which line it is, for messages.
        :param line: the line.
        :raises YouCanInvalidInputError: if it makes no sense.
        """
        try:
            context, outcome = StatusContext(line["context"]), Outcome(line["outcome"])
            has_order = outcome in (Outcome.PLANNED, Outcome.SENDING, Outcome.CHANGED, Outcome.UNCHANGED)
            # A ref that led to no order has none.
            order_id = None if line["order_id"] is None and not has_order else check_order_id(line["order_id"])
            before, wanted = line["before"], line["wanted"]
            if not isinstance(wanted, str) or not isinstance(before, (str, type(None))):
                raise TypeError("a status is not text")
        except (ValueError, TypeError, YouCanInvalidInputError) as error:
            raise _no_record(self.name, number, f"makes no sense ({str(error).rstrip('.')})") from None
        ref = line["ref"] if isinstance(line["ref"], str) else None
        self.statuses.add((order_id or ("ref", ref), context))
        if order_id is not None:
            recorded_at = str(line.get("recorded_at") or "")
            values = (order_id, ref, context, before, wanted, outcome, _is_unconfirmed(line, outcome), recorded_at)
            self.lines.append(RecordedLine(*values, error=_find_error(wanted)))


def read_record(lines: Iterable[bytes], name: str) -> RecordedTry:
    """
    Read the record of a try from a file.

    :param lines: its lines.
    :param name: where they come from, for messages.
    :raises YouCanInvalidInputError: if it is not a record. A line that is cut off ends it.
    """
    record = RecordedTry(name)
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        if record.end is not None or record.cut_line is not None:
            raise _no_record(name, number, "comes after the last one")
        line = _parse(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw)
        if line is None:
            record.cut_line = number
            continue
        if not isinstance(line, dict) or not line.keys() >= set(LINE_KEYS):
            raise _no_record(name, number, "is not a line of a report")
        if line["outcome"] == COMPLETE:
            record.end = _check_end(name, number, line)
            record.is_plan = line["dry_run"]
        elif line["context"] is not None:
            record.add(number, line)
        elif line["outcome"] == Outcome.INVALID:
            record.invalid += 1
        else:
            raise _no_record(name, number, "is not a line of a report")
    return record


def read_tries(
    table: str,
    conn_id: str,
    run_id: str,
    dag_id: str | None,
    task_id: str | None,
    map_index: int | None,
    youcan_conn_id: str,
    reader: Mapping[str, Any],
) -> list[RecordedTry]:
    """
    Read what the tries of a run's task left in a table, those of each map index in their order.

    :param table: the table.
    :param conn_id: the Airflow connection of its database.
    :param run_id: the run.
    :param dag_id: its DAG, ``None`` if only one has a run of this id.
    :param task_id: its task, ``None`` if only one wrote.
    :param map_index: one of a mapped task, ``None`` for all.
    :param youcan_conn_id: the Airflow connection of the shop. Rows of other shops are left out.
    :param reader: the keys of the task that reads. A revert in the same run ignores the rows of its own earlier tries.
    :raises YouCanInvalidInputError: if there is no such run, or several tasks are meant.
    """
    rows = _query(table, conn_id, {"run_id": run_id, "dag_id": dag_id, "task_id": task_id, "map_index": map_index})
    rows = [row for row in rows if row["youcan_conn_id"] in (None, youcan_conn_id)]
    own = (reader["dag_id"], reader["run_id"], reader["task_id"])
    rows = [row for row in rows if (row["dag_id"], row["run_id"], row["task_id"]) != own] or rows
    tries: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        tries.setdefault((row["dag_id"], row["task_id"], row["map_index"], row["try_number"]), []).append(row)
    # A dry run is not part of the run that applies its plan.
    tries = {key: found for key, found in tries.items() if not _is_plan(found)}
    if not tries:
        raise YouCanInvalidInputError(
            f"The table {table} has no outcomes of the run {run_id!r}",
            advice=f"look for its run id there, and for the Airflow connection {youcan_conn_id!r} that it used.",
        )
    tasks = sorted({key[:2] for key in tries})
    if len(tasks) > 1:
        shown = ", ".join(f"{dag}.{task}" for dag, task in tasks)
        raise YouCanInvalidInputError(
            f"Several tasks wrote to {table} under the run id {run_id!r} ({shown})",
            advice="say which one with reverts_dag_id and reverts_task_id.",
        )
    by_number = sorted(tries.items(), key=lambda item: item[0][3] or 0)
    return [_read_try(table, key[2], key[3], found) for key, found in by_number]


def _query(table: str, conn_id: str, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    hook = get_database_hook(conn_id)
    given = {column: value for column, value in given.items() if value is not None}
    placeholder = getattr(hook, "placeholder", "%s")
    condition = " and ".join(f"{column} = {placeholder}" for column in given)
    try:
        with closing(hook.get_conn()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(f"select * from {table} where {condition}", tuple(given.values()))  # noqa: S608
            names = [column[0].lower() for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    except Exception as error:  # whatever a database's driver raises
        failure = database_error(
            f"The outcomes in {table} can't be read", error, f"check the table's name, and what {conn_id!r} may read"
        )
    else:
        refuse_missing_columns(table, set(names))
        return rows
    raise failure


def _is_plan(rows: Iterable[Mapping[str, Any]]) -> bool:
    outcomes = {row["outcome"] for row in rows}
    has_sent = outcomes & {Outcome.SENDING.value, Outcome.CHANGED.value}
    return Outcome.PLANNED.value in outcomes and not has_sent and not any(_is_unconfirmed_row(row) for row in rows)


def _read_try(table: str, map_index: int | None, try_number: int | None, rows: list[dict[str, Any]]) -> RecordedTry:
    record = RecordedTry(table, map_index, try_number)
    # A plan under the same keys, such as by a test of the task, is no part of the run. A batch whose commit was not
    # confirmed may be there twice.
    sent = [row for row in rows if row["outcome"] != Outcome.PLANNED]
    once = list({tuple(row[column] for column in (*LINE_COLUMNS, "line", "store")): row for row in sent}.values())
    numbers = {row["line"] for row in once}
    # Older rows have no numbers, and a try may have run twice: sort these by time. Numbers don't depend on the clock.
    is_numbered = None not in numbers and len(numbers) == len(once)
    once.sort(key=lambda row: row["line"] if is_numbered else (str(row["recorded_at"]), row["line"] or 0))
    for number, row in enumerate(once, 1):
        line = {key: row[column] for column, key in LINE_COLUMNS.items()} | {"recorded_at": row["recorded_at"]}
        if line["outcome"] == COMPLETE:
            record.end = line | {"store": row["store"]}
        elif line["context"] is None:
            record.invalid += 1
        else:
            record.add(number, line)
    return record


def _is_unconfirmed_row(row: Mapping[str, Any]) -> bool:
    return row["outcome"] == Outcome.FAILED.value and _is_unconfirmed(row, Outcome.FAILED)


def _is_unconfirmed(line: Mapping[str, Any], outcome: Outcome) -> bool:
    if (unconfirmed := line.get("unconfirmed")) is not None:
        return bool(unconfirmed)
    return outcome is Outcome.FAILED and _OLD_UNCONFIRMED in str(line["reason"])


def _find_error(wanted: str) -> YouCanInvalidInputError | None:
    try:
        check_status_text(wanted)
    except YouCanInvalidInputError as error:
        return error.with_traceback(None)
    return None


def _parse(raw: bytes) -> Any:
    """Return what a line says, ``None`` if it is cut off."""
    try:
        return json.loads(raw) if raw.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None


def _check_end(name: str, number: int, line: dict[str, Any]) -> dict[str, Any]:
    is_sound = (
        isinstance(line.get("dry_run"), bool)
        and isinstance(line.get("rows"), int)
        and isinstance(line.get("store"), (str, type(None)))
    )
    if not is_sound:
        raise _no_record(name, number, "is not a line of a report")
    return line


def _no_record(name: str, number: int, what: str) -> YouCanInvalidInputError:
    return YouCanInvalidInputError(f"Line {number} of {name} {what}", advice="give a report of this operator.")
