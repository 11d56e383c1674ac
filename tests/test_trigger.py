"""The trigger that a deferred sensor waits with."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanOrderNotFoundError,
    YouCanServerError,
    to_dict,
)
from airflow_provider_youcan.sandbox import ACCESS_TOKEN
from airflow_provider_youcan.sandbox.shop import Request
from airflow_provider_youcan.triggers.new_orders import YouCanNewOrdersTrigger
from airflow_provider_youcan.triggers.order_status import YouCanOrderStatusTrigger
from airflow_provider_youcan.triggers.waiting import OrderStatusWait
from tests.conftest import AIRFLOW_3, Sandbox
from tests.test_sensor import fire, make_sensor

ORDER_ID = "3116f8a6-b453-49ce-9174-db3dffbb8629"
MISSING_OR_OUT_OF_REACH = pytest.mark.skipif(
    not AIRFLOW_3, reason="Airflow 2 knows a missing connection from an outage"
)


def trigger(order_id: str, **arguments: Any) -> YouCanOrderStatusTrigger:
    options = {"context": "shipping", "target_status": ["fulfilled"], "poke_interval": 0.05, "timeout": 20}
    return YouCanOrderStatusTrigger(order_id=order_id, **{**options, **arguments})


def test_a_trigger_that_is_started_again_keeps_its_deadline(sandbox: Sandbox, order_id: str) -> None:
    first = trigger(order_id, timeout=0.5)
    again = YouCanOrderStatusTrigger(**first.serialize()[1])

    assert again.deadline == first.deadline
    assert fire(again)["outcome"] == "timeout"


def test_a_trigger_whose_deadline_is_past_looks_once_more(sandbox: Sandbox, order_id: str) -> None:
    sandbox.shop.set_status(order_id, "shipping", "fulfilled")

    assert fire(trigger(order_id, deadline=time.time() - 60)) == {"outcome": "reached", "status": "fulfilled"}


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (lambda sandbox, order_id: sandbox.shop.revoke_token(ACCESS_TOKEN), YouCanAuthenticationError),
        (lambda sandbox, order_id: sandbox.shop.delete_order(order_id), YouCanOrderNotFoundError),
    ],
)
def test_the_event_carries_the_error_that_a_worker_would_have_raised(
    sandbox: Sandbox, order_id: str, break_it: Any, error: type[YouCanError]
) -> None:
    break_it(sandbox, order_id)
    with pytest.raises(error) as on_a_worker:
        make_sensor("poke", order_id=order_id, target_status="fulfilled").poke({})  # type: ignore[typeddict-item]

    event = fire(trigger(order_id))

    assert event == {"outcome": "failed", **to_dict(on_a_worker.value)}
    with pytest.raises(error) as on_the_triggerer:
        make_sensor("deferrable", order_id=order_id, target_status="x").execute_complete({}, event)  # type: ignore[typeddict-item]
    assert str(on_the_triggerer.value) == str(on_a_worker.value)
    assert vars(on_the_triggerer.value) == vars(on_a_worker.value)


def test_triggers_that_start_together_do_not_poll_together(sandbox: Sandbox, order_id: str) -> None:
    polled_at: list[float] = []

    def keep(_: Request) -> None:
        polled_at.append(time.time())

    sandbox.on_request(keep)
    start = time.time()

    async def main() -> None:
        # Each polls once in its first interval, and once more at its deadline, which is the end of it.
        triggers = [trigger(order_id, poke_interval=4, deadline=start + 4) for _ in range(60)]
        await asyncio.gather(*(anext(one.run()) for one in triggers))

    asyncio.run(main())

    quarters = [sum(quarter <= moment - start < quarter + 1 for moment in polled_at) for quarter in range(3)]
    assert min(quarters) >= 3


def test_a_shop_that_hangs_does_not_hold_a_wait_beyond_its_deadline(
    sandbox: Sandbox, order_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_youcan.triggers.order_status._LAST_LOOK_SECONDS", 0.5)
    sandbox.misbehave("latency", seconds=30)

    async def main() -> list[float]:
        return list(await asyncio.gather(*(late() for _ in range(30))))

    async def late() -> float:
        one = trigger(order_id, poke_interval=0.2, timeout=1)
        events = [event.payload async for event in one.run()]
        assert "No answer before the wait's deadline" in events[0]["message"]
        return time.time() - one.deadline

    assert max(asyncio.run(main())) < 15


def test_importing_the_trigger_loads_no_client() -> None:
    probe = (
        "import sys; import airflow.triggers.base; before = set(sys.modules);"
        "import airflow_provider_youcan.triggers.order_status;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    answer = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)

    assert not {"requests", "aiohttp", "tenacity"} & set(answer.stdout.splitlines()[-1].split())


def test_a_trigger_is_plain_json(order_id: str) -> None:
    kwargs = trigger(order_id, failure_status=("canceled",), max_wait=30.0).serialize()[1]

    assert json.loads(json.dumps(kwargs)) == kwargs
    assert isinstance(kwargs["context"], str)


def test_an_error_that_is_no_youcan_error_is_not_hidden(
    sandbox: Sandbox, order_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("airflow_provider_youcan.hooks.youcan_async.YouCanAsyncHook.get_order_statuses", broken)

    with pytest.raises(ZeroDivisionError):
        fire(trigger(order_id))


def test_a_transient_error_comes_back_from_json_with_its_attributes() -> None:
    event = {"outcome": "failed", **json.loads(json.dumps(to_dict(YouCanServerError("503", retry_after=3.0))))}

    with pytest.raises(YouCanServerError) as raised:
        make_sensor("deferrable", order_id="x", target_status="x").execute_complete({}, event)  # type: ignore[typeddict-item]

    assert raised.value.retry_after == 3.0


@MISSING_OR_OUT_OF_REACH
def test_a_trigger_whose_connection_was_never_found_is_left_to_retries() -> None:
    event = fire(trigger(ORDER_ID, youcan_conn_id="nowhere"))

    assert (event["outcome"], event["error"]) == ("failed", "YouCanConnectionNotFoundError")


@MISSING_OR_OUT_OF_REACH
def test_a_trigger_whose_wait_has_found_the_connection_before_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = OrderStatusWait(ORDER_ID, "shipping", ["fulfilled"])
    wait.record_status("unfulfilled")

    event = fire(trigger(ORDER_ID, youcan_conn_id="nowhere", timeout=0.2, seen=wait.seen))

    assert event["outcome"] == "timeout"
    assert "There is no Airflow connection 'nowhere'" in event["message"]


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_a_cancel_in_the_moment_of_an_answer_is_not_lost(turns: int) -> None:
    async def main() -> None:
        answered = asyncio.get_running_loop().create_future()

        async def get_order_statuses(_: str) -> Any:
            return await answered

        hook: Any = SimpleNamespace(get_order_statuses=get_order_statuses)
        looking = asyncio.ensure_future(trigger(ORDER_ID)._look(hook))
        for _ in range(3):
            await asyncio.sleep(0)
        answered.set_result({"shipping": "fulfilled"})
        for _ in range(turns):
            await asyncio.sleep(0)
        if looking.cancel():
            with pytest.raises(asyncio.CancelledError):
                await looking

    asyncio.run(main())


@pytest.mark.airflow  # so that every Python is met
def test_thousands_of_waits_that_are_cancelled_at_any_moment_all_end(sandbox: Sandbox, order_id: str) -> None:
    moments, asked = random.Random(0), Counter[str]()
    sandbox.on_request(lambda request: asked.update([request.method]))

    async def wait() -> None:
        async for event in trigger(order_id, poke_interval=0.5, target_status=["never"]).run():
            raise AssertionError(f"it never comes: {event.payload}")

    async def main() -> None:
        waits = [asyncio.ensure_future(wait()) for _ in range(2000)]
        while asked["GET"] < 200:
            await asyncio.sleep(0.01)
        for one in moments.sample(waits, len(waits)):
            one.cancel()
            if moments.random() < 0.1:
                await asyncio.sleep(moments.choice((0, 0, 0.001, 0.005)))
        _, left = await asyncio.wait(waits, timeout=60)
        assert left == set()
        # What was on its way arrives, and nothing else does.
        await asyncio.sleep(1)
        arrived = asked["GET"]
        await asyncio.sleep(1)
        assert asked["GET"] == arrived
        assert [repr(one.exception()) for one in waits if not one.cancelled()] == []

    asyncio.run(main())


@pytest.mark.skipif(AIRFLOW_3, reason="it is Airflow 2 that has no asset watchers")
def test_new_orders_say_which_airflow_they_take() -> None:
    with pytest.raises(YouCanInvalidInputError, match=r"takes Airflow 3\.0 or later"):
        YouCanNewOrdersTrigger()
