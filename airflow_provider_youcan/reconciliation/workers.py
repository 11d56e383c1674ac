"""So many orders at a time: workers that take them from a stream, and stop when one error concerns them all."""

from __future__ import annotations

import asyncio
import time
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
        """What ended it."""
        self._size = size
        self._is_ending = False

    def end(self, error: Exception | None = None) -> None:
        """Begin nothing more. What is under way comes to its end: only so it is known what became of it."""
        self._is_ending = True
        self.error = self.error or error

    async def run(self, items: AsyncGenerator[T, None], work: Callable[[T], Awaitable[None]]) -> None:
        """
        Work on all items, while the next ones are read.

        :param items: the items.
        :param work: works on one. An error that it raises ends the pool.
        :raises Exception: what ended the pool.
        """
        queue: asyncio.Queue[T | None] = asyncio.Queue(self._size)
        tasks = [asyncio.ensure_future(self._feed(items, queue))]
        tasks += [asyncio.ensure_future(self._work_on(queue, work)) for _ in range(self._size)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self.error is not None:
            raise self.error

    async def _feed(self, items: AsyncGenerator[T, None], queue: asyncio.Queue[T | None]) -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    if self._is_ending:
                        break
                    await queue.put(item)
        except Exception as error:
            self.end(error)
        for _ in range(self._size):
            await queue.put(None)

    async def _work_on(self, queue: asyncio.Queue[T | None], work: Callable[[T], Awaitable[None]]) -> None:
        while (item := await queue.get()) is not None:
            # The queue is emptied all the same, because what feeds it waits for room.
            if self._is_ending:
                continue
            try:
                await work(item)
            except Exception as error:  # a report that can't be written, or a mistake of ours
                self.end(error)


class Outage:
    """
    Whether the shop is down: it took nothing for a minute, and a hundred orders.

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
