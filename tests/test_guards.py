"""No wrong status and no false report: guards, lost answers and stops, against the sandbox over a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_youcan.exceptions import (
    YouCanError,
    YouCanInvalidInputError,
    YouCanPermanentError,
    YouCanRateLimitError,
    YouCanTaskStoppedError,
    YouCanTransientError,
    YouCanUnknownStatusError,
)
from airflow_provider_youcan.hooks.youcan import YouCanAsyncHook, YouCanHook
from airflow_provider_youcan.operators.order_status import YouCanUpdatePaymentStatusOperator
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.sandbox import Request
from airflow_provider_youcan.sensors.order_status import YouCanOrderStatusSensor
from tests.conftest import HOME, ROOT, RunDag, Sandbox, read_report

GUARD = {"payment": ["pending", "unpaid"]}
Move = Callable[..., Any]


def reconcile(orders: Any, **arguments: Any) -> dict[str, Any]:
    return YouCanReconcileOrdersOperator(task_id="reconcile", orders=orders, **arguments).execute({})


def payable(sandbox: Sandbox) -> list[str]:
    """The orders whose payment is pending."""
    return [order["id"] for order in sandbox.shop.orders() if order["payment_status"] == "pending"]


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_youcan.client.attempts.back_off", lambda failures, rng: 0.0)


@pytest.fixture(params=["requests", "aiohttp"])
def move(request: pytest.FixtureRequest, sandbox: Sandbox, no_waiting: None) -> Move:
    """``move(order_id, status, only_from=…)`` moves a payment status through either hook."""
    if request.param == "requests":
        return lambda *arguments, **options: YouCanHook().move_order_status(*arguments, "payment", **options)

    def run(*arguments: Any, **options: Any) -> Any:
        async def main() -> Any:
            async with YouCanAsyncHook() as hook:
                return await hook.move_order_status(*arguments, "payment", **options)

        return asyncio.run(main())

    return run


# --- the guard is fresh when its update is sent ---


LATENCY = 3.0
"""How many seconds a request and its answer may be on their way, on a machine that does much else."""


def last_looks(sandbox: Sandbox) -> dict[str, float]:
    """When each order was last read, other than in the list."""
    return {path.split("/")[2]: at for method, path, at in sandbox.timeline if method == "GET" and path.count("/") > 1}  # type: ignore[attr-defined]


def look_to_update_ages(sandbox: Sandbox) -> list[float]:
    """For each update the seconds since the last look at its order."""
    looks: dict[str, float] = {}
    ages: list[float] = []
    for method, path, at in sandbox.timeline:  # type: ignore[attr-defined]
        order_id = path.split("/")[2] if path.count("/") > 1 else ""
        if method == "GET" and order_id:
            looks[order_id] = at
        elif method == "PUT":
            ages.append(at - looks.get(order_id, sandbox.listed_at))  # type: ignore[attr-defined]
    return ages


@pytest.fixture
def timed(sandbox: Sandbox) -> Sandbox:
    timeline: list[tuple[str, str, float]] = []
    sandbox.timeline = timeline  # type: ignore[attr-defined]

    def note_time(request: Request) -> None:
        if request.status != 429:
            timeline.append((request.method, request.path, time.monotonic()))
        if request.path == "/orders":
            sandbox.listed_at = time.monotonic()  # type: ignore[attr-defined]

    sandbox.on_request(note_time)
    return sandbox


@pytest.mark.parametrize("guard_max_age", [0, 1, 5])
def test_under_a_ceiling_no_guard_is_older_than_it_may_be(timed: Sandbox, guard_max_age: float) -> None:
    timed.shop.add_orders(40)
    rows = [{"order_id": order_id, "payment_status": "paid"} for order_id in payable(timed)]

    summary = reconcile(rows, only_from=GUARD, requests_per_second=40, max_concurrency=16, guard_max_age=guard_max_age)

    assert summary["changed"] == len(rows)
    ages = look_to_update_ages(timed)
    assert len(ages) == len(rows)
    # A page of the list may be guard_max_age old, its own look 5 seconds.
    assert max(ages) <= 5.0 + LATENCY


def test_under_a_ceiling_the_look_takes_the_turn_right_before_its_update(timed: Sandbox) -> None:
    rows = [{"order_id": order_id, "payment_status": "paid"} for order_id in payable(timed)[:12]]

    reconcile(rows, only_from=GUARD, requests_per_second=4, max_concurrency=16, guard_max_age=0)

    looks: dict[str, int] = {}
    between: list[int] = []
    for place, (method, path, _) in enumerate(timed.timeline):  # type: ignore[attr-defined]
        order_id = path.split("/")[2] if path.count("/") > 1 else ""
        if method == "PUT":
            between.append(place - looks[order_id] - 1)
        looks[order_id] = place
    assert len(between) == len(rows)
    # None, but for answers that took longer than a turn. All of the others, if each queued for its own.
    assert max(between) <= 4


def test_a_refund_that_a_look_could_see_is_never_overwritten(timed: Sandbox) -> None:
    timed.shop.add_orders(40)
    orders = payable(timed)
    refunded: dict[str, float] = {}

    def refund(request: Request) -> None:
        # A person refunds the orders from the other end, one for each update that the shop takes.
        left = [order_id for order_id in reversed(orders) if timed.shop.statuses(order_id)["payment"] == "pending"]
        if request.method == "PUT" and left:
            timed.shop.set_status(left[0], "payment", "refunded")
            refunded[left[0]] = time.monotonic()

    timed.on_request(refund)
    summary = reconcile(
        [{"order_id": order_id, "payment_status": "paid"} for order_id in orders],
        only_from=GUARD,
        requests_per_second=100,
        max_concurrency=4,
        guard_max_age=0,
    )

    assert refunded
    assert summary["protected"] >= 1
    overwritten = [entry["order_id"] for entry in timed.shop.history() if entry["before"] == "refunded"]
    # Only what was refunded in the moment between a look and its update, of which no client can know.
    assert all(refunded[order_id] > last_looks(timed)[order_id] for order_id in overwritten)
    assert max(look_to_update_ages(timed)) <= 5.0 + LATENCY


def test_a_tight_limit_costs_a_look_and_an_update_for_each_order(timed: Sandbox) -> None:
    timed.shop.add_orders(40)
    timed.misbehave("rate-limit", limit=20, seconds=1, route="*")
    rows = [{"order_id": order_id, "payment_status": "paid"} for order_id in payable(timed)]

    summary = reconcile(rows, only_from=GUARD, max_concurrency=16, guard_max_age=0)

    assert summary["changed"] == len(rows)
    assert max(look_to_update_ages(timed)) <= 5.0
    # The list, the store's statuses, two for each order; and what was refused until the limit was known.
    assert summary["requests"] <= 2 * len(rows) + 60


def test_a_limit_of_one_request_a_window_sends_nothing_under_a_guard(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(max_attempts=2))
    sandbox.misbehave("rate-limit", limit=1, seconds=6, route="* /orders/*-*")
    (order_id, *_) = payable(sandbox)

    with pytest.raises(YouCanRateLimitError, match="raise guard_max_age"):
        reconcile([{"order_id": order_id, "payment_status": "paid"}], only_from=GUARD)

    assert sandbox.shop.history() == []


def test_a_status_that_changed_after_it_was_read_is_protected_once_it_is_too_old(sandbox: Sandbox) -> None:
    orders = payable(sandbox)

    def refund_after_listing(request: Request) -> None:
        if request.path == "/orders":
            sandbox.shop.set_status(orders[0], "payment", "refunded")

    sandbox.on_request(refund_after_listing)
    sandbox.misbehave("latency", route="GET /orders", seconds=0.6)
    rows = [{"order_id": order_id, "payment_status": "paid"} for order_id in orders]

    summary = reconcile(rows, only_from=GUARD, guard_max_age=0.3)

    assert (summary["protected"], summary["changed"]) == (1, len(orders) - 1)


def test_orders_are_set_while_the_list_is_read(sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(500)
    rows = [{"order_id": order["id"], "payment_status": "refunded"} for order in sandbox.shop.orders()]

    summary = reconcile(rows, only_from={"payment": ["pending", "unpaid", "paid"]})

    assert summary["changed"] == len(rows)
    assert summary["requests"] <= 1.1 * len(rows)


def test_a_status_that_changed_while_a_slow_look_was_answered_is_protected(sandbox: Sandbox, move: Move) -> None:
    (order_id, *_) = payable(sandbox)

    def refund_and_answer_late(_: Request) -> None:
        if sandbox.shop.statuses(order_id)["payment"] == "pending":
            sandbox.shop.set_status(order_id, "payment", "refunded")
            time.sleep(5.2)

    sandbox.on_request(refund_and_answer_late)

    assert move(order_id, "paid", only_from=["pending"]) == ("refunded", False)


# --- what is claimed was done ---


def test_a_change_that_someone_else_made_is_not_claimed(sandbox: Sandbox, move: Move) -> None:
    (order_id, *_) = payable(sandbox)
    sandbox.misbehave("status", route="PUT *", status=429, headers={"Retry-After": "0"}, times=1)
    sandbox.on_request(lambda request: request.status == 429 and sandbox.shop.set_status(order_id, "payment", "paid"))

    assert move(order_id, "paid", only_from=["pending"]) == ("paid", False)


def test_one_slug_as_plain_text_is_one_slug(sandbox: Sandbox, move: Move) -> None:
    (order_id, *_) = payable(sandbox)
    sandbox.shop.set_status(order_id, "payment", "paid")

    assert move(order_id, "refunded", only_from="unpaid") == ("paid", False)


@pytest.mark.parametrize("next_status", ["refunded", None])
def test_a_lost_answer_is_never_reported_as_nothing_sent(sandbox: Sandbox, move: Move, next_status: str | None) -> None:
    (order_id, *_) = payable(sandbox)
    sandbox.misbehave("lose-answer", route="PUT *", times=1)

    def go_on(request: Request) -> None:
        if request.method != "PUT":
            return
        if next_status is None:
            sandbox.shop.delete_order(order_id)
        else:
            sandbox.shop.set_status(order_id, "payment", next_status)

    sandbox.on_request(go_on)

    with pytest.raises(YouCanTransientError, match="no confirmation came") as raised:
        move(order_id, "paid", only_from=["pending"])

    assert raised.value.unconfirmed


def test_an_operator_never_skips_after_a_lost_answer(sandbox: Sandbox, no_waiting: None) -> None:
    (order_id, *_) = payable(sandbox)
    sandbox.misbehave("lose-answer", route="PUT *", times=1)
    sandbox.on_request(lambda request: sandbox.shop.delete_order(order_id) if request.method == "PUT" else None)
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
    sandbox.on_request(
        lambda request: request.method == "PUT" and sandbox.shop.set_status(order_id, "payment", next_status)
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


# --- a guard that was given is there ---


@pytest.mark.parametrize("only_from", ["", " ", "None", "[]", [], (), "['pending', 'unpaid']", ["pending", None]])
def test_a_guard_that_renders_to_nothing_is_refused_everywhere(sandbox: Sandbox, only_from: Any) -> None:
    (order_id, *_) = payable(sandbox)
    row = {"order_id": order_id, "payment_status": "paid"}
    calls: list[Callable[[], Any]] = [
        lambda: YouCanHook().move_order_status(order_id, "paid", "payment", only_from=only_from),
        lambda: YouCanUpdatePaymentStatusOperator(
            task_id="pay", order_id=order_id, status="paid", only_from=only_from
        ).execute({}),
        lambda: reconcile([row], only_from={"payment": only_from}),
        lambda: YouCanOrderStatusSensor(task_id="wait", order_id=order_id, target_status=only_from).poke({}),
        lambda: (
            YouCanOrderStatusSensor(
                task_id="wait",
                order_id=order_id,
                target_status="paid",
                failure_status=list(only_from) or [],
                mode="poke",
            ).poke({})
            if only_from != ["pending", None] and isinstance(only_from, list)
            else YouCanHook().move_order_status(order_id, "paid", "payment", only_from=only_from)
        ),
    ]
    for call in calls:
        with pytest.raises(YouCanInvalidInputError, match="nothing was sent"):
            call()

    assert [request for request in sandbox.shop.requests() if request["method"] == "PUT"] == []


@pytest.mark.parametrize("only_from", [{}, "{}", "None", "", [], {"payment": None}])
def test_a_mapping_that_renders_to_nothing_is_refused(sandbox: Sandbox, only_from: Any) -> None:
    (order_id, *_) = payable(sandbox)

    with pytest.raises(YouCanInvalidInputError, match="nothing was sent"):
        reconcile([{"order_id": order_id, "payment_status": "paid"}], only_from=only_from)

    assert sandbox.shop.requests() == []


def test_a_literal_none_is_no_guard(sandbox: Sandbox) -> None:
    first, second, *_ = payable(sandbox)

    YouCanUpdatePaymentStatusOperator(task_id="pay", order_id=first, status="paid", only_from=None).execute({})
    reconcile([{"order_id": second, "payment_status": "paid"}], only_from=None, report_path=None)

    assert {sandbox.shop.statuses(order_id)["payment"] for order_id in (first, second)} == {"paid"}


def test_a_guard_from_a_task_that_returned_nothing_is_refused(run_dag: RunDag, sandbox: Sandbox) -> None:
    order_id = payable(sandbox)[0]
    sandbox.shop.set_status(order_id, "payment", "refunded")
    run = run_dag(
        f"""
        @task
        def guards():
            pass
        @task
        def mapped_guards():
            return [None, "pending"]
        by_xcom = YouCanUpdatePaymentStatusOperator(
            task_id="by_xcom", order_id="{order_id}", status="paid", only_from=guards()
        )
        mapped = YouCanUpdatePaymentStatusOperator.partial(
            task_id="mapped", order_id="{order_id}", status="paid"
        ).expand(only_from=mapped_guards())
        mapped_default = YouCanUpdatePaymentStatusOperator.partial(
            task_id="mapped_default", status="refunded"
        ).expand(order_id=["{order_id}"])
        """
    )

    assert run.tasks["by_xcom"].state == "failed"
    assert run.tasks["mapped[0]"].state == "failed"
    assert run.tasks["mapped[1]"].state == "skipped"
    assert run.tasks["mapped_default[0]"].state == "success"
    assert sandbox.shop.statuses(order_id)["payment"] == "refunded"


def test_a_list_that_became_text_is_refused_and_a_native_one_passes(run_dag: RunDag, sandbox: Sandbox) -> None:
    order_id = payable(sandbox)[0]
    operator = f"""YouCanUpdatePaymentStatusOperator(
            task_id="pay", order_id="{order_id}", status="paid", only_from="{{{{ params.slugs }}}}",
            params={{"slugs": ["pending", "unpaid"]}},
        )"""

    as_text = run_dag(operator)
    native = run_dag(f"{operator}.dag.render_template_as_native_obj = True")

    assert as_text.tasks["pay"].state == "failed"
    assert "render_template_as_native_obj=True" in as_text.log
    assert native.tasks["pay"].state == "success"


# --- the table ---


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


def test_a_table_of_which_no_row_is_left_fails(sandbox: Sandbox) -> None:
    with pytest.raises(YouCanInvalidInputError, match="none is left"):
        reconcile([{"order_id": "../x", "status": "closed"}] * 3, on_invalid="skip")
    with pytest.raises(YouCanUnknownStatusError, match="none is left"):
        reconcile([{"order_id": payable(sandbox)[0], "status": "clsed"}], on_invalid="skip")

    assert reconcile([], on_invalid="skip")["rows"] == 0


def test_a_column_called_status_is_not_read_where_columns_names_another(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (order_id, *_) = payable(sandbox)
    caplog.set_level("INFO")
    before = sandbox.shop.statuses(order_id)

    reconcile([{"order_id": order_id, "status": "closed", "paid": "paid"}], columns={"payment_status": "paid"})

    assert sandbox.shop.statuses(order_id) == {**before, "payment": "paid"}
    assert "Columns: order_id, payment_status from 'paid'." in caplog.text + capsys.readouterr().out


def test_a_documented_status_that_the_store_has_deleted_is_refused(sandbox: Sandbox) -> None:
    lists = {
        context: [status for status in statuses if status["slug"] != "captured"]
        for context, statuses in sandbox.shop.store_statuses().items()
    }
    sandbox.shop.replace_statuses(lists)
    row = {"order_id": payable(sandbox)[0], "payment_status": "captured"}

    with pytest.raises(YouCanUnknownStatusError, match="'captured' is not a payment status of this store"):
        reconcile([row])
    # A list that may not be read leaves it with the documented ones.
    token = sandbox.shop.issue_token(["edit-orders", "read-orders"])["access_token"]
    os.environ["AIRFLOW_CONN_YOUCAN_DEFAULT"] = sandbox.connection(token)
    assert reconcile([row])["changed"] == 1


def test_a_list_that_is_incomplete_is_reported(sandbox: Sandbox, capsys: Any, caplog: pytest.LogCaptureFixture) -> None:
    sandbox.shop.replace_statuses({**sandbox.shop.store_statuses(), StatusContext.PAYMENT: [{"slug": "Is unpaid"}]})

    assert reconcile([{"order_id": payable(sandbox)[0], "payment_status": "paid"}])["changed"] == 1

    assert "it is taken for incomplete" in caplog.text + capsys.readouterr().out


@pytest.mark.parametrize("number", [1, 20])
def test_an_id_in_capitals_is_the_same_order(sandbox: Sandbox, number: int) -> None:
    orders = sandbox.shop.order_ids()[:number]

    summary = reconcile([{"order_id": order_id.upper(), "payment_status": "captured"} for order_id in orders])

    assert summary["changed"] == number


def test_what_was_read_long_ago_is_read_again(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_youcan.reconciliation.snapshot.MAX_READ_AGE", -1.0)
    orders = sandbox.shop.order_ids()

    summary = reconcile([{"order_id": order_id, "payment_status": "captured"} for order_id in orders])
    again = reconcile([{"order_id": order_id, "payment_status": "captured"} for order_id in orders])

    assert summary["changed"] == again["unchanged"] == len(orders)
    assert again["requests"] == 1 + 1 + len(orders)


# --- the report ---


def test_a_report_that_cannot_be_written_is_found_out_before_anything_is_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(YouCanTransientError, match="The report can't be written"):
        reconcile(
            [{"order_id": payable(sandbox)[0], "payment_status": "paid"}],
            report_path=str(tmp_path / "file" / "report.jsonl"),
        )

    assert sandbox.shop.requests() == []


def test_no_error_of_the_report_replaces_the_runs_own(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_youcan.reconciliation.record.file import ReportFile

    class Refusing:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def close(self) -> None:
            raise PermissionError("403 Forbidden")

    open_file = ReportFile._open
    monkeypatch.setattr(ReportFile, "_open", staticmethod(lambda path: (path, Refusing(open_file(path)[1]))))
    sandbox.misbehave("status", status=401, route="PUT *")
    row = {"order_id": payable(sandbox)[0], "payment_status": "paid"}

    with pytest.raises(YouCanPermanentError, match="401"):
        reconcile([row], report_path=str(tmp_path / "report.jsonl"))
    sandbox.misbehaviours.clear()
    with pytest.raises(PermissionError):
        reconcile([row], report_path=str(tmp_path / "report.jsonl"))


def test_a_storage_that_fails_in_its_own_way_hides_nothing(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_youcan.reconciliation.record.file import ReportFile

    class BlobError(Exception):
        pass

    class Blob:
        lines = 0

        def write(self, _: str) -> None:
            self.lines += 1
            if self.lines > 2:
                raise BlobError

        def flush(self) -> None:
            if self.lines > 2:
                raise BlobError

        def close(self) -> None:
            pass

    monkeypatch.setattr(ReportFile, "_open", staticmethod(lambda path: (path, Blob())))
    rows = [{"order_id": order_id, "payment_status": "paid"} for order_id in payable(sandbox)]
    pushed: dict[str, Any] = {}

    class TaskInstance:
        def xcom_push(self, key: str, value: Any) -> None:
            pushed[key] = value

    operator = YouCanReconcileOrdersOperator(task_id="reconcile", orders=rows, report_path="x", max_concurrency=2)
    with pytest.raises(BlobError):
        operator.execute({"ti": TaskInstance()})  # type: ignore[typeddict-item]

    summary = pushed["summary"]
    assert sum(summary[outcome] for outcome in ("changed", "unchanged", "failed", "not_reached")) == len(rows)
    assert summary["changed"] == len(sandbox.shop.history())


@pytest.mark.parametrize("report_path", ["", "None", " "])
def test_a_report_path_that_renders_to_nothing_is_refused(sandbox: Sandbox, report_path: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match="report_path"):
        reconcile([], report_path=report_path)


@pytest.mark.parametrize(("dry_run", "changed"), [("True", 0), ("true", 0), ("False", 1), (True, 0), (False, 1)])
def test_a_dry_run_can_be_templated(sandbox: Sandbox, dry_run: Any, changed: int) -> None:
    row = {"order_id": payable(sandbox)[0], "payment_status": "paid"}

    assert reconcile([row], dry_run=dry_run)["changed"] == changed


@pytest.mark.parametrize("dry_run", ["", "None", "yes", 1, None])
def test_a_dry_run_that_is_neither_true_nor_false_is_refused(sandbox: Sandbox, dry_run: Any) -> None:
    with pytest.raises(YouCanInvalidInputError, match="dry_run"):
        reconcile([{"order_id": payable(sandbox)[0], "payment_status": "paid"}], dry_run=dry_run)

    assert sandbox.shop.requests() == []


@pytest.mark.parametrize("cell", [None, float("nan")])
def test_a_null_is_no_word_of_the_status_map(sandbox: Sandbox, cell: Any) -> None:
    rows = [{"order_id": order_id, "payment_status": cell} for order_id in payable(sandbox)]

    reconcile(rows, status_map={"payment": {"None": "paid", "nan": "paid", "null": "paid"}})

    assert sandbox.shop.history() == []


@pytest.mark.parametrize("cell", [("a", []), ["a"], {"a": 1}, 10**5000], ids=["tuple", "list", "mapping", "number"])
def test_an_odd_cell_is_an_invalid_row(sandbox: Sandbox, cell: Any) -> None:
    first, second, *_ = payable(sandbox)
    rows = [{"order_id": first, "payment_status": cell}, {"order_id": second, "payment_status": "paid"}]

    summary = reconcile(rows, status_map={"payment": {"COLLECTED": "paid"}}, on_invalid="skip")

    assert (summary["invalid"], summary["changed"]) == (1, 1)


# --- a task that is stopped ---

STOPPED_RUN = """
import json, signal, sys
from pathlib import Path
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
operator = YouCanReconcileOrdersOperator(
    task_id="reconcile", orders=json.loads(Path(sys.argv[1]).read_text()), report_path=sys.argv[2]
)
class Terminated(BaseException):
    pass
