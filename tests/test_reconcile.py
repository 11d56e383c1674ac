"""Reconciling tables with the sandbox: each promise of the operator, as a user would see it kept or broken."""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_youcan.exceptions import (
    YouCanInvalidInputError,
    YouCanPermanentError,
    YouCanUnknownStatusError,
)
from airflow_provider_youcan.operators.reconcile import (
    YouCanReconcileOrdersOperator,
    YouCanRevertReconciliationOperator,
)
from airflow_provider_youcan.orders import StatusContext
from tests.conftest import UNKNOWN_ID, RunDag, Sandbox, execute, paid_rows, paths, payable, read_report, reconcile


def test_it_sends_the_difference_and_nothing_else(sandbox: Sandbox, tmp_path: Path) -> None:
    rows = [{"order_id": order_id, "payment_status": "paid"} for order_id in sandbox.shop.order_ids()]
    before = {order_id: sandbox.shop.statuses(order_id) for order_id in sandbox.shop.order_ids()}
    due = [order_id for order_id, statuses in before.items() if statuses["payment"] != "paid"]

    summary = reconcile(rows, report_path=str(tmp_path / "new" / "report.jsonl"))

    assert {path.split("/")[2] for path in paths(sandbox, "PUT")} == set(due)
    assert len(paths(sandbox, "PUT")) == len(due)
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
    sent = len(paths(sandbox, "PUT"))

    again = reconcile(rows)

    assert len(paths(sandbox, "PUT")) == sent
    assert (again["changed"], again["unchanged"], again["requests"]) == (0, 20, 2)


def test_a_dry_run_says_what_would_change(sandbox: Sandbox, fresh: list[str], tmp_path: Path) -> None:
    report = tmp_path / "plan.jsonl"

    summary = reconcile(
        [{"order_id": fresh[0], "payment_status": "paid"}, {"order_id": fresh[1], "status": "open"}],
        dry_run=True,
        report_path=str(report),
    )

    assert paths(sandbox, "PUT") == []
    assert (summary["planned"], summary["changed"], summary["unchanged"]) == (1, 0, 1)
    assert Counter(line["outcome"] for line in read_report(report)) == {"planned": 1, "unchanged": 1}


@pytest.mark.parametrize(("dry_run", "changed"), [("True", 0), ("true", 0), ("False", 1), (True, 0), (False, 1)])
def test_a_dry_run_can_be_templated(sandbox: Sandbox, dry_run: Any, changed: int) -> None:
    row = {"order_id": payable(sandbox)[0], "payment_status": "paid"}

    assert reconcile([row], dry_run=dry_run)["changed"] == changed


@pytest.mark.parametrize("dry_run", ["", "None", "yes", 1, None])
def test_a_dry_run_that_is_neither_true_nor_false_is_refused(sandbox: Sandbox, dry_run: Any) -> None:
    with pytest.raises(YouCanInvalidInputError, match="dry_run"):
        reconcile([{"order_id": payable(sandbox)[0], "payment_status": "paid"}], dry_run=dry_run)

    assert sandbox.shop.requests() == []


# --- rows that can't be used ---


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"order_id": "", "status": "closed"}, "row 2: The order id is empty"),
        ({"order_id": UNKNOWN_ID, "status": "clsed"}, "did you mean 'closed'"),
        ({"order_id": UNKNOWN_ID}, f"row 2, order {UNKNOWN_ID}: it asks for nothing"),
        ({"ref": "021"}, "row 2, order #021: it asks for nothing"),
    ],
)
def test_one_bad_row_keeps_all_from_being_sent(
    sandbox: Sandbox, fresh: list[str], row: dict[str, str], complaint: str
) -> None:
    with pytest.raises(
        YouCanInvalidInputError, match=r"1 of 2 rows can't be used: .*; nothing was sent\.\nrow 2"
    ) as error:
        reconcile([{"order_id": fresh[0], "status": "closed"}, row])

    assert complaint in str(error.value)
    assert paths(sandbox, "PUT") == []


