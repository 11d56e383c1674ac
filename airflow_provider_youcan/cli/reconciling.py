"""An operator that runs outside a task, for the commands that reconcile."""

from __future__ import annotations

from typing import Any

from airflow_provider_youcan.hooks.standalone import outside_task

__all__ = ["reconcile"]


def reconcile(**arguments: Any) -> tuple[dict[str, Any], str]:
    """
    Reconcile as a task does, and return the summary and the preview.

    :param arguments: those of ``YouCanReconcileOrdersOperator``.
    :raises YouCanError: what the operator raises.
    """
    with outside_task():
        from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator

        kept = _Kept()
        operator = YouCanReconcileOrdersOperator(task_id="reconcile", **arguments)
        summary = operator.reconcile({"ti": kept})  # type: ignore[typeddict-item]
    return summary, str(kept.xcoms["preview"])


class _Kept:
    """Stands for a task: what it pushes stays here."""

    def __init__(self) -> None:
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value
