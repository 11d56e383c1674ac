"""Values as they stand in a message: cut if they are long, and left out if they may be a customer's."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["join_slugs", "list_some", "pluralize", "shorten", "show_cell"]


def join_slugs(slugs: Iterable[str]) -> str:
    """Return slugs as they stand in a sentence: ``'paid' or 'captured'``."""
    return " or ".join(map(shorten, slugs))


def shorten(value: object) -> str:
    """Return a value as it stands in an error message, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than some thousand digits
        text = f"of type {type(value).__name__}"
    return text if len(text) <= 120 else f"{text[:117]}..."


def show_cell(value: object) -> str:
    """Return a cell as it stands in an error: its first 20 characters, and nothing that may be a customer's."""
    text = shorten(value)
    if "@" in text or "\uff20" in text or sum(character.isdigit() for character in text) >= 7:
        return "a value that may be a phone number or an e-mail address, so it is not shown,"
    return text if len(text) <= 22 else f"{text[:21]}...{text[0] if isinstance(value, str) else ''}"


def list_some(slugs: list[str]) -> str:
    """Return the first of many slugs as they stand in a sentence."""
    shown = ", ".join(map(shorten, slugs[:12]))
    return f"{shown} and {len(slugs) - 12} more" if len(slugs) > 12 else shown


def pluralize(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
