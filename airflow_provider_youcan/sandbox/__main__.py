"""Runs the sandbox from the command line: ``python -m airflow_provider_youcan.sandbox``."""

from __future__ import annotations

import argparse
import sys

from airflow_provider_youcan.sandbox.server import Sandbox
from airflow_provider_youcan.sandbox.shop import Shop

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Serve a shop until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_youcan.sandbox",
        description="A local shop that speaks YouCan's API.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8765, help="the port to listen on, 0 for any free one")
    parser.add_argument("--database", default=":memory:", help="an SQLite file that keeps the shop")
    parser.add_argument("--orders", type=int, default=200, help="how many orders a new shop is given")
    options = parser.parse_args(arguments)
    shop = Shop(options.database, options.orders)
    try:
        sandbox = Sandbox(options.host, options.port, shop)
    except OSError as error:
        print(f"Can't listen on {options.host}:{options.port}: {error.strerror}.", file=sys.stderr)
        return 1
    print(
        f"A YouCan shop with {len(shop.order_ids())} orders listens on {sandbox.url}\n"
        f"Airflow reaches it with\n  export AIRFLOW_CONN_YOUCAN_DEFAULT='{sandbox.connection()}'\n"
        f"What was asked of it: {sandbox.url}/sandbox/requests",
        flush=True,
    )
    sandbox.run()
    shop.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
