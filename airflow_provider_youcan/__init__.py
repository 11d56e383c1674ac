"""Apache Airflow provider for YouCan, the e-commerce platform of North Africa and the Middle East."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

__all__ = ["__version__", "get_provider_info"]


def get_provider_info() -> dict[str, Any]:
    """
    Return what this provider brings: its connection type, hooks, operators, task decorator, sensor, trigger and link.

    Airflow calls this through the ``apache_airflow_provider`` entry point.

    :return: a mapping that fits Airflow's ``provider_info.schema.json``.
    """
    uris = {
        "schemes": ["youcan"],
        "handler": "airflow_provider_youcan.assets.sanitize_uri",
        "to_openlineage_converter": "airflow_provider_youcan.assets.convert_to_openlineage",
    }
    return {
        "package-name": "airflow-provider-youcan",
        "name": "YouCan",
        "description": "`YouCan <https://youcan.shop>`__ orders: set, guard, follow and reconcile their statuses.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": "YouCan",
                "external-doc-url": "https://developer.youcan.shop/store-admin",
                "tags": ["service"],
            }
        ],
        "hooks": [
            {"integration-name": "YouCan", "python-modules": ["airflow_provider_youcan.hooks.youcan"]},
        ],
        "operators": [
            {
                "integration-name": "YouCan",
                "python-modules": [
                    "airflow_provider_youcan.operators.order_status",
                    "airflow_provider_youcan.operators.reconcile",
                ],
            },
        ],
        "sensors": [
            {"integration-name": "YouCan", "python-modules": ["airflow_provider_youcan.sensors.order_status"]},
        ],
        "triggers": [
            {"integration-name": "YouCan", "python-modules": ["airflow_provider_youcan.triggers.order_status"]},
        ],
        "connection-types": [
            {
                "connection-type": "youcan",
                "hook-class-name": "airflow_provider_youcan.hooks.youcan.YouCanHook",
                "hook-name": "YouCan",
                "ui-field-behaviour": {
                    # The port is shown because the Test button of Airflow 3.3.2 refuses a connection without one
                    # (https://github.com/apache/airflow/pull/73298).
                    "hidden-fields": ["login", "schema", "extra"],
                    "relabeling": {"password": "Access token", "host": "API base URL"},
                    "placeholders": {
                        "password": "from YouCan's seller area, Settings > Developer Settings",
                        "host": "https://api.youcan.shop",
                        "port": "443, or the sandbox's port (the Test button of Airflow 3.3.2 needs it)",
                    },
                },
                "conn-fields": {
                    "timeout": {
                        "label": "Timeout",
                        "description": "Seconds to wait for a connection, for an answer to begin, and for it to end; "
                        "30 if left empty.",
                        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 3600},
                    },
                    "max_attempts": {
                        "label": "Attempts",
                        "description": "How often a request that met a transient error is sent at most; 4 if left "
                        "empty.",
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
                },
            }
        ],
        "asset-uris": [uris],
        # What Airflow 2 calls them.
        "dataset-uris": [uris],
        "task-decorators": [
            {
                "name": "youcan_reconcile",
                "class-name": "airflow_provider_youcan.decorators.reconcile.youcan_reconcile_task",
            }
        ],
        "extra-links": ["airflow_provider_youcan.links.YouCanOrderLink"],
    }
