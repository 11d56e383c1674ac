"""A plan: what was approved is applied, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_youcan.exceptions import (
    YouCanInvalidInputError,
)
from airflow_provider_youcan.operators.reconcile import (
    YouCanReconcileOrdersOperator,
)
from airflow_provider_youcan.sandbox.shop import Request
from tests.conftest import (
    Sandbox,
    all_statuses,
    paid_rows,
    paths,
    payable,
    read_lines,
    read_report,
    reconcile,
    revert,
)

GUARD = {"payment": ["pending", "unpaid"]}


def test_a_plan_is_applied_and_nothing_else(sandbox: Sandbox, plan: Path, tmp_path: Path) -> None:
    # Given a plan, after which a person changes three orders, and new ones come in,
    first, second, third, *rest = payable(sandbox)
    sandbox.shop.set_status(first, "payment", "refunded")
    sandbox.shop.set_status(second, "payment", "unpaid")
    sandbox.shop.set_status(third, "payment", "paid")
    sandbox.shop.add_orders(20)
    before = all_statuses(sandbox)

    # when it is applied,
    report = tmp_path / "applied.jsonl"
    summary = reconcile(plan=str(plan), report_path=str(report))

    # then the rest of the plan is done, and nothing else.
    assert all_statuses(sandbox) == before | {order_id: {**before[order_id], "payment": "paid"} for order_id in rest}
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
    assert paths(sandbox, "PUT") == []


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
        (edit(wanted=" "), "rows can't be used: plan again; nothing was sent.\nrow 1, order "),
        (edit(wanted=7), "Line 1 of .* makes no sense"),
        (edit(outcome="dreamt"), "Line 1 of .* makes no sense"),
        (edit(outcome="not_reached"), "ended before it came to 1 statuses"),
        (edit(wanted="payed"), "did you mean 'paid'"),
    ],
)
def test_an_incomplete_or_foreign_plan_is_refused_with_nothing_sent(
    sandbox: Sandbox, plan: Path, change: Callable[[str], str], message: str
) -> None:
    plan.write_text(change(plan.read_text()))

    with pytest.raises(YouCanInvalidInputError, match=message):
        reconcile(plan=str(plan))

    assert paths(sandbox, "PUT") == []


def test_a_plan_that_is_not_there_or_is_the_report_is_refused(sandbox: Sandbox, plan: Path, tmp_path: Path) -> None:
    with pytest.raises(YouCanInvalidInputError, match="There is no report at"):
        reconcile(plan=str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(YouCanInvalidInputError, match="plan and report_path are both"):
        reconcile(plan=str(plan), report_path=f"file://{plan.parent}/../{plan.parent.name}/plan.jsonl")
    with pytest.raises(YouCanInvalidInputError, match="can't be read"):
        reconcile(plan="klingon://bucket/plan.jsonl")

    assert paths(sandbox, "PUT") == []


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
def test_arguments_that_the_plan_decides_are_refused_beside_it(arguments: dict[str, Any]) -> None:
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
    assert reconcile(paid_rows(sandbox), report_path=str(tmp_path / "report.jsonl"))["changed"]

    assert "/me" not in paths(sandbox, "GET")


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

    assert ": plan again; nothing was sent." in str(error.value)
    assert "on_invalid" not in str(error.value)
    assert "status_map" not in str(error.value)


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
    before = all_statuses(sandbox)
    plan = reconcile(rows, dry_run=True, report_path=str(tmp_path / "plan.jsonl"))["report_path"]
    planned = {
        (line["order_id"], line["context"], line["wanted"])
        for line in read_report(Path(plan))
        if line["outcome"] == "planned"
    }
    # when it is applied while others change statuses, too,
    touched: set[tuple[str, str]] = set()
    asked = len(sandbox.shop.requests())

    def interfere(_: Request) -> None:
        if (change := others.get(len(sandbox.shop.requests()) - asked)) is not None:
            order, context, slug = change
            touched.add((orders[order], context))
            sandbox.shop.set_status(orders[order], context, SLUGS[context][slug])

    with sandbox.on_request(interfere):
        report = reconcile(plan=plan, report_path=str(tmp_path / "report.jsonl"))["report_path"]

    # then no more was sent than it says,
    sent = {
        (path.split("/")[2], path.split("/")[4] if path.count("/") > 3 else "general", json.loads(body)["status"])
        for path, body in (
            (one["path"], one["body"]) for one in sandbox.shop.requests()[asked:] if one["method"] == "PUT"
        )
    }
    assert sent <= planned
    # and what nobody else touched is as before, once it is taken back.
    revert(report=report)
    after = all_statuses(sandbox)
    for order_id, statuses in before.items():
        for context, slug in statuses.items():
            assert (order_id, context) in touched or after[order_id][context] == slug


def test_a_newer_plan_beside_it_is_named(sandbox: Sandbox, plan: Path) -> None:
    newer = reconcile(paid_rows(sandbox), dry_run=True, report_path=str(plan))["report_path"]

    with pytest.raises(YouCanInvalidInputError, match=f"newer plan than .*: {newer}"):
        reconcile(plan=str(plan))
    assert reconcile(plan=newer)["changed"] > 0


def test_an_order_is_not_closed_if_what_held_when_it_was_planned_no_longer_does(
    sandbox: Sandbox, fresh: list[str], tmp_path: Path
) -> None:
    # Given a plan that closes an order whose shipping is where it should be,
    plan, report = str(tmp_path / "plan.jsonl"), tmp_path / "report.jsonl"
    sandbox.shop.set_status(fresh[0], "shipping", "fulfilled")
    rows = [{"order_id": order_id, "shipping_status": "fulfilled", "status": "closed"} for order_id in fresh[:1]]
    reconcile(rows, dry_run=True, report_path=plan)

    # when the parcel comes back before it is applied,
    sandbox.shop.set_status(fresh[0], "shipping", "processing")
    reconcile(plan=plan, report_path=str(report))

    # then the order stays open.
    assert sandbox.shop.statuses(fresh[0])["general"] == "open"
    (line,) = [one for one in read_report(report) if one["context"] == "general"]
    assert line["outcome"] == "protected"
    assert "the shipping status of this order is now 'processing'" in line["reason"]
