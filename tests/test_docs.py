"""Every snippet of the README and of docs/, run as a reader would run it, against the sandbox."""

from __future__ import annotations

import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from importlib.metadata import metadata
from pathlib import Path
from typing import Any, ClassVar

import openpyxl
import pytest
import requests
import sqlalchemy

from airflow_provider_youcan import exceptions
from airflow_provider_youcan.sandbox.misbehaviour import KINDS
from airflow_provider_youcan.sandbox.warehouse import write_warehouse
from tests.conftest import AIRFLOW_3, DAGS_FOLDER, HAS_RETRY_POLICIES, ROOT, Sandbox, all_statuses, load_dags
from tests.forked import run_airflow, run_file, run_module

pytestmark = pytest.mark.airflow

TOP_PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
PAGES = [*TOP_PAGES, *sorted((ROOT / "docs").glob("*.md"))]
SNIPPET = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SNIPPETS = [
    pytest.param(language, text, id=f"{page.stem}-{number}")
    for page in PAGES
    if page.stem != "tutorial"  # a story, told in one piece below
    for number, (language, text) in enumerate(SNIPPET.findall(page.read_text()), 1)
]
MAKE_TARGETS = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())  # type: ignore[index]


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
        output = run_file(path, environment)
        if "retry_policy=YouCanRetryPolicy()" in text and not HAS_RETRY_POLICIES:
            assert "takes Airflow 3.3 or later" in output
            return
        assert "Traceback" not in output, output
        if "DAG(" in text:
            dags = load_dags(path)
            assert dags.import_errors == {}
            for dag in dags.dags.values():
                render_as_triggered_by_hand(dag)
        return
    if language == "sql":
        if text.startswith("create"):
            with closing(sqlite3.connect(":memory:")) as database:
                database.executescript(text)
            return
        with closing(outcomes(tmp_path)) as database:
            assert len(database.execute(text).fetchall()) == 1
        return
    assert language == "bash"
    if "example_youcan_revert" in text:
        follow_the_runbook(text, sandbox, environment, tmp_path)
        return
    commands = text.replace("\\\n", " ").replace("127.0.0.1:8765", f"127.0.0.1:{sandbox.port}").splitlines()
    for command in commands:
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            assert words[1] in MAKE_TARGETS
        elif words[0] == "pip":
            # It isn't published yet. That its wheel installs is for ``make package``.
            words, _, constraints = " ".join(words[2:]).partition(" --constraint ")
            assert not constraints or (ROOT / constraints).exists()
            for name, _, extras in (word.rstrip("]").partition("[") for word in words.split()):
                if not name.startswith("apache-airflow"):
                    assert name == "airflow-provider-youcan"
                    assert not extras or extras in (metadata(name).get_all("Provides-Extra") or [])
        elif words[0] == "python":
            # A server, and a walk that takes a person: what they do is for their own tests.
            assert words[1] == "-m"
            run_module(*words[2:], "--help", environment=environment)
        elif words[0] == "curl":
            assert curl(*words[1:]) < 400
        elif "airflow" in words:
            run_airflow_command(command, environment)
        else:
            subprocess.run(["bash", "-c", command], env=environment, check=True, timeout=180)


def curl(*words: str) -> int:
    """Send what curl would, which a fresh machine does not have, and return the answer's status code."""
    parser = ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-H", dest="header", type=lambda text: text.split(": ", 1))
    parser.add_argument("--json", type=json.loads)
    options = parser.parse_args(words)
    method = options.method or ("GET" if options.json is None else "POST")
    headers = dict([options.header] if options.header else [])
    return requests.request(method, options.url, json=options.json, headers=headers, timeout=10).status_code


def render_as_triggered_by_hand(dag: Any) -> None:
    """Render what a run has that is triggered without a logical date: no ``ds``, and nothing like it."""

    class TaskInstance:
        try_number, map_index = 1, -1

        def xcom_pull(self, **_: Any) -> Any:
            return {"report_path": "x"}

    class Run:
        conf: ClassVar[dict[str, Any]] = {}
        logical_date = None
        run_after = datetime(2026, 3, 2, tzinfo=timezone.utc)

    variables = {"value": {}, "json": {}}
    params = {name: param.value if hasattr(param, "value") else param for name, param in dag.params.items()}
    context = {"params": params, "run_id": "manual__1", "ti": TaskInstance(), "dag_run": Run(), "var": variables}
    for task in dag.tasks:
        if not hasattr(task, "partial_kwargs"):  # what is mapped is rendered when it is expanded
            task.render_template_fields({**context, "task": task})


RUN_ID = "manual__2026-11-24T06:00:00+00:00"


