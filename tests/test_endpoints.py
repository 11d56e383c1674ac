"""The requests, and what a success of each is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from requests.structures import CaseInsensitiveDict

from airflow_provider_youcan.client import endpoints, procedures, responses, resthooks
from airflow_provider_youcan.client.responses import Answer
from airflow_provider_youcan.exceptions import (
    YouCanInvalidInputError,
    YouCanUnexpectedResponseError,
)
from airflow_provider_youcan.orders import StatusContext
from tests.test_orders import DOCUMENTED_ORDER

ORDER_ID = DOCUMENTED_ORDER["id"]
UPDATED = {"status": 200, "detail": "Status is successfully updated", "meta": []}
PAGE = {"data": [{"id": "a"}], "meta": {"pagination": {"current_page": 1, "total_pages": 1}}}
SETTINGS = {"shipping": [{"slug": "shipped"}], "payment": [], "ordersStatus": [{"slug": "Is open"}]}

UPDATE = endpoints.update_order_status(ORDER_ID, "paid", StatusContext("payment"))
SUCCESSES = [
    (UPDATE, UPDATED),
    (endpoints.get_order(ORDER_ID), DOCUMENTED_ORDER),
    (endpoints.list_orders(), PAGE),
    (endpoints.list_orders(), {"data": [], "meta": PAGE["meta"]}),
    (endpoints.list_orders(page=3), {"data": [], "meta": {"pagination": {"current_page": 3, "total_pages": 2}}}),
    (endpoints.get_store_statuses(), SETTINGS),
    (endpoints.get_store(), {"slug": "shop", "name": "Shop"}),
]
REQUESTS = [request for request, _ in SUCCESSES]


def read(request: endpoints.Request, status_code: int, payload: object, headers: dict[str, str] | None = None) -> Any:
    return responses.read_response(
        request, Answer(status_code, CaseInsensitiveDict(headers or {}), json.dumps(payload).encode())
    )


@pytest.mark.parametrize(
    ("context", "path"), [("general", "/status"), ("shipping", "/status/shipping"), ("payment", "/status/payment")]
)
def test_an_update_puts_the_slug_to_the_path_of_its_context(context: str, path: str) -> None:
    request = endpoints.update_order_status(ORDER_ID, "تم التسليم", StatusContext(context))

    assert (request.method, request.path) == ("PUT", f"/orders/{ORDER_ID}{path}")
    assert json.loads(request.body or b"") == {"status": "تم التسليم"}
    assert request.scope == "edit-orders"


@pytest.mark.parametrize(
    "arguments", [("../me", "paid", "payment"), (ORDER_ID, " ", "payment"), (ORDER_ID, "paid", "money")]
)
def test_an_update_that_makes_no_sense_is_refused_before_its_request(arguments: tuple[str, str, str]) -> None:
    for procedure in (procedures.update_order_status(*arguments), procedures.move_order_status(*arguments)):
        with pytest.raises(YouCanInvalidInputError):
            next(procedure)


def test_an_order_is_asked_for_with_its_sub_resources() -> None:
    assert endpoints.get_order(ORDER_ID).params == {"include": "payment,shipping"}
    assert endpoints.get_order(ORDER_ID, include="customer").params == {"include": "customer"}
    assert endpoints.get_order(ORDER_ID, include=()).params == {}


def test_a_page_of_orders_takes_the_documented_query() -> None:
    request = endpoints.list_orders(
        page=3,
        page_size=25,
        include=(),
        query={
            "sort_field": "created_at",
            "sort_order": "asc",
            "q": None,
            "filters": [{"field": "ref", "operator": "=", "value": "021"}],
        },
    )

    assert request.params == {
        "page": "3",
        "limit": "25",
        "sort_field": "created_at",
        "sort_order": "asc",
        "filters[0][field]": "ref",
        "filters[0][operator]": "=",
        "filters[0][value]": "021",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        {"page": 0},
        {"page_size": 0},
        {"page_size": True},
        {"query": {"limit": 3}},
        {"query": {"status": "paid"}},
        {"query": {"filters": "ref=021"}},
        {"query": {"q": "half \ud800"}},
        {"include": [1]},
    ],
)
def test_a_page_that_makes_no_sense_is_not_built(arguments: dict[str, Any]) -> None:
    with pytest.raises(YouCanInvalidInputError):
        endpoints.list_orders(**arguments)


# --- successes ---


@pytest.mark.parametrize(("request_", "payload"), SUCCESSES)
def test_the_documented_answers_are_successes(request_: endpoints.Request, payload: dict[str, Any]) -> None:
    assert read(request_, 200, payload) == payload


@pytest.mark.parametrize(
    ("request_", "status_code", "body", "payload"),
    [
        (resthooks.subscribe_webhook("order.paid", "https://x.example"), 201, b'{"id": "7"}', {"id": "7"}),
        (resthooks.unsubscribe_webhook("7", is_template=True), 204, b"", {}),
        (resthooks.unsubscribe_webhook("7", is_template=True), 200, b"", {}),
        (resthooks.unsubscribe_webhook("7", is_template=True), 202, b"\n", {}),
        (resthooks.unsubscribe_webhook("7"), 200, b'{"id": "7"}', {"id": "7"}),
        (
            resthooks.unsubscribe_webhook("7"),
            200,
            b'{"message": "m", "type": "success"}',
            {"message": "m", "type": "success"},
        ),
        (resthooks.list_webhooks(), 200, b"[]", {"data": []}),
    ],
)
def test_undocumented_answers_about_webhooks_may_have_any_usual_form(
    request_: endpoints.Request, status_code: int, body: bytes, payload: dict[str, Any]
) -> None:
    assert responses.read_response(request_, Answer(status_code, {}, body)) == payload


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize(
    "body",
    [b"", b"<html>Log in</html>", b"null", b"[]", b"{}", b"200", b'{"status": 200', b"\xff\xfe", b"[" * 100_000],
)
def test_a_200_that_is_not_youcans_is_no_success(request_: endpoints.Request, body: bytes) -> None:
    with pytest.raises(YouCanUnexpectedResponseError):
        responses.read_response(request_, Answer(200, {}, body))


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (resthooks.list_webhooks(), {"status": 0, "data": []}),
        (resthooks.list_webhooks(), {"data": [{"event": "order.paid"}]}),
        (resthooks.unsubscribe_webhook("7"), {"status": 0, "detail": "no"}),
        (resthooks.unsubscribe_webhook("7"), {"message": "no", "type": "error"}),
        (resthooks.subscribe_webhook("order.paid", "https://x.example"), {"status": 0, "id": "7"}),
        (UPDATE, {"status": 0, "detail": "order not found", "meta": []}),
        (UPDATE, {"status": 401, "detail": "Unauthenticated"}),
        (UPDATE, {"status": "success"}),
        (UPDATE, {**UPDATED, "error": "store is suspended"}),
        (UPDATE, {"detail": "Status is successfully updated"}),
        (UPDATE, DOCUMENTED_ORDER),
        (endpoints.get_order(ORDER_ID), UPDATED),
        (endpoints.get_order(ORDER_ID), {**DOCUMENTED_ORDER, "id": "another"}),
        (endpoints.list_orders(), {"data": [{"ref": "021"}], "meta": PAGE["meta"]}),
        (endpoints.list_orders(), {"data": [], "meta": []}),
        (endpoints.list_orders(page=2), PAGE),
        (endpoints.list_orders(), {"data": [], "meta": {"pagination": {"total_pages": 2}}}),
        (endpoints.list_orders(), {"data": [{"id": "a"}], "meta": {"pagination": {"total_pages": 0}}}),
        (endpoints.list_orders(), {"data": [{"id": "a"}], "meta": {"pagination": {"total_pages": True}}}),
        (endpoints.get_store_statuses(), {"shipping": [], "payment": []}),
        (endpoints.get_store(), UPDATED),
        (endpoints.get_store(), {"status": 401, "detail": "Unauthenticated", "name": "x"}),
    ],
)
def test_a_200_whose_body_says_otherwise_is_no_success(request_: endpoints.Request, payload: dict[str, Any]) -> None:
    with pytest.raises(YouCanUnexpectedResponseError):
        read(request_, 200, payload)


def test_a_status_of_the_store_without_a_slug_is_passed_over() -> None:
    payload = {**SETTINGS, "payment": [{"name": "paid"}, None, {"slug": None}, {"slug": "collected"}]}

    assert endpoints.read_store_slugs(read(endpoints.get_store_statuses(), 200, payload))["payment"] == ["collected"]
