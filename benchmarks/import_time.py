"""
The time that importing the operators adds to a DAG file that has imported Airflow, beside the http provider's.

Airflow parses each DAG file again and again, so what its imports cost is paid all day. Both are measured in the
same run, each import in a process of its own, taking turns; the figures are medians.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

ROUNDS = 9
CONTENDERS = {
    "YouCan's operators": (
        "from airflow_provider_youcan.operators.order_status import YouCanUpdateOrderStatusOperator\n"
        "from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator"
    ),
    "HttpOperator": "from airflow.providers.http.operators.http import HttpOperator",
}
UNWANTED = ("requests", "aiohttp", "starlette")
PROBE = """
import json, sys, time
from airflow.providers.common.compat.sdk import DAG, task
before = set(sys.modules)
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""


def main() -> int:
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    modules: dict[str, list[str]] = {}
    for _ in range(ROUNDS):
        for name, statement in CONTENDERS.items():
            answer = subprocess.run(
                [sys.executable, "-c", PROBE.format(statement=statement)], check=True, capture_output=True, text=True
            )
            seconds, modules[name] = json.loads(answer.stdout.splitlines()[-1])
            times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:20} {median * 1000:7.1f} ms  {len(modules[name]):4} modules")
    ours, rival = medians.values()
    unwanted = [module for module in modules["YouCan's operators"] if module.split(".")[0] in UNWANTED]
    print(f"{'ratio':20} {ours / rival:7.3f}     (aim: at most 0.1)")
    print(f"{'of ' + ', '.join(UNWANTED):20} {', '.join(unwanted) or 'none loaded'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
