"""Wait for an order's status on the triggerer."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_youcan.exceptions import YouCanConnectionError, YouCanError, to_dict
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.timeouts import timeout
from airflow_provider_youcan.triggers.waiting import OrderStatusWait, poll_interval

if TYPE_CHECKING:
    from airflow_provider_youcan.hooks.youcan_async import YouCanAsyncHook

__all__ = ["YouCanOrderStatusTrigger", "load_hook"]

_LAST_LOOK_SECONDS = 5.0
"""For how many seconds a look that begins near the deadline may last beyond it."""


class YouCanOrderStatusTrigger(BaseTrigger):
    """
    Polls one status of one order until it is one that was waited for, or the deadline comes.

    A restarted triggerer continues where the last one was: the deadline is a point in time. The first
    poll comes at a random moment of the first interval, so that triggers which start together do not poll
    together.

    It ends with one event, plain JSON, whose ``outcome`` is

    * ``reached``, with the ``status``;
    * ``failed``, with the error that waiting on a worker would have raised;
    * ``timeout``, with a ``message`` that says what was last seen.

    :param order_id: the order's UUID.
    :param context: ``general``, ``shipping`` or ``payment``.
    :param target_status: the slugs that end the wait well.
    :param failure_status: the slugs that mean the target will never come.
    :param youcan_conn_id: the Airflow connection of the shop.
    :param poke_interval: seconds from one poll to the next (default 60).
    :param timeout: the seconds of the whole wait, for the message (default a week, as Airflow's).
    :param deadline: when the wait ends, in seconds since 1970; by default ``timeout`` from now.
    :param exponential_backoff: let the intervals grow (default ``False``).
    :param max_wait: the longest interval in seconds, or ``None`` (default).
    :param seen: what the wait saw before, as :attr:`OrderStatusWait.seen` has it (default nothing).
    """

    def __init__(
        self,
        *,
        order_id: str,
        context: str,
        target_status: Sequence[str],
        failure_status: Sequence[str] = (),
        youcan_conn_id: str = "youcan_default",
        poke_interval: float = 60.0,
        timeout: float = 604_800.0,
        deadline: float | None = None,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        seen: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.order_id = order_id
        self.context = StatusContext(context)
        self.target_status = [target_status] if isinstance(target_status, str) else list(target_status)
        self.failure_status = [failure_status] if isinstance(failure_status, str) else list(failure_status)
        self.youcan_conn_id = youcan_conn_id
        self.poke_interval = poke_interval
        self.timeout = timeout
        self.deadline = time.time() + timeout if deadline is None else deadline
        self.exponential_backoff = exponential_backoff
        self.max_wait = max_wait
        self.seen = dict(seen or {})

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return where this class is, and the plain JSON to rebuild the trigger."""
        return (
            "airflow_provider_youcan.triggers.order_status.YouCanOrderStatusTrigger",
            {
                "order_id": self.order_id,
                "context": self.context.value,
                "target_status": self.target_status,
                "failure_status": self.failure_status,
                "youcan_conn_id": self.youcan_conn_id,
                "poke_interval": self.poke_interval,
                "timeout": self.timeout,
                "deadline": self.deadline,
                "exponential_backoff": self.exponential_backoff,
                "max_wait": self.max_wait,
                "seen": self.seen,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the wait ends, and yield the one event."""
        try:
            event = await self._wait()
        except YouCanError as error:
            event = {"outcome": "failed", **to_dict(error)}
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _wait(self) -> dict[str, Any]:
        wait = OrderStatusWait(
            self.order_id,
            self.context,
            self.target_status,
            self.failure_status,
            seen=self.seen,
            logger=self.log,
        )
        rng = random.Random()  # noqa: S311  # jitter
        poll = 0
        due = max(time.time(), wait.resume_at) + rng.uniform(0, self.poke_interval)
        hook_class = await asyncio.to_thread(load_hook)
        async with hook_class(self.youcan_conn_id, max_retry_seconds=self.poke_interval) as hook:
            while True:
                await asyncio.sleep(max(0.0, min(_tick(due), self.deadline) - time.time()))
                if time.time() >= wait.resume_at:
                    try:
                        status = await self._look(hook)
                    except YouCanError as error:
                        wait.record_error(error, time.time())
                        # A shop in trouble gets a pause, however long its answer took.
                        due = max(due, time.time() - rng.uniform(0, self.poke_interval / 2))
                    else:
                        if wait.record_status(status):
                            return {"outcome": "reached", "status": status}
                now = time.time()
                if now >= self.deadline:
                    return {"outcome": "timeout", "message": wait.describe_timeout(self.timeout)}
                poll += 1
                interval = poll_interval(
                    self.poke_interval, poll, exponential=self.exponential_backoff, longest=self.max_wait, rng=rng
                )
                # Counted from when the poll was due, so that polls keep their pace; and after a
                # rate limit not all at once.
                due = max(due + interval, now)
                if wait.resume_at > now:
                    due = max(due, wait.resume_at + rng.uniform(0, interval))

    async def _look(self, hook: YouCanAsyncHook) -> str | None:
        """Read the status, but no longer than until the deadline, or for the moment of a last look."""
        seconds = max(self.deadline - time.time(), _LAST_LOOK_SECONDS)
        try:
            async with timeout(seconds):
                return (await hook.get_order_statuses(self.order_id))[self.context]
        except asyncio.TimeoutError:
            raise YouCanConnectionError(
                "No answer before the wait's deadline",
                advice="it may work later",
                outcome=f"Could not read order {self.order_id}: nothing was changed",
            ) from None


def load_hook() -> type[YouCanAsyncHook]:
    """Return the hook that waits use."""
    # In a thread, because it imports requests and aiohttp, and the event loop is not to wait for that.
    from airflow_provider_youcan.hooks import shared_client, youcan_async  # noqa: F401

    return youcan_async.YouCanAsyncHook


def _tick(moment: float) -> float:
    """Round up to a twentieth of a second, so that the event loop wakes once for several of a thousand triggers."""
    return math.ceil(moment * 20) / 20
