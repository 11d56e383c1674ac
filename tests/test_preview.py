"""The preview: a plan, for people."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from airflow_provider_youcan.exceptions import (
    YouCanPermanentError,
)
from tests.conftest import Sandbox, TaskInstance, paid_rows, payable, reconcile


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


def test_an_orders_changes_are_one_line_and_the_headline_names_the_shop(
    sandbox: Sandbox, fresh: list[str], tmp_path: Path
) -> None:
    ti = TaskInstance()
    rows = [{"order_id": fresh[0], "payment_status": "paid", "shipping_status": "shipped"}]

    reconcile(rows, ti, dry_run=True, report_path=str(tmp_path / "plan.jsonl"))

    first, *lines = ti.pushed["preview"].splitlines()
    assert first == "**2 statuses of 1 order** would change in the shop sandbox (connection `youcan_default`)."
    # The rows name it by its id, and a person by its ref.
    ref = (sandbox.shop.order(fresh[0]) or {})["ref"]
    assert f"- {ref}: shipping unfulfilled → shipped, payment pending → paid" in lines
    assert fresh[0] not in ti.pushed["preview"]


def test_the_preview_says_what_is_left_out_because_the_shop_does_not_have_it(sandbox: Sandbox) -> None:
    ti = TaskInstance()
    unknown = {"order_id": "00000000-0000-4000-8000-000000000000", "payment_status": "paid"}

    with pytest.raises(YouCanPermanentError):
        reconcile([*paid_rows(sandbox), unknown], ti, dry_run=True)

    assert "1 status is for orders that this shop does not have; the run leaves them out." in ti.pushed["preview"]


def test_a_preview_of_many_labels_is_short_and_shows_them_as_they_are(sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(80)
    ti = TaskInstance()
    label = "[click](javascript:alert(1)) | <b>*bold*</b> `code`"
    rows = [
        {"order_id": order_id, "payment_status": f"{label} {number} {'x' * 190}"}
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
