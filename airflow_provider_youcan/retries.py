"""Airflow's own retries, at the time that the shop asked for."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_youcan.exceptions import YouCanPermanentError, YouCanRateLimitError
from airflow_provider_youcan.version_compat import load_retry_policy

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.sdk import RetryDecision, RetryPolicy
else:
    RetryPolicy, RetryDecision = load_retry_policy()

__all__ = ["YouCanRetryPolicy"]


class YouCanRetryPolicy(RetryPolicy or object):  # type: ignore[misc]
    """
    Makes Airflow's retries wait as long as the shop asked for. It takes Airflow 3.3 or later.

    To use it, give a task, or the ``default_args`` of a DAG, one line: ``retry_policy=YouCanRetryPolicy()``.

    After a rate limit that says for how long, the retry comes then, rather than after the task's
    ``retry_delay``. Other transient errors keep the task's own delay, and permanent ones fail the task. Errors
    that are not YouCan's are left to Airflow. The number of ``retries`` stays the task's own.

    :raises RuntimeError: on an Airflow that has no retry policies.
    """

    def __init__(self) -> None:
        if RetryPolicy is None:
            raise RuntimeError(
                "YouCanRetryPolicy takes Airflow 3.3 or later, which has retry policies: leave retry_policy out on "
                "this one, and set retry_delay to what a rate limit may take."
            )

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,  # noqa: ARG002  # Airflow's signature
        max_tries: int,  # noqa: ARG002
        context: Context | None = None,  # noqa: ARG002
    ) -> RetryDecision:
        """
        Decide whether and when Airflow tries the task again.

        :param exception: what the task ended in.
        :param try_number: not looked at; Airflow counts.
        :param max_tries: not looked at; Airflow counts.
        :param context: not looked at.
        """
        if isinstance(exception, YouCanPermanentError):
            return RetryDecision.fail(reason=str(exception))
        if isinstance(exception, YouCanRateLimitError) and exception.retry_after is not None:
            # A day is longer than any window of a rate limit; more is a mistake of the shop's.
            seconds = min(exception.retry_after, 86_400.0)
            return RetryDecision.retry(
                delay=timedelta(seconds=seconds), reason=f"The shop asked to wait for {seconds:g} s."
            )
        return RetryDecision.default()

    def serialize(self) -> dict[str, Any]:
        """Return the policy as plain JSON; it has no settings."""
        return {"__type": "YouCanRetryPolicy"}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> YouCanRetryPolicy:  # noqa: ARG003  # Airflow's signature
        """Rebuild the policy from what :meth:`serialize` returned."""
        return cls()
