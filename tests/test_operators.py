"""The three operators, each row of what a user may give them, against the sandbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException, BaseOperator

from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanOrderNotFoundError,
    YouCanPermanentError,
    YouCanPermissionError,
    YouCanServerError,
    YouCanUnknownStatusError,
)
from airflow_provider_youcan.operators.order_status import (
    YouCanUpdateOrderStatusOperator,
    YouCanUpdatePaymentStatusOperator,
    YouCanUpdateShippingStatusOperator,
)
from tests.conftest import Sandbox

OPERATORS = {
    "general": YouCanUpdateOrderStatusOperator,
    "shipping": YouCanUpdateShippingStatusOperator,
    "payment": YouCanUpdatePaymentStatusOperator,
}
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


def update(context: str, order_id: Any, status: Any, **arguments: Any) -> Any:
    operator: BaseOperator = OPERATORS[context](task_id="update", order_id=order_id, status=status, **arguments)
    return operator.execute({})  # type: ignore[typeddict-item]


def changes(sandbox: Sandbox) -> list[dict[str, Any]]:
    return [request for request in sandbox.shop.requests() if request["method"] == "PUT"]


@pytest.mark.parametrize(("context", "status"), [("general", "closed"), ("shipping", "shipped"), ("payment", "paid")])
def test_each_operator_sets_its_own_status(sandbox: Sandbox, order_id: str, context: str, status: str) -> None:
    before = sandbox.shop.statuses(order_id)

    result = update(context, order_id, status)

    assert result == {
        "order_id": order_id,
        "context": context,
        "status": status,
        "previous_status": None,
        "changed": True,
    }
    assert sandbox.shop.statuses(order_id) == {**before, context: status}
    assert len(sandbox.shop.requests()) == 1, "a documented slug goes straight out"


def test_the_arguments_that_are_templated() -> None:
    for operator in OPERATORS.values():
        assert tuple(operator.template_fields) == ("order_id", "status", "youcan_conn_id", "only_from")


def test_every_operator_has_the_link() -> None:
    for operator in OPERATORS.values():
        assert [link.name for link in operator.operator_extra_links] == ["YouCan order"]


# --- the check of the status ---


def test_a_status_of_the_stores_own_is_sent_as_it_is(sandbox: Sandbox, order_id: str) -> None:
    assert update("shipping", order_id, "تم التسليم")["changed"]

    assert sandbox.shop.statuses(order_id)["shipping"] == "تم التسليم"


@pytest.mark.parametrize("status", ["shiped", "Shipped"])
def test_a_typo_is_refused_with_what_was_meant(sandbox: Sandbox, order_id: str, status: str) -> None:
    with pytest.raises(YouCanUnknownStatusError, match="did you mean 'shipped'"):
        update("shipping", order_id, status)

    assert changes(sandbox) == []


def test_a_label_that_is_meant_can_be_set(sandbox: Sandbox, order_id: str) -> None:
    update("general", order_id, "chez le voisin", allow_custom_label=True)

    assert sandbox.shop.statuses(order_id)["general"] == "chez le voisin"


def test_a_list_that_may_not_be_read_says_how_to_go_on(
    sandbox: Sandbox, order_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = sandbox.shop.issue_token(["edit-orders", "read-orders"])["access_token"]
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection(token))

    with pytest.raises(YouCanPermissionError, match=r"grant the scope 'read-orders-statuses'.*allow_custom_label=True"):
        update("general", order_id, "confirmed")

    assert changes(sandbox) == []
    assert update("general", order_id, "confirmed", allow_custom_label=True)["changed"]


def test_a_list_that_cannot_be_read_now_sends_nothing(sandbox: Sandbox, order_id: str, no_waiting: None) -> None:
    sandbox.misbehave("status", status=503, route="GET /orders/settings")

    with pytest.raises(YouCanServerError):
        update("general", order_id, "confirmed")

    assert changes(sandbox) == []


# --- only_from ---


@pytest.mark.parametrize("only_from", ["pending", ["pending", "unpaid"], ("pending",), {"pending"}])
def test_a_guard_lets_pass_what_it_names(sandbox: Sandbox, order_id: str, only_from: Any) -> None:
    result = update("payment", order_id, "paid", only_from=only_from)

    assert result["previous_status"] == "pending"
    assert result["changed"] is True
    assert sandbox.shop.statuses(order_id)["payment"] == "paid"


def test_a_guard_finds_the_target_reached(sandbox: Sandbox, order_id: str) -> None:
    sandbox.shop.set_status(order_id, "payment", "paid")

    result = update("payment", order_id, "paid", only_from="pending")

    assert result == {
        "order_id": order_id,
        "context": "payment",
        "status": "paid",
        "previous_status": "paid",
        "changed": False,
    }
    assert changes(sandbox) == []


def test_a_guard_skips_what_has_moved_on(sandbox: Sandbox, order_id: str) -> None:
    sandbox.shop.set_status(order_id, "payment", "refunded")

    with pytest.raises(AirflowSkipException, match=r"is 'refunded', not 'pending' or 'unpaid', so it was left alone"):
        update("payment", order_id, "paid", only_from=["pending", "unpaid"])

    assert changes(sandbox) == []


def test_a_guard_with_a_typo_does_not_skip_without_a_warning(
    sandbox: Sandbox, order_id: str, log_lines: Callable[[], list[str]]
) -> None:
    with pytest.raises(AirflowSkipException, match="is 'pending', not 'pendng'"):
        update("payment", order_id, "paid", only_from="pendng")

    assert any("only_from names 'pendng': did you mean 'pending'?" in line for line in log_lines())


def test_a_guard_can_name_a_junk_label_to_repair_it(sandbox: Sandbox, order_id: str) -> None:
    sandbox.shop.set_status(order_id, "payment", "payed")

    assert update("payment", order_id, "paid", only_from="payed")["previous_status"] == "payed"


def test_a_guard_fails_where_the_status_cannot_be_read(sandbox: Sandbox, order_id: str) -> None:
    sandbox.misbehave("status", status=200, route="GET /orders/*", body=f'{{"id": "{order_id}", "payment_status": 4}}')

    with pytest.raises(YouCanPermanentError, match=r"can't be read, so only_from can't be checked"):
        update("payment", order_id, "paid", only_from="pending")

    assert changes(sandbox) == []


@pytest.mark.parametrize("only_from", [[], "", " ", [""], [None], ["pending", 3], 5, iter(["pending"])])
def test_a_guard_that_says_nothing_is_refused(sandbox: Sandbox, only_from: Any) -> None:
    with pytest.raises(YouCanInvalidInputError, match="only_from .* nothing was sent"):
        update("payment", "abc", "paid", only_from=only_from)

    assert sandbox.shop.requests() == []


@pytest.mark.parametrize("flag", ["allow_custom_label", "skip_not_found"])
@pytest.mark.parametrize("value", ["False", "true", 0, 1, None, []])
def test_a_flag_that_is_not_plain_is_refused(flag: str, value: Any) -> None:
    """Whatever is not false is true to Python: "False" would put a typo on a customer's order."""
    with pytest.raises(YouCanInvalidInputError, match=f"{flag} is .* give True or False"):
        update("payment", "abc", "payd", **{flag: value})


