"""
The vocabulary of an order: its three status contexts, their documented slugs, and how to read them.

The facts come from YouCan's pages ``orders/statuses`` and ``entities/order`` under
https://developer.youcan.shop/store-admin.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any, TypeGuard

from airflow_provider_youcan.exceptions import YouCanInvalidInputError, YouCanUnknownStatusError

__all__ = [
    "OrderStatuses",
    "StatusContext",
    "check_flag",
    "check_known_status",
    "check_order_id",
    "check_status",
    "closest_statuses",
    "is_order_id",
    "is_text",
    "order_page",
]


class StatusContext(str, Enum):
    """
    Which of an order's three independent statuses is meant.

    A member is its own value: ``StatusContext.SHIPPING == "shipping"``.
    """

    GENERAL = "general"
    SHIPPING = "shipping"
    PAYMENT = "payment"

    __str__ = str.__str__

    @property
    def path(self) -> str:
        """What follows ``/orders/{id}`` in the path that sets this status."""
        return "/status" if self is StatusContext.GENERAL else f"/status/{self.value}"

    @property
    def documented_slugs(self) -> tuple[str, ...]:
        """The slugs that YouCan documents for this context; a store may have more."""
        return _DOCUMENTED_SLUGS[self]

    @classmethod
    def _missing_(cls, value: object) -> StatusContext:
        raise YouCanInvalidInputError(
            f"{value!r} is not a status context: use one of {', '.join(repr(context.value) for context in cls)}."
        )


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
        if not isinstance(context, StatusContext):
            context = StatusContext(context)
        slug: str | None = getattr(self, context.value)
        return slug

    @classmethod
    def from_order(cls, order: Mapping[str, Any]) -> OrderStatuses:
        """
        Read the statuses from an order as YouCan sends it.

        A slug stands in ``status_object.slug``; answers without it have ``status_text``, and some a
        top-level string. Numbers are not documented and translated labels are not slugs (``status_new``,
        ``payment_status_new``), so neither is ever taken for a status.

        :param order: the payload of ``GET /orders/{id}`` or one item of ``GET /orders``.
        """
        shipping, payment = order.get("shipping"), order.get("payment")
        return cls(
            general=_read_slug(order, order.get("status")),
            shipping=_read_slug(shipping, order.get("shipping_status")),
            payment=_read_slug(payment, order.get("payment_status")),
        )


def _read_slug(part: Any, top_level: Any) -> str | None:
    slug, texts = None, [top_level]
    if isinstance(part, Mapping):
        status_object = part.get("status_object")
        slug = status_object.get("slug") if isinstance(status_object, Mapping) else None
        texts = [part.get("status_text"), top_level]
    if isinstance(slug, str) and slug.strip():
        return slug
    # A number stays a number where it is written as text.
    return next((text for text in texts if isinstance(text, str) and text.strip() and not text.strip().isdigit()), None)


_ORDER_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


def check_order_id(order_id: object) -> str:
    """
    Return ``order_id`` if it may stand in a path, or refuse it before anything is sent.

    :param order_id: a string of 1 to 100 ASCII letters, digits, ``-`` and ``_``.
    :raises YouCanInvalidInputError: for anything else, and for what an empty XCom renders to.
    """
    if _is_empty(order_id):
        raise YouCanInvalidInputError(
            f"The order id is empty ({order_id!r}); nothing was sent: look at where it came from, "
            "often an upstream task that returned nothing."
        )
    if not isinstance(order_id, str):
        raise YouCanInvalidInputError(
            f"The order id is of type {type(order_id).__name__}, not a string; nothing was sent: "
            "give the order's UUID as text."
        )
    if not is_order_id(order_id):
        raise YouCanInvalidInputError(
            f"{_shorten(order_id)} is not an order id; nothing was sent: give the order's UUID "
            "(1 to 100 letters, digits, '-' and '_'), not its ref or an address."
        )
    return order_id


def is_order_id(order_id: object) -> TypeGuard[str]:
    """Tell whether ``order_id`` may stand in a path."""
    return isinstance(order_id, str) and not _is_empty(order_id) and _ORDER_ID.fullmatch(order_id) is not None


def check_status(status: object) -> str:
    """
    Return ``status`` if it says anything, or refuse it before anything is sent.

    :param status: a string in any script that is more than white space.
    :raises YouCanInvalidInputError: for anything else, and for what an empty XCom renders to.
    """
    if isinstance(status, str) and not _is_empty(status) and is_text(status):
        return status
    raise YouCanInvalidInputError(
        f"The status is {_shorten(status)}, which is no status; nothing was sent: give a slug such as 'paid', "
        "or look at the upstream task that it came from."
    )


def is_text(value: str) -> bool:
    """Tell whether a string can be sent and logged: half of a character (a lone surrogate) can't."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_empty(value: object) -> bool:
    # "None" is what a template makes of an XCom that isn't there.
    return value is None or (isinstance(value, str) and value.strip() in ("", "None"))


def check_flag(name: str, value: object) -> bool:
    """
    Return a plain ``True`` or ``False``, or refuse what only passes for one.

    :raises YouCanInvalidInputError: for anything else: the text "False" is as good as true to Python, and so is
        an XCom that will say no.
    """
    if not isinstance(value, bool):
        raise YouCanInvalidInputError(f"{name} is {value!r}: give True or False; it is not templated.")
    return value


def check_known_status(status: str, context: StatusContext, store_slugs: Iterable[str]) -> None:
    """
    Refuse a status that is neither documented nor in the store's own list.

    YouCan would not refuse it: it would put the text on the order as a label.

    :param status: what is to be set.
    :param context: which of the three statuses.
    :param store_slugs: the slugs of that context in the store's own list.
    :raises YouCanUnknownStatusError: with the closest known slugs.
    """
    known = list(dict.fromkeys([*context.documented_slugs, *store_slugs]))
    if status in known:
        return
    closest = closest_statuses(status, known)
    hint = f"did you mean {' or '.join(map(_shorten, closest))}?" if closest else f"known are {_some(known)}."
    raise YouCanUnknownStatusError(
        f"{_shorten(status)} is not a {context} status of this store, so nothing was sent: {hint} "
        "Set allow_custom_label=True if the label is meant.",
        closest=closest,
    )


def closest_statuses(status: str, known: Iterable[str]) -> list[str]:
    """Return up to three of the ``known`` slugs that resemble ``status``, best first, letter case aside."""
    by_folded = {slug.casefold(): slug for slug in reversed(list(known))}
    folded = status.strip().casefold()
    matches = [folded] if folded in by_folded else get_close_matches(folded[:100], by_folded, n=3)
    return [by_folded[match] for match in matches]


def order_page(order_id: str) -> str:
    """Return the address of an order's page in the seller area."""
    return f"https://seller-area.youcan.shop/admin/orders/{order_id}"


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _some(slugs: list[str]) -> str:
    shown = ", ".join(map(_shorten, slugs[:12]))
    return f"{shown} and {len(slugs) - 12} more" if len(slugs) > 12 else shown
