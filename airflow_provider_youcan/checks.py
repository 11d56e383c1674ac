"""
Bad input, refused before anything is sent: one function for each kind of value, used by hooks, operators and sensor.

Every function returns the value in the form in which it is used, or raises :class:`YouCanInvalidInputError` with a
sentence that says what to give instead.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from difflib import get_close_matches
from typing import Any, TypeGuard
from unicodedata import category

from airflow_provider_youcan.exceptions import YouCanInvalidInputError, YouCanUnknownStatusError
from airflow_provider_youcan.orders import StatusContext, is_text, normalize_text
from airflow_provider_youcan.texts import join_slugs, list_some, shorten

__all__ = [
    "check_contexts",
    "check_known_status",
    "check_number",
    "check_order_id",
    "check_slugs",
    "check_status_text",
    "closest_statuses",
    "describe_bounds",
    "find_same",
    "is_empty",
    "is_order_id",
    "is_uuid",
    "known_statuses",
    "likely_typos",
    "normalize_id",
]

# --- orders and statuses ----------------------------------------------------------------------------------

_MAX_STATUS = 255
"""Laravel's usual length of a text column; that YouCan's has it is assumed."""

_CONTROL = ("Cc", "Zl", "Zp")
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_NULLS = ("", "none", "null", "nan", "nat", "<na>", "undefined", "nil")

_SEPARATED = re.compile(r"\s*[\w-]+\s*([,;|]\s*[\w-]+\s*)+")
"""Words without a space in them, with the separators of lists between them; a label may have a comma in a sentence."""

_ORDER_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_YOUCANS_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def check_order_id(order_id: object, show: Callable[[object], str] | None = None) -> str:
    """
    Return ``order_id`` if it may stand in a path. A UUID is returned in lower case, as YouCan writes it.

    :param order_id: a string of 1 to 100 ASCII letters, digits, ``-`` and ``_``.
    :param show: how it is shown in an error (default :func:`shorten`).
    :raises YouCanInvalidInputError: for anything else, and for what an empty XCom renders to.
    """
    if isinstance(order_id, str) and _YOUCANS_UUID.fullmatch(order_id):
        return order_id
    if is_empty(order_id):
        raise YouCanInvalidInputError(
            f"The order id is empty ({order_id!r})",
            advice="check where it comes from, often an upstream task that returned nothing.",
        )
    if not isinstance(order_id, str):
        raise YouCanInvalidInputError(
            f"The order id is of type {type(order_id).__name__}, not a string",
            advice="give the order's UUID as text.",
        )
    if not is_order_id(order_id):
        raise YouCanInvalidInputError(
            f"{(show or shorten)(order_id)} is not an order id",
            advice="give the order's UUID (1 to 100 letters, digits, '-' and '_'), not its ref or an address.",
        )
    return normalize_id(order_id)


def normalize_id(order_id: str) -> str:
    """Return an id in the form in which ids are compared: SQL Server, Oracle and others write UUIDs in capitals."""
    lowered = order_id.lower()
    return lowered if lowered != order_id and is_uuid(order_id) else order_id


def is_order_id(order_id: object) -> TypeGuard[str]:
    """Return whether ``order_id`` may stand in a path."""
    return isinstance(order_id, str) and not is_empty(order_id) and _ORDER_ID.fullmatch(order_id) is not None


def is_uuid(text: str) -> bool:
    """Return whether a text is a UUID, in any letter case."""
    return _UUID.fullmatch(text) is not None


def check_status_text(status: object, show: Callable[[object], str] | None = None) -> str:
    """
    Return ``status`` if it can be sent as a status: the one check for every path that sets one.

    :param status: a text of up to 255 characters in any script, which is more than white space, has no control
        character, and is not the text of a list, a mapping or a null.
    :param show: how it is shown in an error (default :func:`shorten`).
    :raises YouCanInvalidInputError: for anything else, and for what an empty XCom renders to.
    """
    if _is_status(status):
        return status
    raise YouCanInvalidInputError(
        f"The status is {(show or shorten)(status)}, which is not a status",
        advice="give a slug such as 'paid', or check the upstream task that it comes from.",
    )


def _is_status(value: object) -> TypeGuard[str]:
    if not isinstance(value, str) or len(value) > _MAX_STATUS or is_empty(value) or not is_text(value):
        return False
    has_control_character = any(category(one) in _CONTROL or one in _DIRECTIONS for one in value)
    return not has_control_character and not _is_text_of_a_list(value)


def check_known_status(
    status: str, context: StatusContext, known: Collection[str], show: Callable[[object], str] | None = None
) -> None:
    """
    Refuse a status that is not among the known ones. YouCan would put its text on the order as a label.

    :param status: what is to be set.
    :param context: which of the three statuses.
    :param known: the slugs that may be set, as :func:`known_statuses` returns them.
    :param show: how it is shown in an error (default :func:`shorten`).
    :raises YouCanUnknownStatusError: with the closest known slugs.
    """
    if status in known:
        return
    closest = closest_statuses(status, known)
    hint = f"did you mean {join_slugs(closest)}?" if closest else f"known are {list_some(list(known))}."
    others = [other for other in StatusContext if other is not context and status in other.documented_slugs]
    if others:
        hint = f"it is a {' and a '.join(others)} status. {hint[0].upper()}{hint[1:]}"
    raise YouCanUnknownStatusError(
        f"{(show or shorten)(status)} is not a {context} status of this store",
        advice=f"{hint} Set allow_custom_label=True if you want this text as a label.",
        closest=closest,
    )


def find_same(status: str, known: Iterable[str]) -> str | None:
    """Return the slug that is meant: the status itself if it is known, else the known one of the same normal form."""
    known = list(known)
    if status in known:
        return status
    form = normalize_text(status)
    return next((slug for slug in known if normalize_text(slug) == form), None)


def known_statuses(context: StatusContext, store_slugs: Iterable[str]) -> list[str]:
    """Return the documented slugs of a context and the store's own, each once."""
    return list(dict.fromkeys([*context.documented_slugs, *store_slugs]))


