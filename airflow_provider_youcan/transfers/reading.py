"""Reads the shop's orders: by pages of the list, newest first, or one by one, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from airflow_provider_youcan.checks import normalize_id
from airflow_provider_youcan.client import endpoints
from airflow_provider_youcan.client.pages import Pages
from airflow_provider_youcan.client.procedures import request
from airflow_provider_youcan.exceptions import YouCanOrderNotFoundError
from airflow_provider_youcan.orders import read_time
from airflow_provider_youcan.reconciliation.snapshot import Run
from airflow_provider_youcan.reconciliation.workers import WorkerPool

__all__ = ["HandleOrders", "OrderReader"]

HandleOrders = Callable[[Sequence[Mapping[str, Any]], datetime], Awaitable[None]]
"""Takes orders, and when they were asked for."""

_NEWEST_FIRST = {"sort_field": "created_at", "sort_order": "desc"}
_MEMORY_PAGES = 4
"""The pages that are remembered for each request in flight: new orders push others from page to page."""


class _Page(NamedTuple):
    number: int
    payload: dict[str, Any]
    read_at: datetime


class _Coverage:
    """
    Finds the pages to read again, because new orders have pushed others from one to the next meanwhile.

    Counted from the list's end, an order keeps its place, whatever comes in at the front. If a page was read when the
    list was shorter than when the page before it was, what lay between the two was on neither.
    """

    def __init__(self) -> None:
        self._least: dict[int, int] = {}
        self._most: dict[int, int] = {}

    def add(self, page: int, total: object) -> list[int]:
        """
        Take how many orders the list had when a page was read.

        :param page: its number.
        :param total: the number of orders.
        :return: the pages to read again.
        """
        if type(total) is not int:
            return []
        self._least[page] = min(total, self._least.get(page, total))
        self._most[page] = max(total, self._most.get(page, total))
        pairs = [(one, one - 1) for one in (page, page + 1) if one in self._most and one - 1 in self._least]
        return [later for later, earlier in pairs if self._most[later] < self._least[earlier]]


class OrderReader:
    """
    Reads orders, and hands them on as they come.

    :param run: runs a procedure against the shop.
    :param include: the sub-resources to send along.
    :param max_concurrency: how many requests are under way at a time, at most.
    :param handle: is awaited with the orders of a page, or one.
    """

    def __init__(self, run: Run, include: Collection[str], max_concurrency: int, handle: HandleOrders) -> None:
        self.pages = 0
        """The number of pages that were read."""
        self.total_pages: int | None = None
        """The number of pages that the list has, once it is known."""
        self.not_found = 0
        """The number of orders that the shop does not have."""
        self._run = run
        self._include = tuple(include)
        self._max_concurrency = max_concurrency
        self._handle = handle

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

        # Only a whole page of older orders ends the reading: YouCan's sort order is not relied on.
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
        await WorkerPool[str](self._max_concurrency).run(_stream(missing), self._read_one)

    async def _read_list(
        self,
        is_wanted: Callable[[Mapping[str, Any]], bool],
        is_enough: Callable[[Sequence[Mapping[str, Any]], Pages], bool] | None,
    ) -> None:
        memory = _MEMORY_PAGES * endpoints.MAX_PAGE_SIZE * (1 + self._max_concurrency)
        pages = Pages(include=self._include, query=_NEWEST_FIRST, memory=memory)
        coverage = _Coverage()
        again: list[int] = []
        under_way: set[asyncio.Task[_Page]] = set()
        done: set[asyncio.Task[_Page]] = set()
        is_over = False
        try:
            while True:
                # Twice as many as were read, so that a near end is not passed by a dozen pages.
                most = min(self._max_concurrency, 1 + self.pages if is_enough else self._max_concurrency)
                # The next pages are requested before these are handled, so that the shop is never idle.
                while len(under_way) < most and (again or not (is_over or self._is_last(pages))):
                    number = again.pop() if again else pages.next_page
                    page_request = pages.make_request(number) if number < pages.next_page else pages.take_requests()[0]
                    under_way.add(asyncio.ensure_future(self._read_page(number, page_request)))
                for task in done:
                    page = task.result()
                    self.pages += 1
                    pagination = page.payload["meta"]["pagination"]
                    self.total_pages = max(self.total_pages or 1, pagination["total_pages"])
                    again += coverage.add(page.number, pagination.get("total"))
                    wanted = [order for order in pages.add(page.payload) if is_wanted(order)]
                    is_over = is_over or (is_enough is not None and is_enough(page.payload["data"], pages))
                    if wanted:
                        await self._handle(wanted, page.read_at)
                if not (under_way or again) and (is_over or self._is_last(pages)):
                    return
                done = set()
                if under_way:
                    done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, *done, return_exceptions=True)

    def _is_last(self, pages: Pages) -> bool:
        # By the largest number that was seen: answers overtake each other.
        pages.total_pages = max(pages.total_pages, self.total_pages or 1)
        return pages.is_over

    async def _read_page(self, number: int, page: endpoints.Request) -> _Page:
        # The time of the request: the server may have read the data at any moment until the answer.
        read_at = datetime.now(timezone.utc)
        return _Page(number, await self._run(request(page)), read_at)

    async def _read_one(self, order_id: str) -> None:
        read_at = datetime.now(timezone.utc)
        try:
            order = await self._run(request(endpoints.get_order(order_id, self._include)))
        except YouCanOrderNotFoundError:
            self.not_found += 1
        else:
            await self._handle([order], read_at)


async def _stream(order_ids: Collection[str]) -> AsyncGenerator[list[str], None]:
    yield list(order_ids)
