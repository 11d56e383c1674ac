"""The list of orders, page by page: which one comes next, and whether there is one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_youcan.client import endpoints
from airflow_provider_youcan.client.procedures import Procedure
from airflow_provider_youcan.exceptions import YouCanUnexpectedResponseError

__all__ = ["Pages"]

_MAX_STALE_PAGES = 10
"""If many new orders come in, a page can repeat the one before it; this hardly happens ten times in a row."""


class Pages:
    """
    The progress through a list: the next page, and whether there is one.

    The list can grow while it is read. A list that has no end, because a server repeats itself, is given up.

    :param page_size: how many orders are asked for a page; YouCan sends 50 at most (default 50).
    :param include: the sub-resources to send along.
    :param query: as :func:`endpoints.list_orders` takes it.
    :param memory: how many of the listed orders are remembered; ``None`` remembers all (default). With a
        bound, an order may be returned twice.
    """

    def __init__(
        self,
        page_size: int = endpoints.MAX_PAGE_SIZE,
        include: Iterable[str] = ("payment", "shipping"),
        query: Mapping[str, Any] | None = None,
        memory: int | None = None,
    ) -> None:
        self.next_page = 1
        self.total_pages = 1
        self._page_size = page_size
        self._include = (include,) if isinstance(include, str) else tuple(include)
        self._query = query
        self._memory = memory
        self._seen: dict[str, None] = {}  # the oldest first
        self._stale_pages = 0

    @property
    def is_over(self) -> bool:
        """True if the last page was read."""
        return self.next_page > self.total_pages

    @property
    def pages_left(self) -> int:
        """The number of pages that are left."""
        return max(0, self.total_pages - self.next_page + 1)

    def end(self) -> None:
        """Read no further page."""
        self.total_pages = self.next_page - 1

    def read_next(self) -> Procedure[list[dict[str, Any]]]:
        """Read the next page, and return its orders that are new."""
        (request,) = self.take_requests()
        return self.add((yield request))

    def take_requests(self, number: int = 1) -> list[endpoints.Request]:
        """Return the requests for the next pages, to be sent together."""
        numbers = range(self.next_page, min(self.next_page + number, self.total_pages + 1))
        self.next_page = numbers.stop
        return list(map(self.make_request, numbers))

    def make_request(self, page: int) -> endpoints.Request:
        """Return the request for a page, which may have been read before."""
        return endpoints.list_orders(page, self._page_size, self._include, self._query)

    def add(self, payload: Mapping[str, Any]) -> list[dict[str, Any]]:
        """
        Take the payload of a page, and return its orders that are new: one can move from page to page meanwhile.

        :raises YouCanUnexpectedResponseError: if ten pages in a row held nothing new.
        """
        self.total_pages = payload["meta"]["pagination"]["total_pages"]
        new = {order["id"]: order for order in payload["data"] if order["id"] not in self._seen}
        self._seen |= dict.fromkeys(new)
        while self._memory is not None and len(self._seen) > self._memory:
            del self._seen[next(iter(self._seen))]
        self._stale_pages = 0 if new or not payload["data"] else self._stale_pages + 1
        if self._stale_pages >= _MAX_STALE_PAGES:
            raise YouCanUnexpectedResponseError(
                f"YouCan's list repeats itself: {self._stale_pages} pages in a row held nothing new",
                advice="check that the connection's host is YouCan's API",
                outcome="Could not list the orders",
                method="GET",
                url="/orders",
            )
        return list(new.values())
