"""
When to try again, and how long to wait: one policy for both hooks, and the same reasons for Airflow's retries.

A request only ever sets a value or reads one, so sending it twice leaves the shop in the same state and any
transient error may be tried again, a lost answer included.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import tenacity

from airflow_provider_youcan.exceptions import YouCanPermanentError, YouCanRateLimitError, YouCanTransientError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.sdk import RetryDecision, RetryPolicy
    from tenacity import RetryCallState
else:
    try:
        from airflow.sdk import RetryDecision, RetryPolicy  # common-compat has them in its newest versions only
    except ImportError:  # older than Airflow 3.3, which has no retry policies
        RetryPolicy = None

__all__ = [
    "LONGEST_RETRY_AFTER",
    "YouCanRetryPolicy",
    "async_request_policy",
    "is_worth_waiting",
    "request_policy",
    "wait_seconds",
]

LONGEST_RETRY_AFTER = 60.0
"""The longest ``Retry-After``, in seconds, that is waited for inside a task. A longer one frees its slot."""

# Full jitter: a random wait between nothing and a bound that doubles, so that tasks which failed together
# do not come back together.
_back_off = tenacity.wait_random_exponential(multiplier=1, max=30)


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
            # A day is longer than any window of a rate limit; what is more is a mistake of the shop's.
            seconds = min(exception.retry_after, 86_400.0)
            return RetryDecision.retry(
                delay=timedelta(seconds=seconds), reason=f"The shop asked to be left alone for {seconds:g} s."
            )
        return RetryDecision.default()

    def serialize(self) -> dict[str, Any]:
        """Return the policy as plain JSON; it has no settings."""
        return {"__type": "YouCanRetryPolicy"}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> YouCanRetryPolicy:  # noqa: ARG003  # Airflow's signature
        """Make the policy anew from what :meth:`serialize` returned."""
        return cls()


def is_worth_waiting(error: BaseException) -> bool:
    """Tell whether a request that ended in ``error`` should be sent again by the task that holds it."""
    if not isinstance(error, YouCanTransientError) or error.was_retried:
        return False
    return (error.retry_after or 0.0) <= LONGEST_RETRY_AFTER


def request_policy(max_attempts: int, warn: Callable[..., None], max_seconds: float | None = None) -> tenacity.Retrying:
    """
    Build the caller that sends a request again while that may help.

    :param max_attempts: how often a request is sent at most, from 1.
    :param warn: a logger's ``warning``, which is told of each wait in one line.
    :param max_seconds: no attempt begins later than this after the first; ``None`` sets no bound (default).
    :return: ``policy(function, *args)`` calls the function and returns what it returns; the last error is
        raised as it is.
    """
    return tenacity.Retrying(**_rules(max_attempts, warn, max_seconds))


def async_request_policy(
    max_attempts: int,
    warn: Callable[..., None],
    max_seconds: float | None = None,
    is_worth_waiting: Callable[[BaseException], bool] = is_worth_waiting,
) -> tenacity.AsyncRetrying:
    """Build what :func:`request_policy` builds, for coroutines: ``await policy(function, *args)``."""
    rules = _rules(max_attempts, warn, max_seconds)
    return tenacity.AsyncRetrying(**rules | {"retry": tenacity.retry_if_exception(is_worth_waiting)})


def _rules(max_attempts: int, warn: Callable[..., None], max_seconds: float | None) -> dict[str, Any]:
    stop = tenacity.stop_after_attempt(max_attempts)
    return {
        "retry": tenacity.retry_if_exception(is_worth_waiting),
        "wait": wait_seconds,
        "stop": stop if max_seconds is None else stop | tenacity.stop_before_delay(max_seconds),
        "before_sleep": lambda state: warn(
            "%s Trying again in %.1f s (attempt %d of %d).",
            _error(state),
            state.next_action.sleep if state.next_action else 0.0,
            state.attempt_number + 1,
            max_attempts,
        ),
        "reraise": True,
    }


def wait_seconds(state: RetryCallState) -> float:
    """Seconds until the next attempt: exponential back-off with full jitter, and no less than the shop asked for."""
    return max(_back_off(state), getattr(_error(state), "retry_after", None) or 0.0)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
