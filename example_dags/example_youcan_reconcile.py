"""
Reconcile a warehouse table with the shop: a dry run, a person's approval, the real run, and what failed back into the
warehouse.

The table ``courier_orders`` has the columns ``order_id``, ``shipping_status`` and ``payment_status``, in the courier's
words. Two Airflow variables say where things are, and may be left out:

* ``youcan_warehouse``: the connection of the warehouse, of any database (default ``sqlite_default``);
* ``youcan_reports``: where the reports are kept, a path or a URL such as ``s3://bucket/reports`` (default
  ``/tmp/youcan-reports``).

It needs a connection ``youcan_default`` of type ``youcan``. The approval takes Airflow 3.1 or later; before that, the
real run follows the dry run at once.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    BaseHook,
    ObjectStoragePath,
    task,
)

from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator

try:
    from airflow.providers.standard.operators.hitl import ApprovalOperator
except (ImportError, AirflowException):  # before Airflow 3.1 nobody can be asked
    ApprovalOperator = None  # type: ignore[misc, assignment]

WAREHOUSE = "{{ var.value.get('youcan_warehouse', 'sqlite_default') }}"
REPORTS = "{{ var.value.get('youcan_reports', '/tmp/youcan-reports') }}/{{ run_id }}"

TABLE: dict[str, Any] = {
    "sql": "select order_id, shipping_status, payment_status from courier_orders",
    "conn_id": WAREHOUSE,
    "status_map": {
        "shipping": {"PICKED_UP": "shipped", "DELIVERED": "fulfilled", "RETURNED": "canceled"},
        "payment": {"COLLECTED": "paid", "RETURNED": "unpaid"},
    },
    # Whatever was refunded, or settled by hand, stays as it is.
    "only_from": {
        "shipping": ["unfulfilled", "processing", "shipped"],
        "payment": ["pending", "unpaid"],
    },
}

with DAG(
    dag_id="example_youcan_reconcile",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["example", "youcan"],
):
    plan = YouCanReconcileOrdersOperator(
        task_id="plan",
        dry_run=True,
        # Orders that the shop does not have are reported, and do not keep the rest from being approved.
        max_failures=1_000_000,
        report_path=f"{REPORTS}/plan.jsonl",
        **TABLE,
    )

    reconcile = YouCanReconcileOrdersOperator(
        task_id="reconcile",
        # A retry writes a report of its own: what the first try did stays on record.
        report_path=f"{REPORTS}/reconcile-{{{{ ti.try_number }}}}.jsonl",
        retries=3,
        retry_delay=timedelta(minutes=1),
        **TABLE,
    )

    @task(trigger_rule="all_done")
    def keep_failed_updates(warehouse: str, ti: Any = None) -> None:
        """Put what failed into the warehouse table ``youcan_failed_updates``, and fail if there is any."""
        summary = ti.xcom_pull(task_ids="reconcile", key="summary")
        if summary is None:
            raise AirflowSkipException("Nothing was reconciled.")
        report = ObjectStoragePath(summary["report_path"])
        lines = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
        failed = [
            (line["order_id"], line["context"], line["wanted"], line["outcome"], line["reason"])
            for line in lines
            if line["outcome"] in ("failed", "not_found", "not_reached")
        ]
        hook: Any = BaseHook.get_connection(warehouse).get_hook()  # type: ignore[no-untyped-call]
        hook.run(
            "create table if not exists youcan_failed_updates"
            " (order_id varchar(100), context varchar(20), wanted varchar(200), outcome varchar(20), reason text)"
        )
        hook.run("delete from youcan_failed_updates")
        if failed:
            fields = ["order_id", "context", "wanted", "outcome", "reason"]
            hook.insert_rows("youcan_failed_updates", failed, target_fields=fields)
            raise AirflowFailException(f"{len(failed)} updates failed: see the table youcan_failed_updates.")

    if ApprovalOperator is None:
        plan >> reconcile
    else:
        approve = ApprovalOperator(
            task_id="approve",
            subject="{{ ti.xcom_pull(task_ids='plan')['planned'] }} statuses of the shop's orders would change",
            body="{{ ti.xcom_pull(task_ids='plan')['protected'] }} more are protected by the guards, and stay as they "
            "are. {{ ti.xcom_pull(task_ids='plan')['not_found'] }} are for orders that this shop does not have; the "
            "run will fail for them. The plan is in {{ ti.xcom_pull(task_ids='plan')['report_path'] }}.",
        )
        plan >> approve >> reconcile
    reconcile >> keep_failed_updates(WAREHOUSE)
