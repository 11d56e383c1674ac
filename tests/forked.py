"""Processes that have imported Airflow already: importing it takes seconds."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

__all__ = ["DagRunner", "begin_reconciling", "run_airflow", "run_file", "run_module"]

_context = multiprocessing.get_context("forkserver")
# What one Airflow doesn't have is passed over.
_context.set_forkserver_preload(
    [
        "airflow.models",
        "airflow.providers.common.compat.sdk",
        "airflow.__main__",
        "airflow.cli.commands.connection_command",
        "airflow.api_fastapi.execution_api.app",
        "airflow_provider_youcan.hooks.shared_client",
        "airflow_provider_youcan.hooks.youcan",
        "airflow_provider_youcan.operators.reconcile",
        "airflow_provider_youcan.reconciliation.run",
        "tests.forked",
    ]
)


def run_airflow(
    *words: str, environment: Mapping[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command of Airflow's own, on the tests' own home; else as :func:`run_module`."""
    return run_module("airflow", *words, environment=environment, check=check)


def run_module(
    module: str, *words: str, environment: Mapping[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """
    Run what ``python -m module`` would.

    :param module: the module.
    :param words: its command line.
    :param environment: all of its environment variables (default those of the tests).
    :param check: if true (default), an exit code other than 0 is an error.
    """
    ended = _run(_run_module, module, words, environment=os.environ if environment is None else environment)
    assert not check or ended.returncode == 0, f"{module} {' '.join(words)}\n{ended.stdout}{ended.stderr}"
    return ended


def run_file(path: Path, environment: Mapping[str, str] | None = None) -> str:
    """
    Run a Python file in which any warning is an error, as far as the file itself is its cause.

    :param path: the file.
    :param environment: environment variables that it gets besides.
    :return: what it printed, with the traceback, if it ended in one, at its end.
    """
    ended = _run(_run_file, path, environment=os.environ | (environment or {}))
    return ended.stdout + ended.stderr


class DagRunner:
    """
    A process that runs DAGs one after the other, under settings that Airflow reads only when it is imported.

    :param settings: environment variables of its own.
    """

    def __init__(self, **settings: str) -> None:
        self._settings = settings
        self._answers, answers = os.pipe()
        command = [sys.executable, "-c", _DAG_RUNNER, str(answers)]
        self._process = subprocess.Popen(
            command,
            env=os.environ | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[answers],
            start_new_session=True,  # OpenLineage starts processes of its own, which end with it
        )
        os.close(answers)

    def run(self, dag_id: str) -> bool:
        """Run ``airflow dags test``, under the present environment variables, and return whether it succeeded."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([dag_id, dict(os.environ) | self._settings]).encode() + b"\n")
        self._process.stdin.flush()
        is_over = select.select([self._answers], [], [], 120)[0]
        if not is_over:
            self._kill()  # else its answer would be taken for the next one's
        assert is_over, f"{dag_id} ran for two minutes"
        answer = os.read(self._answers, 1)
        assert answer, f"the process that ran {dag_id} has ended"
        return answer == b"0"

    def close(self) -> None:
        """End it."""
        self._kill()
        os.close(self._answers)

    def _kill(self) -> None:
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


_DAG_RUNNER = """
import json, os, sys
from airflow.__main__ import main
answers = int(sys.argv[1])
for line in sys.stdin:
    dag_id, environment = json.loads(line)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["airflow", "dags", "test", dag_id]
    code = 0
    try:
        main()
    except BaseException as end:
        code = end.code if isinstance(end, SystemExit) else 1
    os.write(answers, b"1" if code else b"0")
"""


def begin_reconciling(
    rows: list[dict[str, Any]], try_number: int, environment: Mapping[str, str], **arguments: Any
) -> Any:
    """Start a process that reconciles rows, as a try of a task does, and return it: it can be killed."""
    process = _context.Process(target=_reconcile, args=(rows, try_number, dict(environment), arguments))
    process.start()
    return process


def _reconcile(
    rows: list[dict[str, Any]], try_number: int, environment: dict[str, str], arguments: dict[str, Any]
) -> None:
    os.environ.update(environment)
    from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator

    keys = {"dag_id": "warehouse", "run_id": "manual__1", "task_id": "reconcile", "map_index": -1}
    task_instance = SimpleNamespace(**keys, try_number=try_number, xcom_push=lambda **_: None)
    operator = YouCanReconcileOrdersOperator(task_id="reconcile", orders=rows, **arguments)
    with suppress(Exception):
        operator.execute({"ti": task_instance})


def _run(target: Any, *arguments: Any, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        process = _context.Process(target=_begin, args=(outputs, dict(environment), target, *arguments))
        process.start()
        process.join(180)
        is_late = process.is_alive()
        process.kill()
        process.join()
        out, err = (output.read_text() for output in outputs)
    assert not is_late, f"{arguments} ran for three minutes\n{out}{err}"
    return subprocess.CompletedProcess(arguments, process.exitcode or 0, out, err)


def _begin(outputs: list[Path], environment: dict[str, str], target: Any, *arguments: Any) -> None:
    for number, output in enumerate(outputs, 1):
        with output.open("wb") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)


def _run_module(module: str, words: tuple[str, ...]) -> None:
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _run_file(path: Path) -> None:
    from airflow.providers.common.compat.sdk import task

    _ = task.python  # Airflow looks for decorators, and may warn of those that it finds
    warnings.filterwarnings("error", module="snippet$")
    runpy.run_path(str(path), run_name="snippet")
