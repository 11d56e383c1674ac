"""Reconciling tables with the sandbox: each promise of the operator, as a user would see it kept or broken."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanPermanentError,
    YouCanPermissionError,
    YouCanRateLimitError,
    YouCanServerError,
    YouCanStoreSuspendedError,
    YouCanTransientError,
    YouCanUnknownStatusError,
)
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from airflow_provider_youcan.sandbox import Request
from tests.conftest import RunDag, Sandbox, read_report

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
FRESH = {"general": "open", "shipping": "unfulfilled", "payment": "pending"}


def reconcile(orders: Any = None, **arguments: Any) -> dict[str, Any]:
    return YouCanReconcileOrdersOperator(task_id="reconcile", orders=orders, **arguments).execute({})


def puts(sandbox: Sandbox) -> list[str]:
    return [request["path"] for request in sandbox.shop.requests() if request["method"] == "PUT"]


@pytest.fixture
def fresh(sandbox: Sandbox) -> list[str]:
    """The orders that are open, unfulfilled and pending."""
    return [order_id for order_id in sandbox.shop.order_ids() if sandbox.shop.statuses(order_id) == FRESH]


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no request wait before it is sent again."""
    monkeypatch.setattr("airflow_provider_youcan.client.attempts.back_off", lambda failures, rng: 0.0)


def test_it_sends_the_difference_and_nothing_else(sandbox: Sandbox, tmp_path: Path) -> None:
    rows = [{"order_id": order_id, "payment_status": "paid"} for order_id in sandbox.shop.order_ids()]
    before = {order_id: sandbox.shop.statuses(order_id) for order_id in sandbox.shop.order_ids()}
    due = [order_id for order_id, statuses in before.items() if statuses["payment"] != "paid"]

    summary = reconcile(rows, report_path=str(tmp_path / "new" / "report.jsonl"))

    assert {path.split("/")[2] for path in puts(sandbox)} == set(due)
    assert len(puts(sandbox)) == len(due)
    for order_id, statuses in before.items():
        assert sandbox.shop.statuses(order_id) == {**statuses, "payment": "paid"}
    assert summary["seconds"] >= 0
    counts = {"planned": 0, "protected": 0, "not_found": 0, "failed": 0, "not_reached": 0}
    counts |= {"changed": len(due), "unchanged": 20 - len(due)}
    assert summary == {
        "rows": 20,
        "invalid": 0,
        **counts,
        "by_context": {
            "general": dict.fromkeys(counts, 0),
            "shipping": dict.fromkeys(counts, 0),
            "payment": counts,
        },
        "requests": 2 + len(due),  # the store's own statuses, a page of the list, and the updates
        "seconds": summary["seconds"],
        "transitions": [{"context": "payment", "before": "pending", "after": "paid", "count": len(due)}],
        "report_path": str(tmp_path / "new" / "report.jsonl"),
    }
    assert {(line["order_id"], line["context"], line["before"], line["wanted"], line["outcome"], line["reason"])
            for line in read_report(tmp_path / "new" / "report.jsonl")} == {
        (order_id, "payment", statuses["payment"], "paid", "changed" if order_id in due else "unchanged", None)
        for order_id, statuses in before.items()
    }  # fmt: skip


def test_a_second_run_sends_nothing(sandbox: Sandbox) -> None:
    rows = [{"order_id": order_id, "shipping_status": "shipped"} for order_id in sandbox.shop.order_ids()]
    reconcile(rows)
    sent = len(puts(sandbox))

    again = reconcile(rows)

    assert len(puts(sandbox)) == sent
    assert (again["changed"], again["unchanged"], again["requests"]) == (0, 20, 2)


def test_a_dry_run_says_what_would_change(sandbox: Sandbox, fresh: list[str], tmp_path: Path) -> None:
    report = tmp_path / "plan.jsonl"

    summary = reconcile(
        [{"order_id": fresh[0], "payment_status": "paid"}, {"order_id": fresh[1], "status": "open"}],
        dry_run=True,
        report_path=str(report),
    )

    assert puts(sandbox) == []
    assert (summary["planned"], summary["changed"], summary["unchanged"]) == (1, 0, 1)
    assert Counter(line["outcome"] for line in read_report(report)) == {"planned": 1, "unchanged": 1}


