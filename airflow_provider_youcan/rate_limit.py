"""
How fast a shop may be asked: a limit that YouCan doesn't publish, found by listening to the answers.

The limit is taken for a fixed window, as Laravel's throttle has it: so many requests in so many seconds, counted
from the first of them. It is used up as fast as it may be, and the next window is waited for. What is believed of
it is only ever a guess: each refusal mends it, and so do the ``X-RateLimit-*`` headers where a shop sends them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress

from aiolimiter import AsyncLimiter

from airflow_provider_youcan.exceptions import YouCanRateLimitError
from airflow_provider_youcan.retries import LONGEST_RETRY_AFTER

__all__ = ["RateLimit", "RateLimiter"]

_MOST_REFUSALS = 10
"""After so many refusals in a row, and a minute, it is left to Airflow's retries."""

_SELDOM = 16
"""At most so many windows pass until it is tried whether the limit has risen."""


class RateLimiter:
    """
    Lets requests go when the shop takes them, and holds back all of them when it refused one.

    :param requests_per_second: a ceiling, whatever the shop would take; ``None`` sets none (default).
    :param warn: a logger's ``warning``, told of each time that the shop refused.
    :param clock: tells the time in seconds (default the machine's monotonic one).
    """

    def __init__(
        self,
        requests_per_second: float | None = None,
        *,
        warn: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.holds = 0
        """How often requests had to be held back for a while, because the limit was used up."""
        self._limit = RateLimit()
        self._warn = warn
        self._clock = clock
        self._last_answer = clock()
        # One at a time, evenly: a burst of a second's worth would go beyond a ceiling of the same size.
        self._ceiling = AsyncLimiter(1, 1 / requests_per_second) if requests_per_second else None
        self._queue = asyncio.Lock()
        self._answer_came = asyncio.Event()
        self._given_up: YouCanRateLimitError | None = None

    async def take_turn(self) -> int:
        """
        Wait until a request may be sent, and return its number, to be given back with the answer.

        :raises YouCanRateLimitError: if the shop has refused too often, or for too long, to be waited for.
        """
        async with self._queue:
            self._raise_if_given_up()
            if self._ceiling is not None:
                await self._ceiling.acquire()
            while delay := self._limit.delay(self._clock()):
                self.holds += delay != math.inf
                self._answer_came.clear()
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._answer_came.wait(), None if delay == math.inf else delay)
                self._raise_if_given_up()
            return self._limit.send(self._clock())

    def give_back(self, number: int) -> None:
        """Take back a turn that was not used."""
        self._limit.give_back(number)
        self._answer_came.set()

    def see_answer(self, number: int, limit: int | None = None, remaining: int | None = None) -> None:
        """
        Take in an answer that was no refusal, or that none will come.

        :param number: the request's.
        :param limit: ``X-RateLimit-Limit``, where the answer has it.
        :param remaining: ``X-RateLimit-Remaining``, where the answer has it.
        """
        self._last_answer = self._clock()
        self._limit.answered(number, self._last_answer, limit, remaining)
        self._answer_came.set()

    def see_refusal(self, number: int, error: YouCanRateLimitError) -> None:
        """
        Take in a 429. The request may take another turn.

        :param number: the request's.
        :param error: what the shop said.
        :raises YouCanRateLimitError: if the shop has refused too often, or for too long, to be waited for.
        """
        first = self._limit.refused(number, self._clock(), error.retry_after)
        self._answer_came.set()
        for_long = self._clock() - self._last_answer > LONGEST_RETRY_AFTER
        if (error.retry_after or 0.0) > LONGEST_RETRY_AFTER or (for_long and self._limit.refusals >= _MOST_REFUSALS):
            self._given_up = error
        self._raise_if_given_up()
        if first and (seconds := self._limit.delay(self._clock())) != math.inf:
            self._warn("The shop answered 429 (too many requests): all requests wait for %.1f s.", seconds)

    def _raise_if_given_up(self) -> None:
        if self._given_up is not None:
            raise self._given_up


