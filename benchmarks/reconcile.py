"""
Reconciling a table, beside what people write today: a loop over HttpHook, a loop over a requests session, and bare
aiohttp at the same concurrency, which is the practical limit. Each runs in a process of its own, against the stand-in
of ``stand_in.py`` in another, with 50 ms of latency.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

CHANGES = 5_000
LOOPED = 200
TURNS = 3
WINDOW, WINDOWS = 5.0, 8


def main() -> int:
    if len(sys.argv) > 1:
        print(json.dumps(CONTENDERS[sys.argv[1]](*map(int, sys.argv[2:]))))
        return 0
    compare_throughput()
    learn_limits()
    change_nothing()
    weigh_memory()
    return 0


def compare_throughput() -> None:
    print(f"{CHANGES:,} changes, 50 ms of latency")
    for name in ("HttpHook", "Session"):
        show(f"loop over {name}", run(name, CHANGES, LOOPED))
    for concurrency in (16, 64):
        # In turns, because the machine is noisy.
        pairs = [
            (run("reconcile", CHANGES, CHANGES, concurrency), run("aiohttp", CHANGES, CHANGES, concurrency))
            for _ in range(TURNS)
        ]
        show(f"reconcile, {concurrency} at a time", pairs[0][0])
        show(f"bare aiohttp, {concurrency} at a time", pairs[0][1])
        throughput = [ours["rate"] / bare["rate"] for ours, bare in pairs]
        cpu = [ours["cpu"] / bare["cpu"] for ours, bare in pairs]
        print(
            f"  median of {TURNS}: throughput {median(throughput):.2f} of bare aiohttp's (aim: at least 0.95),"
            f" CPU per request {median(cpu):.2f} times (aim: at most 1.3)"
        )


def learn_limits() -> None:
    print(f"a limit that isn't told, in fixed windows of {WINDOW:g} s, over {WINDOWS} of them")
    for limit in (60, 300, 1000):
        for headers in ("no", "yes"):
            with shop(limit * WINDOWS * 2, limit, headers) as port:
                seconds = WINDOW * WINDOWS
                subprocess.run(
                    [sys.executable, __file__, "limited", str(limit * WINDOWS * 2), str(limit * WINDOWS * 2), "16"],
                    env=environment(port) | {"SECONDS": str(seconds)},
                    check=True,
                    capture_output=True,
                )
                with urlopen(f"http://127.0.0.1:{port}/figures") as answer:
                    figures = json.load(answer)
            start = min(figures["accepted"])
            accepted, refused = (
                sum(moment <= start + seconds for moment in figures[name]) for name in ("accepted", "refused")
            )
            print(
                f"  {limit:5,} a window, {'with' if headers == 'yes' else 'without'} headers: {accepted} of"
                f" {limit * WINDOWS} ({accepted / limit / WINDOWS:.0%}; aim: at least 90 %),"
                f" {refused / (accepted + refused):.1%} refused (aim: at most 5 %)"
            )


def change_nothing() -> None:
    figures = run("reconcile", 10_000, 0, 16)
    print(f"nothing to change in 10,000 rows: {figures['requests']} requests (aim: 200 pages, and two)")


def weigh_memory() -> None:
    for rows in (1_000, 100_000):
        print(f"peak memory for {rows:,} rows: {run('dry_run', rows, rows, 16)['memory']:.0f} MB")


def run(contender: str, orders: int, changes: int, concurrency: int = 1) -> dict[str, float]:
    with shop(orders) as port:
        command = [sys.executable, __file__, contender, str(orders), str(changes), str(concurrency)]
        ended = subprocess.run(command, env=environment(port), check=True, capture_output=True, text=True)
        figures: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
        return figures


@contextmanager
def shop(orders: int, limit: int = 0, headers: str = "no") -> Iterator[str]:
    stand_in = str(Path(__file__).with_name("stand_in.py"))
    command = [sys.executable, stand_in, str(orders), str(limit), str(WINDOW), headers]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def environment(port: str) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}"
    return {
        **os.environ,
        "SHOP": url,
        "AIRFLOW_CONN_YOUCAN_DEFAULT": json.dumps({"conn_type": "youcan", "host": url, "password": "token"}),
        "AIRFLOW_CONN_HTTP_DEFAULT": json.dumps({"conn_type": "http", "host": url}),
    }


def show(name: str, figures: dict[str, float]) -> None:
    print(f"  {name:26} {figures['rate']:7.1f} requests a second, {figures['cpu'] * 1000:5.2f} ms of CPU each")


# --- the contenders ---


def order_ids(orders: int) -> list[str]:
    from stand_in import Shop

    return list(Shop(orders, 0, 0, False).payments)


@contextmanager
def measured(figures: dict[str, float]) -> Iterator[None]:
    wall, cpu = time.monotonic(), time.process_time()
    yield
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    figures["rate"], figures["cpu"] = figures["requests"] / wall, cpu / figures["requests"]


def reconcile(orders: int, changes: int, concurrency: int, **arguments: Any) -> dict[str, float]:
    from airflow_provider_youcan import rate_limit  # noqa: F401  # importing is not what is measured
    from airflow_provider_youcan.hooks import shared_client  # noqa: F401
    from airflow_provider_youcan.hooks.youcan import YouCanHook
    from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
    from airflow_provider_youcan.reconciliation import executor  # noqa: F401

    logging.disable(logging.WARNING)
    # The first look-up of a connection imports half of Airflow, as it does for any task.
    YouCanHook.get_connection("youcan_default")
    rows = [
        {"order_id": order_id, "payment_status": "paid" if number < changes else "pending"}
        for number, order_id in enumerate(order_ids(orders))
    ]
    operator = YouCanReconcileOrdersOperator(task_id="r", orders=rows, max_concurrency=concurrency, **arguments)
    figures: dict[str, float] = {}
    with measured(figures):
        summary = operator.execute({})
        figures["requests"] = summary["requests"]
    assert summary["changed"] + summary["planned"] == changes
    return figures


def limited(orders: int, changes: int, concurrency: int) -> dict[str, float]:
    from threading import Timer

    Timer(float(os.environ["SECONDS"]) + 3, os._exit, [0]).start()
    return reconcile(orders, changes, concurrency)


def dry_run(orders: int, changes: int, concurrency: int) -> dict[str, float]:
    figures = reconcile(orders, changes, concurrency, dry_run=True)
    return figures | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def bare_aiohttp(orders: int, changes: int, concurrency: int) -> dict[str, float]:
    import aiohttp

    figures: dict[str, float] = {"requests": changes}

    async def work() -> None:
        waiting = iter(order_ids(orders)[:changes])
        connector = aiohttp.TCPConnector(limit=concurrency)
        async with aiohttp.ClientSession(connector=connector, headers={"Authorization": "Bearer token"}) as session:

            async def update() -> None:
                for order_id in waiting:
                    url = f"{os.environ['SHOP']}/orders/{order_id}/status/payment"
                    async with session.put(url, json={"status": "paid"}) as response:
                        assert (await response.json())["status"] == 200

            await asyncio.gather(*(update() for _ in range(concurrency)))

    with measured(figures):
        asyncio.run(work())
    return figures


def loop_over_session(orders: int, changes: int, _: int) -> dict[str, float]:
    import requests

    figures: dict[str, float] = {"requests": changes}
    session = requests.Session()
    with measured(figures):
        for order_id in order_ids(orders)[:changes]:
            url = f"{os.environ['SHOP']}/orders/{order_id}/status/payment"
            assert session.put(url, json={"status": "paid"}, headers={"Authorization": "Bearer token"}).ok
    return figures


def loop_over_http_hook(orders: int, changes: int, _: int) -> dict[str, float]:
    from airflow.providers.http.hooks.http import HttpHook

    logging.disable(logging.WARNING)
    figures: dict[str, float] = {"requests": changes}
    hook = HttpHook(method="PUT", http_conn_id="http_default")
    with measured(figures):
        for order_id in order_ids(orders)[:changes]:
            hook.run(
                f"orders/{order_id}/status/payment", json={"status": "paid"}, headers={"Authorization": "Bearer t"}
            )
    return figures


CONTENDERS = {
    "reconcile": reconcile,
    "limited": limited,
    "dry_run": dry_run,
    "aiohttp": bare_aiohttp,
    "Session": loop_over_session,
    "HttpHook": loop_over_http_hook,
}

if __name__ == "__main__":
    sys.exit(main())