# --- which order is meant ---


def test_a_ref_is_never_taken_for_one_that_contains_it(sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(220)
    by_ref = {order["ref"]: order["id"] for order in sandbox.shop.orders()}
    assert {"021", "210", "121"} <= by_ref.keys()
    assert "21" not in by_ref

    with pytest.raises(YouCanPermanentError, match="no order with this ref"):
        reconcile([{"ref": "21", "status": "closed"}])
    summary = reconcile([{"ref": "021", "status": "closed"}])

    assert summary["changed"] == 1
    assert {entry["order_id"] for entry in sandbox.shop.history()} == {by_ref["021"]}


def test_many_refs_are_found_through_the_list(sandbox: Sandbox) -> None:
    refs = [order["ref"] for order in sandbox.shop.orders()]

    summary = reconcile([{"ref": ref, "payment_status": "refunded"} for ref in refs])

    assert summary["changed"] == 20
    assert summary["requests"] == 22
    assert {order["payment_status"] for order in sandbox.shop.orders()} == {"refunded"}


def test_a_ref_of_several_orders_is_left_alone(sandbox: Sandbox, fresh: list[str], tmp_path: Path) -> None:
    sandbox.shop._write("update orders set ref = '777' where id in (?, ?)", fresh[0], fresh[1])

    for rows in ([{"ref": "777", "status": "closed"}], [{"ref": r, "status": "closed"} for r in ("777", "003")]):
        with pytest.raises(YouCanPermanentError, match="several orders of this ref"):
            reconcile(rows, report_path=str(tmp_path / "report.jsonl"))

    assert sandbox.shop.statuses(fresh[0]) == sandbox.shop.statuses(fresh[1]) == FRESH


def test_an_id_that_belongs_to_another_ref_is_left_alone(sandbox: Sandbox, fresh: list[str]) -> None:
    ref = {order["id"]: order["ref"] for order in sandbox.shop.orders()}[fresh[0]]

    with pytest.raises(YouCanPermanentError, match=f"knows this order by the ref '{ref}'"):
        reconcile([{"order_id": fresh[0], "ref": "999", "status": "closed"}])
    reconcile([{"order_id": fresh[0], "ref": ref, "status": "closed"}])

    assert [entry["after"] for entry in sandbox.shop.history()] == ["closed"]


def test_an_order_by_its_id_and_by_its_ref_may_not_be_wished_two_things(sandbox: Sandbox, fresh: list[str]) -> None:
    ref = {order["id"]: order["ref"] for order in sandbox.shop.orders()}[fresh[0]]
    rows = [{"order_id": fresh[0], "status": "closed"}, {"ref": ref, "status": "processed"}]

    with pytest.raises(YouCanInvalidInputError, match="contradict each other on the general status"):
        reconcile(rows)
    summary = reconcile([*rows, {"order_id": fresh[1], "status": "closed"}], on_invalid="skip")

    assert (summary["invalid"], summary["changed"]) == (2, 1)
    assert {entry["order_id"] for entry in sandbox.shop.history()} == {fresh[1]}


# --- how the shop is read ---


def test_a_few_orders_of_a_large_shop_are_read_one_by_one(sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(2000)
    oldest = sandbox.shop.order_ids()[:4]

    summary = reconcile([{"order_id": order_id, "payment_status": "refunded"} for order_id in oldest])

    assert summary["changed"] == 4
    assert summary["requests"] == 1 + 1 + 4 + 4, "the store's statuses, a page, then each order and its update"


def test_what_is_new_is_found_on_the_first_pages(sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(2000)
    newest = sandbox.shop.order_ids()[-30:]

    summary = reconcile([{"order_id": order_id, "payment_status": "refunded"} for order_id in newest])

    assert summary["requests"] == 1 + 1 + 30


def test_all_orders_cost_as_many_requests_as_the_list_has_pages(sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(980)

    summary = reconcile(
        [{"order_id": order["id"], "status": order["general_status"]} for order in sandbox.shop.orders()]
    )

    assert (summary["unchanged"], summary["requests"]) == (1000, 20 + 1), "and a look at the store's own statuses"


def test_one_order_is_read_alone(sandbox: Sandbox, fresh: list[str]) -> None:
    assert reconcile([{"order_id": fresh[0], "payment_status": "paid"}])["requests"] == 3


def test_a_list_that_lacks_a_status_is_not_taken_for_its_word(sandbox: Sandbox, fresh: list[str]) -> None:
    sandbox.misbehave("terse", route="GET /orders")

    summary = reconcile([{"order_id": order_id, "status": "open"} for order_id in fresh])

    assert (summary["unchanged"], summary["changed"]) == (len(fresh), 0)
    assert summary["requests"] == 1 + 1 + len(fresh)


def test_a_status_that_cannot_be_read_is_set_where_no_guard_asks(sandbox: Sandbox, fresh: list[str]) -> None:
    sandbox.misbehave("terse")

    rows = [{"order_id": fresh[0], "status": "closed"}]
    guarded = reconcile(rows, only_from={"general": "open"})
    free = reconcile(rows)

    assert (guarded["protected"], guarded["changed"]) == (1, 0)
    assert free["changed"] == 1


# --- guards ---


def test_a_guard_protects_what_stands_elsewhere(sandbox: Sandbox, fresh: list[str], tmp_path: Path) -> None:
    sandbox.shop.set_status(fresh[1], "payment", "refunded")
    rows = [{"order_id": order_id, "payment_status": "paid", "status": "closed"} for order_id in fresh[:2]]
    report = tmp_path / "report.jsonl"

    summary = reconcile(rows, only_from={"payment": ["pending", "unpaid"]}, report_path=str(report))

    assert sandbox.shop.statuses(fresh[0]) == {**FRESH, "general": "closed", "payment": "paid"}
    assert sandbox.shop.statuses(fresh[1]) == {**FRESH, "payment": "refunded"}, "nor is it closed unpaid"
    assert summary["by_context"]["payment"]["protected"] == summary["by_context"]["general"]["protected"] == 1
    lines = {line["context"]: line for line in read_report(report) if line["outcome"] == "protected"}
    assert (lines["payment"]["before"], lines["payment"]["reason"]) == ("refunded", "'refunded' is not in only_from")
    assert "the payment status of this order was protected" in lines["general"]["reason"]


def test_a_guard_sees_what_changed_since_the_list_was_read(sandbox: Sandbox, fresh: list[str]) -> None:
    def refund_after_listing(request: Request) -> None:
        if request.path == "/orders":
            sandbox.shop.set_status(fresh[0], "payment", "refunded")

    sandbox.on_request(refund_after_listing)
    rows = [{"order_id": order_id, "payment_status": "paid"} for order_id in fresh[:3]]

    summary = reconcile(rows, only_from={"payment": "pending"}, guard_max_age=0)

    assert (summary["changed"], summary["protected"]) == (2, 1)
    assert sandbox.shop.statuses(fresh[0])["payment"] == "refunded"


def test_a_typo_in_a_guard_is_reported(sandbox: Sandbox, fresh: list[str], log_lines: Callable[[], list[str]]) -> None:
    reconcile([{"order_id": fresh[0], "payment_status": "paid"}], only_from={"payment": "pendng"})

    assert any("only_from names 'pendng' for payment: did you mean 'pending'?" in line for line in log_lines())


# --- rows that can't be used ---


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"order_id": "", "status": "closed"}, "row 2: The order id is empty"),
        ({"order_id": UNKNOWN_ID, "status": "clsed"}, "did you mean 'closed'"),
        ({"order_id": UNKNOWN_ID}, "row 2: it asks for nothing"),
    ],
)
def test_one_bad_row_keeps_all_from_being_sent(
    sandbox: Sandbox, fresh: list[str], row: dict[str, str], complaint: str
) -> None:
    with pytest.raises(
        YouCanInvalidInputError, match=r"1 of 2 rows can't be used, so nothing was sent: row 2: "
    ) as error:
        reconcile([{"order_id": fresh[0], "status": "closed"}, row])

    assert complaint in str(error.value)
    assert puts(sandbox) == []