class RateLimit:
    """
    What is believed of a shop's limit. It knows no clock of its own and waits for nothing.

    Where the limit isn't known, requests go freely, until one is refused: then the window's ``capacity`` is what
    was accepted in it. A new window begins with one request that goes ahead alone, so that a wrong guess costs one
    refusal and not many. Now and then one request more than the capacity is tried, ever more seldom, to find out
    whether the shop takes more by now.
    """

    def __init__(self) -> None:
        self.capacity: int | None = None
        """How many requests a window takes, ``None`` while it is not known."""
        self.length: float | None = None
        """How many seconds a window has, ``None`` while it is not known."""
        self.sent = 0
        self.refusals = 0
        """How often in a row the shop refused, counting those as one that were on their way together."""
        self._in_flight = 0
        self._refused_at = 0.0  # when the first of the refusals in a row came
        self._ahead_since = 0.0
        self._start: float | None = None  # when the window's first answer came
        self._taken = 0  # what the window has taken: accepted, or still on its way
        self._accepted = 0
        self._blocked_until = 0.0
        self._together = 0  # the requests up to this number were on their way when one of them was refused
        self._ahead: int | None = None  # the request that goes ahead alone
        self._is_over = False  # whether the window is: a refusal ended it
        self._is_measured = False  # whether what was accepted in this window is its capacity
        self._told_by_headers = False
        self._latest_told = 0
        self._told_taken = 0
        self._check_every = self._check_in = 1  # windows until one more than the capacity is tried

    def delay(self, now: float) -> float:
        """Return in how many seconds the next request may go, infinite seconds where an answer has to come first."""
        if now < self._blocked_until:
            return self._blocked_until - now
        if self._ahead is not None:
            return math.inf
        if not self._is_used_up:
            return 0.0
        if self._goes_ahead(now):
            # Alone, or the shop may take it first and refuse one of the others.
            return math.inf if self._in_flight else 0.0
        assert self._start is not None  # noqa: S101  # for the type checker: else the request goes ahead
        assert self.length is not None  # noqa: S101
        return self._start + self.length - now

    def send(self, now: float) -> int:
        """Note that a request goes, and return its number."""
        self.sent += 1
        if self._is_over or (self._is_used_up and self._goes_ahead(now)):
            self._ahead, self._ahead_since = self.sent, now
        elif self._start is not None and self.length is not None and now >= self._start + self.length:
            # A window passed that was not used up.
            self._start, self._taken, self._accepted = now, self._in_flight, 0
        self._in_flight += 1
        self._taken += 1
        return self.sent

    def give_back(self, number: int) -> None:
        """Note that a request was not sent after all."""
        self._in_flight -= 1
        self._taken -= 1
        if number == self._ahead:
            self._ahead = None

    def answered(self, number: int, now: float, limit: int | None = None, remaining: int | None = None) -> None:
        """Note that a request was accepted, or that nobody knows."""
        self._in_flight -= 1
        self.refusals = 0
        went_ahead = number == self._ahead
        if went_ahead:
            self._ahead = None
        if went_ahead and (self._is_over or self._has_ended(now)):
            self._begin_window(now)
        elif went_ahead and self.capacity is not None and self.length is not None:
            # One more than the capacity was taken: there may be a quarter more.
            self.capacity = self._taken + max(1, self._taken // 4)
        self._accepted += 1
        if self._start is None:
            self._start = now
        if limit is not None and remaining is not None and 0 <= remaining <= limit > 0 and number > self._latest_told:
            self._hear(number, now, limit, remaining)

    def refused(self, number: int, now: float, retry_after: float | None) -> bool:
        """Note a 429, and tell whether it is the first of those that were on their way together."""
        self._in_flight -= 1
        self._taken -= 1
        if number <= self._together:
            # The shop says it once more.
            self._blocked_until = max(self._blocked_until, now + (retry_after or 0.0))
            return False
        self._together = self.sent
        is_early = number == self._ahead and (self._is_over or self._has_ended(now))
        if not self.refusals:
            self._refused_at = now
        if retry_after is not None and self._start is not None:
            # A slow answer to a request that came too early must not make the window seem longer than it is.
            elapsed = (self._ahead_since if is_early else now) - self._start
            self.length = _whole_seconds(elapsed + retry_after)
            if is_early:
                # The window goes on for longer than it was thought to.
                self.length = max(self.length, math.floor(elapsed) + 1.0)
        self._blocked_until = max(self._blocked_until, now + self._pause(now, retry_after))
        self.refusals += 1
        if not is_early:
            self._is_measured = True
            # That the capacity stands, when one more was tried, makes it worth trying ever more seldom.
            self._check_every = min(self._check_every * 4, _SELDOM) if number == self._ahead else 1
            self._check_in = self._check_every
        self._ahead = None
        self._is_over = True
        return True

    def _pause(self, now: float, retry_after: float | None) -> float:
        if self._start is not None and self.length is not None and not self._has_ended(now):
            return max(retry_after or 0.0, min(self._start + self.length - now, LONGEST_RETRY_AFTER))
        return retry_after or min(2.0**self.refusals, LONGEST_RETRY_AFTER)

    @property
    def _is_used_up(self) -> bool:
        return self._is_over or (self.capacity is not None and self._taken >= self.capacity)

    def _goes_ahead(self, now: float) -> bool:
        """Tell whether a request may go beyond what is used up: into a new window, or to try."""
        if self._is_over or self.length is None or self._start is None:
            return True
        return self._has_ended(now) or (self._check_in <= 0 and not self._told_by_headers)

    def _has_ended(self, now: float) -> bool:
        return self._start is not None and self.length is not None and now >= self._start + self.length

    def _begin_window(self, now: float) -> None:
        if self._is_measured and self._accepted and not self._told_by_headers:
            self.capacity = self._accepted
        if self.length is None and self._start is not None:
            # The shop didn't say for how long it refuses; now it is known that this was long enough.
            self.length = min(now - max(self._start, self._refused_at - 1.0), LONGEST_RETRY_AFTER)
        self._start, self._accepted, self._taken = now, 0, self._in_flight + 1
        self._is_over = self._is_measured = False
        self._check_in -= 1

    def _hear(self, number: int, now: float, limit: int, remaining: int) -> None:
        taken = max(0, limit - remaining)
        # Answers overtake each other, but by no more than are on their way.
        if taken + self._in_flight < self._told_taken or not self._told_by_headers:
            self._start = now
        self._latest_told, self._told_taken, self._told_by_headers = number, taken, True
        # Those on their way may be in the shop's count already; to count them twice only makes it slower by a few.
        self.capacity, self._taken = limit, taken + self._in_flight


def _whole_seconds(seconds: float) -> float:
    """Round a window down to whole seconds, which it has; the shop rounds up what it says of it."""
    return max(float(math.floor(seconds)), min(seconds, 1.0))
