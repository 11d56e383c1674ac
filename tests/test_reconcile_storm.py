"""
Many rows through a storm, and runs that are killed again and again: what is reported is what happened.

Each storm has a small size, and a full one that is left out of the other tests: make test-slow.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_youcan.operators.reconcile import (
    YouCanReconcileOrdersOperator,
    YouCanRevertReconciliationOperator,
)
from airflow_provider_youcan.sandbox import Sandbox
from tests.conftest import AIRFLOW_3, HOME, read_report

# Nothing in them is Airflow's, so that they say on one what they say on the other.
pytestmark = pytest.mark.skipif(not AIRFLOW_3, reason="it says the same as on Airflow 3")

CONTEXTS = {"status": "general", "shipping_status": "shipping", "payment_status": "payment"}
STATUSES = {
    "status": ["processed", "closed", None],
    "shipping_status": ["shipped", "fulfilled", None],
    "payment_status": ["paid", "unpaid", None],
}
RUN = """
import json, sys
from pathlib import Path
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
rows = json.loads(Path(sys.argv[1]).read_text())
YouCanReconcileOrdersOperator(task_id="reconcile", orders=rows, report_path=sys.argv[2]).execute({})
"""


def make_rows(sandbox: Sandbox, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {"order_id": order_id, **{column: draw.choice(slugs) for column, slugs in STATUSES.items()}}
        for order_id in sandbox.shop.order_ids()
    ]


def brew_a_storm(sandbox: Sandbox) -> None:
    sandbox.misbehave("status", status=500, share=0.05)
    sandbox.misbehave("drop", share=0.02)
    sandbox.misbehave("lose-answer", share=0.01, route="PUT /orders/*")
    sandbox.misbehave("rate-limit", limit=1000, seconds=1)


def assert_all_is_as_wished(sandbox: Sandbox, rows: list[dict[str, Any]]) -> None:
    orders = {order["id"]: order for order in sandbox.shop.orders()}
    for row in rows:
        for column, context in CONTEXTS.items():
            if row[column] is not None:
                assert orders[row["order_id"]][f"{context}_status"] == row[column]


def assert_report_is_true(
    lines: list[dict[str, Any]], before: dict[str, dict[str, Any]], history: list[dict[str, Any]]
) -> None:
    """Hold each line against what the shop itself knows of it."""
    happened: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for entry in history:
        if entry["before"] != entry["after"]:
            happened.setdefault((entry["order_id"], entry["context"]), []).append((entry["before"], entry["after"]))
    reported: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for line in lines:
        key = (line["order_id"], line["context"])
        if line["outcome"] == "changed":
            reported.setdefault(key, []).append((line["before"], line["wanted"]))
        elif line["outcome"] == "unchanged":
            assert line["before"] == line["wanted"]
        else:
            assert line["outcome"] in ("failed", "not_reached"), line
    for key, changes in reported.items():
        assert happened.get(key) == changes, f"{key} is reported, and did not happen so"
    assert before.keys() >= {order_id for order_id, _ in reported}


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    monkeypatch.setattr("airflow_provider_youcan.client.attempts.back_off", lambda failures, rng: draw.uniform(0, 0.1))


@pytest.mark.parametrize("orders", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_table_through_a_storm(
    monkeypatch: pytest.MonkeyPatch, quick_retries: None, tmp_path: Path, orders: int
) -> None:
    with Sandbox(orders=orders) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(timeout=10))
        rows = make_rows(sandbox, seed=1)
        before = {order["id"]: order for order in sandbox.shop.orders()}
        brew_a_storm(sandbox)
        report = tmp_path / "report.jsonl"

        summary = YouCanReconcileOrdersOperator(
            task_id="reconcile", orders=rows, max_concurrency=32, report_path=str(report)
        ).execute({})

        assert_all_is_as_wished(sandbox, rows)
        lines = read_report(report)
        history = sandbox.shop.history()
        desired = sum(row[column] is not None for row in rows for column in CONTEXTS)
        assert len(lines) == desired == summary["changed"] + summary["unchanged"]
        assert Counter(line["outcome"] for line in lines) == {
            outcome: summary[outcome] for outcome in ("changed", "unchanged")
        }
        assert_report_is_true(lines, before, history)
        # Each change happened once, however often its answer was lost.
        assert len(history) == summary["changed"]


@pytest.mark.parametrize(("orders", "max_kills"), [(400, 2), pytest.param(2_000, 10, marks=pytest.mark.slow)])
def test_a_run_killed_again_and_again_sends_only_what_is_missing(tmp_path: Path, orders: int, max_kills: int) -> None:
    with Sandbox(orders=orders) as sandbox:
        rows = make_rows(sandbox, seed=2)
        before = {order["id"]: order for order in sandbox.shop.orders()}
        sandbox.misbehave("status", status=500, share=0.05)
        sandbox.misbehave("drop", share=0.02)
        sandbox.misbehave("lose-answer", share=0.01, route="PUT /orders/*")
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        environment = os.environ | {
            "AIRFLOW_HOME": str(HOME),
            "AIRFLOW_CONN_YOUCAN_DEFAULT": sandbox.connection(timeout=10, max_attempts=8),
        }
        draw = random.Random()
        kills = 0
        for run in range(100):
            already = len(sandbox.shop.history())
            command = [sys.executable, "-c", RUN, str(tmp_path / "rows.json"), str(tmp_path / f"{run}.jsonl")]
            with subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as process:
                if kills < max_kills:
                    # At a random moment of its sending.
                    target = already + draw.randrange(1, orders // 7)
                    while process.poll() is None and len_of_history(sandbox) < target:
                        time.sleep(0.01)
                    if process.poll() is None:
                        process.kill()
                        kills += 1
                        continue
                output, _ = process.communicate(timeout=300)
                assert process.returncode == 0, output[-2000:]
                break

        assert kills == max_kills
        assert_all_is_as_wished(sandbox, rows)
        history = sandbox.shop.history()
        lines = [
            json.loads(line)
            for path in sorted(tmp_path.glob("*.jsonl"), key=lambda path: int(path.stem))
            # A killed process may leave half a line, and leaves no last one.
            for line in path.read_text().splitlines(keepends=True)
            if line.endswith("\n") and not re.search('"outcome": "(complete|sending)"', line)
        ]
        assert_report_is_true(lines, before, history)
        reported = sum(line["outcome"] == "changed" for line in lines)
        happened = sum(entry["before"] != entry["after"] for entry in history)
        assert reported <= happened <= reported + kills * 16, (
            "what was under way at a kill happened, and nobody could know"
        )
        twice = Counter((entry["order_id"], entry["context"]) for entry in history)
        assert sum(number - 1 for number in twice.values()) <= kills * 16


APPLY = """
import sys
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
YouCanReconcileOrdersOperator(task_id="apply", plan=sys.argv[1]).execute({})
"""


@pytest.mark.parametrize(
    ("orders", "kills"), [(300, (150,)), pytest.param(1_500, (400, 1_100), marks=pytest.mark.slow)]
)
def test_a_plan_that_was_applied_through_a_storm_and_kills_is_taken_back_to_the_last_status(
    monkeypatch: pytest.MonkeyPatch, quick_retries: None, tmp_path: Path, orders: int, kills: tuple[int, ...]
) -> None:
    with Sandbox(orders=orders) as sandbox:
        # Given a plan of more changes than orders, and a storm,
        connection = sandbox.connection(timeout=10, max_attempts=8)
        monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", connection)
        before = {order["id"]: sandbox.shop.statuses(order["id"]) for order in sandbox.shop.orders()}
        rows, plan = make_rows(sandbox, seed=3), str(tmp_path / "plan.jsonl")
        planned = YouCanReconcileOrdersOperator(task_id="plan", orders=rows, dry_run=True, report_path=plan).execute({})
        assert planned["planned"] > 4 / 3 * orders
        brew_a_storm(sandbox)

        # when it is applied, and killed on the way,
        environment = os.environ | {"AIRFLOW_HOME": str(HOME), "AIRFLOW_CONN_YOUCAN_DEFAULT": connection}
        for target in (*kills, None):
            command = [sys.executable, "-c", APPLY, plan]
            with subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as one:
                while target is not None and one.poll() is None and len_of_history(sandbox) < target:
                    time.sleep(0.01)
                if target is not None:
                    one.kill()
                assert (one.wait(timeout=300) == 0) == (target is None)
        assert_all_is_as_wished(sandbox, rows)

        # and taken back by that plan, then the shop stands as before.
        summary = YouCanRevertReconciliationOperator(task_id="revert", report=plan, max_concurrency=32).execute({})
        assert summary["changed"] == planned["planned"]
        assert {order["id"]: sandbox.shop.statuses(order["id"]) for order in sandbox.shop.orders()} == before


def len_of_history(sandbox: Sandbox) -> int:
    number: int = sandbox.shop._read("select count(*) from history")[0][0]
    return number
