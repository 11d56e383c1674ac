"""One aiohttp session, one look-up of the connection and one limiter, for all that wait for a shop in an event loop."""

from __future__ import annotations

import asyncio
import logging
import select
import time
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import WeakSet

import aiohttp
from yarl import URL

from airflow_provider_youcan import __version__
from airflow_provider_youcan.client.credentials import Credentials, CredentialsCache
from airflow_provider_youcan.client.endpoints import MAX_BODY_BYTES, Request
from airflow_provider_youcan.client.responses import Answer
from airflow_provider_youcan.client.transport import TransportFailure, connection_error, lookup_by_type
from airflow_provider_youcan.exceptions import YouCanError
from airflow_provider_youcan.hooks.limiter import RateLimiter
from airflow_provider_youcan.hooks.proxies import Route

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

__all__ = ["MAX_CONNECTIONS", "SharedClient"]

MAX_CONNECTIONS = 10
"""The most connections to a shop that an event loop holds by default; further requests wait for one."""

_clients: dict[asyncio.AbstractEventLoop, dict[str, SharedClient]] = {}
_log = logging.getLogger(__name__)


class SharedClient:
    """
    Sends the requests of all hooks that use one Airflow connection in one event loop.

    It sends bytes and nothing else: ``endpoints`` and ``responses`` decide what a request looks like, and what an
    answer means.
    """

    def __init__(self, conn_id: str, max_connections: int) -> None:
        self._conn_id = conn_id
        self._max_connections = max_connections
        self.loop = asyncio.get_running_loop()
        """The event loop that its connections belong to."""
        self._users = 0
        self._session: aiohttp.ClientSession | None = None
        self._route: Route | None = None
        # Queue here, not in aiohttp's pool: fewer requests are in flight when a 429 comes, and reads are fresh when
        # their update is sent.
        self.limiter = RateLimiter(max_in_flight=max_connections)
        """Delays the requests of all that have no limiter of their own, when the shop refused one."""
        self.credentials = CredentialsCache()
        self._look_up = asyncio.Lock()

    @classmethod
    def acquire(cls, conn_id: str, max_connections: int = MAX_CONNECTIONS) -> SharedClient:
        """
        Return the running loop's client for a connection; each user has to :meth:`release` it.

        :param conn_id: the id of the Airflow connection.
        :param max_connections: how many connections to the shop the client may hold, if this is its first user.
        """
        for loop in [loop for loop in _clients if loop.is_closed()]:
            del _clients[loop]
        clients = _clients.setdefault(asyncio.get_running_loop(), {})
        if conn_id not in clients:
            clients[conn_id] = cls(conn_id, max_connections)
        clients[conn_id].retain()
        return clients[conn_id]

    def retain(self) -> None:
        """Count one more user, who has to :meth:`release` it."""
        self._users += 1

    async def release(self) -> None:
        """Give the client back; the last user closes its connections."""
        self._users -= 1
        if self._users == 0:
            _clients.get(self.loop, {}).pop(self._conn_id, None)
            session, self._session = self._session, None
            if session is not None and self.loop is asyncio.get_running_loop():
                await session.close()

    async def look_up_credentials(
        self, look_up: Callable[[], Awaitable[Credentials]], refused: Sequence[Credentials] = ()
    ) -> Credentials:
        """
        Return the credentials, looked up once for all users that ask at the same time.

        :param look_up: reads them from Airflow.
        :param refused: those that the shop refused; they are looked up again, unless another user just did.
        :raises YouCanError: if they can't be looked up, and none are known that may still be good.
        """
        asked_at = time.monotonic()
        cache = self.credentials
        async with self._look_up:
            if (credentials := cache.find(refused)) is not None:
                return credentials
            if cache.failure is not None and cache.failed_at > asked_at:
                # Another look-up failed while this one waited.
                return cache.fail(copy(cache.failure), refused)
            try:
                return cache.store(await look_up())
            except YouCanError as error:
                credentials = cache.fail(error, refused)
                _log.warning("%s Continuing with the last known credentials.", error)
                return credentials

    async def send_request(self, request: Request, credentials: Credentials) -> Answer:
        """
        Send a request, and return the answer.

        :raises YouCanError: if no whole answer came.
        """
        try:
            route = self._route
            if route is None or route.key != (credentials.base_url, credentials.verify):
                route = await self._find_route(credentials)
            async with (self._session or self._open_session()).request(
                request.method,
                URL(credentials.base_url + request.path, encoded=True),
                params=request.params or None,
                data=request.body,
                headers=_headers(credentials.token, is_json=request.body is not None),
                timeout=_timeout(credentials.timeout),
                allow_redirects=False,
                ssl=route.load_tls(),
                proxy=route.proxy,
            ) as response:
                return Answer(response.status, response.headers, await _read_body(response))
        except YouCanError:
            raise
        except Exception as error:  # aiohttp lets some errors of what is below it through
            why = lookup_by_type(_ERRORS, error) or TransportFailure.LOST
        # The connection's host may have been corrected meanwhile.
        self.credentials.expire()
        # Raised outside the except block: the library's error, whose text holds the address, must not be its context.
        connection = f"the Airflow connection {self._conn_id!r}"
        raise connection_error(request, why, credentials.base_url, credentials.timeout, connection)

    async def _find_route(self, credentials: Credentials) -> Route:
        route = Route.of(credentials)
        # In a thread: loading the certificates takes a while, once.
        await asyncio.to_thread(route.load_tls)
        self._route = route
        return route

    def _open_session(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=_Connector(limit=self._max_connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "User-Agent": f"airflow-provider-youcan/{__version__}"},
            # aiohttp would take a login from ~/.netrc, too; proxies are read as requests reads them.
            trust_env=False,
        )
        # aiohttp would send a request a second time by itself when its connection is dropped, and has no public way
        # to forbid that. When to send again is decided, and logged, in one place.
        self._session._retry_connection = False
        return self._session


