"""The bytes of :class:`YouCanHook`: a requests session that takes the token to the shop's API and nowhere else."""

from __future__ import annotations

import http.client
import io
import logging
import math
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import urllib3

from airflow_provider_youcan import __version__
from airflow_provider_youcan.client import endpoints
from airflow_provider_youcan.client.credentials import Credentials
from airflow_provider_youcan.client.responses import Answer
from airflow_provider_youcan.client.transport import TransportFailure, connection_error, lookup_by_type
from airflow_provider_youcan.exceptions import YouCanError
from airflow_provider_youcan.hooks.proxies import bundle_error, find_proxy

__all__ = ["Session"]


class Session(requests.Session):
    """
    A session that sends the token to the shop's API alone.

    It follows no redirect: a client that does turns a PUT into a GET, and reports an update that never happened.
    It keeps no cookie, and takes no login from ``~/.netrc``, which would replace the token.

    :param credentials: where the shop is, and the token.
    :param connection: what to call the Airflow connection in an error.
    :raises YouCanInvalidInputError: if the environment names a proxy that can't be used.
    """

    def __init__(self, credentials: Credentials, connection: str = "the Airflow connection") -> None:
        super().__init__()
        self._connection = connection
        for name in ("urllib3.connection", "urllib3.connectionpool"):
            logging.getLogger(name).addFilter(_hide_query)
        self.headers.update({"Accept": "application/json", "User-Agent": f"airflow-provider-youcan/{__version__}"})
        self.mount("https://", _Adapter())
        self.mount("http://", _Adapter())
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.use(credentials)

    def use(self, credentials: Credentials) -> None:
        """Go on with other credentials, such as a renewed token."""
        self.auth = _BearerToken(credentials)
        self.verify = credentials.verify
        # An http base is on this machine. A proxy from the environment would take the token off it.
        self.trust_env = credentials.base_url.startswith("https://")
        if self.trust_env:
            find_proxy(credentials, may_be_socks=True)

    def send_request(self, request: endpoints.Request, credentials: Credentials) -> Answer:
        """
        Send a request, and return the answer.

        :raises YouCanError: if no whole answer came.
        """
        try:
            return self._send_request(request, credentials)
        except Exception as error:  # requests lets some errors of what is below it through
            failure = _read_failure(request, error, credentials, self._connection)
        # Raised outside the except block: the library's error must not be its context, because its text holds the whole
        # address, and so the words of a search.
        raise failure

    def _send_request(self, request: endpoints.Request, credentials: Credentials) -> Answer:
        # The whole request, to the last byte; the timeout of requests is for each read of the socket.
        with (
            _end_within(2 * credentials.timeout),
            self.request(
                request.method,
                credentials.base_url + request.path,
                params=request.params,
                data=request.form if request.body is None else request.body,
                headers=None if request.body is None else _JSON,
                timeout=credentials.timeout,
                stream=True,
                # Given with each request, because a CA bundle named in the environment would override the session's.
                verify=credentials.verify if isinstance(credentials.verify, str) else None,
            ) as response,
        ):
            return Answer(response.status_code, response.headers, _read_body(response))

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002  # requests' signature
        """Return nothing, so that no redirect is followed."""
        return None


_JSON = {"Content-Type": "application/json"}


class _Deadline(threading.local):
    at = math.inf
    """The time at which this thread's request has to be over, in seconds of the monotonic clock."""


_deadline = _Deadline()


@contextmanager
def _end_within(seconds: float) -> Iterator[None]:
    _deadline.at = time.monotonic() + seconds
    try:
        yield
    finally:
        # A user's own request through the session has only its own timeout.
        _deadline.at = math.inf


class _Stream(io.RawIOBase):
    """A socket's stream that ends at the deadline: a server may send a little at a time, and never come to an end."""

    def __init__(self, stream: io.RawIOBase, sock: socket.socket) -> None:
        self._stream, self._sock, self._timeout = stream, sock, sock.gettimeout()
        self._deadline = _deadline.at

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        if seconds < math.inf:
            self._sock.settimeout(min(seconds, self._timeout or seconds))
        try:
            return self._stream.readinto(buffer)
        finally:
            self._sock.settimeout(self._timeout)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Stream(self.fp.detach(), sock))


