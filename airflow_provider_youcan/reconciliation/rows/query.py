"""The rows of a query, in batches as far as the database can do that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import pairwise
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_provider_youcan.exceptions import NOTHING_SENT, YouCanConnectionError, YouCanError, YouCanInvalidInputError
from airflow_provider_youcan.reconciliation.databases import database_error

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

__all__ = ["query"]

_ROWS_A_FETCH = 1000
_MAX_SECONDS = 6 * 3600.0
"""The longest time, in seconds, that a database may take for its next rows."""
_READING = ("SELECT", "WITH", "VALUES", "FROM", "TABLE", "SHOW", "DESCRIBE", "DESC", "SUMMARIZE", "PIVOT", "UNPIVOT")
"""The first words of statements that read."""
_CHANGING = ("INSERT", "UPDATE", "DELETE", "MERGE", "UPSERT", "INTO")
_LOCKING = ("FOR", "KEY")


Batch: TypeAlias = tuple[list[str], list[Mapping[str, Any]]]
"""The names of the columns, and some rows."""


def query(
    hook: DbApiHook, sql: str, parameters: Any = None, check: Callable[[], None] = lambda: None
) -> Iterator[Batch]:
    """
    Run a query, and return its rows in batches; the first batch may be empty.

    It runs in a thread, because a driver's call can't be interrupted: a task that is stopped leaves it behind.

    :param hook: the hook of its database.
    :param sql: one statement that returns rows, with or without a semicolon at its end.
    :param parameters: its parameters, as the database takes them (default none).
    :param check: is called every second while the database is waited for; an error that it raises ends that.
    :raises YouCanInvalidInputError: if it is more than one statement, changes data, or returns no rows.
    :raises YouCanConnectionError: if nothing comes for six hours.
    """
    statement = _check_statement(hook, sql)
    batches: Queue[Batch | BaseException | None] = Queue(maxsize=2)
    is_abandoned = Event()

    def put(item: Batch | BaseException | None) -> None:
        while not is_abandoned.is_set():
            with suppress(Full):
                batches.put(item, timeout=1)
                return

    def read() -> None:
        try:
            for batch in _query(hook, statement, parameters):
                put(batch)
                if is_abandoned.is_set():
                    return
            put(None)
        except BaseException as error:  # raised where the rows are waited for
            put(error)

    Thread(target=read, name="youcan-query", daemon=True).start()
    try:
        while (item := _wait_for(batches, check)) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        is_abandoned.set()


def _wait_for(batches: Queue[Batch | BaseException | None], check: Callable[[], None]) -> Batch | BaseException | None:
    deadline = time.monotonic() + _MAX_SECONDS
    while time.monotonic() < deadline:
        check()
        with suppress(Empty):
            return batches.get(timeout=1)
    raise YouCanConnectionError(
        f"The database returned nothing for {_MAX_SECONDS / 3600:g} hours",
        advice="it may work later",
        outcome=NOTHING_SENT,
    )


def _query(hook: DbApiHook, statement: str, parameters: Any) -> Iterator[Batch]:
    try:
        yield from _fetch(hook, statement, parameters)
        return
    except YouCanError:
        raise
    except Exception as error:  # whatever a database's driver raises
        failure = database_error("The sql failed", error, "look at the sql, and at what its connection may read")
    # Raised outside the except block: the driver's error, whose text may hold a cell, must not be its context.
    raise failure


def _fetch(hook: DbApiHook, statement: str, parameters: Any) -> Iterator[Batch]:
    with closing(_connect(hook)) as connection, closing(_open_cursor(hook, connection)) as cursor:
        cursor.execute(statement, *([parameters] if parameters is not None else []))
        rows = cursor.fetchmany(_ROWS_A_FETCH) if hook.conn_type == "postgres" or cursor.description else []
        if not cursor.description:
            raise YouCanInvalidInputError("The sql returns no rows", advice="use a SELECT.")
        names = [column[0] for column in cursor.description]
        yield names, [_as_mapping(names, row) for row in rows]
        while rows := cursor.fetchmany(_ROWS_A_FETCH) if rows else []:
            yield names, [_as_mapping(names, row) for row in rows]


def _check_statement(hook: DbApiHook, sql: str) -> str:
    from sqlparse.exceptions import SQLParseError

    try:
        statements = hook.split_sql_string(sql)
    except (SQLParseError, RecursionError):  # more words than sqlparse groups: the database counts the statements
        statements = [sql]
    if len(statements) != 1:
        raise YouCanInvalidInputError(
            f"The sql has {len(statements)} statements", advice="give one, which returns the rows."
        )
    if (word := _find_change(statements[0])) is not None:
        raise YouCanInvalidInputError(
            f"The sql contains {word}, which may change data", advice="use a SELECT. It was not run."
        )
    return hook.strip_sql_string(sql)


def _find_change(statement: str) -> str | None:
    """Return the word by which a statement may do more than read."""
    from sqlparse import lexer, tokens

    skipped = (tokens.Whitespace, tokens.Comment)
    words: list[tuple[bool, str]] = [
        (kind in tokens.Keyword, text.upper())
        for kind, text in lexer.tokenize(statement)  # type: ignore[no-untyped-call]
        if text != "(" and not any(kind in one for one in skipped)
    ]
    if words and words[0][1] not in _READING:
        return words[0][1][:20]
    # "for update" and "for no key update" lock rows, and change none.
    return next(
        (
            text
            for (_, before), (is_keyword, text) in pairwise(words)
            if is_keyword and text in _CHANGING and not (text == "UPDATE" and before in _LOCKING)
        ),
        None,
    )


def _connect(hook: DbApiHook) -> Any:
    connection = hook.get_conn()
    if not hasattr(connection, "cursor"):
        with closing(connection):
            raise YouCanInvalidInputError(
                f"The Airflow connection {hook.get_conn_id()!r} of type {hook.conn_type!r} has no cursors",
                advice="read the rows in a task of your own, and pass them as orders.",
            )
    return connection


def _open_cursor(hook: DbApiHook, connection: Any) -> Any:
    """Return a cursor that leaves the rows in the database until they are fetched."""
    if hook.conn_type == "postgres":
        # PostgreSQL's drivers fetch in batches only with a named cursor.
        return connection.cursor("youcan_reconcile")
    if type(connection).__module__.partition(".")[0] == "MySQLdb":
        from MySQLdb.cursors import SSCursor

        return connection.cursor(SSCursor)
    return connection.cursor()


def _as_mapping(names: Sequence[str], row: Any) -> Mapping[str, Any]:
    """Return a row as a mapping; some connections are set up to return them so."""
    return row if isinstance(row, Mapping) else dict(zip(names, row, strict=True))
