"""What an answer says, with nothing in it that must not be passed on: no secret, and nothing of a customer's."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["MAX_TEXT", "redact"]

MAX_TEXT = 200
"""Longer texts are cut to keep the log readable."""

_MAX_ITEMS = 20
_MAX_DEPTH = 8
_PERSONAL = re.compile(r"[^\s@]+@[^\s@]+|\+?[0-9][0-9 ().-]{6,}[0-9]")
"""An e-mail address, or a run of digits as long as a phone number."""


def redact(value: object, secrets: Iterable[str], depth: int = 0) -> object:
    """Return the payload of an error with nothing in its texts that must not be passed on."""
    if depth > _MAX_DEPTH:
        return None
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
        text = _PERSONAL.sub("***", " ".join(value[:1000].split()))[:MAX_TEXT]
        # Half a character, or a terminal's escape code, would break the log that it is written to.
        return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    if isinstance(value, list):
        return [redact(item, secrets, depth + 1) for item in value[:_MAX_ITEMS]]
    if isinstance(value, dict):
        items = list(value.items())[:_MAX_ITEMS]
        return {str(redact(name, secrets)): redact(item, secrets, depth + 1) for name, item in items}
    return value
