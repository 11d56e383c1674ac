"""Runs the sandbox: over a real socket, in a thread of its own or in the foreground."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_youcan.sandbox.application import build_application, error_body
from airflow_provider_youcan.sandbox.misbehaviour import Misbehaviour, Misbehaviours
from airflow_provider_youcan.sandbox.serving import StoppableServer, remember_connections
from airflow_provider_youcan.sandbox.shop import ACCESS_TOKEN, Request, Shop
from airflow_provider_youcan.sandbox.webhooks import Webhooks

__all__ = ["Sandbox"]


class Sandbox:
    """
    A local shop that speaks YouCan's API, for trying out DAGs and for tests.

    As a context manager it serves from a thread::

        with Sandbox(orders=20) as sandbox:
            os.environ["AIRFLOW_CONN_YOUCAN_DEFAULT"] = sandbox.connection()
            sandbox.misbehave("status", status=503, times=2)
            ...
            assert sandbox.shop.statuses(order_id)["payment"] == "paid"
            assert [request.method for request in sandbox.requests] == ["PUT", "PUT", "PUT"]

    :param host: the address to listen on (default ``127.0.0.1``, so that only this machine can reach it).
    :param port: the port, ``0`` for any free one (default).
    :param shop: the shop to serve; by default one of its own.
    :param orders: how many orders its own shop has (default 200).
    :param webhook_pace: by how much the pauses before another delivery of a webhook are shortened: 0.001 turns a
        minute into 60 ms (default 1).
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        shop: Shop | None = None,
        orders: int = 200,
        webhook_pace: float = 1.0,
    ) -> None:
        self.shop = shop or Shop(orders=orders)
        self.misbehaviours = Misbehaviours()
        self._webhooks = Webhooks(self.shop, self.misbehaviours, webhook_pace)
        self._callbacks: list[Callable[[Request], object]] = []
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, port))
        # Opened here, so that no request comes too early.
        self._socket.listen(2048)
        self.host, self.port = self._socket.getsockname()[:2]
        connections: dict[Any, asyncio.Transport] = {}
        self._connections = connections
        self._server = StoppableServer(
            uvicorn.Config(
                _Gate(
                    build_application(self.shop, self.misbehaviours, self._webhooks),
                    self.shop,
                    self.misbehaviours,
                    self._callbacks,
                    connections,
                ),
                http=remember_connections(connections),
                lifespan="off",
                ws="none",
                log_level="warning",
                timeout_graceful_shutdown=2,
            )
        )
        self._thread = threading.Thread(target=self.run, name="youcan-sandbox", daemon=True)

    @property
    def url(self) -> str:
        """The base URL of the sandbox's API, as it is reached from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  # none is bound here
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def open_connections(self) -> int:
        """The number of connections that clients hold open."""
        return len(self._connections)

    def connection(self, token: str = ACCESS_TOKEN, **extra: Any) -> str:
        """Return an Airflow connection to the sandbox, as JSON for an ``AIRFLOW_CONN_…`` variable."""
        return json.dumps(
            {"conn_type": "youcan", "host": self.url, "password": token, **({"extra": extra} if extra else {})}
        )

    @property
    def requests(self) -> list[Request]:
        """The requests to the API so far, the oldest first."""
        return [Request(**row) for row in self.shop.requests()]

    def on_request(self, callback: Callable[[Request], object]) -> AbstractContextManager[object]:
        """
        Call ``callback`` for each request to the API from now on, when the answer is made and not yet sent.

        So it can change the shop, or make the sandbox misbehave, at a known moment between two requests::

            def refund(request):
                if request.status == 503:
                    sandbox.shop.set_status(order_id, "payment", "refunded")

            sandbox.misbehave("status", status=503, route="PUT *", times=1)
            with sandbox.on_request(refund):
                YouCanHook().move_order_status(order_id, "paid", "payment", only_from=["pending"])

        :param callback: is called with the :class:`Request`, in the sandbox's thread, which handles no other request
            meanwhile.
        :return: a context manager that ends the calls; without ``with`` they go on as long as the sandbox.
        """
        self._callbacks.append(callback)
        calls = ExitStack()
        calls.callback(self._callbacks.remove, callback)
        return calls

    def misbehave(self, kind: str, **options: Any) -> Misbehaviour:
        """Put a :class:`Misbehaviour` in force."""
        return self.misbehaviours.add(Misbehaviour(kind, **options))

    def run(self) -> None:
        """Serve until interrupted."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._webhooks.close()

    def __enter__(self) -> Sandbox:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stop()
        self._thread.join()
        self._socket.close()
        self.shop.close()