def closest_statuses(status: str, known: Iterable[str]) -> list[str]:
    """Return up to three of the ``known`` slugs that resemble ``status``, best first, letter case aside."""
    by_folded = {slug.casefold(): slug for slug in reversed(list(known))}
    folded = normalize_text(status).casefold()
    matches = [folded] if folded in by_folded else get_close_matches(folded[:100], by_folded, n=3)
    return [by_folded[match] for match in matches]


def likely_typos(slugs: Iterable[str], context: StatusContext) -> list[tuple[str, str]]:
    """
    Return the guard's slugs that look misspelt, each with the documented slug that it resembles.

    A guard may name junk labels, in order to repair them, so an unknown slug is no error. But a guard with a typo in
    it protects every order.
    """
    known = context.documented_slugs
    return [
        (slug, closest[0]) for slug in slugs if slug not in known and (closest := closest_statuses(slug, known)) != []
    ]


# --- guards, and other lists of slugs ---------------------------------------------------------------------


def check_slugs(name: str, slugs: object) -> tuple[str, ...]:
    """
    Return one slug, or several, as a tuple: the one reader of ``only_from``, ``target_status``, ``failure_status``.

    :param name: the argument that they come from, for the error message.
    :param slugs: a string, which is one slug, or a list, tuple or set of strings.
    :raises YouCanInvalidInputError: for none at all, for what an empty XCom renders to, and for the text of a list,
        which a template makes without ``render_template_as_native_obj``.
    """
    found = (slugs,) if isinstance(slugs, str) else slugs
    # Airflow's lazy sequence of a mapped task's results is a Sequence, too.
    if not isinstance(found, (Sequence, Set)) or isinstance(found, bytes) or not len(found):
        raise _slugs_error(name, slugs, "which has no slug in it")
    for slug in found:
        if not isinstance(slug, str) or is_empty(slug) or not is_text(slug):
            raise _slugs_error(name, slugs, "which is not a slug")
        if _is_text_of_a_list(slug):
            raise _slugs_error(name, slugs, "the text of a list")
        if _SEPARATED.fullmatch(slug):
            listed = [part.strip() for part in re.split("[,;|]", slug)]
            raise YouCanInvalidInputError(
                f"{name} is {shorten(slugs)}, a list written as one text", advice=f"give the list {shorten(listed)}."
            )
    return tuple(found)


def check_contexts(name: str, value: object) -> dict[StatusContext, Any]:
    """
    Return the mapping with :class:`StatusContext` keys.

    :param name: the argument that it comes from, for the error message.
    :param value: a mapping whose keys are ``general``, ``shipping`` and ``payment``.
    :raises YouCanInvalidInputError: for anything else.
    """
    if not isinstance(value, Mapping):
        raise YouCanInvalidInputError(
            f"{name} is {shorten(value)}",
            advice=(
                "give a mapping whose keys are 'general', 'shipping' and 'payment', and where it comes from a "
                "template, set render_template_as_native_obj=True on the DAG."
            ),
        )
    return {StatusContext(context): entry for context, entry in value.items()}


def _slugs_error(name: str, slugs: object, what: str) -> YouCanInvalidInputError:
    return YouCanInvalidInputError(
        f"{name} is {shorten(slugs)}, {what}",
        advice=(
            "give a slug such as 'pending', or a list of slugs. A list passes a template unchanged with "
            "render_template_as_native_obj=True on the DAG, or as the output of an upstream task. To have none, "
            "leave the argument out, also of partial()."
        ),
    )


def _is_text_of_a_list(text: str) -> bool:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    if text[:1] + text[-1:] in ("[]", "{}"):
        return True
    if text[:1] + text[-1:] != "()":
        return False
    if "," in text:
        return True
    for parse in (json.loads, ast.literal_eval):
        try:
            return isinstance(parse(text), (list, tuple, set, dict))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return False


# --- numbers ------------------------------------------------------------------------------------


def check_number(name: str, value: object, least: float, most: float, *, whole: bool = False) -> float:
    """
    Return a number within its bounds.

    :param name: the argument, for the error message.
    :param value: the number.
    :param least: the smallest that is allowed.
    :param most: the largest that is allowed.
    :param whole: whether it has to be an int (default ``False``).
    :raises YouCanInvalidInputError: for anything else.
    """
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if is_number and least <= value <= most:  # type: ignore[operator]
        return value  # type: ignore[return-value]
    raise YouCanInvalidInputError(f"{name} is {shorten(value)}: give {describe_bounds(least, most, whole=whole)}.")


def describe_bounds(least: float, most: float, *, whole: bool, exclusive: bool = False) -> str:
    """Return the bounds of a number as they stand in a sentence."""
    kind = "a whole number" if whole else "a number"
    return f"{kind} above {least:g} and up to {most:g}" if exclusive else f"{kind} from {least:g} to {most:.15g}"


# --- texts ------------------------------------------------------------------------------------------------


def is_empty(value: object) -> bool:
    """Return whether a value is ``None``, or a text that templates, tables or JSON write for a missing value."""
    return value is None or (isinstance(value, str) and value.strip().casefold() in _NULLS)
