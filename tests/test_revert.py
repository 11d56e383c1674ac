"""Undo: a run is taken back, by its report or by its run id."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_youcan.exceptions import (
    YouCanError,
    YouCanInvalidInputError,
    YouCanPermanentError,
    YouCanTooManyChangesError,
    YouCanTransientError,
)
from airflow_provider_youcan.operators.reconcile import (
    YouCanRevertReconciliationOperator,
)
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.record.reader import read_record
from airflow_provider_youcan.reconciliation.revert import read_revert
from airflow_provider_youcan.sandbox.shop import Request
from tests.conftest import (
    TABLE,
    Sandbox,
    TaskInstance,
    all_statuses,
    execute,
    paid_rows,
    paths,
    payable,
    read_lines,
    read_report,
    reconcile,
    revert,
)


def test_a_run_is_taken_back(sandbox: Sandbox, tmp_path: Path) -> None:
    before = all_statuses(sandbox)
    rows = [{"order_id": one, "payment_status": "paid", "status": "closed"} for one in payable(sandbox)]
    reconcile(rows, report_path=str(tmp_path / "report.jsonl"))
    assert all_statuses(sandbox) != before
    sent = len(paths(sandbox, "PUT"))

    summary = revert(report=str(tmp_path / "report.jsonl"))

    assert all_statuses(sandbox) == before
    assert summary["changed"] == 2 * len(rows)
    # The general status of each order first.
    order = [path.split("/")[2] for path in paths(sandbox, "PUT")[sent:] if path.endswith("/status")]
    assert len(order) == len(rows)
    for order_id in order:
        mine = [path for path in paths(sandbox, "PUT")[sent:] if order_id in path]
        assert mine[0].endswith("/status")


def test_later_changes_of_others_are_protected(sandbox: Sandbox, tmp_path: Path) -> None:
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
    before, rows = all_statuses(sandbox), paid_rows(sandbox)
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in ("run", "plan", "applied")}
    reconcile(rows, report_path=paths["run"])
    after = all_statuses(sandbox)

    assert revert(report=paths["run"], dry_run=True, report_path=paths["plan"])["planned"] == len(rows)
    assert all_statuses(sandbox) == after
    reconcile(plan=paths["plan"], report_path=paths["applied"])
    assert all_statuses(sandbox) == before
    revert(report=paths["applied"])
    assert all_statuses(sandbox) == after


def test_an_update_whose_outcome_was_unknown_is_taken_back_where_the_shop_shows_it(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(max_attempts=2))
    before, report = all_statuses(sandbox), tmp_path / "report.jsonl"
    first, second, *_ = payable(sandbox)
    # The answer to the first is lost, and nothing can be read after it.
    sandbox.misbehave("lose-answer", route=f"PUT /orders/{first}*")
    sandbox.misbehave("status", status=500, route=f"PUT /orders/{second}*")
    rows = [{"order_id": one, "payment_status": "paid"} for one in (first, second)]

    def keep(request: Request) -> None:
        if request.method == "PUT":
            sandbox.misbehave("status", status=503, route="GET /orders/*-*")

    with sandbox.on_request(keep), pytest.raises(YouCanError):
        reconcile(rows, report_path=str(report), max_concurrency=1)
    sandbox.misbehaviours.clear()
    assert all_statuses(sandbox) != before

    summary = revert(report=str(report))

    assert all_statuses(sandbox) == before
    assert (summary["changed"], summary["unchanged"]) == (1, 1)


def test_statuses_that_can_not_be_restored_are_invalid(sandbox: Sandbox, tmp_path: Path) -> None:
    report, reverted = tmp_path / "report.jsonl", tmp_path / "reverted.jsonl"
    first, second, third, *_ = payable(sandbox)
    sandbox.shop.set_status(second, "payment", "a label that is no status")
    reconcile([{"order_id": one, "payment_status": "paid"} for one in (first, second, third)], report_path=str(report))
    lines = read_lines(report)
    for line in lines:
        line["before"] = None if line["order_id"] == first else line["before"]
    report.write_text("".join(json.dumps(line) + "\n" for line in lines))

    summary = revert(report=str(report), report_path=str(reverted))

    assert (summary["invalid"], summary["changed"]) == (1, 2)
    (reason,) = [line["reason"] for line in read_report(reverted) if line["outcome"] == "invalid"]
    assert "what it was before is not known" in reason
    assert sandbox.shop.statuses(second)["payment"] == "a label that is no status", "it was there before"


def test_the_tries_of_a_run_are_one(sandbox: Sandbox, tmp_path: Path) -> None:
    # Given two tries, between which someone moved an order on,
    before = all_statuses(sandbox)
    first, second, *_ = payable(sandbox)
    tries = [str(tmp_path / "report.jsonl"), str(tmp_path / "report.2.jsonl")]
    reconcile([{"order_id": first, "payment_status": "paid"}], report_path=tries[0])
    sandbox.shop.set_status(first, "payment", "unpaid")
    rows = [{"order_id": one, "payment_status": "captured"} for one in (first, second)]
    assert reconcile(rows, report_path=tries[0])["report_path"] == tries[1]

    # when both are taken back, then to what that person set, and to what was before the first.
    assert revert(report=tries)["changed"] == 2
    assert all_statuses(sandbox) == before | {first: {**before[first], "payment": "unpaid"}}


def test_the_tries_of_a_run_go_back_to_what_was_before_the_first(sandbox: Sandbox, tmp_path: Path) -> None:
    before, (first, *_) = all_statuses(sandbox), payable(sandbox)
    tries = [str(tmp_path / "report.jsonl"), str(tmp_path / "report.2.jsonl")]
    for status in ("paid", "captured"):
        reconcile([{"order_id": first, "payment_status": status}], report_path=tries[0])

    assert revert(report=tries)["changed"] == 1
    assert all_statuses(sandbox) == before


@pytest.mark.parametrize("names_both", [False, True])
def test_a_newer_report_beside_the_one_that_is_taken_back_is_named(
    sandbox: Sandbox, tmp_path: Path, log_lines: Callable[[], list[str]], *, names_both: bool
) -> None:
    reports = [str(tmp_path / "report.jsonl"), str(tmp_path / "report.2.jsonl")]
    for order_id in payable(sandbox)[:2]:
        reconcile([{"order_id": order_id, "payment_status": "paid"}], report_path=reports[0])

    assert revert(report=reports if names_both else reports[0])["changed"] == (2 if names_both else 1)

    warning = f"There is a newer report: {reports[1]} is not taken back"
    assert any(warning in line for line in log_lines()) is not names_both


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
    before = all_statuses(sandbox)
    report, ti = tmp_path / "report.jsonl", TaskInstance()
    reconcile(plan=str(plan), report_path=str(report))
    report.write_text("".join(report.read_text().splitlines(keepends=True)[:2]))

    # when it is taken back by both, then it is all undone, and the preview says what that rests on.
    revert(ti, report=[str(report), str(plan)])
    assert all_statuses(sandbox) == before
    assert "This run was cut off." in ti.pushed["preview"]


def test_a_revert_within_the_run_that_it_reverts_can_be_retried(
    sandbox: Sandbox, warehouse: sqlite3.Connection
) -> None:
    before, undo = all_statuses(sandbox), {"task_id": "undo", "run_id": "manual__1"}
    reconcile(paid_rows(sandbox), **TABLE)
    revert(TaskInstance(**undo), reverts_run_id="manual__1", **TABLE)

    assert revert(TaskInstance(**undo, try_number=2), reverts_run_id="manual__1", **TABLE)["unchanged"] > 0
    assert all_statuses(sandbox) == before


def test_a_status_goes_back_over_an_update_that_was_never_confirmed(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an update whose answer was lost, and one more by a try with another desired status,
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(max_attempts=1))
    before, (order_id, *_) = all_statuses(sandbox), payable(sandbox)
    reports = [str(tmp_path / "report.jsonl"), str(tmp_path / "report.2.jsonl")]
    sandbox.misbehave("lose-answer", route="PUT *")
    with pytest.raises(YouCanTransientError):
        reconcile([{"order_id": order_id, "payment_status": "paid"}], report_path=reports[0])
    sandbox.misbehaviours.clear()
    reconcile([{"order_id": order_id, "payment_status": "captured"}], report_path=reports[0])

    revert(report=reports)

    assert all_statuses(sandbox) == before


def test_an_update_that_failed_hides_none_that_was_made(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a change, and another desired status of which nobody knows whether it was set, and which was not,
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(max_attempts=1))
    before, (order_id, *_) = all_statuses(sandbox), payable(sandbox)
    reports = [str(tmp_path / "report.jsonl"), str(tmp_path / "report.2.jsonl")]
    reconcile([{"order_id": order_id, "payment_status": "paid"}], report_path=reports[0])
    sandbox.misbehave("status", status=500, route="PUT *")
    with pytest.raises(YouCanTransientError):
        reconcile([{"order_id": order_id, "payment_status": "captured"}], report_path=reports[0])
    sandbox.misbehaviours.clear()

    revert(report=reports)

    assert all_statuses(sandbox) == before


def test_an_update_that_youcan_refused_is_not_taken_back(sandbox: Sandbox, tmp_path: Path) -> None:
    # Given an update that was announced, sent and refused, and somebody else who set the same,
    (order_id, *_), report = payable(sandbox), tmp_path / "report.jsonl"
    sandbox.misbehave("status", status=422, route="PUT *", times=1)
    with pytest.raises(YouCanPermanentError):
        reconcile([{"order_id": order_id, "payment_status": "paid"}], report_path=str(report))
    sandbox.shop.set_status(order_id, "payment", "paid")

    assert revert(report=str(report))["changed"] == 0
    assert sandbox.shop.statuses(order_id)["payment"] == "paid"


def test_a_runs_first_value_is_protected_after_its_second(sandbox: Sandbox, tmp_path: Path) -> None:
    # Given two tries that set one status after the other, and somebody who sets it back to the first,
    (order_id, *_) = payable(sandbox)
    reports = [str(tmp_path / "report.jsonl"), str(tmp_path / "report.2.jsonl")]
    for status in ("paid", "captured"):
        reconcile([{"order_id": order_id, "payment_status": status}], report_path=reports[0])
    sandbox.shop.set_status(order_id, "payment", "paid")

    # when both are taken back, then that is somebody else's, and stays.
    assert revert(report=reports)["protected"] == 1
    assert sandbox.shop.statuses(order_id)["payment"] == "paid"


def test_a_share_of_a_revert_is_of_all_that_the_run_was_about(sandbox: Sandbox, tmp_path: Path) -> None:
    # Given a run that changed half of what its table asked for,
    rows = paid_rows(sandbox)[:6]
    for row in rows[:3]:
        sandbox.shop.set_status(row["order_id"], "payment", "paid")
    reconcile(rows, report_path=str(tmp_path / "report.jsonl"))

    with pytest.raises(YouCanTooManyChangesError, match="3 of 6 statuses"):
        revert(report=str(tmp_path / "report.jsonl"), max_changes="49%")
    assert revert(report=str(tmp_path / "report.jsonl"), max_changes="50%")["changed"] == 3


def test_the_plan_of_another_store_is_refused_beside_a_report(sandbox: Sandbox, plan: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    reconcile(plan=str(plan), report_path=str(report))
    plan.write_text(plan.read_text().replace('"store": "sandbox"', '"store": "another"'))

    with pytest.raises(YouCanInvalidInputError, match="belongs to the store 'another'"):
        revert(report=[str(report), str(plan)])


def test_empty_records_are_refused(sandbox: Sandbox, plan: Path, tmp_path: Path) -> None:
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


def test_a_refused_runs_plan_is_not_taken_back(sandbox: Sandbox, tmp_path: Path) -> None:
    report, rows = tmp_path / "report.jsonl", paid_rows(sandbox)
    with pytest.raises(YouCanTooManyChangesError):
        reconcile(rows, max_changes=0, report_path=str(report))
    for row in rows:
        sandbox.shop.set_status(row["order_id"], "payment", "paid")

    assert revert(report=str(report))["changed"] == 0


def test_a_run_is_taken_back_by_its_id(sandbox: Sandbox, warehouse: sqlite3.Connection) -> None:
    before, rows = all_statuses(sandbox), paid_rows(sandbox)
    table: dict[str, Any] = {"report_table": "youcan_outcomes", "report_conn_id": "warehouse"}
    reconcile(rows[:4], TaskInstance(), **table)
    reconcile(rows, TaskInstance(try_number=2), **table)
    reconcile([], TaskInstance(run_id="manual__2"), **table)
    ti = TaskInstance(dag_id="undo", task_id="revert", run_id="manual__3")

    assert revert(ti, reverts_run_id="manual__1", dry_run=True, **table)["planned"] == len(rows)
    assert revert(ti, reverts_run_id="manual__1", **table)["changed"] == len(rows)

    assert all_statuses(sandbox) == before
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
def test_the_run_to_take_back_is_named_once_and_completely(arguments: dict[str, Any]) -> None:
    with pytest.raises(YouCanInvalidInputError):
        YouCanRevertReconciliationOperator(task_id="revert", **arguments)


@pytest.mark.parametrize("report", [None, "", "None", [], [None]])
def test_a_report_that_renders_to_nothing_is_refused(sandbox: Sandbox, report: Any) -> None:
    operator = YouCanRevertReconciliationOperator(task_id="revert", report="{{ params.report }}")
    operator.report = report

    with pytest.raises(YouCanInvalidInputError, match="report"):
        execute(operator)


# --- the rule, from lines alone ---


def line(outcome: str, before: str | None, wanted: str, **others: Any) -> dict[str, Any]:
    made = {"order_id": "abc", "ref": None, "context": "payment", "reason": None, "unconfirmed": False}
    return made | {"before": before, "wanted": wanted, "outcome": outcome} | others


END = {
    **dict.fromkeys(("order_id", "ref", "context", "before", "wanted", "reason")),
    "outcome": "complete",
    "unconfirmed": False,
    "dry_run": False,
    "store": None,
    "rows": 1,
    "not_reached": 0,
}


def target(*tries: list[dict[str, Any]]) -> tuple[str | None, tuple[str, ...]]:
    """Return what the undo of a run restores, and while the shop shows what; ``None`` for nothing at all."""
    records = [read_record([json.dumps(one).encode() + b"\n" for one in lines], "x") for lines in tries]
    run_input = read_revert(records)
    if not (orders := run_input.desired.orders):
        return None, ()
    (order,) = orders
    guard = run_input.guard(order, StatusContext.PAYMENT)
    return order.desired[StatusContext.PAYMENT], guard.only_from if guard else ()


SENDING = line("sending", "pending", "paid")
RULES: dict[str, tuple[list[list[dict[str, Any]]], tuple[str | None, tuple[str, ...]]]] = {
    "a change": ([[SENDING, line("changed", "pending", "paid"), END]], ("pending", ("paid",))),
    "an announcement that nothing answers": ([[SENDING]], ("pending", ("paid",))),
    "an update that is unconfirmed, whatever its outcome": (
        [[SENDING, line("not_found", "pending", "paid", unconfirmed=True), END]],
        ("pending", ("paid",)),
    ),
    "an announcement that was given up": ([[SENDING, line("not_reached", None, "paid"), END]], (None, ())),
    "one that was answered by what was read": ([[SENDING, line("unchanged", "paid", "paid"), END]], (None, ())),
    "another row that asks for the same answers nothing": (
        [[SENDING, line("unchanged", "pending", "paid", reason="row 1 asks for the same")]],
        ("pending", ("paid",)),
    ),
    "announced anew on another status": (
        [[SENDING, line("sending", "unpaid", "paid"), line("changed", "unpaid", "paid"), END]],
        ("unpaid", ("paid",)),
    ),
    "over two tries": (
        [[line("changed", "pending", "paid"), END], [line("changed", "paid", "captured"), END]],
        ("pending", ("captured",)),
    ),
    "over a try that was killed": (
        [[SENDING], [line("sending", "paid", "captured"), line("changed", "paid", "captured"), END]],
        ("pending", ("captured",)),
    ),
    "what a person set between two tries": (
        [[SENDING], [line("sending", "unpaid", "paid"), line("changed", "unpaid", "paid"), END]],
        ("unpaid", ("paid",)),
    ),
    "back to the last effect that is certain": (
        [[line("changed", "pending", "paid"), line("sending", "paid", "captured")]],
        ("pending", ("captured", "paid")),
    ),
    "a retry that found all done": ([[SENDING], [line("unchanged", "paid", "paid"), END]], ("pending", ("paid",))),
    "a label that reads like nothing": ([[line("changed", "None", "paid"), END]], ("None", ("paid",))),
    "a line of an older version": (
        [
            [
                {**line("failed", "pending", "paid"), "reason": "lost; whether YouCan took it is unknown"}
                | {"unconfirmed": None},
                END,
            ]
        ],
        ("pending", ("paid",)),
    ),
}


@pytest.mark.parametrize(("tries", "expected"), RULES.values(), ids=list(RULES))
def test_undo_goes_by_the_effects_that_the_record_names(
    tries: list[list[dict[str, Any]]], expected: tuple[str | None, tuple[str, ...]]
) -> None:
    assert target(*tries) == expected


def test_no_decision_rests_on_a_reason() -> None:
    lines = [{**SENDING, "reason": "whether YouCan took it is unknown"}, line("failed", "pending", "paid"), END]
    lines[1]["reason"] = "whether YouCan took it is unknown"

    assert target(lines) == (None, ())


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_record_that_is_cut_anywhere_is_read_up_to_there(cut: int) -> None:
    whole = json.dumps(line("changed", "تم الدفع", "paid"), ensure_ascii=False).encode() + b"\n"
    cut_off = json.dumps(line("changed", "تم الدفع", "paid"), ensure_ascii=False).encode()[:-cut]

    record = read_record([whole, cut_off], "x")

    assert (len(record.lines), record.cut_line) == (1, 2)


def test_a_byte_order_mark_and_blank_lines_do_no_harm() -> None:
    lines = [b"\xef\xbb\xbf" + json.dumps(SENDING).encode() + b"\n", json.dumps(END).encode() + b"\n", b"\n"]

    assert read_record(lines, "x").end is not None


def test_one_map_index_can_be_taken_back(sandbox: Sandbox, warehouse: sqlite3.Connection) -> None:
    first, second, *_ = payable(sandbox)
    before = all_statuses(sandbox)
    for map_index, order_id in enumerate((first, second)):
        reconcile([{"order_id": order_id, "payment_status": "paid"}], TaskInstance(map_index=map_index), **TABLE)

    revert(TaskInstance(run_id="undo"), reverts_run_id="manual__1", reverts_map_index=1, **TABLE)
    assert all_statuses(sandbox) == before | {first: {**before[first], "payment": "paid"}}
    revert(TaskInstance(run_id="undo2"), reverts_run_id="manual__1", **TABLE)
    assert all_statuses(sandbox) == before


def test_a_run_over_several_shops_is_taken_back_shop_by_shop(
    sandbox: Sandbox, warehouse: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, (order_id, *_) = all_statuses(sandbox), payable(sandbox)
    with Sandbox(orders=20) as other:
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", other.connection())
        row = {"order_id": order_id, "payment_status": "paid"}
        reconcile([row], TaskInstance(map_index=0), **TABLE)
        reconcile([row], TaskInstance(map_index=1), youcan_conn_id="other", **TABLE)

        revert(TaskInstance(run_id="undo"), reverts_run_id="manual__1", **TABLE)

        assert all_statuses(sandbox) == before
        assert other.shop.statuses(order_id)["payment"] == "paid"


def test_a_table_of_an_older_version_is_refused_with_what_adds_its_columns(
    sandbox: Sandbox, warehouse: sqlite3.Connection
) -> None:
    reconcile([], **TABLE)
    for column in ("unconfirmed", "line", "youcan_conn_id", "store", "record_version"):
        warehouse.execute(f"alter table youcan_outcomes drop column {column}")
    warehouse.commit()
    rows = [{"order_id": payable(sandbox)[0], "payment_status": "paid"}]

    with pytest.raises(YouCanInvalidInputError, match="older version") as raised:
        reconcile(rows, **TABLE)
    assert sandbox.shop.history() == []

    for statement in re.findall(r"alter table [^;]+;", str(raised.value)):
        warehouse.execute(statement)
    warehouse.commit()
    assert reconcile(rows, **TABLE)["changed"] == 1
