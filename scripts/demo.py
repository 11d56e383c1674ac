"""
The demo: real Airflow DAGs change the statuses of orders in a local shop, one by one and a whole table.

What is special comes last: a typo is refused, a table is planned, approved and applied, the run is killed in the
middle, and taken back. Its Airflow home, with the log, lies in ``.demo`` and is made again each time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.sandbox import Sandbox

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".demo"
LOG = HOME / "dag.log"
CONSOLE = Console()
ORDERS = 2000
KILLED_AFTER = 700


class DemoError(Exception):
    """Something was not as the demo says."""


def main() -> int:
    shutil.rmtree(HOME, ignore_errors=True)
    (HOME / "dags").mkdir(parents=True)
    (HOME / "dags" / "demo.py").write_text(DAGS)
    try:
        with Sandbox(orders=60) as sandbox:
            _set_statuses(sandbox)
            _refuse_typo(sandbox)
        with Sandbox(orders=ORDERS) as sandbox:
            _reconcile(sandbox)
    except DemoError as error:
        CONSOLE.print(f"[red]{error}[/] See {LOG.relative_to(ROOT)}.", highlight=False)
        return 1
    CONSOLE.print(
        f"\nThe log lies in {LOG.relative_to(ROOT)}. Where to read on:\n"
        "  docs/tutorial.md     the same by your own hand, in fifteen minutes\n"
        "  docs/connection.md   your own shop: token, scopes, the Test button\n"
        "  docs/reconciling.md  your own table"
    )
    return 0


def _set_statuses(sandbox: Sandbox) -> None:
    _say("1. A DAG sets statuses", f"A YouCan shop with 60 orders listens on {sandbox.url}.")
    order_ids = _choose_orders(sandbox)
    before = [sandbox.shop.statuses(order_id) for order_id in order_ids]
    _check(_run(["db", "migrate"], sandbox), "Airflow made no database.")
    conf = json.dumps({"order_ids": order_ids})
    folder = {"AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "example_dags")}
    CONSOLE.print("Airflow runs example_dags/example_youcan_order_status.py …")
    _check(_run(["dags", "test", "example_youcan_order_status", "--conf", conf], sandbox, folder), "The DAG failed.")
    after = [sandbox.shop.statuses(order_id) for order_id in order_ids]
    _show(sandbox, order_ids, before, after)
    CONSOLE.print("The last one had been canceled: the guard only_from kept it as it is.")
    goal = {"general": "processed", "shipping": "shipped", "payment": "paid"}
    _check(after.count(goal) == len(order_ids) - 1, "Not all orders are what the DAG makes of them.")


def _refuse_typo(sandbox: Sandbox) -> None:
    _say(
        "2. A typo is refused",
        "YouCan would take it for a label. The operator asks the store's own list first:",
    )
    order_id = sandbox.shop.order_ids()[0]
    before = sandbox.shop.statuses(order_id)
    conf = json.dumps({"order_id": order_id})
    _run(["dags", "test", "typo", "--conf", conf], sandbox)
    message = re.search(r"'payed' is not a payment status of this store\.\s+.*?\.(?=\s)", LOG.read_text())
    _check(message is not None and sandbox.shop.statuses(order_id) == before, "The typo was not refused.")
    CONSOLE.print(*(f"  {line}" for line in str(message and message[0]).splitlines()), sep="\n", highlight=False)


def _reconcile(sandbox: Sandbox) -> None:
    _say(
        "3. A table is planned, and approved",
        f"A courier collected the money for all {ORDERS:,} orders of another shop, says a SQLite warehouse.",
    )
    shop, ids = sandbox.shop, sandbox.shop.order_ids()
    before = {order_id: shop.statuses(order_id)["payment"] for order_id in ids}
    with closing(sqlite3.connect(HOME / "warehouse.db")) as database:
        database.execute("create table courier (order_id text, payment_status text)")
        database.executemany("insert into courier values (?, 'COLLECTED')", [(order_id,) for order_id in ids])
        database.commit()
    CONSOLE.print("A dry run compares the table with the shop, and sends nothing …")
    _check(_run(["dags", "test", "plan"], sandbox) and not shop.history(), "The dry run failed.")
    CONSOLE.print(Markdown(_read_preview()))
    CONSOLE.print("Airflow shows this to a person, with two buttons. Here the program approves.")

    _say("4. The plan is applied, and killed in the middle")
    with LOG.open("a") as log:
        applying = subprocess.Popen(
            _command(["dags", "test", "apply"]),
            env=_environment(sandbox),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _wait(lambda: len(shop.history()) >= KILLED_AFTER or applying.poll() is not None)
    _check(applying.poll() is None, "The plan could not be applied.")
    os.killpg(applying.pid, signal.SIGKILL)
    applying.wait()
    changed = sum(shop.statuses(order_id)["payment"] != before[order_id] for order_id in ids)
    lines = len((HOME / "applied.jsonl").read_text().splitlines())
    CONSOLE.print(
        f"SIGKILL: {changed:,} orders had changed by then. The record has {lines:,} lines, because each update is"
        " announced there before it is sent."
    )

    _say("5. The run is taken back", "A revert reads the record and the shop, and restores what was there before …")
    _check(_run(["dags", "test", "undo"], sandbox), "The revert failed.")
    left = sum(shop.statuses(order_id)["payment"] != before[order_id] for order_id in ids)
    CONSOLE.print(f"{changed:,} orders had changed, and {left:,} differ from what they were.")
    _check(changed >= KILLED_AFTER and left == 0, "Not all was taken back.")


DAGS = f"""
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_youcan.operators.order_status import YouCanUpdatePaymentStatusOperator
from airflow_provider_youcan.operators.reconcile import (
    YouCanReconcileOrdersOperator,
    YouCanRevertReconciliationOperator,
)