class _Connector(aiohttp.TCPConnector):
    """Drops a connection on which something came that nobody asked for: it would be taken for the next answer."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit=limit)
        self._used: WeakSet[object] = WeakSet()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            # On a new connection the rest of a TLS handshake may be on its way.
            is_new = protocol not in self._used
            if protocol is None or is_new or not (protocol.should_close or _has_unread_data(connection)):
                self._used.add(protocol)
                return connection
            connection.close()


def _has_unread_data(connection: Connection) -> bool:
    """Return whether something has come that the event loop has not read yet, or the other side has hung up."""
    if connection.transport is None or (sock := connection.transport.get_extra_info("socket")) is None:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """Read the body, or nothing of one that is too large to be YouCan's."""
    if (response.content_length or MAX_BODY_BYTES) < MAX_BODY_BYTES and "Content-Encoding" not in response.headers:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return b""
    return bytes(body)


@lru_cache(maxsize=8)
def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    # An answer that never ends takes twice as long as one that never begins.
    return aiohttp.ClientTimeout(total=2 * seconds, sock_connect=seconds, sock_read=seconds)


@lru_cache(maxsize=8)
def _headers(token: str, *, is_json: bool) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **({"Content-Type": "application/json"} if is_json else {})}


_ERRORS: dict[type[BaseException], TransportFailure] = {
    aiohttp.ClientConnectorDNSError: TransportFailure.NO_HOST,
    aiohttp.ClientProxyConnectionError: TransportFailure.NO_PROXY,
    aiohttp.ClientHttpProxyError: TransportFailure.NO_PROXY,
    aiohttp.ClientConnectorCertificateError: TransportFailure.NO_VALID_CERTIFICATE,
    aiohttp.ClientSSLError: TransportFailure.NO_TLS,
    aiohttp.ClientConnectorError: TransportFailure.NO_CONNECTION,
    aiohttp.ConnectionTimeoutError: TransportFailure.NO_CONNECTION_IN_TIME,
    TimeoutError: TransportFailure.NOT_IN_TIME,
    asyncio.TimeoutError: TransportFailure.NOT_IN_TIME,
}
