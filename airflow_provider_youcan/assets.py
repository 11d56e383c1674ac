"""
The shop's orders as Airflow assets: what their URIs are, and what a task says of them.

``youcan://my-store/orders`` are the orders of the store whose slug is ``my-store``; ``youcan://my-store/orders/created``,
``/orders/updated`` and ``/orders/paid`` are the events of these names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from airflow.providers.common.compat.openlineage.facet import Dataset
    from airflow.providers.common.compat.sdk import BaseOperator, Context

__all__ = ["add_event_extra", "convert_to_openlineage", "find_store", "sanitize_uri"]

SCHEME = "youcan"
_STORE = re.compile(r"[a-z0-9][a-z0-9_-]*")
_PATHS = ("/orders", "/orders/created", "/orders/updated", "/orders/paid")


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """
    Return the URI of a shop's asset with its store in lower case. Airflow calls this for each one of this scheme.

    :param uri: the URI, in its parts.
    :raises ValueError: for any other event.
    """
    store = uri.netloc.lower()
    if _STORE.fullmatch(store) is None or uri.path not in _PATHS or uri.query or uri.fragment:
        raise ValueError(
            f"{uri.geturl()!r} is no asset of a YouCan shop: give youcan://<store slug>/orders, or that with /created, "
            "/updated or /paid."
        )
    return uri._replace(netloc=store)


def add_event_extra(operator: BaseOperator, context: Context, extra: Mapping[str, Any]) -> None:
    """
    Add what a task did to the events of its outlets that are assets of a shop.

    :param operator: the task.
    :param context: what it runs in.
    :param extra: what to say.
    """
    events: Any = context.get("outlet_events")
    for asset in operator.outlets if events is not None else ():
        if _split(asset) is not None:
            events[asset].extra.update(extra)


def find_store(operator: BaseOperator) -> str | None:
    """Return the store that a task's outlets name, if they name one."""
    stores = {uri.netloc for asset in operator.outlets if (uri := _split(asset)) is not None}
    return stores.pop() if len(stores) == 1 else None


def convert_to_openlineage(asset: Any, lineage_context: Any) -> Dataset | None:  # noqa: ARG001  # Airflow's signature
    """Return the OpenLineage dataset for an asset: ``orders`` in the namespace ``youcan://my-store``."""
    from airflow.providers.common.compat.openlineage.facet import Dataset

    if (uri := _split(asset)) is None:
        return None
    return Dataset(namespace=f"{SCHEME}://{uri.netloc}", name=uri.path.lstrip("/"))


def _split(asset: object) -> SplitResult | None:
    uri = getattr(asset, "uri", None)
    return urlsplit(uri) if isinstance(uri, str) and uri.startswith(f"{SCHEME}://") else None