def outcomes(folder: Path, order_ids: tuple[str, ...] = ("abc",)) -> sqlite3.Connection:
    """A warehouse where the example has left its outcomes: changes, and one failure."""
    database = sqlite3.connect(folder / "warehouse.db")
    columns = "dag_id, run_id, task_id, map_index, try_number, table_row, order_id, ref, status_context, status_before"
    added = "unconfirmed, line, youcan_conn_id, store, record_version"
    database.execute(f"create table youcan_outcomes ({columns}, status_wanted, outcome, reason, {added}, recorded_at)")
    for number, order_id in enumerate((*order_ids, "gone")):
        outcome = "not_found" if order_id == "gone" else "changed"
        keys = ("example_youcan_reconcile", RUN_ID, "reconcile", -1, 1, number)
        line = (order_id, None, "payment", "pending", "paid", outcome, None, 0, number + 1, None, None, 1)
        marks = ", ".join("?" * 19)
        database.execute(f"insert into youcan_outcomes values ({marks})", (*keys, *line, "2026-11-24 06:00:01.000000"))
    database.execute("create table courier_orders (order_id, shipping_status, payment_status)")
    database.execute("insert into courier_orders values ('abc', 'RETURNED', 'COLLECTED')")
    database.execute("create table youcan_orders (order_id, shipping_status, created_at)")
    database.execute("insert into youcan_orders values ('abc', 'shipped', '2026-11-01 06:00:00')")
    database.commit()
    return database


def follow_the_runbook(text: str, sandbox: Sandbox, environment: dict[str, str], folder: Path) -> None:
    # Given a wrong table that was applied,
    pending = [order["id"] for order in sandbox.shop.orders() if order["payment_status"] == "pending"]
    outcomes(folder, tuple(pending)).close()
    for order_id in pending:
        sandbox.shop.set_status(order_id, "payment", "paid")
    environment["AIRFLOW_CONN_SQLITE_DEFAULT"] = json.dumps(
        {"conn_type": "sqlite", "host": str(folder / "warehouse.db")}
    )
    examples = [DAGS_FOLDER / f"example_youcan_{name}.py" for name in ("reconcile", "revert")]
    for example in examples:
        example.write_text((ROOT / "example_dags" / example.name).read_text())
    try:
        run_airflow("dags", "reserialize", environment=environment)

        # when the five commands of the runbook are run,
        commands = text.splitlines()
        assert len(commands) == 5
        answers = [run_airflow_command(command, environment) for command in commands]
    finally:
        for example in examples:
            example.unlink()

    # then the first dry run says what would change, the run changes it back, and the second finds nothing left.
    assert f"pending: {len(pending)}" in answers[1]
    assert f"pending: {len(pending)}" in answers[2]
    assert f"pending: {len(pending)}" not in answers[3]
    assert {sandbox.shop.statuses(order_id)["payment"] for order_id in pending} == {"pending"}


def run_airflow_command(command: str, environment: dict[str, str]) -> str:
    """Run ``NAME=value airflow …`` as a shell would, and return what it printed."""
    words = shlex.split(command, comments=True)
    start = words.index("airflow")
    settings = dict(word.split("=", 1) for word in words[:start])
    ended = run_airflow(*words[start + 1 :], environment=environment | settings)
    return ended.stdout + ended.stderr


def test_the_first_dag_of_the_readme_does_what_it_says(
    sandbox: Sandbox, environment: dict[str, str], dag_files: list[Path]
) -> None:
    command = re.search(r"^airflow dags test .*$", PAGES[0].read_text(), re.MULTILINE)
    assert command is not None

    run_airflow_command(command[0], environment)

    order_id = sandbox.shop.order_ids()[0]
    assert sandbox.shop.statuses(order_id) | {"general": ""} == {
        "general": "",
        "shipping": "fulfilled",
        "payment": "paid",
    }


def test_the_tutorial_is_a_story_that_works(environment: dict[str, str], tmp_path: Path) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text()
    page = page.replace("/tmp/youcan-", f"{tmp_path}/youcan-")
    # The reader has the connections of the page, and no others.
    environment = {name: value for name, value in environment.items() if not name.startswith("AIRFLOW_CONN")}
    written = re.findall(r"Save this as `(\w+\.py)`", page)
    with Sandbox(orders=200) as sandbox:
        page = page.replace("8765", str(sandbox.port))
        said, before = [], all_statuses(sandbox)
        made = iter(written)
        for language, text in SNIPPET.findall(page):
            if language == "python":
                (DAGS_FOLDER / next(made)).write_text(text)
                continue
            for command in text.splitlines():
                if "sandbox --warehouse" in command:
                    # It is the shop that runs here.
                    write_warehouse(command.split()[-1], sandbox.shop)
                elif command.startswith("airflow") and "db migrate" not in command:
                    said.append((command, run_airflow_command(command, environment), all_statuses(sandbox)))
        outputs = {command.split()[-1]: (output, statuses) for command, output, statuses in said}
    for name in written:
        (DAGS_FOLDER / name).unlink()

    assert "payment 'pending' → 'paid'" in outputs["first_status"][0]
    first = outputs["first_status"][1]
    assert outputs["courier_plan"][1] == first != before
    shown = page[page.index("rows (0 invalid), ") :].partition("```")[0].splitlines()
    assert [line for line in shown[1:] if line not in outputs["courier_plan"][0]] == []
    assert outputs["courier_apply"][1] != first
    assert outputs["courier_undo"][1] == first


