"""
Metrics, through Airflow's own ``Stats``: they reach whatever statsd or OpenTelemetry the deployment has.

What distinguishes one series from another is in the name, because plain statsd has no tags.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_youcan.exceptions import YouCanError

__all__ = ["count_orders", "count_outcomes", "count_renewal", "count_request", "count_retry", "record_limit_wait"]

_log = logging.getLogger(__name__)


def count_request(method: str, status_code: int | None, youcan_conn_id: str) -> None:
    """
    Count a request that was sent.

    :param method: its HTTP method.
    :param status_code: the status of its answer, ``None`` where none came.
    :param youcan_conn_id: the Airflow connection of the shop.
    """
    tags = {"youcan_conn_id": youcan_conn_id}
    answer = "lost" if status_code is None else f"{status_code // 100}xx"
    _report("incr", f"youcan.requests.{method.lower()}.{answer}", tags=tags)
    if status_code == 429:
        _report("incr", "youcan.rate_limited", tags=tags)


def count_retry(error: YouCanError, youcan_conn_id: str) -> None:
    """Count that a request is tried again after an error."""
    _report("incr", "youcan.retries", tags={"youcan_conn_id": youcan_conn_id, "error": type(error).__name__})


def count_renewal(youcan_conn_id: str) -> None:
    """Count that a token was renewed."""
    _report("incr", "youcan.token_renewals", tags={"youcan_conn_id": youcan_conn_id})


def record_limit_wait(seconds: float) -> None:
    """Record for how long requests were held back for the shop's limit, or a ceiling."""
    _report("timing", "youcan.limit_wait", timedelta(seconds=seconds))


def count_outcomes(rows: int, outcomes: Mapping[str, Mapping[str, int]], youcan_conn_id: str) -> None:
    """
    Count the rows of a reconciliation, and what became of their statuses.

    :param rows: how many rows.
    :param outcomes: for each context the number of statuses by outcome.
    :param youcan_conn_id: the Airflow connection of the shop.
    """
    tags = {"youcan_conn_id": youcan_conn_id}
    _report("incr", "youcan.reconcile.rows", rows, tags=tags)
    for context, counts in outcomes.items():
        for outcome, number in counts.items():
            if number:
                _report("incr", f"youcan.reconcile.{context}.{outcome}", number, tags=tags)


def count_orders(orders: int, youcan_conn_id: str) -> None:
    """Count the orders that were brought to the warehouse."""
    _report("incr", "youcan.orders_to_sql.rows", orders, tags={"youcan_conn_id": youcan_conn_id})


def _report(method: str, *values: Any, **options: Any) -> None:
    try:
        getattr(_stats(), method)(*values, **options)
    except Exception:  # no metric is worth the answer to an update
        _log.debug("A metric could not be reported.", exc_info=True)


@cache
def _stats() -> Any:
    # Imported when a task runs: Airflow parses DAG files again and again.
    from airflow.providers.common.compat.sdk import Stats

    return Stats
