"""Webhooks: what the receiver takes, keeps and hands on, over real sockets, with a stand-in for Airflow's REST API."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import os
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airflow_provider_youcan.__main__ import main
from airflow_provider_youcan.client.store import list_webhooks
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.sandbox import Sandbox
from airflow_provider_youcan.webhooks import server
from airflow_provider_youcan.webhooks.airflow_client import (
    AirflowClient,
    AirflowError,
    RefusedEventError,
    UnknownAssetError,
)
from airflow_provider_youcan.webhooks.deliveries import (
    Delivery,
    InvalidDeliveryError,
    is_genuine,
    read_delivery,
)
from airflow_provider_youcan.webhooks.receiver import build_application
from airflow_provider_youcan.webhooks.settings import Settings, read_settings
from airflow_provider_youcan.webhooks.spool import Spool, SpoolError

SECRET = "sandbox-client-secret"
ORDER_ID = "3116f8a6-b453-49ce-9174-db3dffbb8629"
PHONE = "+212600000000"


# --- what a delivery says ---


def sign(body: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def make_body(event: str | None = "order.paid", order_id: str = ORDER_ID, **more: Any) -> bytes:
    order = {"id": order_id, "ref": "021", "customer": {"phone": PHONE}}
    payload = (
        order if event is None else {"event_name": event, "event_happened_at": "2026-11-26T06:00:00Z", "data": order}
    )
    return json.dumps(payload | more).encode()


@given(st.binary(), st.text(), st.text(min_size=1))
def test_only_what_the_secret_signed_is_genuine(body: bytes, forged: str, secret: str) -> None:
    secret = secret.encode("utf-8", "replace").decode()
    assert is_genuine(body, sign(body, secret), (secret,))
    assert is_genuine(body, sign(body, secret).upper(), ("another", secret))
    assert is_genuine(body, forged, (secret,)) == (forged.strip().lower() == sign(body, secret))
    assert not is_genuine(body + b" ", sign(body, secret), (secret,))
    assert not is_genuine(body, sign(body, secret), ())


@pytest.mark.parametrize(
    ("body", "event"),
    [
        (make_body("order.paid"), "order.paid"),
        (make_body("order.create"), "order.created"),
        (make_body("order.updated"), "order.updated"),
        (make_body(None), "order.updated"),
    ],
)
def test_a_delivery_says_which_order_and_what_and_nothing_of_the_customer(body: bytes, event: str) -> None:
    delivery = read_delivery(body, {"x-youcan-delivery-id": "d-1"}, "my-store")

    assert delivery is not None
    assert (delivery.delivery_id, delivery.event, delivery.order_id, delivery.store) == (
        "d-1",
        event,
        ORDER_ID,
        "my-store",
    )
    assert delivery.uri == f"youcan://my-store/orders/{event.partition('.')[2]}"
    assert delivery.as_extra().keys() == {"delivery_id", "event", "order_id", "store", "time"}
    assert PHONE not in str(delivery)


@pytest.mark.parametrize("name", [5, ["order.paid"], {"a": 1}, True, ""])
def test_an_event_whose_name_is_no_text_is_nobodys(name: Any) -> None:
    assert read_delivery(make_body(name), {}, "my-store", "order.paid") is None


def test_a_delivery_without_an_id_is_known_by_its_body() -> None:
    first, again, other = (read_delivery(make_body(order_id=order_id), {}, "my-store") for order_id in ("a", "a", "b"))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.delivery_id == again.delivery_id != other.delivery_id


@pytest.mark.parametrize("happened_at", [None, "yesterday", -1, 1e300, True, [], "x" * 100])
def test_a_time_that_makes_no_sense_is_when_it_came(happened_at: Any) -> None:
    delivery = read_delivery(make_body(event_happened_at=happened_at), {}, "my-store")
    assert delivery is not None
    assert delivery.time.startswith("20")


@pytest.mark.parametrize("happened_at", ["2026-11-26T06:00:00Z", 1_795_672_800, 1_795_672_800_000])
def test_a_time_is_taken_as_text_in_seconds_or_in_milliseconds(happened_at: Any) -> None:
    delivery = read_delivery(make_body(event_happened_at=happened_at), {}, "my-store")
    assert delivery is not None
    assert delivery.time == "2026-11-26T06:00:00+00:00"


def test_the_older_names_of_events_are_taken_from_the_address_too() -> None:
    delivery = read_delivery(make_body(None), {}, "my-store", "order.create")
    assert delivery is not None
    assert delivery.event == "order.created"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"1", b"{", b"[" * 100_000, b'{"event_name": "order.paid"}', make_body(order_id="../x")]
)
def test_a_body_that_speaks_of_no_order_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidDeliveryError):
        read_delivery(body, {}, "my-store")


def test_an_event_that_nobody_wants_is_none() -> None:
    assert read_delivery(b'{"event_name": "product.updated", "data": {}}', {}, "my-store") is None


@given(st.binary())
def test_no_body_breaks_it(body: bytes) -> None:
    with suppress(InvalidDeliveryError):
        read_delivery(body, {}, "my-store")


# --- the spool ---


def deliver(number: int = 1) -> Delivery:
    return Delivery(f"d-{number}", "order.paid", f"order-{number}", "my-store", "2026-11-26T06:00:00+00:00")


def test_stored_deliveries_survive_a_kill(tmp_path: Path) -> None:
    path = str(tmp_path / "spool.db")

    def keep() -> None:
        Spool(path).add([deliver(1), deliver(2), deliver(1)])
        os._exit(9)

    process = get_context("fork").Process(target=keep)
    process.start()
    process.join(30)
    again = Spool(path)

    assert [one.delivery for one in again.find_due(10)] == [deliver(1), deliver(2)]
    again.mark_forwarded([deliver(1).key])
    again.add([deliver(1)])
    assert [one.delivery for one in again.find_due(10)] == [deliver(2)]
    assert again.count_waiting() == 1


def test_postponed_deliveries_come_later_and_old_ones_are_forgotten(tmp_path: Path) -> None:
    now = [1000.0]
    spool = Spool(str(tmp_path / "spool.db"), clock=lambda: now[0])
    spool.add([deliver()])
    spool.postpone(deliver().key, 60, "422")
    assert spool.find_due(10) == []
    now[0] += 61
    assert [(one.failing_since, one.reason) for one in spool.find_due(10)] == [(1000.0, "422")]
    spool.postpone(deliver().key, 0, "422")
    assert [(one.failing_since, one.reason) for one in spool.find_due(10)] == [(1000.0, "422")]
    spool.mark_forwarded([deliver().key])
    now[0] += 8 * 86_400
    spool.forget_old()
    spool.add([deliver()])
    assert spool.count_waiting() == 1


def test_two_receivers_do_not_share_a_spool(tmp_path: Path) -> None:
    path = str(tmp_path / "spool.db")
    first = Spool(path)
    with pytest.raises(SpoolError, match="Another receiver uses the spool"):
        Spool(path)
    first.add([deliver()])
    assert [one.delivery for one in Spool(path, is_read_only=True).list_all(10)] == [deliver()]
    first.close()
    Spool(path).close()


def test_an_id_that_comes_back_for_another_order_is_another_delivery(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "spool.db"))
    others = [
        replace(deliver(), order_id="order-2"),
        replace(deliver(), event="order.updated"),
    ]
    spool.add([deliver(), *others, deliver()])

    assert spool.count_waiting() == 3
    spool.mark_forwarded([deliver().key])
    assert {one.delivery for one in spool.find_due(10)} == set(others)


def test_a_spool_of_an_older_version_keeps_what_waits_in_it(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "spool.db")) as database:
        database.execute(
            "create table deliveries (delivery_id text primary key, event text not null, order_id text not null, store "
            "text not null, time text not null, taken_at real not null, due_at real not null, forwarded_at real)"
        )
        for number, forwarded_at in ((1, None), (2, 5.0)):
            one = deliver(number)
            database.execute(
                "insert into deliveries values (?, ?, ?, ?, ?, 1, 1, ?)", (*one.key, one.store, one.time, forwarded_at)
            )
        database.commit()

    spool = Spool(str(tmp_path / "spool.db"))
    assert [one.delivery for one in spool.find_due(10)] == [deliver(1)]
    spool.add([deliver(2)])
    assert spool.count_waiting() == 1
    spool.close()
    assert Spool(str(tmp_path / "spool.db")).count_waiting() == 1


def test_each_asset_has_its_turn(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "spool.db"))
    spool.add([deliver(number) for number in range(100)])
    spool.add([replace(deliver(100), event="order.updated")])

    assert "order.updated" in [one.delivery.event for one in spool.find_due(2)]


# --- the receiver ---


@contextmanager
def serve(application: Any, port: int = 0, **options: Any) -> Iterator[str]:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(100)  # from here on, so that nothing comes too early
    server = uvicorn.Server(uvicorn.Config(application, log_level="error", ws="none", **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


class StandIn:
    """Airflow's REST API, as far as the receiver uses it."""

    def __init__(self, *, is_airflow_2: bool = False) -> None:
        self.is_airflow_2 = is_airflow_2
        self.events: list[dict[str, Any]] = []
        self.assets = {"youcan://my-store/orders/paid": 7}
        self.tokens = {"token-0"}
        self.denied = 401
        self.logins = 0
        self.status = 200
        self.looked_up = self.refused = 0
        self.broken = False
        self.broken_asset: int | None = None
        self.broken_order: str | None = None
        self.delay = 0.0
        self.answer: Response | None = None
        self.asked_version = 0
        v2 = [
            Route("/auth/token", self.log_in, methods=["GET", "POST"]),
            Route("/api/v2/version", self.version),
            Route("/api/v2/assets", self.list_assets),
            Route("/api/v2/assets/events", self.create, methods=["POST"]),
        ]
        v1 = [Route("/api/v1/version", self.version), Route("/api/v1/datasets/events", self.create, methods=["POST"])]
        self.application = Starlette(routes=v1 if is_airflow_2 else v2)

    async def version(self, _: Request) -> Response:
        self.asked_version += 1
        return JSONResponse({"version": "x"}, self.status if self.status >= 500 else 200)

    async def log_in(self, request: Request) -> Response:
        if request.method == "POST" and await request.json() != {"username": "youcan", "password": "secret"}:
            return JSONResponse({}, 401)
        self.logins += 1
        self.tokens = {f"token-{self.logins}"}
        return JSONResponse({"access_token": f"token-{self.logins}"}, 201)

    def may(self, request: Request) -> bool:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if self.is_airflow_2:
            return scheme == "Basic" and base64.b64decode(value) == b"youcan:secret"
        return value in self.tokens

    async def list_assets(self, request: Request) -> Response:
        if not self.may(request):
            return JSONResponse({}, self.denied)
        self.looked_up += 1
        if self.broken:
            return Response("<html>", 200, media_type="application/json")
        found = [
            {"id": number, "uri": uri}
            for uri, number in self.assets.items()
            if request.query_params["uri_pattern"] in uri
        ]
        return JSONResponse({"assets": found, "total_entries": len(found)})

    async def create(self, request: Request) -> Response:
        if not self.may(request):
            return JSONResponse({}, self.denied)
        if self.status != 200:
            self.refused += 1
            return JSONResponse({}, self.status)
        if self.answer is not None:
            self.refused += 1
            return self.answer
        body = await request.json()
        await asyncio.sleep(self.delay)
        if body.get("asset_id") == self.broken_asset is not None or body["extra"]["order_id"] == self.broken_order:
            self.refused += 1
            return JSONResponse({}, 500)
        known = body.get("asset_id") in self.assets.values() or body.get("dataset_uri") in self.assets
        if not known:
            return JSONResponse({}, 404)
        self.events.append(body)
        return JSONResponse({"id": len(self.events), **{name: body[name] for name in body if name != "extra"}})


