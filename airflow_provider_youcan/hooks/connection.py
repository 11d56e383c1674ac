"""Reads an Airflow connection of type ``youcan``, and checks it before anything is sent."""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import ssl
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload
from urllib.parse import urlsplit

from airflow_provider_youcan.client.credentials import Credentials, OAuthClient
from airflow_provider_youcan.client.endpoints import BASE_URL
from airflow_provider_youcan.client.oauth import is_token
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.hooks.form import FIELDS, check_form_field
from airflow_provider_youcan.version_compat import mask_secret

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

__all__ = ["read_base_url", "read_credentials"]


def read_credentials(connection: Connection, name: str) -> Credentials:
    """
    Read the credentials from a connection, and have Airflow mask the token in logs.

    :param connection: the Airflow connection, from any secrets backend.
    :param name: what it is called in an error: ``the Airflow connection 'youcan_default'``.
    :raises YouCanInvalidInputError: that says which field is wrong and how to set it.
    """
    try:
        # Any other connection's password is a secret that YouCan must not be sent.
        if connection.conn_type != "youcan":
            raise ValueError(f"type is {connection.conn_type!r}: make it 'youcan', or name another connection.")
        extra = _read_extra(connection)
        oauth_client = _read_oauth_client(extra)
        token = _read_token(connection.password, required=oauth_client is None)
        return Credentials(
            base_url=read_base_url(connection.host, connection.schema, connection.port),
            token=token,
            oauth_client=oauth_client,
            timeout=_read_number(extra, "timeout", 30.0),
            max_attempts=int(_read_number(extra, "max_attempts", 4)),
            verify=_read_verify(extra),
            requests_per_second=_read_number(extra, "requests_per_second", None),
        )
    except ValueError as error:
        problem = str(error)
    raise YouCanInvalidInputError(f"In {name} the {problem}")


def read_base_url(host: str | None, schema: str | None = None, port: int | None = None) -> str:
    """
    Read where the API is, and refuse what a secret must not be sent to.

    :param host: a host name or a whole URL; empty for YouCan's own.
    :param schema: the protocol, if the host does not contain it (default https).
    :param port: the port, if the host does not contain it.
    :raises ValueError: with a sentence that begins with the field: "host is not a base URL …".
    """
    host = (host or "").strip()
    if not host:
        # 443 is the default anyway.
        if schema or port not in (None, 443):
            raise ValueError("host is empty though the schema or the port is set: set it, or clear them.")
        return BASE_URL
    if "@" in host:  # first, because no message may repeat a login
        raise ValueError("host holds a login: put the access token into the password, and nothing before the host.")
    no_url = f"host is not a base URL: give one such as {BASE_URL}."
    if _is_address(host) and ":" in host:
        host = f"[{host}]"
    try:
        url = urlsplit(host if "://" in host else f"{schema or 'https'}://{host}")
        name, own_port = url.hostname or "", url.port
    except ValueError:
        raise ValueError(no_url) from None
    if not _is_host(name) or url.query or url.fragment or not re.fullmatch(r"[A-Za-z0-9_./~-]*", url.path):
        raise ValueError(no_url)
    if own_port is not None and port is not None and own_port != port:
        raise ValueError(f"host names the port {own_port}, but the port is {port}: keep one of them.")
    port = port if own_port is None else own_port
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"port is {port}: give one from 1 to 65535, or leave it out.")
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(name)):
        raise ValueError(
            f"host leads to {url.scheme}://{name}, where the access token would travel in clear: use https."
        )
    port_suffix = "" if port is None else f":{port}"
    # Rebuilt from the checked parts, so that requests and aiohttp parse it the same way.
    return f"{url.scheme}://{f'[{name}]' if ':' in name else name}{port_suffix}{url.path.rstrip('/')}"


_log = logging.getLogger(__name__)
_warned_names: set[str] = set()

# Each raises a ValueError with a sentence that begins with the field: "password is empty: set it to …".


def _read_token(password: str | None, *, required: bool) -> str:
    token = (password or "").strip()
    if not token:
        if required:
            raise ValueError(
                "password is empty: set it to an access token, made in YouCan's seller area under "
                "Settings > Developer Settings, or give client_id, client_secret and refresh_token in the extra."
            )
        return ""
    mask_secret(token)
    if not is_token(token):
        raise ValueError("password is not an access token: paste the token alone, without 'Bearer' or line breaks.")
    return token


def _read_oauth_client(extra: Mapping[str, Any]) -> OAuthClient | None:
    given = {name: extra[name] for name in ("client_id", "client_secret", "refresh_token") if name in extra}
    # An app's id may be a number.
    texts = {name: str(value).strip() for name, value in given.items()}
    for name, text in texts.items():
        if name != "client_id":
            mask_secret(text)
        if not is_token(text):
            raise ValueError(f"extra {name!r} can't be used: paste it alone, without spaces or line breaks.")
    if not texts:
        return None
    if missing := {"client_id", "client_secret", "refresh_token"} - texts.keys():
        raise ValueError(
            f"extra lacks {' and '.join(sorted(missing))}: a token is renewed with client_id, client_secret and "
            "refresh_token together; give all three, or none."
        )
    return OAuthClient(**texts)


def _read_extra(connection: Connection) -> Mapping[str, Any]:
    # Airflow's own extra_dejson returns {} for invalid JSON, and so ignores every setting in it.
    try:
        extra = json.loads(connection.extra or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, Mapping):
        raise ValueError('extra is not a JSON object: write it as {"timeout": 30}.')
    _check_names(extra)
    # An empty field of a connection form is null, or on Airflow 2 an empty text.
    return {name: value for name, value in extra.items() if value is not None and value != ""}


def _check_names(extra: Mapping[str, Any]) -> None:
    """Refuse a name that resembles a known one, and warn of any other: what isn't known has no effect."""
    for name in extra.keys() - FIELDS.keys() - _warned_names:
        if closest := get_close_matches(str(name).casefold(), FIELDS, n=1, cutoff=0.8):
            raise ValueError(f"extra {name!r} is not known: did you mean {closest[0]!r}?")
        _warned_names.add(name)
        _log.warning("The extra %r of a YouCan connection is not known, and has no effect.", name)


@overload
def _read_number(extra: Mapping[str, Any], name: str, default: float) -> float: ...
@overload
def _read_number(extra: Mapping[str, Any], name: str, default: None) -> float | None: ...
def _read_number(extra: Mapping[str, Any], name: str, default: float | None) -> float | None:
    return check_form_field(name, extra[name], f"extra {name!r}") if name in extra else default


def _read_verify(extra: Mapping[str, Any]) -> bool | str:
    verify = extra.get("verify", True)
    if verify is True or (isinstance(verify, str) and _is_ca_bundle(verify)):
        return verify
    shown = verify if not isinstance(verify, str) or len(verify) < 200 else "no path"
    raise ValueError(
        f"extra 'verify' is {shown!r}: give the path of a CA bundle, or leave it out; TLS certificates are always "
        "verified."
    )


def _is_ca_bundle(path: str) -> bool:
    try:
        if Path(path).is_dir():
            ssl.create_default_context(capath=path)
        else:
            ssl.create_default_context(cafile=path)
    except (OSError, ValueError):  # ssl's own errors are OSErrors; a path with a NUL in it is a ValueError
        return False
    return bool(path)


def _is_host(name: str) -> bool:
    label = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
    return _is_address(name) or re.fullmatch(rf"{label}(\.{label})*\.?", name) is not None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)
