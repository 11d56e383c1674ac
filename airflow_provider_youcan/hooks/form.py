"""The fields of the connection form, stated once: for Airflow, and for what is read from a connection."""

from __future__ import annotations

import math
from typing import Any

# Airflow reads the fields during its own import. Don't import other modules of this package here: they import Airflow.

__all__ = ["FIELDS", "OWN_FIELDS", "check_form_field", "get_connection_form_widgets", "get_ui_field_behaviour"]

FIELDS: dict[str, dict[str, Any]] = {
    "timeout": {
        "label": "Timeout",
        "description": "Seconds to wait for a connection, for an answer to begin, and for it to end; 30 if left empty.",
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 3600},
    },
    "max_attempts": {
        "label": "Attempts",
        "description": "How often a request that met a transient error is sent at most; 4 if left empty.",
        "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 100},
    },
    "requests_per_second": {
        "label": "Requests per second",
        "description": "A ceiling for each task that reconciles a table; none if left empty.",
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 10000},
    },
    "verify": {
        "label": "CA bundle",
        "description": "The path of a CA bundle to trust in place of the usual one.",
        "schema": {"type": ["string", "null"]},
    },
    "client_id": {
        "label": "Client id",
        "description": "The id of your app on YouCan: with it, its secret and a refresh token, the "
        "access token is renewed by itself.",
        "schema": {"type": ["string", "null"]},
    },
    "client_secret": {
        "label": "Client secret",
        "description": "The secret of your app on YouCan.",
        "schema": {"type": ["string", "null"], "format": "password"},
    },
    "refresh_token": {
        "label": "Refresh token",
        "description": "From: python -m airflow_provider_youcan authorize",
        "schema": {"type": ["string", "null"], "format": "password"},
    },
}
"""The extra of a connection of this type, as Airflow's provider info describes it."""

OWN_FIELDS: dict[str, Any] = {
    # The port is shown because the Test button of Airflow 3.3.2 refuses a connection without one
    # (https://github.com/apache/airflow/pull/73298).
    "hidden-fields": ["login", "schema", "extra"],
    "relabeling": {"password": "Access token", "host": "API base URL"},
    "placeholders": {
        "password": "from YouCan's seller area, Settings > Developer Settings",
        "host": "https://api.youcan.shop",
        "port": "443, or the sandbox's port (the Test button of Airflow 3.3.2 needs it)",
    },
}
"""The labels and placeholders of Airflow's own fields."""


def check_form_field(field: str, value: object, label: str | None = None) -> float:
    """
    Return a number within the bounds that the connection form states for a field.

    :param field: a field of the connection: ``timeout``, ``max_attempts`` or ``requests_per_second``.
    :param value: a number, or its text, as a connection's URI gives it.
    :param label: what to call it in the error message (default its name).
    :raises YouCanInvalidInputError: for anything else.
    """
    from airflow_provider_youcan.checks import describe_bounds
    from airflow_provider_youcan.exceptions import YouCanInvalidInputError
    from airflow_provider_youcan.texts import shorten

    schema = FIELDS[field]["schema"]
    exclusive = "exclusiveMinimum" in schema
    least, most = schema["exclusiveMinimum" if exclusive else "minimum"], schema["maximum"]
    whole = "integer" in schema["type"]
    number = _read_number(value)
    if least <= number <= most and not (exclusive and number == least) and not (whole and not number.is_integer()):
        return int(number) if whole else number
    bounds = describe_bounds(least, most, whole=whole, exclusive=exclusive)
    raise YouCanInvalidInputError(f"{label or field} is {shorten(value)}: give {bounds}.")


def get_connection_form_widgets() -> dict[str, Any]:
    """Return the fields of the connection form."""
    from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
    from wtforms import PasswordField, StringField
    from wtforms.validators import Optional

    from airflow_provider_youcan.version_compat import UNCHANGED_SECRET

    class SecretWidget(BS3PasswordFieldWidget):  # type: ignore[misc]
        # An empty field would delete what is saved; Airflow 2 keeps the stored secret when it gets this placeholder.
        def __call__(self, field: Any, **options: Any) -> Any:
            self.hide_value = False
            return super().__call__(field, **options, value=UNCHANGED_SECRET if field.data else "")

    widgets: dict[str, Any] = {}
    for name, field in FIELDS.items():
        is_secret = field["schema"].get("format") == "password"
        # Numbers are text here, because Airflow 2's form has no decimal field.
        widgets[name] = (PasswordField if is_secret else StringField)(
            field["label"],
            [Optional()],
            description=field["description"],
            widget=(SecretWidget if is_secret else BS3TextFieldWidget)(),
        )
    return widgets


def get_ui_field_behaviour() -> dict[str, Any]:
    """Return what the connection form makes of Airflow's own fields."""
    return {name.replace("-", "_"): value for name, value in OWN_FIELDS.items()}


def _read_number(value: object) -> float:
    """Convert to float. Anything else becomes NaN, which fails every range check."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan
