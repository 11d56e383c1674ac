"""An event for each new order, for ``AssetWatcher``: without webhooks, and without a public address."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.triggers import base

from airflow_provider_youcan.checks import check_number
from airflow_provider_youcan.client.endpoints import MAX_PAGE_SIZE
from airflow_provider_youcan.exceptions import YouCanError, YouCanInvalidInputError, YouCanTransientError
from airflow_provider_youcan.logs import Throttle
from airflow_provider_youcan.orders import read_time
from airflow_provider_youcan.triggers.order_status import load_hook

if TYPE_CHECKING:
    from airflow_provider_youcan.hooks.youcan_async import YouCanAsyncHook

    BaseEventTrigger = base.BaseEventTrigger
else:
    # Airflow 2 has no asset watchers.
    BaseEventTrigger = getattr(base, "BaseEventTrigger", base.BaseTrigger)

__all__ = ["YouCanNewOrdersTrigger"]

_KEY = "youcan_newest_orders"
"""The key of the newest page in the asset's state store."""

_MAX_PAGES = 20
"""The most pages of fifty that are searched for new orders."""

_LEAST_PAUSE = 60.0
"""The shortest pause, in seconds, after an error that a person has to cure."""


class YouCanNewOrdersTrigger(BaseEventTrigger):
    """
    Polls the newest orders, and makes an event for each that is new. Use it in an ``AssetWatcher`` (Airflow 3.0 or
    later).

    An event's payload has the ``order_id``, the ``ref`` and ``created_at``, as YouCan writes it: nothing of the
    customer. Changes of an order make no event: YouCan can't be asked for them, so use webhooks for those.

    On Airflow 3.3 and later the asset's state store has which orders were seen, so that a triggerer that was away
    makes events for what came in meanwhile, if it is among the newest thousand. On older versions only orders
    that come in after the triggerer has started are new; the log says so. An order may have two events after a crash.

    :param youcan_conn_id: the Airflow connection of the shop (default ``youcan_default``).
    :param poll_interval: seconds from one poll to the next, 1 to 86400 (default 60).
    :raises YouCanInvalidInputError: if the interval makes no sense, or Airflow is older than 3.0.
    """

    def __init__(self, *, youcan_conn_id: str = "youcan_default", poll_interval: float = 60.0) -> None:
        if BaseEventTrigger is base.BaseTrigger:
            raise YouCanInvalidInputError(
                "YouCanNewOrdersTrigger takes Airflow 3.0 or later, which has asset watchers: use webhooks, or a DAG "
                "that runs every few minutes."
            )
        super().__init__()  # type: ignore[no-untyped-call]
        self.youcan_conn_id = youcan_conn_id
        self.poll_interval = check_number("poll_interval", poll_interval, 1, 86_400)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return where this class is, and the plain JSON to rebuild the trigger."""
        return (
            "airflow_provider_youcan.triggers.new_orders.YouCanNewOrdersTrigger",
            {"youcan_conn_id": self.youcan_conn_id, "poll_interval": self.poll_interval},
        )

    async def run(self) -> AsyncIterator[base.TriggerEvent]:
        """Poll without end, and yield an event for each new order, the oldest first."""
        warn = Throttle(self.log)
        hook_class = await asyncio.to_thread(load_hook)
        memory = _Memory(getattr(self, "asset_state_store", None), warn)
        newest: _Newest | None = None
        async with hook_class(self.youcan_conn_id, max_retry_seconds=self.poll_interval) as hook:
            while True:
                pause = self.poll_interval
                try:
                    newest = newest or await memory.load()
                    if newest is None:
                        self.log.info("New are the orders that come in from now on: no earlier ones are remembered.")
                    now, orders = await _find_new(hook, newest)
                except YouCanError as error:
                    # A watcher has no task to fail: it continues, and logs once in a while what is wrong.
                    warn("%s Still watching.", error)
                    retry_after = error.retry_after if isinstance(error, YouCanTransientError) else _LEAST_PAUSE
                    pause = max(pause, retry_after or 0.0)
                else:
                    for order in orders:
                        yield base.TriggerEvent(order)  # type: ignore[no-untyped-call]
                    if now != newest:
                        newest = now
                        await memory.save(newest)
                await self._sleep(pause + random.uniform(0, pause / 10))  # noqa: S311  # jitter

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Newest(NamedTuple):
    """The newest page, when it was read last."""

    ids: list[str]
    since: str | None
    """The time at which its oldest order was created: an older order is not new, whatever was deleted meanwhile."""


class _Memory:
    """The state store of the watched asset, which Airflow has from 3.3 on."""

    def __init__(self, store: Any, warn: Throttle) -> None:
        self._store = store
        self._warn = warn

    async def load(self) -> _Newest | None:
        if self._store is None:
            return None
        try:
            kept = await self._store.aget(_KEY)
        except ValueError:  # several assets share this trigger
            self._store = None
            return None
        except Exception as error:
            # Without the state, orders that came in meanwhile would not count as new.
            raise YouCanTransientError(
                f"Airflow's state store can't be read ({type(error).__name__}); it may work later."
            ) from None
        return _Newest(kept["ids"], kept["since"]) if isinstance(kept, dict) else None

    async def save(self, newest: _Newest) -> None:
        if self._store is None:
            return
        try:
            await self._store.aset(_KEY, newest._asdict())
        except Exception as error:  # it is tried again with the next new order
            self._warn("Airflow's state store can't be written to (%s).", type(error).__name__)


async def _find_new(hook: YouCanAsyncHook, newest: _Newest | None) -> tuple[_Newest, list[dict[str, Any]]]:
    """Return the newest page, and the orders that are new since the one before, the oldest first."""
    now: _Newest | None = None
    new: dict[str, dict[str, Any]] = {}
    for page in range(1, _MAX_PAGES + 1):
        answer = await hook.list_orders(page, MAX_PAGE_SIZE, include=(), sort_field="created_at", sort_order="desc")
        orders = answer["data"]
        now = now or _Newest([order["id"] for order in orders], _text(orders[-1].get("created_at")) if orders else None)
        fresh = [order for order in orders if newest is not None and _is_new(order, newest)]
        new |= {order["id"]: _describe(order) for order in fresh}
        if len(fresh) < len(orders) or page >= answer["meta"]["pagination"]["total_pages"]:
            break
    assert now is not None  # noqa: S101  # for the type checker: there is a first page
    return now, list(reversed(new.values()))


def _is_new(order: Mapping[str, Any], newest: _Newest) -> bool:
    if order["id"] in newest.ids:
        return False
    created_at, since = read_time(order.get("created_at")), read_time(newest.since)
    return created_at is None or since is None or created_at >= since


def _describe(order: Mapping[str, Any]) -> dict[str, Any]:
    return {"order_id": order["id"], "ref": _text(order.get("ref")), "created_at": _text(order.get("created_at"))}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
