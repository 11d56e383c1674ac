"""
A delivery of YouCan's: whether it is genuine, and what it says, without I/O.

The facts come from the pages ``resthooks/overview`` and ``apps/webhooks`` under
https://developer.youcan.shop/store-admin, and from YouCan's own app template.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, TypeAlias

from airflow_provider_youcan.checks import check_order_id
from airflow_provider_youcan.exceptions import YouCanInvalidInputError

__all__ = ["EVENTS", "Delivery", "InvalidDeliveryError", "Key", "OtherStoreError", "is_genuine", "read_delivery"]

EVENTS = ("order.created", "order.updated", "order.paid")
_OLDER_NAMES = {"order.create": "order.created", "order.update": "order.updated"}
_MAX_ID = 200


Key: TypeAlias = tuple[str, str, str]
"""A delivery's id, its event and its order: an id may come back for another order."""


class InvalidDeliveryError(ValueError):
    """The body is not YouCan's."""


class OtherStoreError(InvalidDeliveryError):
    """The body is about a store that is not one of the receiver's."""


@dataclass(frozen=True)
class Delivery:
    """The content of a delivery, without anything of a customer's."""

    delivery_id: str
    event: str
    order_id: str
    store: str
    time: str
    """The time of the event, or of the delivery if YouCan does not say."""

    @property
    def key(self) -> Key:
        """Its identity."""
        return self.delivery_id, self.event, self.order_id

    @property
    def uri(self) -> str:
        """The asset whose event this is."""
        return f"youcan://{self.store}/orders/{self.event.removeprefix('order.')}"

    def as_extra(self) -> dict[str, str]:
        """Return the ``extra`` of the asset event."""
        return asdict(self)


def is_genuine(body: bytes, signature: str, secrets: tuple[str, ...]) -> bool:
    """
    Return whether a body is signed with one of the secrets, in constant time.

    :param body: the raw body.
    :param signature: what the header ``x-youcan-signature`` says: the hex HMAC-SHA256 of the body.
    :param secrets: the OAuth app's client secret; two while it is changed for another.
    """
    given = signature.strip().lower().encode("utf-8", "replace")
    expected = [hmac.new(secret.encode(), body, hashlib.sha256).hexdigest().encode() for secret in secrets]
    # All of them are tried: one comparison must not reveal which key fits.
    return sum(hmac.compare_digest(given, one) for one in expected) > 0


def read_delivery(
    body: bytes,
    headers: Mapping[str, str],
    store: str,
    event: str | None = None,
    store_ids: Mapping[str, str] | None = None,
) -> Delivery | None:
    """
    Return what a genuine body says, ``None`` for an event that is not one of an order's.

    :param body: the raw body.
    :param headers: the headers, in lower case. ``x-youcan-topic`` names the event of a bare body.
    :param store: the slug of the store.
    :param event: which event the older, bare body of an order is taken for, if no header names it (default
        ``order.updated``).
    :param store_ids: the slug of each store by its id, if the ids are known (default ``None``).
    :raises OtherStoreError: if it is about a store whose id is not one of these.
    :raises InvalidDeliveryError: if it is not a JSON object, or names no order, or no store where there are several.
    """
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidDeliveryError("the body is not JSON") from None
    if not isinstance(payload, dict):
        raise InvalidDeliveryError("the body is not a JSON object")
    is_bare = payload.get("event_name") is None
    topic = headers.get("x-youcan-topic", "").strip()
    named = (topic or event or "order.updated") if is_bare else payload["event_name"]
    name = named.strip().lower() if isinstance(named, str) else ""
    name = _OLDER_NAMES.get(name, name)
    if name not in EVENTS:
        return None
    order: Any = payload if is_bare else payload.get("data")
    order = order if isinstance(order, dict) else {}
    try:
        order_id = check_order_id(order.get("id"))
    except YouCanInvalidInputError:
        raise InvalidDeliveryError("the body names no order") from None
    slug = _find_store(order.get("store_id"), store_ids) if store_ids else store
    delivery_id = headers.get("x-youcan-delivery-id", "").strip()
    if not delivery_id.isprintable() or not 0 < len(delivery_id) <= _MAX_ID:
        # The same body about the same event is the same delivery.
        delivery_id = hashlib.sha256(f"{name} ".encode() + body).hexdigest()
    return Delivery(delivery_id, name, order_id, slug, _read_time(payload.get("event_happened_at")))


def _find_store(store_id: object, store_ids: Mapping[str, str]) -> str:
    """Return the slug of a delivery's store."""
    if isinstance(store_id, (str, int)) and not isinstance(store_id, bool) and store_id != "":
        by_id = {known.casefold(): slug for known, slug in store_ids.items()}
        if (slug := by_id.get(str(store_id).casefold())) is None:
            raise OtherStoreError("the body is about another store")
        return slug
    if len(store_ids) > 1:
        raise InvalidDeliveryError("the body does not say which of the stores it is about")
    return next(iter(store_ids.values()))


def _read_time(value: object) -> str:
    if isinstance(value, str) and 0 < len(value) <= 40:
        try:
            return datetime.fromisoformat(value.replace("Z", "+00:00")).isoformat()
        except ValueError:
            pass
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e13:
        seconds = value if value < 1e11 else value / 1000
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat()
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