def test_the_first_bad_rows_are_named_and_all_are_counted(sandbox: Sandbox) -> None:
    with pytest.raises(YouCanInvalidInputError, match=r"9 of 9 rows .* row 5: .*; and 4 more\.") as error:
        reconcile([{"order_id": "../x", "status": "closed"}] * 9)

    assert "row 6" not in str(error.value)
    assert sandbox.shop.requests() == []


def test_unknown_statuses_are_looked_up_once_and_refused_with_the_closest(sandbox: Sandbox, fresh: list[str]) -> None:
    rows = [{"order_id": order_id, "status": "confirmd"} for order_id in fresh]

    with pytest.raises(YouCanUnknownStatusError) as error:
        reconcile(rows)

    assert error.value.closest == ["confirmed"]
    assert [request["path"] for request in sandbox.shop.requests()] == ["/orders/settings"]


def test_a_word_that_no_status_map_translates_is_refused_in_one_plain_sentence(
    sandbox: Sandbox, fresh: list[str], log_lines: Callable[[], list[str]]
) -> None:
    rows = [{"order_id": fresh[0], "payment_status": "COLECTED"}, {"order_id": "", "payment_status": "COLLECTED"}]

    with pytest.raises(YouCanInvalidInputError) as error:
        reconcile(rows, status_map={"payment": {"COLLECTED": "paid"}})

    message = str(error.value)
    assert "row 1: 'COLECTED' is not a payment status of this store: known are" in message
    assert "or translate the word in status_map; row 2: The order id is empty (''): check where" in message
    assert message.count("nothing was sent") == 1
    assert message.endswith("Correct them, or leave them out with on_invalid='skip'.")
    # No column is shown that has no number in it.
    assert "No status was compared with the shop." in "\n".join(log_lines())


