"""Requests in their turn: what waits for a shop's limit, and for a ceiling, in an event loop."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress

from airflow_provider_youcan.client.attempts import MAX_RETRY_AFTER, Attempts
from airflow_provider_youcan.client.endpoints import Freshness, Request
from airflow_provider_youcan.client.rate_limit import MAX_SILENCE, RateLimit
from airflow_provider_youcan.client.responses import Answer, read_rate_limit, read_retry_after
from airflow_provider_youcan.exceptions import YouCanInvalidInputError, YouCanRateLimitError, YouCanTaskStoppedError
from airflow_provider_youcan.logs import Throttle
from airflow_provider_youcan.metrics import record_limit_wait
from airflow_provider_youcan.timeouts import timeout

__all__ = ["RateLimiter", "Turn"]

_MAX_REFUSALS = 10
"""The refusals in a row, over a minute and with a Retry-After, after which Airflow's retries decide."""

_CATCH_UP_SECONDS = 0.05
"""The seconds that a ceiling may fall behind and catch up: an event loop wakes a little late each time."""

_LEAST_WAIT = 0.01
"""Shorter waits, in seconds, are not counted by the metrics."""


class Turn:
    """
    The turn that is reserved for one procedure.

    The read that a guarded update rests on takes two turns of a window: the second is kept here for its update.
    """

    def __init__(self) -> None:
        self.reserved_at = 0.0
        """The time from which the reserved turn may be used, under a ceiling."""
        self.first_window: int | None = None
        """The limiter's window in which the procedure first asked for a guarded turn."""
        self._give_back: Callable[[], None] | None = None

    def reserve(self, at: float, give_back: Callable[[], None]) -> None:
        """Keep a turn for the update."""
        self.end()
        self.reserved_at, self._give_back = at, give_back

    def take(self) -> bool:
        """Take the turn that was reserved, and return whether one was."""
        was_reserved, self._give_back = self._give_back is not None, None
        return was_reserved

    def end(self) -> None:
        """Give a reserved turn back if it was not taken."""
        if self._give_back is not None:
            self._give_back()
            self._give_back = None


