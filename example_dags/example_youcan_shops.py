"""
Reconcile many shops in one DAG, each by its own connection: a task for each. A shop that fails does not stop the
others, and the run fails if one of them does.

The Airflow variable ``youcan_shops`` has their connections, as a JSON list (default ``["youcan_default"]``). The table
``shop_orders`` says in ``shop`` which connection a row belongs to, besides ``order_id``, ``shipping_status`` and
``payment_status``. The Airflow variable ``youcan_warehouse`` names the warehouse's connection (default
``sqlite_default``).
"""

from __future__ import annotations

import json
from datetime import timedelta

import pendulum
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator

with DAG(
    dag_id="example_youcan_shops",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["example", "youcan"],
):

    @task
    def list_shops(connections: str) -> list[str]:
        """Return the connection of each shop."""
        shops: list[str] = json.loads(connections)
        return shops

    YouCanReconcileOrdersOperator.partial(
        task_id="reconcile",
        # So that the grid says which shop it was.
        map_index_template="{{ task.youcan_conn_id }}",
        sql=(
            "select order_id, shipping_status, payment_status from shop_orders where shop = '{{ task.youcan_conn_id }}'"
        ),
        conn_id="{{ var.value.get('youcan_warehouse', 'sqlite_default') }}",
        # A shop without rows is a broken feed, and one with as many changes as this is a broken query.
        min_rows=1,
        max_changes="50%",
        # Each shop has a rate limit of its own: what bounds this is the workers' memory.
        max_active_tis_per_dagrun=8,
        retries=3,
        retry_delay=timedelta(minutes=1),
    ).expand(youcan_conn_id=list_shops("{{ var.value.get('youcan_shops', '[\"youcan_default\"]') }}"))
