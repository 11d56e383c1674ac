"""
The requests about webhooks, which YouCan calls resthooks, without I/O.

The facts come from the pages under https://developer.youcan.shop/store-admin (``resthooks``).
"""

from __future__ import annotations

from airflow_provider_youcan.checks import is_order_id
from airflow_provider_youcan.client.endpoints import Request, encode_json, is_list_of
from airflow_provider_youcan.exceptions import YouCanInvalidInputError

__all__ = ["list_webhooks", "subscribe_webhook", "unsubscribe_webhook"]


def list_webhooks() -> Request:
    """Build the request that lists the app's webhook subscriptions."""
    return Request(
        method="GET",
        path="/resthooks",
        purpose="list the webhooks",
        is_success=lambda payload: is_list_of(payload.get("data"), lambda item: isinstance(item.get("id"), (str, int))),
        scope="read-rest-hooks",
    )


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
        is_success=lambda payload: isinstance(payload.get("id"), (str, int)),
        body=encode_json({"event": event, "target_url": target_url}),
        scope="edit-rest-hooks",
    )


def unsubscribe_webhook(subscription_id: str) -> Request:
    """
    Build the request that ends a subscription.

    :raises YouCanInvalidInputError: if it is no id.
    """
    if not is_order_id(subscription_id):
        raise YouCanInvalidInputError(
            f"{subscription_id!r:.100} is not the id of a webhook, so nothing was sent: take one from webhooks list."
        )
    return Request(
        method="DELETE",
        path=f"/resthooks/{subscription_id}",
        purpose=f"end the webhook {subscription_id}",
        is_success=lambda payload: "error" not in payload,
        scope="delete-rest-hooks",
    )
