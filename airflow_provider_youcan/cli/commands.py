"""
The command line: ``python -m airflow_provider_youcan authorize``, ``check`` and ``webhooks``.

What ``authorize`` prints to the standard output is a connection, and nothing else; it holds secrets. What ``check``
prints holds no token and nothing of a customer.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import platform
import shlex
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rich.markup import escape

from airflow_provider_youcan import __version__
from airflow_provider_youcan.cli.consent import SCOPES, SELLER_AREA, Authorization
from airflow_provider_youcan.cli.webhooks import add_webhooks
from airflow_provider_youcan.client import endpoints
from airflow_provider_youcan.exceptions import YouCanError
from airflow_provider_youcan.hooks.connection import read_base_url
from airflow_provider_youcan.hooks.standalone import open_hook

if TYPE_CHECKING:
    from airflow_provider_youcan.client.assumptions import Assumption

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run a command, and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_youcan", description="YouCan for Airflow.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_authorize(commands)
    _add_check(commands)
    add_webhooks(commands)
    options = parser.parse_args(arguments)
    try:
        return 0 if options.run(options) else 1
    except YouCanError as error:
        _print(str(error))
        return 1
    except (KeyboardInterrupt, EOFError):
        _print("Stopped: nothing more was done.")
        return 1


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
    command.add_argument("--host", type=_base_url, default=endpoints.BASE_URL, help="where the API is")
    command.add_argument("--seller-area", default=SELLER_AREA, help="where the consent page is")
    command.set_defaults(run=_authorize)


def _add_check(commands: Any) -> None:
    command = commands.add_parser(
        "check",
        help="check whether a shop behaves as this provider assumes",
        description="Asks the shop of an Airflow connection a few things, reading only, and prints what this provider "
        "assumes about YouCan, and whether it holds there. Exits with 0 where all of it does.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("--conn-id", default="youcan_default", help="the Airflow connection of the shop")
    command.add_argument("--json", action="store_true", help="print it as JSON, for a bug report")
    command.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> bool:
    with open_hook(options.conn_id) as hook:
        found = hook.check_assumptions()
    holds = all(assumption.holds for assumption in found)
    if options.json:
        print(json.dumps({**_versions(), "holds": holds, "assumptions": [vars(one) for one in found]}, indent=2))
    else:
        _print_table(found)
        if not any("edit-orders" in one.name for one in found):
            _print("Whether the token may change an order (edit-orders) can't be seen without changing one.")
    return holds


def _versions() -> dict[str, str]:
    import airflow

    return {
        "airflow_provider_youcan": __version__,
        "airflow": airflow.__version__,
        "python": platform.python_version(),
    }


def _print_table(found: list[Assumption]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("assumption", "holds", "what was seen", "source")
    for one in found:
        holds = {True: "yes", False: "NO", None: "not seen"}[one.holds]
        table.add_row(one.name, holds, escape(one.seen), one.source)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _authorize(options: argparse.Namespace) -> bool:
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
            raise YouCanError(f"Can't wait on {options.redirect_uri}: {reason}; use --paste.") from None
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
    _print("The connection, as a URI, and as the command that adds it. It holds secrets, so keep it to yourself:\n")
    _print_connection(options.conn_id, connection)
    return True


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
