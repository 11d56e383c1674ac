"""
Orders start this DAG: as soon as they are paid, it sets their shipping status to ``processing``.

``python -m airflow_provider_youcan webhooks serve`` receives YouCan's webhooks (docs/webhooks.md). ``my-store`` is the
slug of your store. Several orders that were paid in the same moment are one run; a delivery that came twice may be in
two: ``only_from`` makes that harmless. It needs a connection ``youcan_default`` of type ``youcan``.

From Airflow 3.4 on, ``schedule=[asset]`` starts a run for each event; the timetable keeps one run for all that wait.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG, Asset, task

from airflow_provider_youcan.operators.order_status import YouCanUpdateShippingStatusOperator

PAID = Asset(uri="youcan://my-store/orders/paid")

try:
    from airflow.sdk import AssetTriggeredTimetable  # type: ignore[attr-defined]
except ImportError:  # before Airflow 3.4
    SCHEDULE: Any = [PAID]
else:
    SCHEDULE = AssetTriggeredTimetable(PAID, batch_asset_events=True)

with DAG(
    dag_id="example_youcan_webhooks",
    schedule=SCHEDULE,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "youcan"],
):

    @task
    def read_order_ids(**context: Any) -> list[str]:
        """Return the orders that this run is about, each once."""
        # Airflow 2 calls assets datasets.
        triggering = context.get("triggering_asset_events") or context.get("triggering_dataset_events") or {}
        return sorted({event.extra["order_id"] for events in triggering.values() for event in events})

    YouCanUpdateShippingStatusOperator.partial(
        task_id="prepare",
        map_index_template="{{ task.order_id }}",
        status="processing",
        only_from="unfulfilled",
        retries=3,
        retry_delay=timedelta(minutes=1),
    ).expand(order_id=read_order_ids())
