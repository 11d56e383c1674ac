"""
Any table, any shop, any kill: the undo by the record alone restores every status that nobody else touched.

A run is killed with SIGKILL at a random moment, once or several times, while others change statuses; its record is a
file or a table. One doubt is left out, because no record can decide it: an update that was announced, and never
answered, whose target somebody else set in the same moment.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_youcan.sandbox import Sandbox, Shop
from airflow_provider_youcan.sandbox.shop import Request
from tests.conftest import TaskInstance, all_statuses, revert
from tests.forked import begin_reconciling

SLUGS = {
    "general": ["open", "processed", "closed"],
    "shipping": ["unfulfilled", "shipped", "fulfilled"],
    "payment": ["pending", "paid", "unpaid", "captured"],
}
COLUMNS = {"general": "status", "shipping": "shipping_status", "payment": "payment_status"}


class Others:
    """People and other programs, who change statuses while a run is under way, and who kill it at last."""

    def __init__(self, sandbox: Sandbox, draw: random.Random) -> None:
        self.touched: set[tuple[str, str]] = set()
        self._sandbox, self._draw = sandbox, draw
        self._left = 0
        self._process: Any = None

    def watch(self, process: Any, requests: int) -> None:
        """Kill a process at about so many requests from now."""
        self._left, self._process = requests, process

    def __call__(self, _: Request) -> None:
        self._left -= 1
        if self._left == 0:
            # Before the answer leaves, or a moment after it: between two lines of the record, as likely as not.
            if self._draw.random() < 0.5:
                os.kill(self._process.pid, signal.SIGKILL)
            else:
                threading.Timer(self._draw.uniform(0, 0.02), self._process.kill).start()
        if self._draw.random() < 0.1:
            order_id = self._draw.choice(self._sandbox.shop.order_ids())
            context = self._draw.choice(list(SLUGS))
            # What no row asks for, so that it can't be taken for what the run did.
            self._sandbox.shop.set_status(order_id, context, f"set by others {self._draw.random()}")
            self.touched.add((order_id, context))


@pytest.mark.parametrize("kills", [8, pytest.param(65, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["file", "table"])
def test_a_killed_run_is_taken_back_by_its_record_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, kills: int
) -> None:
    killed, seed = 0, 0
    while killed < kills:
        seed += 1
        folder = tmp_path / str(seed)
        folder.mkdir()
        with closing(Shop(orders=12, seed=seed)) as shop, Sandbox(shop=shop) as sandbox:
            killed += kill_and_take_back(sandbox, monkeypatch, folder, kind, random.Random(seed))


def kill_and_take_back(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str, draw: random.Random
) -> int:
    warehouse = json.dumps({"conn_type": "sqlite", "host": str(folder / "warehouse.db")})
    environment = {
        "AIRFLOW_CONN_YOUCAN_DEFAULT": sandbox.connection(max_attempts=draw.choice([1, 3])),
        "AIRFLOW_CONN_WAREHOUSE": warehouse,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with closing(sqlite3.connect(folder / "warehouse.db")):
        pass
    before = all_statuses(sandbox)
    if draw.random() < 0.5:
        sandbox.misbehave("lose-answer", route="PUT *", share=0.1)
        sandbox.misbehave("status", status=500, share=0.05)
    table = {"report_table": "outcomes", "report_conn_id": "warehouse"}
    others, killed, reports = Others(sandbox, draw), 0, []
    with sandbox.on_request(others):
        for try_number in range(1, draw.choice([1, 2, 3]) + 1):
            path = str(folder / f"report{try_number}.jsonl")
            arguments: dict[str, Any] = {"report_path": path} if kind == "file" else dict(table)
            arguments["max_concurrency"] = draw.choice([1, 4, 16])
            if draw.random() < 0.3:
                arguments["max_changes"] = "100%"
            process = begin_reconciling(draw_rows(sandbox, draw), try_number, environment, **arguments)
            others.watch(process, draw.randint(1, 40))
            process.join(60)
            killed += process.exitcode == -signal.SIGKILL
            reports += [path] if Path(path).exists() else []
    sandbox.misbehaviours.clear()
    seen = all_statuses(sandbox)
    if kind == "table":
        if not has_rows(folder / "warehouse.db"):
            assert seen == before | {key: seen[key] for key, _ in others.touched}
            return killed
        revert(
            TaskInstance(run_id="undo"), reverts_run_id="manual__1", report_table="outcomes", report_conn_id="warehouse"
        )
    elif any(Path(path).stat().st_size for path in reports):
        revert(report=reports)
    after = all_statuses(sandbox)
    for order_id, statuses in before.items():
        for context, status in statuses.items():
            if (order_id, context) not in others.touched:
                assert after[order_id][context] == status, (order_id, context, folder)
            elif seen[order_id][context].startswith("set by others"):
                assert after[order_id][context] == seen[order_id][context], "what others set last is theirs"
    return killed


def draw_rows(sandbox: Sandbox, draw: random.Random) -> list[dict[str, Any]]:
    rows = []
    for order_id in draw.sample(sandbox.shop.order_ids(), draw.randint(1, 12)):
        contexts = draw.sample(list(SLUGS), draw.randint(1, 3))
        rows.append({"order_id": order_id, **{COLUMNS[one]: draw.choice(SLUGS[one]) for one in contexts}})
    return rows


def has_rows(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as database:
        try:
            return bool(database.execute("select 1 from outcomes where outcome = 'sending' limit 1").fetchone())
        except sqlite3.OperationalError:
            return False