Deliver = Callable[..., requests.Response]


@pytest.fixture
def airflow() -> StandIn:
    return StandIn()


@pytest.fixture
def receiver(airflow: StandIn, tmp_path: Path) -> Iterator[str]:
    with serve(airflow.application) as url:
        settings = Settings((SECRET,), "my-store", str(tmp_path / "spool.db"), url, "youcan", "secret")
        with serve(build_application(settings)) as address:
            yield address


def post(url: str, body: bytes, signature: str | None = None, delivery_id: str | None = None) -> requests.Response:
    headers = {"x-youcan-signature": signature or sign(body), "X-YOUCAN-DELIVERY-ID": delivery_id or str(uuid.uuid4())}
    return requests.post(url, body, headers=headers, timeout=10)


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_delivery_becomes_an_asset_event(receiver: str, airflow: StandIn) -> None:
    assert post(receiver, make_body(), delivery_id="d-1").status_code == 200

    wait_for(lambda: airflow.events)
    (event,) = airflow.events
    assert event["asset_id"] == 7
    assert event["extra"] == {
        "delivery_id": "d-1",
        "event": "order.paid",
        "order_id": ORDER_ID,
        "store": "my-store",
        "time": "2026-11-26T06:00:00+00:00",
    }


def test_a_delivery_that_came_before_is_taken_and_makes_no_other_event(receiver: str, airflow: StandIn) -> None:
    for _ in range(3):
        assert post(receiver, make_body(), delivery_id="d-1").status_code == 200
        wait_for(lambda: airflow.events)
    assert post(receiver, make_body(), delivery_id="d-2").status_code == 200

    wait_for(lambda: len(airflow.events) == 2)
    assert [event["extra"]["delivery_id"] for event in airflow.events] == ["d-1", "d-2"]


