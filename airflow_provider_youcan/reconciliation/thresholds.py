"""Limits of a run: a count or a percentage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.texts import shorten

__all__ = ["Threshold", "read_threshold", "read_whole_number"]

_NUMBER = re.compile(r"[0-9]{1,18}")
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,18})?) ?%")


@dataclass(frozen=True)
class Threshold:
    """A number, or a share, that may not be exceeded."""

    number: Decimal
    is_share: bool = False
    """True if ``number`` is a percentage."""

    def allows(self, count: int, total: int) -> bool:
        """Return whether a number, out of a total, is within the limit."""
        return count <= (self.number * total / 100 if self.is_share else self.number)

    def __str__(self) -> str:
        return f"{self.number}%" if self.is_share else str(self.number)


def read_threshold(name: str, value: object) -> Threshold:
    """
    Read a limit.

    :param name: the argument, for the error message.
    :param value: a whole number from 0, or a share of the whole from ``"0%"`` to ``"100%"``; either may be text.
    :raises YouCanInvalidInputError: for anything else.
    """
    if (number := _read_number(value)) is not None:
        return Threshold(Decimal(number))
    match = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is not None and (share := Decimal(match[1])) <= 100:
        return Threshold(share, is_share=True)
    raise YouCanInvalidInputError(
        f"{name} is {shorten(value)}", advice="give a whole number from 0, or a share such as '10%'."
    )


def read_whole_number(name: str, value: object) -> int:
    """
    Read a whole number from 0, which may be text.

    :param name: the argument, for the error message.
    :raises YouCanInvalidInputError: for anything else.
    """
    if (number := _read_number(value)) is not None:
        return number
    raise YouCanInvalidInputError(f"{name} is {shorten(value)}", advice="give a whole number from 0.")


def _read_number(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return int(value)
    return None