def test_the_first_bad_rows_are_named_and_all_are_counted(sandbox: Sandbox) -> None:
    with pytest.raises(YouCanInvalidInputError, match=r"9 of 9 rows .*\n(row \d: .*\n){5}and 4 more\.") as error:
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
    first, second, third = message.splitlines()
    assert first.endswith("can't be used: correct them, or leave them out with on_invalid='skip'; nothing was sent.")
    assert second.startswith(
        f"row 1, order {fresh[0]}: 'COLECTED' is not a payment status of this store: translate it in status_map; "
    )
    assert third.startswith("row 2: The order id is empty (''): check where")
    assert message.count("nothing was sent") == 1
    # No column is shown that has no number in it.
    assert "No status was compared with the shop." in "\n".join(log_lines())


@pytest.mark.parametrize(
    ("slug", "message"),
    [
        (
            "payd",
            "status_map turns 'COLLECTED' into 'payd', which is no payment status of the store: did you mean 'paid'",
        ),
        ("shipped", "status_map turns 'COLLECTED' into 'shipped', which is no payment status of the store"),
    ],
)
def test_a_status_map_that_leads_to_no_status_is_refused_before_a_row_is_read(
    sandbox: Sandbox, slug: str, message: str
) -> None:
    def rows() -> Iterator[dict[str, str]]:
        raise AssertionError("a row was read")
        yield {}

    with pytest.raises(YouCanUnknownStatusError, match=re.escape(message)):
        reconcile(rows(), status_map={"payment": {"COLLECTED": slug, "CASH": "paid"}})

    assert [request["path"] for request in sandbox.shop.requests()] == ["/orders/settings"]


@pytest.mark.parametrize(
    ("slug", "arguments"), [("مؤكد", {}), ("à rappeler", {"allow_custom_label": True}), ("closed", {}), (None, {})]
)
def test_a_status_map_leads_to_whatever_the_store_has(
    sandbox: Sandbox, fresh: list[str], slug: str | None, arguments: dict[str, Any]
) -> None:
    reconcile([{"order_id": fresh[0], "status": "DONE"}], status_map={"general": {"DONE": slug}}, **arguments)

    assert sandbox.shop.statuses(fresh[0])["general"] == (slug or "open")


def test_a_status_map_is_not_judged_where_the_list_may_not_be_read(sandbox: Sandbox, fresh: list[str]) -> None:
    sandbox.misbehave("status", status=403, route="GET /orders/settings")

    reconcile([{"order_id": fresh[0], "status": "DONE"}], status_map={"general": {"DONE": "closed", "NEW": "مؤكد"}})

    assert sandbox.shop.statuses(fresh[0])["general"] == "closed"


def test_a_number_that_is_no_ref_of_the_shop_is_told_to_be_one(
    sandbox: Sandbox, fresh: list[str], tmp_path: Path
) -> None:
    report = tmp_path / "report.jsonl"

    with pytest.raises(YouCanPermanentError, match="the cell is a number, which may have lost its zeros"):
        reconcile([{"ref": 7_000, "status": "closed"}, {"ref": "7001", "status": "closed"}], report_path=str(report))

    assert [line["reason"] for line in read_report(report)] == [
        "the shop has no order with this ref; the cell is a number, which may have lost its zeros: write it as text, "
        "such as '021'",
        "the shop has no order with this ref",
    ]


def test_the_stores_own_statuses_and_labels_that_are_meant_pass(sandbox: Sandbox, fresh: list[str]) -> None:
    reconcile([{"order_id": fresh[0], "status": "مؤكد"}])
    reconcile([{"order_id": fresh[1], "status": "à rappeler"}], allow_custom_label=True)

    assert [sandbox.shop.statuses(order_id)["general"] for order_id in fresh[:2]] == ["مؤكد", "à rappeler"]


