"""What a wait has seen, and what follows from it: no I/O."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_youcan.exceptions import (
    YouCanInvalidInputError,
    YouCanPermanentError,
    YouCanRateLimitError,
    YouCanServerError,
)
from airflow_provider_youcan.triggers.waiting import OrderStatusWait, poll_interval


class Logged(list[str]):
    def info(self, message: str, *arguments: Any) -> None:
        self.append(message % arguments)

    warning = info


@pytest.fixture
def logged() -> Logged:
    return Logged()


@pytest.fixture
def wait(logged: Logged) -> OrderStatusWait:
    return OrderStatusWait("abc", "shipping", ["fulfilled"], ["canceled"], logger=logged)


def test_the_target_ends_the_wait(wait: OrderStatusWait) -> None:
    assert not wait.record_status("unfulfilled")
    assert not wait.record_status("shipped")
    assert wait.record_status("fulfilled")


def test_a_failure_status_ends_it_at_once(wait: OrderStatusWait) -> None:
    with pytest.raises(
        YouCanPermanentError, match="is 'canceled', which is in failure_status, so it will not become 'fulfilled'"
    ):
        wait.record_status("canceled")


def test_only_a_change_is_logged(wait: OrderStatusWait, logged: Logged) -> None:
    for status in ("unfulfilled", "unfulfilled", "shipped", "shipped", "fulfilled"):
        wait.record_status(status)

    assert logged == [
        "Order abc: the shipping status is 'unfulfilled', waiting for 'fulfilled'.",
        "Order abc: the shipping status is 'shipped', waiting for 'fulfilled'.",
        "Order abc: the shipping status is 'fulfilled'.",
    ]


def test_a_status_that_cannot_be_read_is_not_the_target_and_logged_once(wait: OrderStatusWait, logged: Logged) -> None:
    assert [wait.record_status(None) for _ in range(3)] == [False, False, False]
    assert logged == ["Order abc: the shipping status can't be read from YouCan's answer. Still waiting."]


def test_the_timeout_says_the_last_status(wait: OrderStatusWait) -> None:
    wait.record_error(YouCanServerError("503"), 0)
    wait.record_status("shipped")

    assert wait.describe_timeout(60) == (
        "Order abc: the shipping status has not become 'fulfilled' within 60 s; it was last seen as 'shipped'."
    )


def test_the_timeout_says_the_last_error_and_since_when(wait: OrderStatusWait) -> None:
    wait.record_status("shipped")
    wait.record_error(YouCanServerError("Could not read order abc: 500."), 1_000_000_000)
    wait.record_error(YouCanServerError("Could not read order abc: 503."), 1_000_000_060)

    assert wait.describe_timeout(3600).endswith(
        "nothing could be read since 2001-09-09 01:46:40 UTC: Could not read order abc: 503."
    )


def test_the_timeout_says_that_nothing_could_be_read(wait: OrderStatusWait) -> None:
    wait.record_status(None)

    assert wait.describe_timeout(1).endswith("it could not be read from YouCan's answers.")


def test_a_rate_limit_says_until_when(wait: OrderStatusWait) -> None:
    wait.record_error(YouCanRateLimitError("slow", retry_after=90.0), 1000.0)
    wait.record_error(YouCanRateLimitError("slow", retry_after=10.0), 1010.0)

    assert wait.resume_at == 1090.0


def test_a_wait_goes_on_where_another_was(wait: OrderStatusWait, logged: Logged) -> None:
    wait.record_status("shipped")
    wait.record_error(YouCanRateLimitError("slow", retry_after=90.0), 1000.0)
    logged.clear()

    again = OrderStatusWait("abc", "shipping", ["fulfilled"], seen=json.loads(json.dumps(wait.seen)), logger=logged)

    assert again.resume_at == 1090.0
    assert again.describe_timeout(1).endswith("since 1970-01-01 00:16:40 UTC: slow")
    again.record_status("shipped")
    assert logged == [], "only a change is logged"


def test_a_target_can_not_be_a_failure() -> None:
    with pytest.raises(YouCanInvalidInputError, match="'paid' can't be both"):
        OrderStatusWait("abc", "payment", ["paid"], ["paid"])


@given(st.floats(1, 3600), st.integers(1, 200), st.none() | st.floats(1, 3600))
def test_the_intervals_grow_up_to_their_bound(base: float, poll: int, longest: float | None) -> None:
    rng = random.Random(0)

    assert poll_interval(base, poll, exponential=False, longest=longest, rng=rng) == base
    interval = poll_interval(base, poll, exponential=True, longest=longest, rng=rng)
    assert interval >= 1
    assert longest is None or interval <= longest
    assert interval <= max(base * 2.0 ** (poll - 1), 2)
