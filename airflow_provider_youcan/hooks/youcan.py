"""The connection to a shop: from the credentials of an Airflow connection to YouCan's store-admin API."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_youcan.checks import check_slugs
from airflow_provider_youcan.client import endpoints, procedures, store
from airflow_provider_youcan.client.attempts import Attempts
from airflow_provider_youcan.client.credentials import Credentials
from airflow_provider_youcan.client.pages import Pages
from airflow_provider_youcan.exceptions import (
    YouCanConnectionNotFoundError,
    YouCanError,
)
from airflow_provider_youcan.hooks import form
from airflow_provider_youcan.hooks.blocking import BlockingDriver
from airflow_provider_youcan.hooks.youcan_async import YouCanAsyncHook
from airflow_provider_youcan.orders import OrderStatuses, StatusContext, order_page

if TYPE_CHECKING:
    import requests

    from airflow_provider_youcan.client.assumptions import Assumption

__all__ = ["YouCanAsyncHook", "YouCanHook"]

_Result = TypeVar("_Result")


class YouCanHook(BlockingDriver):
    """
    Talk to one YouCan shop.

    The Airflow connection is of type ``youcan`` and holds:

    * ``password``: the access token, made in YouCan's seller area under Settings > Developer Settings;
    * ``host``, with ``schema`` and ``port`` or as a whole URL: an API other than ``https://api.youcan.shop``.
      It must be https, unless it is on this machine;
    * extra ``timeout``: seconds to wait for a connection, for an answer to begin, and for it to end (default 30);
    * extra ``max_attempts``: how often a request that met a transient error is sent at most (default 4);
    * extra ``requests_per_second``: a ceiling for a task that sends many requests (default none);
    * extra ``verify``: the path of a CA bundle to trust instead of the usual one;
    * extra ``client_id``, ``client_secret`` and ``refresh_token``, beside the access token or in its place: an OAuth
      client with which the token is renewed before it runs out, and once after a 401. The newest pair of tokens is
      kept in an Airflow Variable.

    A hook keeps one session, so its requests share their connections; :meth:`close`, or leaving a ``with`` block,
    closes them. It is not to be shared by threads.

    :param youcan_conn_id: the id of the Airflow connection (default ``youcan_default``).
    :param max_retry_seconds: no attempt at a request begins later than this after its first; ``None`` leaves it
        to the connection's ``max_attempts`` alone (default).
    """

    def __init__(
        self, youcan_conn_id: str = BlockingDriver.default_conn_name, *, max_retry_seconds: float | None = None
    ) -> None:
        super().__init__(youcan_conn_id, max_retry_seconds=max_retry_seconds)

    def get_conn(self) -> requests.Session:
        """
        Return the session that all requests of this hook share.

        It sends the access token to the shop's API and nowhere else, and follows no redirect. Its answers
        are not checked: only the methods of this hook decide whether a 200 is a success.

        :raises YouCanInvalidInputError: if the Airflow connection is missing or makes no sense.
        """
        return self._get_session(self._get_credentials(Attempts()))

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
        :raises YouCanError: if the update did not happen, or it is unknown whether it did.
        """
        self.run(procedures.update_order_status(order_id, status, context))

    def move_order_status(
        self,
        order_id: str,
        status: str,
        context: StatusContext | str = StatusContext.GENERAL,
        *,
        only_from: str | Collection[str],
    ) -> tuple[str | None, bool]:
        """
        Set one status of one order, if it is one that it may be moved from.

        The status is read before each attempt to set it, so that no repeated request overruns what someone
        changed in the meantime.

        :param order_id: the order's UUID.
        :param status: the slug, sent as it is given.
        :param context: ``general`` (default), ``shipping`` or ``payment``.
        :param only_from: the slug, or the slugs, that the status may be moved from.
        :return: the status that was found, and whether it was changed. It is not changed where it is the
            target already, or none of ``only_from``.
        :raises YouCanTransientError: with ``unconfirmed``, if an update was sent and it is unknown whether YouCan
            applied it.
        :raises YouCanError: if the update did not happen, or the status can't be read.
        """
        slugs = check_slugs("only_from", only_from)
        return self.run(procedures.move_order_status(order_id, status, context, slugs))[:2]

    def get_order(self, order_id: str, include: Iterable[str] = ("payment", "shipping")) -> dict[str, Any]:
        """
        Read one order. The answer holds the customer's data: keep it out of XCom and logs.

        :param order_id: the order's UUID.
        :param include: the sub-resources to send along, e.g. ``payment``, ``shipping``, ``variants``.
        :return: the order as YouCan sends it (its page ``entities/order``).
        :raises YouCanError: if it could not be read.
        """
        return self.run(procedures.get_order(order_id, include))

    def get_order_statuses(self, order_id: str) -> OrderStatuses:
        """
        Read the three statuses of one order.

        :param order_id: the order's UUID.
        :return: the slugs, each ``None`` where it could not be read.
        :raises YouCanError: if the order could not be read.
        """
        return self.run(procedures.get_order_statuses(order_id))

    def iter_orders(
        self, include: Iterable[str] = ("payment", "shipping"), page_size: int = 50, **query: Any
    ) -> Iterator[dict[str, Any]]:
        """
        Read all orders that match, page by page, by default the newest first.

        An order that moves from one page to another while they are read is yielded once. One that is deleted
        meanwhile can push another over a page's edge, unseen.

        :param include: the sub-resources to send along.
        :param page_size: how many orders a request, from 1 (default 50). YouCan sends 50 at most, whatever more is
            asked for; the list is whole all the same.
        :param query: ``sort_field`` (``ref``, ``total``, ``created_at``), ``sort_order`` (``asc``, ``desc``),
            ``q`` (a text to search for), ``filters`` (a list of mappings with ``field``, ``operator`` and
            ``value``). YouCan drops a filter that it doesn't know without a word, and lists every order; so check
            each order again. (From ``QueryOption``, the query package that YouCan's page ``query-filters`` links to.)
        :return: the orders as YouCan sends them (its page ``orders/listing``).
        :raises YouCanError: if a page could not be read.
        """
        pages = Pages(page_size, include, query)
        while not pages.is_over:
            yield from self.run(pages.read_next())

    def get_store_statuses(self) -> dict[StatusContext, list[str]]:
        """
        Read the store's own statuses, once for each hook.

        :return: for each context the slugs in the store's order.
        :raises YouCanError: if they could not be read; it takes the scope ``read-orders-statuses``.
        """
        return self.run(store.get_store_statuses(self._store_slugs))

    def check_status(self, status: str, context: StatusContext | str, *, allow_custom_label: bool = False) -> str:
        """
        Refuse a status that would become a junk label on the order.

        A documented slug passes without a request, though a store may have deleted it. Another is looked up in the
        store's own list.

        :param status: what is to be set.
        :param context: ``general``, ``shipping`` or ``payment``.
        :param allow_custom_label: accept any text, without checking the store's list (default ``False``).
        :return: the status as the store has it: it may be written in another Unicode form, or with spaces around it.
        :raises YouCanUnknownStatusError: if neither YouCan nor the store knows it.
        :raises YouCanPermissionError: if the token may not read the list.
        """
        context = StatusContext(context)
        if allow_custom_label:
            return status
        return self.run(store.check_status(status, context, self._store_slugs, self.youcan_conn_id))

    def get_store(self) -> dict[str, Any]:
        """
        Read the store that the token belongs to. It takes the scope ``view-store-info``.

        :return: ``slug``, ``name``, ``email``, ``currency`` and what else YouCan sends.
        :raises YouCanError: if it could not be read.
        """
        return self.run(procedures.request(endpoints.get_store()))

    def test_connection(self) -> tuple[bool, str]:
        """
        Try the connection, for Airflow's Test button and ``airflow connections test``, and change nothing.

        This also renews an expired token, if the connection can.

        :return: whether the shop was reached, and its name and what the token may do, or what is wrong.
        """
        # The Test button gives the connection an id of its own, which no one could look for.
        self.connection_name = "this connection"
        try:
            message = self.run(store.test_connection(self._get_token))
        except YouCanConnectionNotFoundError:
            # The Test button supplies the connection; on the command line a missing one is final.
            return False, (
                f"There is no Airflow connection {self.youcan_conn_id!r}: add one of type 'youcan' with the access "
                "token as its password."
            )
        except YouCanError as error:
            return False, str(error)
        if logging.root.manager.disable >= logging.INFO:
            # Airflow's command line shows nothing of a success, and silences the log.
            print(message)  # noqa: T201
        return True, message

    def get_credentials(self) -> Credentials:
        """
        Return what the Airflow connection says, checked. It holds the access token: keep it out of XCom and logs.

        :raises YouCanError: if the Airflow connection is missing or makes no sense.
        """
        return self._get_credentials(Attempts())

    def check_assumptions(self) -> list[Assumption]:
        """
        Check in this shop, by a few reading requests, what the provider assumes about YouCan.

        :return: each assumption with its source, whether it holds, and what was seen: nothing of a customer.
        :raises YouCanError: if the shop can't be asked.
        """
        from airflow_provider_youcan.client.assumptions import collect, evaluate

        credentials = self._get_credentials(Attempts())
        if credentials.oauth_client is not None:
            # The checks below bypass renewal, so renew an expired token first.
            self.run(store.test_connection(self._get_token))
            credentials = self._get_credentials(Attempts())
        session = self._get_session(credentials)
        answers = collect(
            lambda request: session.send_request(request, credentials), credentials.token, self.connection_name
        )
        return evaluate(answers)

    def get_order_page(self, order_id: str) -> str:
        """
        Return the address of an order's page: in YouCan's seller area, or in the sandbox.

        :param order_id: the order's UUID.
        :raises YouCanError: if the Airflow connection is missing or makes no sense.
        """
        base_url = self._get_credentials(Attempts()).base_url
        # An http base is on this machine.
        return f"{base_url}/sandbox/orders/{order_id}" if base_url.startswith("http://") else order_page(order_id)

    # Airflow looks for these two in the hook's own class, not in its base classes.

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the fields of the connection form, for an Airflow before 3.2."""
        return form.get_connection_form_widgets()

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return what the connection form makes of Airflow's own fields, for an Airflow before 3.2."""
        return form.get_ui_field_behaviour()