@pytest.mark.parametrize(
    ("body", "signature", "status"),
    [
        (make_body(), "0" * 64, 401),
        (make_body(), "é", 401),
        (make_body(), sign(make_body(), "another"), 401),
        (b"no json " + PHONE.encode(), None, 400),
        (make_body(order_id="a/../b"), None, 400),
        (make_body("product.updated"), None, 200),
        (make_body(note="x" * 1_100_000), None, 413),
        (b"x" * 10_000_000, None, 413),
    ],
    ids=["forged", "no hex", "another secret", "no JSON", "no order", "unknown event", "too large", "10 MB"],
)
def test_hostile_deliveries_make_no_event_and_are_not_logged(
    receiver: str, airflow: StandIn, caplog: pytest.LogCaptureFixture, body: bytes, signature: str | None, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    signature = None if signature is None else signature.encode().decode("latin-1")
    try:
        assert post(receiver, body, signature).status_code == status
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        assert status == 413  # it was not read to its end, which may cut the answer off, too

    assert post(receiver, make_body(), delivery_id="good").status_code == 200
    wait_for(lambda: airflow.events)
    assert [event["extra"]["delivery_id"] for event in airflow.events] == ["good"]
    logged = [record for record in caplog.messages if "urllib3" not in record]
    assert not any(PHONE in line or SECRET in line for line in logged)


def test_paths_and_methods_that_are_not_there(receiver: str) -> None:
    assert requests.get(receiver, timeout=5).status_code == 405
    assert requests.post(f"{receiver}/elsewhere", timeout=5).status_code == 404
    assert requests.get(f"{receiver}/health", timeout=5).text == "0 waiting"


def test_a_body_that_comes_slowly_is_given_up_and_holds_nobody_up(
    receiver: str, airflow: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_youcan.webhooks.receiver.BODY_SECONDS", 0.3)
    host, port = receiver.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)))) as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert post(receiver, make_body()).status_code == 200
        answer = slow.recv(1000)
        assert b" 503 " in answer, "YouCan never delivers again after a 4xx"
        assert b"connection: close" in answer.lower()


