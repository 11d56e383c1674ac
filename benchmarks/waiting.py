"""
A thousand triggers that wait in one event loop, beside a loop that makes a client for each poll.

The rival is the http provider's ``HttpAsyncHook``, used as its own trigger uses it: for each poll it looks the
connection up, opens a session, asks, and closes the session again. Both run in turn, each in a process of its
own, against the same sandbox in another process, with 50 ms of latency, a poll every 10 s for each order, their
starts spread over an interval.
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
        connection = json.loads(shop.stdout.readline())
        rivals = {"conn_type": "http", "host": connection["host"]}
        rivals["extra"] = {"Authorization": f"Bearer {connection['password']}"}
        environment = {
            **os.environ,
            "AIRFLOW_CONN_YOUCAN_DEFAULT": json.dumps(connection),
            "AIRFLOW_CONN_HTTP_DEFAULT": json.dumps(rivals),
        }
        figures = {}
        for name in ("YouCan's trigger", "HttpAsyncHook"):
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
    answered: list[tuple[str, float]] = []
    wait = wait_with_trigger if contender == "YouCan's trigger" else wait_with_http_provider
    tasks = [asyncio.ensure_future(wait(order_id, answered)) for order_id in order_ids]
    await asyncio.sleep(INTERVAL + 1)  # until all have polled once, and the imports are behind
    cpu, since, counted = time.process_time(), time.monotonic(), len(answered)
    most_sockets = 0
    while time.monotonic() < since + SECONDS:
        await asyncio.sleep(0.5)
        most_sockets = max(most_sockets, count_sockets())
    cpu = time.process_time() - cpu
    polls = len(answered) - counted
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    late = lateness(answered)
    return {
        "median": statistics.median(late),
        "late": statistics.quantiles(late, n=100)[98],
        "cpu": cpu / polls,
        "sockets": most_sockets,
        "polls": polls,
    }


def lateness(answered: list[tuple[str, float]]) -> list[float]:
    """The delay of each poll's answer after its punctual moment: the order's earliest, by whole intervals."""
    moments: dict[str, list[float]] = {}
    for order_id, moment in answered:
        moments.setdefault(order_id, []).append(moment)
    late = []
    for polls in moments.values():
        phases = [moment - number * INTERVAL for number, moment in enumerate(polls)]
        late += [phase - min(phases) for phase in phases]
    return late


def count_sockets() -> int:
    return sum(
        os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
        for number in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{number}")
    )


async def wait_with_trigger(order_id: str, answered: list[tuple[str, float]]) -> None:
    from airflow_provider_youcan.hooks.youcan import YouCanAsyncHook
    from airflow_provider_youcan.triggers.order_status import YouCanOrderStatusTrigger

    if not hasattr(YouCanAsyncHook, "measured"):
        get_order_statuses = YouCanAsyncHook.get_order_statuses

        async def note(self: YouCanAsyncHook, order_id: str) -> Any:
            statuses = await get_order_statuses(self, order_id)
            answered.append((order_id, time.monotonic()))
            return statuses

        YouCanAsyncHook.get_order_statuses = note  # type: ignore[method-assign]
        YouCanAsyncHook.measured = True  # type: ignore[attr-defined]
    trigger = YouCanOrderStatusTrigger(
        order_id=order_id, context="shipping", target_status=["never"], poke_interval=INTERVAL
    )
    async for _ in trigger.run():
        pass


async def wait_with_http_provider(order_id: str, answered: list[tuple[str, float]]) -> None:
    import aiohttp
    from airflow.providers.http.hooks.http import HttpAsyncHook

    due = time.monotonic() + random.uniform(0, INTERVAL)
    while True:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        # As HttpTrigger does it.
        hook = HttpAsyncHook(method="GET", http_conn_id="http_default")
        async with aiohttp.ClientSession() as session:
            response = await hook.run(
                session=session, endpoint=f"orders/{order_id}", data={"include": "payment,shipping"}
            )
            order = await response.json()
        answered.append((order_id, time.monotonic()))
        if order["shipping"]["status_object"]["slug"] == "never":
            return
        due += INTERVAL


if __name__ == "__main__":
    sys.exit(main())
