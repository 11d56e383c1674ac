"""
Reconcile a Google Sheet with the shop: the operations team writes down what the courier said, and a DAG updates
the shop.

The sheet has a header with the columns ``order`` (the order's number in the shop, as text), ``shipping`` and
``payment``, in the team's words; an empty cell leaves that status alone. Rows that somebody is still typing, and orders
of another shop, are left out and reported.

It takes ``apache-airflow-providers-google``, a connection ``google_cloud_default`` whose service account may read the
sheet (share the sheet with its e-mail address), a connection ``youcan_default`` of type ``youcan``, and the Airflow
variable ``youcan_sheet``: the sheet's id, which stands in its address between ``/d/`` and ``/edit``.
"""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG, Variable, task

with DAG(
    dag_id="example_youcan_sheets",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["example", "youcan"],
):

    @task.youcan_reconcile(
        columns={"ref": "order", "shipping_status": "shipping", "payment_status": "payment"},
        status_map={
            "shipping": {"expédié": "shipped", "livré": "fulfilled", "retour": "canceled"},
            "payment": {"encaissé": "paid"},
        },
        # What was refunded, or settled by hand, stays as it is.
        only_from={"shipping": ["unfulfilled", "processing", "shipped"], "payment": ["pending", "unpaid"]},
        on_invalid="skip",
        on_not_found="skip",
        max_changes="50%",
    )
    def follow_the_sheet() -> list[list[Any]]:
        from airflow.providers.google.suite.hooks.sheets import GSheetsHook

        # As it is shown, so that an order's number keeps its zeros; the first row is the header.
        values: list[list[Any]] = GSheetsHook().get_values(Variable.get("youcan_sheet"), "A:Z")
        return values

    follow_the_sheet()