# --- skip_not_found ---


def test_an_order_that_is_gone_fails(sandbox: Sandbox) -> None:
    with pytest.raises(YouCanOrderNotFoundError, match=UNKNOWN_ID):
        update("payment", UNKNOWN_ID, "paid")


@pytest.mark.parametrize("only_from", [None, "pending"])
def test_an_order_that_is_gone_can_be_skipped(sandbox: Sandbox, only_from: str | None) -> None:
    with pytest.raises(AirflowSkipException, match=f"skip_not_found is set.*{UNKNOWN_ID}"):
        update("payment", UNKNOWN_ID, "paid", skip_not_found=True, only_from=only_from)


@pytest.mark.parametrize(
    "body",
    [
        "<html>nginx: not found</html>",
        '{"status": false, "message": "no Route matched"}',
        '{"detail": "Unknown path /order-service/"}',
        '{"status": 0, "detail": "no such store"}',
    ],
)
@pytest.mark.usefixtures("no_waiting")
def test_a_shop_that_was_never_asked_is_not_skipped(sandbox: Sandbox, order_id: str, body: str) -> None:
    sandbox.misbehave("status", status=404, body=body)

    with pytest.raises(YouCanError) as raised:
        update("payment", order_id, "paid", skip_not_found=True)

    assert not isinstance(raised.value, YouCanOrderNotFoundError)


# --- bad input ---


@pytest.mark.parametrize("order_id", [None, "None", "", "../stores", "a/status/payment?x", 3, "\n"])
def test_a_bad_order_id_fails_before_a_request(sandbox: Sandbox, order_id: Any) -> None:
    with pytest.raises(YouCanInvalidInputError, match="nothing was sent"):
        update("payment", order_id, "paid")

    assert sandbox.shop.requests() == []


@pytest.mark.parametrize("order_id", ["nan", "NaN", "null", "<NA>", "undefined"])
def test_a_tables_empty_id_is_not_an_unknown_order(sandbox: Sandbox, order_id: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match="The order id is empty"):
        update("payment", order_id, "paid", skip_not_found=True)


def test_an_empty_xcom_says_where_to_look(sandbox: Sandbox) -> None:
    with pytest.raises(YouCanInvalidInputError, match="order id is empty .*check where it comes from"):
        update("payment", None, "paid")


@pytest.mark.parametrize(
    "status",
    [
        "",
        " ",
        None,
        "None",
        "null",
        "NaN",
        5,
        "['my-label']",
        '["paid", "unpaid"]',
        '{"status": "paid"}',
        "x" * 256,
        "paid\x00",
        "\x1b[2Jpaid",
        "paid\nunpaid",
        "paid\u2028",
    ],
)
def test_an_invalid_label_fails_before_a_request(sandbox: Sandbox, order_id: str, status: Any) -> None:
    with pytest.raises(YouCanInvalidInputError, match="nothing was sent"):
        update("payment", order_id, status, allow_custom_label=True)

    assert sandbox.shop.requests() == []


def test_a_revoked_token_names_the_connection_to_renew(sandbox: Sandbox, order_id: str) -> None:
    sandbox.shop.revoke_token("sandbox-access-token")

    with pytest.raises(YouCanAuthenticationError, match="renew the token in the Airflow connection 'youcan_default'"):
        update("payment", order_id, "paid")

    assert len(sandbox.shop.requests()) == 1


def test_a_login_page_is_never_a_success(sandbox: Sandbox, order_id: str, no_waiting: None) -> None:
    sandbox.misbehave("html")

    with pytest.raises(YouCanError):
        update("payment", order_id, "paid")

    assert len(sandbox.shop.requests()) == 4
    assert sandbox.shop.statuses(order_id)["payment"] == "pending"


def test_one_line_says_what_was_done(sandbox: Sandbox, order_id: str, log_lines: Callable[[], list[str]]) -> None:
    update("payment", order_id, "paid", only_from="pending")

    (line,) = [line for line in log_lines() if order_id in line]
    assert f"Order {order_id}: payment 'pending' → 'paid'." in line
