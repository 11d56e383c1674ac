"""
A thousand triggers that wait in one event loop, beside a loop that makes a client for each poll.

The rival does what the triggers of public providers do: it looks the connection up, opens a session, asks, and
closes the session again, for each poll. Both run in turn, each in a process of its own, against the same sandbox
in another process, with 50 ms of latency, a poll every 10 s for each order, their starts spread over an interval.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import time
from typing import Any

ORDERS = 1000
INTERVAL = 10.0
SECONDS = 40.0
LATENCY = 0.05
AIMS = "aims: late at the 99th percentile at most 250 ms; CPU per poll at most a third; at most 20 sockets"


def main() -> int:
    if len(sys.argv) > 1:
        print(json.dumps(asyncio.run(measure(sys.argv[1]))))
        return 0
    # A process of its own, so that its CPU is not counted with the waiting.
    serve = (
        "import sys; from airflow_provider_youcan.sandbox import Sandbox\n"
        f"with Sandbox(orders={ORDERS}) as sandbox:\n"
        f" sandbox.misbehave('latency', seconds={LATENCY})\n"
        " print(sandbox.connection(), flush=True)\n"
        " sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", serve], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as shop:
        assert shop.stdout is not None
        environment = {**os.environ, "AIRFLOW_CONN_YOUCAN_DEFAULT": shop.stdout.readline().strip()}
        figures = {}
        for name in ("YouCan's trigger", "a client per poll"):
            answer = subprocess.run(
                [sys.executable, __file__, name], env=environment, check=True, capture_output=True, text=True
            )
            figures[name] = json.loads(answer.stdout.splitlines()[-1])
            show(name, figures[name])
        shop.terminate()
    ours, rival = figures.values()
    print(f"{'CPU per poll, ratio':20} {ours['cpu'] / rival['cpu']:6.2f}")
    print(AIMS)
    return 0


def show(name: str, figures: dict[str, float]) -> None:
    print(
        f"{name:20} late: median {figures['median'] * 1000:5.0f} ms, 99th percentile {figures['late'] * 1000:5.0f} ms;"
        f" CPU per poll {figures['cpu'] * 1000:5.2f} ms; sockets {figures['sockets']:.0f}; polls {figures['polls']:.0f}"
    )


async def measure(contender: str) -> dict[str, float]:
    from airflow_provider_youcan.sandbox import Shop

    order_ids = Shop(orders=ORDERS).order_ids()
    logging.disable(logging.WARNING)
    started: list[tuple[str, float]] = []
    wait = wait_with_trigger if contender == "YouCan's trigger" else wait_with_client_per_poll
    tasks = [asyncio.ensure_future(wait(order_id, started)) for order_id in order_ids]
    await asyncio.sleep(INTERVAL + 1)  # until all have polled once, and the imports are behind
    cpu, since, counted = time.process_time(), time.monotonic(), len(started)
    most_sockets = 0
    while time.monotonic() < since + SECONDS:
        await asyncio.sleep(0.5)
        most_sockets = max(most_sockets, count_sockets())
    cpu = time.process_time() - cpu
    polls = len(started) - counted
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    late = lateness(started)
    return {
        "median": statistics.median(late),
        "late": statistics.quantiles(late, n=100)[98],
        "cpu": cpu / polls,
        "sockets": most_sockets,
        "polls": polls,
    }


def lateness(started: list[tuple[str, float]]) -> list[float]:
    """How much later than an interval after its first poll, and after each further interval, each poll began."""
    first: dict[str, float] = {}
    count: dict[str, int] = {}
    late = []
    for order_id, moment in started:
        if order_id in first:
            count[order_id] += 1
            late.append(max(0.0, moment - first[order_id] - count[order_id] * INTERVAL))
        else:
            first[order_id], count[order_id] = moment, 0
    return late


def count_sockets() -> int:
    return sum(
        os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
        for number in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{number}")
    )


async def wait_with_trigger(order_id: str, started: list[tuple[str, float]]) -> None:
    from airflow_provider_youcan.hooks.shared_client import SharedClient
    from airflow_provider_youcan.triggers.order_status import YouCanOrderStatusTrigger

    if not hasattr(SharedClient, "measured"):
        # A poll has begun when its request leaves, so that waiting for a free connection counts as late.
        send = SharedClient._carry

        async def note(self: SharedClient, request: Any, credentials: Any) -> Any:
            started.append((request.order_id, time.monotonic()))
            return await send(self, request, credentials)

        SharedClient._carry = note  # type: ignore[method-assign]
        SharedClient.measured = True  # type: ignore[attr-defined]
    trigger = YouCanOrderStatusTrigger(
        order_id=order_id, context="shipping", target_status=["never"], poke_interval=INTERVAL
    )
    async for _ in trigger.run():
        pass


async def wait_with_client_per_poll(order_id: str, started: list[tuple[str, float]]) -> None:
    import aiohttp
    from airflow.providers.common.compat.connection import get_async_connection

    due = time.monotonic() + random.uniform(0, INTERVAL)
    while True:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        started.append((order_id, time.monotonic()))
        connection = await get_async_connection("youcan_default")
        headers = {"Authorization": f"Bearer {connection.password}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"{connection.host}/orders/{order_id}", params={"include": "payment,shipping"}) as response,
        ):
            response.raise_for_status()
            order = await response.json()
            if order["shipping"]["status_object"]["slug"] == "never":
                return
        due += INTERVAL


if __name__ == "__main__":
    sys.exit(main())
