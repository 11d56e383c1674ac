"""
Cash on delivery: wait for the courier, then settle the order.

When the parcel is delivered (shipping status ``fulfilled``), the order is marked as paid and closed. When it
comes back (``canceled``), the order is closed as canceled by the seller. The wait may take weeks and holds no
worker: it is the triggerer's.

Trigger it once for each order, with its id::

    airflow dags trigger example_youcan_cash_on_delivery --conf '{"order_id": "72aa7882-3898-49a8-87a2-506af3dd7320"}'

It needs a connection ``youcan_default`` of type ``youcan``.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_youcan.operators.order_status import (
    YouCanUpdateOrderStatusOperator,
    YouCanUpdatePaymentStatusOperator,
)
from airflow_provider_youcan.retries import YouCanRetryPolicy
from airflow_provider_youcan.sensors.order_status import YouCanOrderStatusSensor

POLL_EVERY = timedelta(minutes=5)
GIVE_UP_AFTER = timedelta(days=30)
ORDER_ID = "{{ params.order_id }}"

default_args: dict[str, Any] = {"retries": 3, "retry_delay": timedelta(minutes=1)}
with suppress(RuntimeError):  # before Airflow 3.3 there are no retry policies
    # After a rate limit, a retry comes when the shop asked for it, not after retry_delay.
    default_args["retry_policy"] = YouCanRetryPolicy()

with DAG(
    dag_id="example_youcan_cash_on_delivery",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    # Each order waits in a run of its own, for days: Airflow's default of 16 would let the others queue.
    max_active_runs=1000,
    params={"order_id": Param(type="string", minLength=1, description="The order to settle")},
    default_args=default_args,
    tags=["example", "youcan"],
):
    wait_for_courier = YouCanOrderStatusSensor(
        task_id="wait_for_courier",
        order_id=ORDER_ID,
        context="shipping",
        target_status=["fulfilled", "canceled"],
        deferrable=True,
        poke_interval=POLL_EVERY,
        timeout=GIVE_UP_AFTER,
    )

    @task.branch
    def delivered_or_returned(courier: dict[str, str]) -> str:
        """Choose the branch by the status that the wait ended with."""
        return "mark_as_paid" if courier["status"] == "fulfilled" else "close_as_canceled"

    mark_as_paid = YouCanUpdatePaymentStatusOperator(
        task_id="mark_as_paid",
        order_id=ORDER_ID,
        status="paid",
        # Whatever was refunded in the meantime stays refunded.
        only_from=["pending", "unpaid"],
    )
    close = YouCanUpdateOrderStatusOperator(task_id="close", order_id=ORDER_ID, status="closed")
    close_as_canceled = YouCanUpdateOrderStatusOperator(
        task_id="close_as_canceled", order_id=ORDER_ID, status="canceled-by-seller"
    )

    branch = delivered_or_returned(wait_for_courier.output)  # type: ignore[arg-type]
    branch >> mark_as_paid >> close
    branch >> close_as_canceled
