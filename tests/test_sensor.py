"""The sensor in its three modes, against the sandbox."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout, AirflowSkipException, TaskDeferred

from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanConnectionNotFoundError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanOrderNotFoundError,
    YouCanPermanentError,
    YouCanTransientError,
    YouCanUnknownStatusError,
    to_dict,
)
from airflow_provider_youcan.hooks.youcan import YouCanHook
from airflow_provider_youcan.sandbox import ACCESS_TOKEN
from airflow_provider_youcan.sandbox.shop import Request
from airflow_provider_youcan.sensors.order_status import YouCanOrderStatusSensor
from airflow_provider_youcan.triggers.order_status import YouCanOrderStatusTrigger
from airflow_provider_youcan.triggers.waiting import OrderStatusWait
from tests.conftest import AIRFLOW_3, AIRFLOW_VERSION, AirflowRescheduleException, RunDag, Sandbox, TaskInstance

# On Airflow 2, a rescheduled sensor asks the metadata database since when it waits.
pytestmark = pytest.mark.usefixtures("_airflow_database")

MODES = ["poke", "reschedule", "deferrable"]
ORDER_ID = "3116f8a6-b453-49ce-9174-db3dffbb8629"
MISSING_OR_OUT_OF_REACH = pytest.mark.skipif(
    not AIRFLOW_3, reason="Airflow 2 knows a missing connection from an outage"
)


def make_sensor(mode: str, **arguments: Any) -> YouCanOrderStatusSensor:
    options = {"deferrable": True} if mode == "deferrable" else {"mode": mode, "deferrable": False}
    return YouCanOrderStatusSensor(task_id="wait", context="shipping", **options, **arguments)


def wait_in(mode: str, **arguments: Any) -> Any:
    """
    Wait to the end as Airflow would in this mode, with as many comings and goings as it takes.

    The sensor's own sleeps are short, so that this is a matter of a moment.
    """
    arguments = {"poke_interval": 0.05, "timeout": 20, **arguments}
    context: Any = {"ti": TaskInstance()}
    sensor = make_sensor(mode, **arguments)
    if mode == "poke":
        return sensor.execute(context)
    if mode == "reschedule":
        # Each look is another process to Airflow, so nothing that a sensor remembers may be needed.
        deadline = time.monotonic() + arguments["timeout"]
        while True:
            look = make_sensor(mode, **arguments)
            look.timeout = deadline - time.monotonic()
            try:
                return look.execute(context)
            except AirflowRescheduleException:
                time.sleep(0.05)
    try:
        return sensor.execute(context)
    except TaskDeferred as deferred:
        event = fire(deferred.trigger)
        return make_sensor(mode, **arguments).resume_execution(deferred.method_name, {"event": event}, context)


def fire(trigger: Any) -> Any:
    """Let a trigger run as the triggerer would: rebuilt from JSON, in an event loop."""
    path, kwargs = trigger.serialize()
    assert path == f"{YouCanOrderStatusTrigger.__module__}.{YouCanOrderStatusTrigger.__qualname__}"
    again = YouCanOrderStatusTrigger(**json.loads(json.dumps(kwargs)))

    async def first_event() -> Any:
        async for event in again.run():
            return event.payload
        raise AssertionError("a trigger ends with an event")

    return json.loads(json.dumps(asyncio.run(first_event())))


@pytest.fixture
def later(sandbox: Sandbox) -> Callable[[Callable[[], Any], int], None]:
    """Do something once the shop has been asked for an order so many times."""

    def later(do: Callable[[], Any], reads: int = 2) -> None:
        asked = 0

        def keep(request: Request) -> None:
            nonlocal asked
            asked += request.method == "GET"
            if asked == reads:
                do()

        sandbox.on_request(keep)

    return later


# --- the three modes ---


def trigger(order_id: str, **arguments: Any) -> YouCanOrderStatusTrigger:
    options = {"context": "shipping", "target_status": ["fulfilled"], "poke_interval": 0.05, "timeout": 20}
    return YouCanOrderStatusTrigger(order_id=order_id, **{**options, **arguments})


@pytest.mark.parametrize("mode", MODES)
def test_a_status_that_is_there_is_found_at_once(sandbox: Sandbox, order_id: str, mode: str) -> None:
    result = wait_in(mode, order_id=order_id, target_status="unfulfilled")

    assert result == {"order_id": order_id, "context": "shipping", "status": "unfulfilled"}
    assert len(sandbox.shop.requests()) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_status_that_comes_later_is_waited_for(sandbox: Sandbox, order_id: str, later: Any, mode: str) -> None:
    later(lambda: sandbox.shop.set_status(order_id, "shipping", "fulfilled"), reads=3)

    result = wait_in(mode, order_id=order_id, target_status=["fulfilled", "shipped"])

    assert result["status"] == "fulfilled"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reads", [1, 3])
def test_a_failure_status_ends_the_wait_at_once(
    sandbox: Sandbox, order_id: str, later: Any, mode: str, reads: int
) -> None:
    later(lambda: sandbox.shop.set_status(order_id, "shipping", "canceled"), reads)

    with pytest.raises(YouCanPermanentError, match="is 'canceled', which is in failure_status"):
        wait_in(mode, order_id=order_id, target_status="fulfilled", failure_status="canceled")


@pytest.mark.parametrize("mode", MODES)
def test_a_timeout_says_what_was_last_seen(sandbox: Sandbox, order_id: str, mode: str) -> None:
    with pytest.raises(
        AirflowSensorTimeout, match="not become 'fulfilled' within .*; it was last seen as 'unfulfilled'"
    ):
        wait_in(mode, order_id=order_id, target_status="fulfilled", timeout=0.3)


@pytest.mark.parametrize("mode", MODES)
def test_a_timeout_of_a_lost_shop_says_since_when_and_why(
    sandbox: Sandbox, order_id: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_LOST", json.dumps(json.loads(sandbox.connection()) | {"host": "http://127.0.0.1:9"})
    )

    with pytest.raises(AirflowSensorTimeout, match="nothing could be read since 20.* UTC: .*check the host"):
        wait_in(mode, order_id=order_id, target_status="fulfilled", timeout=0.3, youcan_conn_id="lost")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("option", ["soft_fail", "never_fail"])
def test_a_timeout_can_be_a_skip(sandbox: Sandbox, order_id: str, mode: str, option: str) -> None:
    with pytest.raises(AirflowSkipException):
        wait_in(mode, order_id=order_id, target_status="fulfilled", timeout=0.3, **{option: True})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reads", [1, 3])
def test_soft_fail_skips_in_place_of_a_permanent_error(
    sandbox: Sandbox, order_id: str, later: Any, mode: str, reads: int
) -> None:
    later(lambda: sandbox.shop.revoke_token(ACCESS_TOKEN), reads)

    with pytest.raises(AirflowSkipException):
        wait_in(mode, order_id=order_id, target_status="fulfilled", soft_fail=True)


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_a_skip_says_why(sandbox: Sandbox, order_id: str, mode: str, log_lines: Callable[[], list[str]]) -> None:
    sandbox.shop.revoke_token(ACCESS_TOKEN)

    with pytest.raises(AirflowSkipException, match="renew the token"):
        wait_in(mode, order_id=order_id, target_status="fulfilled", soft_fail=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_storm_is_waited_out(sandbox: Sandbox, order_id: str, later: Any, mode: str) -> None:
    sandbox.misbehave("status", status=503, times=6)
    later(lambda: sandbox.shop.set_status(order_id, "shipping", "fulfilled"), reads=8)

    assert wait_in(mode, order_id=order_id, target_status="fulfilled")["status"] == "fulfilled"


@pytest.mark.parametrize("mode", MODES)
def test_a_rate_limit_is_left_alone_for_as_long_as_it_asks(sandbox: Sandbox, order_id: str, mode: str) -> None:
    sandbox.misbehave("status", status=429, headers={"Retry-After": "1"}, times=1)
    start = time.monotonic()

    if mode == "reschedule":
        # What a rescheduled sensor waits, Airflow waits for it.
        with pytest.raises(AirflowRescheduleException) as raised:
            make_sensor(mode, order_id=order_id, target_status="unfulfilled", poke_interval=0.05).execute(
                {"ti": TaskInstance()}  # type: ignore[typeddict-item]
            )
        assert raised.value.reschedule_date.timestamp() - time.time() > 0.8
    else:
        wait_in(mode, order_id=order_id, target_status="unfulfilled")
        assert time.monotonic() - start >= 1
        assert len(sandbox.shop.requests()) == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_rate_limit_beyond_the_timeout_is_not_waited_out(sandbox: Sandbox, order_id: str, mode: str) -> None:
    sandbox.misbehave("status", status=429, headers={"Retry-After": "3600"})

    with pytest.raises(AirflowSensorTimeout, match="Too many requests"):
        wait_in(mode, order_id=order_id, target_status="fulfilled", timeout=0.3)

    assert len(sandbox.shop.requests()) <= 2


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_a_secrets_backend_that_is_out_of_reach_is_waited_for(
    sandbox: Sandbox, order_id: str, mode: str, monkeypatch: pytest.MonkeyPatch, log_lines: Callable[[], list[str]]
) -> None:
    looked_up = 0
    read = YouCanHook.get_connection

    def hiccup(conn_id: str) -> Any:
        nonlocal looked_up
        looked_up += 1
        if looked_up in (1, 3):
            raise PermissionError("the vault's s3cret words")
        return read(conn_id)

    async def async_hiccup(conn_id: str) -> Any:
        return hiccup(conn_id)

    monkeypatch.setattr(YouCanHook, "get_connection", staticmethod(hiccup))
    monkeypatch.setattr("airflow_provider_youcan.hooks.youcan_async.get_async_connection", async_hiccup)

    assert wait_in(mode, order_id=order_id, target_status="unfulfilled")
    lines = log_lines()
    assert any("could not be looked up (PermissionError)" in line for line in lines)
    assert not any("s3cret" in line for line in lines)


@MISSING_OR_OUT_OF_REACH
@pytest.mark.parametrize("mode", MODES)
def test_a_connection_that_was_never_found_is_left_to_retries(mode: str) -> None:
    with pytest.raises(YouCanConnectionNotFoundError, match="no Airflow connection 'nowhere'"):
        wait_in(mode, order_id=ORDER_ID, target_status="fulfilled", youcan_conn_id="nowhere")


@pytest.mark.parametrize("mode", MODES)
def test_a_connection_that_was_never_found_skips_under_never_fail_and_fails_under_silent_fail(mode: str) -> None:
    def wait(**options: bool) -> Any:
        return wait_in(mode, order_id=ORDER_ID, target_status="fulfilled", youcan_conn_id="nowhere", **options)

    with pytest.raises(AirflowSkipException, match="no Airflow connection 'nowhere'"):
        wait(never_fail=True)
    with pytest.raises(YouCanError, match="no Airflow connection 'nowhere'"):
        wait(silent_fail=True)


@MISSING_OR_OUT_OF_REACH
def test_a_connection_that_was_found_before_is_waited_for(
    sandbox: Sandbox, order_id: str, later: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an Airflow connection that is away from the first look on, until it is missed,
    later(lambda: monkeypatch.delenv("AIRFLOW_CONN_YOUCAN_DEFAULT"), reads=1)
    record_error = OrderStatusWait.record_error
    missed: list[YouCanTransientError] = []

    def record_and_give_back(wait: OrderStatusWait, error: YouCanTransientError, now: float) -> None:
        record_error(wait, error, now)
        missed.append(error)
        monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection())
        sandbox.shop.set_status(order_id, "shipping", "fulfilled")

    monkeypatch.setattr(OrderStatusWait, "record_error", record_and_give_back)

    # then the wait goes on.
    assert wait_in("poke", order_id=order_id, target_status="fulfilled")["status"] == "fulfilled"
    assert [type(error) for error in missed] == [YouCanConnectionNotFoundError]


@MISSING_OR_OUT_OF_REACH
@pytest.mark.parametrize("has_looked_before", [False, True])
def test_a_rescheduled_look_knows_that_there_was_one_before(has_looked_before: bool) -> None:
    class Rescheduled(TaskInstance):
        def get_first_reschedule_date(self, _: Any) -> Any:
            return datetime.now(timezone.utc) if has_looked_before else None

    sensor = make_sensor("reschedule", order_id=ORDER_ID, target_status="fulfilled", youcan_conn_id="nowhere")

    with pytest.raises(AirflowRescheduleException if has_looked_before else YouCanConnectionNotFoundError):
        sensor.execute({"ti": Rescheduled()})  # type: ignore[typeddict-item]


def test_a_sensor_that_ends_early_says_so(sandbox: Sandbox, order_id: str) -> None:
    sandbox.misbehave("status", status=429, headers={"Retry-After": "7200"})

    with pytest.raises(AirflowSensorTimeout, match="'fulfilled' yet, and the shop asked to wait"):
        make_sensor("reschedule", order_id=order_id, target_status="fulfilled", timeout=3600).execute(
            {"ti": TaskInstance()}  # type: ignore[typeddict-item]
        )


@pytest.mark.parametrize("mode", MODES)
def test_no_page_of_a_gateway_ends_a_wait(sandbox: Sandbox, order_id: str, later: Any, mode: str) -> None:
    # Given a shop behind a gateway that answers each look with another page of its own,
    pages = [302, 400, 401, 402, 403, 404, 405, 409, 423, 425, 451, 499, 502, 503]
    for status in pages:
        sandbox.misbehave("status", status=status, body="<html>gateway</html>", times=1)
    later(lambda: sandbox.shop.set_status(order_id, "shipping", "fulfilled"), reads=len(pages))

    # then the wait goes on, and comes to its end.
    assert wait_in(mode, order_id=order_id, target_status="fulfilled")["status"] == "fulfilled"


@pytest.mark.parametrize(
    "event",
    [
        None,
        "reached",
        {},
        {"status": "fulfilled"},
        {"outcome": "success", "status": "fulfilled"},
        {"outcome": "reached"},
        {"outcome": "reached", "status": None},
        {"outcome": "reached", "status": "canceled"},
        {"outcome": "timeout"},
        {"outcome": "failed"},
        {"outcome": "failed", "error": "YouCanNewError", "message": "no", "attributes": {}},
        {"outcome": "failed", "error": "Mapping", "message": "no", "attributes": {}},
        {"outcome": "failed", "error": "to_dict", "message": "no", "attributes": {}},
        {"outcome": "failed", "error": "YouCanError", "message": None, "attributes": {}},
    ],
)
def test_an_event_that_is_not_known_is_no_success(event: Any) -> None:
    sensor = make_sensor("poke", order_id=ORDER_ID, target_status="fulfilled")

    with pytest.raises(YouCanTransientError, match="an event that this version does not know"):
        sensor.execute_complete({}, event)  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    "error", [YouCanInvalidInputError("no"), YouCanUnknownStatusError("no"), YouCanOrderNotFoundError("no")]
)
def test_a_permanent_error_of_the_triggerer_stays_one(error: YouCanError) -> None:
    sensor = make_sensor("poke", order_id=ORDER_ID, target_status="fulfilled")

    with pytest.raises(type(error)):
        sensor.execute_complete({}, {"outcome": "failed", **to_dict(error)})  # type: ignore[typeddict-item]


def test_a_status_that_the_store_writes_in_another_form_is_the_one_that_was_waited_for() -> None:
    sensor = make_sensor("poke", order_id=ORDER_ID, target_status="Livr\u00e9")

    event = {"outcome": "reached", "status": "Livre\u0301"}
    assert sensor.execute_complete({}, event)["status"] == "Livre\u0301"  # type: ignore[typeddict-item]


@pytest.mark.parametrize("mode", MODES)
def test_a_token_revoked_in_the_middle_fails(sandbox: Sandbox, order_id: str, later: Any, mode: str) -> None:
    later(lambda: sandbox.shop.revoke_token(ACCESS_TOKEN))

    with pytest.raises(YouCanAuthenticationError, match="renew the token in the Airflow connection 'youcan_default'"):
        wait_in(mode, order_id=order_id, target_status="fulfilled")


@pytest.mark.parametrize("mode", MODES)
def test_an_order_deleted_in_the_middle_fails(sandbox: Sandbox, order_id: str, later: Any, mode: str) -> None:
    later(lambda: sandbox.shop.delete_order(order_id))

    with pytest.raises(YouCanOrderNotFoundError, match=order_id):
        wait_in(mode, order_id=order_id, target_status="fulfilled")


# --- what is refused at the first look ---


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["target_status", "failure_status"])
def test_a_status_that_would_never_come_is_refused(sandbox: Sandbox, order_id: str, mode: str, name: str) -> None:
    arguments = {"target_status": "fulfilled", name: ["unfulfilled", "fulfiled"]}

    with pytest.raises(YouCanUnknownStatusError, match="did you mean 'fulfilled'"):
        wait_in(mode, order_id=order_id, **arguments)


def test_a_label_can_be_waited_for(sandbox: Sandbox, order_id: str) -> None:
    sandbox.shop.set_status(order_id, "shipping", "chez le voisin")

    assert wait_in("poke", order_id=order_id, target_status="chez le voisin", allow_custom_label=True)
    assert not [request for request in sandbox.shop.requests() if request["path"] == "/orders/settings"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "arguments",
    [
        {"order_id": None},
        {"order_id": "../me"},
        {"target_status": []},
        {"target_status": ""},
        {"target_status": "shipped", "failure_status": "shipped"},
    ],
)
def test_bad_input_fails_before_a_request(sandbox: Sandbox, order_id: str, mode: str, arguments: Any) -> None:
    with pytest.raises(YouCanInvalidInputError):
        wait_in(mode, **{"order_id": order_id, "target_status": "shipped", **arguments})

    assert sandbox.shop.requests() == []


def test_a_status_that_cannot_be_read_is_not_the_target(
    sandbox: Sandbox, order_id: str, log_lines: Callable[[], list[str]]
) -> None:
    sandbox.misbehave("status", status=200, body=f'{{"id": "{order_id}", "shipping_status": 2}}', times=4)

    assert wait_in("poke", order_id=order_id, target_status="unfulfilled")

    assert len([line for line in log_lines() if "can't be read" in line]) == 1


def test_one_look_does_not_hold_the_worker_longer_than_an_interval(sandbox: Sandbox, order_id: str) -> None:
    sandbox.misbehave("status", status=429, headers={"Retry-After": "30"})
    start = time.monotonic()

    assert not make_sensor("poke", order_id=order_id, target_status="fulfilled", poke_interval=10).poke({})  # type: ignore[typeddict-item]

    assert time.monotonic() - start < 10


# --- in real Airflow ---


@pytest.mark.parametrize("options", ["mode='poke'", "mode='reschedule'", "deferrable=True"])
def test_it_waits_inside_airflow(run_dag: RunDag, sandbox: Sandbox, order_id: str, later: Any, options: str) -> None:
    later(lambda: sandbox.shop.set_status(order_id, "shipping", "fulfilled"), reads=2)

    if AIRFLOW_VERSION == (3, 0) and "reschedule" in options:
        pytest.skip("dag.test of Airflow 3.0 can't run a rescheduled sensor again: it subtracts a text from a time")
    run = run_dag(
        f"""
        from airflow_provider_youcan.sensors.order_status import YouCanOrderStatusSensor
        YouCanOrderStatusSensor(
            task_id="wait", order_id="{{{{ dag_run.conf['order_id'] }}}}", target_status="fulfilled",
            context="shipping", poke_interval=0.2, timeout=60, {options}
        )
        """,
        conf={"order_id": order_id},
    )

    assert run.state == "success", run.log
    assert run.tasks["wait"].result == {"order_id": order_id, "context": "shipping", "status": "fulfilled"}
    assert run.tasks["wait"].link == f"{sandbox.url}/sandbox/orders/{order_id}"
