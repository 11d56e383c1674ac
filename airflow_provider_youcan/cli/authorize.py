"""
``python -m airflow_provider_youcan authorize``: a seller's consent, and the Airflow connection that it leads to.

The standard output is the connection, and nothing else; it holds secrets.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import shlex
import sys
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_youcan.cli.consent import SCOPES, SELLER_AREA, Authorization
from airflow_provider_youcan.client import endpoints
from airflow_provider_youcan.exceptions import YouCanError
from airflow_provider_youcan.hooks.connection import read_base_url

__all__ = ["DESCRIPTION", "add_arguments"]


DESCRIPTION = (
    "Walks you through YouCan's consent page once, and prints the Airflow connection that renews its token by "
    "itself. The app's secret is read from the variable YOUCAN_CLIENT_SECRET, or asked for."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--client-id", required=True, help="the id of the app on YouCan")
    parser.add_argument(
        "--redirect-uri",
        type=_redirect_uri,
        default="http://127.0.0.1:8976/callback",
        help="where the consent page leads back to, as the app has it registered",
    )
    parser.add_argument("--scope", nargs="+", default=list(SCOPES), dest="scopes", help="what the app asks for")
    parser.add_argument(
        "--paste",
        action="store_true",
        help="paste the address that the consent page leads to, instead of waiting for it on this machine",
    )
    parser.add_argument("--conn-id", default="youcan_default", help="the Airflow connection to print")
    parser.add_argument("--host", type=_base_url, default=endpoints.BASE_URL, help="where the API is")
    parser.add_argument("--seller-area", default=SELLER_AREA, help="where the consent page is")
    parser.set_defaults(run=_authorize)


def _authorize(options: argparse.Namespace) -> int:
    authorization = Authorization(options.client_id, options.redirect_uri, options.scopes, options.seller_area)
    client_secret = os.environ.get("YOUCAN_CLIENT_SECRET") or getpass.getpass("The app's client secret: ", sys.stderr)
    client_secret = client_secret.strip()
    code = _obtain_code(authorization, is_pasted=options.paste or not authorization.is_on_this_machine)
    tokens = authorization.obtain_tokens(code, client_secret, options.host)
    connection = {
        "conn_type": "youcan",
        "host": None if options.host == endpoints.BASE_URL else options.host,
        "password": tokens["access_token"],
        "extra": {
            "client_id": options.client_id,
            "client_secret": client_secret,
            "refresh_token": tokens["refresh_token"],
        },
    }
    _say("The connection, as a URI, and as the command that adds it. It holds secrets, so keep it to yourself:\n")
    _print_connection(options.conn_id, connection)
    return 0


def _obtain_code(authorization: Authorization, *, is_pasted: bool) -> str:
    def ask() -> None:
        _say(f"Open this page in a browser, and approve:\n\n  {authorization.url}\n")

    if is_pasted:
        ask()
        _say("Then paste the address that it leads to: ", end="")
        return authorization.read_code(input())
    try:
        return authorization.wait_for_code(ask)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise YouCanError(f"Can't wait on {authorization.redirect_uri}: {reason}; use --paste.") from None


def _print_connection(conn_id: str, connection: dict[str, Any]) -> None:
    """Print a connection as a URI, and as the command that adds it."""
    from airflow.providers.common.compat.sdk import Connection

    print(Connection(conn_id=conn_id, **{**connection, "extra": json.dumps(connection["extra"])}).get_uri())
    # From a file, because Airflow writes the arguments of "connections add" into its audit log, and masks only
    # --conn-password.
    text = shlex.quote(json.dumps({conn_id: connection}))
    folder = "d=$(mktemp -d) && trap 'rm -r \"$d\"' EXIT"
    print(f'({folder} && printf %s {text} > "$d/c.json" && airflow connections import --overwrite "$d/c.json")')


def _base_url(text: str) -> str:
    try:
        return read_base_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"the {error}") from None


def _redirect_uri(text: str) -> str:
    try:
        address = urlsplit(text)
        if address.scheme in ("http", "https") and address.hostname and (address.port or 1) > 0:
            return text
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a URL such as http://127.0.0.1:8976/callback")


def _say(text: str, end: str = "\n") -> None:
    """Print to the standard error, because the standard output is the connection."""
    print(text, end=end, file=sys.stderr, flush=True)
