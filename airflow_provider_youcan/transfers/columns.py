"""The columns that are kept of an order. Nothing of the customer, unless a user names it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from airflow_provider_youcan.checks import normalize_id
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.orders import OrderStatuses, StatusContext, read_time
from airflow_provider_youcan.reconciliation.warehouse import make_storable
from airflow_provider_youcan.texts import shorten

__all__ = ["COLUMNS", "Counts", "OrderColumns", "Row", "check_extra_columns"]

Row: TypeAlias = tuple[Any, ...]
"""Texts, numbers, datetimes in UTC and ``None``, in the order of the columns. The first one is the order's id."""

COLUMNS = {
    "order_id": "varchar(100)",
    "ref": "varchar(100)",
    "status": "text",
    "shipping_status": "text",
    "payment_status": "text",
    "created_at": "timestamp",
    "updated_at": "timestamp",
    "total": "decimal(20, 4)",
    "currency": "varchar(20)",
    "payment_gateway": "text",
    "tracking_number": "text",
    "store": "varchar(250)",
    "read_at": "timestamp",
}
"""The columns, each with its type in SQL."""

_SUB_RESOURCES = ("customer", "variants", "discount", "coupon", "comments", "refunds", "referenced_order")
"""The parts of an order that YouCan sends only on request, other than ``payment`` and ``shipping``."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_PATH = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_MAX_TOTAL = 1e15


def check_extra_columns(extra_columns: object) -> dict[str, tuple[str, ...]]:
    """
    Return further columns, each with the path to its value in an order.

    :param extra_columns: a mapping from columns to paths such as ``shipping.address.city``; ``None`` for none.
    :raises YouCanInvalidInputError: for anything else, and for a column that there is already.
    """
    if extra_columns is None:
        return {}
    if not isinstance(extra_columns, Mapping):
        raise YouCanInvalidInputError(
            f"extra_columns is {shorten(extra_columns)}: give a mapping from columns to paths in an order, such as "
            "{'city': 'shipping.address.city'}."
        )
    taken = set(COLUMNS)
    for name, path in extra_columns.items():
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise YouCanInvalidInputError(
                f"extra_columns has the column {shorten(name)}: give a name of letters, digits and '_'."
            )
        if name.lower() in taken:
            raise YouCanInvalidInputError(f"extra_columns has the column {name!r}, which is there already: rename it.")
        if not isinstance(path, str) or _PATH.fullmatch(path) is None:
            raise YouCanInvalidInputError(
                f"extra_columns[{name!r}] is {shorten(path)}: give a path in an order, such as 'shipping.address.city'."
            )
        taken.add(name.lower())
    return {name: tuple(path.split(".")) for name, path in extra_columns.items()}


@dataclass
class Counts:
    """The counts of the orders that were read so far."""

    orders: int = 0
    unreadable: int = 0
    """The number of statuses that could not be read."""
    oldest: datetime | None = None
    newest: datetime | None = None


class OrderColumns:
    """
    Makes rows of orders.

    :param extra: further columns, as :func:`check_extra_columns` returns them.
    """

    def __init__(self, extra: Mapping[str, tuple[str, ...]]) -> None:
        self.types = {**COLUMNS, **dict.fromkeys(extra, "text")}
        """All columns, each with its type in SQL."""
        self.include = ("payment", "shipping", *sorted({path[0] for path in extra.values()} & {*_SUB_RESOURCES}))
        """The sub-resources that the columns come from."""
        self.counts = Counts()
        self.store: str | None = None
        """The store's slug, once it is known."""
        self.known: Mapping[StatusContext, Collection[str]] | None = None
        """For each context the known slugs: any other text in YouCan's list is a translated label."""
        self._extra = dict(extra)

    def make_row(self, order: Mapping[str, Any], read_at: datetime) -> Row:
        """
        Return the row of an order, and count it.

        :param order: as YouCan sends it.
        :param read_at: when it was asked for.
        :raises YouCanInvalidInputError: if a path of ``extra_columns`` leads to more than one value.
        """
        statuses = OrderStatuses.from_order(order, self.known)
        slugs = [_read_slug(statuses[context]) for context in StatusContext]
        created_at = read_time(order.get("created_at"))
        payment, shipping = _mapping(order.get("payment")), _mapping(order.get("shipping"))
        self._count(slugs, created_at)
        return (
            make_storable(normalize_id(order["id"])),
            _read_text(order.get("ref")),
            *slugs,
            created_at,
            read_time(order.get("updated_at")),
            _read_number(order.get("total")),
            _read_text(order.get("currency")),
            _read_text(payment.get("gateway_type_text")),
            _read_text(shipping.get("tracking_number")),
            self.store,
            read_at,
            *[_read_path(order, name, path) for name, path in self._extra.items()],
        )

    def _count(self, slugs: list[str | None], created_at: datetime | None) -> None:
        counts = self.counts
        counts.orders += 1
        counts.unreadable += slugs.count(None)
        if created_at is not None:
            counts.oldest = created_at if counts.oldest is None else min(counts.oldest, created_at)
            counts.newest = created_at if counts.newest is None else max(counts.newest, created_at)


def _read_slug(slug: str | None) -> str | None:
    # A slug that the warehouse would alter is stored as null.
    return None if slug is None or make_storable(slug) != slug else slug


def _read_text(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    return make_storable(str(value)) or None


def _read_number(value: object) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number) or abs(number) >= _MAX_TOTAL:
        return None
    return int(number) if number.is_integer() else number


def _read_path(order: Mapping[str, Any], name: str, path: tuple[str, ...]) -> str | None:
    value: Any = order
    for key in path:
        if isinstance(value, list) and key.isdecimal():
            value = value[int(key)] if int(key) < len(value) else None
        else:
            value = _mapping(value).get(key)
    if isinstance(value, (dict, list)):
        if not value:
            return None  # PHP's empty object
        raise YouCanInvalidInputError(
            f"extra_columns[{name!r}] leads to more than one value: name one of them, such as "
            f"'{'.'.join(path)}.city'; nothing of this order was written."
        )
    if isinstance(value, bool):
        return str(value).lower()
    return _read_text(value)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