def test_the_stores_own_statuses_and_labels_that_are_meant_pass(sandbox: Sandbox, fresh: list[str]) -> None:
    reconcile([{"order_id": fresh[0], "status": "مؤكد"}])
    reconcile([{"order_id": fresh[1], "status": "à rappeler"}], allow_custom_label=True)

    assert [sandbox.shop.statuses(order_id)["general"] for order_id in fresh[:2]] == ["مؤكد", "à rappeler"]


def test_bad_rows_can_be_left_out(sandbox: Sandbox, fresh: list[str], tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"

    summary = reconcile(
        [{"order_id": fresh[0], "status": "closed"}, {"order_id": fresh[1], "status": "clsed"}, {"ref": " "}],
        on_invalid="skip",
        report_path=str(report),
    )

    assert (summary["rows"], summary["invalid"], summary["changed"]) == (3, 2, 1)
    invalid = [line for line in read_report(report) if line["outcome"] == "invalid"]
    assert [line["order_id"] for line in invalid] == [fresh[1], None]
    assert "did you mean 'closed'" in invalid[0]["reason"]


def test_the_same_wish_twice_is_sent_once(sandbox: Sandbox, fresh: list[str]) -> None:
    summary = reconcile([{"order_id": fresh[0], "status": "closed"}] * 3)

    assert (summary["changed"], summary["unchanged"]) == (1, 2)
    assert len(puts(sandbox)) == 1


@pytest.mark.parametrize("orders", ["[{'order_id': 1}]", {"order_id": "x"}, 5])
def test_what_is_no_list_of_rows_is_refused(sandbox: Sandbox, orders: Any) -> None:
    with pytest.raises(YouCanInvalidInputError, match="not a list of mappings"):
        reconcile(orders)


def test_no_rows_are_no_work(sandbox: Sandbox) -> None:
    assert reconcile([])["requests"] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"orders": [], "sql": "select 1", "conn_id": "x"},
        {"sql": "select 1"},
        {"orders": [], "conn_id": "x"},
        {"orders": [], "parameters": {"a": 1}},
        {"orders": [], "on_invalid": "ignore"},
        {"orders": [], "max_failures": -1},
        {"orders": [], "max_failures": True},
        {"orders": [], "max_concurrency": 0},
        {"orders": [], "requests_per_second": 0},
        {"orders": [], "guard_max_age": -1},
        {"orders": [], "guard_max_age": 3601},
        {"orders": [], "guard_max_age": "5"},
        {"orders": [], "guard_max_age": float("nan")},
        {"orders": [], "guard_max_age": True},
    ],
)
def test_arguments_that_make_no_sense_are_refused_when_the_dag_is_parsed(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        YouCanReconcileOrdersOperator(task_id="reconcile", **arguments)


@pytest.mark.parametrize("only_from", [{"payments": "pending"}, {"payment": []}, {"payment": 5}, "pending"])
def test_guards_that_make_no_sense_are_refused(sandbox: Sandbox, fresh: list[str], only_from: Any) -> None:
    with pytest.raises(YouCanInvalidInputError):
        reconcile([{"order_id": fresh[0], "payment_status": "paid"}], only_from=only_from)

    assert sandbox.shop.requests() == []


# --- trouble ---


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


def test_what_failed_for_now_is_left_to_airflows_retries(
    sandbox: Sandbox, fresh: list[str], no_waiting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.misbehave("status", route=f"PUT /orders/{fresh[0]}/*", status=503, headers={"Retry-After": "90"})
    rows = [{"order_id": order_id, "status": "closed"} for order_id in fresh]

    with pytest.raises(YouCanTransientError, match="A retry sends only what is missing") as error:
        reconcile(rows)
    assert error.value.retry_after == 90
    sandbox.misbehaviours.clear()
    summary = reconcile(rows)

    assert (summary["changed"], summary["unchanged"]) == (1, len(fresh) - 1)


def test_an_error_that_passes_is_tried_again(sandbox: Sandbox, fresh: list[str], no_waiting: None) -> None:
    sandbox.misbehave("status", route="*", status=500, times=3)

    summary = reconcile([{"order_id": order_id, "status": "closed"} for order_id in fresh])

    assert summary["changed"] == len(fresh)


def test_an_update_whose_answer_was_lost_is_not_sent_twice(
    sandbox: Sandbox, fresh: list[str], no_waiting: None
) -> None:
    sandbox.misbehave("lose-answer", route="PUT /orders/*")

    summary = reconcile([{"order_id": order_id, "status": "closed"} for order_id in fresh])

    assert summary["changed"] == len(fresh), "this run changed them, though it had to look again to know"
    assert len(sandbox.shop.history()) == len(fresh)


def test_one_attempt_is_one_attempt(sandbox: Sandbox, fresh: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(max_attempts=1))
    sandbox.misbehave("status", route="PUT /orders/*", status=503)

    with pytest.raises(YouCanTransientError):
        reconcile([{"order_id": fresh[0], "status": "closed"}])

    assert len(puts(sandbox)) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, YouCanAuthenticationError), (402, YouCanStoreSuspendedError), (403, YouCanPermissionError)],
)
def test_what_cannot_get_better_for_anyone_ends_the_run(
    sandbox: Sandbox, fresh: list[str], tmp_path: Path, status: int, kind: type[YouCanError]
) -> None:
    sandbox.shop.add_orders(200)
    sandbox.misbehave("status", route="PUT /orders/*", status=status)
    rows = [{"order_id": order_id, "payment_status": "refunded"} for order_id in sandbox.shop.order_ids()]
    report = tmp_path / "report.jsonl"

    with pytest.raises(kind) as ended:
        reconcile(rows, max_concurrency=4, report_path=str(report))

    assert 1 <= len(puts(sandbox)) <= 8
    # Each line says why.
    assert {str(ended.value) in line["reason"] for line in read_report(report)} == {True}
    outcomes = Counter(line["outcome"] for line in read_report(report))
    assert outcomes == {"not_reached": len(rows)}


