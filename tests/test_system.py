"""A real scheduler, a real triggerer, and a shop whose courier takes its time."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.conftest import HAS_RETRY_POLICIES, ROOT, Sandbox
from tests.services import Airflow

pytestmark = pytest.mark.airflow

EXAMPLE = ROOT / "example_dags" / "example_youcan_cash_on_delivery.py"
TOKEN = "sandbox-access-token"

LIMITED = """
from datetime import datetime, timedelta
from airflow.providers.common.compat.sdk import DAG, task
from airflow_provider_youcan.operators.order_status import YouCanUpdatePaymentStatusOperator
from airflow_provider_youcan.retries import YouCanRetryPolicy
with DAG("limited", schedule=None, start_date=datetime(2026, 1, 1), params={"order_id": ""}):
    YouCanUpdatePaymentStatusOperator(
        task_id="pay", order_id="{{ params.order_id }}", status="paid", youcan_conn_id="one_attempt",
        retries=1, retry_delay=timedelta(hours=1), retry_policy=YouCanRetryPolicy(),
    )
"""

CARELESS = """
from datetime import datetime
from airflow.providers.common.compat.sdk import DAG, task
with DAG("careless", schedule=None, start_date=datetime(2026, 1, 1), params={"order_id": ""}):
    @task
    def print_token(params=None):
        from airflow_provider_youcan.hooks.youcan import YouCanHook
        hook = YouCanHook()
        hook.get_order(params["order_id"])
        print("printed:", hook.get_connection("youcan_default").password)
        hook.log.info("logged: %s", hook.get_connection("youcan_default").password)
    print_token()
"""


@pytest.fixture(autouse=True)
def _dags(airflow: Airflow, sandbox: Sandbox) -> None:
    airflow.connect(youcan_default=sandbox.connection(), one_attempt=sandbox.connection(max_attempts=1))
    # The example as it is, but for the pace.
    example = EXAMPLE.read_text().replace("timedelta(minutes=5)", "timedelta(seconds=1)")
    assert example != EXAMPLE.read_text()
    (airflow.dags / "cash_on_delivery.py").write_text(example)
    (airflow.dags / "careless.py").write_text(CARELESS)
    if HAS_RETRY_POLICIES:
        (airflow.dags / "limited.py").write_text(LIMITED)


def test_waiting_in_a_real_airflow(airflow: Airflow, sandbox: Sandbox) -> None:
    delivered, returned, limited = [
        order_id
        for order_id in sandbox.shop.order_ids()
        if list(sandbox.shop.statuses(order_id).values()) == ["open", "unfulfilled", "pending"]
    ][:3]

    # Given two orders on their way, and a run for each that waits on the triggerer,
    airflow.trigger("example_youcan_cash_on_delivery", "delivered", order_id=delivered)
    airflow.trigger("example_youcan_cash_on_delivery", "returned", order_id=returned)
    for run_id in ("delivered", "returned"):
        airflow.wait_for(
            lambda run_id=run_id: airflow.task_states(run_id).get("wait_for_courier") == "deferred",
            f"{run_id} to be deferred",
        )
    _wait_until_polled(airflow, sandbox, delivered)

    # when the courier goes on while the triggerer is killed, and another is started in its place,
    airflow.kill_service("triggerer")
    sandbox.shop.set_status(delivered, "shipping", "shipped")
    sandbox.shop.set_status(returned, "shipping", "canceled")
    airflow.start_service("triggerer")
    _wait_until_polled(airflow, sandbox, delivered)
    sandbox.shop.set_status(delivered, "shipping", "fulfilled")

    # (and meanwhile a shop that asks to wait for some seconds, and a task that prints the token,)
    if HAS_RETRY_POLICIES:
        route = f"PUT /orders/{limited}/status/payment"
        sandbox.misbehave("status", status=429, headers={"Retry-After": "5"}, route=route, times=1)
        airflow.trigger("limited", "limited", order_id=limited)
    airflow.trigger("careless", "careless", order_id=limited)

    # then both are settled, each in its way,
    assert airflow.wait_for_run("delivered") == "success"
    assert sandbox.shop.statuses(delivered) == {"general": "closed", "shipping": "fulfilled", "payment": "paid"}
    assert airflow.wait_for_run("returned") == "success"
    assert sandbox.shop.statuses(returned) == {
        "general": "canceled-by-seller",
        "shipping": "canceled",
        "payment": "pending",
    }
    assert airflow.task_states("returned")["mark_as_paid"] == "skipped"

    # the retry came when the shop had asked for it, and not an hour later,
    if HAS_RETRY_POLICIES:
        assert airflow.wait_for_run("limited") == "success"
        first, second = (
            datetime.fromisoformat(request["at"])
            for request in sandbox.shop.requests()
            if request["method"] == "PUT" and limited in request["path"]
        )
        assert 4 <= (second - first).total_seconds() < 60

    # and no log holds the token.
    assert airflow.wait_for_run("careless") == "success"
    logs = airflow.task_logs()
    assert "printed: ***" in logs
    assert "logged: ***" in logs
    assert f"Order {delivered}: the shipping status is 'fulfilled'" in logs
    assert TOKEN not in logs


def _wait_until_polled(airflow: Airflow, sandbox: Sandbox, order_id: str) -> None:
    def polls() -> int:
        return sum(request["path"] == f"/orders/{order_id}" for request in sandbox.shop.requests())

    before = polls()
    airflow.wait_for(lambda: polls() >= before + 2, "the triggerer to poll")