with DAG("typo", schedule=None):
    YouCanUpdatePaymentStatusOperator(task_id="set", order_id="{{{{ dag_run.conf['order_id'] }}}}", status="payed")

with DAG("plan", schedule=None):
    YouCanReconcileOrdersOperator(
        task_id="plan",
        dry_run=True,
        sql="select order_id, payment_status from courier",
        conn_id="warehouse",
        status_map={{"payment": {{"COLLECTED": "paid"}}}},
        only_from={{"payment": ["pending", "unpaid"]}},
        report_path="{HOME}/plan.jsonl",
    )

with DAG("apply", schedule=None):
    YouCanReconcileOrdersOperator(task_id="apply", plan="{HOME}/plan.jsonl", report_path="{HOME}/applied.jsonl")

with DAG("undo", schedule=None):
    YouCanRevertReconciliationOperator(task_id="undo", report="{HOME}/applied.jsonl")
"""  # noqa: S608  # its sql is the demo's own


def _choose_orders(sandbox: Sandbox) -> list[str]:
    """Return four orders that are fresh, and one whose guards keep it as it is."""
    by_statuses: dict[tuple[str, ...], list[str]] = {}
    for order_id in sandbox.shop.order_ids():
        by_statuses.setdefault(tuple(sandbox.shop.statuses(order_id).values()), []).append(order_id)
    return [
        *by_statuses["open", "unfulfilled", "pending"][:3],
        by_statuses["confirmed", "unfulfilled", "pending"][0],
        by_statuses["canceled-by-seller", "canceled", "unpaid"][0],
    ]


def _run(words: list[str], sandbox: Sandbox, settings: dict[str, str] | None = None) -> bool:
    """Run a command of Airflow's, with its output in the log, and return whether it succeeded."""
    with LOG.open("a") as log:
        environment = _environment(sandbox) | (settings or {})
        ended = subprocess.run(_command(words), env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    return ended.returncode == 0


def _command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "airflow", *words]


def _environment(sandbox: Sandbox) -> dict[str, str]:
    """Keep the user's own Airflow out of it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return environment | {
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(HOME / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_YOUCAN_DEFAULT": sandbox.connection(),
        "AIRFLOW_CONN_WAREHOUSE": json.dumps({"conn_type": "sqlite", "host": str(HOME / "warehouse.db")}),
    }


def _read_preview() -> str:
    """Return the beginning of what the dry run left for a person, up to its list of single changes."""
    with closing(sqlite3.connect(HOME / "airflow.db")) as database:
        ((text,),) = database.execute("select value from xcom where dag_id = 'plan' and key = 'preview'").fetchall()
    return str(json.loads(text)).partition("**The first")[0]


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        _check(time.monotonic() < deadline, "It took more than two minutes.")
        time.sleep(0.01)


def _check(is_so: bool, message: str) -> None:  # it reads as a sentence
    if not is_so:
        raise DemoError(message)


def _say(title: str, text: str = "") -> None:
    CONSOLE.print(f"\n[bold]{title}[/]")
    if text:
        CONSOLE.print(text)


def _show(sandbox: Sandbox, order_ids: list[str], before: list[dict[str, str]], after: list[dict[str, str]]) -> None:
    table = Table(title="The orders, before → after")
    for column in ("Ref", *(context.value.capitalize() for context in StatusContext)):
        table.add_column(column)
    for order_id, old, new in zip(order_ids, before, after, strict=True):
        order = sandbox.shop.order(order_id) or {}
        changes = [
            f"{old[context]} → [green]{new[context]}[/]" if old[context] != new[context] else f"{old[context]}"
            for context in StatusContext
        ]
        table.add_row(order["ref"], *changes)
    CONSOLE.print(table)


if __name__ == "__main__":
    sys.exit(main())
