"""Guards: they are fresh when their update is sent, and one that was given is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_youcan.exceptions import (
    YouCanInvalidInputError,
    YouCanRateLimitError,
)
from airflow_provider_youcan.hooks.youcan import YouCanHook
from airflow_provider_youcan.operators.order_status import YouCanUpdatePaymentStatusOperator
from airflow_provider_youcan.sandbox.shop import Request
from airflow_provider_youcan.sensors.order_status import YouCanOrderStatusSensor
from tests.conftest import FRESH, EitherHook, RunDag, Sandbox, on_request, payable, read_report, reconcile

GUARD = {"payment": ["pending", "unpaid"]}


# --- what a guard protects ---


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


def test_a_dry_run_plans_no_more_than_a_run_would_change(sandbox: Sandbox, fresh: list[str]) -> None:
    sandbox.shop.set_status(fresh[1], "payment", "refunded")
    rows = [{"order_id": order_id, "payment_status": "paid", "status": "closed"} for order_id in fresh[:2]]

    planned = reconcile(rows, only_from={"payment": "pending"}, dry_run=True)
    done = reconcile(rows, only_from={"payment": "pending"})

    assert (planned["planned"], planned["protected"]) == (done["changed"], done["protected"]) == (2, 2)


def test_a_guard_sees_what_changed_since_the_list_was_read(
    sandbox: Sandbox, fresh: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_orders = sandbox.shop.find_orders

    def refund_after_listing(*arguments: Any, **options: Any) -> Any:
        listed = find_orders(*arguments, **options)
        sandbox.shop.set_status(fresh[0], "payment", "refunded")
        return listed

    monkeypatch.setattr(sandbox.shop, "find_orders", refund_after_listing)
    rows = [{"order_id": order_id, "payment_status": "paid"} for order_id in fresh[:3]]

    summary = reconcile(rows, only_from={"payment": "pending"}, guard_max_age=0)

    assert (summary["changed"], summary["protected"]) == (2, 1)
    assert sandbox.shop.statuses(fresh[0])["payment"] == "refunded"


def test_a_typo_in_a_guard_is_reported(sandbox: Sandbox, fresh: list[str], log_lines: Callable[[], list[str]]) -> None:
    reconcile([{"order_id": fresh[0], "payment_status": "paid"}], only_from={"payment": "pendng"})

    assert any("only_from names 'pendng' for payment: did you mean 'pending'?" in line for line in log_lines())


def test_one_slug_as_plain_text_is_one_slug(sandbox: Sandbox, either_hook: EitherHook, no_waiting: None) -> None:
    (order_id, *_) = payable(sandbox)
    sandbox.shop.set_status(order_id, "payment", "paid")

    assert either_hook.move_order_status(order_id, "refunded", "payment", only_from="unpaid") == ("paid", False)


def test_a_literal_none_is_no_guard(sandbox: Sandbox) -> None:
    first, second, *_ = payable(sandbox)

    YouCanUpdatePaymentStatusOperator(task_id="pay", order_id=first, status="paid", only_from=None).execute({})
    reconcile([{"order_id": second, "payment_status": "paid"}], only_from=None, report_path=None)

    assert {sandbox.shop.statuses(order_id)["payment"] for order_id in (first, second)} == {"paid"}


# --- the guard is fresh when its update is sent ---


LATENCY = 3.0
"""How many seconds a request and its answer may be on their way, on a machine that does much else."""


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

    def keep(request: Request) -> None:
        if request.status != 429:
            timeline.append((request.method, request.path, time.monotonic()))
        if request.path == "/orders":
            sandbox.listed_at = time.monotonic()  # type: ignore[attr-defined]

    sandbox.on_request(keep)
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


def last_looks(sandbox: Sandbox) -> dict[str, float]:
    """When each order was last read, other than in the list."""
    return {path.split("/")[2]: at for method, path, at in sandbox.timeline if method == "GET" and path.count("/") > 1}  # type: ignore[attr-defined]


def test_a_refund_that_a_look_could_see_is_never_overwritten(timed: Sandbox) -> None:
    timed.shop.add_orders(40)
    orders = payable(timed)
    refunded: dict[str, float] = {}

    def refund(method: str, _: int | None) -> None:
        # A person refunds the orders from the other end, one for each update that the shop takes.
        left = [order_id for order_id in reversed(orders) if timed.shop.statuses(order_id)["payment"] == "pending"]
        if method == "PUT" and left:
            timed.shop.set_status(left[0], "payment", "refunded")
            refunded[left[0]] = time.monotonic()

    on_request(timed, refund)
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


def test_a_status_that_changed_after_it_was_read_is_protected_once_it_is_too_old(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = payable(sandbox)
    find_orders = sandbox.shop.find_orders

    def refund_after_listing(*arguments: Any, **options: Any) -> Any:
        listed = find_orders(*arguments, **options)
        sandbox.shop.set_status(orders[0], "payment", "refunded")
        return listed

    monkeypatch.setattr(sandbox.shop, "find_orders", refund_after_listing)
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


def test_a_status_that_changed_while_a_slow_look_was_answered_is_protected(
    sandbox: Sandbox, either_hook: EitherHook, no_waiting: None
) -> None:
    (order_id, *_) = payable(sandbox)

    def refund_and_answer_late(request: Request) -> None:
        if sandbox.shop.statuses(order_id)["payment"] == "pending":
            sandbox.shop.set_status(order_id, "payment", "refunded")
            time.sleep(5.2)

    sandbox.on_request(refund_and_answer_late)

    assert either_hook.move_order_status(order_id, "paid", "payment", only_from=["pending"]) == ("refunded", False)


def test_a_guard_is_asked_again_after_a_rate_limit(sandbox: Sandbox, fresh: list[str]) -> None:
    sandbox.misbehave("status", route="PUT /orders/*", status=429, headers={"Retry-After": "1"}, times=1)

    def refund_meanwhile(request: Request) -> None:
        if request.status == 429:
            sandbox.shop.set_status(fresh[0], "payment", "refunded")

    sandbox.on_request(refund_meanwhile)
    summary = reconcile([{"order_id": fresh[0], "payment_status": "paid"}], only_from={"payment": "pending"})

    assert (summary["protected"], summary["changed"]) == (1, 0)
    assert sandbox.shop.statuses(fresh[0])["payment"] == "refunded"


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


@pytest.mark.parametrize("only_from", [{"payments": "pending"}, {"payment": []}, {"payment": 5}, "pending"])
def test_guards_that_make_no_sense_are_refused(sandbox: Sandbox, fresh: list[str], only_from: Any) -> None:
    with pytest.raises(YouCanInvalidInputError):
        reconcile([{"order_id": fresh[0], "payment_status": "paid"}], only_from=only_from)

    assert sandbox.shop.requests() == []
