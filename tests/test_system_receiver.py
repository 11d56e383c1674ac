"""
The receiver before a real Airflow, while everything goes wrong: a full disk, an Airflow that is away for five hours, a
login page, a proxy's 404, and hostile clients all the time.
"""

from __future__ import annotations

import json
import random
import socket
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_provider_youcan.webhooks.receiver import build_application
from airflow_provider_youcan.webhooks.server import Protocol
from airflow_provider_youcan.webhooks.settings import Settings
from airflow_provider_youcan.webhooks.spool import Spool
from tests.conftest import AIRFLOW_3
from tests.services import Airflow
from tests.test_webhooks import SECRET, make_body, post, serve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("_airflow_database"),
    pytest.mark.skipif(not AIRFLOW_3, reason="tests/test_system_webhooks.py has Airflow 2"),
]

A_MODE = 30  # deliveries
_NOT_HANDED_ON = ("host", "connection", "accept-encoding")
EVENTS = ("order.created", "order.paid", "order.updated")
DAGS = """
from datetime import datetime
from airflow.sdk import DAG, Asset
from airflow_provider_youcan.operators.order_status import YouCanUpdateShippingStatusOperator
# They never run: so that Airflow knows the assets.
with DAG("listener", schedule=None, start_date=datetime(2026, 1, 1)):
    YouCanUpdateShippingStatusOperator(task_id="x", order_id="x", status="shipped", outlets=[
        *[Asset(uri=f"youcan://my-store/orders/{event}") for event in ("created", "paid", "updated")],
        Asset(uri="s3://finance/payroll"),
    ])
"""


class Gateway(ThreadingHTTPServer):
    """Stands between the receiver and Airflow, and hands on what comes, or answers itself."""

    daemon_threads = True
    answer: tuple[int, str, str] | None = None
    is_away = False

    def __init__(self, airflow_url: str) -> None:
        self.airflow_url = airflow_url
        super().__init__(("127.0.0.1", 0), _Request)


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    server: Gateway

    def _hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        gateway = self.server
        if gateway.is_away:
            self.connection.close()
            return
        if gateway.answer is not None:
            status, kind, text = gateway.answer
            self._reply(status, kind, text.encode())
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_HANDED_ON}
        request = urllib.request.Request(gateway.airflow_url + self.path, body or None, headers, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                self._reply(answer.status, answer.headers["content-type"], answer.read())
        except urllib.error.HTTPError as error:
            self._reply(error.code, error.headers.get("content-type", "text/plain"), error.read())

    do_GET = do_POST = _hand_on  # the names of http.server

    def _reply(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gateway(airflow: Airflow) -> Iterator[Gateway]:
    path = airflow.dags / "listener.py"
    path.write_text(DAGS)
    with Gateway(airflow.url) as gateway:
        threading.Thread(target=gateway.serve_forever, daemon=True).start()
        yield gateway
        gateway.shutdown()
    path.unlink()


@contextmanager
def hostile_clients(url: str) -> Iterator[Counter[str]]:
    """Trouble a receiver as long as the block lasts: half heads, bodies that nobody signed, bodies without an end."""
    host, _, port = url.removeprefix("http://").partition(":")
    done, is_over = Counter[str](), threading.Event()
    chance = random.Random(0)

    def trouble() -> None:
        while not is_over.is_set():
            with suppress(OSError):
                client = socket.create_connection((host, int(port)), timeout=1)
                kind = chance.choice(("half head", "unsigned", "chunked", "forged"))
                done[kind] += 1
                if kind == "half head":
                    client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nX-A: ")
                elif kind == "unsigned":
                    client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n" + b"x" * 500_000)
                elif kind == "chunked":
                    client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
                else:
                    body = make_body(order_id="forged")
                    head = (
                        f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nx-youcan-signature: 00\r\n\r\n"
                    )
                    client.sendall(head.encode() + body)
            time.sleep(0.02)

    thread = threading.Thread(target=trouble, daemon=True)
    thread.start()
    try:
        yield done
    finally:
        is_over.set()
        thread.join(10)


def test_every_genuine_delivery_has_one_event_whatever_goes_wrong(
    airflow: Airflow, gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow.wait_for(lambda: airflow.query("select 1 from asset where uri = ?", "s3://finance/payroll"), "the assets")
    now, sent, is_full = [time.time()], [], threading.Event()
    add = Spool.add

    def add_or_fail(spool: Spool, deliveries: Any) -> None:
        if is_full.is_set():
            raise sqlite3.OperationalError("database or disk is full")
        add(spool, deliveries)

    monkeypatch.setattr(Spool, "add", add_or_fail)
    url = f"http://127.0.0.1:{gateway.server_address[1]}"
    settings = Settings((SECRET,), "my-store", str(tmp_path / "spool.db"), url, None, None)
    application = build_application(settings, lambda: now[0])
    with serve(application, http=Protocol) as receiver, hostile_clients(receiver) as troubled:

        def deliver(number: int) -> None:
            """Deliver as YouCan does: again after a 5xx, or without an answer."""
            event, order_id = EVENTS[number % 3], f"order-{number}"
            sent.append((event, order_id))
            for _ in range(100):
                with suppress(requests.RequestException):
                    status = post(receiver, make_body(event, order_id), delivery_id=f"d-{number}").status_code
                    assert status in (200, 503)
                    if status == 200:
                        return
                is_full.clear()  # somebody has looked at the disk
            raise AssertionError("it was never taken")

        def deliver_some() -> None:
            for _ in range(A_MODE):
                deliver(len(sent))

        # When deliveries come in good times,
        deliver_some()
        # while the disk is full,
        is_full.set()
        deliver_some()
        # while Airflow is away for five hours,
        gateway.is_away = True
        deliver_some()
        now[0] += 5 * 3600
        deliver_some()
        gateway.is_away = False
        # behind a login page, and while a proxy knows no such page,
        for answer in (
            (200, "text/html", "<html>Log in"),
            (200, "application/json", '{"error": "log in"}'),
            (404, "text/html", "<html>Not found"),
            (404, "application/json", '{"message": "no Route matched"}'),
        ):
            gateway.answer = answer
            deliver_some()
            time.sleep(1)
            now[0] += 5 * 3600
        gateway.answer = None

        # then each has exactly one event in the end,
        def is_done() -> bool:
            now[0] += 5
            with suppress(requests.RequestException):
                return requests.get(f"{receiver}/health", timeout=5).text == "0 waiting"
            return False

        airflow.wait_for(is_done, "the spool to be empty")
    found = Counter(events(airflow))
    assert found == Counter(
        (f"youcan://my-store/orders/{event.partition('.')[2]}", order_id) for event, order_id in sent
    )
    assert len(sent) == 8 * A_MODE
    # and no other asset has any, though nobody was left alone meanwhile.
    assert all(troubled[kind] > 10 for kind in ("half head", "unsigned", "chunked", "forged"))


def events(airflow: Airflow) -> Iterator[tuple[str, str]]:
    """Return the assets and the orders of all events that are here."""
    statement = "select uri, asset_event.extra from asset_event join asset on asset.id = asset_id where uri like ?"
    for pattern in ("youcan://my-store/%", "s3://finance/%"):
        for uri, extra in airflow.query(statement, pattern):
            yield uri, (extra if isinstance(extra, dict) else json.loads(extra))["order_id"]
