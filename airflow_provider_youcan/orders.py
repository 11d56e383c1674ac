"""
The vocabulary of an order: its three status contexts, their documented slugs, and how to read them.

The facts come from YouCan's pages ``orders/statuses`` and ``entities/order`` under
https://developer.youcan.shop/store-admin.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from operator import attrgetter
from typing import Any
from unicodedata import normalize

__all__ = ["OrderStatuses", "StatusContext", "is_text", "normalize_text", "order_page", "read_time"]


class StatusContext(str, Enum):
    """
    One of an order's three independent statuses.

    A member is its own value: ``StatusContext.SHIPPING == "shipping"``.
    """

    GENERAL = "general"
    SHIPPING = "shipping"
    PAYMENT = "payment"

    __str__ = str.__str__
    __hash__ = str.__hash__  # Enum's own is written in Python, and these are keys of mappings everywhere

    @property
    def path(self) -> str:
        """The end of the path that sets this status, after ``/orders/{id}``."""
        return _PATHS[self]

    @property
    def documented_slugs(self) -> tuple[str, ...]:
        """The slugs that YouCan documents for this context; a store may have more."""
        return _DOCUMENTED_SLUGS[self]

    @classmethod
    def _missing_(cls, value: object) -> StatusContext:
        # Imported here because Airflow comes with it, and the sandbox starts without Airflow.
        from airflow_provider_youcan.exceptions import YouCanInvalidInputError

        raise YouCanInvalidInputError(
            f"{value!r} is not a status context: use one of {', '.join(repr(context.value) for context in cls)}."
        )


_PATHS = {
    StatusContext.GENERAL: "/status",
    StatusContext.SHIPPING: "/status/shipping",
    StatusContext.PAYMENT: "/status/payment",
}
_DOCUMENTED_SLUGS = {
    StatusContext.GENERAL: ("open", "closed", "processed", "canceled-by-seller"),
    StatusContext.SHIPPING: ("unfulfilled", "processing", "shipped", "fulfilled", "canceled"),
    StatusContext.PAYMENT: ("pending", "paid", "captured", "unpaid", "refunded"),
}


@dataclass(frozen=True, slots=True)
class OrderStatuses:
    """
    The three statuses that an order holds, each as its slug.

    ``None`` means that the status could not be read. It is neither equal nor unequal to any target.
    """

    general: str | None = None
    shipping: str | None = None
    payment: str | None = None

    def __getitem__(self, context: StatusContext | str) -> str | None:
        """Return the slug of one context, ``None`` where it could not be read."""
        read = _READ_STATUS.get(context) or _READ_STATUS[StatusContext(context)]
        return read(self)

    @classmethod
    def from_order(
        cls, order: Mapping[str, Any], known: Mapping[StatusContext, Collection[str]] | None = None
    ) -> OrderStatuses:
        """
        Read the statuses from an order as YouCan sends it.

        A slug stands in ``status_object.slug``; answers without it have ``status_text``, and some a
        top-level string. Numbers are not documented and translated labels are not slugs (``status_new``,
        ``payment_status_new``), so neither is ever taken for a status.

        :param order: the payload of ``GET /orders/{id}`` or one item of ``GET /orders``.
        :param known: for each context the slugs that a text is believed to be, because it may be a translated label;
            ``None`` believes any (default).
        """
        shipping, payment = order.get("shipping"), order.get("payment")
        general_known, shipping_known, payment_known = (None, None, None) if known is None else known.values()
        return cls(
            _read_slug(order, order.get("status"), general_known),
            _read_slug(shipping, order.get("shipping_status"), shipping_known),
            _read_slug(payment, order.get("payment_status"), payment_known),
        )


_READ_STATUS: dict[str, Callable[[OrderStatuses], str | None]] = {
    context: attrgetter(context.value) for context in StatusContext
}


_AROUND = (
    # White space,
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028"
    "\u2029\u202f\u205f\u3000"
    # and marks.
    "\u200b\u200c\u200d\u2060\ufeff\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
"""White space of any script, and the marks of no width and of direction that spreadsheets put around a text."""


def normalize_text(text: str) -> str:
    """
    Return a text in the form in which ids, refs, words and names are compared: NFC, and nothing invisible around it.

    Letter case stays.
    """
    return text.strip() if text.isascii() else normalize("NFC", text.strip(_AROUND)).strip(_AROUND)


def is_text(value: str) -> bool:
    """Return whether a string can be sent and logged: half of a character (a lone surrogate) can't."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_slug(part: Any, top_level: Any, known: Collection[str] | None) -> str | None:
    texts = [top_level]
    if isinstance(part, dict):
        status_object = part.get("status_object")
        slug = status_object.get("slug") if isinstance(status_object, dict) else None
        if isinstance(slug, str) and slug.strip() and (slug.isascii() or is_text(slug)):
            return slug
        texts = [part.get("status_text"), top_level]
    # A number may be written as text.
    texts = [text for text in texts if isinstance(text, str) and text.strip() and not text.strip().isdigit()]
    text = next(filter(is_text, texts), None)
    return text if known is None or text in known else None


def read_time(value: object) -> datetime | None:
    """Return a time of YouCan's in UTC, ``None`` for any other value. A time without a zone counts as UTC."""
    if not isinstance(value, str):
        return None
    try:
        # Python 3.10 knows no Z.
        moment = datetime.fromisoformat(f"{value[:-1]}+00:00" if value.endswith(("Z", "z")) else value)
        return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


def order_page(order_id: str) -> str:
    """Return the address of an order's page in the seller area."""
    return f"https://seller-area.youcan.shop/admin/orders/{order_id}"
