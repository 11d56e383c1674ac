"""
What a wait for an order's status has seen, and what follows from it.

The sensor asks from a worker and the trigger from an event loop; what an answer means to the wait is decided
here once, so that waiting in one mode can't come to differ from waiting in another.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from datetime import datetime, timezone
from typing import Any

from airflow_provider_youcan.exceptions import YouCanInvalidInputError, YouCanPermanentError, YouCanTransientError
from airflow_provider_youcan.orders import StatusContext, check_order_id, check_status

__all__ = ["OrderStatusWait", "as_slugs", "poll_interval"]


class OrderStatusWait:
    """
    One wait for one status of one order.

    :param order_id: the order's UUID.
    :param context: which of its three statuses.
    :param target_status: the slugs that end the wait well.
    :param failure_status: the slugs that mean the target will never come.
    :param seen: what another wait for the same saw before, as its :attr:`seen` tells it (default nothing).
    :param info: a logger's ``info``, told when the status has changed.
    :param warn: a logger's ``warning``, told of what keeps the status from being read.
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
        info: Callable[..., None],
        warn: Callable[..., None],
    ) -> None:
        self.order_id = check_order_id(order_id)
        self.context = StatusContext(context)
        self.target_status = tuple(target_status)
        self.failure_status = tuple(failure_status)
        if both := set(target_status) & set(failure_status):
            raise YouCanInvalidInputError(f"{_join(sorted(both))} can't be both target_status and failure_status.")
        seen = seen or {}
        self.resume_at: float = seen.get("resume_at", 0.0)
        """Until when, in seconds since 1970, the shop asked to be left alone."""
        self._info = info
        self._warn = warn
        self._status: str | None = seen.get("status")
        self._said_unknown: bool = seen.get("said_unknown", False)
        self._failing_since: float | None = seen.get("failing_since")
        self._last_error: str | None = seen.get("last_error")

    @property
    def seen(self) -> dict[str, Any]:
        """What was seen so far, as plain JSON, for the way from a worker to the triggerer."""
        return {
            "resume_at": self.resume_at,
            "status": self._status,
            "said_unknown": self._said_unknown,
            "failing_since": self._failing_since,
            "last_error": self._last_error,
        }

    def see_status(self, status: str | None) -> bool:
        """
        Take in the status that was read, and tell whether the wait has ended well.

        :param status: the slug, or ``None`` where it could not be read: that is not the target, and no failure.
        :raises YouCanPermanentError: if the target will never come.
        """
        self._failing_since = self._last_error = None
        subject = f"Order {self.order_id}: the {self.context} status"
        if status is None and not self._said_unknown:
            self._said_unknown = True
            self._warn("%s can't be read from YouCan's answer. The wait goes on.", subject)
        if status is not None and status != self._status:
            waiting = "" if status in self.target_status else f", waiting for {_join(self.target_status)}"
            self._info("%s is %r%s.", subject, status, waiting)
        self._status = status
        if status is not None and status in self.failure_status:
            raise YouCanPermanentError(
                f"{subject} is {status!r}, which failure_status names, so {_join(self.target_status)} will not come."
            )
        return status is not None and status in self.target_status

    def see_error(self, error: YouCanTransientError, now: float) -> None:
        """
        Take in an error that may pass: "not yet".

        :param error: what came instead of the status.
        :param now: the time, in seconds since 1970.
        """
        self._warn("%s The wait goes on.", error)
        self._failing_since = self._failing_since or now
        self._last_error = str(error)
        if error.retry_after is not None:
            self.resume_at = max(self.resume_at, now + error.retry_after)

    def describe_timeout(self, timeout: float) -> str:
        """
        Say in a sentence that the wait was in vain, and what was last seen.

        :param timeout: for how many seconds it went on.
        """
        if self._last_error is not None and self._failing_since is not None:
            since = datetime.fromtimestamp(self._failing_since, timezone.utc)
            seen = f"nothing could be read since {since:%Y-%m-%d %H:%M:%S} UTC: {self._last_error}"
        elif self._status is None:
            seen = "it could not be read from YouCan's answers."
        else:
            seen = f"it was last seen as {self._status!r}."
        return (
            f"Order {self.order_id}: the {self.context} status has not become {_join(self.target_status)} within "
            f"{timeout:g} s; {seen}"
        )


def as_slugs(name: str, slugs: object, *, may_be_empty: bool = False) -> tuple[str, ...]:
    """
    Return one slug, or several, as a tuple.

    :param name: the argument that they come from, for the error message.
    :param slugs: a string, or a list, tuple or set of strings.
    :param may_be_empty: whether there may be none (default ``False``).
    :raises YouCanInvalidInputError: if there is none, or one of them is no status.
    """
    found = (slugs,) if isinstance(slugs, str) else slugs
    if found is None and may_be_empty:
        found = ()
    # Airflow's own lazy sequence of a mapped task's results is one, too.
    if not isinstance(found, (Sequence, Set)) or not (len(found) or may_be_empty):
        raise YouCanInvalidInputError(f"{name} is {slugs!r}; nothing was sent: give a slug, or a list of slugs.")
    return tuple(check_status(slug) for slug in found)


def poll_interval(base: float, poll: int, *, exponential: bool, longest: float | None, draw: random.Random) -> float:
    """
    Seconds from one poll to the next.

    :param base: the sensor's ``poke_interval``.
    :param poll: which poll is over, from 1.
    :param exponential: whether the waits double, as the sensor's ``exponential_backoff`` asks.
    :param longest: the sensor's ``max_wait``, or ``None``.
    :param draw: draws the jitter that a growing wait has.
    """
    if not exponential:
        return base
    # As Airflow's own sensors do: from half the base on, doubling, and up to twice that by chance.
    shortest = max(base * 2.0 ** min(poll - 2, 30), 1.0)
    interval = shortest * (1 + draw.random())
    return interval if longest is None else min(interval, longest)


def _join(slugs: Collection[str]) -> str:
    return " or ".join(map(repr, slugs))
