"""One aiohttp session, and one look-up of the connection, for all that wait for the same shop in one event loop."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from functools import lru_cache
from pathlib import Path

import aiohttp
import requests.certs
import requests.utils

from airflow_provider_youcan import __version__, api
from airflow_provider_youcan.exceptions import YouCanError, YouCanInvalidInputError
from airflow_provider_youcan.hooks.credentials import Credentials

__all__ = ["MOST_SOCKETS", "SharedClient"]

MOST_SOCKETS = 10
"""How many connections to a shop an event loop holds at most by default; further requests wait for one."""

_OLD = 60.0
"""After how many seconds credentials are looked up anew, should the shop be out of reach."""

_clients: dict[asyncio.AbstractEventLoop, dict[str, SharedClient]] = {}


class SharedClient:
    """
    Carries the requests of all hooks that use one Airflow connection in one event loop.

    It carries bytes and nothing else: what a request looks like and what an answer means, ``api`` decides.
    """

    def __init__(self, conn_id: str, most_sockets: int) -> None:
        self._conn_id = conn_id
        self._most_sockets = most_sockets
        self._loop = asyncio.get_running_loop()
        self._users = 0
        self._session: aiohttp.ClientSession | None = None
        self.credentials: Credentials | None = None
        """What was looked up last."""
        self._looked_up_at = 0.0
        self._failure: YouCanError | None = None
        self._failed_at = 0.0
        self._look_up_lock = asyncio.Lock()

    @classmethod
    def acquire(cls, conn_id: str, most_sockets: int = MOST_SOCKETS) -> SharedClient:
        """
        Return the running loop's client for a connection; each user has to :meth:`release` it.

        :param conn_id: the id of the Airflow connection.
        :param most_sockets: how many connections to the shop the client may hold, if this is its first user.
        """
        for loop in [loop for loop in _clients if loop.is_closed()]:
            del _clients[loop]
        clients = _clients.setdefault(asyncio.get_running_loop(), {})
        if conn_id not in clients:
            clients[conn_id] = cls(conn_id, most_sockets)
        clients[conn_id].hold()
        return clients[conn_id]

    def hold(self) -> None:
        """Count one more user, who has to :meth:`release` it."""
        self._users += 1

    async def release(self) -> None:
        """Give the client back; the last user closes its connections."""
        self._users -= 1
        if self._users == 0:
            _clients.get(self._loop, {}).pop(self._conn_id, None)
            session, self._session = self._session, None
            if session is not None and self.is_of_running_loop():
                await session.close()

    def is_of_running_loop(self) -> bool:
        """Tell whether it can be used here: what an event loop began, another can't go on with."""
        return self._loop is asyncio.get_running_loop()

    async def get_credentials(
        self, look_up: Callable[[], Awaitable[Credentials]], stale: Credentials | None = None
    ) -> Credentials:
        """
        Return the credentials, looked up once for all users.

        :param look_up: reads them from Airflow.
        :param stale: credentials that the shop refused; they are looked up anew, unless another user just did.
        """
        if self._is_stale(stale):
            asked_at = time.monotonic()
            async with self._look_up_lock:
                if self._is_stale(stale):
                    if self._failure is not None and self._failed_at > asked_at:
                        # It was tried while this one waited, and took its time.
                        raise copy(self._failure)
                    await self._look_up(look_up)
        assert self.credentials is not None  # noqa: S101  # for the type checker: it was looked up
        return self.credentials

    async def _look_up(self, look_up: Callable[[], Awaitable[Credentials]]) -> None:
        try:
            self.credentials = await look_up()
            self._looked_up_at = time.monotonic()
        except YouCanError as error:
            self._failure, self._failed_at = copy(error), time.monotonic()
            raise

    def _is_stale(self, stale: Credentials | None) -> bool:
        return self.credentials is None or self.credentials is stale or self.credentials.is_running_out

    async def carry(self, request: api.Request, credentials: Credentials) -> tuple[int, Mapping[str, str], bytes]:
        """
        Send a request, and return the status code, the headers and the body of the answer.

        :raises YouCanError: if no whole answer came.
        """
        try:
            return await self._carry(request, credentials)
        except YouCanError:
            raise
        except Exception as error:  # aiohttp lets some errors of what is below it through
            failure = _read_failure(request, error, credentials)
        if time.monotonic() > self._looked_up_at + _OLD:
            # Someone may have mended the connection's host meanwhile.
            self.credentials = None
        # Raised out here, so that it carries no trace of the library's error: that one's text holds the address.
        raise failure

    async def _carry(self, request: api.Request, credentials: Credentials) -> tuple[int, Mapping[str, str], bytes]:
        # An http base is on this machine: a proxy would carry the token off it.
        is_local = credentials.base_url.startswith("http://")
        tls, proxy = (True, None) if is_local else await _read_environment(credentials)
        async with self._get_session().request(
            request.method,
            credentials.base_url + request.path,
            params=request.params,
            json=request.json,
            headers={"Authorization": f"Bearer {credentials.token}"},
            timeout=_timeout(credentials.timeout),
            allow_redirects=False,
            ssl=tls,
            proxy=proxy,
        ) as response:
            return response.status, response.headers, await _read_body(response, credentials.timeout)

    def _get_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._most_sockets),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept": "application/json", "User-Agent": f"airflow-provider-youcan/{__version__}"},
                # aiohttp would take a login from ~/.netrc, too; proxies are read as requests reads them.
                trust_env=False,
            )
            # aiohttp would send a request a second time by itself when its connection is dropped. When to send
            # again is for the one policy to decide, and to tell.
            self._session._retry_connection = False
        return self._session


