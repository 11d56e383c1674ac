"""A token that is renewed where Airflow keeps teams apart: the pair belongs to the team whose task renewed it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import AIRFLOW_VERSION, Sandbox
from tests.services import Airflow

pytestmark = pytest.mark.skipif(AIRFLOW_VERSION < (3, 3), reason="Airflow 3.3 and later scope Variables by team")

DAG = """
from datetime import datetime
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_youcan.operators.order_status import YouCanUpdatePaymentStatusOperator
with DAG("pay", schedule=None, start_date=datetime(2026, 1, 1), params={"order_id": ""}):
    YouCanUpdatePaymentStatusOperator(task_id="pay", order_id="{{ params.order_id }}", status="paid")
"""


@pytest.fixture
def teams(sandbox: Sandbox, tmp_path: Path, postgres: str) -> Iterator[Airflow]:
    token = sandbox.shop.issue_token()
    app = {"client_id": "sandbox-client", "client_secret": "sandbox-client-secret"}
    home = tmp_path / "airflow"
    home.mkdir()
    bundle = {
        "name": "casablanca",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(home / "dags")},
        "team_name": "casablanca",
    }
    airflow = Airflow(
        home,
        connections={"youcan_default": sandbox.connection("expired", refresh_token=token["refresh_token"], **app)},
        settings={
            "AIRFLOW__CORE__MULTI_TEAM": "True",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor;casablanca=LocalExecutor",
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
        },
    )
    # A team's executor has settings of its own.
    name = "AIRFLOW__CASABLANCA___CORE__EXECUTION_API_SERVER_URL"
    airflow.set_environment(**{name: f"{airflow.url}/execution/"})
    airflow.run_command("db", "migrate")
    airflow.run_command("teams", "create", "casablanca")
    (airflow.dags / "pay.py").write_text(DAG)
    airflow.start()
    yield airflow
    airflow.stop()


def test_a_renewed_token_belongs_to_the_team(teams: Airflow, sandbox: Sandbox, order_id: str) -> None:
    teams.trigger("pay", "pay", order_id=order_id)
    assert teams.wait_for_run("pay") == "success", teams.task_logs()

    assert sandbox.shop.statuses(order_id)["payment"] == "paid"
    kept = teams.query("select team_name from variable where key like 'youcan_token_%' and key not like '%_trial'")
    assert kept == [("casablanca",)]
