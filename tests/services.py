"""A real Airflow for the system tests: its services as processes of their own, in a home of their own."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg2
import requests

from tests.conftest import AIRFLOW_3, AIRFLOW_VERSION

__all__ = ["Airflow"]


class Airflow:
    """
    A scheduler, a triggerer and what else this Airflow needs, from :meth:`start` to :meth:`stop`.

    :param home: an empty folder.
    :param connections: Airflow connections as JSON, by id; :meth:`connect` gives it others later.
    :param postgres: the address of a PostgreSQL for the metadata, so that several tasks may run at a time; ``None``
        takes SQLite.
    :param settings: further environment variables of all services.
    """

    def __init__(
        self,
        home: Path,
        connections: dict[str, str] | None = None,
        postgres: str | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.home = home
        self.dags = home / "dags"
        self.dags.mkdir()
        self._postgres = postgres
        several = AIRFLOW_3 or postgres is not None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {}
        self.restarts_services = False
        """Whether a service that ended by itself is started again, as systemd or Kubernetes does."""
        self._secrets = {name: home / f"{name}.json" for name in ("connections", "variables")}
        for path in self._secrets.values():
            path.write_text("{}")
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")} | {
            # Airflow 2's executor starts its tasks by this name.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor" if several else "SequentialExecutor",
            "AIRFLOW__CORE__PARALLELISM": "2" if postgres is None else "4",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres or f"sqlite:///{home}/airflow.db",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": "0123456789abcdef" * 4,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            # It reads its files at each look-up.
            "AIRFLOW__SECRETS__BACKEND": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
            "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(
                {f"{name}_file_path": str(path) for name, path in self._secrets.items()}
            ),
            # So that a DAG file that is added is found in seconds; the last is Airflow 2's.
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
            "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
            "AIRFLOW__SCHEDULER__DAG_DIR_LIST_INTERVAL": "2",
            # So that a killed triggerer is found dead in seconds rather than in half a minute.
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "4",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
            **{f"AIRFLOW_CONN_{name.upper()}": connection for name, connection in (connections or {}).items()},
            **(settings or {}),
        }

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of all services."""
        return dict(self._environment)

    def set_environment(self, **variables: str) -> None:
        """Give the services that start from now on further environment variables."""
        self._environment |= variables

    def start(self) -> None:
        """Make the database, and start all services."""
        self.run_command("db", "migrate")
        if AIRFLOW_3:
            self.start_service("api-server")
            self.start_service("dag-processor")
        self.start_service("scheduler")
        self.start_service("triggerer")

    def start_service(self, name: str, *words: str, **settings: str) -> None:
        """
        Start one service; its output goes to a file in the home.

        :param name: what to call it.
        :param words: the command of Airflow's that it is (default its name).
        :param settings: environment variables of its own.
        """
        self._commands[name] = (words or (name,), settings)
        with (self.home / f"{name}.out").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                self._command(*(words or (name,))),
                cwd=self.home,
                env=self._environment | settings,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def restart_service(self, name: str) -> None:
        """Start a service again that was killed."""
        words, settings = self._commands[name]
        self.start_service(name, *words, **settings)

    def service_of(self, pid: int) -> str:
        """Return the name of the service that started a process."""
        session = os.getsid(pid)
        return next(name for name, process in self._processes.items() if process.pid == session)

    def kill_service(self, name: str) -> None:
        """Kill one service, and all that it started, without a chance to clean up."""
        process = self._processes.pop(name)
        os.killpg(process.pid, 9)
        process.wait()

    def stop(self) -> None:
        """Kill all services."""
        for name in list(self._processes):
            self.kill_service(name)

    def run_command(self, *words: str) -> str:
        """Run a command of Airflow's own, and return what it printed."""
        command = self._command(*words)
        ended = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def trigger(self, dag_id: str, run_id: str, **conf: Any) -> None:
        """Start a run of a DAG, once Airflow has found the DAG."""
        self.wait_for(lambda: self.query("select 1 from dag where dag_id = ?", dag_id), f"{dag_id} to be found")
        self.wait_for(
            lambda: self.query("select 1 from serialized_dag where dag_id = ?", dag_id), f"{dag_id} to be stored"
        )
        if not AIRFLOW_3:
            self.run_command("dags", "trigger", dag_id, "--run-id", run_id, "--conf", json.dumps(conf))
            return
        self.request("POST", f"dags/{dag_id}/dagRuns", dag_run_id=run_id, conf=conf, logical_date=None)

    def request(self, method: str, path: str, **body: Any) -> None:
        """Ask the API of Airflow 3, once it is up."""
        self.wait_for(self._is_up, "Airflow's API")
        token = requests.get(f"{self.url}/auth/token", timeout=10).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        answer = requests.request(method, f"{self.url}/api/v2/{path}", json=body, headers=headers, timeout=30)
        assert answer.ok, answer.text

    def wait_for_run(self, run_id: str, seconds: float = 180) -> str:
        """Wait until a run is over, and return its state."""
        self.wait_for(lambda: self._run_state(run_id) in ("success", "failed"), f"{run_id} to end", seconds)
        return self._run_state(run_id) or ""

    def task_states(self, run_id: str) -> dict[str, str]:
        """Return the states of a run's tasks."""
        return dict(self.query("select task_id, state from task_instance where run_id = ?", run_id))

    def connect(self, **connections: str) -> None:
        """Put these Airflow connections, as JSON by id, in the place of those before."""
        self._write_secrets("connections", {name: json.loads(text) for name, text in connections.items()})

    def set_variables(self, **variables: str) -> None:
        """Put these Airflow variables in the place of those before."""
        self._write_secrets("variables", variables)

    def set_pool(self, name: str, slots: int) -> None:
        """Make a pool."""
        if AIRFLOW_3:
            self.request("POST", "pools", name=name, slots=slots)
        else:
            self.run_command("pools", "set", name, str(slots), name)

    def read_xcom(self, run_id: str, task_id: str) -> Any:
        """Return what a task of a run returned."""
        statement = "select value from xcom where run_id = ? and task_id = ? and key = 'return_value'"
        if AIRFLOW_VERSION >= (3, 4):
            statement = (
                "select xcom_v2.value from xcom_v2 join task_instance on task_instance.id = task_instance_id "
                "where run_id = ? and task_id = ? and key = 'return_value'"
            )
        value = self.query(statement, run_id, task_id)[0][0]
        return (
            json.loads(bytes(value) if isinstance(value, memoryview) else value)
            if not isinstance(value, dict)
            else value
        )

    def task_times(self, run_id: str, task_id: str) -> list[tuple[Any, Any]]:
        """Return when each instance of a task began and ended."""
        statement = "select start_date, end_date from task_instance where run_id = ? and task_id = ?"
        return self.query(statement, run_id, task_id)

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = 180) -> None:
        """Wait until something is so, and say what did not come about in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            for name in [name for name, process in self._processes.items() if process.poll() is not None]:
                if self.restarts_services:
                    self.restart_service(name)
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds:g} s for {what}\n{self._read_output()}")
            time.sleep(0.2)

    def task_logs(self) -> str:
        """Return the logs of all tasks."""
        return "\n".join(path.read_text() for path in sorted((self.home / "logs").rglob("attempt=*.log*")))

    def _write_secrets(self, kind: str, secrets: dict[str, Any]) -> None:
        new = self._secrets[kind].with_suffix(".new")
        new.write_text(json.dumps(secrets))
        new.replace(self._secrets[kind])

    def _is_up(self) -> bool:
        with suppress(requests.RequestException):
            return requests.get(f"{self.url}/api/v2/version", timeout=5).ok
        return False

    def _run_state(self, run_id: str) -> str | None:
        rows = self.query("select state from dag_run where run_id = ?", run_id)
        return rows[0][0] if rows else None

    def query(self, statement: str, *values: str) -> list[Any]:
        """Ask Airflow's database."""
        if self._postgres is not None:
            with (
                closing(psycopg2.connect(self._postgres.replace("+psycopg2", ""))) as database,
                database.cursor() as cursor,
            ):
                cursor.execute(statement.replace("?", "%s"), values)
                return cursor.fetchall()
        with closing(sqlite3.connect(f"file:{self.home}/airflow.db?mode=ro", uri=True, timeout=30)) as database:
            return database.execute(statement, values).fetchall()

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "airflow", *words]

    def _read_output(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in self.home.glob("*.out")
        )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
