"""The connection to a shop: from the credentials of an Airflow connection to YouCan's store-admin API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import requests
import urllib3
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_youcan import __version__, api
from airflow_provider_youcan.exceptions import (
    YouCanConnectionError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanPermissionError,
)
from airflow_provider_youcan.hooks.credentials import Credentials, read_credentials
from airflow_provider_youcan.orders import OrderStatuses, StatusContext, check_known_status, check_status
from airflow_provider_youcan.retries import retry_policy

__all__ = ["YouCanHook"]


class YouCanHook(BaseHook):
    """
    Talk to one YouCan shop.

    The Airflow connection is of type ``youcan`` and holds:

    * ``password``: the access token, made in YouCan's seller area under Settings > Developer Settings;
    * ``host``, with ``schema`` and ``port`` or as a whole URL: an API other than ``https://api.youcan.shop``.
      It must be https, unless it is on this machine;
    * extra ``timeout``: seconds to wait for the shop to accept a connection, and for each part of its answer
      (default 30);
    * extra ``max_attempts``: how often a request that met a transient error is sent at most (default 4);
    * extra ``verify``: the path of a CA bundle to trust instead of the usual one.

    A hook keeps one session, so its requests share their connections. It is not to be shared by threads.

    :param youcan_conn_id: the id of the Airflow connection.
    """

    conn_name_attr = "youcan_conn_id"
    default_conn_name = "youcan_default"
    conn_type = "youcan"
    hook_name = "YouCan"

    def __init__(self, youcan_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.youcan_conn_id = youcan_conn_id
        self._credentials: Credentials | None = None
        self._session: requests.Session | None = None
        self._store_statuses: dict[StatusContext, list[str]] | None = None

    def get_conn(self) -> requests.Session:
        """
        Return the session that all requests of this hook share, with the access token in place.

        :raises YouCanInvalidInputError: if the Airflow connection is missing or makes no sense.
        """
        if self._session is None:
            credentials = self._get_credentials()
            session = requests.Session()
            session.auth = _BearerToken(credentials.token)
            session.verify = credentials.verify
            session.headers.update(
                {"Accept": "application/json", "User-Agent": f"airflow-provider-youcan/{__version__}"}
            )
            # An http base is on this machine. A proxy from the environment would carry the token off it.
            session.trust_env = credentials.base_url.startswith("https://")
            self._session = session
        return self._session

    def update_order_status(
        self, order_id: str, status: str, context: StatusContext | str = StatusContext.GENERAL
    ) -> None:
        """
        Set one status of one order. It returns only once YouCan has confirmed the update.

        YouCan doesn't refuse an unknown slug but puts its text on the order as a label; see
        :meth:`check_status`.

        :param order_id: the order's UUID.
        :param status: the slug, sent as it is given.
        :param context: ``general`` (default), ``shipping`` or ``payment``.
        :raises YouCanError: if the update did not happen, or no one can say that it did.
        """
        self._send(api.update_order_status(order_id, status, context))

    def get_order(self, order_id: str, include: Iterable[str] = ("payment", "shipping")) -> dict[str, Any]:
        """
        Read one order. The answer holds the customer's data: keep it out of XCom and logs.

        :param order_id: the order's UUID.
        :param include: the sub-resources to send along, e.g. ``payment``, ``shipping``, ``variants``.
        :return: the order as YouCan sends it (its page ``entities/order``).
        :raises YouCanError: if it could not be read.
        """
        return self._send(api.get_order(order_id, include))

    def get_order_statuses(self, order_id: str) -> OrderStatuses:
        """
        Read the three statuses of one order.

        :param order_id: the order's UUID.
        :return: the slugs, each ``None`` where it could not be read.
        :raises YouCanError: if the order could not be read.
        """
        return OrderStatuses.from_order(self.get_order(order_id))

    def iter_orders(
        self, include: Iterable[str] = ("payment", "shipping"), page_size: int = 50, **query: Any
    ) -> Iterator[dict[str, Any]]:
        """
        Read all orders that match, page by page, by default the newest first.

        An order that moves from one page to another while they are read is yielded once. One that is deleted
        meanwhile can push another over a page's edge, unseen.

        :param include: the sub-resources to send along.
        :param page_size: how many orders a request; YouCan doesn't document its largest (default 50).
        :param query: ``sort_field`` (``ref``, ``total``, ``created_at``), ``sort_order`` (``asc``, ``desc``),
            ``q`` (a text to search for), ``filters`` (a list of mappings with ``field``, ``operator`` and
            ``value``).
        :return: the orders as YouCan sends them (its page ``orders/listing``).
        :raises YouCanError: if a page could not be read.
        """
        include = (include,) if isinstance(include, str) else tuple(include)
        seen: set[str] = set()
        page, total_pages = 1, 1
        while page <= total_pages:
            payload = self._send(api.list_orders(page, page_size, include, **query))
            if not payload["data"]:
                return
            for order in payload["data"]:
                if order["id"] not in seen:
                    seen.add(order["id"])
                    yield order
            page, total_pages = page + 1, payload["meta"]["pagination"]["total_pages"]

    def get_store_statuses(self) -> dict[StatusContext, list[str]]:
        """
        Read the store's own statuses, once for each hook.

        :return: for each context the slugs in the store's order.
        :raises YouCanError: if they could not be read; it takes the scope ``read-orders-statuses``.
        """
        if self._store_statuses is None:
            payload = self._send(api.get_store_statuses())
            self._store_statuses = {
                context: [status["slug"] for status in payload[name]]
                for context, name in api.STORE_STATUS_LISTS.items()
            }
        return {context: list(slugs) for context, slugs in self._store_statuses.items()}

    def check_status(self, status: str, context: StatusContext | str, *, allow_custom_label: bool = False) -> None:
        """
        Refuse a status that would become a junk label on the order.

        A documented slug passes without a request. Another is looked up in the store's own list.

        :param status: what is to be set.
        :param context: ``general``, ``shipping`` or ``payment``.
        :param allow_custom_label: let any text pass, unseen by the store's list (default ``False``).
        :raises YouCanUnknownStatusError: if neither YouCan nor the store knows it.
        :raises YouCanPermissionError: if the token may not read the list.
        """
        context = StatusContext(context)
        if allow_custom_label or check_status(status) in context.documented_slugs:
            return
        try:
            store_slugs = self.get_store_statuses()[context]
        except YouCanPermissionError as error:
            raise YouCanPermissionError(
                f"{status!r} is not a documented {context} status, and whether it is one of the store's own can't "
                f"be read: grant the scope 'read-orders-statuses' to the token in the Airflow connection "
                f"{self.youcan_conn_id!r}, or set allow_custom_label=True.",
                method=error.method,
                url=error.url,
                status_code=error.status_code,
                detail=error.detail,
            ) from None
        check_known_status(status, context, store_slugs)

    def get_store(self) -> dict[str, Any]:
        """
        Read the store that the token belongs to.

        :return: ``slug``, ``name``, ``email``, ``currency`` and what else YouCan sends.
        :raises YouCanError: if it could not be read.
        """
        return self._send(api.get_store())

    def test_connection(self) -> tuple[bool, str]:
        """
        Try the connection, for Airflow's Test button and ``airflow connections test``.

        :return: whether the shop was reached, and its name or what is wrong.
        """
        try:
            store = self.get_store()
        except YouCanError as error:
            return False, str(error)
        return True, f"Connected to the YouCan store {store.get('name') or store.get('slug')!r}."

    def __repr__(self) -> str:
        return f"{type(self).__name__}(youcan_conn_id={self.youcan_conn_id!r})"

    def _send(self, request: api.Request) -> dict[str, Any]:
        credentials = self._get_credentials()
        return retry_policy(credentials.max_attempts, self.log.warning)(self._send_once, request)

    def _send_once(self, request: api.Request) -> dict[str, Any]:
        credentials = self._get_credentials()
        self.log.debug("%s %s", request.method, request.path)
        try:
            response = self.get_conn().request(
                request.method,
                credentials.base_url + request.path,
                params=request.params,
                json=request.json,
                timeout=credentials.timeout,
                allow_redirects=False,
                # Given with each request, because a CA bundle named in the environment would override the
                # session's.
                verify=credentials.verify if isinstance(credentials.verify, str) else None,
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            failure = _connection_error(request, error, credentials.timeout)
        else:
            return api.read_response(
                request,
                response.status_code,
                response.headers,
                response.content,
                youcan_conn_id=self.youcan_conn_id,
                secret=credentials.token,
            )
        # Raised out here, so that it carries no trace of the library's error: that one's text holds the whole
        # address, and so what a search asked for.
        raise failure

    def _get_credentials(self) -> Credentials:
        if self._credentials is None:
            try:
                connection = self.get_connection(self.youcan_conn_id)
            except AirflowNotFoundException:
                raise YouCanInvalidInputError(
                    f"There is no Airflow connection {self.youcan_conn_id!r}: add one of type 'youcan' with the "
                    "access token as its password, or name another with youcan_conn_id."
                ) from None
            self._credentials = read_credentials(connection, self.youcan_conn_id)
        return self._credentials


class _BearerToken(requests.auth.AuthBase):
    """
    Puts the token on each request.

    As the session's ``auth`` it also keeps requests from taking a login for the host from ``~/.netrc``, which
    would replace the header.
    """

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _connection_error(request: api.Request, error: Exception, timeout: float) -> YouCanConnectionError:
    if isinstance(error, requests.Timeout):
        detail = f"no answer within {timeout:g} s"
    elif isinstance(error, requests.exceptions.SSLError):
        detail = "its TLS certificate could not be verified"
    elif isinstance(error, requests.exceptions.ProxyError):
        detail = "the proxy could not be reached or refused"
    elif isinstance(error, requests.exceptions.ChunkedEncodingError):
        detail = "the answer broke off"
    else:
        detail = "the connection failed or was dropped"
    return YouCanConnectionError(
        f"Could not {request.purpose}: {detail}; what YouCan made of it is unknown: try again.",
        method=request.method,
        url=request.path,
        detail=detail,
    )
