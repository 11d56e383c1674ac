"""The receiver: takes what YouCan delivers, keeps it, answers, and hands it to Airflow."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from airflow_provider_youcan.logs import Throttle
from airflow_provider_youcan.timeouts import timeout
from airflow_provider_youcan.webhooks.airflow_client import (
    AirflowClient,
)
from airflow_provider_youcan.webhooks.deliveries import (
    Delivery,
    InvalidDeliveryError,
    OtherStoreError,
    is_genuine,
    read_delivery,
)
from airflow_provider_youcan.webhooks.forwarding import Forwarder
from airflow_provider_youcan.webhooks.settings import Settings
from airflow_provider_youcan.webhooks.spool import Spool

__all__ = ["build_application"]

MAX_BODY_BYTES = 1_000_000
MAX_BYTES = 32_000_000
"""The most bytes of bodies that are held at a time, whoever sends them."""

BODY_SECONDS = 5.0
"""The seconds that a body may take to come."""

KEEP_SECONDS = 1.8
"""The seconds that the spool may take before YouCan is asked to deliver again: it waits for some two seconds."""

_log = logging.getLogger(__name__)


def build_application(settings: Settings, clock: Callable[[], float] = time.time) -> Starlette:
    """
    Return the receiver as an ASGI application: ``POST /`` takes deliveries, ``GET /health`` says that it runs.

    :param settings: what it needs.
    :param clock: returns the time in seconds since 1970 (default the machine's).
    :raises SpoolError: if another receiver uses the spool.
    :raises sqlite3.Error: if the spool can't be used.
    """
    receiver = _Receiver(settings, clock)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with receiver:
            yield

    routes = [
        Route("/", receiver.receive, methods=["POST"]),
        Route("/health", receiver.show_health, methods=["GET"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _refuse})


class _Receiver:
    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._spool = Spool(settings.spool, clock)
        self._incoming: asyncio.Queue[tuple[Delivery, asyncio.Future[None]]] = asyncio.Queue()
        self._warn = Throttle(_log)
        self._tasks: list[asyncio.Task[None]] = []
        self._bytes = 0

    async def __aenter__(self) -> None:
        settings = self._settings
        self._client = AirflowClient(settings.airflow_url, settings.username, settings.password, settings.token)
        self._forwarder = Forwarder(self._spool, self._client, self._clock)
        work = (self._forwarder.check_airflow(), self._store_all(), self._forwarder.run())
        self._tasks = [asyncio.create_task(one) for one in work]

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._forwarder.close()
        await self._client.close()
        self._spool.close()

    async def receive(self, request: Request) -> Response:
        """Answer a delivery, and close its connection."""
        try:
            async with timeout(BODY_SECONDS):
                body = await self._read_body(request)
        except (asyncio.TimeoutError, ClientDisconnect):
            # No 408: YouCan does not deliver again after a 4xx.
            return _answer(503, "the body took too long")
        except _BodyError as error:
            return _answer(error.status, str(error))
        # Before anything is parsed.
        if not is_genuine(body, request.headers.get("x-youcan-signature", ""), self._settings.secrets):
            self._warn("A delivery was refused: its signature is not that of the app's client secret.")
            return _answer(401, "the signature is wrong")
        settings = self._settings
        event = request.query_params.get("event") if settings.event_from_address else None
        try:
            delivery = read_delivery(body, request.headers, settings.store, event, settings.store_ids)
        except OtherStoreError:
            self._warn("Deliveries of a store that is not this receiver's are ignored: see --store.")
            return _answer(200, "this store is ignored")
        except InvalidDeliveryError as error:
            self._warn("A delivery was refused: %s.", error)
            return _answer(400, str(error))
        if delivery is None:
            return _answer(200, "this event is ignored")
        return _answer(200, "taken") if await self._is_stored(delivery) else _answer(503, "it can't be stored now")

    async def show_health(self, _: Request) -> Response:
        """Say whether it runs, and how many deliveries Airflow does not have yet."""
        if any(task.done() for task in self._tasks[1:]):
            return _answer(503, "restart the receiver")
        return _answer(200, f"{self._spool.count_waiting()} waiting")

    async def _read_body(self, request: Request) -> bytes:
        """
        Return the body.

        :raises _BodyError: if it is too large, or if all bodies together are too large at the moment.
        """
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > 9 or int(length) > MAX_BODY_BYTES):
            raise _BodyError(413, "the body is too large")
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self._bytes += len(chunk)
                if len(body) > MAX_BODY_BYTES:
                    raise _BodyError(413, "the body is too large")
                if self._bytes > MAX_BYTES:
                    raise _BodyError(503, "too much comes at once")
        finally:
            self._bytes -= len(body)
        return bytes(body)

    async def _is_stored(self, delivery: Delivery) -> bool:
        """Store a delivery, and return whether it is in the spool; if not, YouCan delivers it again."""
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._incoming.put((delivery, kept))
        try:
            async with timeout(KEEP_SECONDS):
                await kept
        except Exception as error:  # whatever the disk says
            self._warn(
                "The spool can't be written to (%s): YouCan is asked to deliver again, which it does for some four "
                "hours. See the disk.",
                type(error).__name__,
            )
            return False
        return True

    async def _store_all(self) -> None:
        """Store deliveries in batches: one fsync each."""
        while True:
            batch = [await self._incoming.get()]
            while not self._incoming.empty():
                batch.append(self._incoming.get_nowait())
            error: Exception | None = None
            try:
                await asyncio.to_thread(self._spool.add, [delivery for delivery, _ in batch])
            except Exception as failure:  # whatever it is, this has to go on
                error = failure
            self._forwarder.wake()
            for _, kept in batch:
                if kept.done():
                    continue
                if error is None:
                    kept.set_result(None)
                else:
                    kept.set_exception(error)


class _BodyError(Exception):
    """A body that is not read to its end."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # Starlette's handlers are typed for any exception
    return _answer(error.status_code, error.detail)


def _answer(status: int, text: str) -> Response:
    # A connection is for one request, so that none is held open.
    return PlainTextResponse(text, status, headers={"Connection": "close"})
