"""The command line of webhooks: ``python -m airflow_provider_youcan webhooks serve``, ``subscribe`` and so on."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_provider_youcan.checks import check_number, check_order_id
from airflow_provider_youcan.exceptions import YouCanInvalidInputError, YouCanRateLimitError
from airflow_provider_youcan.hooks.standalone import open_hook
from airflow_provider_youcan.webhooks.deliveries import EVENTS

if TYPE_CHECKING:
    from airflow_provider_youcan.webhooks.settings import Settings

__all__ = ["add_arguments"]

_SETTINGS = {
    "conn_id": "the Airflow connection that has the app and the store (default: youcan_default)",
    "store": "the slug of the store (default: that of the connection); for several, each with its id: my-store=ID",
    "spool": "the SQLite file that keeps what Airflow does not have yet (default: youcan-webhooks.db)",
    "airflow_url": "where Airflow's API server is (default: http://localhost:8080)",
    "airflow_username": "who logs in there (default: nobody)",
}
"""The options of ``serve`` that are settings of a receiver, with their help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands, with their options."""
    webhooks = parser.add_subparsers(dest="webhooks_command", required=True)
    _add_serve(webhooks)
    subscribe = _add_of_shop(webhooks, "subscribe", "subscribe an address to events of orders", _subscribe)
    subscribe.add_argument("--url", required=True, help="the receiver, a public https address")
    subscribe.add_argument("--event", nargs="+", choices=EVENTS, default=list(EVENTS), dest="events", help="of what")
    deliveries = _add(webhooks, "deliveries", "show what waits for Airflow, and what was dropped", _list_deliveries)
    spool = os.environ.get("YOUCAN_WEBHOOKS_SPOOL") or "youcan-webhooks.db"
    deliveries.add_argument("--spool", default=spool, help="the receiver's file")
    deliveries.add_argument("--most", type=int, default=100, help="how many, the oldest first")
    send_test = _add_of_shop(webhooks, "send-test", "send a receiver a signed delivery", _send_test)
    send_test.add_argument("--url", default="http://127.0.0.1:8977/", help="the receiver")
    send_test.add_argument("--store", help="the slug of the store (default: that of the connection)")
    send_test.add_argument("--event", choices=EVENTS, default="order.updated", help="of what")
    send_test.add_argument("--order-id", default=_NO_ORDER, help="of which order; the default is no shop's")
    _add_of_shop(webhooks, "list", "list the subscriptions", _list)
    unsubscribe = _add_of_shop(webhooks, "unsubscribe", "end subscriptions", _unsubscribe)
    which = unsubscribe.add_mutually_exclusive_group(required=True)
    which.add_argument("--url", help="all events of this address")
    which.add_argument("--id", dest="subscription_id", help="one subscription, as list shows it")


_NO_ORDER = "00000000-0000-4000-8000-000000000000"

_Run = Callable[[argparse.Namespace], int]


def _add(webhooks: Any, name: str, description: str, run: _Run) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = webhooks.add_parser(
        name, help=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    command.set_defaults(run=run)
    return command


def _add_of_shop(webhooks: Any, name: str, description: str, run: _Run) -> argparse.ArgumentParser:
    command = _add(webhooks, name, description, run)
    command.add_argument("--conn-id", default="youcan_default", help="the Airflow connection of the shop")
    return command


def _add_serve(webhooks: Any) -> None:
    # An omitted option is absent from the namespace, so that the environment decides.
    command = _add(webhooks, "serve", "run the receiver that YouCan delivers to", _serve)
    command.description = (
        "Checks what YouCan delivers, keeps it, and creates an asset event of it in Airflow. Each option but --host "
        "and --port can be given as a variable: YOUCAN_WEBHOOKS_CONN_ID for --conn-id, and so on. Airflow's password "
        "is read from YOUCAN_WEBHOOKS_AIRFLOW_PASSWORD, or a token from YOUCAN_WEBHOOKS_AIRFLOW_TOKEN; the client "
        "secret of the app from YOUCAN_CLIENT_SECRET, or from the Airflow connection."
    )
    command.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    command.add_argument("--port", type=int, default=8977, help="the port to listen on")
    for name, description in _SETTINGS.items():
        action = "append" if name == "store" else "store"
        command.add_argument(f"--{name.replace('_', '-')}", action=action, default=argparse.SUPPRESS, help=description)
    command.add_argument(
        "--event-from-address",
        action="store_const",
        const="true",
        default=argparse.SUPPRESS,
        help="take the event of a delivery that names none from ?event= of the address, which is not signed",
    )


def _serve(options: argparse.Namespace) -> int:
    import logging
    import sqlite3

    _require_webhooks()
    from airflow_provider_youcan.webhooks.receiver import build_application
    from airflow_provider_youcan.webhooks.server import serve
    from airflow_provider_youcan.webhooks.settings import read_settings
    from airflow_provider_youcan.webhooks.spool import SpoolError

    given = {name: value for name, value in vars(options).items() if name in (*_SETTINGS, "event_from_address")}
    if "store" in given:
        given["store"] = ",".join(given["store"])
    settings = read_settings(given)
    try:
        application = build_application(settings)
    except SpoolError as error:
        raise YouCanInvalidInputError(str(error)) from None
    except sqlite3.Error as error:
        raise YouCanInvalidInputError(f"The spool {settings.spool} can't be used: {error}.") from None
    stores = ", ".join(dict.fromkeys([*settings.store_ids.values()] or [settings.store]))
    print(f"Taking deliveries of {stores} at http://{options.host}:{options.port}/, kept in {settings.spool}.")
    print(f"Airflow is at {settings.airflow_url}, and {_describe_login(settings)}.", flush=True)
    logging.getLogger("airflow_provider_youcan").setLevel(logging.INFO)
    serve(application, options.host, options.port)
    return 0


def _describe_login(settings: Settings) -> str:
    if settings.token is not None:
        return "a token is used"
    return "nobody logs in" if settings.username is None else f"{settings.username} logs in"


def _require_webhooks() -> None:
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise YouCanInvalidInputError(
            "The receiver takes Starlette and uvicorn, which are not installed here: "
            "pip install 'airflow-provider-youcan[webhooks]'."
        )


def _list_deliveries(options: argparse.Namespace) -> int:
    import sqlite3
    from datetime import datetime, timezone

    _require_webhooks()
    from airflow_provider_youcan.webhooks.spool import Spool

    try:
        spool = Spool(options.spool, is_read_only=True)
    except sqlite3.Error as error:
        raise YouCanInvalidInputError(f"The spool {options.spool} can't be read: {error}.") from None
    found = spool.list_all(int(check_number("--most", options.most, 1, 1_000_000, whole=True)))
    spool.close()
    for one in found:
        taken_at = datetime.fromtimestamp(one.taken_at, timezone.utc).isoformat(timespec="seconds")
        state = "waits" if one.dropped_at is None else "dropped"
        print(f"{taken_at}  {state}  {one.delivery.event}  {one.delivery.order_id}  {one.reason or ''}".rstrip())
    if not found:
        print("Airflow has all that came.")
    return 0


def _send_test(options: argparse.Namespace) -> int:
    import hashlib
    import hmac
    import json
    from datetime import datetime, timezone
    from uuid import uuid4

    from airflow_provider_youcan.webhooks.settings import read_settings

    settings = read_settings({"conn_id": options.conn_id, "store": options.store})
    data = {"id": check_order_id(options.order_id)}
    if settings.store_ids:
        data["store_id"] = next(iter(settings.store_ids))
    happened_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    body = json.dumps({"event_name": options.event, "event_happened_at": happened_at, "data": data}).encode()
    headers = {
        "Content-Type": "application/json",
        "X-YOUCAN-TOPIC": options.event,
        "X-YOUCAN-DELIVERY-ID": f"test-{uuid4()}",
        "x-youcan-signature": hmac.new(settings.secrets[0].encode(), body, hashlib.sha256).hexdigest(),
    }
    status, text = _post(options.url, body, headers)
    print(f"{status} {' '.join(text.split())}")
    return 0 if (status, text) == (200, "taken") else 1


def _post(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    """Send the body to a receiver, with no login and through no proxy, and return what it says."""
    import asyncio

    import aiohttp

    async def post() -> tuple[int, str]:
        timeout = aiohttp.ClientTimeout(total=10)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status, (await answer.content.read(200)).decode(errors="replace")

    try:
        return asyncio.run(post())
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
        raise YouCanInvalidInputError(
            f"No receiver answers at {url} ({type(error).__name__}): is it running there?"
        ) from None


def _subscribe(options: argparse.Namespace) -> int:
    from airflow_provider_youcan.client.store import subscribe_webhooks

    if not _is_target(options.url):
        raise YouCanInvalidInputError(
            f"{options.url!r} is not a public https address, so nothing was subscribed: give one with --url."
        )
    if urlsplit(options.url).path not in ("", "/"):
        print(
            f"The receiver takes deliveries at /, not at {urlsplit(options.url).path}: the proxy in front of it has to "
            "rewrite the path.",
            file=sys.stderr,
        )
    with open_hook(options.conn_id) as hook:
        try:
            subscriptions = hook.run(subscribe_webhooks(options.events, options.url))
        except YouCanRateLimitError as error:
            raise YouCanInvalidInputError(
                f"{error} YouCan also answers so where an event has seven subscriptions: see webhooks list."
            ) from None
        for event, subscription_id in subscriptions.items():
            print(f"{subscription_id}  {event}  {options.url}")
    return 0


def _list(options: argparse.Namespace) -> int:
    from airflow_provider_youcan.client.store import list_webhooks

    with open_hook(options.conn_id) as hook:
        for webhook in hook.run(list_webhooks()):
            print(f"{webhook['id']}  {webhook.get('event')}  {webhook.get('target_url')}")
    return 0


def _unsubscribe(options: argparse.Namespace) -> int:
    from airflow_provider_youcan.client.store import list_webhooks, unsubscribe_webhook

    with open_hook(options.conn_id) as hook:
        ended = [options.subscription_id]
        if options.url is not None:
            address = options.url.rstrip("/")
            ended = [
                str(one["id"]) for one in hook.run(list_webhooks()) if str(one.get("target_url")).rstrip("/") == address
            ]
        for subscription_id in ended:
            there_was = hook.run(unsubscribe_webhook(subscription_id))
            print(f"{subscription_id}  {'ended' if there_was else 'was not there'}")
        if not ended:
            print(f"Nothing is delivered to {options.url}.")
    return 0


def _is_target(url: str) -> bool:
    try:
        address = urlsplit(url)
    except ValueError:
        return False
    # The sandbox's receivers are on this machine.
    is_own = address.scheme == "http" and address.hostname in ("127.0.0.1", "localhost", "::1")
    return bool(address.hostname) and (address.scheme == "https" or is_own)
