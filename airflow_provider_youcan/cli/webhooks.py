"""The command line of webhooks: ``python -m airflow_provider_youcan webhooks serve``, ``subscribe`` and so on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_youcan.exceptions import YouCanInvalidInputError, YouCanRateLimitError
from airflow_provider_youcan.hooks.standalone import open_hook
from airflow_provider_youcan.webhooks.deliveries import EVENTS

__all__ = ["add_webhooks"]

_SETTINGS = {
    "conn_id": "the Airflow connection that has the app and the store (default: youcan_default)",
    "store": "the slug of the store (default: that of the connection)",
    "spool": "the SQLite file that keeps what Airflow does not have yet (default: youcan-webhooks.db)",
    "airflow_url": "where Airflow's API server is (default: http://localhost:8080)",
    "airflow_username": "who logs in there (default: nobody)",
}
"""The options of ``serve`` that are settings of a receiver, with their help."""


def add_webhooks(commands: Any) -> None:
    """Add the commands to those of the provider."""
    parser = commands.add_parser("webhooks", help="receive YouCan's webhooks")
    webhooks = parser.add_subparsers(dest="webhooks_command", required=True)
    _add_serve(webhooks)
    subscribe = _add_of_shop(webhooks, "subscribe", "subscribe an address to events of orders", _subscribe)
    subscribe.add_argument("--url", required=True, help="the receiver, a public https address")
    subscribe.add_argument("--event", nargs="+", choices=EVENTS, default=list(EVENTS), dest="events", help="of what")
    _add_of_shop(webhooks, "list", "list the subscriptions", _list)
    unsubscribe = _add_of_shop(webhooks, "unsubscribe", "end subscriptions", _unsubscribe)
    which = unsubscribe.add_mutually_exclusive_group(required=True)
    which.add_argument("--url", help="all events of this address")
    which.add_argument("--id", dest="subscription_id", help="one subscription, as list shows it")


_Run = Callable[[argparse.Namespace], bool]


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
        command.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=description)


def _serve(options: argparse.Namespace) -> bool:
    try:
        import uvicorn

        from airflow_provider_youcan.webhooks.receiver import build_application
    except ImportError:
        raise YouCanInvalidInputError(
            "The receiver takes Starlette and uvicorn, which are not installed here: "
            "pip install 'airflow-provider-youcan[webhooks]'."
        ) from None
    import sqlite3

    from airflow_provider_youcan.webhooks.settings import read_settings

    settings = read_settings({name: vars(options).get(name) for name in _SETTINGS})
    try:
        application = build_application(settings)
    except sqlite3.Error as error:
        raise YouCanInvalidInputError(f"The spool {settings.spool} can't be used: {error}.") from None
    # One process for each spool: several would each send its deliveries to Airflow.
    uvicorn.run(application, host=options.host, port=options.port, ws="none", access_log=False, server_header=False)
    return True


def _subscribe(options: argparse.Namespace) -> bool:
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
    return True


def _list(options: argparse.Namespace) -> bool:
    from airflow_provider_youcan.client.store import list_webhooks

    with open_hook(options.conn_id) as hook:
        for webhook in hook.run(list_webhooks()):
            print(f"{webhook['id']}  {webhook.get('event')}  {webhook.get('target_url')}")
    return True


def _unsubscribe(options: argparse.Namespace) -> bool:
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
    return True


def _is_target(url: str) -> bool:
    try:
        address = urlsplit(url)
    except ValueError:
        return False
    # Receivers for the sandbox are on this machine.
    is_own = address.scheme == "http" and address.hostname in ("127.0.0.1", "localhost", "::1")
    return bool(address.hostname) and (address.scheme == "https" or is_own)
