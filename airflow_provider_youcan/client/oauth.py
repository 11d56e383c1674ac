"""
The requests about tokens, without I/O, and what a token says of itself.

The facts come from https://developer.youcan.shop/store-admin (``introduction/oauth``).
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from airflow_provider_youcan.client.endpoints import A_YEAR, Request

__all__ = ["exchange_code", "exchange_refresh_token", "is_token", "read_lifetime", "read_scopes"]


def exchange_code(client_id: str, client_secret: str, redirect_uri: str, code: str) -> Request:
    """
    Build the request that exchanges the code of a seller's consent for the first pair of tokens.

    :param client_id: the id of the app.
    :param client_secret: its secret.
    :param redirect_uri: the redirect URI that the consent page was given.
    :param code: the code that it brought.
    """
    form = {"grant_type": "authorization_code", "redirect_uri": redirect_uri, "code": code}
    return _ask_for_token("obtain the first access token", client_id, client_secret, form)


def exchange_refresh_token(client_id: str, client_secret: str, refresh_token: str) -> Request:
    """
    Build the request that exchanges a refresh token, which works once, for the next pair of tokens.

    :param client_id: the id of the app.
    :param client_secret: its secret.
    :param refresh_token: the refresh token.
    """
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return _ask_for_token("renew the access token", client_id, client_secret, form)


def _ask_for_token(purpose: str, client_id: str, client_secret: str, form: Mapping[str, str]) -> Request:
    return Request(
        method="POST",
        path="/oauth/token",
        purpose=purpose,
        is_success=lambda payload: is_token(payload.get("access_token")),
        form={"client_id": client_id, "client_secret": client_secret, **form},
    )


def is_token(value: object) -> bool:
    """Return whether a value can be sent as a token: it is what a header takes, without spaces."""
    return isinstance(value, str) and re.fullmatch(r"[\x21-\x7e]+", value) is not None


def read_lifetime(payload: Mapping[str, Any]) -> float:
    """Read for how many seconds the token in an answer lives; infinite where YouCan doesn't say."""
    lifetime = payload.get("expires_in")
    if isinstance(lifetime, str) and re.fullmatch(r"[0-9]{1,10}", lifetime):
        lifetime = int(lifetime)
    if isinstance(lifetime, bool) or not isinstance(lifetime, (int, float)) or not 0 < lifetime < A_YEAR * 100:
        return math.inf
    return float(lifetime)


def read_scopes(token: str) -> frozenset[str] | None:
    """
    Read the scopes that are written into a token, ``None`` if there are none in it.

    Laravel Passport, which YouCan's OAuth is taken to be, writes the scopes into the token itself, a JWT.

    :param token: the access token; its signature is for the shop to check.
    """
    try:
        part = token.split(".")[1]
        payload = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError, RecursionError):
        return None
    scopes = payload.get("scopes") if isinstance(payload, dict) else None
    return frozenset(map(str, scopes)) if isinstance(scopes, list) else None
