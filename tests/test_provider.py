"""What Airflow knows of the provider, and what importing it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import airflow
import jsonschema
import pytest

import airflow_provider_youcan
from airflow_provider_youcan import get_provider_info
from tests.conftest import HAS_OWN_FORM, ROOT, Sandbox
from tests.forked import run_airflow

pytestmark = pytest.mark.airflow


def test_the_provider_info_fits_airflows_schema() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())

    jsonschema.validate(get_provider_info(), schema)


def test_all_that_the_provider_info_names_is_there() -> None:
    info = get_provider_info()
    kinds = ("hooks", "operators", "sensors", "triggers")
    modules = [module for kind in kinds for part in info[kind] for module in part["python-modules"]]
    modules += [transfer["python-module"] for transfer in info["transfers"]]
    callables = [decorator["class-name"] for decorator in info["task-decorators"]] + info["cli"]
    callables += [
        handler for uri in info["asset-uris"] for name, handler in uri.items() if name != "schemes" and handler
    ]
    classes = [connection["hook-class-name"] for connection in info["connection-types"]] + info["extra-links"]

    for name in modules + [name.rpartition(".")[0] for name in classes + callables]:
        __import__(name)
    for name in classes + callables:
        module, _, cls = name.rpartition(".")
        assert hasattr(sys.modules[module], cls)


def test_airflow_finds_it_by_its_entry_point() -> None:
    (entry_point,) = [
        entry_point
        for entry_point in entry_points(group="apache_airflow_provider")
        if entry_point.value.startswith("airflow_provider_youcan:")
    ]

    assert entry_point.load()()["package-name"] == "airflow-provider-youcan"


def test_it_is_typed_and_its_changes_are_listed() -> None:
    assert files(airflow_provider_youcan).joinpath("py.typed").is_file()
    assert f"## {airflow_provider_youcan.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_importing_the_operators_loads_no_client_and_no_server() -> None:
    """What it costs in time is for ``make bench``; what it loads must never be these."""
    probe = (
        "import sys; from airflow.providers.common.compat.sdk import DAG, task, BaseOperator;"
        "before = set(sys.modules);"
        "import airflow_provider_youcan.operators.order_status, airflow_provider_youcan.sensors.order_status;"
        "import airflow_provider_youcan.operators.reconcile;"
        "print(*sorted(set(sys.modules) - before))"
    )
    answer = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)

    loaded = answer.stdout.splitlines()[-1].split()
    assert "airflow_provider_youcan.operators.order_status" in loaded
    unwanted = {"requests", "aiohttp", "starlette", "uvicorn", "tenacity"}
    assert not unwanted & {name.partition(".")[0] for name in loaded}


@pytest.mark.usefixtures("_airflow_database")
def test_airflows_own_connection_test_asks_the_shop(sandbox: Sandbox) -> None:
    def airflow_connections_test() -> str:
        environment = os.environ | {"AIRFLOW__CORE__TEST_CONNECTION": "Enabled"}
        ended = run_airflow("connections", "test", "youcan_default", environment=environment, check=False)
        return " ".join((ended.stdout + ended.stderr).split())

    answer = airflow_connections_test()
    assert "Connection success!" in answer
    assert "Connected to the YouCan store 'Sandbox Shop'. Scopes of its token: 'read-orders'," in answer
    assert {request["method"] for request in sandbox.shop.requests()} == {"GET"}

    sandbox.shop.revoke_token("sandbox-access-token")
    assert "renew the token in this connection" in airflow_connections_test()


FORM_FIELDS = (
    "timeout",
    "max_attempts",
    "requests_per_second",
    "verify",
    "client_id",
    "client_secret",
    "refresh_token",
)


@pytest.mark.skipif(not HAS_OWN_FORM, reason="before Airflow 3.1 the form is FAB's")
def test_the_connection_form_has_what_the_hook_reads() -> None:
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    (form,) = (form for form in HookMetaService.hook_meta_data() if form.connection_type == "youcan")

    assert form.extra_fields.keys() == set(FORM_FIELDS)
    for name, field in form.extra_fields.items():
        is_secret = name in ("client_secret", "refresh_token")
        assert (field["schema"].get("format") == "password") == is_secret
    assert form.standard_fields.password.title == "Access token"
    assert form.standard_fields.host.title == "API base URL"
    assert form.standard_fields.login.hidden
    assert form.standard_fields.url_schema.hidden


@pytest.mark.skipif(find_spec("flask_appbuilder") is None, reason="FAB isn't installed, which Airflow 2 comes with")
def test_the_connection_form_of_fab_has_the_same_fields() -> None:
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    fields = {name for name in manager.connection_form_widgets if name.startswith("extra__youcan__")}

    assert fields == {f"extra__youcan__{name}" for name in FORM_FIELDS}
    for name in fields:
        is_secret = name.endswith(("client_secret", "refresh_token"))
        assert manager.connection_form_widgets[name].is_sensitive == is_secret
    behaviour = manager.field_behaviours["youcan"]
    assert behaviour["relabeling"] == {"password": "Access token", "host": "API base URL"}
    assert {"login", "schema"} <= set(behaviour["hidden_fields"])