def test_a_shop_that_cannot_be_read_fails_for_now(sandbox: Sandbox, fresh: list[str], no_waiting: None) -> None:
    sandbox.misbehave("status", status=503)

    with pytest.raises(YouCanServerError):
        reconcile([{"order_id": order_id, "status": "closed"} for order_id in fresh])


def test_a_page_that_cannot_be_read_costs_its_orders_a_request_each(sandbox: Sandbox, no_waiting: None) -> None:
    sandbox.shop.add_orders(80)
    orders = sandbox.shop.orders()

    def fail_from_the_second(request: Request) -> None:
        if request.path == "/orders":
            sandbox.misbehave("status", status=500, route="GET /orders")

    sandbox.on_request(fail_from_the_second)
    summary = reconcile([{"order_id": order["id"], "status": order["general_status"]} for order in orders])

    assert summary["unchanged"] == 100


def test_trouble_with_one_status_keeps_the_order_from_being_closed(
    sandbox: Sandbox, fresh: list[str], no_waiting: None
) -> None:
    sandbox.misbehave("status", route=f"PUT /orders/{fresh[0]}/status/shipping", status=500)

    with pytest.raises(YouCanTransientError):
        reconcile([{"order_id": fresh[0], "shipping_status": "shipped", "payment_status": "paid", "status": "closed"}])

    assert sandbox.shop.statuses(fresh[0]) == {"general": "open", "shipping": "unfulfilled", "payment": "paid"}


