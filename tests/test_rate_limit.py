"""What the limiter learns of a limit that nobody tells it, on a clock and a shop of its own."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_youcan.exceptions import YouCanRateLimitError
from airflow_provider_youcan.rate_limit import RateLimit, RateLimiter


@dataclass
class FixedWindow:
    """A shop that takes ``limit`` requests in ``seconds``, counted from the first of them."""

    limit: int
    seconds: float
    start: float = -math.inf
    taken: int = 0

    def ask(self, now: float) -> tuple[bool, int, float]:
        """Whether it takes a request, how many are left, and the seconds until the window is over."""
        if now >= self.start + self.seconds:
            self.start, self.taken = now, 0
        self.taken += 1
        return self.taken <= self.limit, max(0, self.limit - self.taken), self.start + self.seconds - now


Retry = Callable[[float], "float | None"]


def run(
    shop: FixedWindow, windows: int = 8, concurrency: int = 16, *, told: bool = False, retry_after: Retry, seed: int = 0
) -> tuple[float, float, RateLimit]:
    """Ask for some windows: the share of what the shop allows that was reached, the share refused, and the limit."""
    latency = random.Random(seed)
    limit, now, busy, accepted, refused = RateLimit(), 0.0, 0, 0, 0
    events: list[tuple[float, int, bool, tuple[bool, int, float] | None]] = []
    end = windows * shop.seconds
    while now < end:
        delay = 0.0
        while busy < concurrency and not (delay := limit.delay(now)):
            busy += 1
            heapq.heappush(events, (now + latency.uniform(0.02, 0.03), limit.send(now), False, None))
        until = [events[0][0]] if events else []
        until += [now + delay] if busy < concurrency and delay != math.inf else []
        assert until, "it waits for an answer that will never come"
        now = max(min(until), math.nextafter(now, math.inf))
        while events and events[0][0] <= now:
            at, number, is_back, answer = heapq.heappop(events)
            if not is_back:
                heapq.heappush(events, (at + latency.uniform(0.02, 0.03), number, True, shop.ask(at)))
                continue
            assert answer is not None
            took, remaining, left = answer
            busy -= 1
            if took:
                accepted += at <= end
                limit.answered(number, now, *((shop.limit, remaining) if told else ()))
            else:
                refused += 1
                limit.refused(number, now, retry_after(left))
    return accepted / (shop.limit * windows), refused / limit.sent, limit


def ceiling(left: float) -> float:
    return float(max(1, math.ceil(left)))


@pytest.mark.parametrize("told", [False, True], ids=["unseen", "with headers"])
@pytest.mark.parametrize("requests", [60, 300, 1000])
def test_it_finds_a_limit_that_it_is_not_told_of(requests: int, told: bool) -> None:
    reached, refused, limit = run(FixedWindow(requests, 5.0), told=told, retry_after=ceiling)

    assert reached >= 0.87, "one of the eight windows may just not have come"
    assert refused <= 0.05
    assert (limit.capacity, limit.length) == (requests, 5.0)


@pytest.mark.parametrize("retry_after", [ceiling, math.floor, lambda _: None], ids=["rounded up", "down", "none"])
def test_it_survives_whatever_the_shop_says_of_the_time(retry_after: Retry) -> None:
    reached, refused, _ = run(FixedWindow(100, 5.0), retry_after=retry_after)

    assert reached >= 0.6
    assert refused <= 0.06


@given(
    requests=st.integers(1, 2000),
    seconds=st.floats(0.3, 90),
    concurrency=st.integers(1, 64),
    told=st.booleans(),
    rounds=st.sampled_from([ceiling, math.floor, lambda _: None]),
    seed=st.integers(0, 5),
)
@settings(max_examples=60)
def test_it_neither_stalls_nor_hammers(
    requests: int, seconds: float, concurrency: int, told: bool, rounds: Retry, seed: int
) -> None:
    shop = FixedWindow(requests, seconds)
    reached, refused, limit = run(shop, 4, concurrency, told=told, retry_after=rounds, seed=seed)

    assert reached > 0.2 or shop.limit > 4 * seconds * concurrency, "some of what was allowed was used"
    # A refusal for what was under way together, and a few for each window.
    assert refused * limit.sent <= 4 * concurrency + 40


def test_a_limit_that_rises_is_found() -> None:
    shop = FixedWindow(20, 1.0)
    limit, now = RateLimit(), 0.0
    taken: list[int] = []
    for second in range(30):
        shop.limit = 20 if second < 5 else 200
        before = shop.taken
        while now < second + 1:
            if delay := limit.delay(now):
                now += min(delay, second + 1 - now)
                continue
            number = limit.send(now)
            now += 0.004
            took, _, left = shop.ask(now)
            limit.answered(number, now) if took else limit.refused(number, now, ceiling(left))
        taken.append(shop.taken - before)

    assert limit.capacity is None or limit.capacity > 150


def test_all_wait_when_one_was_refused() -> None:
    limit = RateLimit()
    numbers = [limit.send(0.0) for _ in range(3)]

    assert limit.refused(numbers[0], 1.0, 7.0)
    assert not limit.refused(numbers[1], 1.1, 7.0), "it was on its way with the first"
    limit.answered(numbers[2], 1.2)

    assert limit.delay(1.2) == pytest.approx(6.9)
    # Then one goes ahead alone,
    assert limit.delay(8.1) == 0
    ahead = limit.send(8.1)
    assert limit.delay(8.1) == math.inf
    # and the others follow once it was taken.
    limit.answered(ahead, 8.2)
    assert limit.delay(8.2) == 0


@pytest.mark.parametrize(("limit", "remaining"), [(0, 0), (5, 9), (5, None), (None, 3)])
def test_headers_that_make_no_sense_are_passed_over(limit: int | None, remaining: int | None) -> None:
    believed = RateLimit()

    believed.answered(believed.send(0.0), 0.1, limit, remaining)

    assert believed.capacity is None
    assert believed.delay(0.2) == 0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_it_gives_up_where_the_shop_asks_for_too_long() -> None:
    async def main() -> None:
        limiter = RateLimiter(warn=lambda *_: None, clock=Clock())
        turn = await limiter.take_turn()
        with pytest.raises(YouCanRateLimitError):
            limiter.see_refusal(turn, YouCanRateLimitError("too many", retry_after=3600))
        with pytest.raises(YouCanRateLimitError):
            await limiter.take_turn()

    asyncio.run(main())


def test_it_gives_up_where_the_shop_takes_nothing_at_all() -> None:
    clock = Clock()

    async def main() -> int:
        limiter = RateLimiter(warn=lambda *_: None, clock=clock)
        for attempt in range(100):
            turn = await limiter.take_turn()
            clock.now += 0.1
            try:
                limiter.see_refusal(turn, YouCanRateLimitError("too many", retry_after=2))
            except YouCanRateLimitError:
                return attempt
            clock.now += 10
        return 100

    assert asyncio.run(main()) == 9


def test_those_that_wait_learn_that_it_gave_up() -> None:
    clock = Clock()

    async def main() -> None:
        limiter = RateLimiter(warn=lambda *_: None, clock=clock)
        first, second = await limiter.take_turn(), await limiter.take_turn()
        limiter.see_refusal(first, YouCanRateLimitError("too many", retry_after=50))
        waiting = asyncio.ensure_future(limiter.take_turn())
        await asyncio.sleep(0)
        with pytest.raises(YouCanRateLimitError):
            limiter.see_refusal(second, YouCanRateLimitError("too many", retry_after=3600))
        with pytest.raises(YouCanRateLimitError):
            await asyncio.wait_for(waiting, 5)

    asyncio.run(main())


def test_a_request_without_an_answer_holds_nobody_back() -> None:
    limit = RateLimit()
    limit.refused(limit.send(0.0), 0.1, 1.0)
    ahead = limit.send(1.2)

    limit.answered(ahead, 31.0)  # lost

    assert limit.delay(31.0) == 0


def test_one_line_for_each_pause() -> None:
    lines: list[str] = []

    async def main() -> None:
        limiter = RateLimiter(warn=lambda text, *values: lines.append(text % values), clock=Clock())
        turns = [await limiter.take_turn() for _ in range(5)]
        for turn in turns:
            limiter.see_refusal(turn, YouCanRateLimitError("too many", retry_after=4))

    asyncio.run(main())

    assert lines == ["The shop answered 429 (too many requests): all requests wait for 4.0 s."]
