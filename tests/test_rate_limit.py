"""What is learnt of a limit that is published nowhere, on a clock and a shop of its own."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_youcan.client import endpoints
from airflow_provider_youcan.client.attempts import Attempts
from airflow_provider_youcan.client.credentials import Credentials
from airflow_provider_youcan.client.rate_limit import RateLimit
from airflow_provider_youcan.client.responses import Answer
from airflow_provider_youcan.hooks.limiter import RateLimiter
from tests.conftest import Clock


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
    shop: FixedWindow,
    windows: int = 8,
    concurrency: int = 16,
    *,
    has_headers: bool = False,
    retry_after: Retry,
    seed: int = 0,
    way: tuple[float, float] = (0.02, 0.03),
) -> tuple[float, float, RateLimit]:
    """
    Ask for some windows: the share of what the shop allows that was reached, the share refused, and the limit.

    A request takes the seconds ``way`` to the shop, and its answer as many back.
    """
    latency = random.Random(seed)
    limit, now, busy, accepted, refused = RateLimit(), 0.0, 0, 0, 0
    events: list[tuple[float, int, bool, tuple[bool, int, float] | None]] = []
    end = windows * shop.seconds
    while now < end:
        delay = 0.0
        while busy < concurrency and not (delay := limit.delay(now)):
            busy += 1
            heapq.heappush(events, (now + latency.uniform(*way), limit.send(now), False, None))
        until = [events[0][0]] if events else []
        until += [now + delay] if busy < concurrency and delay != math.inf else []
        assert until, "it waits for an answer that will never come"
        now = max(min(until), math.nextafter(now, math.inf))
        while events and events[0][0] <= now:
            at, number, is_back, answer = heapq.heappop(events)
            if not is_back:
                heapq.heappush(events, (at + latency.uniform(*way), number, True, shop.ask(at)))
                continue
            assert answer is not None
            took, remaining, left = answer
            busy -= 1
            if took:
                accepted += at <= end
                limit.answered(number, now, *((shop.limit, remaining) if has_headers else ()))
            else:
                refused += 1
                limit.refused(number, now, retry_after(left))
    return accepted / (shop.limit * windows), refused / limit.sent, limit


def ceiling(left: float) -> float:
    return float(max(1, math.ceil(left)))


READ = endpoints.get_order("abc")


def begun(clock: Clock) -> Attempts:
    attempts = Attempts(clock=clock, waits_for_limit=True)
    attempts.begin(Credentials("https://shop", "token", token_since=0.0))
    return attempts


async def send(
    limiter: RateLimiter, clock: Clock, answer: Answer, request: endpoints.Request = READ, **options: Any
) -> Any:
    async def answered() -> Answer:
        return answer

    return await limiter.send(request, answered, options.get("attempts") or begun(clock))


@pytest.mark.parametrize("has_headers", [False, True], ids=["unseen", "with headers"])
@pytest.mark.parametrize("requests", [60, 300, 1000])
@pytest.mark.parametrize(("concurrency", "most_refused"), [(16, 0.05), (64, 0.13)])
def test_it_finds_a_limit_that_is_published_nowhere(
    concurrency: int, most_refused: float, requests: int, has_headers: bool
) -> None:
    shop = FixedWindow(requests, 5.0)
    reached, refused, limit = run(shop, concurrency=concurrency, has_headers=has_headers, retry_after=ceiling)

    assert reached >= 0.92
    assert refused <= most_refused
    assert (limit.capacity, limit.length) == (requests, 5.0)


@pytest.mark.parametrize("seed", range(8))
def test_slow_answers_make_a_window_seem_no_longer(seed: int) -> None:
    _, _, limit = run(FixedWindow(100, 10.0), concurrency=64, retry_after=ceiling, seed=seed, way=(0.1, 0.2))

    assert limit.length == 10.0


@pytest.mark.parametrize("retry_after", [ceiling, math.floor, lambda _: None], ids=["rounded up", "down", "none"])
def test_it_survives_whatever_the_shop_says_of_the_time(retry_after: Retry) -> None:
    reached, refused, _ = run(FixedWindow(100, 5.0), retry_after=retry_after)

    assert reached >= 0.6
    assert refused <= 0.06


@given(
    requests=st.integers(1, 2000),
    seconds=st.floats(0.3, 90),
    concurrency=st.integers(1, 64),
    has_headers=st.booleans(),
    rounds=st.sampled_from([ceiling, math.floor, lambda _: None]),
    seed=st.integers(0, 5),
)
@settings(max_examples=60)
def test_it_neither_stalls_nor_hammers(
    requests: int, seconds: float, concurrency: int, has_headers: bool, rounds: Retry, seed: int
) -> None:
    shop = FixedWindow(requests, seconds)
    reached, refused, limit = run(shop, 4, concurrency, has_headers=has_headers, retry_after=rounds, seed=seed)

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

    assert 6.8 < limit.delay(1.2) < 7.3, "and a little longer, because others may have been refused with them"
    # Then one goes ahead alone,
    assert limit.delay(8.4) == 0
    ahead = limit.send(8.4)
    assert limit.delay(8.4) == math.inf
    # and the others follow once it was taken.
    limit.answered(ahead, 8.5)
    assert limit.delay(8.5) == 0


@pytest.mark.parametrize(("limit", "remaining"), [(0, 0), (5, 9), (5, None), (None, 3)])
def test_headers_that_make_no_sense_are_passed_over(limit: int | None, remaining: int | None) -> None:
    believed = RateLimit()

    believed.answered(believed.send(0.0), 0.1, limit, remaining)

    assert believed.capacity is None
    assert believed.delay(0.2) == 0


def test_a_window_of_five_minutes_is_waited_for_where_the_shop_does_not_say_how_long_it_is() -> None:
    shop, clock = FixedWindow(300, 300.0), Clock()
    limit, accepted = RateLimit(rng=random.Random(0)), 0
    while clock.now < 1000 + 6 * 300:
        if delay := limit.delay(clock.now):
            clock.now += delay
            continue
        number = limit.send(clock.now)
        clock.now += 0.02
        took, _, _ = shop.ask(clock.now)
        accepted += took
        limit.answered(number, clock.now) if took else limit.refused(number, clock.now, None)

    assert accepted >= 4 * 300, "each window makes progress"


def test_a_request_without_an_answer_holds_nobody_back() -> None:
    limit = RateLimit()
    limit.refused(limit.send(0.0), 0.1, 1.0)
    ahead = limit.send(1.2)
    assert limit.delay(1.2) == math.inf

    limit.answered(ahead, 31.0)  # lost

    assert limit.delay(31.0) == 0


def test_a_reserved_turn_that_opens_a_window_and_is_refused_blocks_nothing_for_good() -> None:
    limit = RateLimit()
    for _ in range(2):
        limit.answered(limit.send(0.0), 0.0)
    look, other = limit.send(0.0), limit.send(0.0)
    limit.reserve()
    limit.answered(look, 0.1)
    limit.refused(other, 0.1, 1.0)

    opener = limit.send_reserved(2.0)
    limit.refused(opener, 2.1, 1.0)

    assert limit.delay(2.1) < 2.0


@given(st.lists(st.sampled_from(["send", "reserve", "use", "give back", "accept", "refuse", "wait"]), max_size=60))
def test_a_request_may_always_be_sent_when_none_is_in_flight(events: list[str]) -> None:
    limit, now, under_way, reserved = RateLimit(max_in_flight=8), 0.0, [], 0
    for event in events:
        now += 0.01
        if event == "send" and not limit.delay(now):
            under_way.append(limit.send(now))
        elif event == "reserve" and not limit.delay(now, 2):
            under_way.append(limit.send(now))
            limit.reserve()
            reserved += 1
        elif event == "use" and reserved and not limit.delay_of_reserved(now):
            under_way.append(limit.send_reserved(now))
            reserved -= 1
        elif event == "give back" and reserved:
            limit.give_back()
            reserved -= 1
        elif event == "accept" and under_way:
            limit.answered(under_way.pop(0), now)
        elif event == "refuse" and under_way:
            limit.refused(under_way.pop(), now, 1.0)
        elif event == "wait":
            now += 2.0
        assert limit._alone is None or under_way

    for number in under_way:
        limit.answered(number, now)
    assert limit.delay_of_reserved(now) < math.inf
    assert limit.delay(now) < math.inf


def test_no_more_are_under_way_than_there_are_sockets() -> None:
    limit = RateLimit(max_in_flight=2)
    for _ in range(8):
        limit.answered(limit.send(0.0), 0.1)

    limit.reserve()
    numbers = [limit.send(0.2) for _ in range(2)]

    assert limit.delay(0.2) == limit.delay_of_reserved(0.2) == math.inf
    limit.answered(numbers[0], 0.3)
    assert limit.delay(0.3) == limit.delay_of_reserved(0.3) == 0
    limit.give_back()


# --- several tasks on one shop ---


def share(shop: FixedWindow, tasks: int, windows: int, *, has_headers: bool, seed: int) -> tuple[float, float, float]:
    """Let tasks ask for some windows, each on its own: what was used, what was refused, the least to the most."""
    draw = random.Random(seed)
    limits = [RateLimit(rng=random.Random(seed * 100 + task)) for task in range(tasks)]
    busy, taken, refused, sent = [0] * tasks, [0] * tasks, 0, 0
    starts = [draw.uniform(0, 1) for _ in range(tasks)]
    events: list[tuple[float, int, int, tuple[bool, int, float] | None]] = []
    now, end = 0.0, windows * shop.seconds
    while now < end:
        moments = [events[0][0]] if events else []
        for task in draw.sample(range(tasks), tasks):
            if now < starts[task]:
                moments.append(starts[task])
                continue
            delay = 0.0
            while busy[task] < 16 and not (delay := limits[task].delay(now)):
                busy[task] += 1
                sent += 1
                heapq.heappush(events, (now + draw.uniform(0.01, 0.015), task, limits[task].send(now), None))
            moments += [now + delay] if busy[task] < 16 and delay != math.inf else []
            moments += [events[0][0]] if events else []
        now = max(min(moments), math.nextafter(now, math.inf))
        while events and events[0][0] <= now:
            at, task, number, answer = heapq.heappop(events)
            if answer is None:
                heapq.heappush(events, (at + draw.uniform(0.01, 0.015), task, number, shop.ask(at)))
                continue
            took, remaining, left = answer
            busy[task] -= 1
            taken[task] += took
            refused += not took
            if took:
                limits[task].answered(number, now, *((shop.limit, remaining) if has_headers else ()))
            else:
                limits[task].refused(number, now, ceiling(left))
    return sum(taken) / (shop.limit * windows), refused / sent, min(taken) / max(taken)


@pytest.mark.parametrize("has_headers", [False, True], ids=["unseen", "with headers"])
@pytest.mark.parametrize("tasks", [4, 8])
def test_several_tasks_share_a_limit_by_its_answers_alone(tasks: int, has_headers: bool) -> None:
    runs = [share(FixedWindow(300, 5.0), tasks, 30, has_headers=has_headers, seed=seed) for seed in (1, 2, 3)]

    assert min(used for used, _, _ in runs) >= 0.9
    assert fmean(refused for _, refused, _ in runs) <= 0.05
    assert min(fairness for *_, fairness in runs) > 0
