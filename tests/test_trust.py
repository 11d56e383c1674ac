"""A change that can be trusted: a plan that is what is applied, limits, a table of outcomes, and the way back."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_youcan.exceptions import (
    YouCanConnectionError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanPermanentError,
    YouCanTooManyChangesError,
    YouCanTransientError,
)
from airflow_provider_youcan.operators.reconcile import (
    YouCanReconcileOrdersOperator,
    YouCanRevertReconciliationOperator,
)
from airflow_provider_youcan.orders import OrderStatuses
from airflow_provider_youcan.reconciliation.record.file import ReportFile
from airflow_provider_youcan.reconciliation.record.table import OutcomeTable
from airflow_provider_youcan.sandbox import Request
from tests.conftest import HOME, Sandbox, read_report

TABLE = {"report_table": "youcan_outcomes", "report_conn_id": "warehouse"}
GUARD = {"payment": ["pending", "unpaid"]}
LINE_KEYS = {"order_id", "ref", "context", "before", "wanted", "outcome", "reason"}


class TaskInstance:
    """As much of a task instance as the operators ask of one."""

    dag_id, task_id, run_id = "warehouse", "reconcile", "manual__1"
    map_index, try_number = -1, 1

    def __init__(self, **keys: Any) -> None:
        self.pushed: dict[str, Any] = {}
        vars(self).update(keys)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def run(operator: Any, task_instance: TaskInstance | None = None) -> dict[str, Any]:
    summary: dict[str, Any] = operator.execute({"ti": task_instance or TaskInstance()})
    return summary


def reconcile(orders: Any = None, ti: TaskInstance | None = None, **arguments: Any) -> dict[str, Any]:
    return run(YouCanReconcileOrdersOperator(task_id="reconcile", orders=orders, **arguments), ti)


def revert(ti: TaskInstance | None = None, **arguments: Any) -> dict[str, Any]:
    return run(YouCanRevertReconciliationOperator(task_id="revert", **arguments), ti)


def payable(sandbox: Sandbox) -> list[str]:
    return [order["id"] for order in sandbox.shop.orders() if order["payment_status"] == "pending"]


def paid_rows(sandbox: Sandbox) -> list[dict[str, Any]]:
    return [{"order_id": order_id, "payment_status": "paid"} for order_id in payable(sandbox)]


def requests(sandbox: Sandbox, method: str) -> list[str]:
    return [request["path"] for request in sandbox.shop.requests() if request["method"] == method]


def everything(sandbox: Sandbox) -> dict[str, Any]:
    return {order["id"]: sandbox.shop.statuses(order["id"]) for order in sandbox.shop.orders()}


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def plan(sandbox: Sandbox, tmp_path: Path) -> Path:
    """The plan of having all pending payments paid."""
    path = tmp_path / "plan.jsonl"
    reconcile(paid_rows(sandbox), only_from=GUARD, dry_run=True, report_path=str(path))
    return path


# --- apply exactly the plan ---


def test_the_last_line_of_a_report_says_that_it_is_whole(sandbox: Sandbox, plan: Path) -> None:
    *lines, last = read_lines(plan)

    assert all(line.keys() == LINE_KEYS for line in lines)
    assert last.keys() == LINE_KEYS | {"dry_run", "store", "rows"}
    assert {key: last[key] for key in ("outcome", "dry_run", "store", "rows")} == {
        "outcome": "complete",
        "dry_run": True,
        "store": "sandbox",
        "rows": len(lines),
    }
    assert all(last[key] is None for key in LINE_KEYS - {"outcome"})


def test_what_was_planned_is_applied_and_nothing_else(sandbox: Sandbox, plan: Path, tmp_path: Path) -> None:
    # Given a plan, after which a person changes three orders, and new ones come in,
    first, second, third, *rest = payable(sandbox)
    sandbox.shop.set_status(first, "payment", "refunded")
    sandbox.shop.set_status(second, "payment", "unpaid")
    sandbox.shop.set_status(third, "payment", "paid")
    sandbox.shop.add_orders(20)
    before = everything(sandbox)

    # when it is applied,
    report = tmp_path / "applied.jsonl"
    summary = reconcile(plan=str(plan), report_path=str(report))

    # then the rest of the plan is done, and nothing else.
    assert everything(sandbox) == before | {order_id: {**before[order_id], "payment": "paid"} for order_id in rest}
    assert (summary["changed"], summary["protected"], summary["unchanged"]) == (len(rest), 2, 1)
    reasons = {line["order_id"]: line["reason"] for line in read_report(report) if line["outcome"] == "protected"}
    assert reasons == {
        first: "the plan saw 'pending', but the shop now shows 'refunded'",
        second: "the plan saw 'pending', but the shop now shows 'unpaid'",
    }
    assert read_lines(report)[-1]["dry_run"] is False


def test_a_plan_that_is_applied_dry_says_what_of_it_still_stands(sandbox: Sandbox, plan: Path) -> None:
    sandbox.shop.set_status(payable(sandbox)[0], "payment", "refunded")
    number = len(payable(sandbox))

    summary = reconcile(plan=str(plan), dry_run=True)

    assert (summary["planned"], summary["protected"]) == (number, 1)
    assert requests(sandbox, "PUT") == []


def test_a_plan_of_no_changes_sends_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "plan.jsonl"
    reconcile([], dry_run=True, report_path=str(path))
    asked = len(sandbox.shop.requests())

    summary = reconcile(plan=str(path))

    assert summary["changed"] == 0
    assert [request["path"] for request in sandbox.shop.requests()[asked:]] == ["/me"]


def test_a_planned_status_that_was_not_read_is_protected(sandbox: Sandbox, plan: Path) -> None:
    lines = read_lines(plan)
    lines[0]["before"] = None
    plan.write_text("".join(json.dumps(line) + "\n" for line in lines))

    summary = reconcile(plan=str(plan))

    assert (summary["protected"], summary["changed"]) == (1, len(lines) - 2)
    assert sandbox.shop.statuses(lines[0]["order_id"])["payment"] == "pending"


def drop_last_line(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[:-1])


def edit(**changes: Any) -> Callable[[str], str]:
    """Return what changes the first line of a plan."""

    def change(text: str) -> str:
        first, *rest = text.splitlines(keepends=True)
        return json.dumps(json.loads(first) | changes) + "\n" + "".join(rest)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_last_line, "is cut off"),
        (lambda text: text[:-1], "is cut off"),
        (lambda text: text[:-20], "is cut off"),
        (lambda _: "", "is cut off"),
        (lambda text: text[:40], "is cut off"),
        (lambda _: '["no", "report"]\n', "Line 1 of .* is not a line of a report"),
        (lambda _: '{"order_id": "x"}\n', "Line 1 of .* is not a line of a report"),
        (lambda text: text.replace('"dry_run": true', '"dry_run": false'), "is not the report of a dry run"),
        (lambda text: text + text, "comes after the last one"),
        (lambda text: text.splitlines(keepends=True)[0] + text, "more than once"),
        (lambda text: text.replace('"store": "sandbox"', '"store": "another"'), "belongs to the store 'another'"),
        (edit(order_id="no/id"), "Line 1 of .* makes no sense"),
        (edit(order_id=None), "Line 1 of .* makes no sense"),
        (edit(context="colour"), "Line 1 of .* makes no sense"),
        (edit(wanted=" "), "Line 1 of .* makes no sense"),
        (edit(wanted=7), "Line 1 of .* makes no sense"),
        (edit(outcome="dreamt"), "Line 1 of .* makes no sense"),
        (edit(outcome="not_reached"), "ended before it came to 1 statuses"),
        (edit(wanted="payed"), "did you mean 'paid'"),
    ],
)
def test_what_is_no_whole_plan_of_this_store_is_refused_with_nothing_sent(
    sandbox: Sandbox, plan: Path, change: Callable[[str], str], message: str
) -> None:
    plan.write_text(change(plan.read_text()))

    with pytest.raises(YouCanInvalidInputError, match=message):
        reconcile(plan=str(plan))

    assert requests(sandbox, "PUT") == []


def test_a_plan_that_is_not_there_or_is_the_report_is_refused(sandbox: Sandbox, plan: Path, tmp_path: Path) -> None:
    with pytest.raises(YouCanInvalidInputError, match="There is no report at"):
        reconcile(plan=str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(YouCanInvalidInputError, match="plan and report_path are both"):
        reconcile(plan=str(plan), report_path=f"file://{plan.parent}/../{plan.parent.name}/plan.jsonl")
    with pytest.raises(YouCanConnectionError, match="can't be read"):
        reconcile(plan="s3://bucket/plan.jsonl")

    assert requests(sandbox, "PUT") == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"columns": {"order_id": "id"}},
        {"status_map": {"payment": {"a": "paid"}}},
        {"only_from": GUARD},
        {"on_invalid": "skip"},
        {"orders": []},
        {"sql": "select 1", "conn_id": "warehouse"},
    ],
)
def test_what_the_plan_has_decided_is_refused_beside_it(arguments: dict[str, Any]) -> None:
    with pytest.raises(YouCanInvalidInputError):
        YouCanReconcileOrdersOperator(task_id="reconcile", plan="/tmp/plan.jsonl", **arguments)


def test_a_token_that_may_not_read_the_store_plans_and_applies_all_the_same(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sandbox.misbehave("status", status=403, route="GET /me")
    path = tmp_path / "plan.jsonl"
    rows = paid_rows(sandbox)

    reconcile(rows, dry_run=True, report_path=str(path))

    assert read_lines(path)[-1]["store"] is None
    assert reconcile(plan=str(path))["changed"] == len(rows)


def test_a_real_run_does_not_ask_for_the_store(sandbox: Sandbox, tmp_path: Path) -> None:
    reconcile(paid_rows(sandbox), report_path=str(tmp_path / "report.jsonl"))

    assert "/me" not in requests(sandbox, "GET")


# --- limits before the first update ---


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
    assert requests(sandbox, "PUT") == []
    assert ti.pushed["summary"]["planned"] == number
    assert Counter(line["outcome"] for line in read_report(path)) == {"planned": number}


@pytest.mark.parametrize("max_changes", [100, "100%", "100.0 %", " 100 "])
def test_as_many_changes_as_allowed_are_made(sandbox: Sandbox, max_changes: int | str) -> None:
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
    sandbox.on_request(lambda request: request.method == "PUT" and sandbox.shop.set_status(second, "payment", "unpaid"))

    summary = reconcile(
        [{"order_id": one, "payment_status": "paid"} for one in (first, second)], max_changes=1, max_concurrency=1
    )

    assert (summary["changed"], summary["unchanged"]) == (1, 1)
    assert len(requests(sandbox, "PUT")) == 1


@pytest.mark.parametrize("value", ["101%", "-1%", "ten", "1e2", True, -1, 1.5, "5 percent", "", "None", "٥", [5]])
@pytest.mark.parametrize("name", ["max_changes", "max_failures"])
def test_a_limit_that_makes_no_sense_is_refused_when_the_dag_is_parsed(name: str, value: Any) -> None:
    with pytest.raises(YouCanInvalidInputError, match=name):
        YouCanReconcileOrdersOperator(task_id="reconcile", orders=[], **{name: value})


@pytest.mark.parametrize(
    "name", ["max_changes", "max_failures", "min_rows", "report_path", "report_table", "report_conn_id", "plan"]
)
@pytest.mark.parametrize("rendered", [None, "", "None"])
def test_what_was_passed_and_renders_to_nothing_is_refused(sandbox: Sandbox, name: str, rendered: Any) -> None:
    source: dict[str, Any] = {} if name == "plan" else {"orders": paid_rows(sandbox)}
    table = {"report_conn_id": "warehouse"} if name == "report_table" else {}
    operator = YouCanReconcileOrdersOperator(task_id="reconcile", **source, **table, **{name: "{{ params.it }}"})
    setattr(operator, name, rendered)

    with pytest.raises(YouCanInvalidInputError, match=name):
        run(operator)

    assert sandbox.shop.requests() == []


def test_everything_that_decides_is_templated() -> None:
    fields = {"max_changes", "max_failures", "min_rows", "plan", "dry_run", "report_table", "report_conn_id"}
    assert fields <= set(YouCanReconcileOrdersOperator.template_fields)
    assert {"report", "reverts_run_id", "max_changes"} <= set(YouCanRevertReconciliationOperator.template_fields)


def test_a_table_of_too_few_rows_is_refused_before_the_shop_is_asked(sandbox: Sandbox) -> None:
    with pytest.raises(YouCanInvalidInputError, match=r"The table has 0 rows, fewer than min_rows=1"):
        reconcile([], min_rows=1)
    assert sandbox.shop.requests() == []

    assert reconcile(paid_rows(sandbox), min_rows="1")["changed"]


def test_so_large_a_share_of_the_rows_may_fail(sandbox: Sandbox) -> None:
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

    with pytest.raises(YouCanInvalidInputError, match="more than its own max_changes=2"):
        reconcile(plan=str(path))
    with pytest.raises(YouCanTooManyChangesError):
        reconcile(plan=str(path), max_changes=3)
    assert reconcile(plan=str(path), max_changes=len(rows))["changed"] == len(rows)


# --- a preview ---


def test_the_preview_says_what_would_change(sandbox: Sandbox, tmp_path: Path) -> None:
    ti = TaskInstance()
    rows = [*paid_rows(sandbox), {"order_id": "+212600000000", "payment_status": "paid"}]

    reconcile(rows, ti, dry_run=True, on_invalid="skip")

    preview, number = ti.pushed["preview"], len(rows) - 1
    assert f"| planned | 0 | 0 | {number} |" in preview
    assert f"payment: pending → paid: {number}" in preview
    assert preview.count(": payment pending → paid") == min(number, 20)
    assert f"**Rows that can't be used**: {len(rows)}" in preview
    assert "212600000000" not in preview


def test_the_preview_says_what_is_left_out_because_the_shop_does_not_have_it(sandbox: Sandbox) -> None:
    ti = TaskInstance()
    unknown = {"order_id": "00000000-0000-4000-8000-000000000000", "payment_status": "paid"}

    with pytest.raises(YouCanPermanentError):
        reconcile([*paid_rows(sandbox), unknown], ti, dry_run=True)

    assert "1 status is for orders that this shop does not have; the run leaves them out." in ti.pushed["preview"]


def test_a_plan_of_a_table_that_was_refused_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    path = str(tmp_path / "plan.jsonl")
    with pytest.raises(YouCanInvalidInputError):
        reconcile([{"order_id": "+1", "payment_status": "paid"}], dry_run=True, report_path=path)

    with pytest.raises(YouCanInvalidInputError, match="refused its table"):
        reconcile(plan=path)


def test_a_plan_with_a_status_that_the_store_no_longer_has_is_made_again(
    sandbox: Sandbox, order_id: str, tmp_path: Path
) -> None:
    path = tmp_path / "plan.jsonl"
    reconcile([{"order_id": order_id, "payment_status": "paid"}], dry_run=True, report_path=str(path))
    path.write_text(path.read_text().replace('"paid"', '"collected"'))

    with pytest.raises(YouCanInvalidInputError, match="'collected' is not a payment status") as error:
        reconcile(plan=str(path))

    assert str(error.value).endswith("Plan again.")
    assert "on_invalid" not in str(error.value)
    assert "status_map" not in str(error.value)


def test_rows_that_say_the_same_many_times_do_not_widen_a_share(sandbox: Sandbox, tmp_path: Path) -> None:
    rows, plan = paid_rows(sandbox) * 10, str(tmp_path / "plan.jsonl")

    with pytest.raises(YouCanTooManyChangesError, match=f"^{len(rows) // 10} of {len(rows) // 10} statuses"):
        reconcile(rows, max_changes="10%")
    reconcile(rows, dry_run=True, report_path=plan)
    with pytest.raises(YouCanTooManyChangesError, match=f"^{len(rows) // 10} of {len(rows) // 10} statuses"):
        reconcile(plan=plan, max_changes="10%")


def test_a_preview_of_many_labels_is_short_and_shows_them_as_they_are(sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(80)
    ti = TaskInstance()
    label = "[click](javascript:alert(1)) | <b>*bold*</b> `code`"
    rows = [
        {"order_id": order_id, "payment_status": f"{label} {number} {'x' * 300}"}
        for number, order_id in enumerate(payable(sandbox))
    ]

    rows.append({"order_id": "+212600000000", "payment_status": "paid"})

    summary = reconcile(rows, ti, dry_run=True, allow_custom_label=True, on_invalid="skip")

    preview = ti.pushed["preview"]
    assert len(preview) <= 4000
    assert f"**Rows that can't be used**: {len(rows)};" in preview
    # As code, in which nothing is markup.
    shown = [line for line in preview.splitlines() if "javascript" in line]
    assert shown
    assert all(
        re.search(r"→ `\[click\]\(javascript:alert\(1\)\) \| <b>\*bold\*</b> 'code'[^`]*`", line) for line in shown
    )
    assert len(summary["transitions"]) == 20
    assert summary["transitions"][0].keys() == {"context", "before", "after", "count"}


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("in_transit", "in_transit"),
        ("قيد الشحن", "قيد الشحن"),
        ("paid\u202egnp", "paidgnp"),
        ("un\u200bpaid", "unpaid"),
        ("http://evil.example", "`http://evil.example`"),
        ("_a_", "`_a_`"),
    ],
)
def test_a_label_is_shown_as_it_reads_and_is_no_link(sandbox: Sandbox, label: str, shown: str) -> None:
    ti, (order_id, *_) = TaskInstance(), payable(sandbox)
    sandbox.shop.set_status(order_id, "payment", label)

    reconcile([{"order_id": order_id, "payment_status": "paid"}], ti, dry_run=True)

    assert f"payment: {shown} → paid: 1" in ti.pushed["preview"]


def test_half_a_character_of_the_shop_is_no_status() -> None:
    order = {"payment": {"status_object": {"slug": "x\ud800"}, "status_text": "y\ud800"}}

    assert OrderStatuses.from_order(order).payment is None


# --- outcomes as a table ---


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    path = tmp_path / "warehouse.db"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    with closing(sqlite3.connect(path)) as database:
        yield database


def drop_outcomes_after(sandbox: Sandbox, updates: int, folder: Path) -> None:
    """Have the table of outcomes dropped, once the shop has taken so many updates."""

    def drop(_: Request) -> None:
        if len(requests(sandbox, "PUT")) == updates:
            with closing(sqlite3.connect(folder / "warehouse.db", timeout=60)) as database:
                database.execute("drop table if exists youcan_outcomes")
                database.commit()

    sandbox.on_request(drop)


def outcomes(warehouse: sqlite3.Connection, table: str = "youcan_outcomes") -> list[dict[str, Any]]:
    cursor = warehouse.execute(f"select * from {table}")
    return [dict(zip([column[0] for column in cursor.description], row, strict=True)) for row in cursor]


def test_outcomes_are_rows_of_the_warehouse(sandbox: Sandbox, warehouse: sqlite3.Connection, tmp_path: Path) -> None:
    rows = [*paid_rows(sandbox), {"order_id": "gone", "payment_status": "paid"}]
    path = tmp_path / "report.jsonl"

    reconcile(
        rows,
        TaskInstance(map_index=4, try_number=2),
        max_failures=1,
        report_path=str(path),
        report_table="youcan_outcomes",
        report_conn_id="warehouse",
    )

    found = outcomes(warehouse)
    assert len(found) == len(rows)
    assert {tuple(row[key] for key in ("dag_id", "run_id", "task_id", "map_index", "try_number")) for row in found} == {
        ("warehouse", "manual__1", "reconcile", 4, 2)
    }
    names = {"context": "status_context", "before": "status_before", "wanted": "status_wanted"}
    assert [[row[names.get(key, key)] for key in sorted(LINE_KEYS)] for row in found] == [
        [line[key] for key in sorted(LINE_KEYS)] for line in read_report(path)
    ]
    assert sorted(row["table_row"] for row in found) == list(range(1, len(rows) + 1))
    assert all(row["recorded_at"][:4].isdigit() for row in found)


def test_a_table_without_these_columns_is_refused_before_anything_is_sent(
    sandbox: Sandbox, warehouse: sqlite3.Connection
) -> None:
    warehouse.execute("create table youcan_outcomes (order_id text)")

    with pytest.raises(YouCanInvalidInputError, match="has no column dag_id"):
        reconcile(paid_rows(sandbox), report_table="youcan_outcomes", report_conn_id="warehouse")

    assert sandbox.shop.requests() == []


@pytest.mark.parametrize("name", ["a b", "a;drop table b", "a.b.c", "", "é", 'a"b', "a-b", "1", "a.1"])
def test_a_table_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match="report_table"):
        YouCanReconcileOrdersOperator(task_id="x", orders=[], report_table=name, report_conn_id="warehouse")


def test_a_table_needs_a_connection() -> None:
    with pytest.raises(YouCanInvalidInputError, match="report_conn_id"):
        YouCanReconcileOrdersOperator(task_id="x", orders=[], report_table="outcomes")


def test_a_warehouse_that_is_out_of_reach_is_found_out_before_anything_is_sent(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "sqlite", "host": "/no/such/folder/warehouse.db"}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))

    with pytest.raises(YouCanTransientError, match=r"can't be reached|can be neither"):
        reconcile(paid_rows(sandbox), report_table="outcomes", report_conn_id="warehouse")

    assert sandbox.shop.requests() == []


def test_a_warehouse_that_goes_away_stops_no_update_and_loses_none(
    sandbox: Sandbox, warehouse: sqlite3.Connection, log_lines: Callable[[], list[str]], tmp_path: Path
) -> None:
    rows = paid_rows(sandbox)
    drop_outcomes_after(sandbox, 3, tmp_path)
    path = tmp_path / "report.jsonl"
    with pytest.raises(YouCanTransientError, match="Some outcomes could not be written to youcan_outcomes"):
        reconcile(
            rows,
            report_path=str(path),
            report_table="youcan_outcomes",
            report_conn_id="warehouse",
            max_concurrency=1,
        )

    assert payable(sandbox) == []
    assert len(read_report(path)) == len(rows)
    assert sum("Outcome: {" in line for line in log_lines()) >= len(rows) - 4


def test_a_table_that_can_only_be_read_is_found_out_before_anything_is_sent(
    sandbox: Sandbox, warehouse: sqlite3.Connection
) -> None:
    reconcile([], **TABLE)
    warehouse.execute("create trigger locked before insert on youcan_outcomes begin select raise(abort, 'no'); end")
    warehouse.commit()
    sent = len(sandbox.shop.requests())

    with pytest.raises(YouCanConnectionError, match="youcan_outcomes can't be written to"):
        reconcile(paid_rows(sandbox), **TABLE)

    assert len(sandbox.shop.requests()) == sent


def test_trying_a_table_leaves_no_row(sandbox: Sandbox, warehouse: sqlite3.Connection) -> None:
    reconcile([], **TABLE)

    assert outcomes(warehouse) == []


def test_a_row_that_the_database_refuses_takes_no_other_with_it(
    sandbox: Sandbox, warehouse: sqlite3.Connection, log_lines: Callable[[], list[str]]
) -> None:
    first, *rest = payable(sandbox)
    reconcile([], **TABLE)
    warehouse.execute(
        "create trigger picky before insert on youcan_outcomes "
        f"when new.order_id = '{first}' begin select raise(abort, 'not that one'); end"
    )
    warehouse.commit()

    with pytest.raises(YouCanTransientError, match=r"not that one.*an undo by the run id does not see them"):
        reconcile(paid_rows(sandbox), **TABLE)

    assert {row["order_id"] for row in outcomes(warehouse)} == set(rest)
    assert sum("Outcome: {" in line and first in line for line in log_lines()) == 1


def test_a_database_that_comes_back_has_every_outcome(
    sandbox: Sandbox, warehouse: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a connection that breaks in the middle, and twice can't be made again,
    from airflow.providers.sqlite.hooks.sqlite import SqliteHook

    connect, made = SqliteHook.get_conn, []

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise sqlite3.OperationalError("server closed the connection")

    def get_conn(hook: SqliteHook) -> Any:
        made.append(1)
        if len(made) in (2, 3):
            raise sqlite3.OperationalError("could not connect")
        return connect(hook)

    monkeypatch.setattr(SqliteHook, "get_conn", get_conn)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    rows, written = paid_rows(sandbox), []
    insert_all = OutcomeTable._insert_all

    def break_once(table: OutcomeTable, batch: list[Any]) -> bool:
        if not written:
            table._connection = Broken()
        written.append(batch)
        return insert_all(table, batch)

    monkeypatch.setattr(OutcomeTable, "_insert_all", break_once)

    # when a run writes to it, then nothing is missing.
    reconcile(rows, **TABLE)
    assert len(outcomes(warehouse)) == len(rows)
    assert len(made) == 4


def test_text_that_no_database_takes_is_no_status_to_set_back(sandbox: Sandbox, warehouse: sqlite3.Connection) -> None:
    (order_id, *_) = payable(sandbox)
    sandbox.shop.set_status(order_id, "payment", "a\0label")

    reconcile([{"order_id": order_id, "payment_status": "paid"}], **TABLE)

    assert [row["status_before"] for row in outcomes(warehouse)] == [None]


def test_a_run_that_is_killed_leaves_its_outcomes(
    sandbox: Sandbox, warehouse: sqlite3.Connection, tmp_path: Path
) -> None:
    sandbox.shop.add_orders(200)
    before = everything(sandbox)
    sandbox.misbehave("latency", route="PUT *", seconds=0.1)
    (tmp_path / "rows.json").write_text(json.dumps(paid_rows(sandbox)))
    command = [sys.executable, "-c", KILLED_RUN, str(tmp_path / "rows.json")]
    with subprocess.Popen(command, env=os.environ | {"AIRFLOW_HOME": str(HOME)}) as process:
        while process.poll() is None and len(requests(sandbox, "PUT")) < 50:
            time.sleep(0.01)
        process.kill()
    changed = {order_id for order_id, statuses in before.items() if sandbox.shop.statuses(order_id) != statuses}

    # All but what was under way, or had just come to its end.
    recorded = {row["order_id"] for row in outcomes(warehouse) if row["outcome"] == "changed"}
    assert recorded <= changed
    assert len(changed - recorded) <= 2 * 16
    revert(reverts_run_id="manual__1", report_table="youcan_outcomes", report_conn_id="warehouse")
    assert all(sandbox.shop.statuses(order_id) == before[order_id] for order_id in recorded)


KILLED_RUN = """
import json, sys
from pathlib import Path
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
class TaskInstance:
    dag_id, task_id, run_id, map_index, try_number = "warehouse", "reconcile", "manual__1", -1, 1
