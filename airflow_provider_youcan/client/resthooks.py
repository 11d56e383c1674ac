"""
The requests about webhooks, which YouCan calls resthooks, without I/O.

The facts come from the pages under https://developer.youcan.shop/store-admin (``resthooks``). YouCan's app template of
2026 has other routes to list and to end subscriptions, which no page names; they are asked where these are missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_youcan.checks import is_order_id
from airflow_provider_youcan.client.endpoints import Request, encode_json, is_list_of
from airflow_provider_youcan.exceptions import YouCanInvalidInputError

__all__ = ["list_webhooks", "read_last_page", "read_subscriptions", "subscribe_webhook", "unsubscribe_webhook"]


def list_webhooks(page: int = 1, *, is_template: bool = False) -> Request:
    """
    Build the request that lists the app's webhook subscriptions.

    :param page: which page, from 1 (default); whether the list has pages is not documented.
    :param is_template: whether to ask the route of YouCan's app template (default ``False``: the documented one).
    """
    return Request(
        method="GET",
        path="/resthooks" if is_template else "/resthooks/list",
        purpose="list the webhooks",
        is_success=lambda payload: _has_no_error(payload) and read_subscriptions(payload) is not None,
        params={} if page == 1 else {"page": str(page)},
        scope="read-rest-hooks",
    )


def read_subscriptions(payload: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the subscriptions of a list, ``None`` if it is not a list."""
    found = payload.get("data")
    if isinstance(found, dict):  # PHP writes a list with gaps in it as an object
        found = list(found.values())
    return found if is_list_of(found, lambda item: isinstance(item.get("id"), (str, int))) else None


def read_last_page(payload: Mapping[str, Any]) -> int:
    """Return the number of the last page of a list: 1 where it has none. Laravel says so in one of three places."""
    meta = payload.get("meta")
    places = [payload, meta, meta.get("pagination") if isinstance(meta, dict) else None]
    numbers = [place.get(name) for place in places if isinstance(place, dict) for name in ("last_page", "total_pages")]
    return max([1, *(number for number in numbers if type(number) is int)])


def subscribe_webhook(event: str, target_url: str) -> Request:
    """
    Build the request that subscribes an address to an event. The same twice is one subscription.

    :param event: ``order.created``, ``order.updated`` or ``order.paid``.
    :param target_url: a public https address.
    """
    return Request(
        method="POST",
        path="/resthooks/subscribe",
        purpose=f"subscribe to {event}",
        is_success=lambda payload: _has_no_error(payload) and isinstance(payload.get("id"), (str, int)),
        body=encode_json({"event": event, "target_url": target_url}),
        scope="edit-rest-hooks",
    )


def unsubscribe_webhook(subscription_id: str, *, is_template: bool = False) -> Request:
    """
    Build the request that ends a subscription.

    :param subscription_id: its id.
    :param is_template: whether to ask the route of YouCan's app template (default ``False``: the documented one).
    :raises YouCanInvalidInputError: if it is no id.
    """
    if not is_order_id(subscription_id):
        raise YouCanInvalidInputError(
            f"{subscription_id!r:.100} is not the id of a webhook", advice="take one from webhooks list."
        )
    return Request(
        method="DELETE" if is_template else "POST",
        path=f"/resthooks/{subscription_id}" if is_template else f"/resthooks/unsubscribe/{subscription_id}",
        purpose=f"end the webhook {subscription_id}",
        is_success=_is_ended,
        scope="delete-rest-hooks",
    )


def _has_no_error(payload: Mapping[str, Any]) -> bool:
    is_success = payload.get("status", 200) in (200, 201) and payload.get("type", "success") == "success"
    return is_success and "error" not in payload


def _is_ended(payload: Mapping[str, Any]) -> bool:
    # The documented route confirms by ``type``; for the template's route nothing is documented.
    return _has_no_error(payload) and (
        payload.get("type") == "success" or payload.get("status") == 200 or "id" in payload
    )
