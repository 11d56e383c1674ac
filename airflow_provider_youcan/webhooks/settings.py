"""How a receiver is set up: by options of its command, or by environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_provider_youcan.assets import sanitize_uri
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.hooks.standalone import open_hook

__all__ = ["Settings", "read_settings"]

_PREFIX = "YOUCAN_WEBHOOKS_"


@dataclass(frozen=True)
class Settings:
    """
    What a receiver needs.

    :param secrets: the OAuth app's client secret, with which YouCan signs; two while it is changed for another.
    :param store: the slug of the store, as it stands in the assets.
    :param spool: the SQLite file that keeps what Airflow does not have yet; each receiver has its own.
    :param airflow_url: where Airflow's API server (before Airflow 3 its webserver) is.
    :param username: who logs in at Airflow, with ``password``.
    :param password: the password.
    :param token: a token of Airflow's, in place of both.
    """

    secrets: tuple[str, ...] = field(repr=False)
    store: str
    spool: str = "youcan-webhooks.db"
    airflow_url: str = "http://localhost:8080"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


def read_settings(options: Mapping[str, Any] | None = None) -> Settings:
    """
    Return the settings, which the environment holds.

    The variables are ``YOUCAN_WEBHOOKS_`` with ``CONN_ID``, ``STORE``, ``SPOOL``, ``AIRFLOW_URL``,
    ``AIRFLOW_USERNAME``, ``AIRFLOW_PASSWORD`` and ``AIRFLOW_TOKEN``, and ``YOUCAN_CLIENT_SECRET``: one, or two that
    a comma separates. The secret and the store's slug, where they are not given, are those of the Airflow connection
    ``CONN_ID`` (default ``youcan_default``).

    :param options: what goes before the environment.
    :raises YouCanError: if one of them is missing or makes no sense.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}

    def read(name: str) -> str | None:
        value = given.get(name) or os.environ.get(f"{_PREFIX}{name.upper()}")
        return None if value is None else str(value).strip()

    secrets = tuple(filter(None, map(str.strip, (os.environ.get("YOUCAN_CLIENT_SECRET") or "").split(","))))
    store = read("store")
    if not secrets or store is None:
        known_secret, known_store = _ask_connection(read("conn_id") or "youcan_default", is_store_known=bool(store))
        secrets, store = secrets or known_secret, store or known_store
    settings = Settings(secrets, _check_store(store), airflow_url=_check_url(read("airflow_url")))
    names = {
        "spool": "spool",
        "airflow_username": "username",
        "airflow_password": "password",
        "airflow_token": "token",
    }
    others: dict[str, Any] = {names[name]: value for name in names if (value := read(name)) is not None}
    return replace(settings, **others)


def _ask_connection(conn_id: str, *, is_store_known: bool) -> tuple[tuple[str, ...], str | None]:
    from airflow_provider_youcan.client.store import read_store_slug

    with open_hook(conn_id) as hook:
        client = hook.get_credentials().oauth_client
        if client is None and not os.environ.get("YOUCAN_CLIENT_SECRET"):
            raise YouCanInvalidInputError(
                f"The Airflow connection {conn_id!r} has no OAuth app, and YouCan signs with its client secret: "
                "webhooks take an app. Authorise one, or give its secret in YOUCAN_CLIENT_SECRET."
            )
        store = None if is_store_known else hook.run(read_store_slug())
    return ((client.client_secret,) if client is not None else ()), store


def _check_url(url: str | None) -> str:
    from urllib.parse import urlsplit

    try:
        address = urlsplit(url or Settings.airflow_url)
        if address.scheme in ("http", "https") and address.hostname and "@" not in address.netloc:
            return address.geturl()
    except ValueError:
        pass
    # Not the address itself, which may hold a password.
    raise YouCanInvalidInputError(
        "The address of Airflow is not a valid URL: give one such as http://localhost:8080, without a user name in it."
    )


def _check_store(store: str | None) -> str:
    from urllib.parse import urlsplit

    if store is None:
        raise YouCanInvalidInputError(
            "The token may not read the store's slug: grant the scope 'view-store-info' to it, or give --store."
        )
    try:
        return sanitize_uri(urlsplit(f"youcan://{store}/orders")).netloc
    except ValueError as error:
        raise YouCanInvalidInputError(f"The store is {store!r}: {error}") from None
