"""
The record of a run, written ahead: a line is kept before the update that it announces is sent.

Each place where lines are kept has a thread of its own, which takes all lines that wait at once (a group commit).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from airflow_provider_youcan.exceptions import YouCanError, YouCanRecordError
from airflow_provider_youcan.reconciliation.background import BackgroundWriter
from airflow_provider_youcan.reconciliation.record.lines import Line, NumberedLine, Sink

__all__ = ["Record"]

_MAX_BATCH = 500


class Record:
    """
    Keeps lines in every sink.

    :param sinks: where lines are kept; none at all keeps nothing.
    """

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self.is_kept = bool(sinks)
        """True if lines are kept anywhere."""
        self._writers = [_make_writer(sink) for sink in sinks]
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
            writer.write((self._lines, row, line))

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
            await writer.drain()

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


def _make_writer(sink: Sink) -> BackgroundWriter[NumberedLine]:
    def make_error(why: str) -> YouCanError:
        return YouCanRecordError(
            f"{sink.name} takes no lines ({why})",
            advice="it may work later",
            outcome="nothing more was sent: no update is sent without its line",
        )

    return BackgroundWriter(sink, _MAX_BATCH, make_error)
