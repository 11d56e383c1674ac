"""When a request is sent again, and how long it waits: no test sleeps."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_youcan.exceptions import (
    YouCanConnectionError,
    YouCanError,
    YouCanOrderNotFoundError,
    YouCanRateLimitError,
    YouCanServerError,
)
from airflow_provider_youcan.retries import YouCanRetryPolicy, is_worth_waiting, request_policy
from tests.conftest import AIRFLOW_3

WARN = logging.getLogger("test").warning


def failing(*errors: YouCanError) -> Callable[[], str]:
    """A call that ends in each of the errors, and then well."""
    left = list(errors)

    def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return call


def test_a_transient_error_is_tried_again(waits: list[float], caplog: pytest.LogCaptureFixture) -> None:
    call = failing(YouCanServerError("Could not read order 1."), YouCanConnectionError("Could not read order 1."))

    assert request_policy(4, WARN)(call) == "done"
    assert len(waits) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "Could not read order 1. Trying again in" in caplog.messages[0]
    assert "(attempt 2 of 4)" in caplog.messages[0]


def test_a_permanent_error_is_not(waits: list[float]) -> None:
    with pytest.raises(YouCanOrderNotFoundError):
        request_policy(4, WARN)(failing(YouCanOrderNotFoundError()))

    assert waits == []


def test_the_last_error_is_raised_as_it_is(waits: list[float]) -> None:
    last = YouCanServerError("third")

    with pytest.raises(YouCanServerError) as raised:
        request_policy(3, WARN)(failing(YouCanServerError("first"), YouCanServerError("second"), last))

    assert raised.value is last
    assert len(waits) == 2


def test_one_attempt_means_no_second(waits: list[float]) -> None:
    with pytest.raises(YouCanServerError):
        request_policy(1, WARN)(failing(YouCanServerError()))

    assert waits == []


@pytest.mark.parametrize("retry_after", [2.0, 60.0])
def test_retry_after_is_waited_for(waits: list[float], retry_after: float) -> None:
    request_policy(4, WARN)(failing(YouCanRateLimitError(retry_after=retry_after)))

    assert waits == [retry_after]


def test_retry_after_now_does_not_turn_off_the_back_off(waits: list[float]) -> None:
    request_policy(50, WARN)(failing(*[YouCanRateLimitError(retry_after=0.0)] * 49))

    assert sum(waits) > 60


def test_a_long_retry_after_frees_the_worker(waits: list[float]) -> None:
    with pytest.raises(YouCanRateLimitError) as raised:
        request_policy(4, WARN)(failing(YouCanRateLimitError(retry_after=3600.0)))

    assert raised.value.retry_after == 3600.0
    assert waits == []


def test_the_waits_have_full_jitter_under_a_doubling_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    by_attempt: list[list[float]] = [[] for _ in range(7)]
    for _ in range(200):
        waits: list[float] = []
        monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
        request_policy(8, WARN)(failing(*[YouCanServerError()] * 7))
        for attempt, wait in enumerate(waits):
            by_attempt[attempt].append(wait)

    for attempt, seen in enumerate(by_attempt):
        bound = min(30, 2**attempt)
        assert all(0 <= wait <= bound for wait in seen)
        assert min(seen) < bound * 0.2, "full jitter reaches down to nothing"
        assert max(seen) > bound * 0.8, "and up to the bound"


def test_no_attempt_begins_after_its_time(waits: list[float]) -> None:
    with pytest.raises(YouCanRateLimitError):
        request_policy(4, WARN, max_seconds=10)(failing(YouCanRateLimitError(retry_after=30.0)))

    assert waits == []


# --- Airflow's retries ---


@pytest.mark.skipif(not AIRFLOW_3, reason="retry policies exist from Airflow 3.3")
@pytest.mark.parametrize(
    ("error", "action", "delay"),
    [
        (YouCanRateLimitError("slow", retry_after=90.0), "retry", 90),
        (YouCanRateLimitError("slow", retry_after=0.0), "retry", 0),
        (YouCanRateLimitError("slow", retry_after=1e9), "retry", 86_400),
        (YouCanRateLimitError("slow"), "default", None),
        (YouCanServerError("503", retry_after=30.0), "default", None),
        (YouCanServerError("503"), "default", None),
        (YouCanConnectionError("lost"), "default", None),
        (YouCanOrderNotFoundError("gone"), "fail", None),
        (KeyError("a user's own"), "default", None),
    ],
)
def test_airflows_retry_waits_as_long_as_the_shop_asked(error: Exception, action: str, delay: float | None) -> None:
    decision = YouCanRetryPolicy().evaluate(error, try_number=1, max_tries=3)

    assert decision.action.value == action
    assert decision.retry_delay == (None if delay is None else timedelta(seconds=delay))


@pytest.mark.skipif(not AIRFLOW_3, reason="retry policies exist from Airflow 3.3")
def test_the_policy_survives_serialisation() -> None:
    data = json.loads(json.dumps(YouCanRetryPolicy().serialize()))

    assert isinstance(YouCanRetryPolicy.deserialize(data), YouCanRetryPolicy)


@pytest.mark.skipif(AIRFLOW_3, reason="this Airflow has retry policies")
def test_an_older_airflow_says_which_one_it_takes() -> None:
    with pytest.raises(RuntimeError, match=r"takes Airflow 3\.3 or later"):
        YouCanRetryPolicy()


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=0) | st.none())
def test_what_is_worth_waiting_for(retry_after: float | None) -> None:
    assert is_worth_waiting(YouCanRateLimitError(retry_after=retry_after)) == ((retry_after or 0) <= 60)
    assert not is_worth_waiting(ValueError())
