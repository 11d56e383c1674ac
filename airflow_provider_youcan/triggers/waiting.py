"""
The state of a wait for an order's status, and the decision after each look.

The sensor asks from a worker and the trigger from an event loop; what an answer means to the wait is decided
here once, so that waiting in one mode can't come to differ from waiting in another.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from typing import Any

from airflow_provider_youcan.checks import check_order_id
from airflow_provider_youcan.exceptions import (
    YouCanConnectionNotFoundError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanPermanentError,
    YouCanTransientError,
    ends_wait,
)
from airflow_provider_youcan.logs import Logger
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.texts import join_slugs

__all__ = ["OrderStatusWait", "poll_interval"]

_log = logging.getLogger(__name__)


class OrderStatusWait:
    """
    One wait for one status of one order.

    :param order_id: the order's UUID.
    :param context: which of its three statuses.
    :param target_status: the slugs that end the wait well.
    :param failure_status: the slugs that mean the target will never come.
    :param seen: what another wait for the same saw before, as its :attr:`seen` has it (default nothing).
    :param logger: where it logs when the status has changed, and what keeps it from being read.
    :raises YouCanInvalidInputError: if one of them makes no sense.
    """

    def __init__(
        self,
        order_id: str,
        context: StatusContext | str,
        target_status: Collection[str],
        failure_status: Collection[str] = (),
        *,
        seen: Mapping[str, Any] | None = None,
        logger: Logger | None = None,
    ) -> None:
        self.order_id = check_order_id(order_id)
        self.context = StatusContext(context)
        self.target_status = tuple(target_status)
        self.failure_status = tuple(failure_status)
        if both := set(target_status) & set(failure_status):
            raise YouCanInvalidInputError(f"{join_slugs(sorted(both))} can't be both target_status and failure_status.")
        seen = seen or {}
        self.resume_at: float = seen.get("resume_at", 0.0)
        """Until when, in seconds since 1970, the shop asked to wait."""
        self.is_connected: bool = seen.get("is_connected", False)
        """True once the Airflow connection was found."""
        self._log: Logger = _log if logger is None else logger
        self._status: str | None = seen.get("status")
        self._logged_unreadable: bool = seen.get("logged_unreadable", False)
        self._failing_since: float | None = seen.get("failing_since")
        self._last_error: str | None = seen.get("last_error")

    @property
    def seen(self) -> dict[str, Any]:
        """The state so far, as plain JSON, for the way from a worker to the triggerer."""
        return {
            "resume_at": self.resume_at,
            "is_connected": self.is_connected,
            "status": self._status,
            "logged_unreadable": self._logged_unreadable,
            "failing_since": self._failing_since,
            "last_error": self._last_error,
        }

    def record_status(self, status: str | None) -> bool:
        """
        Record the status that was read, and return whether the wait has ended well.

        :param status: the slug, or ``None`` where it could not be read: that is not the target, and no failure.
        :raises YouCanPermanentError: if the target will never come.
        """
        self._failing_since = self._last_error = None
        self.is_connected = True
        subject = f"Order {self.order_id}: the {self.context} status"
        if status is None and not self._logged_unreadable:
            self._logged_unreadable = True
            self._log.warning("%s can't be read from YouCan's answer. Still waiting.", subject)
        if status is not None and status != self._status:
            waiting = "" if status in self.target_status else f", waiting for {join_slugs(self.target_status)}"
            self._log.info("%s is %r%s.", subject, status, waiting)
        self._status = status
        if status is not None and status in self.failure_status:
            target = join_slugs(self.target_status)
            raise YouCanPermanentError(
                f"{subject} is {status!r}, which is in failure_status, so it will not become {target}."
            )
        return status is not None and status in self.target_status

    def record_error(self, error: YouCanError, now: float) -> None:
        """
        Record a transient error, which means "not yet".

        :param error: what came instead of the status.
        :param now: the time, in seconds since 1970.
        :raises YouCanError: the error itself, if it ends the wait, or if the Airflow connection was never found: it
            may not be there at all, so Airflow's ``retries`` decide.
        """
        error.drop_nothing_sent()
        if ends_wait(error) or (isinstance(error, YouCanConnectionNotFoundError) and not self.is_connected):
            raise error
        self.is_connected = self.is_connected or error.method is not None
        self._log.warning("%s Still waiting.", error)
        self._failing_since = self._failing_since or now
        self._last_error = str(error)
        if isinstance(error, YouCanTransientError) and error.retry_after is not None:
            self.resume_at = max(self.resume_at, now + error.retry_after)

    def describe_timeout(self, timeout: float, *, ended_early: bool = False) -> str:
        """
        Return a sentence that says that the wait timed out, and what was last seen.

        :param timeout: the most seconds of the wait.
        :param ended_early: whether it ended before that, because the shop asked to wait for longer.
        """
        if self._last_error is not None and self._failing_since is not None:
            since = datetime.fromtimestamp(self._failing_since, timezone.utc)
            seen = f"nothing could be read since {since:%Y-%m-%d %H:%M:%S} UTC: {self._last_error}"
        elif self._status is None:
            seen = "it could not be read from YouCan's answers."
        else:
            seen = f"it was last seen as {self._status!r}."
        when = f"within {timeout:g} s"
        if ended_early:
            when = f"yet, and the shop asked to wait for longer than the timeout of {timeout:g} s leaves"
        target = join_slugs(self.target_status)
        return f"Order {self.order_id}: the {self.context} status has not become {target} {when}; {seen}"


def poll_interval(base: float, poll: int, *, exponential: bool, longest: float | None, rng: random.Random) -> float:
    """
    Seconds from one poll to the next.

    :param base: the sensor's ``poke_interval``.
    :param poll: which poll is over, from 1.
    :param exponential: whether the waits double, as the sensor's ``exponential_backoff`` asks.
    :param longest: the sensor's ``max_wait``, or ``None``.
    :param rng: draws the jitter that a growing wait has.
    """
    if not exponential:
        return base
    # As Airflow's own sensors do: from half the base on, doubling, and up to twice that by chance.
    shortest = max(base * 2.0 ** min(poll - 2, 30), 1.0)
    interval = shortest * (1 + rng.random())
    return interval if longest is None else min(interval, longest)
