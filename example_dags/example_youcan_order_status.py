"""
Move orders along: processed, shipped, paid.

Trigger it with the ids of the orders to move::

    airflow dags test example_youcan_order_status --conf '{"order_ids": ["72aa7882-3898-49a8-87a2-506af3dd7320"]}'

It needs a connection ``youcan_default`` of type ``youcan``.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, Param, task, task_group

from airflow_provider_youcan.operators.order_status import (
    YouCanUpdateOrderStatusOperator,
    YouCanUpdatePaymentStatusOperator,
    YouCanUpdateShippingStatusOperator,
)

with DAG(
    dag_id="example_youcan_order_status",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    params={"order_ids": Param([], type="array", items={"type": "string"}, description="The orders to move")},
    # A transient error is tried again; a permanent one fails its task at once, whatever stands here.
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
    },
    tags=["example", "youcan"],
):

    @task
    def choose_orders(params: dict[str, Any] | None = None) -> list[str]:
        """Return the ids of the orders to move. Yours may come from a warehouse."""
        if not params or not params["order_ids"]:
            raise AirflowFailException("There is no order to move: trigger it with order_ids.")
        return list(params["order_ids"])

    # Each order goes its own way: where a guard skips one, the others go on.
    @task_group
    def move_along(order_id: str) -> None:
        process = YouCanUpdateOrderStatusOperator(
            task_id="process",
            order_id=order_id,
            status="processed",
            # An order that was canceled or closed in the meantime is left alone, and so are its next steps.
            only_from=["open", "confirmed"],
        )
        ship = YouCanUpdateShippingStatusOperator(
            task_id="ship",
            order_id=order_id,
            status="shipped",
            only_from="unfulfilled",
        )
        collect = YouCanUpdatePaymentStatusOperator(
            task_id="collect",
            order_id=order_id,
            status="paid",
            # An old run that is started again must not turn "refunded" back into "paid".
            only_from=["pending", "unpaid"],
        )
        process >> ship >> collect

    move_along.expand(order_id=choose_orders())
