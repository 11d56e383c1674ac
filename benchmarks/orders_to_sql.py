"""
Bringing a shop's orders to the warehouse, beside bare aiohttp that reads the same pages at the same concurrency and
writes nothing. Each runs in a process of its own, against the stand-in of ``stand_in.py`` in another.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from reconcile import environment, judge, shop

ORDERS, MANY = 60_000, 100_000
CONCURRENCY = 16
TURNS = 3
LEAST, MOST_MEGABYTES = 0.9, 60


def main() -> int:
    if len(sys.argv) > 1:
        print(json.dumps(CONTENDERS[sys.argv[1]](*sys.argv[2:])))
        return 0
    print(f"{ORDERS:,} orders, {CONCURRENCY} requests at a time, 50 ms of latency, median of {TURNS}")
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("orders.db", "orders.parquet", "orders.jsonl"):
            # In turns, because the machine is noisy.
            pairs = [
                (run("operator", ORDERS, f"{folder}/{turn}-{kind}")["rate"], run("aiohttp", ORDERS)["rate"])
                for turn in range(TURNS)
            ]
            ratio = median(ours / theirs for ours, theirs in pairs)
            rate = median(ours for ours, _ in pairs)
            print(f"  {kind:<15} {rate:>8,.0f} orders a second, {ratio:.2f} of bare aiohttp's {judge(ratio >= LEAST)}")
        figures = [run("operator", number, f"{folder}/{number}.db")["megabytes"] for number in (1_000, MANY)]
    grown = figures[1] - figures[0]
    print(f"  {MANY:,} orders take {grown:.0f} MB more than 1,000 {judge(grown <= MOST_MEGABYTES)}")
    return 0


def run(contender: str, orders: int, *further: str) -> dict[str, float]:
    with shop(orders, 0) as port:
        command = [sys.executable, __file__, contender, str(orders), *further]
        variables = environment(port)
        ended = subprocess.run(command, env=variables, check=True, capture_output=True, text=True)
        figures: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
        return figures


def operator(orders: str, path: str) -> dict[str, float]:
    # Importing, and Airflow's first look-up of a connection, are not what is measured.
    from airflow_provider_youcan.hooks import limiter, shared_client, youcan_async  # noqa: F401
    from airflow_provider_youcan.hooks.youcan import YouCanHook
    from airflow_provider_youcan.transfers.orders_to_sql import YouCanOrdersToSqlOperator

    arguments: dict[str, Any] = {"path": path}
    if path.endswith(".db"):
        os.environ["AIRFLOW_CONN_WAREHOUSE"] = json.dumps({"conn_type": "sqlite", "host": path})
        arguments = {}
    task = YouCanOrdersToSqlOperator(task_id="orders", created_within=None, max_concurrency=CONCURRENCY, **arguments)
    if path.endswith(".parquet"):
        import pandas  # type: ignore[import-untyped]  # noqa: F401  # pyarrow does so where it is installed
        import pyarrow.parquet  # noqa: F401
    YouCanHook.get_connection("youcan_default")
    begun = time.monotonic()
    summary = task.execute({})
    assert summary["orders"] == int(orders)
    assert Path(path).exists()
    seconds = time.monotonic() - begun
    return {"rate": int(orders) / seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def bare_aiohttp(orders: str) -> dict[str, float]:
    import aiohttp

    connection = json.loads(os.environ["AIRFLOW_CONN_YOUCAN_DEFAULT"])
    url = f"{connection['host']}/orders"

    async def read() -> int:
        pages = iter(range(1, int(orders) // 50 + 1))
        found = 0

        async def work(session: aiohttp.ClientSession) -> None:
            nonlocal found
            for page in pages:
                params = {"page": page, "limit": 50, "include": "payment,shipping"}
                async with session.get(url, params=params) as answer:
                    found += len((await answer.json())["data"])

        async with aiohttp.ClientSession(headers={"Authorization": "Bearer x"}) as session:
            await asyncio.gather(*(work(session) for _ in range(CONCURRENCY)))
        return found

    begun = time.monotonic()
    assert asyncio.run(read()) == int(orders)
    return {"rate": int(orders) / (time.monotonic() - begun)}


CONTENDERS: dict[str, Any] = {"operator": operator, "aiohttp": bare_aiohttp}

if __name__ == "__main__":
    sys.exit(main())