def test_bad_rows_can_be_left_out(sandbox: Sandbox, fresh: list[str], tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"

    summary = reconcile(
        [{"order_id": fresh[0], "status": "closed"}, {"order_id": fresh[1], "status": "clsed"}, {"status": "open"}],
        on_invalid="skip",
        report_path=str(report),
    )

    assert (summary["rows"], summary["invalid"], summary["changed"]) == (3, 2, 1)
    invalid = [line for line in read_report(report) if line["outcome"] == "invalid"]
    assert [line["order_id"] for line in invalid] == [fresh[1], None]
    assert "did you mean 'closed'" in invalid[0]["reason"]


def test_cells_are_compared_in_their_normal_form(sandbox: Sandbox) -> None:
    # Given a shop with a status of its own, and a table as spreadsheets and CHAR columns make them,
    order = sandbox.shop.orders()[0]
    statuses = sandbox.shop.store_statuses()
    name = unicodedata.normalize("NFD", "Livré à domicile")
    sandbox.shop.replace_statuses(
        {
            context: [*known, *([{**known[0], "slug": name}] if context is StatusContext.SHIPPING else [])]
            for context, known in statuses.items()
        }
    )
    row = {
        " Réf\u00a0": f"{order['ref']}     ",
        "\ufeffpayment_status": "\u200fENCAISSE\u0301 ",
        "Shipping_Status ": "Livré à domicile\u00a0",
    }

    summary = reconcile(
        [row],
        columns={"ref": unicodedata.normalize("NFD", "Réf")}
        | {"payment_status": "payment_status", "shipping_status": "shipping_status"},
        status_map={"payment": {"ENCAISSÉ": "paid"}},
    )

    # then they find their order, and the store's own slug is sent as the store has it.
    assert summary["changed"] == 2
    assert sandbox.shop.statuses(order["id"]) | {"general": ""} == {"general": "", "shipping": name, "payment": "paid"}


def test_a_junk_label_that_looks_like_a_slug_is_repaired(sandbox: Sandbox) -> None:
    order_id = sandbox.shop.order_ids()[0]
    sandbox.shop.set_status(order_id, "payment", "paid ")

    assert reconcile([{"order_id": order_id, "payment_status": "paid "}])["changed"] == 1
    assert sandbox.shop.statuses(order_id)["payment"] == "paid"


def test_a_word_that_resembles_one_of_the_map_names_it(sandbox: Sandbox) -> None:
    with pytest.raises(YouCanUnknownStatusError, match="status_map has 'COLLECTED'"):
        reconcile(
            [{"order_id": sandbox.shop.order_ids()[0], "payment_status": "collectd"}],
            status_map={"payment": {"COLLECTED": "paid"}},
        )


def test_a_status_of_another_context_says_so(sandbox: Sandbox) -> None:
    with pytest.raises(YouCanUnknownStatusError, match="'paid' is not a shipping status.*it is a payment status"):
        reconcile([{"order_id": sandbox.shop.order_ids()[0], "shipping_status": "paid"}])


@pytest.mark.parametrize("text", ["pending,unpaid", "pending, unpaid", "pending;unpaid", "pending | unpaid"])
def test_a_guard_that_is_a_list_written_as_text_is_refused(sandbox: Sandbox, text: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match=r"give the list \['pending', 'unpaid'\]"):
        reconcile([{"order_id": "abc", "payment_status": "paid"}], only_from={"payment": text})
    assert sandbox.shop.requests() == []


# --- several rows of one order ---

LATER = [
    pytest.param("2026-11-02T10:00:00Z", "2026-11-01T10:00:00Z", id="ISO times"),
    pytest.param(2, 1, id="numbers"),
    pytest.param(2, Decimal("1.5"), id="numbers of two types"),
    pytest.param(date(2026, 11, 2), datetime(2026, 11, 1, 23), id="dates"),
    pytest.param(
        datetime(2026, 11, 2, 1, tzinfo=timezone(timedelta(hours=1))),
        datetime(2026, 11, 1, 23, tzinfo=timezone.utc),
        id="two zones",
    ),
    pytest.param("2026", None, id="a null is the earliest"),
]


@pytest.mark.parametrize(("later", "earlier"), LATER)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_the_latest_row_of_an_order_counts(
    sandbox: Sandbox, fresh: list[str], tmp_path: Path, later: Any, earlier: Any, *, is_reversed: bool
) -> None:
    rows = [
        {"order_id": fresh[0], "status": "processed", "shipping_status": "shipped", "at": earlier},
        {"order_id": fresh[0], "status": "closed", "shipping_status": None, "at": later},
    ]
    report = tmp_path / "report.jsonl"
    summary = reconcile(rows[::-1] if is_reversed else rows, latest_by="AT", report_path=str(report))

    # The latest of those that ask for that status, and each other row is told which.
    assert sandbox.shop.statuses(fresh[0]) | {"payment": ""} == {
        "general": "closed",
        "shipping": "shipped",
        "payment": "",
    }
    assert (summary["changed"], summary["unchanged"]) == (2, 1)
    (left_out,) = [line for line in read_report(report) if line["outcome"] == "unchanged"]
    assert (left_out["wanted"], left_out["reason"]) == ("processed", f"row {1 if is_reversed else 2} is later")


def test_a_tie_that_contradicts_is_invalid(sandbox: Sandbox, fresh: list[str]) -> None:
    rows = [{"order_id": fresh[0], "status": slug, "at": 1} for slug in ("closed", "processed")]
    with pytest.raises(YouCanInvalidInputError, match="contradict each other"):
        reconcile(rows, latest_by="at")


def test_an_earlier_row_does_not_stand_in_for_a_later_one_that_can_not_be_used(
    sandbox: Sandbox, fresh: list[str]
) -> None:
    for later in ({"order_id": fresh[0], "status": "clsed", "at": 2}, {"order_id": fresh[0], "status": 5, "at": 2}):
        rows = [
            {"order_id": fresh[0], "status": "closed", "at": 1},
            later,
            {"order_id": fresh[1], "status": "closed", "at": 1},
        ]
        reconcile(rows, latest_by="at", on_invalid="skip")

    assert sandbox.shop.statuses(fresh[0])["general"] != "closed"
    assert sandbox.shop.statuses(fresh[1])["general"] == "closed"


def test_rows_by_id_and_by_ref_are_of_one_order(sandbox: Sandbox) -> None:
    order = sandbox.shop.orders()[0]
    rows = [
        {"order_id": order["id"], "payment_status": "paid", "at": 2},
        {"ref": order["ref"], "payment_status": "refunded", "at": 3},
        {"ref": order["ref"], "payment_status": "unpaid", "at": 1},
    ]
    reconcile(rows, latest_by="at")
    assert sandbox.shop.statuses(order["id"])["payment"] == "refunded"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, "2026"], "which has numbers and texts"),
        ([datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=timezone.utc)], "with a zone and times without a zone"),
        ([[1], [2]], "its values are dates, numbers"),
    ],
)
def test_values_that_can_not_be_compared_are_refused(
    sandbox: Sandbox, fresh: list[str], values: Any, message: str
) -> None:
    rows = [{"order_id": fresh[0], "status": "closed", "at": value} for value in values]
    with pytest.raises(YouCanInvalidInputError, match=message):
        reconcile(rows, latest_by="at")
    with pytest.raises(YouCanInvalidInputError, match="no column 'when', which latest_by names"):
        reconcile(rows, latest_by="when")
    assert paths(sandbox, "PUT") == []


