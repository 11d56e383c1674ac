"""Texts of an answer without what must not be passed on: secrets, and customers' data."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import partial
from urllib.parse import quote, quote_plus

__all__ = ["MAX_TEXT", "redact"]

MAX_TEXT = 200
"""Longer texts are cut to keep the log readable."""

_MAX_READ = 1000

_MIN_SECRET = 4
"""Shorter words, such as refs, are not hidden: they reveal nothing, and occur in many other words."""

_PERSONAL = re.compile(r"[^\s@]{1,64}(?:@|%40)[^\s@]+|\+?\d(?:[\W_]{0,6}\d){6,}", re.IGNORECASE)
"""An e-mail address, or at least seven digits, as in a phone number, in any script and with any separators."""


def redact(value: object, secrets: Iterable[str] = (), own: str | None = None) -> str:
    """
    Return a part of an answer as one short line, with nothing in it that must not be passed on.

    :param value: the part; what is no text becomes one first.
    :param secrets: what is hidden in any letter case, also as a URL writes it.
    :param own: the id of the order that it is about, which stays, as many digits as it may have.
    """
    try:
        text = value if isinstance(value, str) else str(value)
    except (RecursionError, ValueError):  # absurdly deep, or a number of thousands of digits
        return "***"
    text = _one_line(text[:_MAX_READ])
    words = [word for word in map(_one_line, secrets) if len(word) >= _MIN_SECRET]
    words += [encode(word) for word in words for encode in (partial(quote, safe=""), quote_plus)]
    for word in sorted(set(words), key=len, reverse=True):
        text = re.sub(re.escape(word), "***", text, flags=re.IGNORECASE)
    # Cut in two, a secret would not be recognised.
    text = text[: MAX_TEXT + 100]
    kept = rf"(?<![\w-]){re.escape(own)}(?![\w-])" if own else "(?!)"
    parts = re.split(f"({kept})", text, flags=re.IGNORECASE)
    # Every other part is the order's own id.
    parts[::2] = [_PERSONAL.sub("***", part) for part in parts[::2]]
    # Half a character, or a terminal's escape code, would break the log that it is written to.
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in "".join(parts)[:MAX_TEXT])


def _one_line(text: str) -> str:
    # Compatible forms, so that full-width, small and superscript letters and digits are what they look like.
    return unicodedata.normalize("NFKC", " ".join(text.split()))
