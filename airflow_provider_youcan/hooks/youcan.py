"""The connection to a shop: from the credentials of an Airflow connection to YouCan's store-admin API."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook
from asgiref.sync import sync_to_async

from airflow_provider_youcan import api, get_provider_info
from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanConnectionError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanPermanentError,
    YouCanPermissionError,
    YouCanRateLimitError,
    YouCanTransientError,
    YouCanUnexpectedResponseError,
)
from airflow_provider_youcan.hooks.credentials import Credentials, read_credentials
from airflow_provider_youcan.hooks.session import Session
from airflow_provider_youcan.hooks.tokens import MOST_TOKENS, with_current_token
from airflow_provider_youcan.orders import (
    OrderStatuses,
    StatusContext,
    check_known_status,
    check_status,
    closest_statuses,
)
from airflow_provider_youcan.retries import async_request_policy, is_worth_waiting, request_policy

if TYPE_CHECKING:
    import requests
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_youcan.hooks.shared_client import SharedClient
    from airflow_provider_youcan.rate_limit import RateLimiter

__all__ = ["YouCanAsyncHook", "YouCanHook"]

_Result = TypeVar("_Result")

# How often the status is read anew at most, where requests are held back between the look and the update.
_MOST_READINGS = 4

# As many newer orders may come in while a page is read that the next one repeats it; hardly ten times in a row.
_MOST_STALE_PAGES = 10


class _Hook(BaseHook):
    """What both hooks share: whose connection they use, and how they name it."""

    conn_name_attr = "youcan_conn_id"
    default_conn_name = "youcan_default"
    conn_type = "youcan"
    hook_name = "YouCan"

    def __init__(self, youcan_conn_id: str = default_conn_name, *, max_retry_seconds: float | None = None) -> None:
        super().__init__()
        self.youcan_conn_id = youcan_conn_id
        self.max_retry_seconds = max_retry_seconds

    def __repr__(self) -> str:
        return f"{type(self).__name__}(youcan_conn_id={self.youcan_conn_id!r})"

    def _unreadable_list_error(
        self, status: str, context: StatusContext, error: YouCanPermissionError
    ) -> YouCanPermissionError:
        """Tell what it means that the store's own statuses may not be read."""
        closest = closest_statuses(status, context.documented_slugs)
        hint = f" (did you mean {' or '.join(map(repr, closest))}?)" if closest else ""
        return YouCanPermissionError(
            f"{status!r} is not a documented {context} status{hint}, and whether it is one of the store's own "
            f"can't be read, so nothing was sent: grant the scope 'read-orders-statuses' to the token in the "
            f"Airflow connection {self.youcan_conn_id!r}, or set allow_custom_label=True.",
            method=error.method,
            url=error.url,
            status_code=error.status_code,
            detail=error.detail,
        )

    def _read_credentials(
        self, connection: Connection, refused: Collection[str] = (), *, may_renew: bool = True
    ) -> Credentials:
        """Read what the connection says, with a token that is good; it may take requests to YouCan and to Airflow."""
        credentials = read_credentials(connection, self.youcan_conn_id)
        return with_current_token(
            credentials,
            self.youcan_conn_id,
            refused,
            may_renew=may_renew,
            max_retry_seconds=self.max_retry_seconds,
        )

    def _look_up_error(self, error: Exception) -> YouCanError:
        """Tell what it means that Airflow did not hand out the connection."""
        if isinstance(error, YouCanError):
            return error
        if isinstance(error, AirflowNotFoundException):
            return YouCanInvalidInputError(
                f"There is no Airflow connection {self.youcan_conn_id!r}: add one of type 'youcan' with the access "
                "token as its password, or name another with youcan_conn_id."
            )
        # A secrets backend that is out of reach may come back. Its own words may hold what is secret.
        return YouCanConnectionError(
            f"The Airflow connection {self.youcan_conn_id!r} could not be looked up ({type(error).__name__}), so "
            "nothing was sent; it may work later."
        )


_FORM = get_provider_info()["connection-types"][0]
_UNCHANGED = "RATHER_LONG_SENSITIVE_FIELD_PLACEHOLDER"


