"""The shop itself: its orders, statuses and tokens, and what happened to them, in SQLite."""

from __future__ import annotations

import json
import random
import secrets
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow_provider_youcan.orders import StatusContext

__all__ = ["ACCESS_TOKEN", "ALL_SCOPES", "CLIENT_ID", "CLIENT_SECRET", "InvalidGrantError", "Request", "Shop"]

ACCESS_TOKEN = "sandbox-access-token"
CLIENT_ID = "sandbox-client"
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
"""How long a token lives, as YouCan's page ``introduction/oauth`` shows it: 15 days less a second."""

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

_OWN_STATUSES = {
    StatusContext.GENERAL: {
        "confirmed": "Confirmée",
        "no-answer": "Pas de réponse",
        "postponed": "Reportée",
        "مؤكد": "مؤكد",
    },
    StatusContext.SHIPPING: {
        "out-for-delivery": "En cours de livraison",
        "returned": "Retournée",
        "تم التسليم": "تم التسليم",
    },
    StatusContext.PAYMENT: {"collected-by-courier": "Encaissé par le livreur"},
}
_NAMES = (
    "Fatima Zahra El Amrani",
    "Youssef Benali",
    "Khadija Ouazzani",
    "Mehdi Tazi",
    "أمينة العلوي",
    "محمد بن يوسف",
    "سارة الفاسي",
    "Amélie Rousseau",
    "Hélène Lefèvre",
    "Omar Haddad",
    "ليلى المنصوري",
    "Rachid Chraïbi",
)
_CITIES = ("Casablanca", "Rabat", "Fès", "Marrakech", "Tanger", "الدار البيضاء", "Agadir", "Tunis", "Alger", "وجدة")
_PRODUCTS = (
    ("Babouches en cuir", 180),
    ("Huile d'argan 100 ml", 120),
    ("Théière en inox", 240),
    ("قفطان مطرز", 690),
    ("Tapis berbère 80×150", 950),
    ("Savon noir", 45),
)
# Where an order may stand: most are fresh, some on their way, a few done.
_STANDS = (
    (("open", "unfulfilled", "pending"), 50),
    (("confirmed", "unfulfilled", "pending"), 15),
    (("no-answer", "unfulfilled", "pending"), 8),
    (("processed", "shipped", "pending"), 15),
    (("closed", "fulfilled", "paid"), 8),
    (("canceled-by-seller", "canceled", "unpaid"), 4),
)


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
    :param orders: how many orders a new shop is given; an existing file keeps its own (default 200).
    :param seed: the same seed makes the same orders, ids included (default 0).
    :param clock: returns the time in seconds since 1970, for the tokens (default the machine's).
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
        # A sandbox may lose its last second when the machine dies, but not when it is killed.
        self._connection.executescript("pragma journal_mode = wal; pragma synchronous = off;" + _SCHEMA)
        if not self._read("select 1 from settings where name = 'seeded'"):
            self.issue_token(access_token=ACCESS_TOKEN, expires_in=float("inf"))
            self.replace_statuses(_default_statuses())
            self.add_orders(orders, seed)
            self._write("insert into settings values ('seeded', 'yes')")

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    # --- orders ---

    def add_orders(self, count: int, seed: int = 0) -> list[str]:
        """Add ``count`` made-up orders, and return their ids."""
        number = self._read("select count(*) from orders")[0][0]
        rng = random.Random(f"{seed} {number}")
        rows = [_make_order(rng, number + offset) for offset in range(1, count + 1)]
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
        """Set one status, in a list or not, as YouCan does; return whether there is such an order."""
        context = StatusContext(context)
        column = _COLUMNS[context]
        with self._lock:
            row = self.order(order_id)
            if row is None:
                return False
            now = _now()
            self._write(f"update orders set {column} = ?, updated_at = ? where id = ?", status, now, order_id)
            self._write(
                "insert into history (order_id, context, before, after, at) values (?, ?, ?, ?, ?)",
                order_id,
                context.value,
                row[column],
                status,
                now,
            )
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
        """Whether the store is suspended: every request is then answered with 402."""
        return self._is_set("suspended")

    @suspended.setter
    def suspended(self, suspended: bool) -> None:
        self._set("suspended", suspended)

    @property
    def keeps_refresh_tokens(self) -> bool:
        """Whether a refresh token works again and again, and no other comes with the token that it brings."""
        return self._is_set("keeps_refresh_tokens")

    @keeps_refresh_tokens.setter
    def keeps_refresh_tokens(self, keeps: bool) -> None:
        self._set("keeps_refresh_tokens", keeps)

    def _is_set(self, name: str) -> bool:
        return bool(self._read("select 1 from settings where name = ?", name))

    def _set(self, name: str, value: bool) -> None:
        self._write("delete from settings where name = ?", name)
        if value:
            self._write("insert into settings values (?, 'yes')", name)

    def store_statuses(self) -> dict[StatusContext, list[dict[str, str]]]:
        """Return the store's own lists: ``slug``, ``name`` and ``color`` of each status, by context."""
        lists: dict[StatusContext, list[dict[str, str]]] = {context: [] for context in StatusContext}
        for row in self._read("select * from statuses order by context, position"):
            lists[StatusContext(row["context"])].append({key: row[key] for key in ("slug", "name", "color")})
        return lists

    def replace_statuses(self, lists: Mapping[StatusContext, Iterable[Mapping[str, str]]]) -> None:
        """Put other lists in the place of the store's own."""
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
        """Return the subscriptions to an event, or to any."""
        rows = self._read("select * from subscriptions where ? is null or event = ? order by rowid", event, event)
        return [{name: row[name] for name in ("id", "event", "target_url")} for row in rows]

    def add_subscription(self, subscription_id: str, event: str, target_url: str) -> None:
        """Subscribe an address to an event."""
        self._write(
            "insert into subscriptions (id, event, target_url) values (?, ?, ?)", subscription_id, event, target_url
        )

    def delete_subscription(self, subscription_id: str) -> bool:
        """End a subscription, and return whether there was one."""
        with self._lock:
            is_known = bool(self._read("select 1 from subscriptions where id = ?", subscription_id))
            self._write("delete from subscriptions where id = ?", subscription_id)
        return is_known

    def count_failure(self, subscription_id: str, *, is_failure: bool) -> int:
        """Count how many deliveries in a row have failed."""
        with self._lock:
            change = "failures + 1" if is_failure else "0"
            self._write(f"update subscriptions set failures = {change} where id = ?", subscription_id)
            rows = self._read("select failures from subscriptions where id = ?", subscription_id)
        return rows[0][0] if rows else 0

    def keep_delivery(self, delivery_id: str, url: str, status: int, attempt: int) -> None:
        """Keep how a delivery was answered."""
        self._write(
            "insert into deliveries (delivery_id, url, status, attempt) values (?, ?, ?, ?)",
            delivery_id,
            url,
            status,
            attempt,
        )

    def deliveries(self) -> list[dict[str, Any]]:
        """Return of each delivery ``delivery_id``, ``url``, ``attempt``, and the ``status`` of its answer, in order."""
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
        Issue an access token and the refresh token that goes with it, as the token endpoint answers.

        The tokens that it is renewed to live as long as it does.
        """
        issued = {
            "token_type": "Bearer",
            "expires_in": expires_in,
            "access_token": access_token or secrets.token_urlsafe(32),
            "refresh_token": secrets.token_urlsafe(32),
        }
        self._write(
            "insert into tokens values (?, ?, ?, ?, ?)",
            issued["access_token"],
            issued["refresh_token"],
            " ".join(scopes),
            expires_in,
            self._clock() + expires_in,
        )
        return issued

    def revoke_token(self, access_token: str) -> None:
        """Make a token, and its refresh token, good for nothing."""
        self._write("delete from tokens where access_token = ?", access_token)

    def scopes(self, access_token: str) -> set[str] | None:
        """Return what a token may do, or ``None`` where it is unknown, revoked or expired."""
        rows = self._read(
            "select scopes from tokens where access_token = ? and expires_at > ?", access_token, self._clock()
        )
        return set(rows[0]["scopes"].split()) if rows else None

    def issue_code(self, scopes: Iterable[str] = ALL_SCOPES, redirect_uri: str | None = None) -> str:
        """Issue the code that a seller's consent brings, good for one token, and for one redirect URI if given."""
        code = secrets.token_urlsafe(16)
        self._write("insert into codes values (?, ?, ?)", code, " ".join(scopes), redirect_uri)
        return code

    def exchange_code(self, code: str, redirect_uri: str | None = None) -> dict[str, Any]:
        """Give a token for a code, once."""
        with self._lock:
            rows = self._read("select * from codes where code = ?", code)
            if not rows or rows[0]["redirect_uri"] not in (None, redirect_uri):
                raise InvalidGrantError
            self._write("delete from codes where code = ?", code)
            return self.issue_token(rows[0]["scopes"].split())

    def exchange_refresh_token(self, refresh_token: str) -> dict[str, Any]:
        """Give a new token for a refresh token, once; the old access token dies with it."""
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

    # --- what happened ---

    def log_request(self, method: str, path: str, query: str, body: str, status: int | None) -> Request:
        """Add a request to :meth:`requests`, and return it."""
        with self._lock:
            self._write(
                "insert into requests (method, path, query, body, status, at) values (?, ?, ?, ?, ?, ?)",
                method,
                path,
                query,
                body,
                status,
                _now(),
            )
            return Request(**self._read("select * from requests order by number desc limit 1")[0])

    def requests(self) -> list[dict[str, Any]]:
        """Return all that was asked, the oldest first."""
        return [dict(row) for row in self._read("select * from requests order by number")]

    def history(self, order_id: str | None = None) -> list[dict[str, Any]]:
        """Return all updates that the shop took, the oldest first."""
        rows = self._read("select * from history where ? is null or order_id = ? order by number", order_id, order_id)
        return [dict(row) for row in rows]

    def _read(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def _write(self, statement: str, *values: Any) -> None:
        with self._lock:
            self._connection.execute(statement, values)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _default_statuses() -> dict[StatusContext, list[dict[str, str]]]:
    return {
        context: [
            *({"slug": slug, "name": slug.replace("-", " ").capitalize()} for slug in context.documented_slugs),
            *({"slug": slug, "name": name} for slug, name in _OWN_STATUSES[context].items()),
        ]
        for context in StatusContext
    }


def _make_order(rng: random.Random, number: int) -> dict[str, Any]:
    stands, weights = zip(*_STANDS, strict=True)
    general, shipping, payment = rng.choices(stands, weights)[0]
    created_at = datetime(2026, 1, 1, 8, tzinfo=timezone.utc) + timedelta(minutes=7 * number)
    product, price = rng.choice(_PRODUCTS)
    quantity = rng.choice((1, 1, 1, 2, 3))
    name, city = rng.choice(_NAMES), rng.choice(_CITIES)
    return {
        "id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "ref": f"{number:03d}",
        "created_at": created_at.isoformat(timespec="seconds"),
        "updated_at": created_at.isoformat(timespec="seconds"),
        "total": price * quantity,
        "currency": "MAD",
        "notes": rng.choice(("", "", "", "Appeler avant la livraison", "التوصيل بعد السادسة")),
        "gateway": "Cash on Delivery",
        "general_status": general,
        "shipping_status": shipping,
        "payment_status": payment,
        "customer": json.dumps(
            {
                "full_name": name,
                "phone": f"+2126{rng.randrange(10**8):08d}",
                "email": f"customer{number}@example.com",
                "city": city,
                "address": f"{rng.randrange(1, 200)}, rue {rng.randrange(1, 60)}, {city}",
            },
            ensure_ascii=False,
        ),
        "variants": json.dumps([{"name": product, "price": price, "quantity": quantity}], ensure_ascii=False),
    }
