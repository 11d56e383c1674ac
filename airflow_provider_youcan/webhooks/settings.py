"""The settings of a receiver, from the options of its command or from environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_youcan.arguments import check_rendered_flag
from airflow_provider_youcan.assets import sanitize_uri
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.hooks.standalone import open_hook

__all__ = ["Settings", "read_settings"]

_PREFIX = "YOUCAN_WEBHOOKS_"


@dataclass(frozen=True)
class Settings:
    """
    The settings of a receiver.

    :param secrets: the OAuth app's client secret, with which YouCan signs; two while it is being replaced.
    :param store: the slug of the store, as in the URIs of the assets.
    :param spool: the path of the SQLite file for deliveries that Airflow does not have yet; one for each receiver
        (default ``youcan-webhooks.db``).
    :param airflow_url: the URL of Airflow's API server, before Airflow 3 of its webserver (default
        ``http://localhost:8080``).
    :param username: the user who logs in to Airflow with ``password`` (default ``None``: nobody logs in).
    :param password: the password of that user.
    :param token: a token for Airflow, instead of both.
    :param event_from_address: whether ``?event=`` of the address, which is not signed, names the event of a body that
        names none (default ``False``).
    :param store_ids: the slug of each store by its id, which a delivery names; empty where no id is known (default).
    """

    secrets: tuple[str, ...] = field(repr=False)
    store: str
    spool: str = "youcan-webhooks.db"
    airflow_url: str = "http://localhost:8080"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    event_from_address: bool = False
    store_ids: Mapping[str, str] = field(default_factory=dict)


def read_settings(options: Mapping[str, Any] | None = None) -> Settings:
    """
    Read the settings from options and environment variables.

    The variables are ``YOUCAN_WEBHOOKS_`` with ``CONN_ID``, ``STORE``, ``SPOOL``, ``AIRFLOW_URL``,
    ``AIRFLOW_USERNAME``, ``AIRFLOW_PASSWORD``, ``AIRFLOW_TOKEN`` and ``EVENT_FROM_ADDRESS`` (``true``), and
    ``YOUCAN_CLIENT_SECRET``: one secret, or two with a comma between them. A missing secret and a missing slug are read
    from the Airflow connection ``CONN_ID`` (default ``youcan_default``).

    :param options: values that win over the environment, by the names of the variables in lower case (default none).
    :raises YouCanError: if a setting is missing or invalid.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}

    def read(name: str) -> str | None:
        value = given.get(name) or os.environ.get(f"{_PREFIX}{name.upper()}")
        return None if value is None else str(value).strip()

    given_secrets = os.environ.get("YOUCAN_CLIENT_SECRET") or ""
    secrets = tuple(filter(None, map(str.strip, given_secrets.split(","))))
    if given_secrets and not secrets:
        raise YouCanInvalidInputError("YOUCAN_CLIENT_SECRET has no secret in it: give the client secret of the app.")
    store = read("store")
    if not secrets or store is None:
        known_secret, known_store = _ask_connection(read("conn_id") or "youcan_default", is_store_known=bool(store))
        secrets, store = secrets or known_secret, store or known_store
    slug, store_ids = _read_stores(store)
    return Settings(
        secrets,
        slug,
        spool=read("spool") or Settings.spool,
        airflow_url=_check_url(read("airflow_url") or Settings.airflow_url),
        username=read("airflow_username"),
        password=read("airflow_password"),
        token=read("airflow_token"),
        event_from_address=check_rendered_flag("event_from_address", read("event_from_address") or False),
        store_ids=store_ids,
    )


def _ask_connection(conn_id: str, *, is_store_known: bool) -> tuple[tuple[str, ...], str | None]:
    from airflow_provider_youcan.client.store import read_store

    with open_hook(conn_id) as hook:
        client = hook.get_credentials().oauth_client
        if client is None and not os.environ.get("YOUCAN_CLIENT_SECRET"):
            raise YouCanInvalidInputError(
                f"The Airflow connection {conn_id!r} has no OAuth app: YouCan signs webhooks with an app's client "
                "secret. Authorise one, or give its secret in YOUCAN_CLIENT_SECRET."
            )
        store = None if is_store_known else hook.run(read_store())
    return ((client.client_secret,) if client is not None else ()), store


def _check_url(url: str) -> str:
    try:
        address = urlsplit(url)
        if address.scheme in ("http", "https") and address.hostname and "@" not in address.netloc:
            return address.geturl()
    except ValueError:
        pass
    # Without the URL itself, which may hold a password.
    raise YouCanInvalidInputError(
        "The address of Airflow is not a valid URL: give one such as http://localhost:8080, without a user name in it."
    )


def _read_stores(stores: str | None) -> tuple[str, dict[str, str]]:
    """Read ``slug``, ``slug=id``, or several of the latter with commas between them."""
    if stores is None:
        raise YouCanInvalidInputError(
            "The token may not read the store's slug: grant the scope 'view-store-info' to it, or give --store."
        )
    named = [[part.strip() for part in one.split("=", 1)] for one in stores.split(",")]
    slugs = [_check_slug(slug) for slug, *_ in named]
    ids = {store_id: slug for slug, (_, *rest) in zip(slugs, named, strict=True) for store_id in rest if store_id}
    if len(slugs) > 1 and len(ids) < len(slugs):
        raise YouCanInvalidInputError(
            f"The stores are {stores!r}: give each of several with an id of its own, such as --store my-store=ID."
        )
    return slugs[0], ids


def _check_slug(store: str) -> str:
    try:
        return sanitize_uri(urlsplit(f"youcan://{store.strip()}/orders")).netloc
    except ValueError as error:
        raise YouCanInvalidInputError(f"The store is {store!r}: {error}") from None
