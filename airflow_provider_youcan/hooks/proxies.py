"""The proxy and the CA bundle of the environment, read as ``requests`` reads them."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import requests.certs
import requests.utils

from airflow_provider_youcan.client.credentials import Credentials
from airflow_provider_youcan.exceptions import YouCanInvalidInputError

__all__ = ["Route", "bundle_error", "find_proxy"]


@dataclass(frozen=True)
class Route:
    """The way of an asyncio client to a shop; resolved once for each base URL and CA bundle."""

    key: tuple[str, str | bool]
    """The base URL, and what certificates are verified by."""
    proxy: str | None
    bundle: str | None
    """The path of a CA bundle, ``None`` for an http base, which is on this machine."""

    @classmethod
    def of(cls, credentials: Credentials) -> Route:
        """
        Resolve the way to a shop.

        :raises YouCanInvalidInputError: if the environment names a proxy that can't be used.
        """
        key = (credentials.base_url, credentials.verify)
        if credentials.base_url.startswith("http://"):
            return cls(key, None, None)
        bundle = credentials.verify if isinstance(credentials.verify, str) else None
        bundle = bundle or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        proxy = find_proxy(credentials, may_be_socks=False)
        return cls(key, proxy, bundle or str(requests.certs.where()))  # type: ignore[attr-defined]

    def load_tls(self) -> ssl.SSLContext | bool:
        """
        Return the TLS settings; a bundle that was replaced under the same path is loaded again.

        :raises YouCanInvalidInputError: if the bundle can't be read.
        """
        if self.bundle is None:
            return True
        try:
            state = os.stat(self.bundle)  # noqa: PTH116  # for each request
            return _load_bundle(self.bundle, state.st_mtime_ns, state.st_size)
        except OSError:
            raise bundle_error() from None


def find_proxy(credentials: Credentials, *, may_be_socks: bool) -> str | None:
    """
    Return the proxy that the environment names for a shop, or ``None``.

    :param credentials: where the shop is.
    :param may_be_socks: whether the client speaks SOCKS at all.
    :raises YouCanInvalidInputError: if it can't be used.
    """
    proxies = requests.utils.get_environ_proxies(credentials.base_url)
    named = requests.utils.select_proxy(credentials.base_url, proxies)
    if not named:
        return None
    # Without a scheme, "proxy:3128" is an http proxy to requests and curl.
    try:
        proxy = str(requests.utils.prepend_scheme_if_needed(named, "http"))  # type: ignore[no-untyped-call]
        url = urlsplit(proxy)
        is_usable = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        proxy, url, is_usable = "", urlsplit(""), False
    if url.scheme.startswith("socks"):
        is_usable = may_be_socks and find_spec("socks") is not None
    if is_usable:
        return proxy
    # The proxy itself is not shown: it may hold a login.
    is_socks = url.scheme.startswith("socks")
    what = f"is of the kind {url.scheme!r}, which can't be used here" if is_socks else "is not a URL"
    raise YouCanInvalidInputError(
        f"The proxy in HTTPS_PROXY or ALL_PROXY {what}",
        advice=(
            f"name an http proxy for {credentials.base_url}, such as http://proxy.example.com:3128, or exempt the shop "
            "in NO_PROXY."
        ),
    )


def bundle_error() -> YouCanInvalidInputError:
    """Build the error for a CA bundle of the environment that can't be read."""
    return YouCanInvalidInputError(
        "The CA bundle in REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE can't be read", advice="correct the variable."
    )


@lru_cache(maxsize=8)
def _load_bundle(path: str, modified_at: int, size: int) -> ssl.SSLContext:  # noqa: ARG001  # they key the cache
    if Path(path).is_dir():
        return ssl.create_default_context(capath=path)
    return ssl.create_default_context(cafile=path)
