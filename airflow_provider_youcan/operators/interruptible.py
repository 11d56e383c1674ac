"""Operators that Airflow can stop at any moment, and what such a stop ends in."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowTaskTimeout, BaseOperator

from airflow_provider_youcan.exceptions import YouCanTaskStoppedError
from airflow_provider_youcan.reconciliation.interruption import GRACE_SECONDS, Interruption

__all__ = ["InterruptibleOperator"]


class InterruptibleOperator(BaseOperator):
    """An operator that, when it is stopped or times out, first stores what was done, and then raises an error."""

    goal: ClassVar[str]
    """The end that it does not reach when it is stopped: "the table was reconciled"."""
    retry_advice: ClassVar[str]
    """The effect of a retry."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._interruption = Interruption()

    def on_kill(self) -> None:
        """Begin nothing more; Airflow calls this when the task is to end, in a signal handler."""
        self._interruption.stop()

    def _seconds_left(self, begun_at: float) -> float | None:
        """Return the seconds until the run has to begin to end, so that it has ended when Airflow's alarm goes off."""
        if self.execution_timeout is None:
            return None
        limit = self.execution_timeout.total_seconds()
        return max(0.0, max(limit - GRACE_SECONDS - 1, limit / 2) - (time.monotonic() - begun_at))

    def _raise_interruption(self) -> None:
        """Raise what Airflow expects of a task that was stopped, or whose time was over."""
        interruption = self._interruption
        if interruption.timed_out:
            raise AirflowTaskTimeout(
                f"The execution_timeout of {self.execution_timeout} was over before {self.goal}; a retry "
                f"{self.retry_advice}."
            )
        if interruption.was_stopped:
            interruption.handle_signals()
            # Airflow 3's handler raises nothing, and a task that was stopped must not end as a success.
            raise YouCanTaskStoppedError(
                f"The task was stopped before {self.goal}", advice=f"a retry {self.retry_advice}."
            )