# --- orders that the shop does not have ---


def test_orders_of_another_shop_can_be_left_out(
    sandbox: Sandbox, fresh: list[str], log_lines: Callable[[], list[str]]
) -> None:
    rows = [{"order_id": fresh[0], "status": "closed"}, {"order_id": UNKNOWN_ID, "status": "closed"}]

    with pytest.raises(
        YouCanPermanentError,
        match=rf"1 of 2 rows failed.*\(0 refused, 1 not in this shop\): .*\. Row 2, order {UNKNOWN_ID}: ",
    ):
        reconcile(rows)
    assert reconcile(rows, on_not_found="skip")["not_found"] == 1
    assert any("1 row of orders that this shop does not have, which are left out." in line for line in log_lines())

    # What the shop refuses still fails, and comes first.
    sandbox.misbehave("status", route="PUT *", status=422)
    rows[0]["status"] = "processed"
    for policy, missing in (("skip", 0), ("fail", 1)):
        with pytest.raises(
            YouCanPermanentError, match=rf"\(1 refused, {missing} not in this shop\): .*\. Row 1, order .*422"
        ):
            reconcile(rows, on_not_found=policy)


def test_a_dry_run_never_says_that_something_is_done(sandbox: Sandbox) -> None:
    with pytest.raises(YouCanPermanentError) as raised:
        reconcile([{"order_id": UNKNOWN_ID, "status": "closed"}], dry_run=True)
    assert "done" not in str(raised.value)


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(YouCanInvalidInputError, match="on_not_found is 'ignore': give 'fail' or 'skip'"):
        reconcile([], on_not_found="ignore")