def test_the_week_of_a_couriers_files_is_reconciled_by_the_dag_of_the_page(
    sandbox: Sandbox, environment: dict[str, str], tmp_path: Path
) -> None:
    # Given a workbook a day: title lines, several events of an order, orders of another shop, and a total at the end,
    page = (ROOT / "docs" / "sources.md").read_text()
    (snippet,) = [text for _, text in SNIPPET.findall(page) if "courier_week" in text]
    assert len(snippet.splitlines()) < 30
    orders = [order for order in sandbox.shop.orders() if order["payment_status"] == "pending"][:7]
    for day, order in enumerate(orders):
        book, date = openpyxl.Workbook(), datetime(2026, 3, 2) + timedelta(days=day)
        for row in (
            ("Coursier Atlas",),
            (f"Feuille du {date:%d/%m/%Y}",),
            ("N° commande", "Statut", "Encaissement", "Date", "Téléphone"),
            (order["ref"], "Livré", "Encaissé", date + timedelta(hours=15), "+212600000000"),
            (order["ref"], "Expédié", None, date + timedelta(hours=9), "+212600000000"),
            ("88888", "Livré", "Encaissé", date, None),  # of another shop
            ("021B", "Perdu ?", None, date, None),  # no word that anybody knows
            (None, None, None, None, None),
            ("Total", None, None, None, 3),
        ):
            book.active.append(row)
        book.save(tmp_path / f"{date:%Y-%m-%d}.xlsx")
    path = DAGS_FOLDER / "courier_week.py"
    path.write_text(snippet.replace("/tmp/courier", str(tmp_path)))

    # when the DAG runs for each day,
    try:
        dag = load_dags(path).dags["courier_week"]
        days = [datetime(2026, 3, 2, tzinfo=timezone.utc) + timedelta(days=day) for day in range(7)]
        states = [str(dag.test(**{"logical_date" if AIRFLOW_3 else "execution_date": day}).state) for day in days]
    finally:
        path.unlink()

    # then every order is where the courier has seen it last.
    assert states == ["success"] * 7
    for order in orders:
        statuses = sandbox.shop.statuses(order["id"])
        assert (statuses["shipping"], statuses["payment"]) == ("fulfilled", "paid")


def test_the_house_lists_every_module() -> None:
    house = (ROOT / "docs" / "development.md").read_text().partition("## The house")[2].partition("Imports run")[0]
    package = ROOT / "airflow_provider_youcan"

    missing = [
        str(path.relative_to(package))
        for path in sorted(package.rglob("*.py"))
        if path.name not in ("__init__.py", "py.typed") and not re.search(rf"\b{re.escape(path.name)}\b", house)
    ]

    assert missing == []


def test_the_sandboxs_page_lists_every_misbehaviour() -> None:
    table = re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "docs/sandbox.md").read_text(), re.MULTILINE)
    assert set(KINDS) <= set(table)


def test_the_table_of_errors_says_what_the_classes_are() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| .* \| `(\w+)`.* \| (yes|no) \|$", page, re.MULTILINE)

    assert {name for name, _ in rows} > {"YouCanServerError", "YouCanStoreSuspendedError", "YouCanRecordError"}
    for name, retries in rows:
        assert issubclass(getattr(exceptions, name), exceptions.YouCanTransientError) is (retries == "yes"), name


def test_make_says_what_a_system_has_to_have_as_the_readme_does(tmp_path: Path) -> None:
    words = re.search(r"apt-get install -y [a-z0-9 -]+", PAGES[0].read_text())
    assert words is not None
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")  # as one without ensurepip
    python.chmod(0o755)

    # Run by another make or not, it is one of its own.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    for name in ("missing", "python"):
        venv = f"{tmp_path}/venv"
        command = ["make", f"VENV={venv}", f"PYTHON={tmp_path}/{name}", f"{venv}/installed"]
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

        assert ended.returncode != 0
        assert words[0] in ended.stderr.splitlines()[0]


def test_every_link_between_the_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_each_promise_of_the_security_page_names_tests_that_are_there() -> None:
    page = (ROOT / "SECURITY.md").read_text()
    promised = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(promised) > 10
    for line in promised:
        file = None
        names = re.findall(r"`(?:(tests/\w+\.py)::)?(test_\w+)`", line)
        assert names, line
        for path, name in names:
            file = path or file
            assert file is not None, line
            assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
