"""Every DAG that the provider ships, imported and run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, RunDag, Sandbox, load_dags

EXAMPLES = sorted((ROOT / "example_dags").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_imports_without_warnings(example: os.PathLike[str]) -> None:
    # In a process of its own, with Airflow imported first: its own warnings are not ours.
    probe = (
        "import sys, warnings, runpy; from airflow.providers.common.compat.sdk import DAG, task, task_group, Param;"
        "warnings.simplefilter('error'); runpy.run_path(sys.argv[1])"
    )
    ended = subprocess.run([sys.executable, "-c", probe, example], capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr


def test_airflow_loads_them_all() -> None:
    dags = load_dags(ROOT / "example_dags")

    assert dags.import_errors == {}
    assert len(dags.dags) >= len(EXAMPLES)


def test_the_order_status_example_moves_orders_along(run_dag: RunDag, sandbox: Sandbox, order_id: str) -> None:
    other = next(
        other
        for other in sandbox.shop.order_ids()
        if sandbox.shop.statuses(other)["shipping"] != "unfulfilled" or other == sandbox.shop.order_ids()[-1]
    )
    for context, status in {"general": "closed", "shipping": "fulfilled", "payment": "refunded"}.items():
        sandbox.shop.set_status(other, context, status)

    run = run_dag(ROOT / "example_dags" / "example_youcan_order_status.py", conf={"order_ids": [order_id, other]})

    assert run.state == "success"
    assert sandbox.shop.statuses(order_id) == {"general": "processed", "shipping": "shipped", "payment": "paid"}
    assert sandbox.shop.statuses(other) == {"general": "closed", "shipping": "fulfilled", "payment": "refunded"}
    assert [run.tasks[f"move_along.{task}[1]"].state for task in ("process", "ship", "collect")] == ["skipped"] * 3


@pytest.mark.parametrize(
    ("courier", "expected"),
    [
        ("fulfilled", {"general": "closed", "shipping": "fulfilled", "payment": "paid"}),
        ("canceled", {"general": "canceled-by-seller", "shipping": "canceled", "payment": "pending"}),
    ],
)
def test_the_cash_on_delivery_example_settles_an_order(
    run_dag: RunDag, sandbox: Sandbox, order_id: str, courier: str, expected: dict[str, str]
) -> None:
    sandbox.shop.set_status(order_id, "shipping", courier)

    run = run_dag(ROOT / "example_dags" / "example_youcan_cash_on_delivery.py", conf={"order_id": order_id})

    assert run.state == "success"
    assert sandbox.shop.statuses(order_id) == expected


def test_the_order_status_example_moves_no_order_that_is_not_named(run_dag: RunDag, sandbox: Sandbox) -> None:
    run_dag(ROOT / "example_dags" / "example_youcan_order_status.py")

    assert sandbox.shop.history() == []
