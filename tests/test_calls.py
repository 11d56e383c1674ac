"""What a change costs: the calls of the package's own functions, which are counted, because a time is no test."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import airflow_provider_youcan
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from tests.conftest import Sandbox

MAX_CALLS = 90
PACKAGE = str(Path(airflow_provider_youcan.__file__).parent)


def count_calls(rows: list[dict[str, Any]], **arguments: Any) -> int:
    """Reconcile rows, and return how many calls of the package's own functions that took."""
    operator = YouCanReconcileOrdersOperator(task_id="reconcile", orders=rows, **arguments)
    calls = 0

    def count(frame: FrameType, event: str, _: Any) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    sys.setprofile(count)
    try:
        summary = operator.execute({})
    finally:
        sys.setprofile(None)
    assert summary["changed"] == len(rows)
    return calls


@pytest.mark.parametrize("arguments", [{}, {"only_from": {"payment": ["pending", "unpaid", "paid", "captured"]}}])
def test_a_further_row_takes_few_calls(sandbox: Sandbox, arguments: dict[str, Any]) -> None:
    sandbox.shop.add_orders(980)
    orders = [order["id"] for order in sandbox.shop.orders() if order["payment_status"] != "refunded"]
    few, many = orders[:100], orders[100:700]
    rows = {len(ids): [{"order_id": one, "payment_status": "refunded"} for one in ids] for ids in (few, many)}

    count_calls([{"order_id": orders[-1], "payment_status": "refunded"}])  # what is imported and made once
    calls = {number: count_calls(one, **arguments) for number, one in rows.items()}

    further = (calls[len(many)] - calls[len(few)]) / (len(many) - len(few))
    assert further <= MAX_CALLS
