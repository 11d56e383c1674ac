"""Writes items in a thread of its own, all that wait at once, so that many of them share one write."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Generic, Protocol, TypeVar

from airflow_provider_youcan.exceptions import NOTHING_SENT, YouCanConnectionError, YouCanError
from airflow_provider_youcan.reconciliation.databases import describe_error

__all__ = ["MAX_WAIT", "BackgroundWriter", "Sink"]

T = TypeVar("T")

MAX_WAIT = 60.0
"""The longest time, in seconds, that a sink may take nothing."""

_MAX_OPENING = 300.0
"""The longest time, in seconds, that opening may take: some warehouses start only when they are asked."""

_FIRST_PAUSE, _MAX_PAUSE = 0.05, 2.0
_log = logging.getLogger(__name__)


class Sink(Protocol[T]):
    """A place where items are kept. All of its methods are called in one thread, and may raise anything."""

    @property
    def name(self) -> str:
        """Its name at the beginning of a sentence."""

    def open(self) -> None:
        """Get ready to write."""

    def append(self, items: list[T]) -> None:
        """Keep items, all of them or none."""

    def close(self) -> None:
        """Let go of what is open."""


class _Batch(Generic[T]):
    """Items that are kept together, and who waits for them."""

    def __init__(self) -> None:
        self.items: list[T] = []
        self.done: Future[None] = Future()


class BackgroundWriter(Generic[T]):
    """
    Keeps items in one sink, in the order in which they came. A sink that hangs holds nothing but its thread.

    :param sink: where they are kept.
    :param max_batch: how many are given to it at a time, at most.
    :param make_error: returns the error for a sink that takes nothing, given why.
    """

    def __init__(self, sink: Sink[T], max_batch: int, make_error: Callable[[str], YouCanError]) -> None:
        self._sink = sink
        self._max_batch = max_batch
        self._make_error = make_error
        self._opened: Future[None] = Future()
        self._wake = threading.Condition()
        self._batch: _Batch[T] = _Batch()
        self._written = 0
        self._taken = 0
        self._progress_at = 0.0
        """The last time at which items were kept, in seconds of the monotonic clock."""
        self._is_closing = False
        self._is_abandoned = False
        self._failure: Exception | None = None
        # One thread opens, uses and closes the sink: a connection of SQLite belongs to one thread.
        self._thread = threading.Thread(target=self._run, name="youcan-writer", daemon=True)

    @property
    def pending(self) -> int:
        """The number of items that are not kept yet."""
        return self._taken - self._written

    def open(self) -> None:
        """
        Open the sink.

        :raises YouCanError: if it can't be written to.
        """
        self._thread.start()
        try:
            self._opened.result(_MAX_OPENING)
        except (TimeoutError, FutureTimeoutError):
            self._is_abandoned = True
        else:
            return
        raise YouCanConnectionError(
            f"{self._sink.name} could not be opened within {_MAX_OPENING:g} s",
            advice="it may work later",
            outcome=NOTHING_SENT,
        )

    def write(self, *items: T) -> None:
        """Take items."""
        with self._wake:
            self._taken += len(items)
            self._batch.items += items
            self._wake.notify()

    async def flush(self) -> None:
        """
        Wait until all items that were taken are kept.

        :raises YouCanError: if the sink took none of them for a minute.
        """
        with self._wake:
            if not self.pending:
                return
            done = self._batch.done if self._batch.items else self._under_way
        waiting, begun_at = asyncio.wrap_future(done), time.monotonic()
        while not waiting.done():
            left = max(begun_at, self._progress_at) + MAX_WAIT - time.monotonic()
            if left <= 0:
                raise self._error()
            await asyncio.wait({waiting}, timeout=left)
        waiting.result()

    async def drain(self) -> None:
        """Wait, if many items wait, so that memory is bounded."""
        if self.pending > 2 * self._max_batch:
            await self.flush()

    def close(self, ends_at: Callable[[], float | None]) -> YouCanError | None:
        """
        Close the sink.

        :param ends_at: returns when it has to be over, in seconds of the monotonic clock, ``None`` while it has a
            minute after each item that is kept.
        :return: the error that says that it did not take all items in time.
        """
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        if not self._thread.is_alive() and not self._opened.done():
            return None  # it was never opened
        begun_at = time.monotonic()
        while self._thread.is_alive():
            # In slices, so that a stop is noticed.
            end = ends_at() or max(begun_at, self._progress_at) + MAX_WAIT
            if (left := end - time.monotonic()) <= 0:
                break
            self._thread.join(min(left, 0.1))
        if not self.pending:
            return None
        self._is_abandoned = True
        return self._error()

    def _error(self) -> YouCanError:
        return self._make_error("it does not answer" if self._failure is None else _describe(self._failure))

    # --- the thread ---

    def _run(self) -> None:
        try:
            self._sink.open()
        except BaseException as error:  # whatever it raises is raised where it was opened
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        try:
            while (batch := self._take()) is not None:
                self._keep(batch)
                if self._is_abandoned:
                    return
        finally:
            try:
                self._sink.close()
            except Exception as error:  # whatever a storage raises; every item is kept all the same
                _log.warning("%s could not be closed (%s).", self._sink.name, _describe(error))

    def _take(self) -> _Batch[T] | None:
        """Return the items that wait, or ``None`` at the end."""
        with self._wake:
            while not self._batch.items and not self._is_closing:
                self._wake.wait()
            if not self._batch.items:
                return None
            self._under_way_batch, self._batch = self._batch, _Batch()
            return self._under_way_batch

    @property
    def _under_way(self) -> Future[None]:
        return self._under_way_batch.done

    def _keep(self, batch: _Batch[T]) -> None:
        deadline, pause = time.monotonic() + MAX_WAIT, _FIRST_PAUSE
        kept = 0
        while kept < len(batch.items):
            if self._is_abandoned:
                # Nobody waits any longer for a later result.
                self._give_back(batch, kept)
                return
            items = batch.items[kept : kept + self._max_batch]
            try:
                self._sink.append(items)
            except Exception as error:  # whatever a storage or a database's driver raises
                if self._failure is None:
                    _log.warning(
                        "%s takes nothing (%s): it is tried again, and all else waits.",
                        self._sink.name,
                        _describe(error),
                    )
                self._failure = error
                if time.monotonic() + pause > deadline:
                    self._give_back(batch, kept)
                    return
                time.sleep(pause)
                pause = min(2 * pause, _MAX_PAUSE)
            else:
                kept += len(items)
                self._written += len(items)
                self._failure, pause, self._progress_at = None, _FIRST_PAUSE, time.monotonic()
                deadline = self._progress_at + MAX_WAIT
        batch.done.set_result(None)

    def _give_back(self, batch: _Batch[T], kept: int) -> None:
        """Put items back that were not kept: without them what follows would look whole."""
        with self._wake:
            self._batch.items[:0] = batch.items[kept:]
        batch.done.set_exception(self._error())


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, YouCanError) else describe_error(error)
