"""What the tests of several databases share: a table of so many rows, and what reading it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

__all__ = ["MAX_MEGABYTES", "QUERY", "ROWS", "make_rows", "measure_reading"]

ROWS = 500_000
MAX_MEGABYTES = 150
QUERY = "select order_id, shipping_status, payment_status from courier_orders"

# The peak is the process's own, so it is measured in one of its own.
_READ = """
import resource, sys
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from airflow_provider_youcan.database import get_database_hook
params = eval(sys.argv[2])
operator = YouCanReconcileOrdersOperator(task_id="x", sql=sys.argv[1], conn_id="warehouse", hook_params=params)
get_database_hook("warehouse", params).get_conn().close()
import airflow_provider_youcan.reconciliation.source, sqlparse
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = operator._read_source()
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(source.desired.rows, (after - before) // 1024, len(source.desired.invalid))
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
