"""What the tests of several databases share: a table of so many rows, and what reading it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

__all__ = ["CREATE", "MAX_MEGABYTES", "QUERY", "ROWS", "make_rows", "measure_reading"]

ROWS = 500_000
MAX_MEGABYTES = 150
CREATE = "create table courier_orders (order_id varchar(100), shipping_status varchar(50), payment_status varchar(50))"
QUERY = "select order_id, shipping_status, payment_status from courier_orders"

# In a process of its own, and by the peak of its own memory: getrusage counts in what the parent had when it forked.
_READ = """
import re, sys
from pathlib import Path
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from airflow_provider_youcan.reconciliation.databases import get_database_hook
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024
params = eval(sys.argv[2])
operator = YouCanReconcileOrdersOperator(task_id="x", sql=sys.argv[1], conn_id="warehouse", hook_params=params)
get_database_hook("warehouse", params).get_conn().close()
import airflow_provider_youcan.reconciliation.plan, sqlparse
before = peak()
source = operator._read_input()
print(source.desired.rows, peak() - before, len(source.desired.invalid))
"""


def make_rows(number: int = ROWS) -> Iterator[tuple[str, str, str]]:
    """Make rows of two statuses."""
    for row in range(number):
        yield f"{row:08x}-0000-4000-8000-{row:012x}", "fulfilled", "paid"


def measure_reading(connection: str, sql: str = QUERY, hook_params: dict[str, str] | None = None) -> tuple[int, int]:
    """Return how many rows a query gave, and by how many megabytes memory grew while they were read."""
    ended = subprocess.run(
        [sys.executable, "-c", _READ, sql, repr(hook_params)],
        env=os.environ | {"AIRFLOW_CONN_WAREHOUSE": connection},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    rows, megabytes, invalid = map(int, ended.stdout.split()[-3:])
    assert invalid == 0
    return rows, megabytes
