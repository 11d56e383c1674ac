"""Requests in their turn, on a clock of their own: what waits, what gives up, and what an update is owed."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable

import pytest

from airflow_provider_youcan.client import endpoints
from airflow_provider_youcan.client.attempts import Attempts, StaleReadError
from airflow_provider_youcan.client.credentials import Credentials
from airflow_provider_youcan.client.rate_limit import Phase
from airflow_provider_youcan.client.responses import Answer
from airflow_provider_youcan.exceptions import YouCanInvalidInputError, YouCanRateLimitError
from airflow_provider_youcan.hooks.limiter import RateLimiter, Turn
from airflow_provider_youcan.orders import StatusContext
from tests.conftest import Clock

READ = endpoints.get_order("abc")
LOOK = endpoints.get_order("abc", update_freshness=endpoints.Freshness(5.0))
UPDATE = endpoints.update_order_status("abc", "paid", StatusContext("payment"), endpoints.Freshness(5.0))
TAKEN = Answer(200, {}, b"")


def refusal(retry_after: float | None = None) -> Answer:
    return Answer(429, {} if retry_after is None else {"Retry-After": str(retry_after)}, b"")


def begun(clock: Clock) -> Attempts:
    attempts = Attempts(clock=clock, waits_for_limit=True)
    attempts.begin(Credentials("https://shop", "token", token_since=0.0))
    return attempts


async def send(
    limiter: RateLimiter,
    clock: Clock,
    answer: Answer | Callable[[], Awaitable[Answer]],
    request: endpoints.Request = READ,
    *,
    turn: Turn | None = None,
    attempts: Attempts | None = None,
) -> Answer:
    number = await limiter.take_turn(request, turn or Turn(), attempts or begun(clock))
    answer = answer if isinstance(answer, Answer) else await answer()
    limiter.record(number, request, answer)
    return answer


def test_it_gives_up_where_the_shop_asks_for_too_long_and_only_for_as_long() -> None:
    clock = Clock()

    async def main() -> None:
        limiter = RateLimiter(clock=clock)
        assert (await send(limiter, clock, refusal(3600))).status_code == 429
        clock.now += 600
        with pytest.raises(YouCanRateLimitError) as raised:
            await send(limiter, clock, TAKEN)
        assert raised.value.retry_after == 3000
        clock.now += 3200
        assert await send(limiter, clock, TAKEN) is TAKEN

    asyncio.run(main())


@pytest.mark.parametrize(("retry_after", "seconds_between"), [(2.0, 10.0), (None, 100.0)])
def test_it_gives_up_where_the_shop_takes_nothing_at_all(retry_after: float | None, seconds_between: float) -> None:
    clock = Clock()

    async def main() -> int:
        limiter = RateLimiter(clock=clock)
        for attempt in range(100):
            clock.now += 0.1
            try:
                await send(limiter, clock, refusal(retry_after))
            except YouCanRateLimitError:
                return attempt
            clock.now += seconds_between
        return 100

    assert asyncio.run(main()) == 10


def test_those_that_wait_learn_that_it_gave_up() -> None:
    clock = Clock()

    async def main() -> None:
        limiter = RateLimiter(clock=clock)
        for _ in range(8):
            await send(limiter, clock, TAKEN)
        under_way = asyncio.Event()

        async def slow() -> Answer:
            await under_way.wait()
            return refusal(3600)

        slow_one = asyncio.ensure_future(send(limiter, clock, slow))
        await asyncio.sleep(0)
        await send(limiter, clock, refusal(50))
        waiting = asyncio.ensure_future(send(limiter, clock, TAKEN))
        await asyncio.sleep(0)
        under_way.set()
        await slow_one
        with pytest.raises(YouCanRateLimitError):
            await asyncio.wait_for(waiting, 5)

    asyncio.run(main())


def test_a_pause_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    async def main() -> None:
        limiter = RateLimiter(clock=clock)
        for _ in range(20):
            await send(limiter, clock, TAKEN)

        async def refused() -> Answer:
            await asyncio.sleep(0.01)
            return refusal(4)

        await asyncio.gather(*(send(limiter, clock, refused) for _ in range(3)))

    asyncio.run(main())

    (line,) = caplog.messages
    assert re.match(r"The shop answered 429 \(too many requests\): all requests wait for 4\.\d s\.", line)


# --- looks and their updates ---


def take_a_window(limiter: RateLimiter, clock: Clock, capacity: int) -> None:
    """Let the limiter believe in a window of so many requests in ten seconds, which has just begun."""
    limiter._limit.phase, limiter._limit.capacity, limiter._limit.length = Phase.OPEN, capacity, 10.0
    limiter._limit._begin_window(clock.now)


def test_a_look_is_sent_only_where_the_turn_of_its_update_is_left_in_the_same_window() -> None:
    clock = Clock()

    async def main() -> None:
        limiter = RateLimiter(clock=clock)
        take_a_window(limiter, clock, capacity=3)
        await send(limiter, clock, TAKEN, LOOK)
        # One of the three is left, which is not enough for another look and its update,
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(send(limiter, clock, TAKEN, LOOK), 0.05)
        # but for any other request.
        await asyncio.wait_for(send(limiter, clock, TAKEN), 0.05)

    asyncio.run(main())


def test_the_update_takes_the_turn_that_was_reserved_for_it() -> None:
    clock = Clock()

    async def main() -> None:
        limiter, attempts, turn = RateLimiter(clock=clock), begun(clock), Turn()
        take_a_window(limiter, clock, capacity=2)
        await send(limiter, clock, TAKEN, LOOK, attempts=attempts, turn=turn)
        attempts.send()
        attempts.succeed(LOOK)
        assert limiter._limit.delay(clock.now) > 0, "nothing is left for anyone else"
        await asyncio.wait_for(send(limiter, clock, TAKEN, UPDATE, attempts=attempts, turn=turn), 0.05)

    asyncio.run(main())


def test_a_turn_that_is_not_needed_is_given_back() -> None:
    clock = Clock()

    async def main() -> None:
        limiter, attempts, turn = RateLimiter(clock=clock), begun(clock), Turn()
        take_a_window(limiter, clock, capacity=2)
        await send(limiter, clock, TAKEN, LOOK, attempts=attempts, turn=turn)
        turn.end()
        await asyncio.wait_for(send(limiter, clock, TAKEN), 0.05)

    asyncio.run(main())


def test_an_update_that_waited_for_too_long_is_not_sent() -> None:
    clock = Clock()

    async def main() -> None:
        limiter, attempts, turn = RateLimiter(clock=clock), begun(clock), Turn()
        await send(limiter, clock, TAKEN, LOOK, attempts=attempts, turn=turn)
        attempts.send()
        attempts.succeed(LOOK)
        clock.now += 6.0
        with pytest.raises(StaleReadError):
            await send(limiter, clock, TAKEN, UPDATE, attempts=attempts, turn=turn)

    asyncio.run(main())


def test_a_ceiling_keeps_a_look_and_its_update_together() -> None:
    sent: list[tuple[str, float]] = []

    async def main() -> None:
        limiter = RateLimiter(100.0)

        async def move(name: str) -> None:
            attempts, turn = Attempts(waits_for_limit=True), Turn()
            attempts.begin(Credentials("https://shop", "token", token_since=0.0))

            async def answered() -> Answer:
                sent.append((name, time.monotonic()))
                return TAKEN

            await send(limiter, Clock(), answered, LOOK, turn=turn, attempts=attempts)
            attempts.send()
            attempts.succeed(LOOK)
            await send(limiter, Clock(), answered, UPDATE, turn=turn, attempts=attempts)

        await asyncio.gather(*(move(str(number)) for number in range(10)))

    asyncio.run(main())

    names = [name for name, _ in sent]
    assert all(names.index(name) + 1 == len(names) - 1 - names[::-1].index(name) for name in names)
    assert sent[-1][1] - sent[0][1] >= 19 * 0.01 - 0.06


def test_a_ceiling_that_is_too_low_for_a_guard_is_refused_before_anything_is_sent() -> None:
    clock = Clock()
    with pytest.raises(YouCanInvalidInputError, match=r"requests_per_second=0\.1 .* guard_max_age above 10"):
        asyncio.run(send(RateLimiter(0.1, clock=clock), clock, TAKEN, LOOK))


@pytest.mark.parametrize("rate", [200.0, 500.0])
def test_a_ceiling_is_used(rate: float) -> None:
    async def main() -> float:
        limiter, clock = RateLimiter(rate), Clock()
        begun_at = time.monotonic()
        await asyncio.gather(*(send(limiter, clock, TAKEN) for _ in range(int(rate))))
        return time.monotonic() - begun_at

    seconds = asyncio.run(main())

    # Never more than the ceiling allows; how much less is for the benchmark to say.
    assert seconds >= 1 - 0.06


# --- what waits, and what is given back ---


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[float]:
    """What was slept through, in seconds: the clock moves instead."""
    slept: list[float] = []

    async def sleep(_: RateLimiter, seconds: float) -> None:
        slept.append(round(seconds, 3))
        clock.now += seconds

    monkeypatch.setattr(RateLimiter, "_sleep", sleep)
    return slept


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_ceiling_that_was_not_used_is_not_caught_up_with(clock: Clock, slept: list[float]) -> None:
    async def main() -> None:
        limiter = RateLimiter(1.0, clock=clock)
        clock.now += 60
        for _ in range(3):
            await send(limiter, clock, TAKEN)

    asyncio.run(main())

    # But for a moment, because an event loop wakes a little late each time.
    assert slept == [0.95, 1.0]


def test_a_look_takes_two_slots_of_a_ceiling_and_its_update_the_second(clock: Clock, slept: list[float]) -> None:
    async def main() -> None:
        limiter, attempts, turn = RateLimiter(1.0, clock=clock), begun(clock), Turn()
        await send(limiter, clock, TAKEN, LOOK, attempts=attempts, turn=turn)
        attempts.send()
        attempts.succeed(LOOK)
        await send(limiter, clock, TAKEN, UPDATE, attempts=attempts, turn=turn)
        await send(limiter, clock, TAKEN)

    asyncio.run(main())

    assert slept == [1.0, 1.0]


def test_a_slot_of_a_request_that_was_not_sent_is_the_next_ones(clock: Clock, slept: list[float]) -> None:
    async def main() -> None:
        limiter = RateLimiter(1.0, clock=clock)
        await send(limiter, clock, TAKEN)
        with pytest.raises(StaleReadError):
            await send(limiter, clock, TAKEN, UPDATE)
        await send(limiter, clock, TAKEN)

    asyncio.run(main())

    assert slept == [1.0]


def test_a_turn_that_is_given_back_wakes_who_waits_for_one(clock: Clock) -> None:
    async def main() -> None:
        limiter, turn = RateLimiter(clock=clock), Turn()
        take_a_window(limiter, clock, capacity=2)
        await send(limiter, clock, TAKEN, LOOK, turn=turn)
        waiting = asyncio.ensure_future(send(limiter, clock, TAKEN))
        await asyncio.sleep(0)
        turn.end()
        assert await asyncio.wait_for(waiting, 5) is TAKEN

    asyncio.run(main())


def test_a_reserved_turn_whose_update_is_not_sent_is_given_back(clock: Clock) -> None:
    async def main() -> None:
        limiter, attempts, turn = RateLimiter(clock=clock), begun(clock), Turn()
        take_a_window(limiter, clock, capacity=2)
        await send(limiter, clock, TAKEN, LOOK, attempts=attempts, turn=turn)
        with pytest.raises(StaleReadError):
            await send(limiter, clock, TAKEN, UPDATE, attempts=attempts, turn=turn)
        assert limiter._limit.delay(clock.now) == 0

    asyncio.run(main())


def test_nobody_overtakes_who_waits_for_two_turns(clock: Clock) -> None:
    async def main() -> None:
        limiter, turn = RateLimiter(clock=clock), Turn()
        take_a_window(limiter, clock, capacity=3)
        await send(limiter, clock, TAKEN, LOOK, turn=turn)
        look = asyncio.ensure_future(send(limiter, clock, TAKEN, LOOK))
        await asyncio.sleep(0)
        # One turn is left, but the look came first.
        other = asyncio.ensure_future(send(limiter, clock, TAKEN))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not other.done()
        turn.end()
        assert await asyncio.wait_for(look, 5) is TAKEN
        other.cancel()

    asyncio.run(main())


def test_a_queue_dissolves_once_there_is_room_for_all_of_it(clock: Clock) -> None:
    async def main() -> None:
        limiter = RateLimiter(max_in_flight=3, clock=clock)
        attempts, turn = begun(clock), Turn()
        numbers = [await limiter.take_turn(READ, turn, attempts) for _ in range(3)]
        waiter = asyncio.ensure_future(limiter.take_turn(READ, turn, attempts))
        await asyncio.sleep(0)

        # There is room for one: it belongs to the one that waits.
        late = asyncio.ensure_future(limiter.take_turn(READ, turn, attempts))
        limiter.record(numbers[0], READ, TAKEN)
        await asyncio.wait({waiter, late}, return_when=asyncio.FIRST_COMPLETED)
        assert (waiter.done(), late.done()) == (True, False)

        # There is room for both: the next one does not join the queue.
        for number in numbers[1:]:
            limiter.record(number, READ, TAKEN)
        passing = limiter.take_turn(READ, turn, attempts)
        with pytest.raises(StopIteration):
            passing.send(None)
        await late

    asyncio.run(main())


def test_refusals_within_a_minute_are_no_reason_to_give_up(clock: Clock) -> None:
    async def main() -> None:
        limiter = RateLimiter(clock=clock)
        for _ in range(25):
            assert (await send(limiter, clock, refusal(1))).status_code == 429
            clock.now += 2.2

    asyncio.run(main())


def test_it_gives_up_a_guard_only_where_no_update_at_all_goes_through(clock: Clock) -> None:
    async def main() -> None:
        limiter, waiting, turn = RateLimiter(max_windows=2, clock=clock), begun(clock), Turn()
        take_a_window(limiter, clock, capacity=100)
        await send(limiter, clock, TAKEN, LOOK, attempts=waiting, turn=turn)
        for _ in range(4):
            clock.now += 10
            take_a_window(limiter, clock, capacity=100)
            # The update of another order goes through,
            other, others_turn = begun(clock), Turn()
            await send(limiter, clock, TAKEN, LOOK, attempts=other, turn=others_turn)
            other.send()
            other.succeed(LOOK)
            await send(limiter, clock, TAKEN, UPDATE, attempts=other, turn=others_turn)
            # so there is hope for this one.
            await send(limiter, clock, TAKEN, LOOK, attempts=waiting, turn=turn)
        for _ in range(2):
            clock.now += 10
            take_a_window(limiter, clock, capacity=100)
        with pytest.raises(YouCanRateLimitError, match="too low for guarded updates: raise guard_max_age"):
            await send(limiter, clock, TAKEN, LOOK, attempts=waiting, turn=turn)

    asyncio.run(main())


def test_a_reserved_turn_is_taken_once_or_given_back() -> None:
    turn, given_back = Turn(), []

    turn.reserve(1.0, lambda: given_back.append("first"))
    turn.reserve(2.0, lambda: given_back.append("second"))
    assert (turn.reserved_at, given_back) == (2.0, ["first"])

    assert turn.take()
    assert not turn.take()
    turn.end()
    assert given_back == ["first"]

    turn.reserve(3.0, lambda: given_back.append("third"))
    turn.end()
    turn.end()
    assert given_back == ["first", "third"]
