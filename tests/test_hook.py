"""The hook against the sandbox, over a real socket."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import gzip
import itertools
import json
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import certifi
import pytest
import requests
from airflow.providers.common.compat.sdk import redact

from airflow_provider_youcan.client import endpoints, procedures
from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanConnectionError,
    YouCanConnectionNotFoundError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanOrderNotFoundError,
    YouCanPermanentError,
    YouCanPermissionError,
    YouCanRateLimitError,
    YouCanServerError,
    YouCanStoreSuspendedError,
    YouCanUnexpectedResponseError,
    YouCanUnknownStatusError,
    YouCanValidationError,
)
from airflow_provider_youcan.hooks.youcan import YouCanAsyncHook, YouCanHook
from airflow_provider_youcan.orders import OrderStatuses, StatusContext
from airflow_provider_youcan.sandbox.shop import ALL_SCOPES
from tests.conftest import AIRFLOW_3, Sandbox

TOKEN = "sandbox-access-token"
Connect = Callable[..., YouCanHook]


@pytest.fixture
def connect(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Make a hook whose connection differs from the sandbox's own in what is named."""

    def connect(token: str = TOKEN, host: str = sandbox.url, **extra: Any) -> YouCanHook:
        connection = {"conn_type": "youcan", "host": host, "password": token, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(connection))
        return YouCanHook("other")

    return connect


# --- what it does ---


@pytest.mark.parametrize(("context", "status"), [("general", "closed"), ("shipping", "shipped"), ("payment", "paid")])
def test_it_sets_one_status_and_leaves_the_others(
    hook: YouCanHook, sandbox: Sandbox, order_id: str, context: str, status: str
) -> None:
    before = sandbox.shop.statuses(order_id)

    assert hook.update_order_status(order_id, status, context) is None  # type: ignore[func-returns-value]

    assert sandbox.shop.statuses(order_id) == {**before, context: status}


def test_the_general_status_is_the_one_that_is_meant_by_default(
    hook: YouCanHook, sandbox: Sandbox, order_id: str
) -> None:
    hook.update_order_status(order_id, "تم التأكيد")

    assert sandbox.shop.statuses(order_id)["general"] == "تم التأكيد"


def test_it_reads_an_order_and_its_statuses(hook: YouCanHook, order_id: str) -> None:
    assert hook.get_order(order_id)["payment"]["gateway_type_text"] == "Cash on Delivery"
    assert "customer" in hook.get_order(order_id, include=["customer"])
    assert hook.get_order_statuses(order_id) == OrderStatuses("open", "unfulfilled", "pending")


def test_it_reads_all_orders_page_by_page(hook: YouCanHook, sandbox: Sandbox) -> None:
    orders = list(hook.iter_orders(page_size=7))

    assert [order["id"] for order in orders] == sandbox.shop.order_ids()[::-1]
    assert len(sandbox.shop.requests()) == 3
    assert OrderStatuses.from_order(orders[0])["payment"] is not None


def test_it_reads_the_orders_that_match(hook: YouCanHook) -> None:
    assert [
        order["ref"] for order in hook.iter_orders(q="customer2", sort_field="ref", sort_order="asc", include=())
    ] == [
        "002",
        "020",
    ]
    assert list(hook.iter_orders(q="no such text")) == []


def test_an_order_that_moves_between_pages_comes_once(hook: YouCanHook, sandbox: Sandbox) -> None:
    seen = []
    for number, order in enumerate(hook.iter_orders(page_size=5)):
        seen.append(order["id"])
        if number == 2:
            # Two newer orders push two of the first page over to the second.
            sandbox.shop.add_orders(2)

    assert len(seen) == len(set(seen))
    assert set(sandbox.shop.order_ids()[:20]) <= set(seen)


def test_it_follows_no_link_to_another_host(hook: YouCanHook, sandbox: Sandbox) -> None:
    list(hook.iter_orders(page_size=5))

    assert [request["query"].partition("&")[0] for request in sandbox.shop.requests()] == [
        f"page={page}" for page in (1, 2, 3, 4)
    ]


def test_it_reads_the_stores_statuses_once(hook: YouCanHook, sandbox: Sandbox) -> None:
    statuses = hook.get_store_statuses()
    statuses[StatusContext.GENERAL].clear()

    assert "confirmed" in hook.get_store_statuses()[StatusContext.GENERAL]
    assert "تم التسليم" in hook.get_store_statuses()[StatusContext.SHIPPING]
    assert len(sandbox.shop.requests()) == 1