def on_term(*_):  # as Airflow 3 does, and as Airflow 2 does
    operator.on_kill()
    if sys.argv[3] == "2":
        raise Terminated
signal.signal(signal.SIGTERM, on_term)
class TaskInstance:
    def xcom_push(self, key, value):
        Path(sys.argv[2] + ".summary").write_text(json.dumps(value))
        raise RuntimeError("the task instance is not running any more")
try:
    operator.execute({"ti": TaskInstance()})
except BaseException as error:
    print("ended in", type(error).__name__)
    sys.exit(3)
"""


@pytest.mark.parametrize(("airflow", "ended_in"), [("3", "YouCanTaskStoppedError"), ("2", "Terminated")])
def test_a_task_that_is_stopped_sends_nothing_more_and_says_the_truth(
    sandbox: Sandbox, tmp_path: Path, airflow: str, ended_in: str
) -> None:
    sandbox.shop.add_orders(300)
    orders = payable(sandbox)
    sandbox.misbehave("latency", route="PUT *", seconds=0.2)
    (tmp_path / "rows.json").write_text(json.dumps([{"order_id": one, "payment_status": "paid"} for one in orders]))
    report = tmp_path / "report.jsonl"
    environment = os.environ | {"AIRFLOW_HOME": str(HOME), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", STOPPED_RUN, str(tmp_path / "rows.json"), str(report), airflow]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        while len(sandbox.shop.history()) < 30:
            assert run.poll() is None, run.communicate()[0]
            time.sleep(0.01)
        run.send_signal(signal.SIGTERM)
        stopped_at, taken = time.monotonic(), len(sandbox.shop.history())
        output, _ = run.communicate(timeout=30)

    assert time.monotonic() - stopped_at < 4.5, "Airflow 3.3 kills it after five seconds"
    assert (run.returncode, f"ended in {ended_in}" in output) == (3, True), output
    assert len(sandbox.shop.history()) <= taken + 2 * 16, "what was under way came to its end, and nothing new was sent"
    lines = read_report(report)
    assert len(lines) == len(orders)
    reported = {line["order_id"] for line in lines if line["outcome"] == "changed"}
    assert reported == {entry["order_id"] for entry in sandbox.shop.history()}
    summary = json.loads(Path(f"{report}.summary").read_text())
    assert Counter(line["outcome"] for line in lines) == {
        outcome: summary[outcome] for outcome in ("changed", "not_reached") if summary[outcome]
    }
    assert summary["requests"] > 0


def test_an_update_that_takes_too_long_to_end_is_reported_as_cut_off(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.misbehave("latency", route="PUT *", seconds=30)
    report = tmp_path / "report.jsonl"
    rows = [{"order_id": order_id, "payment_status": "paid"} for order_id in payable(sandbox)]

    with pytest.raises(AirflowTaskTimeout):
        reconcile(rows, report_path=str(report), execution_timeout=timedelta(seconds=2), max_concurrency=4)

    outcomes = Counter(line["outcome"] for line in read_report(report))
    assert 1 <= outcomes["failed"] <= 4
    assert outcomes["not_reached"] == len(rows) - outcomes["failed"]
    reasons = {line["reason"] for line in read_report(report) if line["outcome"] == "failed"}
    assert reasons == {"the run was cut off while this was under way; whether YouCan took it is unknown"}


def test_an_alarm_is_never_taken_for_a_lost_answer(sandbox: Sandbox, tmp_path: Path) -> None:
    """Given an alarm that goes off while requests are under way, as Airflow's does, then the run ends in it."""
    sandbox.shop.add_orders(300)
    sandbox.misbehave("latency", route="PUT *", seconds=0.05)

    def rows(number: int) -> list[dict[str, str]]:
        status = ("refunded", "captured")[number % 2]
        return [{"order_id": order_id, "payment_status": status} for order_id in sandbox.shop.order_ids()]

    class Alarm(BaseException):
        pass

    def go_off(*_: Any) -> None:
        raise Alarm

    handler = signal.signal(signal.SIGALRM, go_off)
    try:
        for number in range(5):
            signal.setitimer(signal.ITIMER_REAL, 0.15 + 0.03 * number)
            with pytest.raises(Alarm):
                reconcile(rows(number), report_path=str(tmp_path / f"{number}.jsonl"))
            reported = {line["order_id"] for line in read_report(tmp_path / f"{number}.jsonl")}
            assert len(reported) == len(sandbox.shop.order_ids())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def test_a_stop_while_refs_are_searched_for_leaves_them_not_reached(sandbox: Sandbox) -> None:
    refs = [f"none-{number}" for number in range(30)]
    pushed: dict[str, Any] = {}

    class TaskInstance:
        def xcom_push(self, key: str, value: Any) -> None:
            pushed[key] = value

    operator = YouCanReconcileOrdersOperator(
        task_id="reconcile",
        orders=[{"ref": ref, "payment_status": "paid"} for ref in refs],
        max_concurrency=1,
    )
    sandbox.on_request(lambda request: operator.on_kill() if "q=" in request.query else None)
    with pytest.raises(YouCanTaskStoppedError, match="stopped before the table was reconciled"):
        operator.execute({"ti": TaskInstance()})  # type: ignore[typeddict-item]

    assert (pushed["summary"]["failed"], pushed["summary"]["not_reached"]) == (0, len(refs))


