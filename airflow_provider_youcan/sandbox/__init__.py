"""
A small local shop that speaks YouCan's API: for demos, for tests, and for writing DAGs against.

It uses nothing of the provider but the vocabulary of ``orders.py``, so that it can't share a mistake with the
client that is tested against it. It needs the extra ``airflow-provider-youcan[sandbox]``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_youcan.sandbox.misbehaviour import Misbehaviour
    from airflow_provider_youcan.sandbox.server import Sandbox
    from airflow_provider_youcan.sandbox.shop import ACCESS_TOKEN, Request, Shop

__all__ = ["ACCESS_TOKEN", "Misbehaviour", "Request", "Sandbox", "Shop"]

_MODULES = {
    "Misbehaviour": "misbehaviour",
    "Sandbox": "server",
    "ACCESS_TOKEN": "shop",
    "Request": "shop",
    "Shop": "shop",
}


def __getattr__(name: str) -> Any:
    # Imported when it is used: the command line works without Starlette.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