async def _read_body(response: aiohttp.ClientResponse, timeout: float) -> bytes:
    """Read the body, or nothing of one that is too large to be YouCan's, in the given seconds."""
    deadline = time.monotonic() + timeout
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > api.LARGEST_BODY:
            return b""
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(body)


async def _read_environment(credentials: Credentials) -> tuple[ssl.SSLContext | bool, str | None]:
    """Return the TLS settings and the proxy, from the same places as requests takes them."""
    bundle = credentials.verify if isinstance(credentials.verify, str) else None
    bundle = bundle or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    try:
        tls = await asyncio.to_thread(_load_bundle, bundle or requests.certs.where())  # type: ignore[attr-defined]
    except OSError:
        raise YouCanInvalidInputError(
            "The CA bundle that the environment names (REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE) can't be read, so nothing "
            "was sent; mend the variable."
        ) from None
    proxies = requests.utils.get_environ_proxies(credentials.base_url)
    return tls, requests.utils.select_proxy(credentials.base_url, proxies)


@lru_cache(maxsize=8)
def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)


@lru_cache(maxsize=8)
def _load_bundle(path: str) -> ssl.SSLContext:
    if Path(path).is_dir():
        return ssl.create_default_context(capath=path)
    return ssl.create_default_context(cafile=path)


def _read_failure(request: api.Request, error: Exception, credentials: Credentials) -> YouCanError:
    where, timeout = credentials.base_url, credentials.timeout
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return api.connection_error(request, f"the host of {where} could not be found")
    if isinstance(error, (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError)):
        return api.connection_error(request, f"the proxy to {where} could not be reached, or refused")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return api.connection_error(request, f"the TLS certificate of {where} could not be verified")
    if isinstance(error, aiohttp.ClientSSLError):
        return api.connection_error(request, f"{where} speaks no TLS (is it http?)")
    if isinstance(error, aiohttp.ClientConnectorError):
        return api.connection_error(request, f"no connection to {where}: it was refused, or there is no way to it")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return api.connection_error(request, f"no connection to {where} within {timeout:g} s")
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return api.connection_error(request, f"no whole answer within {timeout:g} s", sent=True)
    return api.connection_error(request, "the answer was lost or broke off", sent=True)
