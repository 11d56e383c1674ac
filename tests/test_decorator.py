"""@task.youcan_reconcile: rows that a function returns or yields."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowSkipException, task

from airflow_provider_youcan.decorators.reconcile import youcan_reconcile_task
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from tests.conftest import RunDag, Sandbox, is_written, paid


def decorated(function: Callable[..., Any], **arguments: Any) -> Any:
    with DAG("decorated", schedule=None) as dag:
        youcan_reconcile_task(function, **arguments)()
    (operator,) = dag.tasks
    return operator


def test_a_function_that_yields_runs_to_its_end_before_anything_is_sent(sandbox: Sandbox, pending: list[str]) -> None:
    def courier() -> Iterator[dict[str, str]]:
        for order_id in pending:
            yield {"order_id": order_id, "payment_status": "paid"}
            assert sandbox.shop.requests() == []
        raise AirflowSkipException("the courier's feed is not complete")

    with pytest.raises(AirflowSkipException):
        decorated(courier).execute({})

    assert sandbox.shop.requests() == []


def test_a_function_may_be_async(sandbox: Sandbox, pending: list[str]) -> None:
    async def one() -> list[dict[str, str]]:
        return [{"order_id": pending[0], "payment_status": "paid"}]

    async def others() -> AsyncIterator[dict[str, str]]:
        for order_id in pending[1:]:
            yield {"order_id": order_id, "payment_status": "paid"}

    assert decorated(one).execute({})["changed"] == 1
    assert decorated(others).execute({})["changed"] == 2
    assert not getattr(decorated(one), "is_async", False)


@pytest.mark.parametrize("returned", [None, "text", 5])
def test_a_function_that_returns_no_rows_is_refused(sandbox: Sandbox, returned: Any) -> None:
    with pytest.raises(YouCanInvalidInputError, match="What the function returns is of type"):
        decorated(lambda: returned, task_id="x").execute({})


@pytest.mark.parametrize("source", ["orders", "orders_file", "sql", "plan", "conn_id", "parameters"])
def test_a_function_is_the_only_source(source: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match=f"Leave {source} out of @task.youcan_reconcile"):
        task.youcan_reconcile(**{source: "x"})(list)


def test_the_summary_is_one_xcom_whatever_the_function_is_annotated_with() -> None:
    def rows() -> dict[str, str]:
        return {}

    assert decorated(rows).multiple_outputs is False


@pytest.mark.airflow
def test_rows_of_a_function_go_to_the_shop_and_nowhere_else(
    run_dag: RunDag, sandbox: Sandbox, pending: list[str]
) -> None:
    run = run_dag(
        f"""
        @task
        def number():
            return [2]

        @task.youcan_reconcile(status_map={{"payment": {{"COLLECTED": "paid"}}}}, only_from={{"payment": "pending"}})
        def courier(numbers, ti=None, word="COLLECTED"):
            import pandas as pd
            assert ti.task_id == "courier"
            (number,) = numbers
            order_ids = {pending}[:number]
            statuses, phone = [word] * number, "+2126" + "99887766"
            return pd.DataFrame({{"order_id": order_ids, "payment_status": statuses, "phone": phone}})

        @task.youcan_reconcile(max_changes="{{{{ 5 }}}}")
        def rest():
            yield {{"order_id": "{pending[2]}", "payment_status": "paid", "phone": "+2126" + "99887766"}}

        courier(number()) >> rest()
        """
    )

    assert run.state == "success"
    assert run.tasks["courier"].result["changed"] == 2
    assert run.tasks["rest"].result["changed"] == 1
    assert set(pending) <= paid(sandbox)
    assert "+212699887766" not in run.log
    # neither in an XCom, nor among the rendered fields; Airflow keeps the source of the DAG, too, where it is in two
    assert not is_written("+212699887766")


@pytest.mark.airflow
def test_a_function_can_be_mapped_over_shops(run_dag: RunDag, sandbox: Sandbox, pending: list[str]) -> None:
    run = run_dag(
        f"""
        @task.youcan_reconcile
        def shop(order_id):
            return [{{"order_id": order_id, "payment_status": "paid"}}]

        shop.override(youcan_conn_id="youcan_default").expand(order_id={pending})
        """
    )

    assert run.state == "success"
    assert [run.tasks[f"shop[{index}]"].result["changed"] for index in range(3)] == [1, 1, 1]


def test_an_argument_of_the_function_that_ends_in_sql_is_no_template() -> None:
    assert ".sql" not in youcan_reconcile_task(list)("queries/orders.sql").operator.template_ext