def test_deliveries_during_an_outage_of_airflow_are_stored_and_handed_on(airflow: StandIn, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(
        (SECRET,), "my-store", str(tmp_path / "spool.db"), f"http://127.0.0.1:{port}", "youcan", "secret"
    )

    # Given an Airflow that is not there, a delivery is taken,
    with serve(build_application(settings)) as receiver:
        assert post(receiver, make_body(), delivery_id="d-1").status_code == 200
        assert requests.get(f"{receiver}/health", timeout=5).text == "1 waiting"
    # and the receiver is started again, and Airflow is there.
    with serve(airflow.application, port), serve(build_application(settings)) as receiver:
        wait_for(lambda: airflow.events)
        wait_for(lambda: requests.get(f"{receiver}/health", timeout=5).text == "0 waiting")


@pytest.mark.parametrize("denied", [401, 403], ids=["it ran out", "Airflow's key changed"])
def test_a_token_that_airflow_takes_no_more_is_obtained_again(receiver: str, airflow: StandIn, denied: int) -> None:
    post(receiver, make_body())
    wait_for(lambda: airflow.events)
    airflow.denied = denied
    airflow.tokens.clear()
    post(receiver, make_body())

    wait_for(lambda: len(airflow.events) == 2)
    assert airflow.logins == 2


def test_an_airflow_2_is_told_of_datasets(tmp_path: Path) -> None:
    airflow = StandIn(is_airflow_2=True)
    with serve(airflow.application) as url:
        settings = Settings((SECRET,), "my-store", str(tmp_path / "spool.db"), url, "youcan", "secret")
        with serve(build_application(settings)) as receiver:
            post(receiver, make_body(), delivery_id="d-1")
            wait_for(lambda: airflow.events)

    (event,) = airflow.events
    assert event["dataset_uri"] == "youcan://my-store/orders/paid"
    assert event["extra"]["order_id"] == ORDER_ID


def test_an_event_of_an_asset_that_no_dag_speaks_of_waits_for_one(
    receiver: str, airflow: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_youcan.webhooks.forwarding.REST_SECONDS", 0.05)
    known = dict(airflow.assets)
    airflow.assets.clear()
    post(receiver, make_body())
    wait_for(lambda: airflow.looked_up > 1)

    airflow.assets.update(known)

    wait_for(lambda: airflow.events)


def test_one_that_airflow_refuses_holds_up_no_other(receiver: str, airflow: StandIn) -> None:
    airflow.status = 422
    post(receiver, make_body(), delivery_id="d-1")
    wait_for(lambda: airflow.refused)
    airflow.status = 200
    post(receiver, make_body(), delivery_id="d-2")

    wait_for(lambda: airflow.events)
    assert airflow.events[0]["extra"]["delivery_id"] == "d-2"


def test_events_of_an_asset_that_no_dag_speaks_of_hold_up_no_other(receiver: str, airflow: StandIn) -> None:
    for number in range(120):
        post(receiver, make_body("order.updated", f"order-{number}"))
    post(receiver, make_body("order.paid"))

    wait_for(lambda: airflow.events)
    # Each was asked for about once.
    assert airflow.looked_up < 300


def test_an_answer_that_is_none_of_airflows_is_survived(receiver: str, airflow: StandIn) -> None:
    airflow.broken = True
    post(receiver, make_body())
    wait_for(lambda: airflow.looked_up)
    airflow.broken = False

    wait_for(lambda: airflow.events)
    assert requests.get(f"{receiver}/health", timeout=5).status_code == 200


def test_two_events_with_the_same_bare_body_are_two(receiver: str, airflow: StandIn) -> None:
    airflow.assets["youcan://my-store/orders/updated"] = 8
    body = make_body(None)
    for event in ("order.paid", "order.updated"):
        headers = {"x-youcan-signature": sign(body), "X-YOUCAN-TOPIC": event}
        assert requests.post(receiver, body, headers=headers, timeout=5).status_code == 200

    wait_for(lambda: len(airflow.events) == 2)


def test_a_spool_that_is_slow_has_youcan_come_again_and_makes_one_event(
    receiver: str, airflow: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_youcan.webhooks.receiver.KEEP_SECONDS", 0.05)
    add, release = Spool.add, threading.Event()

    def add_slowly(self: Spool, deliveries: Any) -> None:
        release.wait(10)
        add(self, deliveries)

    monkeypatch.setattr(Spool, "add", add_slowly)
    assert post(receiver, make_body(), delivery_id="d-1").status_code == 503
    assert airflow.events == []
    release.set()
    monkeypatch.setattr(Spool, "add", add)
    for delivery_id in ("d-1", "d-2"):
        assert post(receiver, make_body(), delivery_id=delivery_id).status_code == 200

    wait_for(lambda: len(airflow.events) == 2)
    assert sorted(event["extra"]["delivery_id"] for event in airflow.events) == ["d-1", "d-2"]


def test_a_disk_that_is_full_repeats_no_event(receiver: str, airflow: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        tried.append(1)
        raise sqlite3.OperationalError("database or disk is full")

    tried: list[int] = []
    with monkeypatch.context() as full:
        full.setattr(Spool, "mark_forwarded", fail)
        for number in range(3):
            assert post(receiver, make_body(), delivery_id=f"d-{number}").status_code == 200
        wait_for(lambda: len(tried) > 2)
        full.setattr(Spool, "add", fail)
        assert post(receiver, make_body(), delivery_id="d-3").status_code == 503

    wait_for(lambda: requests.get(f"{receiver}/health", timeout=5).text == "0 waiting")
    assert sorted(event["extra"]["delivery_id"] for event in airflow.events) == ["d-0", "d-1", "d-2"]


# --- who answers in Airflow's place ---


@contextmanager
def client(airflow: StandIn) -> Iterator[tuple[Callable[[], None], list[float]]]:
    """A function that creates one event, by one client, and its clock."""
    now = [0.0]
    with serve(airflow.application) as url, closing(asyncio.new_event_loop()) as loop:
        client = AirflowClient(url, "youcan", "secret", clock=lambda: now[0])
        yield lambda: loop.run_until_complete(client.create_event(deliver())), now
        loop.run_until_complete(client.close())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Response("<html>Log in", 200, media_type="text/html"), AirflowError),
        (JSONResponse({"error": "no"}), AirflowError),
        (JSONResponse({"detail": "no"}), AirflowError),
        (JSONResponse([]), AirflowError),
        (JSONResponse({"message": "please sign in", "redirect": "/login"}), AirflowError),
        (JSONResponse({"id": 1}), AirflowError),
        (JSONResponse({}, 404), AirflowError),
        (JSONResponse({"id": 1, "uri": "s3://finance/payroll"}), AirflowError),
        (JSONResponse({"id": 1, "asset_id": 8}), AirflowError),
        (Response("<html>", 404, media_type="text/html"), AirflowError),
        (JSONResponse({"message": "no Route matched"}, 404), AirflowError),
        (JSONResponse({"message": "blocked"}, 422), AirflowError),
        (JSONResponse({"detail": "Asset with ID: `7` was not found"}, 404), UnknownAssetError),
        (JSONResponse({"detail": "extra is too large"}, 422), RefusedEventError),
    ],
)
def test_only_airflows_own_answer_counts(airflow: StandIn, answer: Response, error: type[AirflowError]) -> None:
    airflow.answer = answer
    with client(airflow) as (create, _):
        with pytest.raises(AirflowError) as raised:
            create()
        assert type(raised.value) is error
        looked_up, asked = airflow.looked_up, airflow.asked_version

        # After any surprise everything is looked up again.
        airflow.answer = None
        create()
        assert (airflow.looked_up, airflow.asked_version) == (looked_up + 1, asked + 1)
        assert len(airflow.events) == 1


def test_an_id_of_an_asset_lives_for_a_minute(airflow: StandIn) -> None:
    with client(airflow) as (create, now):
        for seconds, looked_up in ((0, 1), (59, 1), (61, 2)):
            now[0] = seconds
            create()
            assert airflow.looked_up == looked_up


def test_no_proxy_of_http_and_no_netrc_gets_airflows_password(
    airflow: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with client(airflow) as (create, _):
        create()
    assert airflow.events


@pytest.mark.parametrize(
    ("answer", "seconds", "word"),
    [
        (JSONResponse({"detail": "not found"}, 404), 4 * 3600, "knows no asset"),
        (JSONResponse({"detail": "no"}, 422), 86_400, "answered 422"),
    ],
)
def test_events_that_airflow_refuses_are_dropped_and_listed(
    airflow: StandIn, tmp_path: Path, capsys: Any, caplog: Any, answer: Response, seconds: int, word: str
) -> None:
    now = [time.time()]
    path = str(tmp_path / "spool.db")

    def later(condition: Callable[[], bool], step: int) -> None:
        """Let time go on until something is so."""

        def look() -> bool:
            now[0] += step
            return condition()

        wait_for(look)

    with serve(airflow.application) as url:
        settings = Settings((SECRET,), "my-store", path, url, "youcan", "secret")
        application = build_application(settings, lambda: now[0])
        with serve(application) as receiver:
            # Given an Airflow that is away for five hours, and then does not take it,
            airflow.answer = JSONResponse({}, 503)
            assert post(receiver, make_body()).status_code == 200
            now[0] += 5 * 3600
            airflow.answer = answer
            asked = airflow.refused
            later(lambda: airflow.refused > asked, 5)
            now[0] += seconds / 2
            assert requests.get(f"{receiver}/health", timeout=5).text == "1 waiting"

            # then the time counts from its own word, and the end is logged as what it is.
            later(lambda: requests.get(f"{receiver}/health", timeout=5).text == "0 waiting", 600)
    assert airflow.events == []
    assert any(word in line and "was dropped" in line for line in caplog.messages)
    assert not any(": sent " in line for line in caplog.messages)
    assert main(["webhooks", "deliveries", "--spool", path]) == 0
    assert f"dropped  order.paid  {ORDER_ID}  Airflow" in capsys.readouterr().out


def test_one_event_that_fails_holds_up_no_other_of_its_asset(receiver: str, airflow: StandIn) -> None:
    airflow.broken_order = "order-0"
    for number in range(5):
        assert post(receiver, make_body(order_id=f"order-{number}")).status_code == 200

    wait_for(lambda: len(airflow.events) == 4)


def test_a_doubt_in_between_begins_the_time_of_a_refusal_again(tmp_path: Path) -> None:
    now = [0.0]
    spool = Spool(str(tmp_path / "spool.db"), clock=lambda: now[0])
    spool.add([deliver()])
    for seconds, reason, since in ((0, "unknown", 0), (60, "unknown", 0), (70, None, None), (80, "unknown", 80)):
        now[0] = seconds
        spool.postpone(deliver().key, 0, reason)
        assert spool.find_due(1)[0].failing_since == since
    now[0] = 90
    spool.postpone(deliver().key, 0, "422")
    assert spool.find_due(1)[0].failing_since == 90


def test_a_refusal_of_one_kind_does_not_count_for_another(airflow: StandIn, tmp_path: Path) -> None:
    # Given a delivery that Airflow refused, and whose asset it does not know five hours later,
    now = [time.time()]
    spool = Spool(str(tmp_path / "x.db"), clock=lambda: now[0])
    spool.add([deliver()])
    spool.postpone(deliver().key, 60, "Airflow answered 422 to the event of order order-1")
    spool.close()
    now[0] += 5 * 3600
    airflow.assets.clear()

    with serve(airflow.application) as url:
        settings = Settings((SECRET,), "my-store", str(tmp_path / "x.db"), url, "youcan", "secret")
        with serve(build_application(settings, lambda: now[0])):
            wait_for(lambda: airflow.looked_up)

    # then it waits for its asset.
    (one,) = Spool(str(tmp_path / "x.db"), is_read_only=True).list_all(10)
    assert (one.dropped_at, one.failing_since) == (None, now[0])


def test_a_receiver_that_is_stopped_repeats_nothing(airflow: StandIn, tmp_path: Path) -> None:
    # Given an Airflow that takes its time for an event,
    airflow.delay = 0.5
    with serve(airflow.application) as url:
        settings = Settings((SECRET,), "my-store", str(tmp_path / "x.db"), url, "youcan", "secret")
        with serve(build_application(settings)) as receiver:
            for number in range(4):
                assert post(receiver, make_body(order_id=f"order-{number}")).status_code == 200
            wait_for(lambda: airflow.events)
        # (it is stopped, and started again)
        airflow.delay = 0
        with serve(build_application(settings)) as receiver:
            wait_for(lambda: requests.get(f"{receiver}/health", timeout=5).text == "0 waiting")

    order_ids = [event["extra"]["order_id"] for event in airflow.events]
    assert sorted(order_ids) == [f"order-{number}" for number in range(4)]


def test_events_that_fail_starve_no_others(receiver: str, airflow: StandIn) -> None:
    # Given many events of an asset that Airflow can't take,
    airflow.assets["youcan://my-store/orders/updated"] = 8
    airflow.broken_asset = 8
    for number in range(60):
        assert post(receiver, make_body("order.updated", f"order-{number}")).status_code == 200
    wait_for(lambda: airflow.refused)

    # then one of another comes through.
    assert post(receiver, make_body("order.paid")).status_code == 200
    wait_for(lambda: airflow.events)


# --- several stores ---


@pytest.mark.parametrize(
    ("store_ids", "data", "store"),
    [
        ({}, {"store_id": "other"}, "my-store"),
        ({"1": "my-store"}, {}, "my-store"),
        ({"1": "my-store"}, {"store_id": "1"}, "my-store"),
        ({"1": "my-store"}, {"store_id": 1}, "my-store"),
        ({"Ab1": "my-store"}, {"store_id": "aB1"}, "my-store"),
        ({"1": "my-store", "2": "second"}, {"store_id": 2}, "second"),
    ],
)
def test_a_delivery_is_of_the_store_that_it_names(store_ids: dict[str, str], data: dict[str, Any], store: str) -> None:
    body = json.dumps({"event_name": "order.paid", "data": {"id": ORDER_ID, **data}}).encode()

    delivery = read_delivery(body, {}, "my-store", store_ids=store_ids)

    assert (delivery and delivery.store) == store


def test_a_delivery_of_another_store_makes_no_event_and_is_told(
    airflow: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(airflow.application) as url:
        settings = Settings(
            (SECRET,), "my-store", str(tmp_path / "x.db"), url, "youcan", "secret", store_ids={"1": "my-store"}
        )
        body = json.dumps({"event_name": "order.paid", "data": {"id": ORDER_ID, "store_id": 2}}).encode()
        with serve(build_application(settings)) as receiver:
            assert post(receiver, body).text == "this store is ignored"
            assert requests.get(f"{receiver}/health", timeout=5).text == "0 waiting"
    assert any("Deliveries of a store that is not this receiver's are ignored" in line for line in caplog.messages)


def test_a_delivery_has_to_name_one_of_several_stores() -> None:
    with pytest.raises(InvalidDeliveryError, match="which of the stores"):
        read_delivery(make_body(), {}, "my-store", store_ids={"1": "my-store", "2": "second"})


def test_several_stores_have_an_id_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOUCAN_CLIENT_SECRET", SECRET)
    settings = read_settings({"store": "One=1, two=2"})
    assert (settings.store, settings.store_ids) == ("one", {"1": "one", "2": "two"})
    assert read_settings({"store": "one=1"}).store_ids == {"1": "one"}
    for stores in ("one,two", "one=1,two", "one=1,two=1"):
        with pytest.raises(YouCanInvalidInputError, match="an id of its own"):
            read_settings({"store": stores})


@pytest.mark.parametrize(
    ("topic", "event"), [("order.paid", "order.paid"), ("order.create", "order.created"), ("", "order.updated")]
)
def test_the_topic_names_the_event_of_a_bare_body(topic: str, event: str) -> None:
    delivery = read_delivery(make_body(None), {"x-youcan-topic": topic}, "my-store")
    assert delivery is not None
    assert delivery.event == event
    assert read_delivery(make_body(None), {"x-youcan-topic": "product.inventory.low"}, "my-store") is None


def test_the_address_names_an_event_only_where_that_is_allowed(receiver: str, airflow: StandIn, tmp_path: Path) -> None:
    airflow.assets["youcan://my-store/orders/updated"] = 8
    body = make_body(None)
    headers = {"x-youcan-signature": sign(body)}
    assert requests.post(f"{receiver}/?event=order.paid", body, headers=headers, timeout=5).status_code == 200
    wait_for(lambda: airflow.events)
    assert airflow.events[0]["extra"]["event"] == "order.updated"

    with serve(airflow.application) as url:
        settings = Settings(
            (SECRET,), "my-store", str(tmp_path / "x.db"), url, "youcan", "secret", event_from_address=True
        )
        with serve(build_application(settings)) as other:
            assert requests.post(f"{other}/?event=order.paid", body, headers=headers, timeout=5).status_code == 200
            wait_for(lambda: len(airflow.events) == 2)
    assert airflow.events[1]["extra"]["event"] == "order.paid"


# --- hostile clients ---


@pytest.fixture
def guarded(airflow: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """The receiver behind its own bounds, with room for 20 connections."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 20)
    with serve(airflow.application) as url:
        settings = Settings((SECRET,), "my-store", str(tmp_path / "guarded.db"), url, "youcan", "secret")
        with serve(build_application(settings), http=server.Protocol) as address:
            host, port = address.removeprefix("http://").split(":")
            yield host, int(port)


def test_half_heads_keep_no_genuine_delivery_out(guarded: tuple[str, int], airflow: StandIn) -> None:
    with ExitStack() as held:
        for _ in range(100):
            half = held.enter_context(closing(socket.create_connection(guarded)))
            half.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nX-Filler: ")
        assert post(f"http://{guarded[0]}:{guarded[1]}", make_body()).status_code == 200
    wait_for(lambda: airflow.events)


@pytest.mark.parametrize(
    "start",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
        b"POST /elsewhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nPOST / HTT",
    ],
    ids=["head", "body", "refused", "after an answer"],
)
def test_endless_requests_are_cut_off_and_block_nobody(
    guarded: tuple[str, int], airflow: StandIn, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    with ExitStack() as held:
        sockets = [held.enter_context(closing(socket.create_connection(guarded))) for _ in range(40)]
        for one in sockets:
            with suppress(OSError):  # it had to make room
                one.sendall(start)
        assert post(f"http://{guarded[0]}:{guarded[1]}", make_body()).status_code == 200
    wait_for(lambda: airflow.events)

    monkeypatch.setattr(server, "CONNECTION_SECONDS", 0.2)
    with closing(socket.create_connection(guarded)) as endless:
        endless.sendall(start)
        endless.settimeout(10)
        with suppress(ConnectionResetError):
            while endless.recv(1000):
                pass


def test_nothing_is_read_on_after_a_413(guarded: tuple[str, int]) -> None:
    with closing(socket.create_connection(guarded)) as greedy:
        greedy.settimeout(10)
        greedy.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent = 0
        with suppress(OSError):  # reset, or a broken pipe
            while sent < 200:
                greedy.sendall(b"100000\r\n" + b"x" * 0x100000 + b"\r\n")
                sent += 1
        assert sent < 100


def test_a_body_too_large_by_its_own_word_is_not_read(receiver: str) -> None:
    host, port = receiver.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)))) as greedy:
        greedy.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
        greedy.settimeout(10)
        assert b" 413 " in greedy.recv(1000)


def test_all_bodies_together_are_bounded(receiver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_youcan.webhooks.receiver.MAX_BYTES", 100_000)
    assert post(receiver, make_body(note="x" * 200_000)).status_code == 503
    assert post(receiver, make_body(note="x" * 50_000)).status_code == 200


# --- the commands, against the sandbox ---


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A shop with an OAuth app."""
    with Sandbox(orders=20, webhook_pace=0.001) as sandbox:
        tokens = sandbox.shop.issue_token()
        connection = sandbox.connection(
            tokens["access_token"],
            client_id="sandbox-client",
            client_secret=SECRET,
            refresh_token=tokens["refresh_token"],
        )
        monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", connection)
        yield sandbox


@pytest.mark.parametrize("is_template", [False, True], ids=["documented routes", "the template's routes"])
def test_subscriptions_are_made_listed_and_ended(
    app: Sandbox, capsys: pytest.CaptureFixture[str], *, is_template: bool
) -> None:
    if is_template:
        app.misbehave("template-resthooks")
    url = "https://hooks.example.com/youcan"
    for _ in range(2):  # the same twice is one
        assert main(["webhooks", "subscribe", "--url", url, "--event", "order.paid", "order.updated"]) == 0
    capsys.readouterr()
    assert main(["webhooks", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:] for line in lines] == [["order.paid", url], ["order.updated", url]]

    assert main(["webhooks", "unsubscribe", "--id", lines[0].split()[0]]) == 0
    assert main(["webhooks", "unsubscribe", "--url", f"{url}/"]) == 0
    assert main(["webhooks", "unsubscribe", "--url", url]) == 0
    assert main(["webhooks", "unsubscribe", "--id", lines[0].split()[0]]) == 0
    assert "was not there" in capsys.readouterr().out
    assert app.shop.subscriptions() == []


@pytest.mark.parametrize("body", ["<html>", '{"message": "Not Found"}', '{"status": 404, "detail": "No such route"}'])
@pytest.mark.usefixtures("no_waiting")
def test_a_404_that_is_about_no_subscription_ends_none(app: Sandbox, capsys: Any, body: str) -> None:
    app.misbehave("status", route="* /resthooks/*", status=404, body=body)

    assert main(["webhooks", "unsubscribe", "--id", "abc"]) == 1
    assert "was not there" not in capsys.readouterr().out


def test_a_200_that_says_no_is_no_success(app: Sandbox, capsys: Any) -> None:
    app.misbehave(
        "status", route="* /resthooks*", status=200, body='{"status": 0, "detail": "no", "id": "7", "data": []}'
    )
    for words in (["subscribe", "--url", "https://x.example"], ["list"], ["unsubscribe", "--id", "abc"]):
        assert main(["webhooks", *words]) == 1
    assert "abc  ended" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "pagination",
    [{"last_page": 3}, {"meta": {"last_page": 3}}, {"meta": {"pagination": {"total_pages": 3}}}],
)
def test_a_list_that_has_pages_is_read_whole(pagination: dict[str, Any]) -> None:
    procedure = list_webhooks()
    assert next(procedure).params == {}
    answers = [{"data": {"0": {"id": 1}, "2": {"id": 2}}}, {"data": [{"id": 3}]}, {"data": [{"id": 4}]}]

    assert procedure.send(answers[0] | pagination).params == {"page": "2"}
    assert procedure.send(answers[1] | pagination).params == {"page": "3"}
    with pytest.raises(StopIteration) as end:
        procedure.send(answers[2] | pagination)
    assert [one["id"] for one in end.value.value] == [1, 2, 3, 4]


def test_an_address_with_a_path_is_warned_of(app: Sandbox, capsys: Any) -> None:
    assert main(["webhooks", "subscribe", "--url", "https://x.example/hooks", "--event", "order.paid"]) == 0
    assert "takes deliveries at /, not at /hooks" in capsys.readouterr().err


def test_a_test_delivery_goes_to_the_receiver_and_nowhere_else(
    app: Sandbox, receiver: str, airflow: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))

    assert main(["webhooks", "send-test", "--url", receiver, "--event", "order.paid"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "200 taken"
    wait_for(lambda: airflow.events)

    async def answer(request: Request) -> Response:
        headers.append(dict(request.headers))
        return Response("<html>Log in")

    headers: list[dict[str, str]] = []
    with serve(Starlette(routes=[Route("/", answer, methods=["POST"])])) as url:
        assert main(["webhooks", "send-test", "--url", url]) == 1
    assert "authorization" not in headers[0]
    assert main(["webhooks", "send-test", "--url", "http://127.0.0.1:9/"]) == 1
    assert "No receiver answers at http://127.0.0.1:9/" in capsys.readouterr().err


def test_a_secret_that_is_none_is_refused(app: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOUCAN_CLIENT_SECRET", " , ")
    with pytest.raises(YouCanInvalidInputError, match="YOUCAN_CLIENT_SECRET has no secret in it"):
        read_settings()


def test_a_token_without_the_scope_is_told_which(app: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    token = app.shop.issue_token(["read-orders"])["access_token"]
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", app.connection(token))

    for words, scope in (
        (["subscribe", "--url", "https://x.example"], "edit-rest-hooks"),
        (["list"], "read-rest-hooks"),
        (["unsubscribe", "--id", "x"], "delete-rest-hooks"),
    ):
        assert main(["webhooks", *words]) == 1
        assert scope in capsys.readouterr().err


def test_an_address_that_youcan_can_not_reach_is_refused(app: Sandbox, capsys: Any) -> None:
    assert main(["webhooks", "subscribe", "--url", "http://hooks.example.com"]) == 1
    assert "is not a public https address" in capsys.readouterr().err
    assert main(["webhooks", "subscribe", "--url", "https://[x"]) == 1
    for subscription_id in ("", "..", "a/b"):
        capsys.readouterr()
        assert main(["webhooks", "unsubscribe", "--id", subscription_id]) == 1
        assert "is not the id of a webhook" in capsys.readouterr().err
    assert app.shop.requests() == []


def test_the_secret_and_the_store_come_from_the_connection(app: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_settings({"spool": "x.db"})
    assert (settings.secrets, settings.store, settings.spool) == ((SECRET,), "sandbox", "x.db")
    assert SECRET not in repr(settings)

    monkeypatch.setenv("YOUCAN_CLIENT_SECRET", "old, new")
    monkeypatch.setenv("YOUCAN_WEBHOOKS_STORE", "My-Store")
    monkeypatch.setenv("YOUCAN_WEBHOOKS_AIRFLOW_URL", "https://airflow.example.com")
    monkeypatch.setenv("YOUCAN_WEBHOOKS_AIRFLOW_USERNAME", "receiver")
    monkeypatch.setenv("YOUCAN_WEBHOOKS_AIRFLOW_PASSWORD", "hunter2")
    monkeypatch.setenv("YOUCAN_WEBHOOKS_AIRFLOW_TOKEN", "a-token")
    settings = read_settings()
    assert settings == Settings(
        ("old", "new"),
        "my-store",
        "youcan-webhooks.db",
        "https://airflow.example.com",
        username="receiver",
        password="hunter2",
        token="a-token",
    )


@pytest.mark.parametrize(("options", "named"), [([], "of_environment"), (["--conn-id", "of_option"], "of_option")])
def test_the_command_reads_the_environment_too_and_an_option_goes_before_it(
    options: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("YOUCAN_WEBHOOKS_CONN_ID", "of_environment")
    assert main(["webhooks", "serve", *options]) == 1
    assert f"There is no Airflow connection {named!r}" in capsys.readouterr().err


def test_an_address_of_airflow_with_a_password_in_it_is_refused_and_not_repeated(app: Sandbox) -> None:
    for url in ("http://youcan:hunter2@airflow.example.com", "airflow.example.com", "https://[x"):
        with pytest.raises(YouCanInvalidInputError, match="The address of Airflow is not a valid URL") as error:
            read_settings({"airflow_url": url})
        assert "hunter2" not in str(error.value)


def test_a_connection_without_an_app_is_refused(app: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", app.connection())
    with pytest.raises(YouCanInvalidInputError, match="signs webhooks with an app"):
        read_settings()


# --- the sandbox delivers ---


@pytest.fixture
def subscribed(app: Sandbox, airflow: StandIn, tmp_path: Path) -> Iterator[StandIn]:
    """A stand-in for Airflow behind a receiver that the sandbox delivers all three events to."""
    airflow.assets = {
        f"youcan://sandbox/orders/{event}": number for number, event in enumerate(("created", "updated", "paid"), 1)
    }
    with serve(airflow.application) as url:
        settings = Settings((SECRET,), "sandbox", str(tmp_path / "spool.db"), url, "youcan", "secret")
        with serve(build_application(settings)) as receiver:
            assert main(["webhooks", "subscribe", "--url", receiver]) == 0
            yield airflow


def events(airflow: StandIn) -> list[str]:
    return sorted(event["extra"]["event"] for event in airflow.events)


def test_an_order_that_is_paid_in_the_sandbox_is_an_event(app: Sandbox, subscribed: StandIn) -> None:
    order_id = next(order["id"] for order in app.shop.orders() if order["payment_status"] == "pending")
    app.shop.set_status(order_id, "payment", "paid")
    (created,) = app.shop.add_orders(1)

    wait_for(lambda: len(subscribed.events) == 3)
    assert events(subscribed) == ["order.created", "order.paid", "order.updated"]
    assert {event["extra"]["order_id"] for event in subscribed.events} == {order_id, created}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("forge-webhook", []),
        ("repeat-webhook", ["order.updated"]),
        ("bare-webhook", ["order.updated"]),
        ("delay-webhook", ["order.updated"]),
    ],
)
def test_a_webhook_that_misbehaves_does_no_harm(
    app: Sandbox, subscribed: StandIn, kind: str, expected: list[str]
) -> None:
    first, second = app.shop.order_ids()[:2]
    app.misbehave(kind, route="WEBHOOK /order.updated", times=1, seconds=0.5)
    app.shop.set_status(first, "shipping", "shipped")
    app.shop.set_status(second, "shipping", "shipped")

    wait_for(lambda: len(subscribed.events) == len(expected) + 1)
    wait_for(lambda: len(app.shop.deliveries()) >= 2)
    found = [event["extra"]["order_id"] for event in subscribed.events]
    assert sorted(found) == sorted([second] + [first] * len(expected))
    if kind == "delay-webhook":
        assert found == [second, first]


def test_a_receiver_that_is_away_is_delivered_to_again(app: Sandbox) -> None:
    answers = iter([503, 500, 200])

    async def answer(_: Request) -> Response:
        return Response(status_code=next(answers))

    with serve(Starlette(routes=[Route("/", answer, methods=["POST"])])) as url:
        assert main(["webhooks", "subscribe", "--url", url, "--event", "order.updated"]) == 0
        app.shop.set_status(app.shop.order_ids()[0], "shipping", "shipped")
        wait_for(lambda: len(app.shop.deliveries()) == 3)

    assert [(one["status"], one["attempt"]) for one in app.shop.deliveries()] == [(503, 0), (500, 1), (200, 2)]
    assert len({one["delivery_id"] for one in app.shop.deliveries()}) == 1


@pytest.mark.parametrize(("status", "is_left"), [(400, True), (410, False)])
def test_a_refusal_is_final_and_a_410_ends_the_subscription(app: Sandbox, status: int, is_left: bool) -> None:
    async def answer(_: Request) -> Response:
        return Response(status_code=status)

    with serve(Starlette(routes=[Route("/", answer, methods=["POST"])])) as url:
        assert main(["webhooks", "subscribe", "--url", url, "--event", "order.updated"]) == 0
        app.shop.set_status(app.shop.order_ids()[0], "shipping", "shipped")
        wait_for(app.shop.deliveries)
        wait_for(lambda: bool(app.shop.subscriptions()) == is_left)

    assert [one["status"] for one in app.shop.deliveries()] == [status]


def test_an_event_has_seven_subscriptions_at_most(app: Sandbox, capsys: Any) -> None:
    for number in range(7):
        assert main(["webhooks", "subscribe", "--url", f"https://{number}.example", "--event", "order.paid"]) == 0
    assert app.shop.subscriptions("order.paid")[6]["target_url"] == "https://6.example"
    token = app.shop.issue_token()["access_token"]
    answer = requests.post(
        f"{app.url}/resthooks/subscribe",
        json={"event": "order.paid", "target_url": "https://7.example"},
        headers={"Authorization": f"Bearer {token}"},
        timeout=5,
    )
    assert answer.status_code == 429

    app.misbehave("status", route="POST /resthooks/subscribe", status=429, headers={"Retry-After": "3600"})
    capsys.readouterr()
    assert main(["webhooks", "subscribe", "--url", "https://7.example", "--event", "order.paid"]) == 1
    assert "where an event has seven subscriptions" in capsys.readouterr().err
