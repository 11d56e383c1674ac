"""The shop itself, in SQLite: its orders, statuses and tokens, and a record of requests, updates and deliveries."""

from __future__ import annotations

import random
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.sandbox.made_up import make_order, make_status_lists

__all__ = ["ACCESS_TOKEN", "ALL_SCOPES", "CLIENT_ID", "CLIENT_SECRET", "InvalidGrantError", "Request", "Shop"]

ACCESS_TOKEN = "sandbox-access-token"
CLIENT_ID = "sandbox-client"
STORE_ID = "5a0d3b1e-0000-4000-8000-000000000001"
CLIENT_SECRET = "sandbox-client-secret"
ALL_SCOPES = (
    "edit-orders",
    "read-orders",
    "read-orders-statuses",
    "view-store-info",
    "read-rest-hooks",
    "edit-rest-hooks",
    "delete-rest-hooks",
)
TOKEN_SECONDS = 1_295_999
"""The lifetime of a token on YouCan's page ``introduction/oauth``: 15 days less a second."""

_PAUSE = timedelta(minutes=7)
"""From one made-up order to the next."""

_COLUMNS = {context: f"{context.value}_status" for context in StatusContext}

_SCHEMA = """
create table if not exists orders (
    id text primary key, ref text not null, created_at text not null, updated_at text not null,
    total real not null, currency text not null, notes text not null, gateway text not null,
    general_status text not null, shipping_status text not null, payment_status text not null,
    customer text not null, variants text not null);
create index if not exists orders_by_created_at on orders (created_at, id);
create index if not exists orders_by_total on orders (total, id);
create index if not exists orders_by_ref on orders (cast(ref as integer), id);
create table if not exists statuses (
    context text not null, position integer not null, slug text not null, name text not null,
    color text not null, primary key (context, slug));
create table if not exists tokens (
    access_token text primary key, refresh_token text unique, scopes text not null, lifetime real not null,
    expires_at real not null);
create table if not exists codes (code text primary key, scopes text not null, redirect_uri text);
create table if not exists history (
    number integer primary key, order_id text not null, context text not null, before text not null,
    after text not null, at text not null);
create table if not exists requests (
    number integer primary key, method text not null, path text not null, query text not null,
    body text not null, status integer, at text not null);
create table if not exists subscriptions (
    id text primary key, event text not null, target_url text not null, failures integer not null default 0);
create table if not exists deliveries (
    number integer primary key, delivery_id text not null, url text not null, status integer not null,
    attempt integer not null);
create table if not exists settings (name text primary key, value text not null);
"""


class InvalidGrantError(Exception):
    """The code or the refresh token is unknown, or was used before."""


@dataclass(frozen=True)
class Request:
    """A request to the shop's API, and how it was answered."""

    number: int
    """Its place among the shop's requests, from 1."""
    method: str
    path: str
    query: str
    body: str
    """The body as text; empty for a request for a token, so that no secret is kept."""
    status: int | None
    """The status code of the answer; ``None`` if the connection was dropped."""
    at: str
    """The time of the answer, in UTC, as ISO 8601 writes it."""


