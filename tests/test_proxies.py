"""Proxies of the environment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from airflow_provider_youcan.exceptions import (
    YouCanConnectionError,
    YouCanInvalidInputError,
)
from tests.conftest import Connect, EitherHook


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
    connect_either: Connect, proxy: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = proxy
    monkeypatch.setenv("HTTPS_PROXY", url)

    with pytest.raises(YouCanConnectionError, match="proxy"):
        connect_either(host="https://api.youcan.shop", max_attempts=1).get_order("abc")

    assert asked == ["CONNECT api.youcan.shop:443"]


def test_a_proxy_is_not_used_where_the_token_would_travel_in_clear(
    either_hook: EitherHook, proxy: tuple[str, list[str]], order_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = proxy
    monkeypatch.setenv("HTTP_PROXY", url)
    monkeypatch.setenv("http_proxy", url)
    monkeypatch.delenv("NO_PROXY")

    assert either_hook.get_order(order_id)["id"] == order_id

    assert asked == []


@pytest.mark.parametrize("proxy", ["proxy.invalid:3128", "http://proxy.invalid:3128"])
def test_a_proxy_without_a_scheme_is_an_http_proxy(
    connect_either: Connect, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    hook = connect_either(host="https://api.youcan.shop", max_attempts=1)

    with pytest.raises(YouCanConnectionError, match="nothing was changed"):
        hook.get_order("abc")


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://", "ftp://127.0.0.1:21", "http://[x"])
def test_a_proxy_that_cannot_be_used_is_refused_before_anything_is_sent(
    connect_either: Connect, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    hook = connect_either(host="https://api.youcan.shop", max_attempts=4)

    with pytest.raises(YouCanInvalidInputError, match=r"The proxy in HTTPS_PROXY or ALL_PROXY .* nothing was sent"):
        hook.get_order("abc")
