"""The connection form of an Airflow before 3.2, which doesn't read it from the provider info."""

from __future__ import annotations

from typing import Any

from airflow_provider_youcan import get_provider_info

__all__ = ["get_connection_form_widgets", "get_ui_field_behaviour"]

_FORM = get_provider_info()["connection-types"][0]
_UNCHANGED = "RATHER_LONG_SENSITIVE_FIELD_PLACEHOLDER"


def get_connection_form_widgets() -> dict[str, Any]:
    """Return the fields of the connection form."""
    from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
    from wtforms import PasswordField, StringField
    from wtforms.validators import Optional

    class SecretWidget(BS3PasswordFieldWidget):  # type: ignore[misc]
        # An empty field would delete what is saved; this text is what Airflow 2 leaves it alone by.
        def __call__(self, field: Any, **options: Any) -> Any:
            self.hide_value = False
            return super().__call__(field, **options, value=_UNCHANGED if field.data else "")

    widgets: dict[str, Any] = {}
    for name, field in _FORM["conn-fields"].items():
        is_secret = field["schema"].get("format") == "password"
        # Numbers are text here, because the form of Airflow 2 has no field for a part of one.
        widgets[name] = (PasswordField if is_secret else StringField)(
            field["label"],
            [Optional()],
            description=field["description"],
            widget=(SecretWidget if is_secret else BS3TextFieldWidget)(),
        )
    return widgets


def get_ui_field_behaviour() -> dict[str, Any]:
    """Return what the connection form makes of Airflow's own fields."""
    return {name.replace("-", "_"): value for name, value in _FORM["ui-field-behaviour"].items()}
