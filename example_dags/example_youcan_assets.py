"""
Schedule on data: one DAG reconciles the shop after the warehouse's table was written, and another runs after that.

Whatever fills the table ``courier_orders`` has the asset of that name among its outlets. The Airflow variable
``youcan_warehouse`` names the warehouse's connection (default ``sqlite_default``). ``my-store`` is the slug of your
store.
"""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG, Asset, task

from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator

COURIER_ORDERS = Asset("courier_orders")
SHOP_ORDERS = Asset(uri="youcan://my-store/orders")

with DAG(
    dag_id="example_youcan_assets_reconcile",
    schedule=[COURIER_ORDERS],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["example", "youcan"],
):
    YouCanReconcileOrdersOperator(
        task_id="reconcile",
        sql="select order_id, shipping_status, payment_status from courier_orders",
        conn_id="{{ var.value.get('youcan_warehouse', 'sqlite_default') }}",
        status_map={
            "shipping": {"PICKED_UP": "shipped", "DELIVERED": "fulfilled", "RETURNED": "canceled"},
            "payment": {"COLLECTED": "paid", "RETURNED": "unpaid"},
        },
        only_from={"payment": ["pending", "unpaid"]},
        max_changes=500,
        outlets=[SHOP_ORDERS],
    )

with DAG(
    dag_id="example_youcan_assets_report",
    schedule=[SHOP_ORDERS],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "youcan"],
):

    @task
    def add_up(**context: Any) -> dict[str, int]:
        """Add up what the events that started this run say of themselves."""
        # Airflow 2 calls assets datasets.
        triggering = context.get("triggering_asset_events") or context.get("triggering_dataset_events") or {}
        extras = [event.extra for events in triggering.values() for event in events]
        return {name: sum(extra.get(name, 0) for extra in extras) for name in ("rows", "changed", "failed")}

    add_up()
