"""What all hooks of an event loop share: sockets, a look-up, and what the shop said of its limit."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_youcan.client import credentials
from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanConnectionError,
    YouCanServerError,
    YouCanTransientError,
)
from airflow_provider_youcan.hooks import shared_client
from airflow_provider_youcan.hooks.youcan import YouCanAsyncHook
from tests.conftest import Sandbox


def run(call: Callable[[YouCanAsyncHook], Any], conn_id: str = "youcan_default") -> Any:
    async def main() -> Any:
        async with YouCanAsyncHook(conn_id) as hook:
            return await call(hook)

    return asyncio.run(main())


def test_a_thousand_hooks_of_one_shop_share_a_handful_of_sockets_and_one_look_up(
    sandbox: Sandbox, order_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = []
    look_up = YouCanAsyncHook._look_up

    async def count(hook: YouCanAsyncHook, *refused: Any, **options: Any) -> Any:
        looked_up.append(hook)
        return await look_up(hook, *refused, **options)

    monkeypatch.setattr(YouCanAsyncHook, "_look_up", count)
    sandbox.misbehave("latency", seconds=0.005)
    most_open = 0

    async def poll() -> None:
        nonlocal most_open
        async with YouCanAsyncHook() as hook:
            await hook.get_order_statuses(order_id)
            most_open = max(most_open, sandbox.open_connections)

    async def main() -> None:
        await asyncio.gather(*(poll() for _ in range(1000)))

    asyncio.run(main())

    assert len(looked_up) == 1
    assert 1 < most_open <= shared_client.MAX_CONNECTIONS


def test_the_last_hook_closes_the_connections(sandbox: Sandbox, order_id: str) -> None:
    async def main() -> None:
        first, second = YouCanAsyncHook(), YouCanAsyncHook()
        await asyncio.gather(first.get_order(order_id), second.get_order(order_id))
        assert first._client is not None
        session = first._client._session
        await first.close()
        assert sandbox.open_connections > 0
        await second.close()
        await second.close()
        # Closed, not left to the garbage collector, which would close the sockets too.
        assert session is not None
        assert session.closed
        while sandbox.open_connections:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_cancelled_wait_leaves_no_connection_behind(sandbox: Sandbox, order_id: str) -> None:
    sandbox.misbehave("latency", seconds=30)

    async def main() -> None:
        task = asyncio.ensure_future(poll())
        while not sandbox.open_connections:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while sandbox.open_connections:
            await asyncio.sleep(0.01)

    async def poll() -> None:
        async with YouCanAsyncHook() as hook:
            await hook.get_order(order_id)

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_token_that_was_renewed_in_the_connection_is_taken_up(
    sandbox: Sandbox, order_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def call(hook: YouCanAsyncHook) -> None:
        await hook.get_order(order_id)
        sandbox.shop.revoke_token("sandbox-access-token")
        with pytest.raises(YouCanAuthenticationError):
            await hook.get_order(order_id)
        token = sandbox.shop.issue_token()["access_token"]
        monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(token))
        await hook.get_order(order_id)

    run(call)


def test_a_host_that_was_mended_in_the_connection_is_taken_up(
    sandbox: Sandbox, order_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "_TTL", -1.0)
    lost = json.loads(sandbox.connection(max_attempts=1)) | {"host": "http://127.0.0.1:9"}

    async def call(hook: YouCanAsyncHook) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", json.dumps(lost))
        with pytest.raises(YouCanConnectionError):
            await hook.get_order(order_id)
        monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection())
        await hook.get_order(order_id)

    run(call)


def test_a_wait_takes_up_a_connection_that_is_edited_though_the_old_shop_answers(
    sandbox: Sandbox, order_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "_TTL", -1.0)

    async def call(hook: YouCanAsyncHook) -> None:
        await hook.get_order(order_id)
        with Sandbox() as other:
            monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", other.connection())
            await hook.get_order(other.shop.order_ids()[0])
            assert other.shop.requests()

    run(call)


def test_a_request_under_way_outlives_the_close_of_its_hook(sandbox: Sandbox, order_id: str) -> None:
    sandbox.misbehave("latency", seconds=0.2)

    async def main() -> None:
        hook = YouCanAsyncHook()
        request = asyncio.ensure_future(hook.get_order(order_id))
        while not sandbox.open_connections:
            await asyncio.sleep(0.01)
        await hook.close()
        assert (await request)["id"] == order_id
        while sandbox.open_connections:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_hook_goes_from_one_event_loop_to_another(sandbox: Sandbox, order_id: str) -> None:
    hook = YouCanAsyncHook()

    for _ in range(2):
        assert asyncio.run(hook.get_order(order_id))["id"] == order_id
    asyncio.run(hook.close())

    assert [loop for loop in shared_client._clients if not loop.is_closed()] == []


def test_one_hook_serves_many_coroutines(sandbox: Sandbox) -> None:
    sandbox.misbehave("status", status=503, share=0.3)

    async def call(hook: YouCanAsyncHook) -> None:
        order_ids = sandbox.shop.order_ids()
        orders = await asyncio.gather(*(hook.get_order(order_id) for order_id in order_ids), return_exceptions=True)
        for order_id, order in zip(order_ids, orders, strict=True):
            assert isinstance(order, YouCanServerError) or order["id"] == order_id

    run(call)


def test_deferred_waits_share_a_rate_limit(sandbox: Sandbox) -> None:
    sandbox.shop.add_orders(180)
    sandbox.misbehave("rate-limit", limit=40, seconds=2, route="GET /orders/*", headers_shown=False)
    orders = sandbox.shop.order_ids()
    looks: Counter[str] = Counter()

    async def poll(order_id: str, until: float) -> None:
        async with YouCanAsyncHook() as hook:
            while time.monotonic() < until:
                try:
                    await asyncio.wait_for(hook.get_order_statuses(order_id), until + 3 - time.monotonic())
                except (YouCanTransientError, asyncio.TimeoutError):
                    return
                looks[order_id] += 1
                await asyncio.sleep(1.0)

    async def main() -> None:
        until = time.monotonic() + 20
        await asyncio.gather(*(poll(order_id, until) for order_id in orders))

    asyncio.run(main())

    answers = Counter(request["status"] for request in sandbox.shop.requests())
    # The aim is a twentieth; a busy machine misses the moment at which a window of two seconds begins.
    assert answers[429] <= 0.1 * sum(answers.values())
    assert len(looks) == len(orders), "no order goes unread"
    assert threading.active_count() < 50