def test_a_single_operator_that_is_stopped_does_not_try_again(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    (order_id, *_) = payable(sandbox)
    sandbox.misbehave("status", route="PUT *", status=503)
    operator = YouCanUpdatePaymentStatusOperator(task_id="pay", order_id=order_id, status="paid")
    monkeypatch.setattr("airflow_provider_youcan.hooks.youcan.time.sleep", lambda _: operator.on_kill())

    with pytest.raises(YouCanTaskStoppedError, match="the task was stopped"):
        operator.execute({})

    assert len(sandbox.shop.requests()) == 1


# --- both drivers do the same ---

SCENARIOS: dict[str, list[dict[str, Any]]] = {
    "well": [],
    "503": [{"kind": "status", "status": 503, "route": "PUT *", "times": 1}],
    "500": [{"kind": "status", "status": 500, "route": "PUT *", "times": 2}],
    "lost answer": [{"kind": "lose-answer", "route": "PUT *", "times": 1}],
    "dropped": [{"kind": "drop", "route": "*", "times": 1}],
    "429": [{"kind": "status", "status": 429, "headers": {"Retry-After": "0"}, "route": "PUT *", "times": 1}],
    "401": [{"kind": "status", "status": 401, "route": "PUT *", "times": 1}],
    "404": [{"kind": "status", "status": 404, "route": "GET *", "times": 1}],
    "422": [{"kind": "status", "status": 422, "route": "PUT *", "times": 1}],
    "never": [{"kind": "status", "status": 500, "route": "PUT *"}],
    "terse": [{"kind": "terse", "route": "GET *"}],
}


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("only_from", [["pending"], ["unpaid"]])
def test_both_drivers_send_the_same_requests(
    no_waiting: None, monkeypatch: pytest.MonkeyPatch, name: str, only_from: list[str]
) -> None:
    async def run_async(order_id: str) -> Any:
        async with YouCanAsyncHook() as hook:
            return await hook.move_order_status(order_id, "paid", "payment", only_from=only_from)

    seen = []
    for driver in (
        lambda order_id: YouCanHook().move_order_status(order_id, "paid", "payment", only_from=only_from),
        lambda order_id: asyncio.run(run_async(order_id)),
    ):
        with Sandbox(orders=20) as sandbox:
            monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection())
            for rule in SCENARIOS[name]:
                sandbox.misbehave(**rule)
            result: Any
            try:
                result = driver(payable(sandbox)[0])
            except YouCanError as error:
                result = (type(error), str(error), error.unconfirmed)
            requests = [(one["method"], one["path"], one["body"], one["status"]) for one in sandbox.shop.requests()]
            seen.append((result, requests))

    assert seen[0] == seen[1]


# --- waits share what the shop says of its limit ---


def test_deferred_waits_share_a_rate_limit(sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(180)
    sandbox.misbehave("rate-limit", limit=40, seconds=2, route="GET /orders/*", headers_shown=False)
    orders = sandbox.shop.order_ids()
    looks: Counter[str] = Counter()

    async def poll(order_id: str, until: float) -> None:
        async with YouCanAsyncHook() as hook:
            while time.monotonic() < until:
                try:
                    await asyncio.wait_for(hook.get_order_statuses(order_id), until + 3 - time.monotonic())
                except (YouCanTransientError, asyncio.TimeoutError):
                    return
                looks[order_id] += 1
                await asyncio.sleep(1.0)

    async def main() -> None:
        until = time.monotonic() + 15
        await asyncio.gather(*(poll(order_id, until) for order_id in orders))

    asyncio.run(main())

    answers = Counter(request["status"] for request in sandbox.shop.requests())
    # The aim is a twentieth; a busy machine misses the moment at which a window of two seconds begins.
    assert answers[429] <= 0.1 * sum(answers.values())
    assert len(looks) == len(orders), "no order goes unread"
    assert threading.active_count() < 50


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
