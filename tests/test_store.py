"""The store: its own statuses, its scopes, and whether its connection works."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import pytest

from airflow_provider_youcan.client import store
from airflow_provider_youcan.client.procedures import Procedure
from airflow_provider_youcan.exceptions import (
    YouCanPermissionError,
    YouCanUnknownStatusError,
)
from airflow_provider_youcan.hooks.youcan import YouCanHook
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.sandbox.shop import ALL_SCOPES
from tests.conftest import Connect, Sandbox, payable, reconcile

PAYMENT = StatusContext.PAYMENT


def end(procedure: Procedure[Any], answer: object) -> Any:
    """Give a procedure its last answer, and return its result."""
    with pytest.raises(StopIteration) as stop:
        procedure.throw(answer) if isinstance(answer, Exception) else procedure.send(answer)
    return stop.value.value


# --- its statuses ---


def test_a_documented_status_passes_without_a_request() -> None:
    procedure = store.check_status("paid", PAYMENT, {}, "youcan_default")

    with pytest.raises(StopIteration):
        next(procedure)


def settings(**lists: list[str]) -> dict[str, Any]:
    names = {"general": "ordersStatus", "shipping": "shipping", "payment": "payment"}
    return {name: [{"slug": slug} for slug in lists.get(context, [])] for context, name in names.items()}


def test_the_stores_list_is_read_once_and_kept() -> None:
    known: dict[StatusContext, list[str]] = {}
    procedure = store.check_status("collected", PAYMENT, known, "youcan_default")
    next(procedure)
    end(procedure, settings(payment=["collected"]))

    with pytest.raises(StopIteration):
        next(store.check_status("collected", PAYMENT, known, "youcan_default"))
    with pytest.raises(YouCanUnknownStatusError):
        next(store.check_status("colected", PAYMENT, known, "youcan_default"))


def test_a_table_goes_by_the_stores_own_list() -> None:
    asked = [(PAYMENT, "paid"), (PAYMENT, "captured"), (StatusContext.SHIPPING, "shipped")]
    procedure = store.check_statuses(asked, "youcan_default")
    next(procedure)

    # The store has deleted 'captured', and its list of shipping statuses is as incomplete as YouCan's own example.
    unknown, incomplete, *_ = end(procedure, settings(payment=["paid", "pending"], shipping=["out-for-delivery"]))

    assert list(unknown) == [(PAYMENT, "captured")]
    assert incomplete == [StatusContext.SHIPPING]


@pytest.mark.parametrize(("status", "is_refused"), [("captured", False), ("collected", True)])
def test_without_the_list_the_documented_slugs_decide(status: str, is_refused: bool) -> None:
    procedure = store.check_statuses([(PAYMENT, status)], "my_shop")
    next(procedure)

    if is_refused:
        with pytest.raises(YouCanPermissionError, match="'read-orders-statuses'.*'my_shop'"):
            procedure.throw(YouCanPermissionError("403"))
    else:
        assert end(procedure, YouCanPermissionError("403"))[:2] == ({}, [])


def test_it_reads_the_stores_statuses_once(hook: YouCanHook, sandbox: Sandbox) -> None:
    statuses = hook.get_store_statuses()
    statuses[StatusContext.GENERAL].clear()

    assert "confirmed" in hook.get_store_statuses()[StatusContext.GENERAL]
    assert "تم التسليم" in hook.get_store_statuses()[StatusContext.SHIPPING]
    assert len(sandbox.shop.requests()) == 1


def test_it_reads_the_store(hook: YouCanHook) -> None:
    assert hook.get_store()["currency"] == {"code": "MAD", "symbol": "DH"}


def test_a_documented_status_is_known_without_a_request(hook: YouCanHook, sandbox: Sandbox) -> None:
    hook.check_status("paid", "payment")
    hook.check_status("anything", "payment", allow_custom_label=True)

    assert sandbox.shop.requests() == []
    with pytest.raises(YouCanUnknownStatusError):
        hook.check_status("anything", "payment")


def test_a_status_of_another_context_is_unknown(hook: YouCanHook) -> None:
    with pytest.raises(YouCanUnknownStatusError):
        hook.check_status("paid", "shipping")


def test_a_status_that_resembles_a_documented_one_says_so_without_the_list(connect: Connect, sandbox: Sandbox) -> None:
    token = sandbox.shop.issue_token(["edit-orders"])["access_token"]

    with pytest.raises(YouCanPermissionError, match="did you mean 'shipped'"):
        connect(token=token).check_status("shiped", "shipping")


def test_a_documented_status_that_the_store_has_deleted_is_refused(sandbox: Sandbox) -> None:
    lists = {
        context: [status for status in statuses if status["slug"] != "captured"]
        for context, statuses in sandbox.shop.store_statuses().items()
    }
    sandbox.shop.replace_statuses(lists)
    row = {"order_id": payable(sandbox)[0], "payment_status": "captured"}

    with pytest.raises(YouCanUnknownStatusError, match="'captured' is not a payment status of this store"):
        reconcile([row])
    # A list that may not be read leaves it with the documented ones.
    token = sandbox.shop.issue_token(["edit-orders", "read-orders"])["access_token"]
    os.environ["AIRFLOW_CONN_YOUCAN_DEFAULT"] = sandbox.connection(token)
    assert reconcile([row])["changed"] == 1


def test_a_list_that_is_incomplete_is_reported(sandbox: Sandbox, capsys: Any, caplog: pytest.LogCaptureFixture) -> None:
    sandbox.shop.replace_statuses({**sandbox.shop.store_statuses(), StatusContext.PAYMENT: [{"slug": "Is unpaid"}]})

    assert reconcile([{"order_id": payable(sandbox)[0], "payment_status": "paid"}])["changed"] == 1

    assert "lacks YouCan's documented ones: both count" in caplog.text + capsys.readouterr().out


# --- its scopes ---


@pytest.mark.parametrize(
    ("scopes", "call", "scope"),
    [
        (["read-orders"], lambda hook, order_id: hook.update_order_status(order_id, "paid"), "edit-orders"),
        (["edit-orders"], lambda hook, order_id: hook.get_order(order_id), "read-orders"),
        (["edit-orders"], lambda hook, order_id: list(hook.iter_orders()), "read-orders"),
        (["edit-orders"], lambda hook, order_id: hook.get_store_statuses(), "read-orders-statuses"),
    ],
)
def test_a_missing_scope_is_named(
    connect: Connect, sandbox: Sandbox, order_id: str, scopes: list[str], call: Any, scope: str
) -> None:
    token = sandbox.shop.issue_token(scopes)["access_token"]

    with pytest.raises(YouCanPermissionError, match=f"grant the scope '{scope}'"):
        call(connect(token=token), order_id)


# --- testing the connection ---


def test_the_connection_test_names_the_store(hook: YouCanHook) -> None:
    assert hook.test_connection() == (
        True,
        "Connected to the YouCan store 'Sandbox Shop'. Scopes of its token: 'read-orders', 'read-orders-statuses', "
        "'view-store-info'. "
        "Whether it has 'edit-orders' can't be known without changing an order.",
    )


def test_the_connection_test_says_what_is_wrong(connect: Connect) -> None:
    reached, message = connect(token="revoked-token").test_connection()

    assert not reached
    assert "renew the token in this connection" in message


@pytest.mark.parametrize(
    ("scopes", "claimed", "message"),
    [
        (ALL_SCOPES, ["read-orders"], "Missing, to be granted in YouCan's seller area: 'edit-orders'."),
        (
            ALL_SCOPES,
            ["*"],
            "'read-orders', 'read-orders-statuses', 'view-store-info', 'edit-orders'.",
        ),
        (ALL_SCOPES, None, "Whether it has 'edit-orders' can't be known without changing an order."),
        (
            ["read-orders"],
            ["edit-orders"],
            "'edit-orders'. Missing, to be granted in YouCan's seller area: 'read-orders-",
        ),
        (
            [],
            ["read-orders"],
            "Missing, to be granted in YouCan's seller area: 'read-orders', 'read-orders-",
        ),
    ],
)
def test_the_connection_test_says_the_scopes_and_changes_nothing(
    connect: Connect, sandbox: Sandbox, scopes: list[str], claimed: list[str] | None, message: str
) -> None:
    # Given a token that may do some things, and that says which, as a JWT, or doesn't,
    claims = base64.urlsafe_b64encode(json.dumps({"scopes": claimed}).encode()).decode().rstrip("=")
    token = f"head.{claims}.signature" if claimed is not None else "no-jwt"
    sandbox.shop.issue_token(scopes, access_token=token)

    reached, answer = connect(token=token).test_connection()

    assert reached
    assert message in answer
    assert {request["method"] for request in sandbox.shop.requests()} == {"GET"}


@pytest.mark.parametrize(
    ("route", "missing"),
    [("/me", "view-store-info"), ("/orders", "read-orders"), ("/orders/settings", "read-orders-statuses")],
)
def test_a_401_of_one_endpoint_is_a_missing_scope(hook: YouCanHook, sandbox: Sandbox, route: str, missing: str) -> None:
    sandbox.misbehave("status", status=401, route=f"GET {route}")

    reached, message = hook.test_connection()

    assert reached
    assert f"Missing, to be granted in YouCan's seller area: '{missing}'." in message


def test_the_connection_test_of_no_connection_says_so() -> None:
    reached, message = YouCanHook("nowhere").test_connection()

    assert not reached
    assert "There is no Airflow connection 'nowhere': add one of type 'youcan'" in message