def test_an_update_that_nobody_could_confirm_says_so(
    sandbox: Sandbox, fresh: list[str], no_waiting: None, tmp_path: Path
) -> None:
    report = tmp_path / "report.jsonl"
    sandbox.misbehave("lose-answer", route="PUT /orders/*", times=1)
    # The first look, and then none any more.
    sandbox.on_request(
        lambda request: request.method == "PUT" and sandbox.misbehave("status", status=500, route="GET *")
    )
    with pytest.raises(YouCanTransientError):
        reconcile([{"order_id": fresh[0], "payment_status": "paid"}], report_path=str(report))

    (line,) = read_report(report)
    assert (line["outcome"], line["before"]) == ("failed", "pending")
    assert "An update was sent before that; whether YouCan took it is unknown." in line["reason"]


def test_an_update_confirmed_in_the_second_round_is_reported_as_a_change(
    sandbox: Sandbox, fresh: list[str], no_waiting: None, tmp_path: Path
) -> None:
    report = tmp_path / "report.jsonl"
    sandbox.misbehave("lose-answer", route="PUT /orders/*", times=1)
    # Three looks fail after the update, which ends the first round.
    sandbox.on_request(
        lambda request: request.method == "PUT" and sandbox.misbehave("status", status=500, route="GET *", times=3)
    )
    summary = reconcile([{"order_id": fresh[0], "payment_status": "paid"}], report_path=str(report))

    assert summary["changed"] == 1
    assert read_report(report)[0]["before"] == "pending"
    assert len(sandbox.shop.history()) == 1