class _BoundedConnect:
    """Tries the addresses of a host until the deadline; urllib3 gives each of them the whole timeout."""

    def _new_conn(self: Any) -> socket.socket:
        host, timeout = self._dns_host, self.timeout
        if _deadline.at == math.inf:
            return super()._new_conn()  # type: ignore[misc,no-any-return]
        try:
            found = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        except OSError:
            addresses = []  # urllib3 says so in its own way
        try:
            for number, address in enumerate(addresses, 1):
                left = _deadline.at - time.monotonic()
                self._dns_host, self.timeout = address, max(0.01, min(timeout, left))
                try:
                    return super()._new_conn()  # type: ignore[misc,no-any-return]
                except (urllib3.exceptions.ConnectTimeoutError, urllib3.exceptions.NewConnectionError):
                    if number == len(addresses) or time.monotonic() >= _deadline.at:
                        raise
        finally:
            self._dns_host, self.timeout = host, timeout
        return super()._new_conn()  # type: ignore[misc,no-any-return]


class _HTTPConnection(_BoundedConnect, urllib3.connection.HTTPConnection):
    response_class = _Response


class _HTTPConnectionPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _Connection(_BoundedConnect, urllib3.connection.HTTPSConnection):
    """Marks errors raised while connecting: nothing has been sent yet."""

    response_class = _Response

    def connect(self) -> None:
        try:
            super().connect()
        except Exception as error:
            error.is_of_connecting = True  # type: ignore[attr-defined]
            raise


class _ConnectionPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Connection


_POOLS = {"http": _HTTPConnectionPool, "https": _ConnectionPool}


def _bound(pool: type[urllib3.HTTPConnectionPool]) -> type[urllib3.HTTPConnectionPool]:
    """Return a kind of pool whose answers end at the deadline, such as that of urllib3 for a SOCKS proxy."""
    connection = type("_SocksConnection", (pool.ConnectionCls,), {"response_class": _Response})
    return type("_SocksConnectionPool", (pool,), {"ConnectionCls": connection})


class _Adapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        pools = manager.pool_classes_by_scheme
        is_socks = pools["https"] not in (urllib3.HTTPSConnectionPool, _ConnectionPool)
        manager.pool_classes_by_scheme = {name: _bound(pool) for name, pool in pools.items()} if is_socks else _POOLS
        return manager


class _BearerToken(requests.auth.AuthBase):
    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # A request for a token carries no token.
        if self._credentials.token and (request.url or "").startswith(f"{self._credentials.base_url}/"):
            request.headers["Authorization"] = f"Bearer {self._credentials.token}"
        return request


def _hide_query(record: logging.LogRecord) -> bool:
    """Keep what a search for orders asked for, such as a customer's phone, out of urllib3's own log lines."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            re.sub(r"(/orders)\?\S*", r"\1?***", argument) if isinstance(argument, str) else argument
            for argument in record.args
        )
    return True


def _read_body(response: requests.Response) -> bytes:
    """Read the body, or nothing of one that is too large to be YouCan's."""
    body = bytearray()
    # read1 returns what has come; read waits until the chunk is full.
    while chunk := response.raw.read1(65_536, decode_content=True):
        body += chunk
        if len(body) > endpoints.MAX_BODY_BYTES:
            return b""
    return bytes(body)


_ERRORS: dict[type[BaseException], TransportFailure] = {
    requests.ConnectTimeout: TransportFailure.NO_CONNECTION_IN_TIME,
    requests.exceptions.ProxyError: TransportFailure.NO_PROXY,
    requests.Timeout: TransportFailure.NOT_IN_TIME,
    urllib3.exceptions.ReadTimeoutError: TransportFailure.NOT_IN_TIME,
}
# The reasons that urllib3 gives for a requests.ConnectionError.
_REASONS: dict[type[BaseException], TransportFailure] = {
    urllib3.exceptions.NameResolutionError: TransportFailure.NO_HOST,
    urllib3.exceptions.NewConnectionError: TransportFailure.NO_CONNECTION,
}


def _read_failure(
    request: endpoints.Request, error: Exception, credentials: Credentials, connection: str
) -> YouCanError:
    if isinstance(error, YouCanError):
        return error
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return bundle_error()
    reason = getattr(error.args[0], "reason", error.args[0]) if error.args else None
    why = lookup_by_type(_ERRORS, error) or lookup_by_type(_REASONS, reason) or TransportFailure.LOST
    causes = list(_find_causes(error))
    if isinstance(error, requests.exceptions.SSLError) and any(hasattr(one, "is_of_connecting") for one in causes):
        is_certificate = any(isinstance(one, ssl.SSLCertVerificationError) for one in causes)
        why = TransportFailure.NO_VALID_CERTIFICATE if is_certificate else TransportFailure.NO_TLS
    return connection_error(request, why, credentials.base_url, credentials.timeout, connection)


def _find_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the ones that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