class YouCanHook(_Hook):
    """
    Talk to one YouCan shop.

    The Airflow connection is of type ``youcan`` and holds:

    * ``password``: the access token, made in YouCan's seller area under Settings > Developer Settings;
    * ``host``, with ``schema`` and ``port`` or as a whole URL: an API other than ``https://api.youcan.shop``.
      It must be https, unless it is on this machine;
    * extra ``timeout``: seconds to wait for the shop to accept a connection, and for each part of its answer
      (default 30);
    * extra ``max_attempts``: how often a request that met a transient error is sent at most (default 4);
    * extra ``requests_per_second``: a ceiling for a task that sends many requests (default none);
    * extra ``verify``: the path of a CA bundle to trust instead of the usual one;
    * extra ``client_id``, ``client_secret`` and ``refresh_token``, beside the access token or in its place: an OAuth
      client with which the token is renewed before it runs out, and once after a 401. The newest pair of tokens is
      kept in an Airflow Variable.

    A hook keeps one session, so its requests share their connections. It is not to be shared by threads.

    :param youcan_conn_id: the id of the Airflow connection (default ``youcan_default``).
    :param max_retry_seconds: no attempt at a request begins later than this after its first; ``None`` leaves it
        to the connection's ``max_attempts`` alone (default).
    """

    def __init__(
        self, youcan_conn_id: str = _Hook.default_conn_name, *, max_retry_seconds: float | None = None
    ) -> None:
        super().__init__(youcan_conn_id, max_retry_seconds=max_retry_seconds)
        self._credentials: Credentials | None = None
        self._session: Session | None = None
        self._store_statuses: dict[StatusContext, list[str]] | None = None

    def get_conn(self) -> requests.Session:
        """
        Return the session that all requests of this hook share.

        It sends the access token to the shop's API and nowhere else, and follows no redirect. What it answers
        is not checked: whether a 200 is a success, the methods of this hook tell.

        :raises YouCanInvalidInputError: if the Airflow connection is missing or makes no sense.
        """
        return self._get_session(self._get_credentials())

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

    def move_order_status(
        self,
        order_id: str,
        status: str,
        context: StatusContext | str = StatusContext.GENERAL,
        *,
        only_from: Collection[str],
    ) -> tuple[str, bool]:
        """
        Set one status of one order, if it stands where it may be moved from.

        The status is read before each attempt to set it, so that no repeated request overruns what someone
        changed in the meantime.

        :param order_id: the order's UUID.
        :param status: the slug, sent as it is given.
        :param context: ``general`` (default), ``shipping`` or ``payment``.
        :param only_from: the slugs that the status may be moved from.
        :return: the status that was found, and whether it was changed. It is not changed where it is the
            target already, or none of ``only_from``.
        :raises YouCanError: if the update did not happen, no one can say that it did, or the status can't be read.
        """
        move = _Move(order_id, status, context, only_from)

        def attempt() -> tuple[str, bool]:
            while move.is_due(OrderStatuses.from_order(self._send_once(move.read))):
                try:
                    self._send_once(move.update, move.renewals)
                except _HeldBackError:
                    continue
                break
            assert move.before is not None  # noqa: S101  # for the type checker: a guard refuses what can't be read
            return move.before, move.changed

        return self._retrying(attempt)

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
        page = total_pages = 1
        stale_pages = 0
        while page <= total_pages:
            request = api.list_orders(page, page_size, include, query)
            payload = self._send(request)
            new = {order["id"]: order for order in payload["data"] if order["id"] not in seen}
            seen |= new.keys()
            yield from new.values()
            stale_pages = 0 if new else stale_pages + 1
            if stale_pages == _MOST_STALE_PAGES:
                raise YouCanUnexpectedResponseError(
                    f"Could not {request.purpose}: {stale_pages} pages in a row held nothing new, so the list has no "
                    "end; check that the connection's host is YouCan's API.",
                    method=request.method,
                    url=request.path,
                )
            page, total_pages = page + 1, payload["meta"]["pagination"]["total_pages"]

    def get_store_statuses(self) -> dict[StatusContext, list[str]]:
        """
        Read the store's own statuses, once for each hook.

        :return: for each context the slugs in the store's order.
        :raises YouCanError: if they could not be read; it takes the scope ``read-orders-statuses``.
        """
        if self._store_statuses is None:
            self._store_statuses = api.read_store_slugs(self._send(api.get_store_statuses()))
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
            raise self._unreadable_list_error(status, context, error) from None
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
        Try the connection, for Airflow's Test button and ``airflow connections test``, and change nothing.

        A token that is renewed by itself is renewed by this as well, where it has run out.

        :return: whether the shop was reached, and its name and what the token may do, or what is wrong.
        """
        try:
            store = self.get_store()
            message = f"Connected to the YouCan store {store.get('name') or store.get('slug')!r}. {self._tell_scopes()}"
        except YouCanError as error:
            # The Test button gives the connection an id of its own, which no one could look for.
            name = f"he Airflow connection {self.youcan_conn_id!r}"
            return False, str(error).replace(f"t{name}", "this connection").replace(f"T{name}", "This connection")
        if logging.root.manager.disable >= logging.INFO:
            # Airflow's command line shows nothing of a success, and silences the log.
            print(message)  # noqa: T201
        return True, message

    def _tell_scopes(self) -> str:
        """Tell which of the needed scopes the token has, as far as reading tells it."""
        granted, missing = [], []
        for request in (api.list_orders(page_size=1, include=()), api.get_store_statuses()):
            try:
                self._send(request)
            except YouCanPermissionError:
                missing.append(request.scope)
            else:
                granted.append(request.scope)
        told = api.read_scopes(self._get_credentials().token)
        if told is not None:
            (granted if told & {"edit-orders", "*"} else missing).append("edit-orders")
        sentences = [
            f"Scopes of its token: {', '.join(map(repr, granted))}." if granted else "",
            f"Missing, to be granted in YouCan's seller area: {', '.join(map(repr, missing))}." if missing else "",
            "Whether it has 'edit-orders' can't be told without changing an order." if told is None else "",
        ]
        return " ".join(filter(None, sentences))

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the fields of the connection form, for an Airflow before 3.2, which doesn't read the provider info."""
        from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
        from wtforms import PasswordField, StringField
        from wtforms.validators import Optional

        class SecretWidget(BS3PasswordFieldWidget):  # type: ignore[misc]
            # An empty field would delete what is saved; this text is what Airflow 2 leaves it alone by.
            def __call__(self, field: Any, **options: Any) -> Any:
                self.hide_value = False
                return super().__call__(field, **options, value=_UNCHANGED if field.data else "")

        widgets: dict[str, Any] = {}
        for name, field in _FORM["conn-fields"].items():
            is_secret = field["schema"].get("format") == "password"
            # Numbers are text here, because the form of Airflow 2 has no field for a part of one.
            widgets[name] = (PasswordField if is_secret else StringField)(
                field["label"],
                [Optional()],
                description=field["description"],
                widget=(SecretWidget if is_secret else BS3TextFieldWidget)(),
            )
        return widgets

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return what the connection form makes of Airflow's own fields, for an Airflow before 3.2."""
        return {name.replace("-", "_"): value for name, value in _FORM["ui-field-behaviour"].items()}

    def _send(self, request: api.Request) -> dict[str, Any]:
        return self._retrying(self._send_once, request)

    def _retrying(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        policy = request_policy(self._get_credentials().max_attempts, self.log.warning, self.max_retry_seconds)
        return policy(function, *arguments)

    def _send_once(self, request: api.Request, guarded: _Renewals | None = None) -> dict[str, Any]:
        """
        Send a request, and go on with another token where this one is refused.

        :param request: the request.
        :param guarded: what the guarded update has cost in tokens so far; it is not sent again with another one.
        """
        before = self._credentials
        credentials = self._get_credentials()
        if guarded is not None:
            guarded.see_token(before, credentials)
        renewals = guarded or _Renewals()
        while True:
            try:
                return self._ask(request, credentials)
            except YouCanAuthenticationError:
                may_renew = renewals.refuse(credentials)
                renewed = self._get_credentials(renewals.refused, may_renew=may_renew)
                if not renewals.is_worth_another(credentials, renewed):
                    raise
                credentials = renewed
            if guarded is not None:
                raise _HeldBackError

    def _ask(self, request: api.Request, credentials: Credentials) -> dict[str, Any]:
        self.log.debug("%s %s", request.method, request.path)
        answer = self._get_session(credentials).carry(request, credentials)
        try:
            return api.read_response(request, *answer, youcan_conn_id=self.youcan_conn_id, secret=credentials.token)
        except YouCanError:
            # What else comes on this connection may be the late answer to this request, and must not be taken for
            # the answer to the next one.
            self._get_session(credentials).close()
            raise

    def _get_session(self, credentials: Credentials) -> Session:
        if self._session is None:
            self.log.info("The connection %r leads to %s", self.youcan_conn_id, credentials.base_url)
            self._session = Session(credentials)
        return self._session

    def _get_credentials(self, refused: Collection[str] = (), *, may_renew: bool = True) -> Credentials:
        if self._credentials is None or refused or self._credentials.is_running_out:
            try:
                connection = self.get_connection(self.youcan_conn_id)
                self._credentials = self._read_credentials(connection, refused, may_renew=may_renew)
            except Exception as error:  # whatever a secrets backend raises
                failure = self._look_up_error(error)
            else:
                if self._session is not None:
                    self._session.use(self._credentials)
                return self._credentials
            raise failure
        return self._credentials


class YouCanAsyncHook(_Hook):
    """
    Talk to one YouCan shop from an event loop: the awaitable face of :class:`YouCanHook`.

    It has the same connection, the same wire and the same retries, and never blocks the loop. All hooks of one
    loop that use the same Airflow connection share its look-up and a handful of sockets, which are closed with
    the last of them::

        async with YouCanAsyncHook() as hook:
            statuses = await hook.get_order_statuses(order_id)

    A token that was renewed in the Airflow connection is taken up when the old one is refused.

    A task that sends many requests at once says so with ``max_concurrency``. Its hook then finds the rate limit that
    YouCan doesn't publish: a request that the shop refused with 429 holds back all of them, and is sent again.

    :param youcan_conn_id: the id of the Airflow connection (default ``youcan_default``).
    :param max_retry_seconds: no attempt at a request begins later than this after its first; ``None`` leaves it
        to the connection's ``max_attempts`` alone (default).
    :param max_concurrency: how many requests its user sends at a time, and so how many sockets it may hold; ``None``
        leaves it with the handful that all hooks share (default).
    :param requests_per_second: how many requests a second are sent at most, together with ``max_concurrency``. The
        connection's extra ``requests_per_second`` can lower it; ``None`` leaves it to that alone (default).
    """

    def __init__(
        self,
        youcan_conn_id: str = _Hook.default_conn_name,
        *,
        max_retry_seconds: float | None = None,
        max_concurrency: int | None = None,
        requests_per_second: float | None = None,
    ) -> None:
        super().__init__(youcan_conn_id, max_retry_seconds=max_retry_seconds)
        self.max_concurrency = max_concurrency
        self.requests_per_second = requests_per_second
        self.requests = 0
        """How many requests it has sent."""
        self._client: SharedClient | None = None
        self._limiter: RateLimiter | None = None
        self._store_statuses: dict[StatusContext, list[str]] | None = None

    async def update_order_status(
        self, order_id: str, status: str, context: StatusContext | str = StatusContext.GENERAL
    ) -> None:
        """Set one status of one order, as :meth:`YouCanHook.update_order_status` does."""
        await self._send(api.update_order_status(order_id, status, context))

    async def move_order_status(
        self,
        order_id: str,
        status: str,
        context: StatusContext | str = StatusContext.GENERAL,
        *,
        only_from: Collection[str] | None,
        found: OrderStatuses | None = None,
    ) -> tuple[str | None, bool]:
        """
        Set one status of one order, if it stands where it may be moved from, and is not the target already.

        It does what :meth:`YouCanHook.move_order_status` does, and goes on from what was read before.

        :param order_id: the order's UUID.
        :param status: the slug, sent as it is given.
        :param context: ``general`` (default), ``shipping`` or ``payment``.
        :param only_from: the slugs that the status may be moved from, ``None`` for any, and for one that can't be
            read.
        :param found: the statuses that were read just now, which saves reading them before the first attempt;
            ``None`` reads them (default).
        :return: the status that was found, and whether it was changed.
        :raises YouCanError: if the update did not happen, no one can say that it did, or the status can't be read.
        """
        move = _Move(order_id, status, context, only_from)
        known = [found] if found is not None else []

        async def attempt(client: SharedClient) -> tuple[str | None, bool]:
            guarded = move.renewals if only_from is not None else None
            for reading in count(1):
                may_be_held = only_from is None or reading >= _MOST_READINGS
                holds = None if may_be_held or self._limiter is None else self._limiter.holds
                statuses = known.pop() if known else OrderStatuses.from_order(await self._send_once(client, move.read))
                if not move.is_due(statuses):
                    break
                try:
                    await self._send_once(client, move.update, holds, guarded)
                except _HeldBackError:
                    # What was read is old by now, and a guard has to be asked again.
                    continue
                except YouCanTransientError:
                    move.unconfirmed = True
                    raise
                break
            return move.before, move.changed

        try:
            return await self._retrying(attempt)
        except YouCanError as error:
            error.unconfirmed = move.unconfirmed
            raise

    async def get_order(self, order_id: str, include: Iterable[str] = ("payment", "shipping")) -> dict[str, Any]:
        """Read one order, as :meth:`YouCanHook.get_order` does."""
        return await self._send(api.get_order(order_id, include))

    async def get_order_statuses(self, order_id: str) -> OrderStatuses:
        """Read the three statuses of one order, as :meth:`YouCanHook.get_order_statuses` does."""
        return OrderStatuses.from_order(await self.get_order(order_id))

    async def list_orders(
        self, page: int = 1, page_size: int = 50, include: Iterable[str] = ("payment", "shipping"), **query: Any
    ) -> dict[str, Any]:
        """
        Read one page of the orders.

        :param page: which page, from 1 (default).
        :param page_size: how many orders a page; YouCan doesn't document its largest (default 50).
        :param include: the sub-resources to send along.
        :param query: as :meth:`YouCanHook.iter_orders` takes it.
        :return: the page as YouCan sends it: ``data``, the orders, and ``meta``, with ``pagination``.
        :raises YouCanError: if it could not be read.
        """
        return await self._send(api.list_orders(page, page_size, include, query))

    async def get_store_statuses(self) -> dict[StatusContext, list[str]]:
        """Read the store's own statuses, as :meth:`YouCanHook.get_store_statuses` does."""
        if self._store_statuses is None:
            self._store_statuses = api.read_store_slugs(await self._send(api.get_store_statuses()))
        return {context: list(slugs) for context, slugs in self._store_statuses.items()}

    async def check_status(
        self, status: str, context: StatusContext | str, *, allow_custom_label: bool = False
    ) -> None:
        """Refuse a status that would become a junk label, as :meth:`YouCanHook.check_status` does."""
        context = StatusContext(context)
        if allow_custom_label or check_status(status) in context.documented_slugs:
            return
        try:
            store_slugs = (await self.get_store_statuses())[context]
        except YouCanPermissionError as error:
            raise self._unreadable_list_error(status, context, error) from None
        check_known_status(status, context, store_slugs)

    async def get_credentials(self) -> Credentials:
        """
        Return what the Airflow connection says, checked. It holds the access token: keep it out of XCom and logs.

        :raises YouCanInvalidInputError: if the Airflow connection is missing or makes no sense.
        """
        return await self._acquire_client().get_credentials(self._look_up)

    async def close(self) -> None:
        """Let go of the connections; the last hook that shares them closes them."""
        client, self._client = self._client, None
        if client is not None:
            await client.release()

    async def __aenter__(self) -> YouCanAsyncHook:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(self, request: api.Request) -> dict[str, Any]:
        return await self._retrying(lambda client: self._send_once(client, request))

    async def _retrying(self, attempt: Callable[[SharedClient], Awaitable[_Result]]) -> _Result:
        client = self._acquire_client()
        # Held for this request, which another coroutine's close() must not cut off.
        client.hold()
        try:
            return await self._retrying_with(client, attempt)
        finally:
            await client.release()

    def _acquire_client(self) -> SharedClient:
        # Imported here, so that a task that works without an event loop doesn't pay for aiohttp.
        from airflow_provider_youcan.hooks.shared_client import MOST_SOCKETS, SharedClient

        if self._client is None or not self._client.is_of_running_loop():
            # Kept from one request to the next, until close().
            self._client = SharedClient.acquire(self.youcan_conn_id, self.max_concurrency or MOST_SOCKETS)
        return self._client

    async def _retrying_with(
        self, client: SharedClient, attempt: Callable[[SharedClient], Awaitable[_Result]]
    ) -> _Result:
        start = time.monotonic()
        try:
            return await attempt(client)
        except YouCanTransientError as error:
            failed: list[YouCanError] = [error]

        async def next_attempt() -> _Result:
            if failed:
                raise failed.pop()
            return await attempt(client)

        # The policy is asked only once something failed, and is told of that as of the first attempt: tenacity
        # takes as much time as the request itself, and a thousand waits poll for weeks.
        credentials = await client.get_credentials(self._look_up)
        seconds = self.max_retry_seconds
        if seconds is not None:
            seconds -= time.monotonic() - start
        policy = async_request_policy(credentials.max_attempts, self.log.warning, seconds, self._is_worth_waiting)
        return await policy(next_attempt)

    def _is_worth_waiting(self, error: BaseException) -> bool:
        # A rate limit was waited for by the limiter, where there is one, until that gave up.
        return is_worth_waiting(error) and not (self._limiter and isinstance(error, YouCanRateLimitError))

    async def _send_once(
        self,
        client: SharedClient,
        request: api.Request,
        holds: int | None = None,
        guarded: _Renewals | None = None,
    ) -> dict[str, Any]:
        """
        Send a request, in its turn.

        :param client: carries it.
        :param request: the request.
        :param holds: how often the limiter had held requests back when it was made, if it is not to be sent after
            another time.
        :param guarded: what the guarded update has cost in tokens so far; it is not sent again with another one.
        """
        before = client.credentials
        credentials = await client.get_credentials(self._look_up)
        if guarded is not None:
            guarded.see_token(before, credentials)
        renewals = guarded or _Renewals()
        while True:
            try:
                return await self._ask(client, request, credentials, holds)
            except YouCanAuthenticationError:
                # A wait may last for weeks: the token may have been renewed since it was looked up.
                may_renew = renewals.refuse(credentials)
                look_up = partial(self._look_up, renewals.refused, may_renew=may_renew)
                renewed = await client.get_credentials(look_up, stale=credentials)
                if not renewals.is_worth_another(credentials, renewed):
                    raise
                credentials = renewed
            if guarded is not None:
                raise _HeldBackError

    async def _ask(
        self, client: SharedClient, request: api.Request, credentials: Credentials, holds: int | None
    ) -> dict[str, Any]:
        self.log.debug("%s %s", request.method, request.path)
        limiter = self._get_limiter(credentials)
        while True:
            turn = await limiter.take_turn() if limiter else 0
            if limiter and holds not in (None, limiter.holds):
                limiter.give_back(turn)
                raise _HeldBackError
            answer = None
            try:
                self.requests += 1
                answer = await client.carry(request, credentials)
            finally:
                if limiter and (answer is None or answer[0] != 429):
                    limiter.see_answer(turn, *(api.read_rate_limit(answer[1]) if answer else ()))
            try:
                return api.read_response(request, *answer, youcan_conn_id=self.youcan_conn_id, secret=credentials.token)
            except YouCanRateLimitError as error:
                if limiter is None:
                    raise
                limiter.see_refusal(turn, error)

    def _get_limiter(self, credentials: Credentials) -> RateLimiter | None:
        if self._limiter is None and self.max_concurrency is not None:
            from airflow_provider_youcan.rate_limit import RateLimiter

            ceilings = [rate for rate in (self.requests_per_second, credentials.requests_per_second) if rate]
            self._limiter = RateLimiter(min(ceilings, default=None), warn=self.log.warning)
        return self._limiter

    async def _look_up(self, refused: Collection[str] = (), *, may_renew: bool = True) -> Credentials:
        try:
            connection = await get_async_connection(self.youcan_conn_id)
            # In a thread, because it asks the supervisor on Airflow 3, and perhaps YouCan.
            read = sync_to_async(self._read_credentials, thread_sensitive=False)
            return await read(connection, refused, may_renew=may_renew)
        except Exception as error:  # whatever a secrets backend raises
            failure = self._look_up_error(error)
        raise failure


class _Renewals:
    """
    How often a request that YouCan refuses with 401 goes on with another token, whoever carries it.

    It costs one new token. Should others renew the token as well, it takes up theirs: each kills the one before.
    A renewal may take its time, after which a guard has to be asked again.
    """

    def __init__(self) -> None:
        self.refused: list[str] = []
        """The tokens that were refused."""
        self._is_spent = False
        self._tokens = 1

    def refuse(self, credentials: Credentials) -> bool:
        """
        Take note of a token that was refused.

        :return: whether a new one may be obtained: the first time, or where the refused one has simply run out.
        """
        self.refused.append(credentials.token)
        return not self._is_spent or credentials.is_running_out

    def see_token(self, before: Credentials | None, now: Credentials) -> None:
        """Hold a guarded update back if its token was renewed after its guard was asked."""
        if before is None or (before.token, before.base_url) == (now.token, now.base_url):
            return
        self._tokens += 1
        if self._tokens > MOST_TOKENS:
            raise YouCanAuthenticationError(
                "The access token runs out faster than a guarded update can be sent; look at how long YouCan lets it "
                "live."
            )
        raise _HeldBackError

    def is_worth_another(self, refused: Credentials, renewed: Credentials) -> bool:
        """Tell whether the request is sent again."""
        self._is_spent = self._is_spent or renewed.is_renewed
        self._tokens += 1
        return self._tokens <= MOST_TOKENS and (renewed.token, renewed.base_url) != (refused.token, refused.base_url)


class _HeldBackError(Exception):
    """An update was held back for so long that its guard has to be asked again. It was not sent."""


class _Move:
    """What setting a status under a guard means, whoever carries the requests: look, and only then set."""

    def __init__(
        self, order_id: str, status: str, context: StatusContext | str, only_from: Collection[str] | None
    ) -> None:
        self.update = api.update_order_status(order_id, status, context)
        self.before: str | None = None
        """The status that was found."""
        self.changed = False
        """Whether it was changed, once the update is sent or no longer due."""
        self.unconfirmed = False
        """Whether an update was sent whose outcome isn't known."""
        self.renewals = _Renewals()
        """What the update has cost in tokens."""
        self._order_id = order_id
        self._status = status
        self._context = StatusContext(context)
        self._only_from = only_from

    @property
    def read(self) -> api.Request:
        """The request that reads the order."""
        return api.get_order(self._order_id)

    def is_due(self, statuses: OrderStatuses) -> bool:
        """Tell whether the update is to be sent, as the statuses stand."""
        found = statuses[self._context]
        if found is None and self._only_from is not None:
            raise YouCanPermanentError(
                f"The {self._context} status of order {self._order_id} can't be read, so only_from can't be checked "
                "and nothing was sent: look at the order, or leave only_from out.",
                method="GET",
                url=self.read.path,
            )
        if found == self._status:
            # Perhaps by an attempt whose answer was lost.
            self.before = self.before if self.changed else found
            return False
        self.before, self.changed = found, self._only_from is None or found in self._only_from
        return self.changed