def test_a_row_of_nothing_is_none(sandbox: Sandbox, fresh: list[str]) -> None:
    nothing: list[dict[str, Any]] = [
        {"order_id": "", "status": None},
        {"order_id": None, "ref": " ", "status": "\u00a0"},
        {"order_id": float("nan"), "status": float("nan")},
    ]
    summary = reconcile([*nothing, {"order_id": fresh[0], "status": "closed"}, *nothing])

    assert (summary["rows"], summary["invalid"], summary["changed"]) == (1, 0, 1)


def test_the_same_wish_twice_is_sent_once(sandbox: Sandbox, fresh: list[str]) -> None:
    summary = reconcile([{"order_id": fresh[0], "status": "closed"}] * 3)

    assert (summary["changed"], summary["unchanged"]) == (1, 2)
    assert len(paths(sandbox, "PUT")) == 1


@pytest.mark.parametrize("orders", ["[{'order_id': 1}]", {"order_id": "x"}, 5])
def test_anything_but_a_list_of_rows_is_refused(sandbox: Sandbox, orders: Any) -> None:
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


@pytest.mark.parametrize("cell", [None, float("nan")])
def test_a_null_is_no_word_of_the_status_map(sandbox: Sandbox, cell: Any) -> None:
    rows = [{"order_id": order_id, "payment_status": cell} for order_id in payable(sandbox)]

    summary = reconcile(rows, status_map={"payment": {"None": "paid", "nan": "paid", "null": "paid"}})

    assert summary["rows"] == len(rows) > 0
    assert sandbox.shop.history() == []


@pytest.mark.parametrize("cell", [("a", []), ["a"], {"a": 1}, 10**5000], ids=["tuple", "list", "mapping", "number"])
def test_an_odd_cell_is_an_invalid_row(sandbox: Sandbox, cell: Any) -> None:
    first, second, *_ = payable(sandbox)
    rows = [{"order_id": first, "payment_status": cell}, {"order_id": second, "payment_status": "paid"}]

    summary = reconcile(rows, status_map={"payment": {"COLLECTED": "paid"}}, on_invalid="skip")

    assert (summary["invalid"], summary["changed"]) == (1, 1)


# --- what is templated ---


@pytest.mark.parametrize(
    "name", ["max_changes", "max_failures", "min_rows", "report_path", "report_table", "report_conn_id", "plan"]
)
@pytest.mark.parametrize("rendered", [None, "", "None"])
def test_passed_arguments_that_render_to_nothing_are_refused(sandbox: Sandbox, name: str, rendered: Any) -> None:
    source: dict[str, Any] = {} if name == "plan" else {"orders": paid_rows(sandbox)}
    table = {"report_conn_id": "warehouse"} if name == "report_table" else {}
    operator = YouCanReconcileOrdersOperator(task_id="reconcile", **source, **table, **{name: "{{ params.it }}"})
    setattr(operator, name, rendered)

    with pytest.raises(YouCanInvalidInputError, match=name):
        execute(operator)

    assert sandbox.shop.requests() == []


def test_everything_that_decides_is_templated() -> None:
    fields = {"max_changes", "max_failures", "min_rows", "plan", "dry_run", "report_table", "report_conn_id"}
    assert fields <= set(YouCanReconcileOrdersOperator.template_fields)
    assert {"report", "reverts_run_id", "max_changes"} <= set(YouCanRevertReconciliationOperator.template_fields)


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
    warehouse.execute("create table courier (youcan_id text, state text, day text)")
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
