"""Python files, each in a process of its own that has imported Airflow already: importing it takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import warnings
from pathlib import Path

__all__ = ["run_file"]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["airflow.models", "airflow.providers.common.compat.sdk", "tests.forked"])


def run_file(path: Path, folder: Path, environment: dict[str, str] | None = None) -> str:
    """
    Run a Python file in which any warning is an error, as far as the file itself is its cause.

    :param path: the file.
    :param folder: an empty folder for what it prints.
    :param environment: environment variables that it gets besides.
    :return: what it printed, with the traceback, if it ended in one, at its end.
    """
    output = folder / "output"
    process = _context.Process(target=_run, args=(path, output, environment or {}))
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
        raise AssertionError(f"{path} ran for two minutes\n{output.read_text()}")
    return output.read_text()


def _run(path: Path, output: Path, environment: dict[str, str]) -> None:
    from airflow.providers.common.compat.sdk import task

    _ = task.python  # Airflow looks for decorators, and may warn of those that it finds
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    warnings.filterwarnings("error", module="snippet$")
    runpy.run_path(str(path), run_name="snippet")