class Shop:
    """
    A believable cash-on-delivery shop.

    :param database: the path of an SQLite file that outlives the process, or ``":memory:"`` (default).
    :param orders: the number of orders of a new shop; an existing file keeps its own (default 200).
    :param seed: the seed of the made-up orders; the same seed makes the same orders, with the same ids (default 0).
    :param clock: returns the time in seconds since 1970, for the tokens (default that of the machine).
    """

    def __init__(
        self,
        database: str = ":memory:",
        orders: int = 200,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self.notify: Callable[[str, dict[str, Any]], None] = lambda _event, _order: None
        """Called for each event, with the order's row."""
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(database, check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        # Data of the last second may be lost if the machine crashes, but not if the process is killed.
        self._connection.executescript("pragma journal_mode = wal; pragma synchronous = off;" + _SCHEMA)
        if not self._read("select 1 from settings where name = 'seeded'"):
            self.issue_token(access_token=ACCESS_TOKEN, expires_in=float("inf"))
            self.replace_statuses(make_status_lists())
            self.add_orders(orders, seed)
            self._insert("settings", name="seeded", value="yes")

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    # --- orders ---

    def add_orders(self, count: int, seed: int = 0) -> list[str]:
        """Add ``count`` made-up orders, the last of them created now, and return their ids."""
        number, newest = self._read("select count(*), max(created_at) from orders")[0]
        rng = random.Random(f"{seed} {number}")
        now = datetime.now(timezone.utc)
        earliest = now - _PAUSE * count if newest is None else datetime.fromisoformat(newest)
        rows = []
        for offset in range(1, count + 1):
            earliest = max(earliest + timedelta(seconds=1), now - _PAUSE * (count - offset))
            rows.append(make_order(rng, number + offset, earliest))
        with self._lock:
            self._connection.execute("begin")
            self._connection.executemany(
                "insert into orders values (:id, :ref, :created_at, :updated_at, :total, :currency, :notes, :gateway, "
                ":general_status, :shipping_status, :payment_status, :customer, :variants)",
                rows,
            )
            self._connection.execute("commit")
        for row in rows:
            self.notify("order.created", row)
        return [row["id"] for row in rows]

    def order_ids(self) -> list[str]:
        """Return the ids of all orders, the oldest first."""
        return [row["id"] for row in self._read("select id from orders order by created_at, id")]

    def orders(self) -> list[dict[str, str]]:
        """Return id, ref and the three statuses of all orders, the oldest first."""
        columns = "id, ref, general_status, shipping_status, payment_status"
        return [dict(row) for row in self._read(f"select {columns} from orders order by created_at, id")]

    def order(self, order_id: str) -> dict[str, Any] | None:
        """Return one order's row, or ``None``."""
        rows = self._read("select * from orders where id = ?", order_id)
        return dict(rows[0]) if rows else None

    def statuses(self, order_id: str) -> dict[str, str]:
        """Return the three statuses of an order, by context."""
        row = self.order(order_id)
        if row is None:
            raise KeyError(order_id)
        return {context.value: row[column] for context, column in _COLUMNS.items()}

    def set_status(self, order_id: str, context: StatusContext | str, status: str) -> bool:
        """Set one status, even one that is in no list, as YouCan does; return whether the order exists."""
        context = StatusContext(context)
        column = _COLUMNS[context]
        with self._lock:
            row = self.order(order_id)
            if row is None:
                return False
            now = _now()
            self._write(f"update orders set {column} = ?, updated_at = ? where id = ?", status, now, order_id)
            self._insert("history", order_id=order_id, context=context.value, before=row[column], after=status, at=now)
            changed = self.order(order_id)
        if changed is not None:
            self.notify("order.updated", changed)
            if context is StatusContext.PAYMENT and status == "paid" != row[column]:
                self.notify("order.paid", changed)
        return True

    def delete_order(self, order_id: str) -> None:
        """Delete an order."""
        self._write("delete from orders where id = ?", order_id)

    def find_orders(
        self, text: str, sort_field: str, descending: bool, *, offset: int, limit: int
    ) -> tuple[int, list[dict[str, Any]]]:
        """
        Return the number of orders with ``text`` in their ref, notes or customer, and one page of them.

        :param text: the text, in capitals or not; ``""`` for all orders.
        :param sort_field: ``ref``, ``total`` or ``created_at``.
        :param descending: whether the greatest comes first.
        :param offset: the number of orders before the page.
        :param limit: the size of the page.
        """
        # A ref is a number written as text. Each sort field has an index, so that no page sorts the whole shop.
        column = "cast(ref as integer)" if sort_field == "ref" else sort_field
        direction = "desc" if descending else "asc"
        order = f"order by {column} {direction}, id {direction}"
        if text:
            where = "where instr(lower(ref || ' ' || notes || ' ' || customer), ?)"
            found = self._read(f"select * from orders {where} {order}", text.lower())
            return len(found), list(map(dict, found[offset : offset + limit]))
        # The ids come from the index alone, and only the page's rows are read whole.
        page = f"select id from orders {order} limit ? offset ?"
        rows = self._read(f"select * from orders where id in ({page}) {order}", limit, offset)
        return self._read("select count(*) from orders")[0][0], list(map(dict, rows))

    # --- the store and its statuses ---

    @property
    def suspended(self) -> bool:
        """True if the store is suspended: every request is then answered with 402."""
        return self._is_set("suspended")

    @suspended.setter
    def suspended(self, suspended: bool) -> None:
        self._set("suspended", suspended)

    @property
    def keeps_refresh_tokens(self) -> bool:
        """True if a refresh token works many times, and the token endpoint returns no new one."""
        return self._is_set("keeps_refresh_tokens")

    @keeps_refresh_tokens.setter
    def keeps_refresh_tokens(self, keeps: bool) -> None:
        self._set("keeps_refresh_tokens", keeps)

    def _is_set(self, name: str) -> bool:
        return bool(self._read("select 1 from settings where name = ?", name))

    def _set(self, name: str, value: bool) -> None:
        self._write("delete from settings where name = ?", name)
        if value:
            self._insert("settings", name=name, value="yes")

    def store_statuses(self) -> dict[StatusContext, list[dict[str, str]]]:
        """Return the store's own lists: ``slug``, ``name`` and ``color`` of each status, by context."""
        lists: dict[StatusContext, list[dict[str, str]]] = {context: [] for context in StatusContext}
        for row in self._read("select * from statuses order by context, position"):
            lists[StatusContext(row["context"])].append({key: row[key] for key in ("slug", "name", "color")})
        return lists

    def replace_statuses(self, lists: Mapping[StatusContext, Iterable[Mapping[str, str]]]) -> None:
        """Replace the store's lists."""
        rows = [
            (
                context.value,
                position,
                status["slug"],
                status.get("name") or status["slug"],
                status.get("color") or "#8A9CA0FF",
            )
            for context, statuses in lists.items()
            for position, status in enumerate(statuses)
        ]
        with self._lock:
            self._write("begin")
            self._write("delete from statuses")
            self._connection.executemany("insert or replace into statuses values (?, ?, ?, ?, ?)", rows)
            self._write("commit")

    # --- subscriptions ---

    def subscriptions(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the subscriptions to an event, or all of them."""
        rows = self._read("select * from subscriptions where ? is null or event = ? order by rowid", event, event)
        return [{name: row[name] for name in ("id", "event", "target_url")} for row in rows]

    def add_subscription(self, subscription_id: str, event: str, target_url: str) -> None:
        """Subscribe an address to an event."""
        self._insert("subscriptions", id=subscription_id, event=event, target_url=target_url)

    def delete_subscription(self, subscription_id: str) -> bool:
        """End a subscription, and return whether there was one."""
        with self._lock:
            is_known = bool(self._read("select 1 from subscriptions where id = ?", subscription_id))
            self._write("delete from subscriptions where id = ?", subscription_id)
        return is_known

    def count_failure(self, subscription_id: str, *, is_failure: bool) -> int:
        """Count a delivery, and return how many in a row have failed."""
        with self._lock:
            change = "failures + 1" if is_failure else "0"
            self._write(f"update subscriptions set failures = {change} where id = ?", subscription_id)
            rows = self._read("select failures from subscriptions where id = ?", subscription_id)
        return rows[0][0] if rows else 0

    def store_delivery(self, delivery_id: str, url: str, status: int, attempt: int) -> None:
        """Store the status of the answer to a delivery."""
        self._insert("deliveries", delivery_id=delivery_id, url=url, status=status, attempt=attempt)

    def deliveries(self) -> list[dict[str, Any]]:
        """Return ``delivery_id``, ``url``, ``attempt`` and the answer's ``status`` of all deliveries, in order."""
        columns = "delivery_id, url, status, attempt"
        return [dict(row) for row in self._read(f"select {columns} from deliveries order by number")]

    # --- tokens ---

    def issue_token(
        self,
        scopes: Iterable[str] = ALL_SCOPES,
        expires_in: float = TOKEN_SECONDS,
        access_token: str | None = None,
    ) -> dict[str, Any]:
        """
        Issue an access token with its refresh token, and return the answer of the token endpoint.

        The tokens that replace it have the same lifetime.
        """
        issued = {
            "token_type": "Bearer",
            "expires_in": expires_in,
            "access_token": access_token or secrets.token_urlsafe(32),
            "refresh_token": secrets.token_urlsafe(32),
        }
        self._insert(
            "tokens",
            access_token=issued["access_token"],
            refresh_token=issued["refresh_token"],
            scopes=" ".join(scopes),
            lifetime=expires_in,
            expires_at=self._clock() + expires_in,
        )
        return issued

    def revoke_token(self, access_token: str) -> None:
        """Revoke a token, and its refresh token."""
        self._write("delete from tokens where access_token = ?", access_token)

    def scopes(self, access_token: str) -> set[str] | None:
        """Return the scopes of a token, or ``None`` if it is unknown, revoked or expired."""
        rows = self._read(
            "select scopes from tokens where access_token = ? and expires_at > ?", access_token, self._clock()
        )
        return set(rows[0]["scopes"].split()) if rows else None

    def issue_code(self, scopes: Iterable[str] = ALL_SCOPES, redirect_uri: str | None = None) -> str:
        """Issue the code of a seller's consent, for one token, and for one redirect URI if given."""
        code = secrets.token_urlsafe(16)
        self._insert("codes", code=code, scopes=" ".join(scopes), redirect_uri=redirect_uri)
        return code

    def exchange_code(self, code: str, redirect_uri: str | None = None) -> dict[str, Any]:
        """Exchange a code for a token, once."""
        with self._lock:
            rows = self._read("select * from codes where code = ?", code)
            if not rows or rows[0]["redirect_uri"] not in (None, redirect_uri):
                raise InvalidGrantError
            self._write("delete from codes where code = ?", code)
            return self.issue_token(rows[0]["scopes"].split())

    def exchange_refresh_token(self, refresh_token: str) -> dict[str, Any]:
        """Exchange a refresh token for a new token, once; this ends the old access token."""
        with self._lock:
            rows = self._read("select * from tokens where refresh_token = ?", refresh_token)
            if not rows:
                raise InvalidGrantError
            self._write("delete from tokens where refresh_token = ?", refresh_token)
            issued = self.issue_token(rows[0]["scopes"].split(), rows[0]["lifetime"])
            if self.keeps_refresh_tokens:
                self._write(
                    "update tokens set refresh_token = ? where access_token = ?", refresh_token, issued["access_token"]
                )
                del issued["refresh_token"]
            return issued

    # --- records ---

    def log_request(self, method: str, path: str, query: str, body: str, status: int | None) -> Request:
        """Add a request to :meth:`requests`, and return it; its status is ``None`` if the connection was dropped."""
        with self._lock:
            self._insert("requests", method=method, path=path, query=query, body=body, status=status, at=_now())
            return Request(**self._read("select * from requests order by number desc limit 1")[0])

    def requests(self) -> list[dict[str, Any]]:
        """Return all requests, the oldest first."""
        return [dict(row) for row in self._read("select * from requests order by number")]

    def history(self, order_id: str | None = None) -> list[dict[str, Any]]:
        """Return all updates of statuses, the oldest first."""
        rows = self._read("select * from history where ? is null or order_id = ? order by number", order_id, order_id)
        return [dict(row) for row in rows]

    def _read(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def _insert(self, table: str, **values: Any) -> None:
        columns, places = ", ".join(values), ", ".join("?" * len(values))
        self._write(f"insert into {table} ({columns}) values ({places})", *values.values())

    def _write(self, statement: str, *values: Any) -> None:
        with self._lock:
            self._connection.execute(statement, values)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
