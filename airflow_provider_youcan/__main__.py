"""
The command line: ``python -m airflow_provider_youcan authorize``.

What it prints to the standard output is a connection, and nothing else; it holds secrets.
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

from airflow_provider_youcan import api
from airflow_provider_youcan.authorization import SCOPES, SELLER_AREA, Authorization
from airflow_provider_youcan.exceptions import YouCanError
from airflow_provider_youcan.hooks.credentials import read_base_url

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run a command, and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_youcan", description="YouCan for Airflow.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_authorize(commands)
    options = parser.parse_args(arguments)
    try:
        _authorize(options)
    except YouCanError as error:
        _print(str(error))
        return 1
    except (KeyboardInterrupt, EOFError):
        _print("Nothing was authorised.")
        return 1
    return 0


def _add_authorize(commands: Any) -> None:
    command = commands.add_parser(
        "authorize",
        help="get the first tokens of an app, with the consent of a seller",
        description="Walks you through YouCan's consent page once, and prints the Airflow connection that renews its "
        "token by itself. The app's secret is read from the variable YOUCAN_CLIENT_SECRET, or asked for.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("--client-id", required=True, help="the id of the app on YouCan")
    command.add_argument(
        "--redirect-uri",
        type=_redirect_uri,
        default="http://127.0.0.1:8976/callback",
        help="where the consent page leads back to, as the app has it registered",
    )
    command.add_argument("--scope", nargs="+", default=list(SCOPES), dest="scopes", help="what the app asks for")
    command.add_argument(
        "--paste",
        action="store_true",
        help="paste the address that the consent page leads to, instead of waiting for it on this machine",
    )
    command.add_argument("--conn-id", default="youcan_default", help="the Airflow connection to print")
    command.add_argument("--host", type=_base_url, default=api.BASE_URL, help="where the API is")
    command.add_argument("--seller-area", default=SELLER_AREA, help="where the consent page is")


def _authorize(options: argparse.Namespace) -> None:
    authorization = Authorization(options.client_id, options.redirect_uri, options.scopes, options.seller_area)
    client_secret = os.environ.get("YOUCAN_CLIENT_SECRET") or getpass.getpass("The app's client secret: ", sys.stderr)
    client_secret = client_secret.strip()

    def ask() -> None:
        _print(f"Open this page in a browser, and approve:\n\n  {authorization.url}\n")

    if options.paste or not authorization.is_on_this_machine:
        ask()
        _print("Then paste the address that it leads to: ", end="")
        code = authorization.read_code(input())
    else:
        try:
            code = authorization.wait_for_code(ask)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise YouCanError(f"Can't wait on {options.redirect_uri}: {reason}; take --paste.") from None
    tokens = authorization.obtain_tokens(code, client_secret, options.host)
    connection = {
        "conn_type": "youcan",
        "host": None if options.host == api.BASE_URL else options.host,
        "password": tokens["access_token"],
        "extra": {
            "client_id": options.client_id,
            "client_secret": client_secret,
            "refresh_token": tokens["refresh_token"],
        },
    }
    _print("The connection, as a URI, and as the command that adds it. It holds secrets, so keep it to yourself:\n")
    _print_connection(options.conn_id, connection)


def _print_connection(conn_id: str, connection: dict[str, Any]) -> None:
    """Print a connection as a URI, and as the command that adds it."""
    from airflow.providers.common.compat.sdk import Connection

    print(Connection(conn_id=conn_id, **{**connection, "extra": json.dumps(connection["extra"])}).get_uri())
    # By way of a file, because Airflow writes the arguments of "connections add" into its audit log, and masks no
    # secret among them but --conn-password.
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
    raise argparse.ArgumentTypeError(f"{text!r} is no address such as http://127.0.0.1:8976/callback")


def _print(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
