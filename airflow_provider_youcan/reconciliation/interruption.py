"""
Stopping a task that Airflow interrupts, by a signal, a timeout, or ``on_kill``, from its first line on.

While rows are read, a SIGTERM ends that at once. While the event loop runs, a signal only wakes it: an exception raised
from a handler would end up in whatever callback runs, which swallows it, or in the coroutine that has a request under
way, which takes it for a lost answer. After the loop a signal waits until what was done is written down.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from airflow_provider_youcan.exceptions import YouCanTaskStoppedError

__all__ = ["GRACE_SECONDS", "Interruption"]

T = TypeVar("T")

GRACE_SECONDS = 2.5
"""The seconds that requests in flight have to end: Airflow 3.3 kills a task 5 seconds after its SIGTERM."""

_SECONDS_TO_END = 4.0
"""The seconds from the stop until everything is written down."""

_SIGNALS = (signal.SIGTERM, signal.SIGALRM)


class Interruption:
    """Ends the run of a task that is stopped."""

    def __init__(self) -> None:
        self.was_stopped = False
        """True if it was stopped."""
        self.timed_out = False
        """True if its time was over."""
        self.ends_at: float | None = None
        """The time at which Airflow ends the task, in seconds of the monotonic clock, once it is told to end."""
        self._is_reading = False
        self._wake: Callable[[], None] | None = None
        self._received: list[tuple[Callable[[int, FrameType | None], Any], int]] = []

    def stop(self) -> None:
        """Ask the run to stop. Signal handlers and any thread may call it."""
        self.was_stopped = True
        self._set_end()
        if self._wake is not None:
            self._wake()

    def check(self) -> None:
        """
        Raise an error if the task was stopped.

        :raises YouCanTaskStoppedError: if so.
        """
        if self.was_stopped:
            raise YouCanTaskStoppedError("The task was stopped before it was done; a retry begins again.")

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Handle signals from here to the end of the block: until :meth:`run` is called, SIGTERM raises at once."""
        # Python lets only the main thread handle signals, and only there does Airflow raise from them.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}

        def receive(number: int, frame: FrameType | None) -> None:
            handler = handlers[signal.Signals(number)]
            assert callable(handler)  # noqa: S101  # for the type checker: else this is not installed
            if not self._is_reading:
                self._received.append((handler, number))
                self.stop()
                return
            handler(number, frame)
            if number == signal.SIGTERM:
                # Airflow 3's own handler only calls on_kill.
                self.stop()
                self.check()

        for number in _SIGNALS:
            # A signal that no one handles ends the process, as it should.
            if callable(handlers[number]):
                signal.signal(number, receive)
        self._is_reading = True
        try:
            yield
        finally:
            self._is_reading = False
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def interrupt(self, items: Iterable[T]) -> Iterator[T]:
        """Return items, and end before the next one if the task was stopped: their source may swallow an exception."""
        for item in items:
            if self.was_stopped:
                self.check()
            yield item

    def run(
        self, coroutine: Coroutine[Any, Any, T], on_stop: Callable[[], None], seconds: float | None = None
    ) -> T | None:
        """
        Run a coroutine to its end, or until the task is stopped or its time is over.

        :param coroutine: what runs.
        :param on_stop: is called in the event loop when it is to end, once.
        :param seconds: how long it may take, before it is stopped; ``None`` sets no bound (default).
        :return: what it returns, ``None`` if it had to be cancelled.
        """
        # From here to the end of the watched block, signals wait until everything is written down.
        self._is_reading = False
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(self._run(coroutine, on_stop, seconds))
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            # Unlike asyncio.run, this does not wait for threads: a hanging look-up would outlast a stop.
            loop.close()

    def handle_signals(self) -> None:
        """Handle the signals that came, as Airflow does: it may raise ``AirflowTaskTimeout`` or the like."""
        received, self._received = self._received, []
        for handler, number in received:
            handler(number, None)

    def _set_end(self) -> None:
        if self.ends_at is None:
            self.ends_at = time.monotonic() + _SECONDS_TO_END

    async def _run(
        self, coroutine: Coroutine[Any, Any, T], on_stop: Callable[[], None], seconds: float | None
    ) -> T | None:
        loop, event = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(event.set)

        self._wake = wake
        if self.was_stopped:
            event.set()
        task = asyncio.ensure_future(coroutine)
        stopping = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({task, stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.timed_out = not stopping.done()
                self._set_end()
                on_stop()
                await asyncio.wait({task}, timeout=GRACE_SECONDS)
                task.cancel()
            await asyncio.wait({task})
        finally:
            self._wake = None
            stopping.cancel()
        return None if task.cancelled() else task.result()
