"""
When to try a request again, and how long to wait: one policy for everything that talks to YouCan.

A request only ever sets a value or reads one, so sending it twice leaves the shop in the same state and any
transient error may be tried again, a lost answer included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import tenacity

from airflow_provider_youcan.exceptions import YouCanTransientError

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["LONGEST_RETRY_AFTER", "is_worth_waiting", "retry_policy", "wait_seconds"]

LONGEST_RETRY_AFTER = 60.0
"""The longest ``Retry-After``, in seconds, that is waited for inside a task. A longer one frees its slot."""

# Full jitter: a random wait between nothing and a bound that doubles, so that tasks which failed together
# do not come back together.
_back_off = tenacity.wait_random_exponential(multiplier=1, max=30)


def retry_policy(max_attempts: int, warn: Callable[..., None]) -> tenacity.Retrying:
    """
    Build the caller that sends a request again while that may help.

    :param max_attempts: how often a request is sent at most, from 1.
    :param warn: a logger's ``warning``, which is told of each wait in one line.
    :return: ``policy(function, *args)`` calls the function and returns what it returns; the last error is
        raised as it is.
    """
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_worth_waiting),
        wait=wait_seconds,
        stop=tenacity.stop_after_attempt(max_attempts),
        before_sleep=lambda state: warn(
            "%s Trying again in %.1f s (attempt %d of %d).",
            _error(state),
            state.next_action.sleep if state.next_action else 0.0,
            state.attempt_number + 1,
            max_attempts,
        ),
        reraise=True,
    )


def is_worth_waiting(error: BaseException) -> bool:
    """Tell whether a request that ended in ``error`` should be sent again by the task that holds it."""
    return isinstance(error, YouCanTransientError) and (error.retry_after or 0.0) <= LONGEST_RETRY_AFTER


def wait_seconds(state: RetryCallState) -> float:
    """Seconds until the next attempt: exponential back-off with full jitter, and no less than the shop asked for."""
    return max(_back_off(state), getattr(_error(state), "retry_after", None) or 0.0)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