def test_it_reads_the_store(hook: YouCanHook) -> None:
    assert hook.get_store()["currency"] == {"code": "MAD", "symbol": "DH"}


def test_its_requests_share_one_connection(hook: YouCanHook, order_id: str) -> None:
    for _ in range(5):
        hook.get_order(order_id)

    pools = hook.get_conn().get_adapter("http://").poolmanager.pools  # type: ignore[attr-defined]
    assert [pools[key].num_connections for key in pools.keys()] == [1]  # noqa: SIM118  # urllib3's own container


# --- testing the connection ---


def test_the_connection_test_names_the_store(hook: YouCanHook) -> None:
    assert hook.test_connection() == (
        True,
        "Connected to the YouCan store 'Sandbox Shop'. Scopes of its token: 'read-orders', 'read-orders-statuses', "
        "'view-store-info'. "
        "Whether it has 'edit-orders' can't be known without changing an order.",
    )


def test_the_connection_test_says_what_is_wrong(connect: Connect) -> None:
    reached, message = connect(token="revoked-token").test_connection()

    assert not reached
    assert "renew the token in this connection" in message


@pytest.mark.parametrize(
    ("scopes", "claimed", "message"),
    [
        (ALL_SCOPES, ["read-orders"], "Missing, to be granted in YouCan's seller area: 'edit-orders'."),
        (
            ALL_SCOPES,
            ["*"],
            "'read-orders', 'read-orders-statuses', 'edit-orders', 'view-store-info'.",
        ),
        (ALL_SCOPES, None, "Whether it has 'edit-orders' can't be known without changing an order."),
        (
            ["read-orders"],
            ["edit-orders"],
            "'edit-orders'. Missing, to be granted in YouCan's seller area: 'read-orders-",
        ),
        (
            [],
            ["read-orders"],
            "Missing, to be granted in YouCan's seller area: 'read-orders', 'read-orders-",
        ),
    ],
)
def test_the_connection_test_says_the_scopes_and_changes_nothing(
    connect: Connect, sandbox: Sandbox, scopes: list[str], claimed: list[str] | None, message: str
) -> None:
    # Given a token that may do some things, and that says which, as a JWT, or doesn't,
    claims = base64.urlsafe_b64encode(json.dumps({"scopes": claimed}).encode()).decode().rstrip("=")
    token = f"head.{claims}.signature" if claimed is not None else "no-jwt"
    sandbox.shop.issue_token(scopes, access_token=token)

    reached, answer = connect(token=token).test_connection()

    assert reached
    assert message in answer
    assert {request["method"] for request in sandbox.shop.requests()} == {"GET"}


def test_the_connection_test_of_no_connection_says_so() -> None:
    reached, message = YouCanHook("nowhere").test_connection()

    assert not reached
    assert "There is no Airflow connection 'nowhere': add one of type 'youcan'" in message


# --- what the shop answers: a case for each row of the design's table ---


@pytest.mark.parametrize(
    ("trouble", "error", "requests_sent"),
    [
        ({"kind": "drop"}, YouCanConnectionError, 4),
        ({"kind": "lose-answer"}, YouCanConnectionError, 4),
        ({"kind": "half-body"}, YouCanConnectionError, 4),
        ({"kind": "status", "status": 408}, YouCanServerError, 4),
        ({"kind": "status", "status": 500}, YouCanServerError, 4),
        ({"kind": "status", "status": 503}, YouCanServerError, 4),
        ({"kind": "status", "status": 429}, YouCanRateLimitError, 4),
        ({"kind": "status", "status": 429, "headers": {"Retry-After": "61"}}, YouCanRateLimitError, 1),
        ({"kind": "html"}, YouCanUnexpectedResponseError, 4),
        ({"kind": "status", "status": 204}, YouCanUnexpectedResponseError, 4),
        ({"kind": "status", "status": 200}, YouCanUnexpectedResponseError, 4),
        ({"kind": "status", "status": 401}, YouCanAuthenticationError, 1),
        ({"kind": "status", "status": 402}, YouCanStoreSuspendedError, 1),
        ({"kind": "status", "status": 403}, YouCanPermissionError, 1),
        ({"kind": "status", "status": 404}, YouCanOrderNotFoundError, 1),
        ({"kind": "status", "status": 405}, YouCanPermanentError, 1),
        ({"kind": "status", "status": 422}, YouCanValidationError, 1),
        ({"kind": "redirect"}, YouCanPermanentError, 1),
    ],
)
def test_each_answer_is_what_airflow_should_make_of_it(
    hook: YouCanHook,
    sandbox: Sandbox,
    order_id: str,
    waits: list[float],
    trouble: dict[str, Any],
    error: type[YouCanError],
    requests_sent: int,
) -> None:
    body = '{"status": 401, "detail": "Unauthenticated"}' if trouble.get("status") == 200 else None
    sandbox.misbehave(**trouble, body=body)

    with pytest.raises(YouCanError) as raised:
        hook.update_order_status(order_id, "paid", "payment")

    assert type(raised.value) is error
    assert len(sandbox.shop.requests()) == requests_sent
    assert len(waits) == requests_sent - 1
    assert raised.value.url == f"/orders/{order_id}/status/payment"


