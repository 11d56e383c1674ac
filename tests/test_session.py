"""The bytes: answers of hostile servers, connections, and where the token goes."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import requests
from airflow.providers.common.compat.sdk import redact

from airflow_provider_youcan.exceptions import (
    YouCanConnectionError,
    YouCanError,
    YouCanOrderNotFoundError,
)
from airflow_provider_youcan.hooks.youcan import YouCanHook
from airflow_provider_youcan.hooks.youcan_async import YouCanAsyncHook
from tests.conftest import Connect, EitherHook, Sandbox

TOKEN = "sandbox-access-token"


# --- connections ---


def test_its_requests_share_one_connection(hook: YouCanHook, order_id: str) -> None:
    for _ in range(5):
        hook.get_order(order_id)

    pools = hook.get_conn().get_adapter("http://").poolmanager.pools  # type: ignore[attr-defined]
    assert [pools[key].num_connections for key in pools.keys()] == [1]  # noqa: SIM118  # urllib3's own container


def test_it_closes_its_session(sandbox: Sandbox, order_id: str) -> None:
    with YouCanHook() as hook:
        hook.get_order(order_id)
        assert sandbox.open_connections == 1

    for _ in range(100):
        if not sandbox.open_connections:
            break
        time.sleep(0.01)
    assert sandbox.open_connections == 0


def test_the_session_itself_follows_no_redirect(hook: YouCanHook, sandbox: Sandbox) -> None:
    sandbox.misbehave("redirect", times=1)

    assert hook.get_conn().put(f"{sandbox.url}/orders/x/status").status_code == 302


# --- hostile servers ---


@pytest.fixture
def answering() -> Iterator[Callable[[Callable[[int], list[bytes | float]]], str]]:
    """Make a server that answers each request with the given bytes, waiting where a number stands among them."""
    servers = []

    def start(answer: Callable[[int], list[bytes | float]]) -> str:
        counted = itertools.count()

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                buffer = b""
                while data := self.request.recv(65536):
                    buffer += data
                    # All requests of these tests have no body, or one that comes with its head.
                    if b"\r\n\r\n" in buffer:
                        buffer = b""
                        for part in answer(next(counted)):
                            if isinstance(part, bytes):
                                self.request.sendall(part)
                            else:
                                stopped.wait(part)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: Any) -> None:
                pass

        stopped = threading.Event()
        server = Server(("127.0.0.1", 0), Handler)
        servers.append((server, stopped))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server, stopped in servers:
        stopped.set()
        server.shutdown()
        server.server_close()


def http(status: str, body: bytes, *headers: bytes) -> bytes:
    head = b"".join(header + b"\r\n" for header in headers)
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n".encode() + head + b"\r\n" + body


def test_a_late_answer_is_never_taken_for_the_next_requests(connect: Connect, answering: Any) -> None:
    """Given answers that come behind an early hint, then what confirms one order never counts for another."""
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    taken = http("200 OK", b'{"status": 200, "detail": "Status is successfully updated", "meta": []}')
    gone = http("404 Not Found", b'{"status": 0, "detail": "order not found", "meta": []}')
    hook = connect(host=answering(lambda number: [early, 0.1, taken if number == 0 else gone]), max_attempts=1)

    for order_id in ("taken", "gone", "gone", "gone"):
        with pytest.raises(YouCanError):
            hook.update_order_status(order_id, "paid", "payment")


def test_a_host_of_many_silent_addresses_is_given_up(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a host whose addresses don't answer, each of which urllib3 would give the whole timeout,
    tried: list[str] = []
    clock = [0.0]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{number}", 443)) for number in range(1, 7)]

    def wait(address: tuple[str, int], timeout: float, **_: Any) -> Any:
        tried.append(address[0])
        clock[0] += timeout
        raise TimeoutError

    monkeypatch.setattr("airflow_provider_youcan.hooks.session.socket.getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr("airflow_provider_youcan.hooks.session.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("urllib3.util.connection.create_connection", wait)

    with pytest.raises(YouCanConnectionError, match=r"no connection to https://shop\.example within 1 s"):
        connect(host="https://shop.example", max_attempts=1, timeout=1).get_order("abc")

    assert tried == ["192.0.2.1", "192.0.2.2"]
    assert clock == [2.0]


@pytest.mark.parametrize("pause", [0, 0.05])
def test_an_answer_that_nobody_asked_for_is_never_taken_for_the_next_requests(
    hook_class: type[EitherHook], connect: Connect, answering: Any, pause: float
) -> None:
    taken = http("200 OK", b'{"status": 200, "detail": "Status is successfully updated", "meta": []}')
    gone = http("404 Not Found", b'{"status": 0, "detail": "order not found", "meta": []}')
    has_sent = threading.Event()

    def answer(number: int) -> Iterator[bytes | float]:
        yield gone if number else taken
        if not number:
            yield pause
            yield taken
        has_sent.set()

    connect(host=answering(answer), max_attempts=1)

    def update(hook: YouCanHook) -> None:
        hook.update_order_status("taken", "paid", "payment")
        assert has_sent.wait(10)
        with pytest.raises(YouCanOrderNotFoundError):
            hook.update_order_status("gone", "paid", "payment")

    async def update_in_a_loop() -> None:
        async with YouCanAsyncHook("other") as hook:
            await hook.update_order_status("taken", "paid", "payment")
            # The loop reads nothing meanwhile: what comes waits in the socket.
            assert has_sent.wait(10)
            with pytest.raises(YouCanOrderNotFoundError):
                await hook.update_order_status("gone", "paid", "payment")

    if hook_class is YouCanHook:
        with YouCanHook("other") as hook:
            update(hook)
    else:
        asyncio.run(update_in_a_loop())


def test_a_hook_that_was_used_before_a_fork_has_a_connection_of_its_own(hook: YouCanHook, sandbox: Sandbox) -> None:
    order_id, other_id, *_ = sandbox.shop.order_ids()
    hook.get_order(order_id)
    before = hook._session

    def read() -> None:
        assert hook.get_order(other_id)["id"] == other_id
        assert hook._session is not before

    child = get_context("fork").Process(target=read)
    child.start()
    child.join(60)

    assert child.exitcode == 0
    assert hook.get_order(order_id)["id"] == order_id
    assert hook._session is before


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n",
        http("200 OK", b"not gzip", b"Content-Encoding: gzip"),
        http("302 Found", b"", b"Location: http://\xff\xfe/"),
        http("302 Found", b"", b"Location: http://127.0.0.1:99999999/"),
        http("200 OK", gzip.compress(b" " * 30_000_000, mtime=0), b"Content-Encoding: gzip"),
    ],
)
def test_no_answer_ends_in_anything_but_a_youcan_error(connect_either: Connect, answering: Any, answer: bytes) -> None:
    def answer_once(number: int) -> list[bytes | float]:
        if number or not answer:
            raise ConnectionAbortedError
        return [answer]

    with pytest.raises(YouCanError):
        connect_either(host=answering(answer_once), max_attempts=1, timeout=2).get_order("abc")


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
ORDER = b'{"id": "abc"}'
CHUNKED_ORDER = b"%x\r\n%b\r\n0\r\n" % (len(ORDER), ORDER)
GZIP_WITH_NAME = b"\x1f\x8b\x08\x08" + bytes(6)
DRIPS = {
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 53\r\n\r\n" + ORDER, b" ", b""),
    "status line": (b"HTTP/1.1 200 ", b"O", b"\r\nContent-Length: 13\r\n\r\n" + ORDER),
    "header": (b"HTTP/1.1 200 OK\r\nX-Filler: ", b"x", b"\r\nContent-Length: 13\r\n\r\n" + ORDER),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-Filler: x\r\n", b"Content-Length: 13\r\n\r\n" + ORDER),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n" + ORDER),
    "chunks": (CHUNKED + b"\r\n", b"1\r\n \r\n", CHUNKED_ORDER + b"\r\n"),
    "chunk extension": (CHUNKED + b"\r\nd;x=", b"x", b"\r\n" + ORDER + b"\r\n0\r\n\r\n"),
    "trailers": (CHUNKED + b"\r\n" + CHUNKED_ORDER, b"X-Filler: x\r\n", b"\r\n"),
    "name of a gzip file": (
        CHUNKED + b"Content-Encoding: gzip\r\n\r\na\r\n" + GZIP_WITH_NAME + b"\r\n",
        b"1\r\nx\r\n",
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(gzip.compress(ORDER)) - 9, b"\0" + gzip.compress(ORDER)[10:]),
    ),
}


@pytest.mark.parametrize("drip", DRIPS)
def test_an_answer_that_drips_in_is_given_up(connect_either: Connect, answering: Any, drip: str) -> None:
    """Given an answer that would come to a good end, a little at a time, then it has twice the timeout in all."""
    start, drop, end = DRIPS[drip]
    hook = connect_either(host=answering(lambda _: [start, *([drop, 0.05] * 40), end]), max_attempts=1, timeout=0.3)

    with pytest.raises(YouCanConnectionError, match=r"no whole answer within 0\.3 s"):
        hook.get_order("abc")


@pytest.mark.parametrize("drip", DRIPS)
def test_an_answer_that_takes_its_time_is_read(connect_either: Connect, answering: Any, drip: str) -> None:
    start, drop, end = DRIPS[drip]
    hook = connect_either(host=answering(lambda _: [start, *([drop, 0.001] * 40), end]), max_attempts=1, timeout=20)

    assert hook.get_order("abc") == {"id": "abc"}


def test_a_compressed_body_may_come_in_pieces(connect: Connect, answering: Any) -> None:
    answer = http("200 OK", gzip.compress(b'{"slug": "x"}', mtime=0), b"Content-Encoding: gzip")
    cut = len(answer) - 20
    pieces: list[bytes | float] = [answer[:cut], 0.05, answer[cut : cut + 3], 0.05, answer[cut + 3 :]]

    assert connect(host=answering(lambda _: pieces)).get_store() == {"slug": "x"}


def test_no_cookie_is_kept(connect: Connect, answering: Any) -> None:
    url = answering(lambda _: [http("200 OK", b'{"slug": "x"}', b"Set-Cookie: session=abc; path=/")])
    hook = connect(host=url)

    assert hook.get_store() == {"slug": "x"}

    assert len(hook.get_conn().cookies) == 0
    # Another session would keep it.
    assert requests.get(f"{url}/me", timeout=10).cookies


# --- the token ---


def test_the_token_goes_to_the_shop_and_nowhere_else(connect: Connect, answering: Any, sandbox: Sandbox) -> None:
    elsewhere = answering(lambda _: [http("200 OK", b"{}")])

    session = connect().get_conn()

    assert session.get(f"{sandbox.url}/me").request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert "Authorization" not in session.get(f"{elsewhere}/me").request.headers


def test_search_words_are_in_no_log_of_urllib3(hook: YouCanHook, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        list(hook.iter_orders(q="+212612345678"))

    assert "/orders?***" in caplog.text
    assert "212612345678" not in caplog.text


@pytest.mark.parametrize("trouble", [{"kind": "drop"}, {"kind": "status", "status": 401}, {"kind": "html"}])
def test_no_error_carries_the_token_or_the_search(
    hook: YouCanHook, sandbox: Sandbox, no_waiting: None, trouble: dict[str, Any]
) -> None:
    sandbox.misbehave(**trouble)

    with pytest.raises(YouCanError) as raised:
        list(hook.iter_orders(q="+212612345678"))

    error: BaseException | None = raised.value
    while error is not None:
        shown = f"{error!r} {vars(error)}"
        assert TOKEN not in shown
        assert "212612345678" not in shown
        error = error.__cause__ or error.__context__


def test_airflow_masks_the_token_in_logs(connect: Connect, sandbox: Sandbox) -> None:
    token = sandbox.shop.issue_token()["access_token"]

    connect(token=token).get_store()

    assert redact(f"the token is {token}") == "the token is ***"


def test_the_token_is_in_no_repr(hook: YouCanHook) -> None:
    hook.get_store()

    shown = f"{hook!r} {hook.get_conn()!r} {hook.get_conn().headers!r} {hook.get_conn().auth!r}"
    assert "youcan_default" in shown
    assert TOKEN not in shown


def test_a_login_in_netrc_does_not_replace_the_token(
    either_hook: EitherHook, order_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    if isinstance(either_hook, YouCanHook):
        either_hook.get_conn().trust_env = True

    assert either_hook.get_order(order_id)["id"] == order_id
