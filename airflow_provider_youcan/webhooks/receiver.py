"""The receiver: takes what YouCan delivers, keeps it, answers, and hands it to Airflow."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from airflow_provider_youcan.logs import Throttle
from airflow_provider_youcan.timeouts import timeout
from airflow_provider_youcan.webhooks.airflow_client import (
    AirflowClient,
    AirflowError,
    AirflowTimeoutError,
    RefusedEventError,
    UnknownAssetError,
)
from airflow_provider_youcan.webhooks.deliveries import (
    Delivery,
    InvalidDeliveryError,
    Key,
    OtherStoreError,
    is_genuine,
    read_delivery,
)
from airflow_provider_youcan.webhooks.settings import Settings
from airflow_provider_youcan.webhooks.spool import Spool, Waiting

__all__ = ["build_application"]

MAX_BODY_BYTES = 1_000_000
MAX_BYTES = 32_000_000
"""How many bytes of bodies are held at a time, whoever sends them."""

BODY_SECONDS = 5.0
"""How long a body may take to come."""

KEEP_SECONDS = 1.8
"""How long the spool may take before YouCan is asked to deliver again: it waits for some two seconds."""

UNKNOWN_ASSET_SECONDS = 4 * 3600.0
"""How long a delivery is kept once Airflow has said that no DAG uses its asset: one that is being deployed may."""

REST_SECONDS = 10.0
"""How long an asset is left alone that Airflow does not know."""

REFUSED_SECONDS = 86_400.0
"""How long a delivery is kept that Airflow refuses."""

TIMED_OUT_SECONDS = 60.0
"""How long an event rests that Airflow may have taken without an answer: it may be there twice if it is sent again."""

_LAST_SECONDS = 10.0
"""How long a receiver that is told to stop waits for Airflow's last answers."""

_BATCH = 50
_AT_A_TIME = 8
_log = logging.getLogger(__name__)


class _Outcome(NamedTuple):
    """What became of a delivery that was to be handed to Airflow."""

    one: Waiting
    error: AirflowError | None = None
    is_asked: bool = True


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
        Route("/", receiver.take, methods=["POST"]),
        Route("/health", receiver.show_health, methods=["GET"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _refuse})