def test_no_connection_is_a_transient_error(connect: Connect, waits: list[float], order_id: str) -> None:
    with pytest.raises(YouCanConnectionError, match="no connection to http://127.0.0.1:9: it was refused"):
        connect(host="http://127.0.0.1:9").get_order(order_id)

    assert len(waits) == 3


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (
            "https://no-such-host.invalid",
            "the host of https://no-such-host.invalid could not be found; nothing was changed",
        ),
        ("https://127.0.0.1:{port}", "does not speak TLS .*; nothing was changed"),
    ],
)
def test_why_no_connection_came_about_is_reported(
    connect: Connect, sandbox: Sandbox, order_id: str, host: str, message: str
) -> None:
    with pytest.raises(YouCanConnectionError, match=message):
        connect(host=host.format(port=sandbox.port), max_attempts=1).update_order_status(order_id, "paid", "payment")


def test_a_lost_answer_to_an_update_leaves_open_whether_it_took(
    connect: Connect, sandbox: Sandbox, order_id: str
) -> None:
    sandbox.misbehave("lose-answer")

    with pytest.raises(YouCanConnectionError, match="whether YouCan took it is unknown"):
        connect(max_attempts=1).update_order_status(order_id, "paid", "payment")
    with pytest.raises(YouCanConnectionError, match="nothing was changed"):
        connect(max_attempts=1).get_order(order_id)


def test_a_slow_shop_is_a_transient_error(connect: Connect, sandbox: Sandbox, order_id: str) -> None:
    sandbox.misbehave("latency", seconds=0.5)

    with pytest.raises(YouCanConnectionError, match=r"no whole answer within 0\.05 s"):
        connect(timeout=0.05, max_attempts=1).get_order(order_id)


def test_a_shop_that_recovers_is_a_success_with_a_warning_for_each_wait(
    hook: YouCanHook,
    sandbox: Sandbox,
    order_id: str,
    waits: list[float],
    log_lines: Callable[[], list[str]],
) -> None:
    sandbox.misbehave("status", status=503, times=2)

    hook.update_order_status(order_id, "paid", "payment")

    assert len([line for line in log_lines() if "Trying again in" in line]) == 2
    assert sandbox.shop.statuses(order_id)["payment"] == "paid"


def test_a_short_rate_limit_is_waited_out(
    hook: YouCanHook, sandbox: Sandbox, order_id: str, waits: list[float]
) -> None:
    sandbox.misbehave("status", status=429, headers={"Retry-After": "2"}, times=1)

    hook.update_order_status(order_id, "paid", "payment")

    (wait,) = waits
    assert 2.0 <= wait <= 3.0, "and a little longer, so that those which were refused together don't come back together"


def test_a_long_rate_limit_is_raised_at_once(
    hook: YouCanHook, sandbox: Sandbox, order_id: str, waits: list[float]
) -> None:
    sandbox.misbehave("status", status=429, headers={"Retry-After": "3600"})

    with pytest.raises(YouCanRateLimitError) as raised:
        hook.update_order_status(order_id, "paid", "payment")

    assert raised.value.retry_after == 3600.0
    assert waits == []


