"""The receiver: takes what YouCan delivers, keeps it, answers, and hands it to Airflow."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from airflow_provider_youcan.logs import Throttle
from airflow_provider_youcan.timeouts import timeout
from airflow_provider_youcan.webhooks.airflow_client import (
    AirflowClient,
    AirflowError,
    RefusedEventError,
    UnknownAssetError,
)
from airflow_provider_youcan.webhooks.deliveries import Delivery, InvalidDeliveryError, is_genuine, read_delivery
from airflow_provider_youcan.webhooks.settings import Settings
from airflow_provider_youcan.webhooks.spool import Spool, Waiting

__all__ = ["build_application"]

MAX_BODY_BYTES = 1_000_000
BODY_SECONDS = 5.0
"""How long a body may take to come."""

KEEP_SECONDS, FORWARD_SECONDS = 1.2, 0.6
"""How long the spool, and then Airflow, may take before YouCan is answered: it waits for some two seconds."""

UNKNOWN_ASSET_SECONDS = 4 * 3600.0
"""How long a delivery is kept for an asset that no DAG uses: one that is being deployed may."""

_BATCH = 50
_AT_A_TIME = 8
_log = logging.getLogger(__name__)


def build_application(settings: Settings, clock: Callable[[], float] = time.time) -> Starlette:
    """
    Return the receiver as an ASGI application: ``POST /`` takes deliveries, ``GET /health`` says that it runs.

    :param settings: what it needs.
    :param clock: returns the time in seconds since 1970 (default the machine's).
    :raises sqlite3.Error: if the spool can't be used.
    """
    receiver = _Receiver(settings, clock)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with receiver:
            yield

    routes = [
        Route("/", receiver.take, methods=["POST"]),
        Route("/health", receiver.show_health, methods=["GET"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


class _Receiver:
    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._spool = Spool(settings.spool, clock)
        self._incoming: asyncio.Queue[tuple[Delivery, asyncio.Future[None]]] = asyncio.Queue()
        self._has_more = asyncio.Event()
        self._warn = Throttle(_log)
        self._tasks: list[asyncio.Task[None]] = []
        self._handed_on: set[str] = set()  # what Airflow has, and the spool perhaps not yet

    async def __aenter__(self) -> None:
        settings = self._settings
        self._client = AirflowClient(settings.airflow_url, settings.username, settings.password, settings.token)
        self._tasks = [asyncio.create_task(self._keep_all()), asyncio.create_task(self._forward_all())]

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()
        self._spool.close()

    # --- what YouCan meets ---

    async def take(self, request: Request) -> Response:
        """Answer a delivery."""
        try:
            async with timeout(BODY_SECONDS):
                body = await _read_body(request)
        except (asyncio.TimeoutError, ClientDisconnect):
            return _answer(408, "the body took too long")
        if body is None:
            return _answer(413, "the body is too large")
        # Before anything is parsed.
        if not is_genuine(body, request.headers.get("x-youcan-signature", ""), self._settings.secrets):
            self._warn("A delivery was refused: its signature is not that of the app's client secret.")
            return _answer(401, "the signature is wrong")
        try:
            event = request.query_params.get("event")
            delivery = read_delivery(body, request.headers, self._settings.store, event)
        except InvalidDeliveryError as error:
            self._warn("A delivery was refused: %s.", error)
            return _answer(400, str(error))
        if delivery is None:
            return _answer(200, "this event is ignored")
        return _answer(200, "taken") if await self._is_safe(delivery) else _answer(503, "it can't be stored now")

    async def show_health(self, _: Request) -> Response:
        """Say whether it runs, and how many deliveries Airflow does not have yet."""
        if any(task.done() for task in self._tasks):
            return _answer(503, "restart the receiver")
        return _answer(200, f"{await asyncio.to_thread(self._spool.count_waiting)} waiting")

    async def _is_safe(self, delivery: Delivery) -> bool:
        """Keep a delivery, and return whether it lies in the spool, or Airflow has it."""
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._incoming.put((delivery, kept))
        try:
            async with timeout(KEEP_SECONDS):
                await kept
        except Exception as error:  # whatever the disk says
            self._warn("The spool can't be written to (%s): deliveries go straight to Airflow.", type(error).__name__)
        else:
            return True
        try:
            async with timeout(FORWARD_SECONDS):
                await self._client.create_event(delivery)
        except (AirflowError, asyncio.TimeoutError):
            return False
        self._handed_on.add(delivery.delivery_id)
        return True

    # --- what goes on behind ---

    async def _keep_all(self) -> None:
        """Keep what comes: all that waits in one go, because the disk is slow at each."""
        while True:
            batch = [await self._incoming.get()]
            while not self._incoming.empty():
                batch.append(self._incoming.get_nowait())
            error: Exception | None = None
            try:
                await asyncio.to_thread(self._spool.add, [delivery for delivery, _ in batch])
                if late := self._handed_on & {delivery.delivery_id for delivery, _ in batch}:
                    await asyncio.to_thread(self._spool.mark_forwarded, list(late))
                    self._handed_on -= late
            except Exception as failure:  # whatever it is, this has to go on
                error = failure
            self._has_more.set()
            for _, kept in batch:
                if kept.done():
                    continue
                if error is None:
                    kept.set_result(None)
                else:
                    kept.set_exception(error)

    async def _forward_all(self) -> None:
        """Hand what lies in the spool to Airflow, and go on when Airflow was away."""
        failures, last_cleared = 0, 0.0
        while True:
            self._has_more.clear()
            waiting: list[Waiting] = []
            try:
                if self._clock() > last_cleared + 3600:
                    last_cleared = self._clock()
                    await asyncio.to_thread(self._spool.forget_old)
                waiting = await asyncio.to_thread(self._spool.take, _BATCH)
                is_reached = await self._forward(waiting)
            except Exception as error:  # whatever it is, this has to go on
                self._warn("Deliveries can't be forwarded (%s): they wait in the spool.", type(error).__name__)
                is_reached = False
            failures = 0 if is_reached else failures + 1
            if failures:
                await asyncio.sleep(min(30.0, 0.5 * 2 ** min(failures, 6)))
            elif not waiting:
                with suppress(asyncio.TimeoutError):
                    async with timeout(1.0):
                        await self._has_more.wait()

    async def _forward(self, waiting: list[Waiting]) -> bool:
        """Hand deliveries to Airflow, and return whether it could be reached."""
        slots = asyncio.Semaphore(_AT_A_TIME)

        async def forward(one: Waiting) -> bool | None:
            async with slots:
                try:
                    await self._client.create_event(one.delivery)
                except UnknownAssetError as error:
                    return await self._hold(one, error)
                except RefusedEventError as error:
                    self._warn("%s: it is tried again.", error)
                    await asyncio.to_thread(self._spool.put_off, one.delivery.delivery_id, 60.0)
                    return None
                except AirflowError as error:
                    self._warn("%s: deliveries wait in the spool.", error)
                    return False
                return True

        done = await asyncio.gather(*(forward(one) for one in waiting))
        forwarded = [one.delivery for one, is_done in zip(waiting, done, strict=True) if is_done]
        await asyncio.to_thread(self._spool.mark_forwarded, [delivery.delivery_id for delivery in forwarded])
        for delivery in forwarded:
            _log.info("Order %s: sent %s as an event of %s.", delivery.order_id, delivery.event, delivery.uri)
        return False not in done

    async def _hold(self, one: Waiting, error: UnknownAssetError) -> bool | None:
        """Keep a delivery for an asset that no DAG uses for a while, and return whether to drop it."""
        if self._clock() > one.taken_at + UNKNOWN_ASSET_SECONDS:
            _log.warning("%s, so the event of order %s was dropped.", error, one.delivery.order_id)
            return True
        self._warn("%s yet: its deliveries wait in the spool, for %.0f hours.", error, UNKNOWN_ASSET_SECONDS / 3600)
        await asyncio.to_thread(self._spool.put_off_event, one.delivery.event, 10.0)
        return None


async def _read_body(request: Request) -> bytes | None:
    """Return the body, ``None`` for one that is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


def _answer(status: int, text: str) -> Response:
    return PlainTextResponse(text, status)
