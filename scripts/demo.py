"""
The demo: real Airflow DAGs change the statuses of orders in a local shop, one by one and a whole table.

Its Airflow home, with the log, lies in ``.demo`` and is made again each time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.table import Table

from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.sandbox import Sandbox

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".demo"
LOG = HOME / "dag.log"
CONSOLE = Console()


def main() -> int:
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir()
    with Sandbox(orders=60) as sandbox:
        environment = _environment(sandbox)
        order_ids = _choose_orders(sandbox)
        before = [sandbox.shop.statuses(order_id) for order_id in order_ids]
        CONSOLE.print(f"A YouCan shop with 60 orders listens on {sandbox.url}")
        CONSOLE.print("Airflow runs example_dags/example_youcan_order_status.py …")
        with LOG.open("w") as log:
            for command in (
                ["airflow", "db", "migrate"],
                [
                    "airflow",
                    "dags",
                    "test",
                    "example_youcan_order_status",
                    "--conf",
                    json.dumps({"order_ids": order_ids}),
                ],
            ):
                ended = subprocess.run(
                    [sys.executable, "-m", *command], env=environment, stdout=log, stderr=subprocess.STDOUT, check=False
                )
                if ended.returncode:
                    CONSOLE.print(f"[red]{' '.join(command[:3])} failed:[/] see {LOG.relative_to(ROOT)}")
                    return 1
        after = [sandbox.shop.statuses(order_id) for order_id in order_ids]
        _show(sandbox, order_ids, before, after)
    CONSOLE.print("The last one had been canceled: the guard only_from kept it as it is.")
    # What the DAG is to do, so that the demo can't end well without it.
    moved = [statuses for statuses in after if statuses == _GOAL]
    if len(moved) != len(order_ids) - 1 or not _reconcile():
        return 1
    CONSOLE.print(f"The log lies in {LOG.relative_to(ROOT)}")
    return 0


def _reconcile() -> bool:
    """Reconcile a warehouse table with another shop, twice, and say whether the second run sent nothing."""
    with Sandbox(orders=2000) as sandbox:
        warehouse = HOME / "warehouse.db"
        with closing(sqlite3.connect(warehouse)) as database:
            database.execute("create table courier (order_id text, payment_status text)")
            rows = [(order_id, "COLLECTED") for order_id in sandbox.shop.order_ids()]
            database.executemany("insert into courier values (?, ?)", rows)
            database.commit()
        environment = _environment(sandbox) | {
            "AIRFLOW__CORE__DAGS_FOLDER": str(HOME / "dags"),
            "AIRFLOW_CONN_WAREHOUSE": json.dumps({"conn_type": "sqlite", "host": str(warehouse)}),
        }
        (HOME / "dags").mkdir()
        (HOME / "dags" / "reconcile.py").write_text(_RECONCILE)
        CONSOLE.print("\nA courier collected the money for all 2,000 orders of another shop, says a SQLite warehouse.")
        sent: list[int] = []
        for turn in ("Airflow reconciles the table with the shop …", "And again …"):
            CONSOLE.print(turn)
            already = len(sandbox.shop.history())
            command = [sys.executable, "-m", "airflow", "dags", "test", "reconcile_warehouse"]
            ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            output = ended.stdout + ended.stderr
            with LOG.open("a") as log:
                log.write(output)
            summary = re.search(r"[\d,]+ rows \(.*?(?= \[airflow|\n\[|\n\d{4}-)", output, re.DOTALL)
            if ended.returncode or summary is None:
                CONSOLE.print(f"[red]reconciling failed:[/] see {LOG.relative_to(ROOT)}")
                return False
            CONSOLE.print(summary[0].strip(), markup=False, highlight=False)
            sent.append(len(sandbox.shop.history()) - already)
    CONSOLE.print(
        f"{sent[0]:,} updates were sent the first time, and {sent[1]:,} the second: the shop is the only state."
    )
    return sent[0] > 1000 and sent[1] == 0


_RECONCILE = """
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator

with DAG("reconcile_warehouse", schedule=None):
    YouCanReconcileOrdersOperator(
        task_id="reconcile",
        sql="select order_id, payment_status from courier",
        conn_id="warehouse",
        status_map={"payment": {"COLLECTED": "paid"}},
        only_from={"payment": ["pending", "unpaid"]},
    )
"""


_GOAL = {"general": "processed", "shipping": "shipped", "payment": "paid"}


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


def _environment(sandbox: Sandbox) -> dict[str, str]:
    """Keep the user's own Airflow out of it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return environment | {
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "example_dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_YOUCAN_DEFAULT": sandbox.connection(),
    }


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
