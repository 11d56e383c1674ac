"""
The shop's rate limit, which YouCan doesn't publish, learned from its answers.

The limit is assumed to be a fixed window, as Laravel's throttle has it: a number of requests in a time, counted
from the first of them. Other tasks may use the same window, so what is learned is the share that is left to this one.
"""

from __future__ import annotations

import math
import random
from enum import Enum

from airflow_provider_youcan.client.attempts import MAX_RETRY_AFTER

__all__ = ["MAX_SILENCE", "Phase", "RateLimit"]

MAX_SILENCE = 900.0
"""The longest window, in seconds, that is waited for within a task where the shop doesn't say how long it lasts."""


_MAX_PROBE_INTERVAL = 16
"""The most windows that pass before a probe whether the limit has risen."""

_FREE_START = 16
"""The number of requests in flight at first: if they meet a limit, at most as many are refused."""

_KEPT_SHARE = 0.9
"""The part of its share that a task keeps when others took some of it, so that shares even out."""


class Phase(Enum):
    """The state of the shop's window, as far as it is known; :class:`RateLimit` has the table."""

    FREE = "free"
    OPEN = "open"
    BLOCKED = "blocked"
    OPENING = "opening"
    PROBING = "probing"


class RateLimit:
    """
    An estimate of a shop's limit. It has no clock of its own, and waits for nothing.

    ========  ==========================================  ====================================================
    phase     what may be sent                            what ends it
    ========  ==========================================  ====================================================
    FREE      at most 16 at a time, or twice as many as   a refusal: BLOCKED; headers: OPEN
              were accepted so far: no limit was met
    OPEN      what is left of the window's capacity,      its end, once it is used up: OPENING; now and then,
              ever fewer at a time                        when it is nearly over: PROBING; a refusal: BLOCKED
    BLOCKED   nothing: the shop refused                   the time that it said, or a guess: OPENING
    OPENING   one request, alone, so that a wrong guess   accepted: OPEN, in a new window; refused: BLOCKED
              of the window costs one refusal
    PROBING   one request more than the capacity, alone   accepted: OPEN, with more capacity; refused: BLOCKED
    ========  ==========================================  ====================================================

    What was accepted in a window in which the shop refused is the capacity; that is learned when the window ends, not
    when it refuses, because answers overtake each other. Where the shop sends ``X-RateLimit-*`` headers, they decide.

    :param max_in_flight: how many requests are under way at most, whatever the phase; ``None`` sets no bound (default).
    :param rng: draws the jitter.
    """

    def __init__(self, max_in_flight: int | None = None, *, rng: random.Random | None = None) -> None:
        self.phase = Phase.FREE
        self.capacity: int | None = None
        """The number of requests that a window takes, ``None`` while it is not known."""
        self.length: float | None = None
        """The length of a window in seconds, ``None`` while it is not known."""
        self.sent = 0
        self.refusals = 0
        """The number of refusals in a row; those of requests that were in flight together count as one."""
        self.windows = 0
        """The number of windows that have begun."""
        self._window = _Window()
        self._sent_at: dict[int, float] = {}  # of the requests in flight, by their numbers
        self._reserved = 0
        self._in_flight_bound = math.inf if max_in_flight is None else max_in_flight
        self._alone: int | None = None  # the request that opens a window, or probes, until its answer comes
        self._until = 0.0  # when BLOCKED ends
        self._refused_at = 0.0  # when the first of the refusals in a row came
        self._together = 0  # the requests up to this number were under way when one of them was refused
        self._probe = _Probe()
        self._headers: _Headers | None = None
        self._is_length_exact = False
        self._longest_wait = 0.0
        self._is_end_known = False
        self._rng = rng or random.Random()  # noqa: S311  # jitter

    def delay(self, now: float, size: int = 1) -> float:
        """
        Return in how many seconds the next request may be sent, infinity where an answer has to come first.

        :param now: the time.
        :param size: how many turns it takes in one window.
        """
        if self.phase is Phase.FREE:
            return math.inf if self._in_flight >= self._max_in_flight else 0.0
        if self._alone is not None:
            return math.inf
        if self.phase is Phase.BLOCKED and now < self._until:
            return self._until - now
        if self._room >= size and self.phase is Phase.OPEN:
            return math.inf if self._in_flight >= self._max_in_flight else 0.0
        if self.phase is Phase.OPEN and not self._has_ended(now) and not self._may_probe(now):
            return self._next_moment - now
        # A probe is sent alone: else the shop may accept it first, and refuse one of the others.
        return math.inf if self._in_flight else 0.0

    def has_room(self, requests: int) -> bool:
        """Return whether that many may be sent at once, because no limit was met and enough were accepted."""
        return self.phase is Phase.FREE and self._in_flight + requests <= self._max_in_flight

    def delay_of_reserved(self, now: float) -> float:
        """Return in how many seconds a reserved turn may be used."""
        if self.phase is Phase.BLOCKED and now < self._until:
            return self._until - now
        return math.inf if self._alone is not None or self._in_flight >= self._in_flight_bound else 0.0

    def send(self, now: float) -> int:
        """Record that a request is sent, once :meth:`delay` allows it, and return its number."""
        self.sent += 1
        if self.phase is Phase.FREE:
            pass
        elif self.phase is Phase.BLOCKED or (self._room < 1 and self._has_ended(now)):
            self._is_end_known &= self.phase is Phase.BLOCKED
            self.phase, self._alone = Phase.OPENING, self.sent
        elif self._room < 1 and self.phase is Phase.OPEN:
            self.phase, self._alone = Phase.PROBING, self.sent
        elif self._has_ended(now):
            # A window passed without being used up.
            self._begin_window(now)
        self._sent_at[self.sent] = now
        self._window.taken += 1
        return self.sent

    def reserve(self) -> None:
        """Reserve another turn of this window."""
        self._reserved += 1
        self._window.taken += 1

    def send_reserved(self, now: float) -> int:
        """Record that a request is sent whose turn was reserved, and return its number."""
        self.sent += 1
        if self.phase is Phase.BLOCKED:
            self.phase, self._alone = Phase.OPENING, self.sent
        self._reserved -= 1
        self._sent_at[self.sent] = now
        return self.sent

    def give_back(self) -> None:
        """Record that a reserved turn will not be used."""
        self._reserved -= 1
        self._window.taken -= 1

    def answered(self, number: int, now: float, limit: int | None = None, remaining: int | None = None) -> None:
        """Record that a request was accepted, or that no answer came, so that it may have been accepted."""
        sent_at = self._sent_at.pop(number)
        self.refusals = 0
        if number == self._alone:
            self._alone = None
            if self.phase is Phase.OPENING:
                self._learn(now)
                self._begin_window(now)
                self._window.taken += 1
                self._window.opened_at = sent_at
                self._window.is_exact = self._is_end_known
            else:
                self.capacity = self._window.taken + self._probe.succeed(self.capacity or 0)
            self.phase = Phase.OPEN
        self._window.accepted += 1
        if self._window.start is None:
            self._window.start, self._window.opened_at = now, sent_at
        if limit is not None and remaining is not None and 0 <= remaining <= limit > 0:
            self._read_headers(number, now, limit, remaining)

    def refused(self, number: int, now: float, retry_after: float | None) -> bool:
        """Record a 429, and return whether it is the first of those that were under way together."""
        sent_at = self._sent_at.pop(number)
        self._window.taken -= 1
        if number <= self._together:
            self._until = max(self._until, now + (retry_after or 0.0))
            return False
        self._together = self.sent
        is_early = number == self._alone and self.phase is Phase.OPENING
        if not self.refusals:
            self._refused_at = now
        self._learn_length(now, sent_at, retry_after, is_early)
        pause = self._pause(now, retry_after)
        if self.refusals and retry_after is not None and retry_after > 1:
            # Other tasks have used up the whole window: come a little earlier than the shop's whole seconds say.
            pause = min(pause, retry_after - self._rng.uniform(0.0, 1.0))
        self._is_end_known = retry_after is not None
        # Requests that were refused together would come back together.
        self._until = max(self._until, now + pause + self._rng.uniform(0.0, 0.04 * pause))
        self.refusals += 1
        if not is_early:
            self._window.is_full = True
            self._probe.fail(was_probe=number == self._alone)
        self._alone = None
        self.phase = Phase.BLOCKED
        return True

    # --- what is left of the window ---

    @property
    def _in_flight(self) -> int:
        return len(self._sent_at)

    @property
    def _room(self) -> float:
        if self.phase is Phase.FREE or (self.phase is Phase.OPEN and self.capacity is None):
            return math.inf
        if self.phase is not Phase.OPEN or self.capacity is None:
            return 0
        others = self._headers.share_of_others(self._window.accepted) if self._headers else 0
        room = self.capacity - self._window.taken
        # Others will take the last ones; their requests in flight are not seen.
        return room if room >= others / 2 else 0

    @property
    def _max_in_flight(self) -> float:
        if self.phase is Phase.FREE:
            return min(max(_FREE_START, 2 * self._window.accepted), self._in_flight_bound)
        others = self._headers.share_of_others(self._window.accepted) if self._headers else 1
        return min(max(1.0, self._room / (1 + others)), self._in_flight_bound)

    def _has_ended(self, now: float) -> bool:
        return self._window.start is not None and self.length is not None and now >= self._window.start + self.length

    @property
    def _next_moment(self) -> float:
        assert self._window.start is not None  # noqa: S101  # for the type checker: a window is open
        assert self.length is not None  # noqa: S101
        end = self._window.start + self.length
        if self._headers or self._in_flight or not self._probe.is_due(self.capacity or 0):
            return end
        return self._probe_at

    @property
    def _probe_at(self) -> float:
        # Late in the window, when other tasks have used their shares: only then is a free slot really free.
        share = 0.0 if self._probe.is_early(self.capacity or 0) else 0.85
        return (self._window.start or 0.0) + share * (self.length or 0.0)

    def _may_probe(self, now: float) -> bool:
        if self._window.start is None or self.length is None:
            return True
        return self._probe.is_due(self.capacity or 0) and self._headers is None and now >= self._probe_at

    # --- what is learned ---

    def _begin_window(self, now: float) -> None:
        self.windows += 1
        self._probe.next_window()
        self._window = _Window(start=now, taken=self._in_flight + self._reserved)

    def _learn(self, now: float) -> None:
        """Learn from the window that has ended."""
        window = self._window
        if window.is_full and window.accepted and not self._headers:
            is_crowded = self.capacity is not None and window.accepted < self.capacity
            self.capacity = max(1, int(window.accepted * _KEPT_SHARE)) if is_crowded else window.accepted
        if self.length is None and window.start is not None:
            # The shop didn't say for how long it refuses; now it is known that this was long enough.
            self.length = min(now - max(window.start, self._refused_at - 1.0), MAX_SILENCE)

    def _learn_length(self, now: float, sent_at: float, retry_after: float | None, is_early: bool) -> None:
        window = self._window
        if retry_after is None or window.start is None:
            return
        # From request to request: a slow answer must not make the window seem longer than it is.
        elapsed = sent_at - window.opened_at
        length = _whole_seconds(elapsed + retry_after)
        if is_early:
            length = max(length, math.floor(elapsed) + 1.0)
        if window.is_exact or self.length is None:
            # May overestimate if other tasks filled a window in between; never underestimates.
            self._longest_wait = max(self._longest_wait, retry_after)
            shorter = min(length, self.length) if self._is_length_exact and self.length else length
            self.length = max(shorter, math.floor(self._longest_wait))
            self._is_length_exact = window.is_exact
        if is_early and self.length is not None and elapsed < 1.5 * self.length and retry_after <= 1:
            # It is the same window, which is a little longer than expected.
            self.length = max(self.length, math.floor(elapsed) + 1.0)
        elif is_early and self.length is not None:
            # Other tasks may have begun a window, and filled it.
            taken = self._in_flight + self._reserved
            self._window = _Window(start=now + retry_after - self.length, taken=taken)

    def _pause(self, now: float, retry_after: float | None) -> float:
        left = math.inf
        if self._window.start is not None and self.length is not None:
            left = self._window.start + self.length - now
        if retry_after is None:
            return min(left, MAX_RETRY_AFTER) if 0 < left < math.inf else min(2.0**self.refusals, MAX_RETRY_AFTER)
        # The shop rounds to whole seconds. If this task waits for them all, others will have used up the next window.
        if left > 0 and abs(left - retry_after) < 1:
            return left
        return retry_after or min(2.0**self.refusals, MAX_RETRY_AFTER)

    def _read_headers(self, number: int, now: float, limit: int, remaining: int) -> None:
        if self._headers is None:
            self._headers = _Headers()
        headers, taken = self._headers, limit - remaining
        if number <= headers.latest:
            return
        # Answers overtake each other, but by no more than are under way.
        if taken + self._in_flight < headers.taken or self._window.start is None:
            self.windows += 1
            self._window = _Window(start=now, accepted=1)
        headers.latest, headers.taken = number, taken
        if self.phase is Phase.FREE:
            self.phase = Phase.OPEN
        # Requests in flight may be in the shop's count already; counting them twice costs only a few.
        self.capacity, self._window.taken = limit, taken + self._in_flight + self._reserved


