"""The commands ``plan`` and ``apply``, and all of them in Airflow's own command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import airflow
import pytest

from airflow_provider_youcan.__main__ import main
from airflow_provider_youcan.cli.commands import COMMANDS
from tests.conftest import Sandbox, paths, payable, read_report
from tests.forked import run_airflow

HAS_PROVIDER_COMMANDS = tuple(map(int, airflow.__version__.split(".")[:2])) >= (3, 2)


@pytest.fixture
def feed(sandbox: Sandbox, tmp_path: Path) -> Path:
    """A courier's file: one order that is paid, and one that nobody knows."""
    path = tmp_path / "courier.csv"
    path.write_text(f"Commande;Paiement\n{payable(sandbox)[0]};COLLECTED\n{payable(sandbox)[1]};NOTHING\n")
    (tmp_path / "map.json").write_text(json.dumps({"payment": {"COLLECTED": "paid", "NOTHING": None}}))
    return path


def plan(feed: Path, *further: str) -> int:
    folder = feed.parent
    options = ["--file", str(feed), "--columns", "order_id=Commande", "payment_status=Paiement"]
    options += ["--status-map", str(folder / "map.json"), "--only-from", "payment=pending,unpaid"]
    return main(["plan", *options, "--plan", str(folder / "plan.jsonl"), *further])


def test_a_plan_is_shown_kept_and_applied_once_a_person_agrees(
    sandbox: Sandbox, feed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a file of the courier's, a plan says what would change, and the exit code that something would.
    assert plan(feed) == 2
    shown = capsys.readouterr()
    path = feed.parent / "plan.jsonl"
    assert "payment: pending → paid: 1" in shown.out
    assert shown.out.endswith(f"The plan is at {path}. Apply it with: python -m airflow_provider_youcan apply {path}\n")
    assert shown.err == ""
    assert paths(sandbox, "PUT") == []

    # It is applied when somebody says so, and not before.
    answers = iter(["n", "", "y"])
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert [main(["apply", str(path)]) for _ in range(2)] == [1, 1]
    assert capsys.readouterr().out.endswith("Nothing was sent.\n")
    assert paths(sandbox, "PUT") == []
    assert main(["apply", str(path)]) == 0
    assert len(paths(sandbox, "PUT")) == 1
    report = feed.parent / "plan.applied.jsonl"
    assert f"The report is at {report}" in capsys.readouterr().out
    assert [line["outcome"] for line in read_report(report)] == ["changed"]

    # Then nothing is left to do, which the exit code says, too.
    assert main(["apply", str(path)]) == 0
    assert capsys.readouterr().out.endswith("Nothing is left to change.\n")
    assert plan(feed) == 0
    assert "Nothing would change." in capsys.readouterr().out


def test_a_plan_is_applied_without_a_person_only_with_yes(
    sandbox: Sandbox, feed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(feed)
    path = str(feed.parent / "plan.jsonl")

    assert main(["apply", path]) == 1
    assert "give --yes to apply the plan" in capsys.readouterr().err
    assert paths(sandbox, "PUT") == []
    assert main(["apply", path, "--yes"]) == 0
    assert len(paths(sandbox, "PUT")) == 1


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (["--file", "nowhere.csv"], "There is no file at nowhere.csv"),
        (["--columns", "order_id"], "--columns has 'order_id': give name=value"),
        (["--only-from", "payment"], "--only-from has 'payment'"),
        (["--only-from", "payments=paid"], "'payments' is not a status context"),
        (["--status-map", "nowhere.json"], "--status-map nowhere.json can't be read"),
        (["--status-map", __file__], "is not JSON"),
        (["--max-changes", "0"], "1 of 1 statuses would change, more than max_changes=0"),
        (["--min-rows", "3"], "fewer than min_rows=3"),
        (["--header-row", "x"], "header_row is 'x'"),
        (["--conn-id", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_explained_in_a_sentence(
    sandbox: Sandbox, feed: Path, further: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(feed, *further) == 1
    assert message in capsys.readouterr().err
    assert paths(sandbox, "PUT") == []


def test_apply_wants_a_whole_plan(sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply", str(tmp_path / "plan.jsonl")]) == 1
    assert "There is no report at" in capsys.readouterr().err


def test_a_sandbox_is_one_of_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sandbox", "--help"])
    assert "--database" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["sandbox", "--orders", "-1"])


@pytest.mark.airflow
@pytest.mark.skipif(not HAS_PROVIDER_COMMANDS, reason="providers bring commands from Airflow 3.2 on")
@pytest.mark.usefixtures("_airflow_database")
def test_airflow_has_the_commands(sandbox: Sandbox, feed: Path) -> None:
    shown = run_airflow("youcan", "--help").stdout
    assert all(re.search(rf"^ +{command.name}\b", shown, re.MULTILINE) for command in COMMANDS)

    options = ["--file", str(feed), "--columns", "order_id=Commande", "payment_status=Paiement"]
    options += ["--status-map", str(feed.parent / "map.json"), "--plan", str(feed.parent / "plan.jsonl")]
    ended = run_airflow("youcan", "plan", *options, check=False)

    assert ended.returncode == 2
    assert "payment: pending → paid: 1" in ended.stdout


def test_airflows_command_line_loads_nothing_for_them() -> None:
    code = (
        "import sys; from airflow_provider_youcan.cli.definition import get_youcan_cli_commands as get; get(); "
        "sys.exit(any(name in sys.modules for name in ('aiohttp', 'uvicorn', 'airflow_provider_youcan.hooks.youcan', "
        "'airflow_provider_youcan.operators.reconcile')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
