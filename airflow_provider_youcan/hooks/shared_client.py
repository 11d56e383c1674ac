"""One aiohttp session, one look-up of the connection and one limiter, for all that wait for a shop in an event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from functools import lru_cache

import aiohttp

from airflow_provider_youcan import __version__
from airflow_provider_youcan.client import endpoints
from airflow_provider_youcan.client.credentials import Credentials
from airflow_provider_youcan.client.responses import Answer, TransportFailure, connection_error, lookup_by_type
from airflow_provider_youcan.exceptions import YouCanError, YouCanTransientError
from airflow_provider_youcan.hooks.limiter import RateLimiter
from airflow_provider_youcan.hooks.proxies import Route

__all__ = ["MAX_CONNECTIONS", "SharedClient"]

MAX_CONNECTIONS = 10
"""How many connections to a shop an event loop holds at most by default; further requests wait for one."""

_CREDENTIALS_TTL = 60.0
"""After how many seconds credentials are looked up again, should the shop be out of reach."""

_LOOK_UP_COOLDOWN = 10.0
"""For how many seconds known credentials are used after a look-up that failed."""

_clients: dict[asyncio.AbstractEventLoop, dict[str, SharedClient]] = {}
_log = logging.getLogger(__name__)


class SharedClient:
    """
    Sends the requests of all hooks that use one Airflow connection in one event loop.

    It sends bytes and nothing else: what a request looks like and what an answer means, ``api`` and ``answers`` decide.
    """

    def __init__(self, conn_id: str, max_connections: int) -> None:
        self._conn_id = conn_id
        self._max_connections = max_connections
        self._loop = asyncio.get_running_loop()
        self._users = 0
        self._session: aiohttp.ClientSession | None = None
        self._route: tuple[str, str | bool, Route] | None = None
        # What waits for a socket waits here, so that a refusal meets few, and a look is not old when its update goes.
        self.limiter = RateLimiter(max_in_flight=max_connections)
        """Delays the requests of all that have no limiter of their own, when the shop refused one."""
        self._look_up = _LookUp()

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
            _clients.get(self._loop, {}).pop(self._conn_id, None)
            session, self._session = self._session, None
            if session is not None and self.is_of_running_loop():
                await session.close()

    def is_of_running_loop(self) -> bool:
        """Return whether it can be used here: aiohttp sessions belong to one event loop."""
        return self._loop is asyncio.get_running_loop()

    async def get_credentials(
        self, look_up: Callable[[], Awaitable[Credentials]], refused: Sequence[Credentials] = ()
    ) -> Credentials:
        """
        Return the credentials, looked up once for all users.

        :param look_up: reads them from Airflow.
        :param refused: those that the shop refused; they are looked up again, unless another user just did.
        :raises YouCanError: if they can't be looked up, and none are known that may still be good.
        """
        return await self._look_up.get(look_up, refused)

    async def send_request(self, request: endpoints.Request, credentials: Credentials) -> Answer:
        """
        Send a request, and return the answer.

        :raises YouCanError: if no whole answer came.
        """
        try:
            return await self._send_request(request, credentials)
        except YouCanError:
            raise
        except Exception as error:  # aiohttp lets some errors of what is below it through
            why = lookup_by_type(_ERRORS, error) or TransportFailure.LOST
        # The connection's host may have been corrected meanwhile.
        self._look_up.expire()
        # Raised out here, so that it has no trace of the library's error: that one's text holds the address.
        raise connection_error(request, why, credentials.base_url, credentials.timeout)

    async def _send_request(self, request: endpoints.Request, credentials: Credentials) -> Answer:
        route = await self._find_route(credentials)
        async with self._get_session().request(
            request.method,
            credentials.base_url + request.path,
            params=request.params,
            json=request.json,
            headers={"Authorization": f"Bearer {credentials.token}"},
            timeout=_timeout(credentials.timeout),
            allow_redirects=False,
            ssl=route.load_tls(),
            proxy=route.proxy,
        ) as response:
            return Answer(response.status, response.headers, await _read_body(response, credentials.timeout))

    async def _find_route(self, credentials: Credentials) -> Route:
        if self._route is None or self._route[:2] != (credentials.base_url, credentials.verify):
            route = Route.of(credentials)
            # In a thread, because it takes a while to load the certificates, once.
            await asyncio.to_thread(route.load_tls)
            self._route = (credentials.base_url, credentials.verify, route)
        return self._route[2]

    def _get_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_connections),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept": "application/json", "User-Agent": f"airflow-provider-youcan/{__version__}"},
                # aiohttp would take a login from ~/.netrc, too; proxies are read as requests reads them.
                trust_env=False,
            )
            # aiohttp would send a request a second time by itself when its connection is dropped, and has no public
            # way to forbid that. When to send again is decided, and logged, in one place.
            self._session._retry_connection = False
        return self._session


class _LookUp:
    """The credentials of one connection, looked up once for all that ask for them at the same time."""

    def __init__(self) -> None:
        self._credentials: Credentials | None = None
        self._expires_at = 0.0
        self._has_expired = False
        self._failure: YouCanError | None = None
        self._failed_at = -_LOOK_UP_COOLDOWN
        self._lock = asyncio.Lock()

    async def get(self, look_up: Callable[[], Awaitable[Credentials]], refused: Sequence[Credentials]) -> Credentials:
        if (credentials := self._known(refused)) is not None and not self._is_due(credentials):
            return credentials
        asked_at = time.monotonic()
        async with self._lock:
            if (credentials := self._known(refused)) is not None and not self._is_due(credentials):
                return credentials
            if self._failure is not None and self._failed_at > asked_at:
                # It was tried while this one waited, and took its time.
                raise copy(self._failure)
            return await self._get(look_up, credentials)

    async def _get(self, look_up: Callable[[], Awaitable[Credentials]], known: Credentials | None) -> Credentials:
        try:
            self._credentials = (await look_up()).with_age_of(self._credentials)
        except YouCanError as error:
            self._failure, self._failed_at = copy(error), time.monotonic()
            if known is None or not isinstance(error, YouCanTransientError):
                raise
            _log.warning("%s Continuing with the last known credentials.", error)
            return known
        self._has_expired, self._expires_at = False, time.monotonic() + _CREDENTIALS_TTL
        return self._credentials

    def expire(self) -> None:
        """Have the credentials looked up again, if that was not done a moment ago."""
        self._has_expired = time.monotonic() > self._expires_at

    def _known(self, refused: Sequence[Credentials]) -> Credentials | None:
        known = self._credentials
        return None if known is None or any(known.has_same_token(old) for old in refused) else known

    def _is_due(self, credentials: Credentials) -> bool:
        is_wanted = self._has_expired or credentials.is_running_out
        return is_wanted and time.monotonic() > self._failed_at + _LOOK_UP_COOLDOWN


async def _read_body(response: aiohttp.ClientResponse, timeout: float) -> bytes:
    """Read the body, or nothing of one that is too large to be YouCan's, in the given seconds."""
    deadline = time.monotonic() + timeout
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > endpoints.MAX_BODY_BYTES:
            return b""
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(body)


@lru_cache(maxsize=8)
def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)


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
