"""
The decision after a failure, without I/O: another token, a pause, another read, or the end.

One :class:`Attempts` accompanies one procedure. The drivers of both hooks ask it before each request and after each
failure, so that what one of them does, the other does too.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanError,
    YouCanRateLimitError,
    YouCanTaskStoppedError,
    YouCanTransientError,
)
from airflow_provider_youcan.testing import is_testing

if TYPE_CHECKING:
    from airflow_provider_youcan.client.credentials import Credentials
    from airflow_provider_youcan.client.endpoints import Request

__all__ = ["MAX_RETRY_AFTER", "MAX_STALE_READS", "MAX_TOKENS", "Attempts", "StaleReadError", "back_off"]

MAX_RETRY_AFTER = 60.0
"""The longest ``Retry-After``, in seconds, that is waited for inside a task. A longer one frees its slot."""

MAX_TOKENS = 5
"""Maximum number of tokens tried for one request, in case other tasks keep renewing it."""


MAX_STALE_READS = 20
"""The largest number of reads in a row that are too old for a guarded update, whatever made them so."""


class StaleReadError(Exception):
    """Thrown into a procedure in place of an answer: the read that the update rests on is stale, so read again."""

    unconfirmed = False
    """True if the update was sent before, and it is unknown whether YouCan applied it."""


class Attempts:
    """
    Counts the attempts of one procedure, and decides after a failure.

    :param max_seconds: no attempt begins later than this after the first; ``None`` sets no bound (default).
    :param denied: the scopes for which a new token was refused; this set is kept up to date (default: none so far).
    :param waits_for_limit: whether a rate limiter waits for the shop's limit, so that a 429 costs no attempt (default
        ``False``).
    :param clock: returns the time in seconds (default the machine's monotonic one).
    :param rng: draws the jitter.
    """

    def __init__(
        self,
        max_seconds: float | None = None,
        denied: set[str | None] | None = None,
        *,
        waits_for_limit: bool = False,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.refused: list[Credentials] = []
        """The credentials whose token YouCan refused."""
        self.unconfirmed = False
        """True if an update was sent, and it is unknown whether YouCan applied it."""
        self.failures = 0
        self._max_seconds, self._waits_for_limit = max_seconds, waits_for_limit
        self._clock, self._rng = clock, rng or _rng
        self._start = clock()
        self._credentials: Credentials | None = None
        self._denied: set[str | None] = set() if denied is None else denied
        self._refused_scope: str | None = None
        self._denial: YouCanAuthenticationError | None = None
        self._has_renewed = False
        self._sent_at = self._read_at = self._attempted_at = -math.inf
        self._read_seconds = 0.0
        self._slow_reads = 0
        self._stale_reads = 0

    @property
    def may_renew(self) -> bool:
        """
        True if a new token may be requested: one for each procedure, and another if that one has expired.

        Some endpoints answer a missing scope with a 401. So none is obtained for an endpoint that refused a new one.
        """
        if not self.refused or self.refused[-1].is_running_out:
            return True
        return not self._has_renewed and self._refused_scope not in self._denied

    def begin(self, credentials: Credentials) -> None:
        """
        Begin an attempt with these credentials.

        :raises YouCanAuthenticationError: if YouCan has refused them, or too many others.
        """
        if self._denial is not None:
            was_refused = any(credentials.has_same_token(old) for old in self.refused)
            if was_refused or len(self.refused) >= MAX_TOKENS:
                raise self._denial
            self._has_renewed = self._has_renewed or credentials.is_renewed
        self._credentials = credentials

    def forget_refusals(self) -> None:
        """Let the next request use the tokens that were refused to earlier ones."""
        self.refused.clear()
        self._denial = None

    def check_freshness(self, request: Request) -> None:
        """
        Check that the read behind an update is still fresh. Other requests pass.

        :raises StaleReadError: if the status has to be read again before the update is sent.
        :raises YouCanTransientError: if too many reads in a row were too slow, or too old for their update.
        """
        if request.freshness is None:
            return
        assert self._credentials is not None  # noqa: S101  # for the type checker: an attempt has begun
        max_age, read_at = request.freshness
        if read_at is None:
            read_at = self._read_at
        is_stale = read_at <= self._attempted_at or (
            max_age < math.inf and (read_at < self._credentials.token_since or self._clock() - read_at > max_age)
        )
        if is_stale:
            self._refuse_slow_reads(request, max_age if request.freshness.read_at is None else math.inf)
            self._refuse_stale_reads(request, max_age)
            raise StaleReadError

    def send(self) -> None:
        """Record that the request is sent now. The age of what it reads counts from here, not from the answer."""
        self._sent_at = self._clock()

    def succeed(self, request: Request) -> None:
        """Record that a request was answered as it should be."""
        self._denied.discard(request.scope)
        self._read_at, self._read_seconds = self._sent_at, self._clock() - self._sent_at

    def fail(self, request: Request, error: YouCanError, *, was_sent: bool = True) -> float:
        """
        Return the seconds until the next attempt.

        :param request: what was asked.
        :param error: what came of it.
        :param was_sent: whether the request was sent; if not, the error is what prevented that (default
            ``True``).
        :raises YouCanError: the error itself, if there is no further attempt.
        """
        if was_sent and request.freshness is not None:
            self._attempted_at, self._stale_reads = self._clock(), 0
        self.unconfirmed |= error.unconfirmed
        if was_sent and isinstance(error, YouCanAuthenticationError) and self._credentials is not None:
            self._denial, self._refused_scope = error, request.scope
            self.refused.append(self._credentials)
            if self._has_renewed:
                self._denied.add(request.scope)
            return 0.0
        # A failure before sending came from Airflow, or from a renewal or limiter that has already retried.
        is_final = error.method is not None or isinstance(error, (YouCanRateLimitError, YouCanTaskStoppedError))
        is_over = not was_sent and is_final
        if is_over or not isinstance(error, YouCanTransientError):
            raise error
        if (asked := error.retry_after or 0.0) > MAX_RETRY_AFTER:
            raise error
        if self._waits_for_limit and isinstance(error, YouCanRateLimitError):
            return 0.0
        self.failures += 1
        seconds = 0.0 if is_testing() else asked + back_off(self.failures, self._rng)
        is_late = self._max_seconds is not None and self._clock() - self._start + seconds >= self._max_seconds
        if is_late or self.failures >= (self._credentials.max_attempts if self._credentials else 1):
            raise error
        return seconds

    def _refuse_stale_reads(self, request: Request, max_age: float) -> None:
        """Give up after reads that were fresh, and each too old by the time at which their update could be sent."""
        self._stale_reads += 1
        if self._stale_reads >= MAX_STALE_READS:
            raise YouCanTransientError(
                f"The read status was older than {max_age:g} s {self._stale_reads} times in a row",
                advice="it may work later, or with a larger guard_max_age",
                outcome=f"Did not {request.purpose}: the record, or the shop's rate limit, may be slow",
                method=request.method,
            )

    def _refuse_slow_reads(self, request: Request, max_age: float) -> None:
        """Give up after ``max_attempts`` reads that were each too slow for the guard."""
        if self._read_seconds <= max_age or self._credentials is None:
            return
        self._slow_reads += 1
        if self._slow_reads >= self._credentials.max_attempts:
            raise YouCanTransientError(
                f"YouCan took {self._read_seconds:.1f} s to return the status, and guard_max_age is {max_age:g}",
                advice="it may work later, or with a larger guard_max_age",
                outcome=f"Did not {request.purpose}",
                method=request.method,
            )

    def describe(self, seconds: float) -> str:
        """Return a sentence about the next attempt."""
        attempts = self._credentials.max_attempts if self._credentials else 1
        return f"Trying again in {seconds:.1f} s (attempt {self.failures + 1} of {attempts})."


def back_off(failures: int, rng: random.Random) -> float:
    """
    Return the seconds to wait after a number of failures in a row.

    Full jitter: between nothing and a bound that doubles, so that tasks which failed together don't come back
    together (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """
    return rng.uniform(0.0, min(2.0 ** (failures - 1), 30.0))


_rng = random.Random()  # noqa: S311  # jitter
