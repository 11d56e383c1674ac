"""Hands the deliveries of the spool to Airflow, and continues after an outage."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from airflow_provider_youcan.logs import Throttle
from airflow_provider_youcan.timeouts import timeout
from airflow_provider_youcan.webhooks.airflow_client import (
    AirflowClient,
    AirflowError,
    AirflowTimeoutError,
    RefusedEventError,
    UnknownAssetError,
)
from airflow_provider_youcan.webhooks.deliveries import Key
from airflow_provider_youcan.webhooks.spool import Spool, Waiting

__all__ = ["Forwarder"]

UNKNOWN_ASSET_SECONDS = 4 * 3600.0
"""The seconds that a delivery is kept if no DAG uses its asset: a DAG that is being deployed may use it soon."""

REST_SECONDS = 10.0
"""The seconds that an asset is left alone that Airflow does not know."""

REFUSED_SECONDS = 86_400.0
"""The seconds that a delivery is kept that Airflow refuses."""

TIMED_OUT_SECONDS = 60.0
"""The seconds before an event without an answer is sent again: Airflow may have taken it."""

_LAST_SECONDS = 10.0
"""The seconds that a receiver that is told to stop waits for Airflow's last answers."""

_BATCH = 50
_AT_A_TIME = 8
_log = logging.getLogger(__name__)


class Forwarder:
    """
    Makes an event of each delivery that waits in the spool.

    :param spool: where they wait.
    :param client: makes the events.
    :param clock: returns the time in seconds since 1970.
    """

    def __init__(self, spool: Spool, client: AirflowClient, clock: Callable[[], float]) -> None:
        self._spool = spool
        self._client = client
        self._clock = clock
        self._warn = Throttle(_log)
        self._has_more = asyncio.Event()
        self._sent: set[Key] = set()  # Airflow has them, and the spool does not know yet
        self._failures: Counter[tuple[str, str]] = Counter()  # in a row, by asset
        self._rests_until: dict[tuple[str, str], float] = {}

    def wake(self) -> None:
        """Say that the spool has more."""
        self._has_more.set()

    def close(self) -> None:
        """Tell the spool what Airflow has."""
        with suppress(Exception):  # then Airflow gets these events once more
            self._spool.mark_forwarded(list(self._sent))

    async def check_airflow(self) -> None:
        """Say at the start whether Airflow lets the receiver in; deliveries are taken all the same."""
        try:
            _log.info("Deliveries go to %s, which lets this receiver in.", await self._client.check())
        except AirflowError as error:
            _log.warning("%s: deliveries wait in the spool until it takes them.", error)

    async def run(self) -> None:
        """Hand on what waits in the spool, until it is cancelled."""
        failures, last_cleared = 0, 0.0
        while True:
            self._has_more.clear()
            waiting: list[Waiting] = []
            try:
                if self._clock() > last_cleared + 3600:
                    last_cleared = self._clock()
                    await asyncio.to_thread(self._spool.forget_old)
                resting = {asset for asset, until in self._rests_until.items() if self._clock() < until}
                waiting = await asyncio.to_thread(self._spool.find_due, _BATCH, resting)
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
        """Hand deliveries to Airflow, asset by asset, and record the results."""
        by_asset: dict[tuple[str, str], list[Waiting]] = {}
        for one in waiting:
            if one.delivery.key not in self._sent:
                by_asset.setdefault((one.delivery.store, one.delivery.event), []).append(one)
        slots = asyncio.Semaphore(_AT_A_TIME)
        groups = [asyncio.ensure_future(self._forward_asset(group, slots)) for group in by_asset.values()]
        try:
            done = await asyncio.shield(asyncio.gather(*groups))
        except asyncio.CancelledError:
            # Requests in flight get their answer, so that no event is sent again after a restart.
            await asyncio.wait(groups, timeout=_LAST_SECONDS)
            raise
        # An error of the spool must not repeat events, so they are remembered until the spool knows.
        await asyncio.to_thread(self._spool.mark_forwarded, list(self._sent))
        self._sent.clear()
        for outcomes in done:
            await asyncio.to_thread(self._record_failures, outcomes)

    async def _forward_asset(self, group: list[Waiting], slots: asyncio.Semaphore) -> list[_Outcome]:
        """Hand on the deliveries of one asset: the first alone, and the others if Airflow knows the asset."""
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

    def _record_failures(self, outcomes: list[_Outcome]) -> None:
        """Postpone deliveries that Airflow did not take, and drop those that it will never take."""
        for one, error, is_asked in outcomes:
            asset = one.delivery.store, one.delivery.event
            if error is None:
                del self._failures[asset]
            elif isinstance(error, UnknownAssetError):
                self._postpone(one, error, REST_SECONDS, UNKNOWN_ASSET_SECONDS)
                if is_asked:
                    self._rests_until[asset] = self._clock() + REST_SECONDS
                    hours = UNKNOWN_ASSET_SECONDS / 3600
                    self._warn("%s yet: its deliveries wait in the spool, for %.0f hours.", error, hours)
            elif isinstance(error, RefusedEventError):
                self._postpone(one, error, 60.0, REFUSED_SECONDS)
                self._warn("%s: it is tried again, for %.0f hours.", error, REFUSED_SECONDS / 3600)
            else:
                self._failures[asset] += 1
                seconds = min(30.0, 0.5 * 2 ** min(self._failures[asset], 6))
                self._rests_until[asset] = self._clock() + seconds
                # Behind the others of its asset, which may be taken.
                is_slow = isinstance(error, AirflowTimeoutError)
                self._spool.postpone(one.delivery.key, TIMED_OUT_SECONDS if is_slow else seconds)
                self._warn("%s: deliveries wait in the spool.", error)

    def _postpone(self, one: Waiting, error: AirflowError, seconds: float, most: float) -> None:
        """Retry a delivery that Airflow refuses, and drop it after ``most`` seconds of refusals."""
        # An earlier refusal for another reason does not count.
        since = one.failing_since if one.reason == str(error) else None
        if since is None or self._clock() <= since + most:
            self._spool.postpone(one.delivery.key, seconds, str(error))
            return
        self._spool.drop(one.delivery.key, str(error))
        _log.warning(
            "%s, for %.0f hours: the event of order %s was dropped. See webhooks deliveries.",
            error,
            most / 3600,
            one.delivery.order_id,
        )


class _Outcome(NamedTuple):
    """The result of handing a delivery to Airflow."""

    one: Waiting
    error: AirflowError | None = None
    is_asked: bool = True
