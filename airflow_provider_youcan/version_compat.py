"""
All that differs between the Airflows that are supported, beyond what common-compat covers, and every private name.

Whatever is imported here is imported when it is used: Airflow parses DAG files again and again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import airflow

__all__ = [
    "IS_AIRFLOW_2",
    "OPERATOR_ARGUMENTS",
    "UNCHANGED_SECRET",
    "find_variable_class",
    "is_mapped",
    "load_determine_kwargs",
    "load_retry_policy",
    "mask_secret",
    "read_from_database",
    "with_text_keys",
]

IS_AIRFLOW_2 = airflow.__version__.startswith("2.")

OPERATOR_ARGUMENTS = "_BaseOperator__init_kwargs"
"""The attribute in which an operator keeps what it was constructed with."""

UNCHANGED_SECRET = "RATHER_LONG_SENSITIVE_FIELD_PLACEHOLDER"  # noqa: S105
"""The text by which Airflow 2's connection form keeps the stored secret."""


def is_mapped(operator: object) -> bool:
    """Return whether an operator is one of a mapped task's, from its constructor on."""
    return bool(getattr(operator, "_BaseOperator__from_mapped", False))


def mask_secret(secret: str) -> None:
    """Have Airflow mask a text in its logs."""
    try:
        from airflow.sdk.log import mask_secret as mask
    except ImportError:  # Airflow 2; common-compat has this one only in its newest versions
        from airflow.utils.log.secrets_masker import mask_secret as mask  # type: ignore[import-not-found, no-redef]
    mask(secret)


def find_variable_class() -> Any:
    """Return the Task SDK's Variable in a task of Airflow 3, and else the model: the Test button works in a service."""
    if hasattr(sys.modules.get("airflow.sdk.execution_time.task_runner"), "SUPERVISOR_COMMS"):
        from airflow.providers.common.compat.sdk import Variable

        return Variable
    from airflow.models.variable import Variable as Model

    return Model


def read_from_database() -> None:
    """Have Airflow 3 look up connections in its database: this process is a command, not a task."""
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")


def load_retry_policy() -> tuple[Any, Any]:
    """Return Airflow's ``RetryPolicy`` and ``RetryDecision``, ``None`` for both before Airflow 3.3."""
    try:
        from airflow.sdk import RetryDecision, RetryPolicy
    except ImportError:
        return None, None
    return RetryPolicy, RetryDecision


def load_determine_kwargs() -> Callable[..., Mapping[str, Any]]:
    """Return Airflow's function that finds the arguments for a task's function."""
    try:
        from airflow.providers.common.compat.sdk import determine_kwargs
    except (ImportError, AttributeError):  # before Airflow 3.2 it was elsewhere, and common-compat lacks it
        from airflow.utils.operator_helpers import determine_kwargs  # type: ignore[attr-defined]
    return determine_kwargs


def with_text_keys(status_map: Any) -> Any:
    """Return a ``status_map`` whose words are texts: Airflow 2 can't sort keys of several types."""
    if not isinstance(status_map, Mapping):
        return status_map
    return {
        context: {str(word): slug for word, slug in words.items() if word is not None}
        if isinstance(words, Mapping)
        else words
        for context, words in status_map.items()
    }
