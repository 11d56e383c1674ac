"""
Reconcile a warehouse table with the shop: a dry run, a person's approval, and exactly what was approved.

The table ``courier_orders`` has the columns ``order_id``, ``shipping_status`` and ``payment_status``, in the courier's
words. What became of each status is in the table ``youcan_outcomes`` of the same warehouse, which is made by itself.
Two Airflow variables say where things are, and may be left out:

* ``youcan_warehouse``: the connection of the warehouse, of any database (default ``sqlite_default``);
* ``youcan_reports``: where the plans are kept, a path or a URL such as ``s3://bucket/reports`` (default
  ``/tmp/youcan-reports``).

It needs a connection ``youcan_default`` of type ``youcan``. The approval takes Airflow 3.1 or later; before that, the
plan is applied at once. A person has a day to answer; without an answer the run fails, and nothing is applied.
``example_youcan_revert`` takes a run of it back.
"""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG, AirflowException, BaseNotifier, Param

from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator

try:
    from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
except (ImportError, AirflowException):  # before Airflow 3.1 nobody can be asked
    ApprovalOperator = None  # type: ignore[misc, assignment]

WAREHOUSE = "{{ var.value.get('youcan_warehouse', 'sqlite_default') }}"
REPORTS = "{{ var.value.get('youcan_reports', '/tmp/youcan-reports') }}/{{ run_id }}"


class AskNotifier(BaseNotifier):
    """Tells people that a plan waits for them. Put your own in its place, such as ``SlackNotifier``."""

    def notify(self, context: Any) -> None:
        """Log who is asked; Airflow's page *Required Actions* has the buttons."""
        self.log.info("The plan of run %s waits for an approval.", context["run_id"])


with DAG(
    dag_id="example_youcan_reconcile",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    params={
        "max_changes": Param(
            "100%", type="string", description="Change no more statuses than this number, or share of all: 500, or 10%"
        ),
    },
    tags=["example", "youcan"],
):
    plan = YouCanReconcileOrdersOperator(
        task_id="plan",
        dry_run=True,
        sql="select order_id, shipping_status, payment_status from courier_orders",
        conn_id=WAREHOUSE,
        status_map={
            "shipping": {"PICKED_UP": "shipped", "DELIVERED": "fulfilled", "RETURNED": "canceled"},
            "payment": {"COLLECTED": "paid", "RETURNED": "unpaid"},
        },
        # Whatever was refunded, or settled by hand, stays as it is.
        only_from={
            "shipping": ["unfulfilled", "processing", "shipped"],
            "payment": ["pending", "unpaid"],
        },
        # An empty feed is a broken feed.
        min_rows=1,
        max_changes="{{ params.max_changes }}",
        # Orders that the shop does not have are reported, and do not keep the rest from being approved.
        on_not_found="skip",
        report_path=f"{REPORTS}/plan.jsonl",
        report_table="youcan_outcomes",
    )

    reconcile = YouCanReconcileOrdersOperator(
        task_id="reconcile",
        # The very report that was approved, whatever has come into the table since.
        plan="{{ ti.xcom_pull(task_ids='plan')['report_path'] }}",
        report_path=f"{REPORTS}/reconcile.jsonl",
        report_table="youcan_outcomes",
        report_conn_id=WAREHOUSE,
        retries=3,
        retry_delay=timedelta(minutes=1),
    )

    if ApprovalOperator is None:
        plan >> reconcile
    else:
        # Airflow 3.1 takes the time for the answer from execution_timeout.
        has_own = "response_timeout" in inspect.signature(HITLOperator.__init__).parameters
        within: dict[str, Any] = {"response_timeout" if has_own else "execution_timeout": timedelta(days=1)}
        approve = ApprovalOperator(
            task_id="approve",
            notifiers=[AskNotifier()],
            **within,
            subject="Statuses of the shop's orders that would change: {{ ti.xcom_pull(task_ids='plan')['planned'] }}",
            body="{{ ti.xcom_pull(task_ids='plan', key='preview') }}",
        )
        plan >> approve >> reconcile
