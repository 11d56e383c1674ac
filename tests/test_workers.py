"""So many orders at a time: workers that stop when one error concerns all, and when a shop counts as down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from airflow_provider_youcan.reconciliation.workers import Outage, WorkerPool
from tests.conftest import Clock


async def numbers(until: int) -> AsyncGenerator[list[int], None]:
    """Yield numbers in batches of one and two."""
    for number in range(0, until, 3):
        yield [number]
        yield [one for one in (number + 1, number + 2) if one < until]


# --- the pool ---


def test_all_items_are_worked_on_so_many_at_a_time() -> None:
    under_way, most, done = 0, 0, []

    async def work(number: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        done.append(number)

    asyncio.run(WorkerPool[int](3).run(numbers(20), work))

    assert sorted(done) == list(range(20))
    assert most == 3


def test_after_its_end_nothing_is_begun_and_what_is_under_way_comes_to_its_end() -> None:
    begun, ended = [], []

    async def main() -> None:
        pool = WorkerPool[int](3)
        everybody = asyncio.Event()

        async def work(number: int) -> None:
            begun.append(number)
            if len(begun) == 3:
                pool.end()
                everybody.set()
            await everybody.wait()
            ended.append(number)

        await pool.run(numbers(100), work)

    asyncio.run(main())

    assert sorted(begun) == sorted(ended) == [0, 1, 2]


def test_no_more_items_are_taken_after_its_end_than_wait_for_a_worker() -> None:
    taken = []

    async def items() -> AsyncGenerator[list[int], None]:
        async for batch in numbers(1000):
            taken.extend(batch)
            yield batch

    async def main() -> None:
        pool = WorkerPool[int](2)

        async def work(_: int) -> None:
            pool.end()

        await pool.run(items(), work)

    asyncio.run(main())

    assert len(taken) < 10


def test_the_first_error_is_what_ended_it() -> None:
    begun = []

    async def work(number: int) -> None:
        begun.append(number)
        await asyncio.sleep(0)
        raise ValueError(f"number {number}")

    with pytest.raises(ValueError, match="number 0"):
        asyncio.run(WorkerPool[int](2).run(numbers(100), work))

    assert begun == [0, 1]


def test_an_error_of_what_feeds_it_ends_it_too() -> None:
    done = []

    async def items() -> AsyncGenerator[list[int], None]:
        yield [1]
        raise ValueError("the list can't be read")

    async def work(number: int) -> None:
        done.append(number)

    with pytest.raises(ValueError, match="the list can't be read"):
        asyncio.run(WorkerPool[int](2).run(items(), work))

    assert set(done) <= {1}


def test_a_pool_that_is_cancelled_leaves_nothing_behind() -> None:
    begun, cancelled = [], []

    async def work(number: int) -> None:
        begun.append(number)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    async def main() -> None:
        running = asyncio.ensure_future(WorkerPool[int](2).run(numbers(10), work))
        while len(begun) < 2:
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())

    assert sorted(cancelled) == [0, 1]


# --- an outage ---


@pytest.mark.parametrize(
    ("failures", "seconds", "is_down"), [(100, 60.1, True), (99, 60.1, False), (100, 60.0, False), (1000, 1.0, False)]
)
def test_a_shop_is_down_that_took_nothing_for_a_minute_and_a_hundred_orders(
    failures: int, seconds: float, is_down: bool
) -> None:
    clock = Clock()
    outage = Outage(clock)
    for _ in range(failures - 1):
        outage.record_failure()

    clock.now += seconds

    assert outage.record_failure() is is_down


def test_a_success_in_between_begins_both_counts_again() -> None:
    clock = Clock()
    outage = Outage(clock)
    for _ in range(99):
        outage.record_failure()
    clock.now += 61
    outage.record_success()

    assert not any(outage.record_failure() for _ in range(500)), "a success was a moment ago"
    clock.now += 61
    outage.record_success()
    clock.now += 61
    assert [outage.record_failure() for _ in range(100)] == [False] * 99 + [True]
