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
    from airflow_provider_youcan.hooks import form

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
            {
                "integration-name": "YouCan",
                "python-modules": [
                    "airflow_provider_youcan.triggers.new_orders",
                    "airflow_provider_youcan.triggers.order_status",
                ],
            },
        ],
        "transfers": [
            {
                "source-integration-name": "YouCan",
                "target-integration-name": "Common SQL",
                "python-module": "airflow_provider_youcan.transfers.orders_to_sql",
            }
        ],
        "connection-types": [
            {
                "connection-type": "youcan",
                "hook-class-name": "airflow_provider_youcan.hooks.youcan.YouCanHook",
                "hook-name": "YouCan",
                "ui-field-behaviour": form.OWN_FIELDS,
                "conn-fields": form.FIELDS,
            }
        ],
        "asset-uris": [uris],
        # Airflow 2's names for them.
        "dataset-uris": [uris],
        "task-decorators": [
            {
                "name": "youcan_reconcile",
                "class-name": "airflow_provider_youcan.decorators.reconcile.youcan_reconcile_task",
            }
        ],
        # Airflow 3.2 and later read it; others ignore it.
        "cli": ["airflow_provider_youcan.cli.definition.get_youcan_cli_commands"],
        "extra-links": ["airflow_provider_youcan.links.YouCanOrderLink"],
    }
