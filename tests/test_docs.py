"""Every snippet of the README and of docs/, run as a reader would run it, against the sandbox."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path

import pytest
import sqlalchemy

from tests.conftest import AIRFLOW_3, DAGS_FOLDER, ROOT, Sandbox, load_dags

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPET = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SNIPPETS = [
    pytest.param(language, text, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, (language, text) in enumerate(SNIPPET.findall(page.read_text()), 1)
]
MAKE_TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.fixture
def environment(sandbox: Sandbox, _airflow_database: None) -> dict[str, str]:
    """A reader's shell: both of the connections that the pages speak of lead to the sandbox."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "AIRFLOW_CONN_MY_SHOP": sandbox.connection(),
    }


@pytest.fixture(autouse=True)
def _no_connections(_airflow_database: None) -> Iterator[None]:
    """What one page adds, another adds as well."""
    from airflow.utils.session import create_session

    yield
    with create_session() as session:
        session.execute(sqlalchemy.text("delete from connection"))


@pytest.fixture
def dag_files() -> Iterator[list[Path]]:
    """The DAGs of the README, where Airflow finds them."""
    paths = []
    for number, (language, text) in enumerate(SNIPPET.findall(PAGES[0].read_text())):
        if language == "python":
            paths.append(DAGS_FOLDER / f"readme_{number}.py")
            paths[-1].write_text(text)
    yield paths
    for path in paths:
        path.unlink()


@pytest.mark.parametrize(("language", "text"), SNIPPETS)
def test_a_snippet_does_what_it_shows(
    language: str, text: str, sandbox: Sandbox, environment: dict[str, str], dag_files: list[Path], tmp_path: Path
) -> None:
    if language == "python":
        path = tmp_path / "snippet.py"
        path.write_text(text)
        command = [sys.executable, "-W", "error:::snippet", str(path)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        if "YouCanRetryPolicy()" in text and not AIRFLOW_3:
            assert "takes Airflow 3.3 or later" in ended.stderr
            return
        assert ended.returncode == 0, ended.stdout + ended.stderr
        if "DAG(" in text:
            assert load_dags(path).import_errors == {}
        return
    assert language == "bash"
    commands = text.replace("\\\n", " ").replace("127.0.0.1:8765", f"127.0.0.1:{sandbox.port}").splitlines()
    for command in commands:
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            assert words[1] in MAKE_TARGETS
        elif words[0] == "pip":
            # It isn't published yet. That its wheel installs is for ``make package``.
            name, _, extras = words[2].rstrip("]").partition("[")
            assert name == "airflow-provider-youcan"
            assert not extras or extras in (metadata("airflow-provider-youcan").get_all("Provides-Extra") or [])
        elif words[0] == "python":
            # A server, and a walk that takes a person: what they do is for their own tests.
            assert words[1] == "-m"
            subprocess.run([*words, "--help"], env=environment, check=True, capture_output=True)
        else:
            ended = subprocess.run(
                ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False, timeout=120
            )
            assert ended.returncode == 0, ended.stdout + ended.stderr
            if words[0] == "curl":
                assert '"status": 4' not in ended.stdout


def test_the_first_dag_of_the_readme_does_what_it_says(
    sandbox: Sandbox, environment: dict[str, str], dag_files: list[Path]
) -> None:
    command = re.search(r"^airflow dags test .*$", PAGES[0].read_text(), re.MULTILINE)
    assert command is not None

    subprocess.run(["bash", "-c", command[0]], env=environment, check=True, capture_output=True, timeout=120)

    order_id = sandbox.shop.order_ids()[0]
    assert sandbox.shop.statuses(order_id) | {"general": ""} == {
        "general": "",
        "shipping": "fulfilled",
        "payment": "paid",
    }


def test_every_link_between_the_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
