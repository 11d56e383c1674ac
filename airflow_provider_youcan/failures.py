"""The reason of a task's end, in its log, where Airflow's page shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.providers.common.compat.sdk import AirflowSensorTimeout, AirflowSkipException

from airflow_provider_youcan.exceptions import YouCanError

__all__ = ["log_end"]


@contextmanager
def log_end(log: Any, *, only_reads: bool = False) -> Iterator[None]:
    """
    Log why a task fails, the cause and the remedy on a line each, or why it is skipped.

    Airflow shows an exception's message above a long traceback, and hides a skip's message in a folded group.

    :param log: the task's logger.
    :param only_reads: whether the task sends nothing anyway, so that its errors need not say so (default ``False``).
    """
    try:
        yield
    except AirflowSkipException as skip:
        log.info("%s", skip)
        raise
    except AirflowSensorTimeout as error:
        log.error("%s", error)
        raise
    except YouCanError as error:
        if only_reads:
            error.drop_nothing_sent()
        log.error("%s", "\n".join(_lines(error)))
        raise


def _lines(error: YouCanError) -> Iterator[str]:
    if error.advice is None or not error.problem:
        yield str(error)
        return
    yield f"{error.problem.rstrip('.')}."
    yield " ".join(f"{part[:1].upper()}{part[1:].rstrip('.')}." for part in (error.advice, error.outcome) if part)
