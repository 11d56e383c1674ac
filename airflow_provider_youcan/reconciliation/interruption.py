"""
Running a coroutine in a task that Airflow may interrupt: by a signal, a timeout, or ``on_kill``.

Airflow raises its exceptions from signal handlers, and so in the midst of whatever runs. In an event loop that is any
callback, which swallows it, or the coroutine that has a request under way, which takes it for a lost answer. So while
the loop runs a signal only wakes it; it comes to an orderly end, and then the signal is handled as Airflow wants it.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["InterruptibleRun"]

T = TypeVar("T")

GRACE_SECONDS = 3.0
"""How long what is under way may take to come to its end: Airflow 3.3 kills a task 5 seconds after its SIGTERM."""

_SIGNALS = (signal.SIGTERM, signal.SIGALRM)


class InterruptibleRun:
    """
    Runs one coroutine, which can be stopped.

    :param on_stop: is called in the event loop when it is to end, once.
    """

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self.was_stopped = False
        """Whether it was stopped."""
        self.timed_out = False
        """Whether its time was over."""
        self._on_stop = on_stop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._received: list[tuple[Any, int]] = []

    def stop(self) -> None:
        """Have it end. It may be called from a signal handler and from any thread, and only wakes the loop."""
        self.was_stopped = True
        loop, stopping = self._loop, self._stopping
        if loop is not None and stopping is not None and not loop.is_closed():
            loop.call_soon_threadsafe(stopping.set)

    def run(self, coroutine: Coroutine[Any, Any, T], seconds: float | None = None) -> T | None:
        """
        Run a coroutine to its end, or until it is stopped or its time is over.

        :param coroutine: what runs.
        :param seconds: how long it may take, before it is stopped; ``None`` sets no bound (default).
        :return: what it returns, ``None`` where it had to be cancelled.
        """
        with self._signals_wake_the_loop():
            return asyncio.run(self._run(coroutine, seconds))

    def handle_signals(self) -> None:
        """Handle the signals that came, as Airflow does: it may raise ``AirflowTaskTimeout`` or the like."""
        received, self._received = self._received, []
        for handler, number in received:
            if callable(handler):
                handler(number, None)

    async def _run(self, coroutine: Coroutine[Any, Any, T], seconds: float | None) -> T | None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        if self.was_stopped:
            self._stopping.set()
        task = asyncio.ensure_future(coroutine)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.timed_out = not stopping.done()
                self._on_stop()
                await asyncio.wait({task}, timeout=GRACE_SECONDS)
                task.cancel()
            await asyncio.wait({task})
        finally:
            stopping.cancel()
        return None if task.cancelled() else task.result()

    @contextmanager
    def _signals_wake_the_loop(self) -> Iterator[None]:
        # Python lets only the main thread handle signals, and only there does Airflow raise from them.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}

        def wake(number: int, _: Any) -> None:
            self._received.append((handlers[signal.Signals(number)], number))
            self.stop()

        for number in _SIGNALS:
            # A signal that no one handles ends the process, as it should.
            if callable(handlers[number]):
                signal.signal(number, wake)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