class _Window:
    """One window, as far as this task sees it."""

    def __init__(self, start: float | None = None, taken: int = 0, accepted: int = 0) -> None:
        self.start = start
        """The time of its first answer."""
        self.taken = taken
        """The requests that it has taken: accepted, in flight or reserved."""
        self.accepted = accepted
        self.is_full = False
        """True if the shop refused a request in it."""
        self.opened_at = start or 0.0
        """The time at which its first request was sent."""
        self.is_exact = False
        """True if it began when the shop's own window did."""


class _Probe:
    """The schedule of probes: one request more than the capacity, to find out whether there is more."""

    def __init__(self) -> None:
        self._interval = self._left = 1
        self._since_early = 0
        self._step = 1

    def is_due(self, capacity: int) -> bool:
        return self._left <= 0 or self.is_early(capacity)

    def is_early(self, capacity: int) -> bool:
        return self._since_early >= min(capacity, _MAX_PROBE_INTERVAL)

    def next_window(self) -> None:
        self._left -= 1
        self._since_early += 1

    def succeed(self, capacity: int) -> int:
        """Return how many more may be sent after one that was accepted."""
        if self.is_early(capacity):
            self._since_early = 0
            return 0
        self._step, step = self._step * 2, self._step
        self._interval = self._left = 1
        return step

    def fail(self, *, was_probe: bool) -> None:
        # Each failed probe confirms the capacity, so probe less often.
        self._interval = min(self._interval * 4, _MAX_PROBE_INTERVAL) if was_probe else 1
        if was_probe:
            self._since_early = 0
        self._left, self._step = self._interval, 1


class _Headers:
    """The shop's own headers about its window."""

    def __init__(self) -> None:
        self.latest = 0
        self.taken = 0

    def share_of_others(self, accepted: int) -> float:
        """Return how many requests others send for each of this task's."""
        return max(0.0, (self.taken - accepted) / accepted) if accepted else 0.0


def _whole_seconds(seconds: float) -> float:
    """
    Round a window down to whole seconds, which it has; the shop rounds up what it says of it.

    A window that is taken for shorter than it is costs one refusal, and is corrected. One that is taken for longer
    would stay so.
    """
    return max(float(math.floor(seconds)), min(seconds, 1.0))