def test_a_label_that_is_half_a_character_harms_nobody(sandbox: Sandbox, fresh: list[str], tmp_path: Path) -> None:
    body = json.dumps({"id": fresh[0], "ref": "1", "payment": {"status_object": {"slug": "\ud800"}}})
    sandbox.misbehave("status", route=f"GET /orders/{fresh[0]}", status=200, body=body)

    summary = reconcile([{"order_id": fresh[0], "payment_status": "paid"}], report_path=str(tmp_path / "report.jsonl"))

    assert summary["changed"] == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_full_disk_ends_the_run_and_every_wish_is_counted_once(sandbox: Sandbox, fresh: list[str]) -> None:
    pushed: dict[str, Any] = {}

    class TaskInstance:
        def xcom_push(self, key: str, value: Any) -> None:
            pushed[key] = value

    operator = YouCanReconcileOrdersOperator(
        task_id="reconcile",
        orders=[{"order_id": order_id, "status": "closed"} for order_id in fresh],
        report_path="/dev/full",
        max_concurrency=2,
    )
    with pytest.raises(OSError, match="No space left"):
        operator.execute({"ti": TaskInstance()})  # type: ignore[typeddict-item]

    outcomes = ("changed", "unchanged", "failed", "not_reached")
    assert sum(pushed["summary"][outcome] for outcome in outcomes) == len(fresh)
    assert pushed["summary"]["changed"] == len(sandbox.shop.history()) <= 2


def test_an_execution_timeout_ends_the_run_and_the_record_is_true(
    sandbox: Sandbox, fresh: list[str], tmp_path: Path
) -> None:
    sandbox.misbehave("latency", route="PUT /orders/*", seconds=0.3)
    report = tmp_path / "report.jsonl"

    with pytest.raises(AirflowTaskTimeout, match="a retry sends only what is missing"):
        reconcile(
            [{"order_id": order_id, "status": "closed"} for order_id in fresh],
            execution_timeout=timedelta(seconds=1),
            max_concurrency=1,
            report_path=str(report),
        )

    outcomes = {line["order_id"]: line["outcome"] for line in read_report(report)}
    assert set(outcomes) == set(fresh)
    changed = [order_id for order_id, outcome in outcomes.items() if outcome == "changed"]
    assert changed
    assert "not_reached" in outcomes.values()
    assert all(sandbox.shop.statuses(order_id)["general"] == "closed" for order_id in changed)


def test_a_list_that_says_the_same_again_and_again_is_left(sandbox: Sandbox, fresh: list[str]) -> None:
    page = {"data": [{"id": "other-order", "ref": "x"}], "meta": {"pagination": {"total_pages": 10**12}}}
    sandbox.misbehave("status", route="GET /orders", status=200, body=json.dumps(page))

    summary = reconcile([{"order_id": order_id, "status": "closed"} for order_id in fresh])
    with pytest.raises(YouCanTransientError, match="the same again and again"):
        reconcile([{"ref": "021", "status": "closed"}])

    assert summary["changed"] == len(fresh)


def test_an_id_in_other_letters_is_the_same_order(sandbox: Sandbox, fresh: list[str]) -> None:
    summary = reconcile([{"order_id": order_id.upper(), "status": "closed"} for order_id in fresh])

    assert summary["changed"] == len(fresh)


# --- limits ---


def test_a_guard_is_asked_again_after_a_rate_limit(sandbox: Sandbox, fresh: list[str]) -> None:
    sandbox.misbehave("status", route="PUT /orders/*", status=429, headers={"Retry-After": "1"}, times=1)
    sandbox.on_request(
        lambda request: request.status == 429 and sandbox.shop.set_status(fresh[0], "payment", "refunded")
    )
    summary = reconcile([{"order_id": fresh[0], "payment_status": "paid"}], only_from={"payment": "pending"})

    assert (summary["protected"], summary["changed"]) == (1, 0)
    assert sandbox.shop.statuses(fresh[0])["payment"] == "refunded"


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
    assert len(puts(sandbox)) <= 16


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


# --- sql ---


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    path = tmp_path / "warehouse.db"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table courier (youcan_id text, state text, day text)")
        yield database


