"""The async hook: the same wire, and what is its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanConnectionError,
    YouCanConnectionNotFoundError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanOrderNotFoundError,
    YouCanPermanentError,
    YouCanPermissionError,
    YouCanRateLimitError,
    YouCanServerError,
    YouCanStoreSuspendedError,
    YouCanUnexpectedResponseError,
    YouCanValidationError,
)
from airflow_provider_youcan.hooks import shared_client
from airflow_provider_youcan.hooks.youcan import YouCanAsyncHook
from airflow_provider_youcan.orders import OrderStatuses
from tests.conftest import AIRFLOW_3, Sandbox


@pytest.fixture
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no attempt wait for the next."""
    monkeypatch.setattr("airflow_provider_youcan.client.attempts.back_off", lambda failures, rng: 0.0)


def run(call: Callable[[YouCanAsyncHook], Any], conn_id: str = "youcan_default") -> Any:
    async def main() -> Any:
        async with YouCanAsyncHook(conn_id) as hook:
            return await call(hook)

    return asyncio.run(main())


def test_it_reads_and_sets_as_the_other_does(sandbox: Sandbox, order_id: str) -> None:
    async def call(hook: YouCanAsyncHook) -> None:
        assert (await hook.get_order(order_id, include=["customer"]))["customer"]
        assert await hook.get_order_statuses(order_id) == OrderStatuses("open", "unfulfilled", "pending")
        await hook.update_order_status(order_id, "تم التسليم", "shipping")
        await hook.update_order_status(order_id, "closed")

    run(call)

    assert sandbox.shop.statuses(order_id) == {"general": "closed", "shipping": "تم التسليم", "payment": "pending"}


@pytest.mark.usefixtures("_no_waits")
@pytest.mark.parametrize(
    ("trouble", "error", "requests_sent"),
    [
        ({"kind": "drop"}, YouCanConnectionError, 4),
        ({"kind": "lose-answer"}, YouCanConnectionError, 4),
        ({"kind": "half-body"}, YouCanConnectionError, 4),
        ({"kind": "status", "status": 408}, YouCanServerError, 4),
        ({"kind": "status", "status": 503}, YouCanServerError, 4),
        ({"kind": "status", "status": 429}, YouCanRateLimitError, 4),
        ({"kind": "status", "status": 429, "headers": {"Retry-After": "61"}}, YouCanRateLimitError, 1),
        ({"kind": "html"}, YouCanUnexpectedResponseError, 4),
        ({"kind": "status", "status": 204}, YouCanUnexpectedResponseError, 4),
        ({"kind": "status", "status": 401}, YouCanAuthenticationError, 1),
        ({"kind": "status", "status": 402}, YouCanStoreSuspendedError, 1),
        ({"kind": "status", "status": 403}, YouCanPermissionError, 1),
        ({"kind": "status", "status": 404}, YouCanOrderNotFoundError, 1),
        ({"kind": "status", "status": 405}, YouCanPermanentError, 1),
        ({"kind": "status", "status": 422}, YouCanValidationError, 1),
        ({"kind": "redirect", "location": "/login"}, YouCanPermanentError, 1),
        ({"kind": "redirect", "location": "http://["}, YouCanPermanentError, 1),
    ],
)
def test_each_answer_means_what_it_means_to_the_other(
    sandbox: Sandbox,
    order_id: str,
    trouble: dict[str, Any],
    error: type[YouCanError],
    requests_sent: int,
) -> None:
    sandbox.misbehave(**trouble)

    with pytest.raises(YouCanError) as raised:
        run(lambda hook: hook.update_order_status(order_id, "paid", "payment"))

    assert type(raised.value) is error
    assert len(sandbox.shop.requests()) == requests_sent
    assert "sandbox-access-token" not in f"{raised.value} {vars(raised.value)}"
    assert raised.value.__context__ is None or isinstance(raised.value.__context__, YouCanError)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("http://127.0.0.1:9", "it was refused"),
        ("https://no-such-host.invalid", "could not be found"),
        ("https://127.0.0.1:{port}", "does not speak TLS"),
    ],
)
def test_why_no_connection_came_about_is_reported(
    sandbox: Sandbox, order_id: str, monkeypatch: pytest.MonkeyPatch, host: str, message: str
) -> None:
    connection = json.loads(sandbox.connection(max_attempts=1)) | {"host": host.format(port=sandbox.port)}
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(connection))

    with pytest.raises(YouCanConnectionError, match=f"{message}.*; nothing was changed"):
        run(lambda hook: hook.get_order(order_id), "other")


def test_a_slow_shop_is_a_transient_error(sandbox: Sandbox, order_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", sandbox.connection(max_attempts=1, timeout=0.05))
    sandbox.misbehave("latency", seconds=0.5)

    with pytest.raises(YouCanConnectionError, match=r"no whole answer within 0\.05 s"):
        run(lambda hook: hook.get_order(order_id), "other")


def test_a_missing_connection_is_permanent_where_airflow_knows_that_it_is_missing() -> None:
    kind = YouCanConnectionNotFoundError if AIRFLOW_3 else YouCanInvalidInputError
    with pytest.raises(kind, match="There is no Airflow connection 'nowhere'"):
        run(lambda hook: hook.get_order("abc"), "nowhere")


def test_a_login_in_netrc_does_not_replace_the_token(
    sandbox: Sandbox, order_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))

    assert run(lambda hook: hook.get_order(order_id))["id"] == order_id


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
    monkeypatch.setattr(shared_client, "_CREDENTIALS_TTL", -1.0)
    lost = json.loads(sandbox.connection(max_attempts=1)) | {"host": "http://127.0.0.1:9"}

    async def call(hook: YouCanAsyncHook) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", json.dumps(lost))
        with pytest.raises(YouCanConnectionError):
            await hook.get_order(order_id)
        monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection())
        await hook.get_order(order_id)

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
