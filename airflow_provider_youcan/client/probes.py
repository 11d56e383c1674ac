"""A few reading requests, whose answers show whether a shop is as the assumptions say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from airflow_provider_youcan.checks import is_order_id
from airflow_provider_youcan.client import endpoints, resthooks
from airflow_provider_youcan.client.responses import Answer, read_response
from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanError,
    YouCanServerError,
    YouCanUnexpectedResponseError,
)

__all__ = ["Answers", "collect"]

_UNKNOWN_ROUTE = endpoints.Request("GET", "/no-such-route", "ask for a route that is not there", lambda _: False)


@dataclass
class Answers:
    """A shop's answers to a few requests, by a name for each."""

    token: str = field(repr=False)
    connection: str
    by_name: dict[str, tuple[endpoints.Request, Answer]] = field(default_factory=dict)

    def payload(self, name: str) -> dict[str, Any]:
        """
        Return the payload of a successful answer.

        :raises YouCanError: if the request failed, or was not sent because the one for the list failed.
        :raises LookupError: if it was not sent because the shop has no order.
        """
        if name not in self.by_name:
            self.payload("page")
        request, answer = self.by_name[name]
        return read_response(request, answer, self.connection, self.token)

    def is_refused(self, name: str) -> bool:
        """Return whether the token was refused, or the answer did not come from YouCan."""
        try:
            self.payload(name)
        except (YouCanAuthenticationError, YouCanServerError, YouCanUnexpectedResponseError):
            return True
        except YouCanError:
            pass
        return False

    def orders(self, name: str = "page") -> list[dict[str, Any]]:
        """Return the orders of a page."""
        orders: list[dict[str, Any]] = self.payload(name)["data"]
        return orders

    def some_orders(self) -> list[dict[str, Any]]:
        """Return the orders of the first page, or raise LookupError if it has none."""
        if not (orders := self.orders()):
            raise LookupError
        return orders

    def pagination(self) -> Mapping[str, Any]:
        """Return the pagination of the first page."""
        pagination: Mapping[str, Any] = self.payload("page")["meta"]["pagination"]
        return pagination


def collect(
    send: Callable[[endpoints.Request], Answer], token: str, connection: str = "the Airflow connection 'youcan_default'"
) -> Answers:
    """
    Send a shop eleven requests, or twelve, whose answers show whether the assumptions hold. Each of them only reads.

    :param send: sends a request.
    :param token: the access token, which no finding may contain.
    :param connection: what to call the Airflow connection in an error.
    :raises YouCanError: if an answer is missing, the token or the store is refused, or there were too many requests.
    """
    answers = Answers(token, connection)

    def ask(name: str, request: endpoints.Request) -> None:
        answer = send(request)
        answers.by_name[name] = request, answer
        if answer.status_code in (402, 429):
            # Not specific to this request; the others would fail too.
            read_response(request, answer, connection, token)

    oldest_first = {"sort_field": "created_at", "sort_order": "asc"}
    ask("store", endpoints.get_store())
    ask("settings", endpoints.get_store_statuses())
    ask("page", endpoints.list_orders(page_size=100))
    if all(answers.is_refused(name) for name in answers.by_name):
        # One or two refusals may mean a missing scope; if all are refused, no assumption can be checked.
        answers.payload("page")
    ask("first", endpoints.list_orders(page_size=3, query=oldest_first))
    ask("second", endpoints.list_orders(2, page_size=3, query=oldest_first))
    ask("webhooks", resthooks.list_webhooks())
    if answers.by_name["webhooks"][1].status_code in (404, 405):
        ask("webhooks of the template", resthooks.list_webhooks(is_template=True))
    ask("unknown order", endpoints.get_order(str(uuid4())))
    ask("unknown route", _UNKNOWN_ROUTE)
    try:
        orders, pages = answers.orders(), answers.pagination()["total_pages"]
    except YouCanError:
        return answers
    ask("beyond", endpoints.list_orders(pages + 1, page_size=100))
    if orders and is_order_id(orders[0]["id"]):
        ask("order", endpoints.get_order(orders[0]["id"]))
        ask("search", endpoints.list_orders(query={"q": str(orders[0].get("ref"))}))
    return answers
