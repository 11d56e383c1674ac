"""What follows from a failure, on a clock of its own: another token, a pause, another look, or the end."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_youcan.client import endpoints
from airflow_provider_youcan.client.attempts import MAX_STALE_READS, MAX_TOKENS, Attempts, StaleReadError, back_off
from airflow_provider_youcan.client.credentials import Credentials
from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanConnectionError,
    YouCanError,
    YouCanOrderNotFoundError,
    YouCanRateLimitError,
    YouCanServerError,
    YouCanTaskStoppedError,
    YouCanTransientError,
)
from airflow_provider_youcan.orders import StatusContext
from tests.conftest import Clock

READ = endpoints.get_order("abc")
UPDATE = endpoints.update_order_status("abc", "paid", StatusContext("payment"))
CREDENTIALS = Credentials("https://shop", "first", token_since=0.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def begun(clock: Clock, max_attempts: int = 4, **options: Any) -> Attempts:
    attempts = Attempts(clock=clock, rng=random.Random(0), **options)
    attempts.begin(replace(CREDENTIALS, max_attempts=max_attempts))
    return attempts


# --- a pause ---


def test_a_transient_error_is_tried_again_as_often_as_the_connection_allows(clock: Clock) -> None:
    attempts = begun(clock, max_attempts=3)

    assert 0 <= attempts.fail(READ, YouCanServerError("503")) <= 1
    assert attempts.describe(0.5) == "Trying again in 0.5 s (attempt 2 of 3)."
    assert 0 <= attempts.fail(READ, YouCanConnectionError("lost")) <= 2
    last = YouCanServerError("third")
    with pytest.raises(YouCanServerError) as raised:
        attempts.fail(READ, last)

    assert raised.value is last


def test_a_permanent_error_and_a_single_attempt_are_the_end(clock: Clock) -> None:
    with pytest.raises(YouCanOrderNotFoundError):
        begun(clock).fail(READ, YouCanOrderNotFoundError())
    with pytest.raises(YouCanServerError):
        begun(clock, max_attempts=1).fail(READ, YouCanServerError())


@pytest.mark.parametrize("retry_after", [0.0, 2.0, 60.0])
def test_retry_after_is_waited_for_and_a_little_longer(clock: Clock, retry_after: float) -> None:
    seconds = begun(clock).fail(READ, YouCanRateLimitError(retry_after=retry_after))

    assert retry_after <= seconds <= retry_after + 1


def test_those_that_were_refused_together_do_not_come_back_together(clock: Clock) -> None:
    pauses = set()
    for _ in range(20):
        attempts = Attempts(clock=clock)
        attempts.begin(CREDENTIALS)
        pauses.add(attempts.fail(READ, YouCanRateLimitError(retry_after=5.0)))

    assert len(pauses) == 20


def test_a_long_retry_after_frees_the_worker(clock: Clock) -> None:
    with pytest.raises(YouCanRateLimitError) as raised:
        begun(clock).fail(READ, YouCanRateLimitError(retry_after=60.1))

    assert raised.value.retry_after == 60.1


def test_a_rate_limit_costs_no_attempt_where_a_limiter_waits_for_it(clock: Clock) -> None:
    attempts = begun(clock, max_attempts=1, waits_for_limit=True)

    assert [attempts.fail(READ, YouCanRateLimitError(retry_after=5.0)) for _ in range(50)] == [0.0] * 50


@pytest.mark.parametrize(
    ("retry_after", "seconds_gone", "is_over"), [(30.0, 0.0, True), (8.0, 0.0, False), (8.0, 2.0, True)]
)
def test_no_attempt_begins_after_its_time(clock: Clock, retry_after: float, seconds_gone: float, is_over: bool) -> None:
    attempts = begun(clock, max_seconds=10)
    clock.now += seconds_gone

    if is_over:
        with pytest.raises(YouCanRateLimitError):
            attempts.fail(READ, YouCanRateLimitError(retry_after=retry_after))
    else:
        assert attempts.fail(READ, YouCanRateLimitError(retry_after=retry_after)) < 10


def test_the_pauses_have_full_jitter_under_a_doubling_bound() -> None:
    for failures in range(1, 8):
        seen = [back_off(failures, random.Random(seed)) for seed in range(200)]
        bound = min(30, 2 ** (failures - 1))
        assert all(0 <= seconds <= bound for seconds in seen)
        assert min(seen) < bound * 0.2, "full jitter reaches down to nothing"
        assert max(seen) > bound * 0.8, "and up to the bound"


def test_a_failure_before_sending_is_not_an_answer(clock: Clock) -> None:
    attempts = begun(clock)

    assert attempts.fail(UPDATE, YouCanConnectionError("the database is out of reach"), was_sent=False) >= 0
    with pytest.raises(YouCanConnectionError):
        # A renewal, which had attempts of its own.
        attempts.fail(UPDATE, YouCanConnectionError("503", method="POST"), was_sent=False)
    with pytest.raises(YouCanAuthenticationError):
        attempts.fail(UPDATE, YouCanAuthenticationError("no new token"), was_sent=False)

    assert not attempts.unconfirmed


@pytest.mark.parametrize("error", [YouCanRateLimitError("given up"), YouCanTaskStoppedError("stopped")])
def test_a_limiter_that_gave_up_and_a_task_that_was_stopped_are_the_end(clock: Clock, error: YouCanError) -> None:
    with pytest.raises(type(error)):
        begun(clock, waits_for_limit=True).fail(UPDATE, error, was_sent=False)


# --- another token ---


def test_a_token_that_was_refused_is_not_used_again(clock: Clock) -> None:
    attempts = begun(clock)
    denial = YouCanAuthenticationError("401")

    assert attempts.fail(READ, denial) == 0.0
    assert attempts.may_renew
    attempts.begin(replace(CREDENTIALS, token="second"))
    attempts.fail(READ, YouCanAuthenticationError("401 again"))
    with pytest.raises(YouCanAuthenticationError):
        attempts.begin(replace(CREDENTIALS, token="first"))


def test_one_token_is_obtained_for_each_procedure_and_another_where_that_one_ran_out(clock: Clock) -> None:
    for renew_at, may_renew in ((float("inf"), False), (0.0, True)):
        attempts = begun(clock)
        attempts.fail(READ, YouCanAuthenticationError("401"))
        attempts.begin(replace(CREDENTIALS, token="second", is_renewed=True, renew_at=renew_at))
        attempts.fail(READ, YouCanAuthenticationError("401"))

        assert attempts.may_renew is may_renew


def test_a_token_of_another_allows_no_second_renewal(clock: Clock) -> None:
    attempts = begun(clock)
    for credentials in (replace(CREDENTIALS, token="ours", is_renewed=True), replace(CREDENTIALS, token="another's")):
        attempts.fail(READ, YouCanAuthenticationError("401"))
        attempts.begin(credentials)
    attempts.fail(READ, YouCanAuthenticationError("401"))

    assert not attempts.may_renew


def test_tokens_that_others_renew_are_taken_up_a_few_times(clock: Clock) -> None:
    attempts = begun(clock)

    def go_on(number: int) -> None:
        attempts.fail(READ, YouCanAuthenticationError("401"))
        attempts.begin(replace(CREDENTIALS, token=f"token {number}"))

    with pytest.raises(YouCanAuthenticationError):
        list(map(go_on, range(100)))

    assert len(attempts.refused) == MAX_TOKENS == 5


# --- another look ---


def guarded(max_age: float, at: float | None = None) -> endpoints.Request:
    return endpoints.update_order_status("abc", "paid", StatusContext("payment"), endpoints.Freshness(max_age, at))


def test_an_update_rests_on_a_look_that_is_not_too_old(clock: Clock) -> None:
    attempts = begun(clock)
    attempts.send()
    attempts.succeed(READ)  # the look

    clock.now += 5.0
    attempts.check_freshness(guarded(5.0))
    clock.now += 0.1
    with pytest.raises(StaleReadError):
        attempts.check_freshness(guarded(5.0))
    attempts.check_freshness(guarded(60.0))
    attempts.check_freshness(READ)
    attempts.check_freshness(UPDATE)


def test_a_look_is_as_old_as_its_request_however_long_the_answer_took(clock: Clock) -> None:
    attempts = begun(clock, max_attempts=2)
    attempts.send()
    clock.now += 6.0
    attempts.succeed(READ)

    with pytest.raises(StaleReadError):
        attempts.check_freshness(guarded(5.0))
    # A shop that is too slow each time is given up.
    with pytest.raises(
        YouCanTransientError,
        match=r"took 6\.0 s to return the status, and guard_max_age is 5",
    ):
        attempts.check_freshness(guarded(5.0))


def test_a_page_that_is_too_old_is_looked_at_again_however_slow_the_shop_is(clock: Clock) -> None:
    attempts = begun(clock, max_attempts=2)
    attempts.send()
    clock.now += 6.0
    attempts.succeed(READ)

    for _ in range(3):
        with pytest.raises(StaleReadError):
            attempts.check_freshness(guarded(5.0, at=clock.now - 60))


def test_looks_that_are_too_old_each_time_come_to_an_end(clock: Clock) -> None:
    attempts = begun(clock)
    for _ in range(MAX_STALE_READS - 1):
        attempts.send()
        attempts.succeed(READ)
        clock.now += 6.0  # such as for a record that is slow
        with pytest.raises(StaleReadError):
            attempts.check_freshness(guarded(5.0))

    with pytest.raises(YouCanTransientError, match=r"older than 5 s 20 times in a row"):
        attempts.check_freshness(guarded(5.0))


@pytest.mark.parametrize(("max_age", "age", "is_stale"), [(5.0, 4.9, False), (5.0, 5.1, True), (0.0, 0.001, True)])
def test_a_page_of_the_list_may_be_as_old_as_guard_max_age(
    clock: Clock, max_age: float, age: float, is_stale: bool
) -> None:
    attempts = begun(clock)
    update = guarded(max_age, at=clock.now - age)

    if is_stale:
        with pytest.raises(StaleReadError):
            attempts.check_freshness(update)
    else:
        attempts.check_freshness(update)


@pytest.mark.parametrize(
    "error", [YouCanServerError("500"), YouCanRateLimitError("429"), YouCanAuthenticationError("401")]
)
def test_no_update_is_sent_again_before_another_look(clock: Clock, error: YouCanError) -> None:
    attempts = begun(clock)
    attempts.send()
    attempts.succeed(READ)
    clock.now += 0.1
    attempts.fail(guarded(5.0), error)

    for update in (guarded(5.0), guarded(float("inf")), guarded(5.0, at=clock.now - 0.05)):
        with pytest.raises(StaleReadError):
            attempts.check_freshness(update)
    clock.now += 0.1
    attempts.send()
    attempts.succeed(READ)
    attempts.check_freshness(guarded(5.0))


def test_an_update_that_could_not_be_sent_leaves_its_look_fresh(clock: Clock) -> None:
    attempts = begun(clock)
    attempts.send()
    attempts.succeed(READ)
    clock.now += 0.1

    attempts.fail(guarded(5.0), YouCanConnectionError("the database is out of reach"), was_sent=False)

    attempts.check_freshness(guarded(5.0))


def test_a_token_that_was_renewed_since_makes_a_look_stale(clock: Clock) -> None:
    attempts = begun(clock)
    attempts.send()
    attempts.succeed(READ)
    page = guarded(60.0, at=clock.now - 1)
    attempts.check_freshness(page)

    attempts.begin(replace(CREDENTIALS, token="second", token_since=clock.now + 0.1))

    for update in (page, guarded(5.0)):
        with pytest.raises(StaleReadError):
            attempts.check_freshness(update)
    # An update without a guard does not depend on what was read.
    attempts.check_freshness(guarded(float("inf")))


@given(
    st.lists(
        st.sampled_from(["look", "slow look", "update fails", "renew", "renew during a look", "wait", "update"]),
        max_size=30,
    )
)
def test_no_update_follows_a_look_that_the_guard_refuses(events: list[str]) -> None:
    clock = Clock()
    attempts = begun(clock, max_attempts=1_000)
    looked_at: float | None = None
    for number, event in enumerate(events):
        clock.now += 0.001
        if event == "look":
            attempts.send()
            attempts.succeed(READ)
            looked_at = clock.now
        elif event == "slow look":
            attempts.send()
            looked_at = clock.now
            clock.now += 4.0
            attempts.succeed(READ)
        elif event == "renew during a look":
            attempts.send()
            clock.now += 0.001
            attempts.begin(replace(CREDENTIALS, token=str(number), token_since=clock.now, max_attempts=1_000))
            attempts.succeed(READ)
            looked_at = None
        elif event == "update fails":
            attempts.fail(guarded(5.0), YouCanServerError("500"))
            looked_at = None
        elif event == "renew":
            attempts.begin(replace(CREDENTIALS, token=str(number), token_since=clock.now, max_attempts=1_000))
            looked_at = None
        elif event == "wait":
            clock.now += 3.0
        else:
            is_fresh = looked_at is not None and clock.now - looked_at <= 5.0
            try:
                attempts.check_freshness(guarded(5.0))
            except StaleReadError:
                assert not is_fresh
            else:
                assert is_fresh
