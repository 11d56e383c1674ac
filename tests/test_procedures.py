"""The procedures, stepped through by hand: what is asked, in which order, and what comes of each answer. No socket."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_youcan.client import endpoints, procedures
from airflow_provider_youcan.client.attempts import StaleReadError
from airflow_provider_youcan.client.procedures import CONFIRMED_BY_READING, Procedure, Read, UpdateResult
from airflow_provider_youcan.exceptions import (
    YouCanError,
    YouCanOrderNotFoundError,
    YouCanPermanentError,
    YouCanServerError,
    YouCanTransientError,
)
from airflow_provider_youcan.orders import OrderStatuses, StatusContext

DONE: dict[str, Any] = {"status": 200, "detail": "Status is successfully updated", "meta": []}


def order(payment: str | None) -> dict[str, Any]:
    return {"id": "abc", "payment": {"status_object": {"slug": payment}}}


def end(procedure: Procedure[Any], answer: object) -> Any:
    """Give a procedure its last answer, and return its result."""
    with pytest.raises(StopIteration) as stop:
        procedure.throw(answer) if isinstance(answer, Exception) else procedure.send(answer)
    return stop.value.value


def stale(*, unconfirmed: bool = False) -> StaleReadError:
    error = StaleReadError()
    error.unconfirmed = unconfirmed
    return error


def move(only_from: Any = ("pending",), **options: Any) -> Procedure[UpdateResult]:
    return procedures.update_under_guard("abc", "paid", StatusContext.PAYMENT, only_from, **options)


# --- setting a status under a guard ---


def test_a_guarded_update_looks_and_then_sets() -> None:
    procedure = move()

    look = next(procedure)
    assert (look.method, look.update_freshness) == ("GET", endpoints.Freshness(5.0))
    update = procedure.send(order("pending"))
    assert (update.method, update.body, update.freshness) == ("PUT", b'{"status": "paid"}', endpoints.Freshness(5.0))
    assert update.before == "pending", "what this very update rests on"

    assert end(procedure, DONE)[:3] == ("pending", True, None)


@pytest.mark.parametrize(("found", "changed"), [("paid", False), ("refunded", False)])
def test_statuses_that_are_right_or_have_moved_on_are_left_alone(found: str, changed: bool) -> None:
    procedure = move()
    next(procedure)

    assert end(procedure, order(found))[:3] == (found, changed, None)


def test_a_stale_look_is_made_again() -> None:
    procedure = move()
    next(procedure)
    procedure.send(order("pending"))

    look = procedure.throw(stale())
    assert look.method == "GET"

    # Someone else has set the target meanwhile: nothing was changed by this.
    assert end(procedure, order("paid"))[:2] == ("paid", False)


def test_an_earlier_read_saves_a_request() -> None:
    procedure = move(read=Read(OrderStatuses(payment="pending"), at=12.5), guard_max_age=60.0)

    update = next(procedure)

    assert (update.method, update.freshness) == ("PUT", endpoints.Freshness(60.0, 12.5))
    # Its own look may be as old as guard_max_age, if that is more than five seconds.
    look = procedure.throw(stale())
    assert (look.method, look.update_freshness) == ("GET", endpoints.Freshness(60.0))


@pytest.mark.parametrize(("guard_max_age", "own_max_age"), [(0.0, 5.0), (5.0, 5.0), (60.0, 60.0)])
def test_a_look_of_its_own_may_always_be_five_seconds_old(guard_max_age: float, own_max_age: float) -> None:
    procedure = move(read=Read(OrderStatuses(payment="pending"), at=12.5), guard_max_age=guard_max_age)

    assert next(procedure).freshness == endpoints.Freshness(guard_max_age, 12.5)
    assert procedure.throw(stale()).update_freshness == endpoints.Freshness(own_max_age)
    assert procedure.send(order("pending")).freshness == endpoints.Freshness(own_max_age)


def test_an_update_without_a_guard_may_rest_on_a_read_of_any_age() -> None:
    read = move(None, read=Read(OrderStatuses(payment="pending"), at=12.5))
    looked = move(None)
    assert next(looked).update_freshness is None

    for update, at in ((next(read), 12.5), (looked.send(order("pending")), None)):
        assert update.freshness == endpoints.Freshness(float("inf"), at)


def test_a_status_that_cannot_be_read_is_no_answer_to_a_guard() -> None:
    guarded = procedures.move_order_status("abc", "paid", "payment", ["pending"])
    free = move(None)
    next(guarded), next(free)

    with pytest.raises(YouCanPermanentError, match="can't be read"):
        guarded.send(order(None))
    assert free.send(order(None)).method == "PUT"


def test_an_unconfirmed_update_is_confirmed_by_reading() -> None:
    procedure = move()
    next(procedure)
    procedure.send(order("pending"))
    procedure.throw(stale(unconfirmed=True))

    assert end(procedure, order("paid"))[:3] == ("pending", True, CONFIRMED_BY_READING)


@pytest.mark.parametrize("answer", [order("refunded"), order(None), YouCanOrderNotFoundError("404")])
def test_an_unconfirmed_update_that_cannot_be_confirmed_is_never_called_protected(answer: Any) -> None:
    procedure = move()
    next(procedure)
    procedure.send(order("pending"))
    procedure.throw(stale(unconfirmed=True))

    with pytest.raises(YouCanTransientError, match="no confirmation came") as raised:
        procedure.throw(answer) if isinstance(answer, Exception) else procedure.send(answer)

    assert raised.value.unconfirmed


def test_an_unconfirmed_update_is_sent_again_if_the_guard_allows_it() -> None:
    procedure = move()
    next(procedure)
    procedure.send(order("pending"))
    procedure.throw(stale(unconfirmed=True))

    assert procedure.send(order("pending")).method == "PUT"
    assert end(procedure, DONE)[:2] == ("pending", True)


def test_an_earlier_runs_unconfirmed_update_stays_unconfirmed() -> None:
    procedure = move(
        unconfirmed=UpdateResult("pending", changed=True), read=Read(OrderStatuses(payment="pending"), at=0.0)
    )

    assert next(procedure).method == "GET", "what was read before it says nothing"
    assert end(procedure, order("paid"))[:3] == ("pending", True, CONFIRMED_BY_READING)


def test_nor_does_an_update_that_could_not_be_sent_settle_it() -> None:
    procedure = move(unconfirmed=UpdateResult("pending", changed=True))
    next(procedure)
    assert procedure.send(order("pending")).method == "PUT"

    assert procedure.throw(stale()).method == "GET"
    assert end(procedure, order("paid"))[:3] == ("pending", True, CONFIRMED_BY_READING)


@pytest.mark.parametrize("is_look", [False, True])
def test_an_error_says_what_the_status_was(is_look: bool) -> None:
    procedure = move()
    next(procedure)
    procedure.send(order("pending"))
    if is_look:
        procedure.throw(stale(unconfirmed=True))

    with pytest.raises(YouCanServerError) as raised:
        procedure.throw(YouCanServerError("500"))

    assert raised.value.status_before == "pending"


statuses = st.sampled_from(["pending", "unpaid", "paid", "refunded", None])
answers = st.one_of(
    statuses.map(order),
    st.booleans().map(lambda unconfirmed: stale(unconfirmed=unconfirmed)),
    st.just(YouCanServerError("500")),
    st.just(YouCanOrderNotFoundError("404")),
    st.just(DONE),
)


@given(
    st.none() | st.sets(st.sampled_from(["pending", "unpaid"]), min_size=1),
    st.none() | statuses,
    st.lists(answers, min_size=30, max_size=30),
)
def test_no_update_leaves_a_guard_and_no_change_is_claimed_that_was_not_confirmed(
    only_from: set[str] | None, known: str | None, answers: list[Any]
) -> None:
    read = None if known is None else Read(OrderStatuses(payment=known), at=0.0)
    procedure = move(only_from, read=read)
    last_look: str | None = known
    was_confirmed = was_sent = is_unconfirmed = False
    answer: Any = None
    try:
        for following in [*answers, *answers]:
            request = procedure.throw(answer) if isinstance(answer, Exception) else procedure.send(answer)
            if request.method == "PUT":
                assert only_from is None or last_look in only_from
                # The driver throws no other error into a guarded update than these two.
                answer = following if isinstance(following, (StaleReadError, YouCanServerError)) else DONE
                if answer is DONE:
                    was_confirmed = True
                elif answer.unconfirmed:
                    is_unconfirmed = was_sent = True
            else:
                answer = following if isinstance(following, YouCanError) else order(known)
                if isinstance(following, dict) and "payment" in following:
                    answer = following
                if isinstance(answer, dict):
                    last_look = answer["payment"]["status_object"]["slug"]
    except StopIteration as stop:
        result = stop.value
        if result.changed:
            assert was_confirmed or (is_unconfirmed and last_look == "paid" and result.reason == CONFIRMED_BY_READING)
        else:
            assert not was_sent, "an update that may have been applied is never called unchanged or protected"
            assert result.before == last_look
    except YouCanError:
        assert not was_confirmed
