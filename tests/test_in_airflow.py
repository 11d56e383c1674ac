"""The operators inside real Airflow: DAG runs on a metadata database, against the sandbox."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from textwrap import dedent

import pytest

from tests.conftest import DAGS_FOLDER, HOME, RunDag, Sandbox
from tests.forked import run_airflow

pytestmark = pytest.mark.airflow


def updates(sandbox: Sandbox) -> int:
    return len([request for request in sandbox.shop.requests() if request["method"] == "PUT"])


def test_a_task_sets_the_status_and_leaves_plain_json(run_dag: RunDag, sandbox: Sandbox, order_id: str) -> None:
    run = run_dag(
        """
        YouCanUpdatePaymentStatusOperator(
            task_id="pay", order_id="{{ dag_run.conf['order_id'] }}", status="{{ 'pa' ~ 'id' }}"
        )
        """,
        conf={"order_id": order_id},
    )

    assert run.state == "success"
    assert run.tasks["pay"].result == {
        "order_id": order_id,
        "context": "payment",
        "status": "paid",
        "previous_status": None,
        "changed": True,
    }
    assert sandbox.shop.statuses(order_id)["payment"] == "paid"
    assert f"Order {order_id}: the payment status is now 'paid'." in run.log
    assert "sandbox-access-token" not in run.log


def test_a_task_maps_over_many_orders_each_with_its_own_link(run_dag: RunDag, sandbox: Sandbox) -> None:
    order_ids = sandbox.shop.order_ids()[:5]

    run = run_dag(
        f"""
        @task
        def wanted():
            return [{{"order_id": order_id, "status": "shipped"}} for order_id in {order_ids}]
        YouCanUpdateShippingStatusOperator.partial(
            task_id="ship", map_index_template="{{{{ task.order_id }}}}"
        ).expand_kwargs(wanted())
        YouCanUpdateOrderStatusOperator.partial(task_id="close", status="closed").expand(order_id={order_ids})
        """
    )

    assert run.state == "success"
    for index, order_id in enumerate(order_ids):
        assert sandbox.shop.statuses(order_id)["shipping"] == "shipped"
        assert sandbox.shop.statuses(order_id)["general"] == "closed"
        for task in ("ship", "close"):
            link = run.tasks[f"{task}[{index}]"].link
            assert link == f"{sandbox.url}/sandbox/orders/{order_id}"


def test_a_permanent_error_fails_the_task_on_the_first_try(run_dag: RunDag, sandbox: Sandbox) -> None:
    run = run_dag(
        """
        YouCanUpdatePaymentStatusOperator(
            task_id="pay", order_id="gone", status="paid", retries=3, retry_delay=timedelta(0)
        )
        """
    )

    assert run.state == "failed"
    assert run.tasks["pay"].state == "failed"
    assert updates(sandbox) == 1
    assert "The shop has no such order (404)" in run.log
    assert run.tasks["pay"].link == f"{sandbox.url}/sandbox/orders/gone", "most wanted when it failed"


def test_a_transient_error_uses_the_tasks_retries(
    run_dag: RunDag, sandbox: Sandbox, order_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(max_attempts=1))
    sandbox.misbehave("status", status=503, times=2)

    run = run_dag(
        f"""
        YouCanUpdatePaymentStatusOperator(
            task_id="pay", order_id="{order_id}", status="paid", retries=3, retry_delay=timedelta(0)
        )
        """
    )

    assert run.state == "success"
    assert updates(sandbox) == 3
    assert sandbox.shop.statuses(order_id)["payment"] == "paid"


def test_a_transient_error_that_stays_fails_in_the_end(
    run_dag: RunDag, sandbox: Sandbox, order_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(max_attempts=1))
    sandbox.misbehave("html")

    run = run_dag(
        f"""
        YouCanUpdatePaymentStatusOperator(
            task_id="pay", order_id="{order_id}", status="paid", retries=1, retry_delay=timedelta(0)
        )
        """
    )

    assert run.state == "failed"
    assert updates(sandbox) == 2
    assert sandbox.shop.statuses(order_id)["payment"] == "pending"


def test_a_guard_can_be_templated_and_mapped(run_dag: RunDag, sandbox: Sandbox, order_id: str) -> None:
    run = run_dag(
        f"""
        @task
        def guard():
            return ["pending", "unpaid"]
        YouCanUpdatePaymentStatusOperator(
            task_id="pay", order_id="{order_id}", status="paid", only_from=guard()
        ) >> YouCanUpdateShippingStatusOperator.partial(
            task_id="ship", order_id="{order_id}", status="shipped"
        ).expand(only_from=["{{{{ 'unfulfilled' }}}}"])
        """
    )

    assert run.state == "success"
    assert sandbox.shop.statuses(order_id) == {"general": "open", "shipping": "shipped", "payment": "paid"}


def test_a_flag_from_an_upstream_task_does_not_become_true(run_dag: RunDag, sandbox: Sandbox, order_id: str) -> None:
    run = run_dag(
        f"""
        YouCanUpdatePaymentStatusOperator.partial(task_id="pay").expand_kwargs(
            [{{"order_id": "{order_id}", "status": "payd", "allow_custom_label": "false"}}]
        )
        """
    )

    assert run.state == "failed"
    assert updates(sandbox) == 0


def test_a_guard_skips_the_task_and_says_what_it_found(run_dag: RunDag, sandbox: Sandbox, order_id: str) -> None:
    sandbox.shop.set_status(order_id, "payment", "refunded")

    run = run_dag(
        f"""
        YouCanUpdatePaymentStatusOperator(
            task_id="pay", order_id="{order_id}", status="paid", only_from=["pending", "unpaid"]
        )
        """
    )

    assert run.tasks["pay"].state == "skipped"
    assert updates(sandbox) == 0
    assert "the payment status is 'refunded', not 'pending' or 'unpaid', so it was left alone" in run.log


def test_an_empty_xcom_fails_before_a_request(run_dag: RunDag, sandbox: Sandbox) -> None:
    run = run_dag(
        """
        @task
        def nothing():
            return None
        YouCanUpdatePaymentStatusOperator(task_id="pay", order_id=nothing(), status="paid", retries=3)
        """
    )

    assert run.tasks["pay"].state == "failed"
    assert "The order id is empty (None)" in run.log
    assert sandbox.shop.requests() == []


@pytest.fixture
def stored_connection(_airflow_database: None, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The connection in Airflow's database, where ``airflow connections add`` puts it."""
    monkeypatch.delenv("AIRFLOW_CONN_YOUCAN_DEFAULT")
    run_airflow("connections", "add", "youcan_default", "--conn-json", sandbox.connection())
    yield
    run_airflow("connections", "delete", "youcan_default")


