"""Limits before the first update: max_changes, max_failures and min_rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_youcan.exceptions import (
    YouCanInvalidInputError,
    YouCanPermanentError,
    YouCanTooManyChangesError,
)
from airflow_provider_youcan.operators.reconcile import (
    YouCanReconcileOrdersOperator,
)
from airflow_provider_youcan.sandbox.shop import Request
from tests.conftest import Sandbox, TaskInstance, paid_rows, paths, payable, read_report, reconcile

GUARD = {"payment": ["pending", "unpaid"]}


@pytest.mark.parametrize("max_changes", [3, "3", "20%", "0%", 0])
@pytest.mark.parametrize("dry_run", [False, True])
def test_more_changes_than_allowed_send_nothing_and_show_the_plan(
    sandbox: Sandbox, tmp_path: Path, max_changes: int | str, dry_run: bool
) -> None:
    rows, path, ti = paid_rows(sandbox), tmp_path / "report.jsonl", TaskInstance()

    with pytest.raises(YouCanTooManyChangesError) as raised:
        reconcile(rows, ti, max_changes=max_changes, report_path=str(path), dry_run=dry_run)

    assert isinstance(raised.value, YouCanPermanentError)
    number = len(rows)
    assert f"{number} of {number} statuses would change, more than max_changes={max_changes} allows" in str(
        raised.value
    )
    assert f"payment: pending → paid: {number}" in str(raised.value)
    assert paths(sandbox, "PUT") == []
    assert ti.pushed["summary"]["planned"] == number
    assert Counter(line["outcome"] for line in read_report(path)) == {"planned": number}


@pytest.mark.parametrize("max_changes", [100, "100%", "100.0 %", " 100 "])
def test_changes_up_to_the_limit_are_made(sandbox: Sandbox, max_changes: int | str) -> None:
    rows = paid_rows(sandbox)

    assert reconcile(rows, max_changes=max_changes, only_from=GUARD)["changed"] == len(rows)


def test_all_is_read_before_the_first_update_where_there_is_a_limit(sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(150)

    reconcile(paid_rows(sandbox), max_changes="100%")

    methods = [request["method"] for request in sandbox.shop.requests()]
    assert "GET" not in methods[methods.index("PUT") :]


def test_no_more_is_changed_than_was_planned(sandbox: Sandbox) -> None:
    # Given two orders of which one holds already, until someone changes it while the first update is made,
    first, second, *_ = payable(sandbox)
    sandbox.shop.set_status(second, "payment", "paid")

    def keep(request: Request) -> None:
        if request.method == "PUT":
            sandbox.shop.set_status(second, "payment", "unpaid")

    sandbox.on_request(keep)

    summary = reconcile(
        [{"order_id": one, "payment_status": "paid"} for one in (first, second)], max_changes=1, max_concurrency=1
    )

    assert (summary["changed"], summary["unchanged"]) == (1, 1)
    assert len(paths(sandbox, "PUT")) == 1


@pytest.mark.parametrize("value", ["101%", "-1%", "ten", "1e2", True, -1, 1.5, "5 percent", "", "None", "٥", [5]])
@pytest.mark.parametrize("name", ["max_changes", "max_failures"])
def test_a_limit_that_makes_no_sense_is_refused_when_the_dag_is_parsed(name: str, value: Any) -> None:
    with pytest.raises(YouCanInvalidInputError, match=name):
        YouCanReconcileOrdersOperator(task_id="reconcile", orders=[], **{name: value})


def test_a_table_of_too_few_rows_is_refused_before_the_shop_is_asked(sandbox: Sandbox) -> None:
    with pytest.raises(YouCanInvalidInputError, match=r"The table has 0 rows, fewer than min_rows=1"):
        reconcile([], min_rows=1)
    assert sandbox.shop.requests() == []

    assert reconcile(paid_rows(sandbox), min_rows="1")["changed"]


def test_a_share_of_the_rows_may_fail(sandbox: Sandbox) -> None:
    rows = [*paid_rows(sandbox)[:9], {"order_id": "gone", "payment_status": "paid"}]

    assert reconcile(rows, max_failures="10%")["not_found"] == 1
    with pytest.raises(YouCanPermanentError, match=r"1 of 10 rows failed, more than max_failures=9\.9%"):
        reconcile(rows, max_failures="9.9%")


def test_a_share_is_of_the_same_whole_for_a_plan_as_for_its_table(sandbox: Sandbox, tmp_path: Path) -> None:
    # Given a table of which a third would change,
    path = tmp_path / "plan.jsonl"
    pending = payable(sandbox)[:4]
    paid = [{"order_id": order["id"], "payment_status": order["payment_status"]} for order in sandbox.shop.orders()]
    rows = [row for row in paid if row["order_id"] not in pending][:8]
    rows += [{"order_id": order_id, "payment_status": "paid"} for order_id in pending]

    reconcile(rows, dry_run=True, report_path=str(path), max_changes="34%")

    with pytest.raises(YouCanTooManyChangesError, match="4 of 12 statuses"):
        reconcile(plan=str(path), max_changes="33%")
    assert reconcile(plan=str(path), max_changes="34%")["changed"] == 4


def test_a_plan_that_was_over_its_limit_takes_one_that_allows_it(sandbox: Sandbox, tmp_path: Path) -> None:
    path, rows = tmp_path / "plan.jsonl", paid_rows(sandbox)
    with pytest.raises(YouCanTooManyChangesError):
        reconcile(rows, dry_run=True, report_path=str(path), max_changes=2)

    with pytest.raises(YouCanInvalidInputError, match="exceeds its own max_changes=2"):
        reconcile(plan=str(path))
    with pytest.raises(YouCanTooManyChangesError):
        reconcile(plan=str(path), max_changes=3)
    assert reconcile(plan=str(path), max_changes=len(rows))["changed"] == len(rows)


def test_rows_that_say_the_same_many_times_do_not_widen_a_share(sandbox: Sandbox, tmp_path: Path) -> None:
    rows, plan = paid_rows(sandbox) * 10, str(tmp_path / "plan.jsonl")

    with pytest.raises(YouCanTooManyChangesError, match=f"^{len(rows) // 10} of {len(rows) // 10} statuses"):
        reconcile(rows, max_changes="10%")
    reconcile(rows, dry_run=True, report_path=plan)
    with pytest.raises(YouCanTooManyChangesError, match=f"^{len(rows) // 10} of {len(rows) // 10} statuses"):
        reconcile(plan=plan, max_changes="10%")