@dataclass(frozen=True)
class _Answer:
    status: int = 0
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    sent_share: float = 1
    """The part of the body that is sent before the connection is dropped; 0 drops it without a word."""


class _Gate:
    """Stands before the application: lets the rules in force have their way, and keeps what was asked."""

    def __init__(
        self,
        application: ASGIApp,
        shop: Shop,
        misbehaviours: Misbehaviours,
        callbacks: list[Callable[[Request], object]],
        connections: dict[Any, asyncio.Transport],
    ) -> None:
        self._application = application
        self._shop = shop
        self._misbehaviours = misbehaviours
        self._callbacks = callbacks
        self._connections = connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/sandbox/"):
            await self._application(scope, receive, send)
            return
        body = await _read_body(receive)
        answer = await self._answer(scope, body)
        # Before it is sent, so that the request is logged once a client has its answer.
        request = self._shop.log_request(
            scope["method"],
            scope["path"],
            scope["query_string"].decode("latin-1"),
            # Secrets are not kept.
            "" if scope["path"] == "/oauth/token" else body.decode("utf-8", "replace"),
            None if answer.sent_share < 1 else answer.status,
        )
        for callback in list(self._callbacks):
            callback(request)
        await self._send(answer, scope, receive, send)

    async def _answer(self, scope: Scope, body: bytes) -> _Answer:
        request = f"{scope['method']} {scope['path']}"
        await asyncio.sleep(self._misbehaviours.latency(request))
        limit_headers, refused = self._misbehaviours.rate_limit(request)
        if refused:
            return _Answer(429, json.dumps(error_body(429)).encode(), limit_headers)
        trouble = self._misbehaviours.trouble(request)
        if trouble is None:
            answer = await self._ask_application(scope, body)
            return dataclasses.replace(answer, headers=answer.headers | limit_headers)
        if trouble.kind == "status":
            text = json.dumps(error_body(trouble.status)) if trouble.body is None else trouble.body
            # These two have no body by HTTP's own rules.
            body = b"" if trouble.status in (204, 304) else text.encode()
            return _Answer(trouble.status, body, trouble.headers)
        if trouble.kind == "redirect":
            return _Answer(302, b"", {"location": trouble.location})
        if trouble.kind == "html":
            return _Answer(200, b"<!doctype html><h1>Log in</h1>", {"content-type": "text/html"})
        if trouble.kind == "drop":
            return _Answer(sent_share=0)
        answer = await self._ask_application(scope, body)
        if trouble.kind == "terse":
            body = json.dumps(_without_status_objects(json.loads(answer.body))).encode()
            return dataclasses.replace(answer, body=body, headers=limit_headers)
        # The other kinds reach the shop, and lose its answer.
        return dataclasses.replace(answer, sent_share=0.5 if trouble.kind == "half-body" else 0)

    async def _send(self, answer: _Answer, scope: Scope, receive: Receive, send: Send) -> None:
        if answer.sent_share > 0:
            headers = {"content-type": "application/json", "content-length": str(len(answer.body))}
            headers |= {name.lower(): str(value) for name, value in answer.headers.items()}
            await send(
                {
                    "type": "http.response.start",
                    "status": answer.status,
                    "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
                }
            )
            part = answer.body[: int(len(answer.body) * answer.sent_share)]
            await send({"type": "http.response.body", "body": part, "more_body": answer.sent_share < 1})
        if answer.sent_share < 1:
            connection = self._connections[scope["client"]]
            # close() still delivers what was written; abort() drops it.
            connection.close() if answer.sent_share > 0 else connection.abort()
            await receive()  # until the connection is gone

    async def _ask_application(self, scope: Scope, body: bytes) -> _Answer:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def collect(message: Message) -> None:
            sent.append(message)

        await self._application(scope, receive, collect)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in sent[0]["headers"]}
        return _Answer(sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]), headers)


def _without_status_objects(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_status_objects(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_status_objects(item) for name, item in value.items() if name != "status_object"}
    return value


async def _read_body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body