@pytest.mark.usefixtures("stored_connection")
def test_a_connection_of_the_database_is_found_by_dags_test(run_dag: RunDag, sandbox: Sandbox, order_id: str) -> None:
    run = run_dag(
        f"""
        paid = YouCanUpdatePaymentStatusOperator(task_id="pay", order_id="{order_id}", status="paid")
        paid >> YouCanReconcileOrdersOperator(
            task_id="reconcile", orders=[{{"order_id": "{order_id}", "shipping_status": "fulfilled"}}]
        )
        """
    )

    assert run.state == "success", run.log
    assert sandbox.shop.statuses(order_id) == {"general": "open", "shipping": "fulfilled", "payment": "paid"}


@pytest.mark.usefixtures("_airflow_database")
def test_a_status_map_may_have_words_of_several_types() -> None:
    # Airflow 2 sorts the keys of a DAG that it stores, and can't sort numbers among texts.
    path = DAGS_FOLDER / "words_of_several_types.py"
    path.write_text(
        dedent(
            """
            from datetime import datetime
            from airflow.providers.common.compat.sdk import DAG
            from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
            with DAG("words_of_several_types", schedule=None, start_date=datetime(2026, 1, 1)):
                YouCanReconcileOrdersOperator(
                    task_id="reconcile",
                    orders=[{"order_id": "x", "payment_status": 1}],
                    status_map={"payment": {1: "paid", "COLLECTED": "paid", None: None}},
                )
            """
        )
    )
    try:
        run_airflow("dags", "reserialize")
    finally:
        path.unlink()

    with closing(sqlite3.connect(HOME / "airflow.db")) as database:
        stored = database.execute("select 1 from serialized_dag where dag_id = 'words_of_several_types'").fetchall()
    assert stored
