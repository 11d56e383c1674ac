"""The arguments of the operators that reconcile, rendered and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.hooks.form import check_form_field

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_youcan.reconciliation.thresholds import Threshold

__all__ = ["RenderedArguments", "check_rate", "describe_task"]


@dataclass(frozen=True)
class RenderedArguments:
    """The templated arguments, as they were rendered and checked."""

    dry_run: bool
    max_changes: Threshold | None
    max_failures: Threshold
    report_path: str | None
    report_table: str | None
    report_conn_id: str


def describe_task(context: Context) -> dict[str, Any]:
    """Return what identifies the task that runs, as far as the context tells."""
    task_instance: Any = context.get("ti")
    keys = ("dag_id", "run_id", "task_id", "map_index", "try_number")
    return {key: getattr(task_instance, key, None) for key in keys}


def check_rate(value: object) -> float:
    """Return ``requests_per_second``, as the connection form takes it."""
    if isinstance(value, str):
        raise YouCanInvalidInputError(f"requests_per_second is {value!r}: give a number, or None; it is not templated.")
    return check_form_field("requests_per_second", value)
