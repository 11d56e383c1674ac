"""Notifies subscribers of what happens to the shop's orders, as YouCan's webhooks do."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_youcan.sandbox.misbehaviour import Misbehaviours
from airflow_provider_youcan.sandbox.shop import CLIENT_SECRET, STORE_ID, Shop

__all__ = ["EVENTS", "Webhooks"]

EVENTS = ("order.created", "order.updated", "order.paid")
MAX_SUBSCRIPTIONS = 7
MAX_FAILURES = 1000
RETRY_SECONDS = (60.0, 300.0, 1200.0, 3600.0, 9000.0)
"""The pauses before a delivery that met a 5xx, or no answer, comes again: five times, over about four hours."""
_TIMEOUT_SECONDS = 2.5


@dataclass(frozen=True)
class _Delivery:
    subscription: str
    url: str
    body: bytes
    signature: str
    delivery_id: str
    event: str
    attempt: int = 0


class Webhooks:
    """
    Delivers from threads of its own.

    :param shop: whose orders, and whose subscriptions.
    :param misbehaviours: the rules in force.
    :param pace: by how much the pauses before another delivery are shortened: 0.001 turns a minute into 60 ms (default
        1).
    """

    def __init__(self, shop: Shop, misbehaviours: Misbehaviours, pace: float = 1.0) -> None:
        self._shop = shop
        self._misbehaviours = misbehaviours
        self._pace = pace
        self._pool = ThreadPoolExecutor(16, "youcan-sandbox-webhooks")
        self._timers: set[threading.Timer] = set()
        self._is_closed = False
        shop.notify = self.notify

    def close(self) -> None:
        """Deliver nothing more."""
        self._is_closed = True
        for timer in list(self._timers):
            timer.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def has_template_routes(self) -> bool:
        """True if subscriptions are listed and ended at the routes of YouCan's app template."""
        return self._misbehaviours.has_template_resthooks

    def subscribe(self, event: str, target_url: str) -> str | None:
        """Return the id of a subscription, ``None`` where the event has too many."""
        known = self._shop.subscriptions(event)
        for subscription in known:
            if subscription["target_url"] == target_url:
                return str(subscription["id"])
        if len(known) >= MAX_SUBSCRIPTIONS:
            return None
        subscription_id = str(uuid.uuid4())
        self._shop.add_subscription(subscription_id, event, target_url)
        return subscription_id

    @staticmethod
    def is_target(url: str) -> bool:
        """Return whether webhooks go there: YouCan takes public https addresses, the sandbox this machine's as well."""
        address = urlsplit(url)
        is_own = address.hostname in ("127.0.0.1", "localhost", "::1")
        return bool(address.hostname) and (address.scheme == "https" or (address.scheme == "http" and is_own))

    def notify(self, event: str, order: dict[str, Any]) -> None:
        """Notify all subscribers of an event."""
        if self._is_closed:
            return
        for subscription in self._shop.subscriptions(event):
            trouble = self._misbehaviours.webhook_trouble(event)
            data = _abridge(order)
            happened_at = datetime.now(timezone.utc).isoformat()
            payload = {"event_name": event, "event_happened_at": happened_at, "data": data}
            body = json.dumps(data if trouble is not None and trouble.kind == "bare-webhook" else payload).encode()
            secret = "forged" if trouble is not None and trouble.kind == "forge-webhook" else CLIENT_SECRET
            signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
            where = subscription["id"], subscription["target_url"]
            delivery = _Delivery(*where, body, signature, str(uuid.uuid4()), event)
            if trouble is not None and trouble.kind == "delay-webhook":
                self._later(trouble.seconds, delivery)
                continue
            for _ in range(2 if trouble is not None and trouble.kind == "repeat-webhook" else 1):
                self._pool.submit(self._deliver, delivery)

    def _deliver(self, delivery: _Delivery) -> None:
        if self._is_closed:
            return
        headers = {
            "Content-Type": "application/json",
            "x-youcan-signature": delivery.signature,
            "X-YOUCAN-TOPIC": delivery.event,
            "X-YOUCAN-DELIVERY-ID": delivery.delivery_id,
        }
        request = urllib.request.Request(delivery.url, delivery.body, headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
                status = response.status
        except urllib.error.HTTPError as error:
            status = error.code
        except (OSError, HTTPException):
            status = 503  # assumed: YouCan delivers again if no answer came
        self._shop.store_delivery(delivery.delivery_id, delivery.url, status, delivery.attempt)
        if status < 400:
            self._shop.count_failure(delivery.subscription, is_failure=False)
            return
        failures = self._shop.count_failure(delivery.subscription, is_failure=True)
        if status == 410 or failures >= MAX_FAILURES:
            self._shop.delete_subscription(delivery.subscription)
        elif status >= 500 and delivery.attempt < len(RETRY_SECONDS):
            again = _Delivery(**{**vars(delivery), "attempt": delivery.attempt + 1})
            self._later(RETRY_SECONDS[delivery.attempt] * self._pace, again)

    def _later(self, seconds: float, delivery: _Delivery) -> None:
        def submit() -> None:
            self._timers.discard(timer)
            if not self._is_closed:
                self._pool.submit(self._deliver, delivery)

        timer = threading.Timer(seconds, submit)
        timer.daemon = True
        self._timers.add(timer)
        timer.start()


def _abridge(order: dict[str, Any]) -> dict[str, Any]:
    """Return the part of an order that a webhook holds, its customer included."""
    names = ("id", "ref", "total", "currency", "created_at", "updated_at")
    statuses = {name: order[f"{name.partition('_')[0]}_status"] for name in ("payment_status", "shipping_status")}
    own = {"store_id": STORE_ID, "customer": json.loads(order["customer"])}
    return {name: order[name] for name in names} | statuses | own
