"""The switch for users' own tests: while it is on, no attempt waits for the next."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from airflow_provider_youcan.client import endpoints
from airflow_provider_youcan.client.attempts import Attempts
from airflow_provider_youcan.client.credentials import Credentials
from airflow_provider_youcan.exceptions import YouCanRateLimitError, YouCanServerError
from airflow_provider_youcan.testing import is_testing, set_testing
from tests.conftest import EitherHook, Sandbox

REQUEST = endpoints.get_order("abc")


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    with set_testing(False):
        yield


def begun(max_attempts: int = 4, max_seconds: float | None = None) -> Attempts:
    attempts = Attempts(max_seconds)
    attempts.begin(Credentials("https://shop", "token", max_attempts=max_attempts))
    return attempts


def test_it_is_off_until_it_is_switched_on_and_off_again() -> None:
    assert not is_testing()
    set_testing()
    assert is_testing()
    set_testing(False)
    assert not is_testing()


@pytest.mark.parametrize("before", [True, False])
def test_a_context_manager_restores_the_switch(before: bool) -> None:
    set_testing(before)

    with set_testing(not before):
        assert is_testing() is not before
        with set_testing(before):
            assert is_testing() is before
        assert is_testing() is not before
    assert is_testing() is before


def test_an_error_in_its_block_restores_it_too() -> None:
    with pytest.raises(ZeroDivisionError), set_testing():
        raise ZeroDivisionError

    assert not is_testing()


@pytest.mark.parametrize("error", [YouCanServerError("503"), YouCanRateLimitError("429", retry_after=60.0)])
def test_attempts_follow_each_other_at_once_whatever_the_shop_asked_for(error: YouCanServerError) -> None:
    with set_testing():
        assert begun().fail(REQUEST, error) == 0.0
        # A bound on the time does not count a wait that is left out.
        assert begun(max_seconds=5).fail(REQUEST, error) == 0.0
    assert begun().fail(REQUEST, error) > 0.0


def test_there_are_as_many_attempts_as_ever() -> None:
    with set_testing():
        attempts = begun(max_attempts=3)
        assert [attempts.fail(REQUEST, YouCanServerError()) for _ in range(2)] == [0.0, 0.0]
        with pytest.raises(YouCanServerError):
            attempts.fail(REQUEST, YouCanServerError())


def test_a_long_retry_after_fails_the_task_as_ever() -> None:
    with set_testing(), pytest.raises(YouCanRateLimitError):
        begun().fail(REQUEST, YouCanRateLimitError(retry_after=61.0))


def test_no_hook_sleeps_between_attempts(
    either_hook: EitherHook, sandbox: Sandbox, order_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(*_: float) -> None:
        raise AssertionError("it sleeps")

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr("airflow_provider_youcan.hooks.youcan_async.YouCanAsyncHook._pause", sleep)
    sandbox.misbehave("status", status=503, times=3)

    with set_testing():
        either_hook.update_order_status(order_id, "paid", "payment")

    assert [request["status"] for request in sandbox.shop.requests()] == [503, 503, 503, 200]