class RateLimiter:
    """
    Sends requests when the shop takes them, and delays all of them when it refused one.

    A request takes its turn in the order in which it was asked for, unless there is room for all that wait.

    :param requests_per_second: a ceiling, whatever the shop would take; ``None`` sets none (default).
    :param max_in_flight: how many requests are under way at most; ``None`` sets no bound (default).
    :param max_windows: the number of windows in a row without a guarded update after which it gives up (default
        4).
    :param clock: returns the time in seconds (default the machine's monotonic one).
    """

    def __init__(
        self,
        requests_per_second: float | None = None,
        *,
        max_in_flight: int | None = None,
        max_windows: int = 4,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = RateLimit(max_in_flight)
        self._interval = 1 / requests_per_second if requests_per_second else 0.0
        self._next_slot = clock()
        self._max_windows = max_windows
        self._clock = clock
        self._last_success = clock()
        self._queue = asyncio.Lock()
        self._waiting = 0
        self._changed = asyncio.Event()
        self._is_stopped = False
        self._stopping = asyncio.Event()
        self._given_up: YouCanRateLimitError | None = None
        self._given_up_until = 0.0
        self._window_of_last_update = 0
        self._warning = Throttle(logging.getLogger(__name__), clock)

    async def take_turn(self, request: Request, turn: Turn, attempts: Attempts) -> int:
        """
        Wait until a request may be sent.

        :param request: what is to be sent.
        :param turn: what is reserved for the procedure that it belongs to.
        :param attempts: the attempts of that procedure.
        :return: its number, for :meth:`record`, which has to follow whatever comes of the request.
        :raises StaleReadError: in place of sending an update whose read is too old by now.
        :raises YouCanRateLimitError: if the shop refused too often, or for too long, to be waited for.
        """
        if request.freshness is not None and turn.take():
            return await self._use_reserved_turn(request, turn, attempts)
        size = 1 if request.update_freshness is None else 2
        if not self._interval and self._may_pass(size):
            if self._given_up is not None or self._is_stopped:
                self._raise_if_given_up()
            return self._claim(request, size, 0.0, turn, attempts)
        self._waiting += 1
        try:
            async with self._queue:
                return await self._wait_for_turn(request, size, turn, attempts)
        finally:
            self._waiting -= 1

    def record(self, number: int, request: Request, answer: Answer | None) -> None:
        """
        Learn from what came of a request.

        :param number: what :meth:`take_turn` returned.
        :param request: what was sent.
        :param answer: the answer, a 429 among others; ``None`` if none came.
        """
        now = self._clock()
        if answer is not None and answer.status_code == 429:
            self._record_refusal(number, now, read_retry_after(answer.headers))
        else:
            self._last_success, self._given_up = now, None
            has_limit = answer is not None and "X-RateLimit-Limit" in answer.headers
            self._limit.answered(number, now, *(read_rate_limit(answer.headers) if answer and has_limit else ()))
            if request.freshness is not None and request.freshness.max_age < math.inf:
                self._window_of_last_update = self._limit.windows
        self._changed.set()

    def check_ceiling(self, max_age: float) -> None:
        """
        Refuse a ceiling so low that a guarded update would be sent too long after its read.

        :param max_age: how old that read may be, in seconds.
        :raises YouCanInvalidInputError: that names both settings.
        """
        if self._interval > max_age:
            raise YouCanInvalidInputError(
                f"requests_per_second={1 / self._interval:g} is too low for a guard",
                advice=(
                    f"raise it, or guard_max_age above {self._interval:g}: an update would be sent "
                    f"{self._interval:g} s after its status was read."
                ),
            )

    def stop(self) -> None:
        """Let nothing wait any longer: what waits for its turn is refused."""
        self._is_stopped = True
        self._stopping.set()
        self._changed.set()

    def _may_pass(self, size: int) -> bool:
        """Return whether a request may be sent at once: nothing waits, or there is room for all that wait, too."""
        # Else a queue that has formed once would stay, because each request that comes would join it.
        return self._limit.has_room(self._waiting + 1) or not (self._waiting or self._limit.delay(self._clock(), size))

    async def _wait_for_turn(self, request: Request, size: int, turn: Turn, attempts: Attempts) -> int:
        slot = next_slot = self._next_slot
        begun_at = self._clock()
        try:
            slot = await self._wait_for_slot(size, request)
            await self._wait_for_limit(size)
            if (waited := self._clock() - begun_at) > _LEAST_WAIT:
                record_limit_wait(waited)
            return self._claim(request, size, slot, turn, attempts)
        except BaseException:
            self._next_slot = max(slot, next_slot)
            raise

    def _claim(self, request: Request, size: int, slot: float, turn: Turn, attempts: Attempts) -> int:
        """Take the turn that is there now, and return its number."""
        freshness = request.freshness or request.update_freshness
        if freshness is not None and freshness.max_age < math.inf:
            self._refuse_hopeless(freshness, turn)
        attempts.check_freshness(request)
        number = self._limit.send(self._clock())
        if size == 2:
            self._limit.reserve()
            turn.reserve(slot + self._interval, self._give_back)
        return number

    async def _use_reserved_turn(self, request: Request, turn: Turn, attempts: Attempts) -> int:
        try:
            if (seconds := turn.reserved_at - self._clock()) > 0 and self._interval:
                await self._sleep(seconds)
            while delay := self._limit.delay_of_reserved(self._clock()):
                await self._wait_for_change(delay)
            attempts.check_freshness(request)
        except BaseException:
            self._give_back()
            raise
        return self._limit.send_reserved(self._clock())

    async def _wait_for_slot(self, size: int, request: Request) -> float:
        """Wait for the ceiling's next slot, and return the moment of it."""
        if not self._interval:
            return 0.0
        if request.update_freshness is not None:
            self.check_ceiling(request.update_freshness.max_age)
        slot = max(self._next_slot, self._clock() - _CATCH_UP_SECONDS)
        self._next_slot = slot + size * self._interval
        if (seconds := slot - self._clock()) > 0:
            await self._sleep(seconds)
        return slot

    async def _wait_for_limit(self, size: int) -> None:
        self._raise_if_given_up()
        while delay := self._limit.delay(self._clock(), size):
            await self._wait_for_change(delay)

    async def _sleep(self, seconds: float) -> None:
        with suppress(asyncio.TimeoutError):
            async with timeout(seconds):
                await self._stopping.wait()
        self._raise_if_given_up()

    async def _wait_for_change(self, seconds: float) -> None:
        self._changed.clear()
        with suppress(asyncio.TimeoutError):
            async with timeout(None if seconds == math.inf else seconds):
                await self._changed.wait()
        self._raise_if_given_up()

    def _give_back(self) -> None:
        self._limit.give_back()
        self._changed.set()

    def _record_refusal(self, number: int, now: float, retry_after: float | None) -> None:
        is_first = self._limit.refused(number, now, retry_after)
        silence = now - self._last_success
        max_silence = MAX_SILENCE if retry_after is None else MAX_RETRY_AFTER
        if (retry_after or 0.0) > MAX_RETRY_AFTER:
            self._give_up(now, retry_after, f"asked to wait for {retry_after:g} s")
        elif self._limit.refusals >= _MAX_REFUSALS and silence > max_silence:
            self._give_up(now, retry_after, f"refused {self._limit.refusals} requests in a row over {silence:.0f} s")
        elif is_first and (seconds := self._limit.delay(now)) != math.inf:
            self._warning("The shop answered 429 (too many requests): all requests wait for %.1f s.", seconds)

    def _give_up(self, now: float, retry_after: float | None, what: str) -> None:
        when = "later" if retry_after is None else f"in {retry_after:g} s"
        self._given_up = YouCanRateLimitError(
            f"Too many requests: the shop {what}",
            advice=f"it may work {when}.",
            status_code=429,
            retry_after=retry_after,
        )
        # After a long Retry-After, fail fast until it is over; otherwise only the next request fails.
        is_long = retry_after is not None and retry_after > MAX_RETRY_AFTER
        self._given_up_until = now + retry_after if retry_after is not None and is_long else math.inf

    def _raise_if_given_up(self) -> None:
        if self._is_stopped:
            raise YouCanTaskStoppedError("The task was stopped; nothing more was sent.")
        if (error := self._given_up) is None:
            return
        seconds = self._given_up_until - self._clock()
        if seconds == math.inf or seconds <= 0:
            self._given_up = None
        if seconds > 0:
            retry_after = error.retry_after if seconds == math.inf else seconds
            raise YouCanRateLimitError(error.problem, advice=error.advice, status_code=429, retry_after=retry_after)

    def _refuse_hopeless(self, freshness: Freshness, turn: Turn) -> None:
        """Give up if the limit leaves no room for a read and its update, however often they are tried."""
        if turn.first_window is None:
            turn.first_window = self._limit.windows
        windows = self._limit.windows - max(self._window_of_last_update, turn.first_window)
        if windows >= self._max_windows:
            raise YouCanRateLimitError(
                "The shop's rate limit is too low for guarded updates",
                advice="raise guard_max_age, or send fewer requests to this shop from elsewhere",
                outcome=f"In {windows} windows in a row none could be sent within {freshness.max_age:g} s of reading "
                "its status",
                status_code=429,
            )