def test_the_rows_come_from_sqlite(sandbox: Sandbox, fresh: list[str], warehouse: sqlite3.Connection) -> None:
    rows = [(fresh[0], "COLLECTED", "mon"), (fresh[1], "RETURNED", "mon"), (fresh[2], "COLLECTED", "tue")]
    warehouse.executemany("insert into courier values (?, ?, ?)", rows)
    warehouse.commit()

    summary = reconcile(
        sql="select youcan_id, state from courier where day = :day",
        parameters={"day": "mon"},
        conn_id="warehouse",
        columns={"order_id": "youcan_id", "payment_status": "state"},
        status_map={"payment": {"COLLECTED": "paid", "RETURNED": "unpaid"}},
    )

    assert summary["rows"] == 2
    assert [sandbox.shop.statuses(order_id)["payment"] for order_id in fresh[:3]] == ["paid", "unpaid", "pending"]


@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        ("select youcan_id from courier", "No column says which order"),
        ("select youcan_id as order_id from courier", "No column says what should hold"),
        ("delete from courier", "returns no rows"),
    ],
)
def test_a_query_that_lacks_a_column_is_refused_even_when_empty(
    sandbox: Sandbox, warehouse: sqlite3.Connection, sql: str, complaint: str
) -> None:
    with pytest.raises(YouCanInvalidInputError, match=complaint):
        reconcile(sql=sql, conn_id="warehouse")


def test_a_connection_that_runs_no_sql_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(YouCanInvalidInputError, match="runs no SQL"):
        reconcile(sql="select 1", conn_id="youcan_default")


# --- inside Airflow ---


def test_the_rows_come_from_an_upstream_task_in_chunks(run_dag: RunDag, sandbox: Sandbox) -> None:
    run = run_dag(
        """
        from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
        @task
        def read_chunks():
            from airflow_provider_youcan.hooks.youcan import YouCanHook
            orders = [{"order_id": order["id"], "payment_status": "refunded"} for order in YouCanHook().iter_orders()]
            return [orders[:12], orders[12:]]
        @task(trigger_rule="all_done")
        def add_up(summaries):
            return [summary["changed"] for summary in summaries]
        reconcile = YouCanReconcileOrdersOperator.partial(
            task_id="reconcile",
        ).expand(orders=read_chunks())
        add_up(reconcile.output)
        """
    )

    assert run.state == "success"
    assert [run.tasks[f"reconcile[{index}]"].result["changed"] for index in (0, 1)] == [12, 8]
    assert run.tasks["add_up"].result == [12, 8]


def test_sql_files_and_templates_are_rendered(
    run_dag: RunDag, sandbox: Sandbox, fresh: list[str], warehouse: sqlite3.Connection, tmp_path: Path
) -> None:
    warehouse.execute("insert into courier values (?, 'paid', 'mon')", (fresh[0],))
    warehouse.commit()
    query = "select youcan_id as order_id, state as payment_status from courier where day = '{{ params.day }}'"
    (tmp_path / "orders.sql").write_text(query)

    run = run_dag(
        f"""
        from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
        YouCanReconcileOrdersOperator(
            task_id="reconcile", sql="orders.sql", conn_id="{{{{ params.warehouse }}}}",
            report_path="{tmp_path}/{{{{ ti.try_number }}}}.jsonl",
            params={{"day": "mon", "warehouse": "warehouse"}},
        ).dag.template_searchpath = [{str(tmp_path)!r}]
        """
    )

    assert run.tasks["reconcile"].result["changed"] == 1
    assert sandbox.shop.statuses(fresh[0])["payment"] == "paid"
    assert len(list(tmp_path.glob("*.jsonl"))) == 1


def test_a_failed_run_leaves_its_summary(run_dag: RunDag, sandbox: Sandbox) -> None:
    run = run_dag(
        f"""
        from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
        reconcile = YouCanReconcileOrdersOperator(
            task_id="reconcile", orders=[{{"order_id": "{UNKNOWN_ID}", "status": "closed"}}], retries=3
        )
        @task(trigger_rule="all_done")
        def read_summary(ti=None):
            return ti.xcom_pull(task_ids="reconcile", key="summary")
        reconcile >> read_summary()
        """
    )

    assert run.tasks["reconcile"].state == "failed"
    assert run.tasks["read_summary"].result["not_found"] == 1
