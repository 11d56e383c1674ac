"""The cells of a row, of whatever library they come from: which of them are nulls, and what the others say."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from difflib import get_close_matches
from typing import Any
from uuid import UUID

from airflow_provider_youcan.arguments import is_rendered_later
from airflow_provider_youcan.checks import check_order_id
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.orders import StatusContext, normalize_text
from airflow_provider_youcan.texts import show_cell

_CONTEXTS = [context.value for context in StatusContext]

__all__ = ["check_words", "read_cell", "read_order_id", "read_ref", "translate"]


def read_cell(value: object) -> object:
    """Return a cell as plain Python, a text in its normal form, and ``None`` for whatever stands for a null."""
    if value is None:
        return value
    if type(value) is str and value.isascii():  # nearly all are
        return value.strip()
    if isinstance(value, str):  # numpy has a text of its own
        return normalize_text(str.__str__(value))
    if _is_null(value):
        return None
    if getattr(value, "ndim", None) == 0 and getattr(getattr(value, "dtype", None), "kind", "") in "biuf":
        return value.item()  # type: ignore[attr-defined]  # a number of numpy's
    return value


def read_order_id(value: object) -> str | None:
    """
    Return the order id that a cell holds, ``None`` for a null.

    :raises YouCanInvalidInputError: if the cell can't be one.
    """
    if value is None:
        return None
    if type(value) is str and value.isascii():
        value = value.strip()
    elif (value := read_cell(value)) is None:
        return None
    return check_order_id(str(value) if isinstance(value, UUID) else value, show_cell)


def read_ref(value: object) -> str | None:
    """
    Return the ref that a cell holds, ``None`` for a null.

    :raises YouCanInvalidInputError: if the cell can't be one.
    """
    if value is None or (value := read_cell(value)) is None:
        return None
    if isinstance(value, Decimal) and value.is_finite() and abs(value) < 10**18 and value == value.to_integral_value():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
        return str(value)
    if isinstance(value, str) and value.strip() not in ("", "None") and value.isprintable() and len(value) <= 100:
        return value
    if isinstance(value, float):
        raise YouCanInvalidInputError(
            f"{show_cell(value)} is not a ref: read the column as text, such as '021'; a column of numbers with a null "
            "among them becomes floating point, and loses its zeros"
        )
    raise YouCanInvalidInputError(f"{show_cell(value)} is not a ref: give it as text, such as '021'")


def translate(value: object, words: Mapping[Any, str | None]) -> object:
    """Return the slug that a word of the table's own means, and anything else as it is."""
    with suppress(TypeError, ValueError, ArithmeticError):  # values that can't be a key, an int or a text are not words
        # A number in the table may be a text in a mapping that came as JSON.
        whole = int(value) if isinstance(value, (float, Decimal)) and value == value // 1 else value
        for word in (value, normalize_text(str(value)), str(whole)):
            if word in words:
                return words[word]
    return value


def check_words(status_map: object) -> None:
    """
    Refuse a ``status_map`` in which something is seen to be wrong when the DAG is parsed.

    :raises YouCanInvalidInputError: for a key that is no context, a map without contexts, a template as a word, a null
        that means a status, and two words that are the same text, such as 1 and "1".
    """
    for context, words in status_map.items() if isinstance(status_map, Mapping) else ():
        if not isinstance(words, Mapping):
            if isinstance(words, str) and is_rendered_later(words):
                continue
            raise YouCanInvalidInputError(
                f"status_map[{context!r}] is {show_cell(words)}, not a mapping: give one for each context, such as "
                f"{{'payment': {{{context!r}: {words!r}}}}}."
                if context not in _CONTEXTS
                else f"status_map[{context!r}] is {show_cell(words)}: give a mapping from words to slugs."
            )
        if context not in _CONTEXTS:
            named = str(context).removesuffix("_status")
            closest = [named] if named in _CONTEXTS else get_close_matches(named, _CONTEXTS, n=1)
            hint = f": did you mean {closest[0]!r}?" if closest else f": give {', '.join(map(repr, _CONTEXTS))}."
            raise YouCanInvalidInputError(f"status_map has {context!r}, which is no context{hint}")
        if templates := [word for word in words if is_rendered_later(word)]:
            raise YouCanInvalidInputError(
                f"status_map[{context!r}] has the template {templates[0]!r} as a word: only values are rendered."
            )
        if words.get(None) is not None:
            raise YouCanInvalidInputError(
                f"status_map[{context!r}] has None as a word: a null leaves the status alone, so leave it out."
            )
        texts = [normalize_text(str(word)) for word in words]
        if twice := sorted({text for text in texts if texts.count(text) > 1}):
            raise YouCanInvalidInputError(
                f"status_map[{context!r}] has {' and '.join(map(repr, twice))} more than once: give each word once; "
                "a number and its text, or a word with spaces around it, are the same."
            )


def _is_null(value: object) -> bool:
    # pandas has a null that is neither equal nor unequal to anything; all others differ from themselves.
    if type(value).__name__ == "NAType":
        return True
    try:
        return bool(value != value)
    except Exception:  # an array, or a number that signals: it is something
        return False