def test_a_lost_answer_is_sent_again_and_holds_once(
    hook: YouCanHook, sandbox: Sandbox, order_id: str, waits: list[float]
) -> None:
    sandbox.misbehave("lose-answer", times=1)

    hook.update_order_status(order_id, "paid", "payment")

    assert [update["after"] for update in sandbox.shop.history(order_id)] == ["paid", "paid"]
    assert sandbox.shop.statuses(order_id)["payment"] == "paid"


@pytest.mark.parametrize("location", ["/login", "/orders/settings", "http://127.0.0.1:9/elsewhere", "http://[", "//[x"])
def test_a_redirect_is_never_followed(hook: YouCanHook, sandbox: Sandbox, order_id: str, location: str) -> None:
    sandbox.misbehave("redirect", location=location)

    with pytest.raises(YouCanPermanentError, match="never followed"):
        hook.update_order_status(order_id, "paid", "payment")

    assert len(sandbox.shop.requests()) == 1
    assert sandbox.shop.history() == []


def test_nor_is_it_by_the_session_itself(hook: YouCanHook, sandbox: Sandbox) -> None:
    sandbox.misbehave("redirect", times=1)

    assert hook.get_conn().put(f"{sandbox.url}/orders/x/status").status_code == 302


def test_a_hook_that_is_asked_for_an_order_moves_it_only_from_where_it_may(
    hook: YouCanHook, sandbox: Sandbox, order_id: str
) -> None:
    assert hook.move_order_status(order_id, "paid", "payment", only_from=["pending"]) == ("pending", True)
    assert hook.move_order_status(order_id, "paid", "payment", only_from=["pending"]) == ("paid", False)
    assert hook.move_order_status(order_id, "refunded", "payment", only_from=["pending"]) == ("paid", False)
    assert sandbox.shop.statuses(order_id)["payment"] == "paid"


