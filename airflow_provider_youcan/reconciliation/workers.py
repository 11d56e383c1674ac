"""Many orders at a time: workers that take them from a stream, and stop when one error concerns them all."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Generic, TypeVar

__all__ = ["Outage", "WorkerPool"]

T = TypeVar("T")

MAX_FAILURES_IN_A_ROW = 100
MAX_SECONDS_WITHOUT_SUCCESS = 60.0


class WorkerPool(Generic[T]):
    """
    Works on items as they come.

    :param size: on how many at a time.
    """

    def __init__(self, size: int) -> None:
        self.error: Exception | None = None
        """The error that ended it."""
        self._size = size
        self._is_ending = False
        self._items: deque[T] = deque()
        self._is_reading = False
        self._is_exhausted = False
        self._changed = asyncio.Event()

    def end(self, error: Exception | None = None) -> None:
        """Begin nothing more. Items in progress are finished, so that their outcome is known."""
        self._is_ending = True
        self._changed.set()
        self.error = self.error or error

    async def run(self, batches: AsyncGenerator[list[T], None], work: Callable[[T], Awaitable[None]]) -> None:
        """
        Work on all items, while the next ones are read.

        :param batches: the items, in batches as they become known.
        :param work: works on one. An error that it raises ends the pool.
        :raises Exception: what ended the pool.
        """
        async with aclosing(batches):
            tasks = [asyncio.ensure_future(self._work(batches, work)) for _ in range(self._size)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        if self.error is not None:
            raise self.error

    async def _work(self, batches: AsyncGenerator[list[T], None], work: Callable[[T], Awaitable[None]]) -> None:
        while not self._is_ending:
            try:
                if not self._is_exhausted and not self._is_reading and len(self._items) <= 2 * self._size:
                    # A worker that reads does not send: the requests in flight never exceed the workers.
                    await self._read(batches)
                elif self._items:
                    await work(self._items.popleft())
                elif self._is_reading:
                    self._changed.clear()
                    await self._changed.wait()
                else:
                    return
            except Exception as error:  # a record that takes no lines, or a mistake of ours
                self.end(error)

    async def _read(self, batches: AsyncGenerator[list[T], None]) -> None:
        self._is_reading = True
        try:
            self._items.extend(await anext(batches))
        except StopAsyncIteration:
            self._is_exhausted = True
        finally:
            self._is_reading = False
            self._changed.set()


class Outage:
    """
    Notices that the shop is down: it took nothing for a minute, and a hundred orders.

    :param clock: returns the time in seconds (default the machine's monotonic one).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._last_success = clock()

    def record_success(self) -> None:
        """Record that the shop answered."""
        self._failures, self._last_success = 0, self._clock()

    def record_failure(self) -> bool:
        """Record that it did not, and return whether it is down."""
        self._failures += 1
        is_long = self._clock() > self._last_success + MAX_SECONDS_WITHOUT_SUCCESS
        return is_long and self._failures >= MAX_FAILURES_IN_A_ROW
