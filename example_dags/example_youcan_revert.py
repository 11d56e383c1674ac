"""
Take back a run of ``example_youcan_reconcile``: enter its run id on the form that starts this DAG.

Trigger it with the run id, first as a dry run, whose preview and log say what would change, and then for real. What
people or other runs have set since stays as it is. It needs the connections and variables of
``example_youcan_reconcile``, whose table ``youcan_outcomes`` says what that run changed.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG, Param

from airflow_provider_youcan.operators.reconcile import YouCanRevertReconciliationOperator

with DAG(
    dag_id="example_youcan_revert",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    params={
        "run_id": Param(type="string", minLength=1, description="The run id of the run to take back"),
        "dry_run": Param(True, type="boolean", description="Only say what would change"),
        "max_changes": Param(
            "100%", type="string", description="Change no more than this number, or share: 500, or 10%"
        ),
    },
    tags=["example", "youcan"],
):
    YouCanRevertReconciliationOperator(
        task_id="revert",
        reverts_run_id="{{ params.run_id }}",
        reverts_dag_id="example_youcan_reconcile",
        reverts_task_id="reconcile",
        dry_run="{{ params.dry_run }}",
        max_changes="{{ params.max_changes }}",
        report_table="youcan_outcomes",
        report_conn_id="{{ var.value.get('youcan_warehouse', 'sqlite_default') }}",
    )
