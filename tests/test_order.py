"""One order: its statuses one after the other, and what becomes of each."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_youcan.client import endpoints
from airflow_provider_youcan.exceptions import (
    YouCanPermanentError,
    YouCanTransientError,
)
from tests.conftest import Sandbox, on_request, payable, read_report, reconcile


def test_the_general_status_is_left_alone_where_the_payment_failed(sandbox: Sandbox, tmp_path: Path) -> None:
    first, second, *_ = payable(sandbox)
    sandbox.misbehave("status", route=f"PUT /orders/{first}/status/payment", status=422)
    before = sandbox.shop.statuses(first)["general"]
    report = tmp_path / "report.jsonl"

    with pytest.raises(YouCanPermanentError):
        reconcile(
            [{"order_id": order_id, "payment_status": "paid", "status": "closed"} for order_id in (first, second)],
            report_path=str(report),
        )

    assert sandbox.shop.statuses(first)["general"] == before
    assert sandbox.shop.statuses(second)["general"] == "closed"
    lines = {(line["order_id"], line["context"]): line for line in read_report(report)}
    assert lines[first, "general"]["outcome"] == "protected"
    assert "the payment status of this order was not set" in lines[first, "general"]["reason"]


def test_trouble_with_one_status_keeps_the_order_from_being_closed(
    sandbox: Sandbox, fresh: list[str], no_waiting: None
) -> None:
    sandbox.misbehave("status", route=f"PUT /orders/{fresh[0]}/status/shipping", status=500)

    with pytest.raises(YouCanTransientError):
        reconcile([{"order_id": fresh[0], "shipping_status": "shipped", "payment_status": "paid", "status": "closed"}])

    assert sandbox.shop.statuses(fresh[0]) == {"general": "open", "shipping": "unfulfilled", "payment": "paid"}


def test_a_general_status_that_is_held_back_is_protected_and_has_not_failed(
    sandbox: Sandbox, fresh: list[str], no_waiting: None, tmp_path: Path
) -> None:
    sandbox.misbehave("status", route=f"PUT /orders/{fresh[0]}/status/payment", status=500)

    with pytest.raises(YouCanTransientError):
        reconcile(
            [{"order_id": fresh[0], "payment_status": "paid", "status": "closed"}],
            report_path=str(tmp_path / "report.jsonl"),
        )

    outcomes = {line["context"]: line["outcome"] for line in read_report(tmp_path / "report.jsonl")}
    assert outcomes == {"payment": "failed", "general": "protected"}


@pytest.mark.parametrize(
    "misbehaviour",
    [{"kind": "drop"}, {"kind": "status", "status": 503}, {"kind": "html"}],
    ids=lambda misbehaviour: str(misbehaviour["kind"]),
)
def test_each_status_of_an_order_fails_for_its_own_reason(
    sandbox: Sandbox, no_waiting: None, tmp_path: Path, misbehaviour: dict[str, Any]
) -> None:
    # Given a shop that takes no update,
    order_id = payable(sandbox)[0]
    sandbox.shop.set_status(order_id, "shipping", "unfulfilled")
    sandbox.misbehave(**misbehaviour, route="PUT *")

    # when two statuses of an order are to be set,
    with pytest.raises(YouCanTransientError):
        reconcile(
            [{"order_id": order_id, "shipping_status": "fulfilled", "payment_status": "paid"}],
            report_path=str(tmp_path / "report.jsonl"),
        )

    # then the report says of each what it was, and what became of its own update.
    lines = {line["context"]: line for line in read_report(tmp_path / "report.jsonl")}
    assert {context: line["before"] for context, line in lines.items()} == {
        "shipping": "unfulfilled",
        "payment": "pending",
    }
    for context, line in lines.items():
        assert line["outcome"] == "failed"
        assert f"{context} status" in line["reason"], line


def test_a_status_that_cannot_be_read_is_set_where_no_guard_asks(sandbox: Sandbox, fresh: list[str]) -> None:
    sandbox.misbehave("terse")

    rows = [{"order_id": fresh[0], "status": "closed"}]
    guarded = reconcile(rows, only_from={"general": "open"})
    free = reconcile(rows)

    assert (guarded["protected"], guarded["changed"]) == (1, 0)
    assert free["changed"] == 1


def test_a_read_does_not_get_younger_for_the_next_status(
    sandbox: Sandbox, fresh: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an order of which two statuses are set under a guard,
    read_ats: list[float | None] = []
    looked_at: list[float] = []
    build = endpoints.update_order_status

    def capture(order_id: str, status: str, context: Any, freshness: Any, *arguments: Any) -> Any:
        read_ats.append(freshness.read_at)
        return build(order_id, status, context, freshness, *arguments)

    monkeypatch.setattr(endpoints, "update_order_status", capture)
    on_request(sandbox, lambda method, _: looked_at.append(time.monotonic()) if method == "GET" else None)
    only_from = {"shipping": "unfulfilled", "payment": "pending"}

    # when the first one is read and set, and the second rests on the same read,
    rows = [{"order_id": fresh[0], "shipping_status": "shipped", "payment_status": "paid"}]
    assert reconcile(rows, only_from=only_from)["changed"] == 2

    # then it is as old as the read, and not as the update after it.
    own, shared = read_ats
    assert own is None
    assert shared is not None
    assert shared <= looked_at[-1]
