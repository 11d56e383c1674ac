"""The part of Airflow's REST API that takes asset events, which are dataset events in Airflow 2.11."""

from __future__ import annotations

import asyncio
import base64
import math
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp

from airflow_provider_youcan.client.credentials import Credentials
from airflow_provider_youcan.hooks.proxies import find_proxy
from airflow_provider_youcan.webhooks.deliveries import Delivery

__all__ = ["AirflowClient", "AirflowError", "AirflowTimeoutError", "RefusedEventError", "UnknownAssetError"]

TIMEOUT_SECONDS = 30.0
"""The seconds that an event may take; one without an answer is sent again, and may be there twice."""

ASSET_SECONDS = 60.0
"""The seconds that an asset's id is believed: it may belong to another asset later."""


class AirflowError(Exception):
    """Airflow can't be reached, or did not take an event. It holds no secret, and nothing that was sent."""


class UnknownAssetError(AirflowError):
    """No DAG uses the asset, so Airflow does not know it."""


class AirflowTimeoutError(AirflowError):
    """No answer came in time, so Airflow may have taken the event all the same."""


class RefusedEventError(AirflowError):
    """Airflow takes events, and not this one."""


class AirflowClient:
    """
    Creates asset events. What is not Airflow's own answer, such as a login page or a proxy's 404, counts as no answer.

    :param url: where Airflow's API server (before Airflow 3 its webserver) is.
    :param username: who logs in, with ``password``; ``None`` where ``token`` is given, or nobody has to log in.
    :param password: the password.
    :param token: a token of Airflow's that is used as it is.
    :param clock: returns the time in seconds (default the machine's monotonic one).
    :raises YouCanInvalidInputError: if the environment names a proxy that can't be used.
    """

    def __init__(
        self,
        url: str,
        username: str | None = None,
        password: str | None = None,
        token: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url.rstrip("/")
        self._clock = clock
        # A proxy is for https alone, as the hooks find it: an http one would read the password.
        is_https = self._url.startswith("https://")
        self._proxy = find_proxy(Credentials(self._url, ""), may_be_socks=False) if is_https else None
        self._login = (username, password)
        self._fixed_token = token
        self._token: str | None = token
        self._is_airflow_2: bool | None = None
        self._assets: dict[str, tuple[int, float]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._logging_in = asyncio.Lock()

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def check(self) -> str:
        """
        Return in a few words which Airflow it is, once it has let the receiver in.

        :raises AirflowError: if it does not, or can't be reached.
        """
        await self._run(self._check())
        return f"Airflow {'2' if self._is_airflow_2 else '3'} at {self._url}"

    async def create_event(self, delivery: Delivery) -> None:
        """
        Create the asset event for a delivery.

        :raises UnknownAssetError: if no DAG uses its asset, by Airflow's own word.
        :raises RefusedEventError: if Airflow takes others.
        :raises AirflowError: if Airflow did not take it, or can't be reached.
        """
        await self._run(self._create_event(delivery))

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except AirflowError:
            self._forget()
            raise
        except asyncio.TimeoutError:
            failure: AirflowError = AirflowTimeoutError(
                f"Airflow at {self._url} gave no answer within {TIMEOUT_SECONDS:g} s"
            )
        except (aiohttp.ClientError, OSError) as error:
            failure = AirflowError(f"Airflow at {self._url} can't be reached ({type(error).__name__})")
        except Exception as error:  # what is read may be anything
            failure = AirflowError(f"What is at {self._url} does not answer as Airflow does ({type(error).__name__})")
        else:
            return
        self._forget()
        raise failure

    def _forget(self) -> None:
        """Look everything up again: it may be another Airflow, or its asset ids may lead elsewhere by now."""
        self._is_airflow_2 = None
        self._assets.clear()

    async def _check(self) -> None:
        self._is_airflow_2 = await self._find_version()
        path = "/api/v1/datasets" if self._is_airflow_2 else "/api/v2/assets"
        status, answer = await self._ask("GET", path, params={"limit": "1"})
        if status != 200 or not isinstance(answer, dict):
            raise AirflowError(f"Airflow at {self._url} answered {status} to a request for its assets")

    async def _create_event(self, delivery: Delivery) -> None:
        if self._is_airflow_2 is None:
            self._is_airflow_2 = await self._find_version()
        if self._is_airflow_2:
            names: dict[str, Any] = {"dataset_uri": delivery.uri}
            path = "/api/v1/datasets/events"
        else:
            names = {"asset_id": await self._find_asset(delivery.uri)}
            path = "/api/v2/assets/events"
        status, answer = await self._ask("POST", path, json={**names, "extra": delivery.as_extra()})
        # FastAPI and connexion give a detail; what another program answers says nothing about an asset.
        is_empty = answer == {}
        answer = answer if isinstance(answer, dict) else {}
        is_airflows = isinstance(answer.get("detail"), (str, list)) and bool(answer["detail"])
        if status == 404 and is_airflows:
            raise UnknownAssetError(f"Airflow knows no asset {delivery.uri}")
        if status in (400, 409, 422) and is_airflows:
            raise RefusedEventError(f"Airflow answered {status} to the event of order {delivery.order_id}")
        if status not in (200, 201):
            raise AirflowError(f"Airflow at {self._url} answered {status} to an asset event")
        # Airflow 3 repeats the asset's id, from 3.1 on its URI, too; Airflow 2 the dataset's URI.
        names["uri"] = delivery.uri
        is_ours = all(answer.get(name, value) == value for name, value in names.items())
        is_event = type(answer.get("id")) is int and bool(names.keys() & answer.keys())
        if not is_ours or not (is_event or is_empty):
            raise AirflowError(f"What is at {self._url} answered {status} to an asset event, but not as Airflow does")

    async def _find_version(self) -> bool:
        """Return whether it is Airflow 2."""
        for prefix in ("/api/v2", "/api/v1"):
            status, _ = await self._ask("GET", f"{prefix}/version", is_open=True)
            if status == 200:
                return prefix == "/api/v1"
        raise AirflowError(f"What is at {self._url} is no Airflow: it answered {status} to a request for its version")

    async def _find_asset(self, uri: str) -> int:
        asset_id, found_at = self._assets.get(uri, (0, -math.inf))
        if self._clock() < found_at + ASSET_SECONDS:
            return asset_id
        status, answer = await self._ask("GET", "/api/v2/assets", params={"uri_pattern": uri, "limit": "100"})
        if status != 200 or not isinstance(answer, dict) or type(answer.get("total_entries")) is not int:
            raise AirflowError(f"Airflow at {self._url} answered {status} to a request for its assets")
        found = [int(asset["id"]) for asset in answer["assets"] if asset.get("uri") == uri]
        if not found:
            raise UnknownAssetError(f"Airflow knows no asset {uri}")
        self._assets[uri] = found[0], self._clock()
        return found[0]

    async def _ask(self, method: str, path: str, *, is_open: bool = False, **arguments: Any) -> tuple[int, Any]:
        for is_last in (False, True):
            headers: dict[str, str] = {}
            token = self._token
            if self._is_airflow_2 and self._fixed_token is None and self._login[0] is not None:
                login = f"{self._login[0]}:{self._login[1] or ''}".encode()
                headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
            elif not is_open:
                token = token or await self._log_in(None)
                headers["Authorization"] = f"Bearer {token}"
            async with self._request(method, path, headers=headers, **arguments) as response:
                is_renewable = token is not None and token != self._fixed_token and not is_open
                if response.status in (401, 403) and is_renewable and not is_last:
                    # The token expired; 403 is Airflow's answer to one that an older key has signed.
                    await self._log_in(token)
                    continue
                # Airflow 2 calls its errors application/problem+json.
                is_json = "json" in response.headers.get("content-type", "").partition(";")[0]
                return response.status, await response.json(content_type=None) if is_json else None
        raise AssertionError("the last time it returns")

    async def _log_in(self, refused: str | None) -> str:
        """Obtain a token, once for all that wait for one."""
        async with self._logging_in:
            if self._token is not None and self._token != refused:
                return self._token
            username, password = self._login
            body = None if username is None else {"username": username, "password": password}
            method = "GET" if body is None else "POST"
            async with self._request(method, "/auth/token", json=body) as response:
                answer = await response.json() if response.status in (200, 201) else {}
            token = answer.get("access_token") if isinstance(answer, dict) else None
            if not isinstance(token, str):
                raise AirflowError(f"Airflow at {self._url} answered {response.status} to the login")
            self._token = token
            return token

    def _request(self, method: str, path: str, **arguments: Any) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._session is None:
            # trust_env would send a login of ~/.netrc, and the password through a proxy that is not for it.
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar())
        # A redirect would take the password, or the token, elsewhere.
        return self._session.request(method, self._url + path, allow_redirects=False, proxy=self._proxy, **arguments)
