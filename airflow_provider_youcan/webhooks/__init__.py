"""
Webhooks: YouCan sends an event of an order, and Airflow starts what is scheduled on it.

``create_application`` makes the receiver for any ASGI server:
``uvicorn --factory airflow_provider_youcan.webhooks:create_application``. It takes the extra
``airflow-provider-youcan[webhooks]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["create_application"]


def create_application() -> Starlette:
    """Return the receiver, as the environment variables ``YOUCAN_WEBHOOKS_…`` describe it."""
    from airflow_provider_youcan.webhooks.receiver import build_application
    from airflow_provider_youcan.webhooks.settings import read_settings

    return build_application(read_settings())
