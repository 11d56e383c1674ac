"""Runs the sandbox from the command line: ``python -m airflow_provider_youcan.sandbox``."""

from __future__ import annotations

import argparse
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_youcan.sandbox.server import Sandbox

__all__ = ["add_arguments", "main", "serve"]


def main(arguments: list[str] | None = None) -> int:
    """Serve a shop until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_youcan.sandbox",
        description="A local shop that speaks YouCan's API.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_arguments(parser)
    return serve(parser.parse_args(arguments))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a sandbox to a command's."""
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8765, help="the port to listen on, 0 for any free one")
    parser.add_argument("--database", default=":memory:", help="an SQLite file that keeps the shop")
    parser.add_argument("--orders", type=_number_of_orders, default=200, help="how many orders a new shop is given")
    parser.add_argument("--warehouse", help="an SQLite file to write, with 50 rows of a courier's to reconcile")


def serve(options: argparse.Namespace) -> int:
    """Serve a shop until interrupted, and return the exit code."""
    try:
        from airflow_provider_youcan.sandbox.server import Sandbox
        from airflow_provider_youcan.sandbox.shop import Shop
        from airflow_provider_youcan.sandbox.warehouse import write_warehouse
    except ImportError:
        print(
            "The sandbox takes Starlette and uvicorn, which are not installed here: "
            "pip install 'airflow-provider-youcan[sandbox]'.",
            file=sys.stderr,
        )
        return 1
    try:
        shop = Shop(options.database, options.orders)
    except sqlite3.Error as error:
        print(f"Can't keep a shop in {options.database}: {error}.", file=sys.stderr)
        return 1
    if options.warehouse is not None:
        try:
            rows = write_warehouse(options.warehouse, shop)
        except sqlite3.Error as error:
            print(f"Can't write a warehouse to {options.warehouse}: {error}.", file=sys.stderr)
            return 1
        path = Path(options.warehouse).resolve()
        print(f"The table courier_orders in {path} has {rows} rows to reconcile. Airflow reaches it with")
        print(f"  airflow connections add sqlite_default --conn-type sqlite --conn-host {path}")
    try:
        sandbox = Sandbox(options.host, options.port, shop)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        print(f"Can't listen on {options.host}:{options.port}: {reason}.", file=sys.stderr)
        return 1
    print(_describe(sandbox), flush=True)
    try:
        sandbox.run()
    except KeyboardInterrupt:
        print("Closed.")
    finally:
        shop.close()
    return 0


def _number_of_orders(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("it is a number from 0")
    return int(text)


def _describe(sandbox: Sandbox) -> str:
    from airflow_provider_youcan.sandbox.shop import ACCESS_TOKEN

    orders = sandbox.shop.orders()
    lines = [
        f"A YouCan shop with {len(orders)} orders listens on {sandbox.url}",
        "Airflow reaches it with",
        f"  export AIRFLOW_CONN_YOUCAN_DEFAULT='{sandbox.connection()}'",
        "or, where it runs already, with",
        f"  airflow connections add youcan_default --conn-type youcan --conn-host {sandbox.url}"
        # The Test button of Airflow 3.3.2 refuses a connection without a port.
        f" --conn-port {sandbox.port} --conn-password {ACCESS_TOKEN}",
        f"See its orders, and what was asked of it: {sandbox.url}/sandbox",
        *([f"Its first order: {orders[0]['id']}"] if orders else []),
    ]
    if sandbox.shop.scopes(ACCESS_TOKEN) is None:
        lines.append(f"The token {ACCESS_TOKEN} was revoked: make another with POST {sandbox.url}/sandbox/tokens")
    if sandbox.shop.suspended:
        lines.append("The store is suspended: every request is answered with 402.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
