"""Webhooks: what the receiver takes, keeps and hands on, over real sockets, with a stand-in for Airflow's REST API."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
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
from airflow_provider_youcan.webhooks.deliveries import (
    Delivery,
    InvalidDeliveryError,
    is_genuine,
    read_delivery,
)
from airflow_provider_youcan.webhooks.receiver import build_application
from airflow_provider_youcan.webhooks.settings import Settings, read_settings
from airflow_provider_youcan.webhooks.spool import Spool

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


def test_what_was_kept_is_there_after_the_process_was_killed(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "spool.db"))
    spool.add([deliver(1), deliver(2), deliver(1)])
    # (nothing is closed)

    again = Spool(str(tmp_path / "spool.db"))

    assert [one.delivery for one in again.take(10)] == [deliver(1), deliver(2)]
    again.mark_forwarded(["d-1"])
    again.add([deliver(1)])
    assert [one.delivery for one in again.take(10)] == [deliver(2)]


def test_what_was_put_off_comes_later_and_what_is_old_is_forgotten(tmp_path: Path) -> None:
    now = [1000.0]
    spool = Spool(str(tmp_path / "spool.db"), clock=lambda: now[0])
    spool.add([deliver()])
    spool.put_off("d-1", 60)
    assert spool.take(10) == []
    now[0] += 61
    assert len(spool.take(10)) == 1
    spool.mark_forwarded(["d-1"])
    now[0] += 8 * 86_400
    spool.forget_old()
    spool.add([deliver()])
    assert spool.count_waiting() == 1


# --- the receiver ---


@contextmanager
def serve(application: Any, port: int = 0) -> Iterator[str]:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(100)  # from here on, so that nothing comes too early
    server = uvicorn.Server(uvicorn.Config(application, log_level="error", ws="none"))
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
        v2 = [
            Route("/auth/token", self.log_in, methods=["GET", "POST"]),
            Route("/api/v2/version", self.version),
            Route("/api/v2/assets", self.list_assets),
            Route("/api/v2/assets/events", self.create, methods=["POST"]),
        ]
        v1 = [Route("/api/v1/version", self.version), Route("/api/v1/datasets/events", self.create, methods=["POST"])]
        self.application = Starlette(routes=v1 if is_airflow_2 else v2)

    async def version(self, _: Request) -> Response:
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
        body = await request.json()
        known = body.get("asset_id") in self.assets.values() or body.get("dataset_uri") in self.assets
        if not known:
            return JSONResponse({}, 404)
        self.events.append(body)
        return JSONResponse({})


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
def test_what_is_hostile_makes_no_event_and_is_not_logged(
    receiver: str, airflow: StandIn, caplog: pytest.LogCaptureFixture, body: bytes, signature: str | None, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    signature = None if signature is None else signature.encode().decode("latin-1")
    try:
        assert post(receiver, body, signature).status_code == status
    except requests.ConnectionError:
        assert status == 413  # it was not read to its end

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
        assert b" 408 " in slow.recv(1000)


def test_what_comes_while_airflow_is_away_is_kept_and_handed_on(airflow: StandIn, tmp_path: Path) -> None:
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
    monkeypatch.setattr(Spool, "put_off_event", lambda *_: None)
    known = dict(airflow.assets)
    airflow.assets.clear()
    post(receiver, make_body())
    wait_for(lambda: airflow.logins)

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
        url = f"{receiver}/?event={event}"
        assert requests.post(url, body, headers={"x-youcan-signature": sign(body)}, timeout=5).status_code == 200

    wait_for(lambda: len(airflow.events) == 2)


def test_a_spool_that_is_slow_makes_one_event_of_one_delivery(
    receiver: str, airflow: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_youcan.webhooks.receiver.KEEP_SECONDS", 0.05)
    add, release = Spool.add, threading.Event()

    def add_slowly(self: Spool, deliveries: Any) -> None:
        release.wait(10)
        add(self, deliveries)

    monkeypatch.setattr(Spool, "add", add_slowly)
    assert post(receiver, make_body(), delivery_id="d-1").status_code == 200
    assert len(airflow.events) == 1
    release.set()
    post(receiver, make_body(), delivery_id="d-2")

    wait_for(lambda: len(airflow.events) == 2)
    assert [event["extra"]["delivery_id"] for event in airflow.events] == ["d-1", "d-2"]


def test_where_the_spool_takes_nothing_airflow_is_asked_at_once(
    receiver: str, airflow: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Spool, "add", fail)
    assert post(receiver, make_body()).status_code == 200
    assert len(airflow.events) == 1

    # And YouCan is asked to come again where neither works.
    airflow.status = 500
    started = time.monotonic()
    assert post(receiver, make_body()).status_code == 503
    assert time.monotonic() - started < 5


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
    assert capsys.readouterr().out == ""


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
    with pytest.raises(YouCanInvalidInputError, match="webhooks take an app"):
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
