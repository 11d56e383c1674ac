"""
Reconcile a table that is too long for one worker: chunks, mapped over all of them, share the shop through a pool.

Make the pool once, with as many slots as tasks may talk to the shop at a time::

    airflow pools set youcan 4 "Tasks that talk to the shop"

The table ``courier_orders`` has the columns ``order_id`` and ``payment_status``. The Airflow variable
``youcan_warehouse`` names the warehouse's connection (default ``sqlite_default``). It needs a connection
``youcan_default`` of type ``youcan``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG, BaseHook, task

from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator

ROWS_A_CHUNK = 10_000
SLOTS = 4
REQUESTS_PER_SECOND = 40.0
"""What the shop should be asked in all. Each task knows of itself alone, so each gets its share."""

WAREHOUSE = "{{ var.value.get('youcan_warehouse', 'sqlite_default') }}"

with DAG(
    dag_id="example_youcan_reconcile_chunks",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["example", "youcan"],
):

    @task
    def split(warehouse: str) -> list[str]:
        """Return a query for each chunk: the rows themselves never go through XCom."""
        hook: Any = BaseHook.get_connection(warehouse).get_hook()  # type: ignore[no-untyped-call]
        rows = hook.get_first("select count(*) from courier_orders")[0]
        return [
            "select order_id, payment_status from courier_orders"
            f" order by order_id limit {ROWS_A_CHUNK} offset {offset}"
            for offset in range(0, rows, ROWS_A_CHUNK)
        ]

    @task
    def add_up(summaries: Iterable[dict[str, Any]]) -> dict[str, float]:
        """Add the summaries of the chunks up."""
        totals: dict[str, float] = {}
        for summary in summaries:
            for name, count in summary.items():
                if isinstance(count, (int, float)):
                    totals[name] = totals.get(name, 0) + count
        return totals

    reconcile = YouCanReconcileOrdersOperator.partial(
        task_id="reconcile",
        conn_id=WAREHOUSE,
        only_from={"payment": ["pending", "unpaid"]},
        pool="youcan",
        max_active_tis_per_dagrun=SLOTS,
        requests_per_second=REQUESTS_PER_SECOND / SLOTS,
        retries=3,
        retry_delay=timedelta(minutes=1),
    ).expand(sql=split(WAREHOUSE))

    add_up(reconcile.output)  # type: ignore[arg-type]