YouCanReconcileOrdersOperator(
    task_id="reconcile", orders=json.loads(Path(sys.argv[1]).read_text()),
    report_table="youcan_outcomes", report_conn_id="warehouse",
).execute({"ti": TaskInstance()})
"""


def test_a_permanent_error_is_not_hidden_by_the_warehouse(
    sandbox: Sandbox, warehouse: sqlite3.Connection, tmp_path: Path
) -> None:
    rows = [*paid_rows(sandbox), {"order_id": "gone", "payment_status": "paid"}]
    drop_outcomes_after(sandbox, 1, tmp_path)
    with pytest.raises(YouCanPermanentError, match="1 of"):
        reconcile(rows, report_table="youcan_outcomes", report_conn_id="warehouse")


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        (None, "install the Airflow provider of your database, restart Airflow, and add the connection"),
        ({"conn_type": "no_such_database"}, "has no hook for the Airflow connection 'warehouse'"),
        ({"conn_type": "youcan"}, "which runs no SQL"),
    ],
)
def test_a_database_that_airflow_can_not_talk_to_says_what_to_install(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, connection: dict[str, str] | None, message: str
) -> None:
    if connection is not None:
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))

    with pytest.raises(YouCanError, match=message):
        reconcile(sql="select 1", conn_id="warehouse")
    with pytest.raises(YouCanError, match=message):
        reconcile(paid_rows(sandbox), report_table="outcomes", report_conn_id="warehouse")

    assert sandbox.shop.requests() == []


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


# --- undo ---


def test_a_run_is_taken_back(sandbox: Sandbox, tmp_path: Path) -> None:
    before = everything(sandbox)
    rows = [{"order_id": one, "payment_status": "paid", "status": "closed"} for one in payable(sandbox)]
    reconcile(rows, report_path=str(tmp_path / "report.jsonl"))
    assert everything(sandbox) != before
    sent = len(requests(sandbox, "PUT"))

    summary = revert(report=str(tmp_path / "report.jsonl"))

    assert everything(sandbox) == before
    assert summary["changed"] == 2 * len(rows)
    # The general status of each order first.
    order = [path.split("/")[2] for path in requests(sandbox, "PUT")[sent:] if path.endswith("/status")]
    assert len(order) == len(rows)
    for order_id in order:
        mine = [path for path in requests(sandbox, "PUT")[sent:] if order_id in path]
        assert mine[0].endswith("/status")


def test_what_others_did_since_is_protected(sandbox: Sandbox, tmp_path: Path) -> None:
    report, reverted = tmp_path / "report.jsonl", tmp_path / "reverted.jsonl"
    first, *rest = payable(sandbox)
    reconcile(paid_rows(sandbox), report_path=str(report))
    sandbox.shop.set_status(first, "payment", "refunded")

    summary = revert(report=str(report), report_path=str(reverted))

    assert (summary["protected"], summary["changed"]) == (1, len(rest))
    assert sandbox.shop.statuses(first)["payment"] == "refunded"
    (line,) = [line for line in read_report(reverted) if line["outcome"] == "protected"]
    assert line["reason"] == "the run set 'paid', but the shop now shows 'refunded'"


def test_each_status_is_decided_alone(sandbox: Sandbox, tmp_path: Path) -> None:
    (order_id, *_) = payable(sandbox)
    sandbox.shop.set_status(order_id, "general", "open")
    reconcile(
        [{"order_id": order_id, "payment_status": "paid", "status": "closed"}],
        report_path=str(tmp_path / "report.jsonl"),
    )
    sandbox.shop.set_status(order_id, "payment", "refunded")

    revert(report=str(tmp_path / "report.jsonl"))

    assert sandbox.shop.statuses(order_id)["general"] == "open"


def test_a_revert_can_be_planned_applied_and_reverted(sandbox: Sandbox, tmp_path: Path) -> None:
    before, rows = everything(sandbox), paid_rows(sandbox)
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in ("run", "plan", "applied")}
    reconcile(rows, report_path=paths["run"])
    after = everything(sandbox)

    assert revert(report=paths["run"], dry_run=True, report_path=paths["plan"])["planned"] == len(rows)
    assert everything(sandbox) == after
    reconcile(plan=paths["plan"], report_path=paths["applied"])
    assert everything(sandbox) == before
    revert(report=paths["applied"])
    assert everything(sandbox) == after


def test_an_update_whose_outcome_was_unknown_is_taken_back_where_the_shop_shows_it(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(max_attempts=2))
    before, report = everything(sandbox), tmp_path / "report.jsonl"
    first, second, *_ = payable(sandbox)
    # The answer to the first is lost, and nothing can be read after it.
    sandbox.misbehave("lose-answer", route=f"PUT /orders/{first}*")
    sandbox.misbehave("status", status=500, route=f"PUT /orders/{second}*")
    rows = [{"order_id": one, "payment_status": "paid"} for one in (first, second)]

    def hide_orders(request: Request) -> None:
        if request.method == "PUT":
            sandbox.misbehave("status", status=503, route="GET /orders/*-*")

    with sandbox.on_request(hide_orders), pytest.raises(YouCanError):
        reconcile(rows, report_path=str(report), max_concurrency=1)
    sandbox.misbehaviours.clear()
    assert everything(sandbox) != before

    summary = revert(report=str(report))

    assert everything(sandbox) == before
    assert (summary["changed"], summary["unchanged"]) == (1, 1)


def test_what_can_not_be_set_back_is_listed_as_invalid(sandbox: Sandbox, tmp_path: Path) -> None:
    report, reverted = tmp_path / "report.jsonl", tmp_path / "reverted.jsonl"
    first, second, third, *_ = payable(sandbox)
    sandbox.shop.set_status(second, "payment", "a label that is no status")
    reconcile([{"order_id": one, "payment_status": "paid"} for one in (first, second, third)], report_path=str(report))
    lines = read_lines(report)
    for line in lines:
        line["before"] = None if line["order_id"] == first else line["before"]
    report.write_text("".join(json.dumps(line) + "\n" for line in lines))

    summary = revert(report=str(report), report_path=str(reverted))

    assert (summary["invalid"], summary["changed"]) == (2, 1)
    reasons = [line["reason"] for line in read_report(reverted) if line["outcome"] == "invalid"]
    assert any("what it was before is not known" in reason for reason in reasons)
    assert any("'a label that is no status' is not a payment status" in reason for reason in reasons)
    assert revert(report=str(report), allow_custom_label=True)["changed"] == 1


def test_the_tries_of_a_run_are_one(sandbox: Sandbox, tmp_path: Path) -> None:
    # Given two tries, between which someone moved an order on,
    before = everything(sandbox)
    first, second, *_ = payable(sandbox)
    tries = [str(tmp_path / "report.jsonl"), str(tmp_path / "report.2.jsonl")]
    reconcile([{"order_id": first, "payment_status": "paid"}], report_path=tries[0])
    sandbox.shop.set_status(first, "payment", "unpaid")
    rows = [{"order_id": one, "payment_status": "captured"} for one in (first, second)]
    assert reconcile(rows, report_path=tries[0])["report_path"] == tries[1]

    # when both are taken back, then to what was before the first.
    assert revert(report=tries)["changed"] == 2
    assert everything(sandbox) == before


def test_a_report_that_is_cut_off_is_taken_back_as_far_as_it_goes(
    sandbox: Sandbox, tmp_path: Path, log_lines: Callable[[], list[str]]
) -> None:
    report, rows = tmp_path / "report.jsonl", paid_rows(sandbox)
    reconcile(rows, report_path=str(report))
    report.write_text("".join(report.read_text().splitlines(keepends=True)[:3])[:-10])

    assert revert(report=str(report))["changed"] == 2
    assert any(f"Line 3 of {report} is cut off" in line for line in log_lines())


def test_a_plan_counts_for_what_no_report_has(sandbox: Sandbox, plan: Path, tmp_path: Path) -> None:
    # Given a plan that was applied, of which the report was lost but for two lines,
    before = everything(sandbox)
    report, ti = tmp_path / "report.jsonl", TaskInstance()
    reconcile(plan=str(plan), report_path=str(report))
    report.write_text("".join(report.read_text().splitlines(keepends=True)[:2]))

    # when it is taken back by both, then it is all undone, and the preview says what that rests on.
    revert(ti, report=[str(report), str(plan)])
    assert everything(sandbox) == before
    assert "someone else may have set them" in ti.pushed["preview"]


def lines_of(sandbox: Sandbox, path: Path, number: int) -> None:
    """Leave of a report what a run that was killed leaves: its first lines."""
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:number]))


def test_what_a_killed_try_did_is_taken_back_after_its_retry(sandbox: Sandbox, plan: Path, tmp_path: Path) -> None:
    # Given a try that was killed with most of its updates unrecorded, and a retry that found them done,
    before, ti = everything(sandbox), TaskInstance()
    reports = [tmp_path / "report.jsonl", tmp_path / "report.2.jsonl"]
    reconcile(plan=str(plan), report_path=str(reports[0]))
    lines_of(sandbox, reports[0], 2)
    assert reconcile(plan=str(plan), report_path=str(reports[0]))["unchanged"] > 2

    # when only the reports are given, then the preview says what that leaves,
    revert(ti, report=[str(path) for path in reports], dry_run=True)
    assert "up to max_concurrency of its updates" in ti.pushed["preview"].lower()
    # and with the plan all is taken back.
    revert(ti, report=[*(str(path) for path in reports), str(plan)])
    assert everything(sandbox) == before


def test_by_the_run_id_the_plan_of_the_same_run_counts_as_well(
    sandbox: Sandbox, warehouse: sqlite3.Connection, tmp_path: Path
) -> None:
    # Given a plan and its application in one DAG run, whose first try was killed,
    before, path = everything(sandbox), tmp_path / "plan.jsonl"
    (somebody_elses, *_) = payable(sandbox)
    reconcile(paid_rows(sandbox), TaskInstance(task_id="plan"), dry_run=True, report_path=str(path), **TABLE)
    sandbox.shop.set_status(somebody_elses, "payment", "paid")
    reconcile(plan=str(path), **TABLE)
    kept = [row["order_id"] for row in outcomes(warehouse) if row["outcome"] == "changed"][:3]
    marks = ", ".join("?" * len(kept))
    warehouse.execute(
        f"delete from youcan_outcomes where task_id != 'plan' and outcome = 'changed' and order_id not in ({marks})",
        kept,
    )
    warehouse.commit()
    reconcile(plan=str(path), ti=TaskInstance(try_number=2), **TABLE)

    # when it is undone by its run id, then wholly, but for what the first try saw that somebody else had done.
    revert(TaskInstance(run_id="undo", task_id="revert"), reverts_run_id="manual__1", **TABLE)
    assert everything(sandbox) == before | {somebody_elses: {**before[somebody_elses], "payment": "paid"}}


def test_a_revert_within_the_run_that_it_reverts_can_be_retried(
    sandbox: Sandbox, warehouse: sqlite3.Connection
) -> None:
    before, undo = everything(sandbox), {"task_id": "undo", "run_id": "manual__1"}
    reconcile(paid_rows(sandbox), **TABLE)
    revert(TaskInstance(**undo), reverts_run_id="manual__1", **TABLE)

    assert revert(TaskInstance(**undo, try_number=2), reverts_run_id="manual__1", **TABLE)["unchanged"] > 0
    assert everything(sandbox) == before


def test_a_status_goes_back_over_an_update_that_was_never_confirmed(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an update whose answer was lost, and one more by a try with another desired status,
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(max_attempts=1))
    before, (order_id, *_) = everything(sandbox), payable(sandbox)
    reports = [str(tmp_path / "report.jsonl"), str(tmp_path / "report.2.jsonl")]
    sandbox.misbehave("lose-answer", route="PUT *")
    with pytest.raises(YouCanTransientError):
        reconcile([{"order_id": order_id, "payment_status": "paid"}], report_path=reports[0])
    sandbox.misbehaviours.clear()
    reconcile([{"order_id": order_id, "payment_status": "captured"}], report_path=reports[0])

    revert(report=reports)

    assert everything(sandbox) == before


def test_an_update_that_failed_hides_none_that_was_made(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a change, and another desired status of which nobody knows whether it was set, and which was not,
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(max_attempts=1))
    before, (order_id, *_) = everything(sandbox), payable(sandbox)
    reports = [str(tmp_path / "report.jsonl"), str(tmp_path / "report.2.jsonl")]
    reconcile([{"order_id": order_id, "payment_status": "paid"}], report_path=reports[0])
    sandbox.misbehave("status", status=500, route="PUT *")
    with pytest.raises(YouCanTransientError):
        reconcile([{"order_id": order_id, "payment_status": "captured"}], report_path=reports[0])
    sandbox.misbehaviours.clear()

    revert(report=reports)

    assert everything(sandbox) == before


def test_what_says_nothing_is_refused(sandbox: Sandbox, plan: Path, tmp_path: Path) -> None:
    empty, cut = tmp_path / "empty.jsonl", tmp_path / "cut.jsonl"
    empty.write_text("")
    cut.write_text("".join(plan.read_text().splitlines(keepends=True)[:-1]))

    for report, message in ((str(empty), "is empty"), (str(cut), "is cut off"), ([str(empty), str(cut)], "is cut off")):
        with pytest.raises(YouCanInvalidInputError, match=message):
            revert(report=report)


@pytest.mark.parametrize("change", [{"reason": 5}, {"before": []}, {"context": {}}])
def test_a_line_of_another_shape_ends_in_a_sentence(
    sandbox: Sandbox, plan: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    lines = read_lines(plan)
    lines[0] |= {"outcome": "failed", **change}
    broken = tmp_path / "broken.jsonl"
    broken.write_text("".join(json.dumps(line) + "\n" for line in lines))

    with suppress(YouCanError):
        revert(report=str(broken))
    broken.write_text("[" * 100_000 + "\n")
    with pytest.raises(YouCanError):
        revert(report=str(broken))


def test_a_line_of_a_report_wins_over_the_plans(sandbox: Sandbox, plan: Path, tmp_path: Path) -> None:
    # Given an order that somebody else set to what the plan wants,
    (first, *_) = payable(sandbox)
    sandbox.shop.set_status(first, "payment", "paid")
    report = tmp_path / "report.jsonl"
    reconcile(plan=str(plan), report_path=str(report))

    revert(report=[str(plan), str(report)])

    assert sandbox.shop.statuses(first)["payment"] == "paid"


def test_what_a_refused_run_planned_is_not_taken_back(sandbox: Sandbox, tmp_path: Path) -> None:
    report, rows = tmp_path / "report.jsonl", paid_rows(sandbox)
    with pytest.raises(YouCanTooManyChangesError):
        reconcile(rows, max_changes=0, report_path=str(report))
    for row in rows:
        sandbox.shop.set_status(row["order_id"], "payment", "paid")

    assert revert(report=str(report))["changed"] == 0


def test_a_run_is_taken_back_by_its_id(sandbox: Sandbox, warehouse: sqlite3.Connection) -> None:
    before, rows = everything(sandbox), paid_rows(sandbox)
    table: dict[str, Any] = {"report_table": "youcan_outcomes", "report_conn_id": "warehouse"}
    reconcile(rows[:4], TaskInstance(), **table)
    reconcile(rows, TaskInstance(try_number=2), **table)
    reconcile([], TaskInstance(run_id="manual__2"), **table)
    ti = TaskInstance(dag_id="undo", task_id="revert", run_id="manual__3")

    assert revert(ti, reverts_run_id="manual__1", dry_run=True, **table)["planned"] == len(rows)
    assert revert(ti, reverts_run_id="manual__1", **table)["changed"] == len(rows)

    assert everything(sandbox) == before
    with pytest.raises(YouCanInvalidInputError, match="no outcomes of the run 'manual__9'"):
        revert(ti, reverts_run_id="manual__9", **table)
    # and that in its turn.
    assert revert(TaskInstance(run_id="manual__4"), reverts_run_id="manual__3", **table)["changed"] == len(rows)


def test_a_run_id_of_several_tasks_is_refused_until_one_is_named(
    sandbox: Sandbox, warehouse: sqlite3.Connection
) -> None:
    rows = paid_rows(sandbox)
    table: dict[str, Any] = {"report_table": "youcan_outcomes", "report_conn_id": "warehouse"}
    reconcile(rows[:2], TaskInstance(task_id="one"), **table)
    reconcile(rows[2:4], TaskInstance(task_id="two"), **table)

    with pytest.raises(YouCanInvalidInputError, match=r"\(warehouse\.one, warehouse\.two\)"):
        revert(reverts_run_id="manual__1", **table)
    assert revert(TaskInstance(run_id="r"), reverts_run_id="manual__1", reverts_task_id="two", **table)["changed"] == 2


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"report": "x", "reverts_run_id": "y", "report_table": "t", "report_conn_id": "c"},
        {"reverts_run_id": "y"},
        {"reverts_run_id": "y", "report_table": "t"},
        {"report": "x", "report_table": "t"},
        {"report": "x", "reverts_task_id": "t"},
    ],
)
def test_what_is_to_be_taken_back_is_said_once_and_wholly(arguments: dict[str, Any]) -> None:
    with pytest.raises(YouCanInvalidInputError):
        YouCanRevertReconciliationOperator(task_id="revert", **arguments)


@pytest.mark.parametrize("report", [None, "", "None", [], [None]])
def test_a_report_that_renders_to_nothing_is_refused(sandbox: Sandbox, report: Any) -> None:
    operator = YouCanRevertReconciliationOperator(task_id="revert", report="{{ params.report }}")
    operator.report = report

    with pytest.raises(YouCanInvalidInputError, match="report"):
        run(operator)


# --- a record that a retry can't destroy ---


def test_of_tasks_that_come_at_once_each_has_its_own_report(tmp_path: Path) -> None:
    path, start = str(tmp_path / "report.jsonl"), threading.Barrier(16)

    def write(number: int) -> str | None:
        start.wait()
        with ReportFile(path) as file:
            assert file.text is not None
            file.text.write(str(number))
        return file.path

    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(write, range(16)))

    assert [Path(str(one)).read_text() for one in paths] == [str(number) for number in range(16)]


def test_a_report_is_written_beside_what_is_there(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    path.write_text("of another try")

    second = reconcile(paid_rows(sandbox), report_path=str(path))
    third = reconcile(paid_rows(sandbox), report_path=str(path))

    assert path.read_text() == "of another try"
    assert second["report_path"] == str(tmp_path / "report.2.jsonl")
    assert third["report_path"] == str(tmp_path / "report.3.jsonl")
    assert Path(second["report_path"]).read_text()


# --- for any table, shop and interleaved changes of others ---

SLUGS = {
    "general": ["open", "closed", "processed"],
    "shipping": ["unfulfilled", "shipped", "fulfilled"],
    "payment": ["pending", "paid", "refunded"],
}
COLUMNS = {"general": "status", "shipping": "shipping_status", "payment": "payment_status"}
orders_with = {context: st.lists(st.sampled_from(slugs), min_size=5, max_size=5) for context, slugs in SLUGS.items()}
tables = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(sorted(SLUGS)), st.integers(0, 2)),
    max_size=12,
    unique_by=lambda x: x[:2],
)
changes_of_others = st.dictionaries(
    st.integers(1, 25), st.tuples(st.integers(0, 4), st.sampled_from(sorted(SLUGS)), st.integers(0, 2)), max_size=4
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries(orders_with), tables, changes_of_others)
def test_a_plan_changes_no_more_than_it_says_and_can_be_taken_back(
    sandbox: Sandbox, tmp_path: Path, shop: Any, table: Any, others: Any
) -> None:
    # Given a shop, and the plan of a table,
    orders = sandbox.shop.order_ids()[:5]
    for context, slugs in shop.items():
        for order_id, slug in zip(orders, slugs, strict=True):
            sandbox.shop.set_status(order_id, context, slug)
    rows = [{"order_id": orders[order], COLUMNS[context]: SLUGS[context][slug]} for order, context, slug in table]
    before = everything(sandbox)
    plan = reconcile(rows, dry_run=True, report_path=str(tmp_path / "plan.jsonl"))["report_path"]
    planned = {
        (line["order_id"], line["context"], line["wanted"])
        for line in read_report(Path(plan))
        if line["outcome"] == "planned"
    }
    # when it is applied while others change statuses, too,
    touched: set[tuple[str, str]] = set()
    asked = len(sandbox.requests)

    def meddle(request: Request) -> None:
        if (change := others.get(request.number - asked)) is not None:
            order, context, slug = change
            touched.add((orders[order], context))
            sandbox.shop.set_status(orders[order], context, SLUGS[context][slug])

    with sandbox.on_request(meddle):
        report = reconcile(plan=plan, report_path=str(tmp_path / "report.jsonl"))["report_path"]

    # then no more was sent than it says,
    sent = {
        (path.split("/")[2], path.split("/")[4] if path.count("/") > 3 else "general", json.loads(body)["status"])
        for path, body in ((one.path, one.body) for one in sandbox.requests[asked:] if one.method == "PUT")
    }
    assert sent <= planned
    # and what nobody else touched is as before, once it is taken back.
    revert(report=report)
    after = everything(sandbox)
    for order_id, statuses in before.items():
        for context, slug in statuses.items():
            assert (order_id, context) in touched or after[order_id][context] == slug
