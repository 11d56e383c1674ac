"""
The record of a run, written ahead: a line is kept before the update that it announces is sent.

Each place where lines are kept has a thread of its own, which takes all lines that wait at once (a group commit), so
that many updates share one write, and so that a place that hangs holds nothing but its thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from airflow_provider_youcan.exceptions import YouCanConnectionError, YouCanError, YouCanRecordError
from airflow_provider_youcan.reconciliation.record.lines import Line, Sink

__all__ = ["MAX_WAIT", "Record"]

MAX_WAIT = 60.0
"""The longest time, in seconds, that updates wait for a place that takes no lines."""

_MAX_OPENING = 300.0
"""The longest time, in seconds, that opening may take: some warehouses start only when they are asked."""

_MAX_PENDING = 1000
_MAX_BATCH = 500
_FIRST_PAUSE, _MAX_PAUSE = 0.05, 2.0
_log = logging.getLogger(__name__)


class Record:
    """
    Keeps lines in every sink.

    :param sinks: where lines are kept; none at all keeps nothing.
    """

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self.is_kept = bool(sinks)
        """Whether lines are kept anywhere."""
        self._writers = [_Writer(sink) for sink in sinks]
        self._lines = 0

    def open(self) -> None:
        """
        Open all sinks.

        :raises YouCanError: if one of them can't be written to.
        """
        for writer in self._writers:
            writer.open()

    def write(self, row: int | None, line: Line) -> None:
        """
        Take a line.

        :param row: the row that it is about, from 1.
        :param line: plain JSON.
        """
        self._lines += 1
        for writer in self._writers:
            writer.write(self._lines, row, line)

    async def flush(self) -> None:
        """
        Wait until all lines that were taken survive this process.

        :raises YouCanRecordError: if a sink took none of them for a minute.
        """
        for writer in self._writers:
            await writer.flush()

    async def drain(self) -> None:
        """Wait, if many lines wait, so that memory is bounded."""
        for writer in self._writers:
            if writer.pending > _MAX_PENDING:
                await writer.flush()

    def close(self, last_line: Line, ends_at: Callable[[], float | None] = lambda: None) -> None:
        """
        Write the last line, and close all sinks.

        :param last_line: plain JSON.
        :param ends_at: returns when it has to be over, in seconds of the monotonic clock, ``None`` while it has a
            minute after each line that is kept (default).
        :raises YouCanRecordError: if a sink did not take it in time.
        """
        self.write(None, last_line)
        errors = [error for writer in self._writers if (error := writer.close(ends_at)) is not None]
        if errors:
            raise errors[0]

    def abandon(self) -> None:
        """Close all sinks without a last line: the run did not begin."""
        deadline = time.monotonic() + 1.0
        for writer in self._writers:
            writer.close(lambda: deadline)


class _Batch:
    """Lines that are kept together, and who waits for them."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, int | None, Line]] = []
        self.done: Future[None] = Future()


class _Writer:
    """Keeps lines in one sink, in the order in which they came."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._opened: Future[None] = Future()
        self._wake = threading.Condition()
        self._batch = _Batch()
        self._written = 0
        self._taken = 0
        self._progress_at = 0.0
        """When lines were kept last, in seconds of the monotonic clock."""
        self._is_closing = False
        self._is_abandoned = False
        self._failure: Exception | None = None
        # One thread has the sink from its beginning to its end: a connection of SQLite belongs to one.
        self._thread = threading.Thread(target=self._run, name="youcan-record", daemon=True)

    @property
    def pending(self) -> int:
        """The number of lines that are not kept yet."""
        return self._taken - self._written

    def open(self) -> None:
        self._thread.start()
        try:
            self._opened.result(_MAX_OPENING)
        except (TimeoutError, FutureTimeoutError):
            self._is_abandoned = True
        else:
            return
        raise YouCanConnectionError(
            f"{self._sink.name} could not be opened within {_MAX_OPENING:g} s, so nothing was sent; it may work later."
        )

    def write(self, number: int, row: int | None, line: Line) -> None:
        with self._wake:
            self._taken += 1
            self._batch.lines.append((number, row, line))
            self._wake.notify()

    async def flush(self) -> None:
        with self._wake:
            if not self.pending:
                return
            done = self._batch.done if self._batch.lines else self._under_way
        waiting, begun_at = asyncio.wrap_future(done), time.monotonic()
        while not waiting.done():
            left = max(begun_at, self._progress_at) + MAX_WAIT - time.monotonic()
            if left <= 0:
                raise self._error()
            await asyncio.wait({waiting}, timeout=left)
        waiting.result()

    def close(self, ends_at: Callable[[], float | None]) -> YouCanRecordError | None:
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        if not self._thread.is_alive() and not self._opened.done():
            return None  # it was never opened
        begun_at = time.monotonic()
        while self._thread.is_alive():
            # In slices, because a stop may come meanwhile.
            end = ends_at() or max(begun_at, self._progress_at) + MAX_WAIT
            if (left := end - time.monotonic()) <= 0:
                break
            self._thread.join(min(left, 0.1))
        if not self.pending:
            return None
        self._is_abandoned = True
        return self._error()

    def _error(self) -> YouCanRecordError:
        why = "it does not answer" if self._failure is None else _describe(self._failure)
        return YouCanRecordError(
            f"{self._sink.name} takes no lines ({why}), and no update is sent without one: nothing more was sent; it "
            "may work later."
        )

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
            except Exception as error:  # whatever a storage raises; every line is kept all the same
                _log.warning("%s could not be closed (%s).", self._sink.name, _describe(error))

    def _take(self) -> _Batch | None:
        """Return the lines that wait, or ``None`` at the end."""
        with self._wake:
            while not self._batch.lines and not self._is_closing:
                self._wake.wait()
            if not self._batch.lines:
                return None
            self._under_way_batch, self._batch = self._batch, _Batch()
            return self._under_way_batch

    @property
    def _under_way(self) -> Future[None]:
        return self._under_way_batch.done

    def _keep(self, batch: _Batch) -> None:
        deadline, pause = time.monotonic() + MAX_WAIT, _FIRST_PAUSE
        kept = 0
        while kept < len(batch.lines):
            if self._is_abandoned:
                # Whoever made the record does not wait any longer: what comes later would belong to nothing.
                self._give_back(batch, kept)
                return
            lines = batch.lines[kept : kept + _MAX_BATCH]
            try:
                self._sink.append(lines)
            except Exception as error:  # whatever a storage or a database's driver raises
                if self._failure is None:
                    _log.warning("%s takes no lines (%s); updates wait.", self._sink.name, _describe(error))
                self._failure = error
                if time.monotonic() + pause > deadline:
                    self._give_back(batch, kept)
                    return
                time.sleep(pause)
                pause = min(2 * pause, _MAX_PAUSE)
            else:
                kept += len(lines)
                self._written += len(lines)
                self._failure, pause, self._progress_at = None, _FIRST_PAUSE, time.monotonic()
                deadline = self._progress_at + MAX_WAIT
        batch.done.set_result(None)

    def _give_back(self, batch: _Batch, kept: int) -> None:
        """Put lines back that were not kept: without them what follows would look whole."""
        with self._wake:
            self._batch.lines[:0] = batch.lines[kept:]
        batch.done.set_exception(self._error())


def _describe(error: Exception) -> str:
    if isinstance(error, YouCanError):
        return str(error)
    # The first line: a database puts the row that it refuses, and so a cell, into the next ones.
    return " ".join(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".split())[:300]