def test_no_retry_overruns_what_changed_in_the_meantime(
    hook: YouCanHook, sandbox: Sandbox, order_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given an update that is refused once, when someone refunds the order during the wait, then it stays so."""
    sandbox.misbehave("status", status=503, route="PUT *", times=1)
    monkeypatch.setattr(
        "airflow_provider_youcan.hooks.youcan.time.sleep",
        lambda _: sandbox.shop.set_status(order_id, "payment", "refunded"),
    )

    assert hook.move_order_status(order_id, "paid", "payment", only_from=["pending"]) == ("refunded", False)
    assert sandbox.shop.statuses(order_id)["payment"] == "refunded"


def test_a_lost_answer_is_found_to_have_taken(
    hook: YouCanHook, sandbox: Sandbox, order_id: str, waits: list[float]
) -> None:
    sandbox.misbehave("lose-answer", route="PUT *", times=1)

    assert hook.move_order_status(order_id, "paid", "payment", only_from=["pending"]) == ("pending", True)
    assert len(sandbox.shop.history(order_id)) == 1


@pytest.mark.parametrize(
    ("scopes", "call", "scope"),
    [
        (["read-orders"], lambda hook, order_id: hook.update_order_status(order_id, "paid"), "edit-orders"),
        (["edit-orders"], lambda hook, order_id: hook.get_order(order_id), "read-orders"),
        (["edit-orders"], lambda hook, order_id: list(hook.iter_orders()), "read-orders"),
        (["edit-orders"], lambda hook, order_id: hook.get_store_statuses(), "read-orders-statuses"),
    ],
)
def test_a_missing_scope_is_named(
    connect: Connect, sandbox: Sandbox, order_id: str, scopes: list[str], call: Any, scope: str
) -> None:
    token = sandbox.shop.issue_token(scopes)["access_token"]

    with pytest.raises(YouCanPermissionError, match=f"grant the scope '{scope}'"):
        call(connect(token=token), order_id)


def test_a_suspended_store_says_so(hook: YouCanHook, sandbox: Sandbox, order_id: str) -> None:
    sandbox.shop.suspended = True

    with pytest.raises(YouCanStoreSuspendedError, match="store is suspended"):
        hook.get_order(order_id)


# --- bad input ---


@pytest.mark.parametrize("order_id", ["None", "", "../stores", "a/status/payment?x", 7, "a\n", None])
def test_a_bad_order_id_is_refused_before_a_request(hook: YouCanHook, sandbox: Sandbox, order_id: Any) -> None:
    for call in (
        lambda: hook.update_order_status(order_id, "paid", "payment"),
        lambda: hook.get_order(order_id),
        lambda: hook.get_order_statuses(order_id),
    ):
        with pytest.raises(YouCanInvalidInputError):
            call()

    assert sandbox.shop.requests() == []


@pytest.mark.parametrize(("status", "context"), [("", "payment"), (" ", "payment"), ("paid", "orders")])
def test_a_bad_status_is_refused_before_a_request(
    hook: YouCanHook, sandbox: Sandbox, order_id: str, status: str, context: str
) -> None:
    with pytest.raises(YouCanInvalidInputError):
        hook.update_order_status(order_id, status, context)

    assert sandbox.shop.requests() == []


def test_a_documented_status_is_known_without_a_request(hook: YouCanHook, sandbox: Sandbox) -> None:
    hook.check_status("paid", "payment")
    hook.check_status("anything", "payment", allow_custom_label=True)

    assert sandbox.shop.requests() == []


def test_a_status_of_another_context_is_unknown(hook: YouCanHook) -> None:
    with pytest.raises(YouCanUnknownStatusError):
        hook.check_status("paid", "shipping")


@pytest.mark.parametrize("query", [{"status": "paid"}, {"page": 2}, {"limit": 5}])
def test_orders_are_listed_by_nothing_that_youcan_passes_over(hook: YouCanHook, query: dict[str, Any]) -> None:
    with pytest.raises(YouCanInvalidInputError, match="can't be listed by"):
        list(hook.iter_orders(**query))


def test_a_list_without_end_is_given_up(hook: YouCanHook, sandbox: Sandbox) -> None:
    body = '{"data": [{"id": "a"}], "meta": {"pagination": {"total_pages": 1000000}}}'
    sandbox.misbehave("status", status=200, body=body)
    yielded = []

    with pytest.raises(YouCanUnexpectedResponseError, match="nothing new"):
        yielded.extend(hook.iter_orders())

    assert [order["id"] for order in yielded] == ["a"]


def test_a_status_that_resembles_a_documented_one_says_so_without_the_list(connect: Connect, sandbox: Sandbox) -> None:
    token = sandbox.shop.issue_token(["edit-orders"])["access_token"]

    with pytest.raises(YouCanPermissionError, match="did you mean 'shipped'"):
        connect(token=token).check_status("shiped", "shipping")


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


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n",
        http("200 OK", b"not gzip", b"Content-Encoding: gzip"),
        http("302 Found", b"", b"Location: http://\xff\xfe/"),
        http("302 Found", b"", b"Location: http://127.0.0.1:99999999/"),
        http("200 OK", gzip.compress(b" " * 30_000_000), b"Content-Encoding: gzip"),
    ],
)
def test_no_answer_ends_in_anything_but_a_youcan_error(connect: Connect, answering: Any, answer: bytes) -> None:
    def answer_once(number: int) -> list[bytes | float]:
        if number or not answer:
            raise ConnectionAbortedError
        return [answer]

    with pytest.raises(YouCanError):
        connect(host=answering(answer_once), max_attempts=1, timeout=2).get_order("abc")


def test_a_body_that_drips_in_is_given_up(connect: Connect, answering: Any) -> None:
    drip: list[bytes | float] = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", *([b" " * 1, 0.05] * 100)]

    with pytest.raises(YouCanConnectionError, match=r"no whole answer within 0\.3 s"):
        connect(host=answering(lambda _: drip), max_attempts=1, timeout=0.3).get_order("abc")


def test_a_compressed_body_may_come_in_pieces(connect: Connect, answering: Any) -> None:
    answer = http("200 OK", gzip.compress(b'{"slug": "x"}'), b"Content-Encoding: gzip")
    cut = len(answer) - 20
    pieces: list[bytes | float] = [answer[:cut], 0.05, answer[cut : cut + 3], 0.05, answer[cut + 3 :]]

    assert connect(host=answering(lambda _: pieces)).get_store() == {"slug": "x"}


def test_no_cookie_is_kept(connect: Connect, answering: Any) -> None:
    hook = connect(host=answering(lambda _: [http("200 OK", b'{"slug": "x"}', b"Set-Cookie: session=abc; path=/")]))

    hook.get_store()

    assert len(hook.get_conn().cookies) == 0


# --- the token ---


def test_the_token_goes_to_the_shop_and_nowhere_else(connect: Connect, answering: Any, sandbox: Sandbox) -> None:
    elsewhere = answering(lambda _: [http("200 OK", b"{}")])

    answer = connect().get_conn().get(f"{elsewhere}/me")

    assert "Authorization" not in answer.request.headers


def test_what_is_searched_for_is_in_no_log_of_urllib3(hook: YouCanHook, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        list(hook.iter_orders(q="+212612345678"))

    assert "/orders?***" in caplog.text
    assert "212612345678" not in caplog.text


@pytest.mark.parametrize("trouble", [{"kind": "drop"}, {"kind": "status", "status": 401}, {"kind": "html"}])
def test_no_error_carries_the_token_or_the_search(
    hook: YouCanHook, sandbox: Sandbox, waits: list[float], trouble: dict[str, Any]
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

    assert TOKEN not in f"{hook!r} {hook.get_conn()!r} {hook.get_conn().headers!r} {hook.get_conn().auth!r}"


def test_a_login_in_netrc_does_not_replace_the_token(
    sandbox: Sandbox, order_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    hook = YouCanHook()
    hook.get_conn().trust_env = True

    assert hook.get_order(order_id)["id"] == order_id


# --- proxies ---


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that refuses everything, and what was asked of it."""
    asked: list[str] = []

    class Refusing(BaseHTTPRequestHandler):
        def refuse(self) -> None:
            asked.append(f"{self.command} {self.path} {self.headers.get('Authorization', '')}".strip())
            self.send_error(403)

        do_CONNECT = do_GET = do_PUT = refuse

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_a_proxy_of_the_environment_is_used_and_sees_no_token(
    connect: Connect, proxy: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = proxy
    monkeypatch.setenv("HTTPS_PROXY", url)

    with pytest.raises(YouCanConnectionError, match="proxy"):
        connect(host="https://api.youcan.shop", max_attempts=1).get_store()

    assert asked == ["CONNECT api.youcan.shop:443"]


def test_a_proxy_is_not_used_where_the_token_would_travel_in_clear(
    hook: YouCanHook, proxy: tuple[str, list[str]], order_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = proxy
    monkeypatch.setenv("HTTP_PROXY", url)
    monkeypatch.setenv("http_proxy", url)
    monkeypatch.delenv("NO_PROXY")

    hook.get_order(order_id)

    assert asked == []


@pytest.mark.parametrize("proxy", ["proxy.invalid:3128", "http://proxy.invalid:3128"])
def test_a_proxy_without_a_scheme_is_an_http_proxy_for_both_hooks(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    hook = connect(host="https://api.youcan.shop", max_attempts=1)

    for call in (hook.get_store, lambda: asyncio.run(read_store_async())):
        with pytest.raises(YouCanConnectionError, match="nothing was changed"):
            call()


async def read_store_async() -> dict[str, Any]:
    async with YouCanAsyncHook("other") as hook:
        return await hook.run(procedures.request(endpoints.get_store()))


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://", "ftp://127.0.0.1:21", "http://[x"])
def test_a_proxy_that_cannot_be_used_is_refused_before_anything_is_sent(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    hook = connect(host="https://api.youcan.shop", max_attempts=4)

    for call in (hook.get_store, lambda: asyncio.run(read_store_async())):
        with pytest.raises(YouCanInvalidInputError, match=r"The proxy that the environment names .* nothing was sent"):
            call()


# --- TLS ---


def test_a_ca_bundle_that_was_replaced_is_taken_up(connect: Connect, self_signed_server: str, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(Path(certifi.where()).read_bytes())
    hook = connect(host=self_signed_server, verify=str(bundle), max_attempts=1)

    async def read_before_and_after() -> list[Any]:
        answers: list[Any] = []
        async with YouCanAsyncHook("other") as async_hook:
            for content in (Path(certifi.where()).read_bytes(), (tmp_path / "server.pem").read_bytes()):
                bundle.write_bytes(content)
                for call in (lambda: async_hook.run(procedures.request(endpoints.get_store())), hook.get_store):
                    try:
                        answer = call()
                        answers.append(answer if isinstance(answer, dict) else await answer)
                    except YouCanConnectionError as error:
                        answers.append("could not be verified" in str(error))
        return answers

    assert asyncio.run(read_before_and_after()) == [True, True, {"slug": "tls"}, {"slug": "tls"}]


# --- look-ups that fail ---


def test_credentials_that_are_known_go_on_being_used(hook: YouCanHook, monkeypatch: pytest.MonkeyPatch) -> None:
    hook.get_store()
    monkeypatch.delenv("AIRFLOW_CONN_YOUCAN_DEFAULT")
    known = hook._credentials
    assert known is not None
    hook._credentials = dataclasses.replace(known, renew_at=0.0)

    if AIRFLOW_3:
        assert hook.get_store()["slug"] == "sandbox"


@pytest.mark.skipif(not AIRFLOW_3, reason="Airflow 2 knows a missing connection from an outage")
def test_a_first_look_up_that_finds_nothing_may_be_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(YouCanConnectionNotFoundError, match=r"no Airflow connection 'nowhere', or .* out of reach"):
        YouCanHook("nowhere").get_store()


def test_it_closes_its_session(sandbox: Sandbox, order_id: str) -> None:
    with YouCanHook() as hook:
        hook.get_order(order_id)
        assert sandbox.open_connections == 1

    for _ in range(100):
        if not sandbox.open_connections:
            break
        time.sleep(0.01)
    assert sandbox.open_connections == 0


def test_a_named_ca_bundle_wins_over_the_environments(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(Path(certifi.where()).read_bytes())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/other.pem")
    verified: list[Any] = []

    class Recorder(requests.adapters.HTTPAdapter):
        def send(self, request: Any, **options: Any) -> requests.Response:  # type: ignore[override]
            verified.append(options["verify"])
            raise requests.ConnectionError

    for extra in ({"verify": str(bundle)}, {}):
        hook = connect(host="https://api.youcan.shop", max_attempts=1, **extra)
        hook.get_conn().mount("https://", Recorder())
        with pytest.raises(YouCanConnectionError):
            hook.get_store()

    assert verified == [str(bundle), "/etc/ssl/other.pem"]


def test_a_ca_bundle_of_the_environment_that_is_not_there_is_reported(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem")

    with pytest.raises(YouCanInvalidInputError, match="REQUESTS_CA_BUNDLE"):
        connect(host="https://api.youcan.shop").get_store()


def test_a_certificate_that_no_one_vouches_for_is_refused(
    connect: Connect, self_signed_server: str, waits: list[float]
) -> None:
    with pytest.raises(
        YouCanConnectionError, match="the TLS certificate of https://localhost:.* could not be verified"
    ):
        connect(host=self_signed_server).get_store()


@pytest.fixture
def self_signed_server(tmp_path: Path) -> Iterator[str]:
    import datetime
    import ssl

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
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )

    class Store(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"slug": "tls"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            # The update is taken, and then something between breaks the encryption.
            self.rfile.read(int(self.headers["Content-Length"]))
            self.close_connection = True
            with socket.socket(fileno=os.dup(self.connection.fileno())) as raw:
                raw.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)

        def log_message(self, *_: Any) -> None:
            pass

    class QuietServer(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            pass

    server = QuietServer(("127.0.0.1", 0), Store)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_certificate_that_the_named_bundle_vouches_for_is_trusted(
    connect: Connect, self_signed_server: str, tmp_path: Path
) -> None:
    hook = connect(host=self_signed_server, verify=str(tmp_path / "server.pem"))

    assert hook.get_store() == {"slug": "tls"}


def test_an_answer_that_breaks_the_encryption_is_a_lost_answer(
    connect: Connect, self_signed_server: str, tmp_path: Path
) -> None:
    hook = connect(host=self_signed_server, verify=str(tmp_path / "server.pem"), max_attempts=1)

    with pytest.raises(YouCanConnectionError, match="whether YouCan took it is unknown") as raised:
        hook.update_order_status("abc", "paid", "payment")

    assert raised.value.unconfirmed


def test_the_page_of_an_order_is_in_the_seller_area_or_in_the_sandbox(connect: Connect, sandbox: Sandbox) -> None:
    page = connect(host="https://api.youcan.shop").get_order_page("abc")
    assert page == "https://seller-area.youcan.shop/admin/orders/abc"

    (order_id, *_) = sandbox.shop.order_ids()
    page = YouCanHook().get_order_page(order_id)
    assert requests.get(page, timeout=10).json()["statuses"] == sandbox.shop.statuses(order_id)
    assert requests.get(f"{sandbox.url}/sandbox/orders/none", timeout=10).status_code == 404
