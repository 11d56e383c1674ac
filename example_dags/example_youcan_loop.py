"""
The loop between a shop and a warehouse: the shop's orders become a table, a SQL model says what should hold, and the
difference goes back to the shop, after an approval if it is large.

Two DAGs, which assets schedule:

* ``example_youcan_loop_orders`` brings the orders of the last 60 days to the table ``youcan_orders``. Start it as often
  as you like: it is the only one with a schedule of its own.
* ``example_youcan_loop_apply`` runs when that table and the courier's feed are both new. It plans, asks a person if
  more than 20 statuses would change, applies the plan, and reads the orders again that are still open.

The courier's feed is the table ``courier_feed`` of the same warehouse, with the columns ``ref``, ``tracking_number``,
``state`` (``PICKED_UP``, ``DELIVERED``, ``RETURNED``) and ``collected`` (the cash). Whatever fills it has the asset
``courier_feed`` among its outlets. What became of each status is in the table ``youcan_outcomes``.

The Airflow variables ``youcan_warehouse`` (the warehouse's connection, default ``sqlite_default``) and
``youcan_reports`` (where plans are kept, default ``/tmp/youcan-reports``) may be left out. It needs a connection
``youcan_default`` of type ``youcan``. The approval takes Airflow 3.1 or later; before that nobody is asked.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG, AirflowException, Asset, task
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from airflow_provider_youcan.transfers.orders_to_sql import YouCanOrdersToSqlOperator

try:
    from airflow.providers.standard.operators.hitl import ApprovalOperator
except (ImportError, AirflowException):  # before Airflow 3.1 nobody can be asked
    ApprovalOperator = None  # type: ignore[misc, assignment]

WAREHOUSE = "{{ var.value.get('youcan_warehouse', 'sqlite_default') }}"
REPORTS = "{{ var.value.get('youcan_reports', '/tmp/youcan-reports') }}/{{ run_id }}"
ORDERS = Asset("youcan_orders")
FEED = Asset("courier_feed")
ASKS_FROM = 20

# By the order's number or by the parcel's, whichever the courier wrote down. What is right already is left out.
MODEL = """
select order_id, shipping_status, payment_status
from (
    select
        o.order_id,
        o.shipping_status as shown,
        case c.state
            when 'PICKED_UP' then 'shipped' when 'DELIVERED' then 'fulfilled' when 'RETURNED' then 'canceled'
        end as shipping_status,
        case when c.state = 'DELIVERED' and c.collected >= o.total then 'paid' end as payment_status
    from courier_feed c
    join youcan_orders o on o.ref = c.ref or o.tracking_number = c.tracking_number
) model
where shipping_status <> shown or payment_status is not null
"""
OPEN = "select order_id from youcan_orders where shipping_status not in ('fulfilled', 'canceled')"


def read_ids(cursor: Any) -> Any:
    """Return the first column of a result."""
    return [row[0] for row in cursor.fetchall()]


with DAG(
    dag_id="example_youcan_loop_orders",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["example", "youcan"],
):
    YouCanOrdersToSqlOperator(
        task_id="orders",
        conn_id=WAREHOUSE,
        created_within=timedelta(days=60),
        outlets=[ORDERS],
        retries=3,
        retry_delay=timedelta(minutes=1),
    )

with DAG(
    dag_id="example_youcan_loop_apply",
    schedule=[ORDERS, FEED],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["example", "youcan"],
):
    plan = YouCanReconcileOrdersOperator(
        task_id="plan",
        dry_run=True,
        sql=MODEL,
        conn_id=WAREHOUSE,
        # What was refunded, or settled by hand, stays as it is.
        only_from={"shipping": ["unfulfilled", "processing", "shipped"], "payment": ["pending", "unpaid"]},
        max_changes=500,
        report_path=f"{REPORTS}/plan.jsonl",
    )

    @task.branch
    def decide(summary: dict[str, Any]) -> str:
        """Ask a person about many changes."""
        return "approve" if summary["planned"] > ASKS_FROM and ApprovalOperator is not None else "apply"

    decision = decide(plan.output)  # type: ignore[arg-type]  # Airflow makes a mapping of it
    apply = YouCanReconcileOrdersOperator(
        task_id="apply",
        plan="{{ ti.xcom_pull(task_ids='plan')['report_path'] }}",
        report_path=f"{REPORTS}/applied.jsonl",
        report_table="youcan_outcomes",
        report_conn_id=WAREHOUSE,
        retries=3,
        retry_delay=timedelta(minutes=1),
        # After the approval, or without one; after a rejection it is skipped.
        trigger_rule="none_failed_min_one_success",
    )
    still_open = SQLExecuteQueryOperator(task_id="still_open", conn_id=WAREHOUSE, sql=OPEN, handler=read_ids)
    again = YouCanOrdersToSqlOperator(
        task_id="read_again",
        conn_id=WAREHOUSE,
        order_ids=still_open.output,  # type: ignore[arg-type]  # a list, once it runs
        # No outlet: the next feed waits for the whole table, which has the orders that are new since.
    )
    decision >> apply >> still_open >> again
    if ApprovalOperator is not None:
        approve = ApprovalOperator(
            task_id="approve",
            subject="Statuses of the shop's orders that would change: {{ ti.xcom_pull(task_ids='plan')['planned'] }}",
            body="{{ ti.xcom_pull(task_ids='plan', key='preview') }}",
        )
        decision >> approve >> apply
