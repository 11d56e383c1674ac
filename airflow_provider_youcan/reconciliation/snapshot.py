"""The shop's statuses of a table's orders: read by pages, by search, and one by one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from typing import Any, Protocol, TypeVar

from airflow_provider_youcan.checks import is_order_id, normalize_id
from airflow_provider_youcan.client import endpoints
from airflow_provider_youcan.client.endpoints import MAX_PAGE_SIZE, Request
from airflow_provider_youcan.client.pages import Pages
from airflow_provider_youcan.client.procedures import Procedure, Read, request
from airflow_provider_youcan.exceptions import (
    FATAL_ERRORS,
    YouCanError,
    YouCanUnexpectedResponseError,
)
from airflow_provider_youcan.logs import Logger
from airflow_provider_youcan.orders import OrderStatuses, StatusContext
from airflow_provider_youcan.reconciliation.rows.desired import DesiredState
from airflow_provider_youcan.reconciliation.rows.order import DesiredOrder

__all__ = ["Run", "Snapshot"]

T = TypeVar("T")


MAX_READ_AGE = 300.0
"""A status that was read longer ago than this, in seconds, is read again before anything is reported of it."""


class Run(Protocol):
    """Runs a procedure against the shop, as ``YouCanAsyncHook.run`` does."""

    def __call__(
        self, procedure: Procedure[T], announce: Callable[[Request], Awaitable[None]] | None = None, /
    ) -> Awaitable[T]:
        """Run a procedure, and return what it returns; ``announce`` is awaited before each update."""


class Snapshot:
    """
    Reads what the shop shows, and keeps it until it is taken.

    :param run: runs a procedure against the shop.
    :param desired: the orders that it is about.
    :param max_concurrency: how many pages are read at a time, at most.
    :param log: where it logs.
    :param clock: returns the time in seconds (default the machine's monotonic one).
    """

    def __init__(
        self,
        run: Run,
        desired: DesiredState,
        *,
        max_concurrency: int,
        log: Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ids: dict[str, set[str]] = {}
        """For each ref the ids of the shop's orders that have it."""
        self._run = run
        self._desired = desired
        self._max_concurrency = max_concurrency
        self._log = log
        self._clock = clock
        self._known: Mapping[StatusContext, Collection[str]] = {
            context: context.documented_slugs for context in StatusContext
        }
        self._reads: dict[str, Read] = {}
        self._refs: dict[str, str] = {}  # what the shop calls the orders that were found
        self._has_refs = False
        self._changes = 0  # how many orders of the last pages are not what they should be

    def learn_slugs(self, known: Mapping[StatusContext, Collection[str]]) -> None:
        """Take the known slugs: any other text in YouCan's list may be a translated label."""
        self._known = {context: frozenset(known[context]) for context in StatusContext}

    async def read_list(self) -> AsyncGenerator[list[DesiredOrder], None]:
        """
        Read the list of orders, page by page, while that is cheaper than to read the remaining orders one by one.

        The newest come first: what a courier speaks of is often on the first pages of a long list.

        :return: the orders whose statuses are known by now, as soon as they are.
        """
        refs = set(self._desired.refs)
        self._has_refs = bool(refs)
        missing = len([order for order in self._desired.orders if order.order_id is not None]) + len(refs)
        pages, batch = Pages(), 1 + self._max_concurrency // MAX_PAGE_SIZE
        while missing >= 2 and not pages.is_over:
            # The time of the request: the server may have read the data at any moment until the answer.
            read_at, self._changes = self._clock(), 0
            listed = await self._read_pages(pages, batch)
            known = [order for order in [self._add(order, read_at) for order in listed] if order is not None]
            lacks_statuses = not known and any(self._names(order) for order in listed)
            yield known
            missing -= len(known)
            costs_more = pages.pages_left > missing and len(known) <= batch
            if costs_more or (lacks_statuses and not refs):
                return
            # If most orders change, a few pages keep all workers busy, and are fresh when their orders are updated.
            grows = refs or self._changes < self._max_concurrency
            batch = min(batch * 2, self._max_concurrency) if grows else max(1, batch // 2)

    async def search(self, ref: str) -> None:
        """Search for an order by its ref. YouCan finds all orders that contain it, so most results are others."""
        # Sorted by ref, so that orders with the same ref are neighbours.
        pages = Pages(query={"q": ref, "sort_field": "ref", "sort_order": "asc"})
        self.ids.setdefault(ref, set())
        self._has_refs = True
        while not pages.is_over:
            (page,) = pages.take_requests()
            read_at = self._clock()
            listed = pages.add(await self._run(request(page)))
            for order in listed:
                self._add(order, read_at)
            if self.ids[ref] and listed and str(listed[-1].get("ref")) != ref:
                return

    async def read(self, order: DesiredOrder) -> Read:
        """Read one order."""
        assert order.order_id is not None  # noqa: S101  # for the type checker: refs are resolved
        read_at = self._clock()
        payload = await self._run(request(endpoints.get_order(order.order_id)))
        self._refs[order.order_id] = str(payload.get("ref"))
        return Read(OrderStatuses.from_order(payload), read_at)

    def pop_read(self, order: DesiredOrder) -> Read | None:
        """Return what is known of an order, once, unless it is too old or lacks a status that is desired."""
        read = self._reads.pop(order.order_id or "", None)
        if read is None or self._clock() - read.at > MAX_READ_AGE:
            return None
        # Rows joined by their ref may ask for more than was known when the page was read.
        is_whole = order.more is None or None not in [read.statuses[context] for context in order.desired]
        return read if is_whole else None

    def if_fresh(self, read: Read) -> Read | None:
        """Return the read, or ``None`` if it is too old to report anything of it."""
        return None if self._clock() - read.at > MAX_READ_AGE else read

    def pop_ref(self, order: DesiredOrder) -> str | None:
        """Remove and return the shop's ref of an order, ``None`` if it was not read."""
        ref = self._refs.pop(order.order_id or "", None)
        return None if ref == "None" else ref

    async def _read_pages(self, pages: Pages, number: int) -> list[dict[str, Any]]:
        payloads = await asyncio.gather(*(self._read_page(page) for page in pages.take_requests(number)))
        try:
            return [order for payload in payloads if payload is not None for order in pages.add(payload)]
        except YouCanUnexpectedResponseError as error:
            # The list does not end. Missing orders are read one by one.
            self._log.warning("%s", error)
            pages.end()
            return []

    async def _read_page(self, page: Request) -> dict[str, Any] | None:
        try:
            return await self._run(request(page))
        except YouCanError as error:
            if page.params["page"] == "1" or isinstance(error, FATAL_ERRORS):
                raise
            self._log.warning("Could not %s; its orders are read one by one.", page.purpose)
            return None

    def _names(self, order: Mapping[str, Any]) -> bool:
        return self._desired.find(normalize_id(order["id"]), str(order.get("ref"))) is not None

    def _add(self, order: Mapping[str, Any], read_at: float) -> DesiredOrder | None:
        """Keep a listed order's statuses, and return its order of the table, ``None`` if it has to be read alone."""
        order_id, ref = normalize_id(order["id"]), str(order.get("ref"))
        desired = self._desired.find(order_id, ref)
        is_new = desired is not None and order_id not in self._refs
        if desired is None or not is_new or (desired.order_id is None and not is_order_id(order_id)):
            return None
        self._refs[order_id] = ref
        is_by_ref = self._has_refs and self._desired.is_ref(ref)
        if is_by_ref:
            self.ids.setdefault(ref, set()).add(order_id)
        statuses = OrderStatuses.from_order(order, self._known)
        differs = False
        for context, slug in desired.desired.items():
            if (now := statuses[context]) is None:
                return desired if is_by_ref else None
            differs = differs or now != slug
        self._changes += differs
        self._reads[order_id] = Read(statuses, read_at)
        return desired
