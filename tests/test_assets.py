"""The shop's orders as Airflow assets: what their URIs are, and what the events of a task say."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest
from airflow.providers.common.compat.sdk import Asset
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_youcan.assets import convert_to_openlineage, sanitize_uri
from tests.conftest import AIRFLOW_3, HOME, RunDag, Sandbox

EVENTS = "/orders", "/orders/created", "/orders/updated", "/orders/paid"
NONSENSE = [
    "youcan://",
    "youcan://my-store",
    "youcan://my-store/",
    "youcan://my-store/orders/",
    "youcan://my-store/orders/refunded",
    "youcan://my-store/orders?q=1",
    "youcan://my-store/orders#1",
    "youcan://my store/orders",
    "youcan:///orders",
    "youcan://my-store:443/orders",
    "youcan://token@my-store/orders",
]


@pytest.mark.parametrize("path", EVENTS)
def test_an_asset_names_its_store_in_lower_case(path: str) -> None:
    assert sanitize_uri(urlsplit(f"youcan://My-Store{path}")).geturl() == f"youcan://my-store{path}"


@pytest.mark.parametrize("uri", NONSENSE)
def test_anything_else_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="is no asset of a YouCan shop: give youcan://<store slug>/orders"):
        sanitize_uri(urlsplit(uri))


@given(st.text(), st.text())
def test_no_uri_breaks_it(store: str, path: str) -> None:
    try:
        uri = urlsplit(f"youcan://{store}/{path}")
        assert sanitize_uri(uri).path in EVENTS
    except ValueError:
        pass


@pytest.mark.airflow
def test_airflow_refuses_it_or_warns_of_it_as_it_does_of_others() -> None:
    assert Asset(uri="youcan://My-Store/orders").uri == "youcan://my-store/orders"
    if AIRFLOW_3:
        with pytest.raises(ValueError, match="is no asset of a YouCan shop"):
            Asset(uri="youcan://my-store/refunds")
    else:
        with pytest.warns(match="is no asset of a YouCan shop"):
            Asset(uri="youcan://my-store/refunds")


def test_an_asset_is_a_dataset_of_openlineage() -> None:
    dataset = convert_to_openlineage(Asset(uri="youcan://my-store/orders/paid"), None)

    assert dataset is not None
    assert (dataset.namespace, dataset.name) == ("youcan://my-store", "orders/paid")
    assert convert_to_openlineage(Asset(uri="s3://bucket/key"), None) is None


def events(uri: str) -> list[dict[str, Any]]:
    """Return what the events of an asset say, the latest last."""
    kind = "asset" if AIRFLOW_3 else "dataset"
    with closing(sqlite3.connect(HOME / "airflow.db")) as database:
        joined = f"{kind}_event join {kind} on {kind}.id = {kind}_id"
        rows = database.execute(
            f"select {kind}_event.extra from {joined} where uri = ? order by {kind}_event.id", (uri,)
        )
        return [json.loads(row[0]) for row in rows]


@pytest.mark.airflow
def test_the_event_of_an_operator_says_what_it_did(run_dag: RunDag, sandbox: Sandbox, order_id: str) -> None:
    uri = "youcan://one-order/orders"
    run = run_dag(
        f"""
        from airflow.providers.common.compat.sdk import Asset
        shop = [Asset(uri="{uri}"), Asset(uri="s3://other/asset")]
        paid = YouCanUpdatePaymentStatusOperator(
            task_id="paid", order_id="{order_id}", status="paid", only_from="pending", outlets=shop)
        again = YouCanUpdatePaymentStatusOperator(
            task_id="again", order_id="{order_id}", status="paid", only_from="pending", outlets=shop)
        skipped = YouCanUpdatePaymentStatusOperator(
            task_id="skipped", order_id="{order_id}", status="refunded", only_from="pending", outlets=shop)
        paid >> again >> skipped
        """
    )

    assert run.state == "success"
    said = {"order_id": order_id, "context": "payment", "status": "paid"}
    assert [event | said for event in events(uri)] == events(uri)
    assert [(event["previous_status"], event["changed"]) for event in events(uri)] == [
        ("pending", True),
        ("paid", False),
    ]
    assert events("s3://other/asset")[0] == {}


@pytest.mark.airflow
def test_the_event_of_a_table_says_how_many(run_dag: RunDag, sandbox: Sandbox, order_id: str) -> None:
    uri = "youcan://one-table/orders"
    run = run_dag(
        f"""
        from airflow.providers.common.compat.sdk import Asset
        rows = [{{"order_id": "{order_id}", "payment_status": "paid"}}]
        YouCanReconcileOrdersOperator(task_id="reconcile", orders=rows, outlets=[Asset(uri="{uri}")])
        """
    )

    assert run.state == "success"
    (event,) = events(uri)
    assert (event["rows"], event["changed"], event["failed"], event["dry_run"]) == (1, 1, 0, False)
    assert "report_path" in event
    assert all(not isinstance(value, (dict, list)) for value in event.values())
