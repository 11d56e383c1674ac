"""Which orders are read, and how: by pages of the list, newest first, or one by one, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from airflow_provider_youcan.checks import normalize_id
from airflow_provider_youcan.client import endpoints
from airflow_provider_youcan.client.pages import Pages
from airflow_provider_youcan.client.procedures import request
from airflow_provider_youcan.exceptions import YouCanOrderNotFoundError
from airflow_provider_youcan.orders import read_time
from airflow_provider_youcan.reconciliation.snapshot import Run

__all__ = ["OrderReader", "Take"]

Take = Callable[[Sequence[Mapping[str, Any]], datetime], Awaitable[None]]
"""Takes orders, and when they were asked for."""

_NEWEST_FIRST = {"sort_field": "created_at", "sort_order": "desc"}
_MEMORY_PAGES = 4
"""Of how many pages for each request under way it is remembered what was on them: new orders push others on."""


class OrderReader:
    """
    Reads orders, and hands them on as they come.

    :param run: runs a procedure against the shop.
    :param include: the sub-resources to send along.
    :param max_concurrency: how many requests are under way at a time, at most.
    :param take: takes the orders of a page, or one.
    """

    def __init__(self, run: Run, include: Collection[str], max_concurrency: int, take: Take) -> None:
        self.pages = 0
        """The number of pages that were read."""
        self.total_pages: int | None = None
        """The number of pages that the list has, once it is known."""
        self.not_found = 0
        """The number of orders that the shop does not have."""
        self._run = run
        self._include = tuple(include)
        self._max_concurrency = max_concurrency
        self._take = take

    async def read_since(self, horizon: datetime | None) -> None:
        """
        Read the list until its orders are older than a moment.

        :param horizon: the moment, in UTC; ``None`` reads all.
        """
        if horizon is None:
            await self._read_list(lambda _: True, None)
            return

        def is_within(order: Mapping[str, Any]) -> bool:
            created_at = read_time(order.get("created_at"))
            return created_at is None or created_at >= horizon

        # A whole page of older ones: whether the list is sorted is YouCan's word alone.
        await self._read_list(is_within, lambda orders, _: bool(orders) and not any(map(is_within, orders)))

    async def read_ids(self, order_ids: Collection[str]) -> None:
        """
        Read some orders: by pages while that takes fewer requests than to read one by one what is missing.

        :param order_ids: their ids, checked.
        """
        missing = set(order_ids)

        def is_wanted(order: Mapping[str, Any]) -> bool:
            order_id = normalize_id(order["id"])
            wanted = order_id in missing
            missing.discard(order_id)
            return wanted

        if len(missing) >= 2:
            await self._read_list(is_wanted, lambda _, pages: pages.pages_left >= len(missing))
        await _run_many(map(self._read_one, missing), self._max_concurrency)

    async def _read_list(
        self,
        is_wanted: Callable[[Mapping[str, Any]], bool],
        is_enough: Callable[[Sequence[Mapping[str, Any]], Pages], bool] | None,
    ) -> None:
        memory = _MEMORY_PAGES * endpoints.MAX_PAGE_SIZE * (1 + self._max_concurrency)
        pages = Pages(include=self._include, query=_NEWEST_FIRST, memory=memory)
        under_way: set[asyncio.Task[tuple[dict[str, Any], datetime]]] = set()
        is_over = False
        done: set[asyncio.Task[tuple[dict[str, Any], datetime]]] = set()
        try:
            while True:
                # Twice as many as were read: an end that is near is not passed by a dozen pages.
                most = min(self._max_concurrency, 1 + self.pages if is_enough else self._max_concurrency)
                # The next are asked for before what came is looked at, so that the shop does not wait for that.
                while not (is_over or pages.is_over) and len(under_way) < most:
                    (page,) = pages.take_requests()
                    under_way.add(asyncio.ensure_future(self._read_page(page)))
                for task in done:
                    payload, read_at = task.result()
                    self.pages += 1
                    wanted = [order for order in pages.add(payload) if is_wanted(order)]
                    self.total_pages = pages.total_pages
                    is_over = is_over or (is_enough is not None and is_enough(payload["data"], pages))
                    if wanted:
                        await self._take(wanted, read_at)
                if not under_way:
                    if is_over or pages.is_over:
                        return
                    done = set()
                    continue
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, *done, return_exceptions=True)

    async def _read_page(self, page: endpoints.Request) -> tuple[dict[str, Any], datetime]:
        # From when it was asked for: the server may have read the data at any moment until the answer.
        read_at = datetime.now(timezone.utc)
        return await self._run(request(page)), read_at

    async def _read_one(self, order_id: str) -> None:
        read_at = datetime.now(timezone.utc)
        try:
            order = await self._run(request(endpoints.get_order(order_id, self._include)))
        except YouCanOrderNotFoundError:
            self.not_found += 1
        else:
            await self._take([order], read_at)


async def _run_many(work: Iterable[Awaitable[None]], at_a_time: int) -> None:
    waiting = iter(work)

    async def run() -> None:
        for one in waiting:
            await one

    tasks = [asyncio.ensure_future(run()) for _ in range(at_a_time)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
