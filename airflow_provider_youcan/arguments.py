"""The arguments of operators and sensors: which were passed, and what a templated one was rendered to."""

from __future__ import annotations

from typing import Any

from airflow_provider_youcan.checks import is_empty
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.texts import shorten
from airflow_provider_youcan.version_compat import is_mapped

__all__ = [
    "NOT_PASSED",
    "check_flag",
    "check_rendered_flag",
    "check_rendered_text",
    "is_rendered_later",
    "was_passed",
]

NOT_PASSED: Any = type("NotPassed", (), {"__repr__": lambda _: "None", "__bool__": lambda _: False})()
"""Default for arguments for which ``None`` does not mean "left out"."""


def was_passed(operator: object, value: object) -> bool:
    """
    Return whether an argument was passed; if so, an empty rendered value is an error.

    A literal ``None`` counts as left out. In a mapped task it means that the upstream task returned nothing, which is
    an error.

    :param operator: the operator that has the argument.
    :param value: the value in its constructor, :data:`NOT_PASSED` if it was left out.
    """
    if value is NOT_PASSED:
        return False
    return value is not None or is_mapped(operator)


def check_flag(name: str, value: object) -> bool:
    """
    Return a plain ``True`` or ``False``, and refuse anything else.

    :raises YouCanInvalidInputError: for anything else. The text "False" is truthy, and so is an unresolved XCom.
    """
    if not isinstance(value, bool):
        raise YouCanInvalidInputError(f"{name} is {shorten(value)}: give True or False; it is not templated.")
    return value


def check_rendered_flag(name: str, value: object) -> bool:
    """
    Return the rendered value of a templated flag, as ``True`` or ``False``.

    :param name: the argument, for the error message.
    :param value: a bool, or the text "true" or "false" in any letter case.
    :raises YouCanInvalidInputError: for anything else.
    """
    if isinstance(value, str) and (text := value.strip().lower()) in ("true", "false"):
        return text == "true"
    if isinstance(value, bool):
        return value
    raise YouCanInvalidInputError(
        f"{name} is {shorten(value)}, which is neither true nor false",
        advice="give True or False, or a template that renders to one of them.",
    )


def check_rendered_text(name: str, value: object) -> str:
    """
    Return the rendered text of a templated argument.

    :param name: the argument, for the error message.
    :raises YouCanInvalidInputError: unless it is text, and for the text that an empty XCom renders to.
    """
    if isinstance(value, str) and not is_empty(value):
        return value
    raise YouCanInvalidInputError(f"{name} is {shorten(value)}", advice="give its value as text, or leave it out.")


def is_rendered_later(value: object) -> bool:
    """Return whether an argument is a template, or the output of an upstream task."""
    return hasattr(value, "resolve") or (isinstance(value, str) and ("{{" in value or "{%" in value))
