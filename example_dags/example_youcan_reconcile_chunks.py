"""
Reconcile a table that is too long for one worker: each chunk is a mapped task, and they share the shop through a
pool.

Make the pool once, with as many slots as tasks may talk to the shop at a time::

    airflow pools set youcan 4 "Tasks that talk to the shop"

The table ``courier_orders`` has the columns ``order_id`` and ``payment_status``, in the courier's words, as in
``example_youcan_reconcile``. One task is enough for a shop; this is for tables that don't fit into a worker's
memory. The Airflow variable ``youcan_warehouse`` names the warehouse's connection (default ``sqlite_default``). It
needs a connection ``youcan_default`` of type ``youcan``.
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
"""The requests per second of all tasks together. Each task knows of itself alone, so each gets its share."""

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
        # Ranges of the key, the last one open: with limit and offset, a feed that writes to the table meanwhile moves
        # rows from one chunk to another, and some into none.
        first_keys = hook.get_records(
            "select order_id from (select order_id, row_number() over (order by order_id) as number"
            f" from courier_orders) numbered where number % {ROWS_A_CHUNK} = 1 order by order_id"
        )
        bounds = [str(row[0]).replace("'", "''") for row in first_keys[1:]]
        lower = ["", *(f"order_id >= '{bound}'" for bound in bounds)]
        upper = [*(f"order_id < '{bound}'" for bound in bounds), ""]
        ranges = [" and ".join(filter(None, pair)) or "1 = 1" for pair in zip(lower, upper, strict=True)]
        return [f"select order_id, payment_status from courier_orders where {range_}" for range_ in ranges]

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
        status_map={"payment": {"COLLECTED": "paid", "RETURNED": "unpaid"}},
        only_from={"payment": ["pending", "unpaid"]},
        pool="youcan",
        max_active_tis_per_dagrun=SLOTS,
        requests_per_second=REQUESTS_PER_SECOND / SLOTS,
        retries=3,
        retry_delay=timedelta(minutes=1),
    ).expand(sql=split(WAREHOUSE))

    add_up(reconcile.output)  # type: ignore[arg-type]
