"""The run: what fails one order, what ends them all, and what is left to Airflow's retries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanError,
    YouCanPermanentError,
    YouCanPermissionError,
    YouCanRateLimitError,
    YouCanServerError,
    YouCanStoreSuspendedError,
    YouCanTransientError,
)
from tests.conftest import UNKNOWN_ID, Sandbox, TaskInstance, paid_rows, paths, read_report, reconcile


def test_a_row_that_fails_does_not_keep_the_others_from_going_on(
    sandbox: Sandbox, fresh: list[str], tmp_path: Path
) -> None:
    sandbox.misbehave("status", route=f"PUT /orders/{fresh[1]}/*", status=422)
    rows = [{"order_id": order_id, "status": "closed"} for order_id in (UNKNOWN_ID, *fresh)]
    report = tmp_path / "report.jsonl"

    with pytest.raises(YouCanPermanentError, match=r"2 of \d+ rows failed, more than max_failures=0") as error:
        reconcile(rows, report_path=str(report))
    summary = reconcile(rows, max_failures=2, report_path=str(report))

    assert not isinstance(error.value, YouCanTransientError)
    assert [sandbox.shop.statuses(order_id)["general"] for order_id in fresh].count("closed") == len(fresh) - 1
    assert (summary["not_found"], summary["failed"], summary["unchanged"]) == (1, 1, len(fresh) - 1)
    failures = {line["order_id"]: line["reason"] for line in read_report(report) if line["outcome"] == "failed"}
    assert "422" in failures[fresh[1]]


def test_transient_failures_are_left_to_airflows_retries(
    sandbox: Sandbox, fresh: list[str], no_waiting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.misbehave("status", route=f"PUT /orders/{fresh[0]}/*", status=503, headers={"Retry-After": "90"})
    rows = [{"order_id": order_id, "status": "closed"} for order_id in fresh]

    with pytest.raises(YouCanTransientError, match="a retry sends only what is missing") as error:
        reconcile(rows)
    assert error.value.retry_after == 90
    sandbox.misbehaviours.clear()
    summary = reconcile(rows)

    assert (summary["changed"], summary["unchanged"]) == (1, len(fresh) - 1)


@pytest.mark.parametrize("longest_first", [True, False])
def test_a_retry_comes_after_the_longest_that_the_shop_asked_for(
    sandbox: Sandbox, fresh: list[str], no_waiting: None, longest_first: bool
) -> None:
    for order_id, seconds in zip(fresh[:2], ("90", "30") if longest_first else ("30", "90"), strict=True):
        sandbox.misbehave("status", route=f"PUT /orders/{order_id}/*", status=503, headers={"Retry-After": seconds})

    with pytest.raises(YouCanTransientError) as error:
        reconcile([{"order_id": order_id, "status": "closed"} for order_id in fresh[:2]], max_concurrency=1)

    assert error.value.retry_after == 90


@pytest.mark.parametrize("status", [200, 404])
def test_a_shop_that_answers_some_of_its_orders_is_not_down(
    sandbox: Sandbox, fresh: list[str], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    # Given a shop that counts as down after two failures in a row, and fails at every second order,
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(max_attempts=1))
    monkeypatch.setattr("airflow_provider_youcan.reconciliation.workers.MAX_FAILURES_IN_A_ROW", 2)
    monkeypatch.setattr("airflow_provider_youcan.reconciliation.workers.MAX_SECONDS_WITHOUT_SUCCESS", -1.0)
    ti = TaskInstance()
    for place, order_id in enumerate(fresh):
        if place % 2:
            sandbox.misbehave("status", route=f"PUT /orders/{order_id}/*", status=500)
        elif status != 200:
            sandbox.misbehave("status", route=f"PUT /orders/{order_id}/*", status=status)

    with pytest.raises(YouCanTransientError):
        reconcile([{"order_id": order_id, "status": "closed"} for order_id in fresh], ti, max_concurrency=1)

    # then the run goes on to its end.
    assert len(fresh) >= 3
    assert ti.pushed["summary"]["failed"] >= len(fresh) // 2
    assert ti.pushed["summary"]["not_reached"] == 0


def test_a_shop_that_takes_nothing_ends_the_run(
    sandbox: Sandbox, fresh: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(max_attempts=1))
    monkeypatch.setattr("airflow_provider_youcan.reconciliation.workers.MAX_FAILURES_IN_A_ROW", 2)
    monkeypatch.setattr("airflow_provider_youcan.reconciliation.workers.MAX_SECONDS_WITHOUT_SUCCESS", -1.0)
    sandbox.misbehave("status", route="PUT *", status=500)

    with pytest.raises(YouCanServerError):
        reconcile([{"order_id": order_id, "status": "closed"} for order_id in fresh], max_concurrency=1)

    assert len(paths(sandbox, "PUT")) == 2


def test_an_error_that_passes_is_tried_again(sandbox: Sandbox, fresh: list[str], no_waiting: None) -> None:
    sandbox.misbehave("status", route="*", status=500, times=3)

    summary = reconcile([{"order_id": order_id, "status": "closed"} for order_id in fresh])

    assert summary["changed"] == len(fresh)


def test_one_attempt_is_one_attempt(sandbox: Sandbox, fresh: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(max_attempts=1))
    sandbox.misbehave("status", route="PUT /orders/*", status=503)

    with pytest.raises(YouCanTransientError):
        reconcile([{"order_id": fresh[0], "status": "closed"}])

    assert len(paths(sandbox, "PUT")) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, YouCanAuthenticationError), (402, YouCanStoreSuspendedError), (403, YouCanPermissionError)],
)
def test_errors_that_concern_all_orders_end_the_run(
    sandbox: Sandbox, fresh: list[str], tmp_path: Path, status: int, kind: type[YouCanError]
) -> None:
    sandbox.shop.add_orders(200)
    sandbox.misbehave("status", route="PUT /orders/*", status=status)
    rows = [{"order_id": order_id, "payment_status": "refunded"} for order_id in sandbox.shop.order_ids()]
    report = tmp_path / "report.jsonl"

    with pytest.raises(kind) as ended:
        reconcile(rows, max_concurrency=4, report_path=str(report))

    assert 1 <= len(paths(sandbox, "PUT")) <= 8
    # Each line says why.
    assert {str(ended.value) in line["reason"] for line in read_report(report)} == {True}
    outcomes = Counter(line["outcome"] for line in read_report(report))
    assert outcomes == {"not_reached": len(rows)}


def test_a_shop_that_cannot_be_read_fails_for_now(sandbox: Sandbox, fresh: list[str], no_waiting: None) -> None:
    sandbox.misbehave("status", status=503)

    with pytest.raises(YouCanServerError):
        reconcile([{"order_id": order_id, "status": "closed"} for order_id in fresh])


def test_each_line_of_a_run_that_came_to_nothing_names_the_cause(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = paid_rows(sandbox)
    monkeypatch.delenv("AIRFLOW_CONN_YOUCAN_DEFAULT")

    with pytest.raises(YouCanError):
        reconcile(rows, report_path=str(tmp_path / "report.jsonl"))

    reasons = {line["reason"] for line in read_report(tmp_path / "report.jsonl")}
    assert len(reasons) == 1
    assert "There is no Airflow connection 'youcan_default'" in reasons.pop()


# --- the shop's limit ---


def test_a_rate_limit_is_found_and_kept(sandbox: Sandbox, log_lines: Callable[[], list[str]]) -> None:
    sandbox.misbehave("rate-limit", limit=12, seconds=1, headers_shown=False)
    rows = [{"order_id": order_id, "shipping_status": "processing"} for order_id in sandbox.shop.order_ids()]

    summary = reconcile(rows, max_concurrency=8)

    assert summary["changed"] == 20
    refused = [request for request in sandbox.shop.requests() if request["status"] == 429]
    assert 1 <= len(refused) <= 10
    assert any("all requests wait for" in line for line in log_lines())


def test_a_rate_limit_that_takes_too_long_is_left_to_airflow(sandbox: Sandbox, fresh: list[str]) -> None:
    sandbox.misbehave("status", route="PUT /orders/*", status=429, headers={"Retry-After": "3600"})

    with pytest.raises(YouCanRateLimitError) as error:
        reconcile([{"order_id": order_id, "status": "closed"} for order_id in fresh])

    assert error.value.retry_after == 3600
    assert len(paths(sandbox, "PUT")) <= 16


@pytest.mark.parametrize(("argument", "extra"), [(40, None), (None, 40), (1000, 40), (40, 1000)])
def test_a_ceiling_comes_from_the_argument_or_the_connection(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, argument: float | None, extra: float | None
) -> None:
    if extra is not None:
        monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(requests_per_second=extra))
    rows = [{"order_id": order_id, "shipping_status": "processing"} for order_id in sandbox.shop.order_ids()]

    summary = reconcile(rows, requests_per_second=argument)

    # 21 requests, the first of them at once.
    assert summary["seconds"] >= 0.5


def test_a_refusal_after_an_unconfirmed_update_says_that_it_was_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    order_id = sandbox.shop.order_ids()[0]
    sandbox.misbehave("status", route="PUT *", status=503, times=1)
    sandbox.misbehave("status", route="PUT *", status=422)
    report = tmp_path / "report.jsonl"

    with pytest.raises(YouCanPermanentError):
        reconcile([{"order_id": order_id, "payment_status": "refunded"}], report_path=str(report))

    (line,) = [line for line in read_report(report) if line["outcome"] == "failed"]
    assert line["unconfirmed"] is True
    assert "An update was sent, and it is unknown whether YouCan took it." in line["reason"]