class _Receiver:
    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._spool = Spool(settings.spool, clock)
        self._incoming: asyncio.Queue[tuple[Delivery, asyncio.Future[None]]] = asyncio.Queue()
        self._has_more = asyncio.Event()
        self._warn = Throttle(_log)
        self._tasks: list[asyncio.Task[None]] = []
        self._sent: set[Key] = set()  # what Airflow has, and the spool does not know yet
        self._failures: Counter[tuple[str, str]] = Counter()  # in a row, by asset
        self._rests_until: dict[tuple[str, str], float] = {}
        self._bytes = 0

    async def __aenter__(self) -> None:
        settings = self._settings
        self._client = AirflowClient(settings.airflow_url, settings.username, settings.password, settings.token)
        work = (self._check_airflow(), self._keep_all(), self._forward_all())
        self._tasks = [asyncio.create_task(one) for one in work]

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(Exception):  # then Airflow hears of these once more
            self._spool.mark_forwarded(list(self._sent))
        await self._client.close()
        self._spool.close()

    # --- what YouCan meets ---

    async def take(self, request: Request) -> Response:
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
        return _answer(200, "taken") if await self._is_kept(delivery) else _answer(503, "it can't be stored now")

    async def show_health(self, _: Request) -> Response:
        """Say whether it runs, and how many deliveries Airflow does not have yet."""
        if any(task.done() for task in self._tasks[1:]):
            return _answer(503, "restart the receiver")
        return _answer(200, f"{self._spool.count_waiting()} waiting")

    async def _read_body(self, request: Request) -> bytes:
        """
        Return the body.

        :raises _BodyError: if it is too large, or others are at the moment.
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

    async def _is_kept(self, delivery: Delivery) -> bool:
        """Keep a delivery, and return whether it lies in the spool; else YouCan delivers it again."""
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

    # --- what goes on behind ---

    async def _check_airflow(self) -> None:
        """Say at the start whether Airflow lets the receiver in; deliveries are taken all the same."""
        try:
            _log.info("Deliveries go to %s, which lets this receiver in.", await self._client.check())
        except AirflowError as error:
            _log.warning("%s: deliveries wait in the spool until it takes them.", error)

    async def _keep_all(self) -> None:
        """Keep what comes: all that waits in one go, because the disk is slow at each."""
        while True:
            batch = [await self._incoming.get()]
            while not self._incoming.empty():
                batch.append(self._incoming.get_nowait())
            error: Exception | None = None
            try:
                await asyncio.to_thread(self._spool.add, [delivery for delivery, _ in batch])
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
                resting = {asset for asset, until in self._rests_until.items() if self._clock() < until}
                waiting = await asyncio.to_thread(self._spool.take, _BATCH, resting)
                await self._forward(waiting)
            except Exception as error:  # whatever it is, this has to go on
                self._warn("The spool can't be used (%s): deliveries wait in it. See the disk.", type(error).__name__)
                failures += 1
                await asyncio.sleep(min(30.0, 0.5 * 2 ** min(failures, 6)))
                continue
            failures = 0
            if not waiting:
                with suppress(asyncio.TimeoutError):
                    async with timeout(1.0):
                        await self._has_more.wait()

    async def _forward(self, waiting: list[Waiting]) -> None:
        """Hand deliveries to Airflow, those of each asset for themselves, and keep what became of them."""
        by_asset: dict[tuple[str, str], list[Waiting]] = {}
        for one in waiting:
            if one.delivery.key not in self._sent:
                by_asset.setdefault((one.delivery.store, one.delivery.event), []).append(one)
        slots = asyncio.Semaphore(_AT_A_TIME)
        groups = [asyncio.ensure_future(self._forward_asset(group, slots)) for group in by_asset.values()]
        try:
            done = await asyncio.shield(asyncio.gather(*groups))
        except asyncio.CancelledError:
            # What Airflow is being told has its answer, so that it is not told again after a restart.
            await asyncio.wait(groups, timeout=_LAST_SECONDS)
            raise
        # An error of the spool must not make Airflow hear of them once more, so they are remembered until it has them.
        await asyncio.to_thread(self._spool.mark_forwarded, list(self._sent))
        self._sent.clear()
        for outcomes in done:
            await asyncio.to_thread(self._keep_failures, outcomes)

    async def _forward_asset(self, group: list[Waiting], slots: asyncio.Semaphore) -> list[_Outcome]:
        """Hand the deliveries of one asset on: the first of them for itself, and the others if Airflow knows it."""
        first = await self._forward_one(group[0], slots)
        if first.error is not None and not isinstance(first.error, RefusedEventError):
            is_unknown = isinstance(first.error, UnknownAssetError)
            return [first, *(_Outcome(one, first.error, is_asked=False) for one in group[1:] if is_unknown)]
        return [first, *await asyncio.gather(*(self._forward_one(one, slots) for one in group[1:]))]

    async def _forward_one(self, one: Waiting, slots: asyncio.Semaphore) -> _Outcome:
        delivery = one.delivery
        async with slots:
            try:
                await self._client.create_event(delivery)
            except AirflowError as error:
                return _Outcome(one, error)
        self._sent.add(delivery.key)
        _log.info("Order %s: sent %s as an event of %s.", delivery.order_id, delivery.event, delivery.uri)
        return _Outcome(one)

    def _keep_failures(self, outcomes: list[_Outcome]) -> None:
        """Put off what Airflow did not take, and aside what it will never take."""
        for one, error, is_asked in outcomes:
            asset = one.delivery.store, one.delivery.event
            if error is None:
                del self._failures[asset]
            elif isinstance(error, UnknownAssetError):
                self._put_off(one, error, REST_SECONDS, UNKNOWN_ASSET_SECONDS)
                if is_asked:
                    self._rests_until[asset] = self._clock() + REST_SECONDS
                    hours = UNKNOWN_ASSET_SECONDS / 3600
                    self._warn("%s yet: its deliveries wait in the spool, for %.0f hours.", error, hours)
            elif isinstance(error, RefusedEventError):
                self._put_off(one, error, 60.0, REFUSED_SECONDS)
                self._warn("%s: it is tried again, for %.0f hours.", error, REFUSED_SECONDS / 3600)
            else:
                self._failures[asset] += 1
                seconds = min(30.0, 0.5 * 2 ** min(self._failures[asset], 6))
                self._rests_until[asset] = self._clock() + seconds
                # Behind the others of its asset, which may be taken.
                is_slow = isinstance(error, AirflowTimeoutError)
                self._spool.put_off(one.delivery.key, TIMED_OUT_SECONDS if is_slow else seconds)
                self._warn("%s: deliveries wait in the spool.", error)

    def _put_off(self, one: Waiting, error: AirflowError, seconds: float, most: float) -> None:
        """Try again what Airflow itself does not take, or put it aside once it has said so for so long."""
        # What Airflow said before of something else does not count.
        since = one.failing_since if one.reason == str(error) else None
        if since is None or self._clock() <= since + most:
            self._spool.put_off(one.delivery.key, seconds, str(error))
            return
        self._spool.drop(one.delivery.key, str(error))
        _log.warning(
            "%s, for %.0f hours: the event of order %s was dropped. See webhooks deliveries.",
            error,
            most / 3600,
            one.delivery.order_id,
        )


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
