"""Lost answers: what is claimed was done, and what may have been done is never called untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_youcan.exceptions import (
    YouCanTransientError,
)
from airflow_provider_youcan.operators.order_status import YouCanUpdatePaymentStatusOperator
from tests.conftest import EitherHook, Sandbox, on_request, payable, read_report, reconcile

GUARD = {"payment": ["pending", "unpaid"]}


def test_a_change_that_someone_else_made_is_not_claimed(
    sandbox: Sandbox, either_hook: EitherHook, no_waiting: None
) -> None:
    (order_id, *_) = payable(sandbox)
    sandbox.misbehave("status", route="PUT *", status=429, headers={"Retry-After": "0"}, times=1)
    on_request(
        sandbox,
        lambda method, status: status == 429 and sandbox.shop.set_status(order_id, "payment", "paid") and None,
    )

    assert either_hook.move_order_status(order_id, "paid", "payment", only_from=["pending"]) == ("paid", False)


@pytest.mark.parametrize("next_status", ["refunded", None])
def test_a_lost_answer_is_never_reported_as_nothing_sent(
    sandbox: Sandbox, either_hook: EitherHook, no_waiting: None, next_status: str | None
) -> None:
    (order_id, *_) = payable(sandbox)
    sandbox.misbehave("lose-answer", route="PUT *", times=1)

    def go_on(method: str, _: int | None) -> None:
        if method != "PUT":
            return
        if next_status is None:
            sandbox.shop.delete_order(order_id)
        else:
            sandbox.shop.set_status(order_id, "payment", next_status)

    on_request(sandbox, go_on)

    with pytest.raises(YouCanTransientError, match="no confirmation came") as raised:
        either_hook.move_order_status(order_id, "paid", "payment", only_from=["pending"])

    assert raised.value.unconfirmed


def test_an_operator_never_skips_after_a_lost_answer(sandbox: Sandbox, no_waiting: None) -> None:
    (order_id, *_) = payable(sandbox)
    sandbox.misbehave("lose-answer", route="PUT *", times=1)
    on_request(sandbox, lambda method, _: sandbox.shop.delete_order(order_id) if method == "PUT" else None)
    operator = YouCanUpdatePaymentStatusOperator(
        task_id="pay", order_id=order_id, status="paid", only_from="pending", skip_not_found=True
    )

    with pytest.raises(YouCanTransientError) as raised:
        operator.execute({})

    assert raised.value.unconfirmed


@pytest.mark.parametrize(("next_status", "outcome"), [("refunded", "failed"), ("paid", "changed")])
def test_the_report_says_what_is_not_known(
    sandbox: Sandbox, no_waiting: None, tmp_path: Path, next_status: str, outcome: str
) -> None:
    (order_id, *_) = payable(sandbox)
    sandbox.misbehave("lose-answer", route="PUT *", times=1)
    on_request(
        sandbox,
        lambda method, _: (
            sandbox.shop.set_status(order_id, "payment", next_status) and None if method == "PUT" else None
        ),
    )
    report = tmp_path / "report.jsonl"
    row = {"order_id": order_id, "payment_status": "paid"}

    if outcome == "failed":
        with pytest.raises(YouCanTransientError):
            reconcile([row], only_from=GUARD, report_path=str(report))
    else:
        reconcile([row], only_from=GUARD, report_path=str(report))

    (line,) = read_report(report)
    assert (line["outcome"], line["before"]) == (outcome, "pending")
    said = "confirmed by reading; another run may have set it" if outcome == "changed" else "is unknown"
    assert said in line["reason"]


def test_an_update_whose_answer_was_lost_is_not_sent_twice(
    sandbox: Sandbox, fresh: list[str], no_waiting: None
) -> None:
    sandbox.misbehave("lose-answer", route="PUT /orders/*")

    summary = reconcile([{"order_id": order_id, "status": "closed"} for order_id in fresh])

    assert summary["changed"] == len(fresh), "this run changed them, though it had to look again to know"
    assert len(sandbox.shop.history()) == len(fresh)


def test_an_update_that_nobody_could_confirm_says_so(
    sandbox: Sandbox, fresh: list[str], no_waiting: None, tmp_path: Path
) -> None:
    report = tmp_path / "report.jsonl"
    sandbox.misbehave("lose-answer", route="PUT /orders/*", times=1)
    # The first look, and then none any more.
    get_order, looks = sandbox.shop.order, iter(range(100))

    def look_once(order_id: str) -> Any:
        if next(looks) >= 2:
            raise RuntimeError("the sandbox answers 500")
        return get_order(order_id)

    sandbox.shop.order = look_once  # type: ignore[method-assign]
    with pytest.raises(YouCanTransientError):
        reconcile([{"order_id": fresh[0], "payment_status": "paid"}], report_path=str(report))

    (line,) = read_report(report)
    assert (line["outcome"], line["before"]) == ("failed", "pending")
    assert "An update was sent, and it is unknown whether YouCan took it." in line["reason"]


def test_an_update_confirmed_in_the_second_round_is_reported_as_a_change(
    sandbox: Sandbox, fresh: list[str], no_waiting: None, tmp_path: Path
) -> None:
    report = tmp_path / "report.jsonl"
    sandbox.misbehave("lose-answer", route="PUT /orders/*", times=1)
    get_order, looks = sandbox.shop.order, iter(range(100))

    def look_and_look_again(order_id: str) -> Any:
        # Found for the first look and the update; then three looks fail, which ends the first round.
        if 2 <= next(looks) < 5:
            raise RuntimeError("the sandbox answers 500")
        return get_order(order_id)

    sandbox.shop.order = look_and_look_again  # type: ignore[method-assign]
    summary = reconcile([{"order_id": fresh[0], "payment_status": "paid"}], report_path=str(report))

    assert summary["changed"] == 1
    assert read_report(report)[0]["before"] == "pending"
    assert len(sandbox.shop.history()) == 1


@pytest.mark.parametrize("only_from", [None, GUARD])
def test_a_lost_answer_that_is_cleared_up_when_the_order_is_tried_once_more_is_a_change(
    sandbox: Sandbox, no_waiting: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, only_from: Any
) -> None:
    # Given an update whose answer is lost, after which the order can't be read as often as it is tried,
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(max_attempts=2))
    (order_id, *_), report = payable(sandbox), tmp_path / "report.jsonl"
    sandbox.misbehave("lose-answer", route="PUT *", times=1)
    looks = []

    def hide(method: str, status: int | None) -> None:
        if method == "PUT":
            sandbox.misbehave("status", route="GET /orders/*-*", status=503, times=1)
        looks.append((method, status))

    on_request(sandbox, hide)

    # when the run tries it once more,
    summary = reconcile(
        [{"order_id": order_id, "payment_status": "paid"}], only_from=only_from, report_path=str(report)
    )

    # then the change is this run's, and was sent once.
    assert ("GET", 503) in looks
    assert [method for method, _ in looks].count("PUT") == 1
    assert summary["changed"] == 1
    (line,) = read_report(report)
    assert (line["outcome"], line["before"]) == ("changed", "pending")
    assert "confirmed by reading" in line["reason"]
