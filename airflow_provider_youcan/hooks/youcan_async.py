"""The asyncio version of :class:`YouCanHook`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook
from asgiref.sync import sync_to_async

from airflow_provider_youcan.checks import check_slugs
from airflow_provider_youcan.client import endpoints, procedures, store
from airflow_provider_youcan.client.attempts import Attempts, StaleReadError
from airflow_provider_youcan.client.credentials import Credentials
from airflow_provider_youcan.client.responses import read_response
from airflow_provider_youcan.exceptions import YouCanError
from airflow_provider_youcan.hooks.base import ConnectionUser
from airflow_provider_youcan.hooks.limiter import RateLimiter, Turn
from airflow_provider_youcan.logs import Throttle
from airflow_provider_youcan.metrics import count_request, count_retry
from airflow_provider_youcan.orders import OrderStatuses, StatusContext

if TYPE_CHECKING:
    from airflow_provider_youcan.client.procedures import Procedure
    from airflow_provider_youcan.hooks.shared_client import SharedClient

__all__ = ["YouCanAsyncHook"]

_Result = TypeVar("_Result")

Announce: TypeAlias = Callable[[endpoints.Request], Awaitable[None]]
"""Is awaited with an update before it takes its turn."""

_log = logging.getLogger(__name__)


class YouCanAsyncHook(ConnectionUser):
    """
    Talk to one YouCan shop from an event loop: the asyncio version of :class:`YouCanHook`.

    It has the same connection, the same wire and the same retries, and never blocks the loop. All hooks of one
    loop that use the same Airflow connection share its look-up, a handful of sockets and what the shop said of its
    rate limit, until the last of them is closed::

        async with YouCanAsyncHook() as hook:
            statuses = await hook.get_order_statuses(order_id)

    A token that was renewed in the Airflow connection is taken up when the old one is refused.

    A task that sends many requests at once sets ``max_concurrency``. Its hook then waits for the shop's rate limit as
    long as that lets requests through: a 429 costs no attempt.

    :param youcan_conn_id: the id of the Airflow connection (default ``youcan_default``).
    :param max_retry_seconds: no attempt at a request begins later than this after its first; ``None`` leaves it
        to the connection's ``max_attempts`` alone (default).
    :param max_concurrency: how many requests its user sends at a time, and so how many sockets it may hold; ``None``
        leaves it with the handful that all hooks share (default).
    :param requests_per_second: how many requests a second are sent at most, together with ``max_concurrency``. The
        connection's extra ``requests_per_second`` can lower it; ``None`` leaves it to that alone (default).
    """

    def __init__(
        self,
        youcan_conn_id: str = ConnectionUser.default_conn_name,
        *,
        max_retry_seconds: float | None = None,
        max_concurrency: int | None = None,
        requests_per_second: float | None = None,
    ) -> None:
        super().__init__(youcan_conn_id, max_retry_seconds=max_retry_seconds)
        self.max_concurrency = max_concurrency
        self.requests_per_second = requests_per_second
        self.requests = 0
        """The number of requests that it has sent."""
        self._client: SharedClient | None = None
        self._limiter: RateLimiter | None = None
        self._pauses: set[asyncio.Future[None]] = set()
        self._warning = Throttle(self.log)

    async def update_order_status(
        self, order_id: str, status: str, context: StatusContext | str = StatusContext.GENERAL
    ) -> None:
        """Set one status of one order, as :meth:`YouCanHook.update_order_status` does."""
        await self.run(procedures.update_order_status(order_id, status, context))

    async def move_order_status(
        self,
        order_id: str,
        status: str,
        context: StatusContext | str = StatusContext.GENERAL,
        *,
        only_from: str | Collection[str] | None,
        found: OrderStatuses | None = None,
    ) -> tuple[str | None, bool]:
        """
        Set one status of one order, as :meth:`YouCanHook.move_order_status` does.

        :param order_id: the order's UUID.
        :param status: the slug, sent as it is given.
        :param context: ``general`` (default), ``shipping`` or ``payment``.
        :param only_from: the slug, or the slugs, that the status may be moved from, ``None`` for any, and for one that
            can't be read.
        :param found: the statuses that were read just now, which saves reading them before the first attempt;
            ``None`` reads them (default).
        :return: the status that was found, and whether it was changed.
        :raises YouCanError: as :meth:`YouCanHook.move_order_status` does.
        """
        slugs = None if only_from is None else check_slugs("only_from", only_from)
        read = None if found is None else procedures.Read(found, time.monotonic())
        return (await self.run(procedures.move_order_status(order_id, status, context, slugs, read=read)))[:2]

    async def get_order(self, order_id: str, include: Iterable[str] = ("payment", "shipping")) -> dict[str, Any]:
        """Read one order, as :meth:`YouCanHook.get_order` does."""
        return await self.run(procedures.get_order(order_id, include))

    async def get_order_statuses(self, order_id: str) -> OrderStatuses:
        """Read the three statuses of one order, as :meth:`YouCanHook.get_order_statuses` does."""
        return await self.run(procedures.get_order_statuses(order_id))

    async def list_orders(
        self, page: int = 1, page_size: int = 50, include: Iterable[str] = ("payment", "shipping"), **query: Any
    ) -> dict[str, Any]:
        """
        Read one page of the orders.

        :param page: which page, from 1 (default).
        :param page_size: how many orders a page; YouCan sends 50 at most, whatever more is asked for (default 50).
        :param include: the sub-resources to send along.
        :param query: as :meth:`YouCanHook.iter_orders` takes it.
        :return: the page as YouCan sends it: ``data``, the orders, and ``meta``, with ``pagination``.
        :raises YouCanError: if it could not be read.
        """
        return await self.run(procedures.request(endpoints.list_orders(page, page_size, include, query)))

    async def get_store_statuses(self) -> dict[StatusContext, list[str]]:
        """Read the store's own statuses, as :meth:`YouCanHook.get_store_statuses` does."""
        return await self.run(store.get_store_statuses(self._store_slugs))

    async def check_status(self, status: str, context: StatusContext | str, *, allow_custom_label: bool = False) -> str:
        """Refuse a status that would become a junk label, as :meth:`YouCanHook.check_status` does."""
        context = StatusContext(context)
        if allow_custom_label:
            return status
        return await self.run(store.check_status(status, context, self._store_slugs, self.youcan_conn_id))

    async def get_credentials(self) -> Credentials:
        """
        Return what the Airflow connection says, checked. It holds the access token: keep it out of XCom and logs.

        :raises YouCanInvalidInputError: if the Airflow connection is missing or makes no sense.
        """
        client = self._acquire_client()
        return client.credentials.find() or await client.look_up_credentials(self._look_up)

    async def run(self, procedure: Procedure[_Result], announce: Announce | None = None) -> _Result:
        """
        Run a procedure: send what it yields, and return what it returns.

        :param procedure: one of :mod:`airflow_provider_youcan.client.procedures`.
        :param announce: is awaited with each update that rests on a read, before the update takes its turn; an error
            that it raises is the answer in place of the shop's (default ``None``).
        :raises YouCanError: what the procedure raises.
        """
        client, turn = self._acquire_client(), Turn()
        waits_for_limit = self.max_concurrency is not None
        attempts = Attempts(self.max_retry_seconds, client.credentials.denied, waits_for_limit=waits_for_limit)
        if not waits_for_limit:
            # A wait may last for weeks, and its connection be edited meanwhile; a task stays with its shop.
            client.credentials.expire()
        # Retained, so that another coroutine's close() does not cut this procedure off.
        client.retain()
        answer: dict[str, Any] | Exception | None = None
        try:
            while True:
                try:
                    request = procedures.resume(procedure, answer, attempts)
                except StopIteration as end:
                    result: _Result = end.value
                    return result
                try:
                    if announce is not None and request.freshness is not None:
                        await announce(request)
                    answer = await self._send(client, request, turn, attempts)
                except (YouCanError, StaleReadError) as error:
                    answer = error
        except asyncio.CancelledError as cancelled:
            cancelled.unconfirmed = attempts.unconfirmed or getattr(cancelled, "unconfirmed", False)  # type: ignore[attr-defined]
            raise
        finally:
            turn.end()
            await client.release()

    def stop(self) -> None:
        """Send nothing more: the task was stopped. What is under way comes to its end."""
        self._is_stopped = True
        for pause in self._pauses:
            pause.cancel()
        if self._limiter is not None:
            self._limiter.stop()

    async def check_ceiling(self, guard_max_age: float) -> None:
        """
        Refuse a ceiling under which a read and its update lie too far apart for a guard.

        :param guard_max_age: the maximum age, in seconds, of the read that a guarded update depends on.
        :raises YouCanInvalidInputError: if ``requests_per_second`` is too low.
        """
        credentials = await self.get_credentials()
        limiter = self._limiter or self._make_limiter(self._acquire_client(), credentials)
        limiter.check_ceiling(max(guard_max_age, procedures.GUARD_MAX_AGE))

    async def close(self) -> None:
        """Let go of the connections; the last hook that shares them closes them."""
        client, self._client = self._client, None
        if client is not None:
            await client.release()

    async def __aenter__(self) -> YouCanAsyncHook:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(
        self, client: SharedClient, request: endpoints.Request, turn: Turn, attempts: Attempts
    ) -> dict[str, Any]:
        while True:
            was_sent = False
            try:
                credentials = client.credentials.find(attempts.refused) or await client.look_up_credentials(
                    partial(self._look_up, attempts.refused, may_renew=attempts.may_renew), attempts.refused
                )
                attempts.begin(credentials)
                limiter = self._limiter or self._make_limiter(client, credentials)
                number, answer = await limiter.take_turn(request, turn, attempts), None
                try:
                    if self._is_stopped:
                        raise self._stopped_error(request)
                    was_sent = True
                    attempts.send()
                    self.requests += 1
                    _log.debug("%s %s", request.method, request.path)
                    answer = await client.send_request(request, credentials)
                except asyncio.CancelledError as cancelled:
                    # The caller that cancelled it has to know that the update was sent.
                    cancelled.unconfirmed = request.freshness is not None  # type: ignore[attr-defined]
                    raise
                finally:
                    limiter.record(number, request, answer)
                count_request(request.method, answer.status_code, self.youcan_conn_id)
                payload = read_response(request, answer, self.connection_name, credentials.token)
            except YouCanError as error:
                if was_sent and error.status_code is None:
                    count_request(request.method, None, self.youcan_conn_id)
                seconds = attempts.fail(request, error, was_sent=was_sent)
                count_retry(error, self.youcan_conn_id)
                if seconds:
                    self._warning("%s %s", error, attempts.describe(seconds))
            else:
                attempts.succeed(request)
                return payload
            if seconds:
                await self._pause(seconds)

    async def _pause(self, seconds: float) -> None:
        """Wait for the next attempt, or until the task is stopped."""
        pause = asyncio.ensure_future(asyncio.sleep(seconds))
        self._pauses.add(pause)
        try:
            await asyncio.wait({pause})
        finally:
            pause.cancel()
            self._pauses.discard(pause)

    def _make_limiter(self, client: SharedClient, credentials: Credentials) -> RateLimiter:
        """Return the limiter of this hook's requests: its own if it sends many at a time, else the client's."""
        if self.max_concurrency is None:
            return client.limiter
        ceilings = [rate for rate in (self.requests_per_second, credentials.requests_per_second) if rate]
        # Queue for a socket here, where each gets its turn: in aiohttp's pool a page would wait behind every update.
        self._limiter = RateLimiter(
            min(ceilings, default=None), max_in_flight=self.max_concurrency, max_windows=credentials.max_attempts
        )
        return self._limiter

    def _acquire_client(self) -> SharedClient:
        if self._client is None or self._client.loop is not asyncio.get_running_loop():
            # Imported here, so that a task that works without an event loop doesn't pay for aiohttp.
            from airflow_provider_youcan.hooks.shared_client import MAX_CONNECTIONS, SharedClient

            # Kept from one request to the next, until close().
            self._client = SharedClient.acquire(self.youcan_conn_id, self.max_concurrency or MAX_CONNECTIONS)
        return self._client

    async def _look_up(self, refused: Sequence[Credentials] = (), *, may_renew: bool = True) -> Credentials:
        try:
            try:
                connection = await get_async_connection(self.youcan_conn_id)
            except AirflowNotFoundException:
                # ``airflow dags test`` of Airflow 3 finds a connection of the database in no other way.
                look_up = sync_to_async(BaseHook.get_connection, thread_sensitive=False)
                connection = await look_up(self.youcan_conn_id)
            # In a thread, because it asks the supervisor on Airflow 3, and perhaps YouCan.
            read = sync_to_async(self._read_credentials, thread_sensitive=False)
            return await read(connection, refused, may_renew=may_renew)
        except Exception as error:  # whatever a secrets backend raises
            failure = self._look_up_error(error)
        raise failure
