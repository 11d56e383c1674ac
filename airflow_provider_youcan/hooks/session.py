"""The bytes of :class:`YouCanHook`: a requests session that takes the token to the shop's API and nowhere else."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from http.cookiejar import DefaultCookiePolicy

import requests
import urllib3

from airflow_provider_youcan import __version__, api
from airflow_provider_youcan.exceptions import YouCanError, YouCanInvalidInputError
from airflow_provider_youcan.hooks.credentials import Credentials

__all__ = ["Session"]


class Session(requests.Session):
    """
    A session that sends the token to the shop's API alone.

    It follows no redirect: a client that does turns a PUT into a GET, and reports an update that never happened.
    It keeps no cookie, and takes no login from ``~/.netrc``, which would replace the token.
    """

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self.headers.update({"Accept": "application/json", "User-Agent": f"airflow-provider-youcan/{__version__}"})
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.use(credentials)

    def use(self, credentials: Credentials) -> None:
        """Go on with other credentials, such as a renewed token."""
        self.auth = _BearerToken(credentials)
        self.verify = credentials.verify
        # An http base is on this machine. A proxy from the environment would carry the token off it.
        self.trust_env = credentials.base_url.startswith("https://")

    def carry(self, request: api.Request, credentials: Credentials) -> tuple[int, Mapping[str, str], bytes]:
        """
        Send a request, and return the status code, the headers and the body of the answer.

        :raises YouCanError: if no whole answer came.
        """
        try:
            return self._carry(request, credentials)
        except Exception as error:  # requests lets some errors of what is below it through
            failure = _read_failure(request, error, credentials)
        # Raised out here, so that it carries no trace of the library's error: that one's text holds the whole
        # address, and so what a search asked for.
        raise failure

    def _carry(self, request: api.Request, credentials: Credentials) -> tuple[int, Mapping[str, str], bytes]:
        with self.request(
            request.method,
            credentials.base_url + request.path,
            params=request.params,
            json=request.json,
            data=request.form,
            timeout=credentials.timeout,
            stream=True,
            # Given with each request, because a CA bundle named in the environment would override the session's.
            verify=credentials.verify if isinstance(credentials.verify, str) else None,
        ) as response:
            return response.status_code, response.headers, _read_body(response, credentials.timeout)

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002  # requests' signature
        """Return nothing, so that no redirect is followed."""
        return None


class _BearerToken(requests.auth.AuthBase):
    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Whoever asks for a token has none.
        if self._credentials.token and (request.url or "").startswith(f"{self._credentials.base_url}/"):
            request.headers["Authorization"] = f"Bearer {self._credentials.token}"
        return request


class _WithoutQuery(logging.Filter):
    """Keeps what a search for orders asked for, such as a customer's phone, out of urllib3's own log lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                re.sub(r"(/orders)\?\S*", r"\1?***", argument) if isinstance(argument, str) else argument
                for argument in record.args
            )
        return True


for _name in ("urllib3.connection", "urllib3.connectionpool"):
    logging.getLogger(_name).addFilter(_WithoutQuery())


def _read_body(response: requests.Response, timeout: float) -> bytes:
    """Read the body, or nothing of one that is too large to be YouCan's, in the given seconds."""
    deadline = time.monotonic() + timeout
    body = bytearray()
    # read1 returns what has come; before urllib3 2 there is only read, which waits until the chunk is full.
    read = getattr(response.raw, "read1", response.raw.read)
    while chunk := read(65_536, decode_content=True):
        body += chunk
        if len(body) > api.LARGEST_BODY:
            return b""
        if time.monotonic() > deadline:
            raise requests.ReadTimeout
    return bytes(body)


def _read_failure(request: api.Request, error: Exception, credentials: Credentials) -> YouCanError:
    """Tell what kept an answer from coming, and whether the shop may have taken the request all the same."""
    where, timeout = credentials.base_url, credentials.timeout
    reason = getattr(error.args[0], "reason", error.args[0]) if error.args else None
    if isinstance(error, requests.ConnectTimeout):
        return api.connection_error(request, f"no connection to {where} within {timeout:g} s")
    if isinstance(error, requests.exceptions.ProxyError):
        return api.connection_error(request, f"the proxy to {where} could not be reached, or refused")
    if isinstance(error, requests.exceptions.SSLError):
        return api.connection_error(request, _describe_tls_failure(where, error))
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return api.connection_error(request, f"the host of {where} could not be found")
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        return api.connection_error(request, f"no connection to {where}: it was refused, or there is no way to it")
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return YouCanInvalidInputError(
            f"Could not {request.purpose}: the CA bundle that the environment names (REQUESTS_CA_BUNDLE, "
            "CURL_CA_BUNDLE) can't be read, so nothing was sent; mend the variable."
        )
    if isinstance(error, (requests.Timeout, urllib3.exceptions.ReadTimeoutError)):
        return api.connection_error(request, f"no whole answer within {timeout:g} s", sent=True)
    return api.connection_error(request, "the answer was lost or broke off", sent=True)


def _describe_tls_failure(where: str, error: Exception) -> str:
    if "WRONG_VERSION_NUMBER" in str(error) or "record layer failure" in str(error):
        return f"{where} speaks no TLS (is it http?)"
    return f"the TLS certificate of {where} could not be verified"
