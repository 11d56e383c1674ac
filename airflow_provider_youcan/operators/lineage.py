"""
Lineage, for OpenLineage: the tables or files that a task read, the shop, and how many statuses it changed there.

It is not imported without the openlineage provider, and it never fails a task.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_provider_youcan.assets import SCHEME, find_store
from airflow_provider_youcan.reconciliation.databases import get_database_hook

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator

    from airflow_provider_youcan.transfers.columns import OrderColumns

__all__ = ["describe_lineage", "describe_transfer"]

_log = logging.getLogger(__name__)


def describe_lineage(operator: BaseOperator, changed: int, store: str | None) -> Any:
    """
    Return a task's lineage, ``None`` where the openlineage provider isn't installed.

    :param operator: the task. Its inputs are the tables that its ``sql`` names, or its ``orders_file``.
    :param changed: how many statuses it changed.
    :param store: the slug of the store; ``None`` takes the one that its outlets name, or asks the shop.
    """
    try:
        from airflow.providers.common.compat.openlineage.facet import (
            Dataset,
            OutputDataset,
            OutputStatisticsOutputDatasetFacet,
        )
        from airflow.providers.openlineage.extractors import OperatorLineage

        outputs: list[Dataset] = []
        if (known := find_store(operator) or store or _ask_store(operator)) is not None:
            statistics: dict[str, Any] = {"outputStatistics": OutputStatisticsOutputDatasetFacet(rowCount=changed)}
            outputs.append(OutputDataset(namespace=f"{SCHEME}://{known}", name="orders", outputFacets=statistics))
        return OperatorLineage(inputs=list(_find_inputs(operator)), outputs=outputs)
    except Exception:  # a task must not fail for its lineage
        _log.debug("The lineage of this task is not known.", exc_info=True)
        return None


def describe_transfer(operator: Any, columns: OrderColumns) -> Any:
    """
    Return the lineage of a task that brought orders to the warehouse: from the shop to a table or a file.

    :param operator: the task.
    :param columns: the columns, and how many orders there were.
    """
    try:
        from airflow.providers.common.compat.openlineage.facet import (
            Dataset,
            OutputDataset,
            OutputStatisticsOutputDatasetFacet,
            SchemaDatasetFacet,
            SchemaDatasetFacetFields,
        )
        from airflow.providers.openlineage.extractors import OperatorLineage

        store = find_store(operator) or columns.store
        inputs = [] if store is None else [Dataset(namespace=f"{SCHEME}://{store}", name="orders")]
        fields = [SchemaDatasetFacetFields(name=name, type=kind) for name, kind in columns.types.items()]
        statistics = OutputStatisticsOutputDatasetFacet(rowCount=columns.counts.orders)
        return OperatorLineage(
            inputs=inputs,
            outputs=[
                OutputDataset(
                    namespace=target.namespace,
                    name=target.name,
                    facets={"schema": SchemaDatasetFacet(fields=fields)},
                    outputFacets={"outputStatistics": statistics},
                )
                for target in _find_targets(operator)
            ],
        )
    except Exception:  # a task must not fail for its lineage
        _log.debug("The lineage of this task is not known.", exc_info=True)
        return None


def _find_targets(operator: Any) -> Iterable[Any]:
    if operator.path is not None:
        return [_describe_file(operator.path)]
    # The sql is parsed, not run.
    statement = f"insert into {operator.table} select 1"
    outputs: Iterable[Any] = _parse(statement, get_database_hook(operator.conn_id), operator.conn_id).outputs
    return outputs


def _describe_file(path: str) -> Any:
    from airflow.providers.common.compat.openlineage.facet import Dataset

    address = urlsplit(path)
    if address.scheme in ("", "file"):
        return Dataset(namespace="file", name=address.path)
    # The part before an @ is the Airflow connection; for Azure it is the container.
    is_azure = address.scheme.startswith(("abfs", "wasb"))
    place = address.netloc if is_azure else address.netloc.rpartition("@")[2]
    return Dataset(namespace=f"{address.scheme}://{place}", name=address.path.lstrip("/"))


def _find_inputs(operator: Any) -> Iterable[Any]:
    if (path := getattr(operator, "orders_file", None)) is not None:
        return [_describe_file(path)]
    if (sql := getattr(operator, "sql", None)) is None:
        return []
    try:
        inputs: Iterable[Any] = _parse(
            sql, get_database_hook(operator.conn_id, operator.hook_params), operator.conn_id
        ).inputs
    except Exception:  # what a hook says of its database is its own
        _log.debug("The tables of the sql are not known.", exc_info=True)
        return []
    return inputs


def _parse(sql: str, hook: Any, conn_id: str) -> Any:
    """Return the lineage of a statement, without asking the database."""
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.providers.openlineage.sqlparser import SQLParser

    connection = hook.get_connection(conn_id)
    if (database_info := hook.get_openlineage_database_info(connection)) is None:
        return OperatorLineage()
    parser = SQLParser(hook.get_openlineage_database_dialect(connection), hook.get_openlineage_default_schema())
    return parser.generate_openlineage_metadata_from_sql(
        sql=sql, hook=hook, database_info=database_info, use_connection=False
    )


def _ask_store(operator: Any) -> str | None:
    from airflow_provider_youcan.client.store import read_store_slug
    from airflow_provider_youcan.hooks.youcan import YouCanHook

    try:
        with YouCanHook(operator.youcan_conn_id, max_retry_seconds=5) as hook:
            return hook.run(read_store_slug())
    except Exception:  # whatever keeps it from being known
        _log.debug("The store of the Airflow connection %r is not known.", operator.youcan_conn_id, exc_info=True)
        return None
