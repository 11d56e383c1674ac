"""Both hooks against the sandbox, over a real socket."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import requests

from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanConnectionError,
    YouCanConnectionNotFoundError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanOrderNotFoundError,
    YouCanPermanentError,
    YouCanPermissionError,
    YouCanRateLimitError,
    YouCanServerError,
    YouCanStoreSuspendedError,
    YouCanUnexpectedResponseError,
    YouCanValidationError,
)
from airflow_provider_youcan.hooks.youcan import YouCanHook
from airflow_provider_youcan.orders import OrderStatuses
from airflow_provider_youcan.sandbox import ACCESS_TOKEN
from tests.conftest import AIRFLOW_3, BlockingAsyncHook, Connect, EitherHook, Sandbox, payable

# --- what it does ---


@pytest.mark.parametrize(("context", "status"), [("general", "closed"), ("shipping", "shipped"), ("payment", "paid")])
def test_it_sets_one_status_and_leaves_the_others(
    either_hook: EitherHook, sandbox: Sandbox, order_id: str, context: str, status: str
) -> None:
    before = sandbox.shop.statuses(order_id)

    assert either_hook.update_order_status(order_id, status, context) is None  # type: ignore[func-returns-value]

    assert sandbox.shop.statuses(order_id) == {**before, context: status}


def test_the_general_status_is_the_one_that_is_meant_by_default(
    either_hook: EitherHook, sandbox: Sandbox, order_id: str
) -> None:
    either_hook.update_order_status(order_id, "تم التأكيد")

    assert sandbox.shop.statuses(order_id)["general"] == "تم التأكيد"


def test_it_reads_an_order_and_its_statuses(either_hook: EitherHook, order_id: str) -> None:
    assert either_hook.get_order(order_id)["payment"]["gateway_type_text"] == "Cash on Delivery"
    assert "customer" in either_hook.get_order(order_id, include=["customer"])
    assert either_hook.get_order_statuses(order_id) == OrderStatuses("open", "unfulfilled", "pending")


def test_the_page_of_an_order_is_in_the_seller_area_or_in_the_sandbox(connect: Connect, sandbox: Sandbox) -> None:
    page = connect(host="https://api.youcan.shop").get_order_page("abc")
    assert page == "https://seller-area.youcan.shop/admin/orders/abc"

    (order_id, *_) = sandbox.shop.order_ids()
    page = YouCanHook().get_order_page(order_id)
    assert requests.get(page, timeout=10).json()["statuses"] == sandbox.shop.statuses(order_id)
    assert requests.get(f"{sandbox.url}/sandbox/orders/none", timeout=10).status_code == 404


# --- what the shop answers: a case for each row of the design's table ---


@pytest.mark.parametrize(
    ("trouble", "error", "requests_sent"),
    [
        ({"kind": "drop"}, YouCanConnectionError, 4),
        ({"kind": "lose-answer"}, YouCanConnectionError, 4),
        ({"kind": "half-body"}, YouCanConnectionError, 4),
        ({"kind": "status", "status": 408}, YouCanServerError, 4),
        ({"kind": "status", "status": 500}, YouCanServerError, 4),
        ({"kind": "status", "status": 503}, YouCanServerError, 4),
        ({"kind": "status", "status": 429}, YouCanRateLimitError, 4),
        ({"kind": "status", "status": 429, "headers": {"Retry-After": "61"}}, YouCanRateLimitError, 1),
        ({"kind": "html"}, YouCanUnexpectedResponseError, 4),
        ({"kind": "status", "status": 204}, YouCanUnexpectedResponseError, 4),
        ({"kind": "status", "status": 200}, YouCanUnexpectedResponseError, 4),
        ({"kind": "status", "status": 401}, YouCanAuthenticationError, 1),
        ({"kind": "status", "status": 402}, YouCanStoreSuspendedError, 1),
        ({"kind": "status", "status": 403}, YouCanPermissionError, 1),
        ({"kind": "status", "status": 404}, YouCanOrderNotFoundError, 1),
        ({"kind": "status", "status": 405}, YouCanPermanentError, 1),
        ({"kind": "status", "status": 422}, YouCanValidationError, 1),
        ({"kind": "redirect"}, YouCanPermanentError, 1),
        ({"kind": "redirect", "location": "http://["}, YouCanPermanentError, 1),
    ],
)
def test_each_answer_is_what_airflow_should_make_of_it(
    either_hook: EitherHook,
    sandbox: Sandbox,
    order_id: str,
    no_waiting: None,
    trouble: dict[str, Any],
    error: type[YouCanError],
    requests_sent: int,
) -> None:
    body = '{"status": 401, "detail": "Unauthenticated"}' if trouble.get("status") == 200 else None
    sandbox.misbehave(**trouble, body=body)

    with pytest.raises(YouCanError) as raised:
        either_hook.update_order_status(order_id, "paid", "payment")

    assert type(raised.value) is error
    assert len(sandbox.shop.requests()) == requests_sent
    assert raised.value.url == f"/orders/{order_id}/status/payment"
    assert ACCESS_TOKEN not in f"{raised.value} {vars(raised.value)}"
    assert raised.value.__context__ is None or isinstance(raised.value.__context__, YouCanError)


def test_no_connection_is_a_transient_error(connect: Connect, waits: list[float], order_id: str) -> None:
    with pytest.raises(YouCanConnectionError, match="no connection to http://127.0.0.1:9: check the host"):
        connect(host="http://127.0.0.1:9").get_order(order_id)

    assert len(waits) == 3


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (
            "https://no-such-host.invalid",
            "The host of https://no-such-host.invalid could not be found: check the host of",
        ),
        ("https://127.0.0.1:{port}", "does not speak TLS .*: nothing was changed"),
    ],
)
def test_why_no_connection_came_about_is_reported(
    connect_either: Connect, sandbox: Sandbox, order_id: str, host: str, message: str
) -> None:
    with pytest.raises(YouCanConnectionError, match=message):
        connect_either(host=host.format(port=sandbox.port), max_attempts=1).update_order_status(
            order_id, "paid", "payment"
        )


def test_a_lost_answer_to_an_update_leaves_open_whether_it_took(
    connect_either: Connect, sandbox: Sandbox, order_id: str
) -> None:
    sandbox.misbehave("lose-answer")

    with pytest.raises(YouCanConnectionError, match="whether YouCan took it is unknown"):
        connect_either(max_attempts=1).update_order_status(order_id, "paid", "payment")
    with pytest.raises(YouCanConnectionError, match="nothing was changed"):
        connect_either(max_attempts=1).get_order(order_id)


def test_a_slow_shop_is_a_transient_error(connect_either: Connect, sandbox: Sandbox, order_id: str) -> None:
    sandbox.misbehave("latency", seconds=0.5)

    with pytest.raises(YouCanConnectionError, match=r"no whole answer within 0\.05 s"):
        connect_either(timeout=0.05, max_attempts=1).get_order(order_id)


def test_a_shop_that_recovers_is_a_success_with_a_warning_for_each_wait(
    hook: YouCanHook,
    sandbox: Sandbox,
    order_id: str,
    waits: list[float],
    log_lines: Callable[[], list[str]],
) -> None:
    sandbox.misbehave("status", status=503, times=2)

    hook.update_order_status(order_id, "paid", "payment")

    assert len(waits) == len([line for line in log_lines() if "Trying again in" in line]) == 2
    assert sandbox.shop.statuses(order_id)["payment"] == "paid"


def test_a_short_rate_limit_is_waited_out(
    hook: YouCanHook, sandbox: Sandbox, order_id: str, waits: list[float]
) -> None:
    sandbox.misbehave("status", status=429, headers={"Retry-After": "2"}, times=1)

    hook.update_order_status(order_id, "paid", "payment")

    (wait,) = waits
    assert 2.0 <= wait <= 3.0, "and a little longer, so that those which were refused together don't come back together"


def test_a_long_rate_limit_is_raised_at_once(
    hook: YouCanHook, sandbox: Sandbox, order_id: str, waits: list[float]
) -> None:
    sandbox.misbehave("status", status=429, headers={"Retry-After": "3600"})

    with pytest.raises(YouCanRateLimitError) as raised:
        hook.update_order_status(order_id, "paid", "payment")

    assert raised.value.retry_after == 3600.0
    assert waits == []


def test_a_lost_answer_is_sent_again_and_holds_once(
    either_hook: EitherHook, sandbox: Sandbox, order_id: str, no_waiting: None
) -> None:
    sandbox.misbehave("lose-answer", times=1)

    either_hook.update_order_status(order_id, "paid", "payment")

    assert [update["after"] for update in sandbox.shop.history(order_id)] == ["paid", "paid"]
    assert sandbox.shop.statuses(order_id)["payment"] == "paid"


@pytest.mark.parametrize("location", ["/login", "/orders/settings", "http://127.0.0.1:9/elsewhere", "http://[", "//[x"])
def test_a_redirect_is_never_followed(either_hook: EitherHook, sandbox: Sandbox, order_id: str, location: str) -> None:
    sandbox.misbehave("redirect", location=location)

    with pytest.raises(YouCanPermanentError, match="never followed"):
        either_hook.update_order_status(order_id, "paid", "payment")

    assert len(sandbox.shop.requests()) == 1
    assert sandbox.shop.history() == []


def test_a_hook_that_is_asked_for_an_order_moves_it_only_from_where_it_may(
    either_hook: EitherHook, sandbox: Sandbox, order_id: str
) -> None:
    assert either_hook.move_order_status(order_id, "paid", "payment", only_from=["pending"]) == ("pending", True)
    assert either_hook.move_order_status(order_id, "paid", "payment", only_from=["pending"]) == ("paid", False)
    assert either_hook.move_order_status(order_id, "refunded", "payment", only_from=["pending"]) == ("paid", False)
    assert sandbox.shop.statuses(order_id)["payment"] == "paid"


def test_no_retry_overruns_what_changed_in_the_meantime(
    hook: YouCanHook, sandbox: Sandbox, order_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given an update that is refused once, when someone refunds the order during the wait, then it stays so."""
    maintenance = {"body": '{"message": "Service Unavailable"}', "headers": {"Retry-After": "0"}}
    sandbox.misbehave("status", status=503, route="PUT *", times=1, **maintenance)
    monkeypatch.setattr(YouCanHook, "_pause", lambda *_: sandbox.shop.set_status(order_id, "payment", "refunded"))

    assert hook.move_order_status(order_id, "paid", "payment", only_from=["pending"]) == ("refunded", False)
    assert sandbox.shop.statuses(order_id)["payment"] == "refunded"


def test_a_lost_answer_is_found_to_have_taken(
    either_hook: EitherHook, sandbox: Sandbox, order_id: str, no_waiting: None
) -> None:
    sandbox.misbehave("lose-answer", route="PUT *", times=1)

    assert either_hook.move_order_status(order_id, "paid", "payment", only_from=["pending"]) == ("pending", True)
    assert len(sandbox.shop.history(order_id)) == 1


def test_a_suspended_store_says_so(either_hook: EitherHook, sandbox: Sandbox, order_id: str) -> None:
    sandbox.shop.suspended = True

    with pytest.raises(YouCanStoreSuspendedError, match="store is suspended"):
        either_hook.get_order(order_id)


# --- bad input ---


@pytest.mark.parametrize("order_id", ["None", "", "../stores", "a/status/payment?x", 7, "a\n", None])
def test_a_bad_order_id_is_refused_before_a_request(either_hook: EitherHook, sandbox: Sandbox, order_id: Any) -> None:
    for call in (
        lambda: either_hook.update_order_status(order_id, "paid", "payment"),
        lambda: either_hook.get_order(order_id),
        lambda: either_hook.get_order_statuses(order_id),
    ):
        with pytest.raises(YouCanInvalidInputError):
            call()

    assert sandbox.shop.requests() == []


@pytest.mark.parametrize(("status", "context"), [("", "payment"), (" ", "payment"), ("paid", "orders")])
def test_a_bad_status_is_refused_before_a_request(
    either_hook: EitherHook, sandbox: Sandbox, order_id: str, status: str, context: str
) -> None:
    with pytest.raises(YouCanInvalidInputError):
        either_hook.update_order_status(order_id, status, context)

    assert sandbox.shop.requests() == []


# --- look-ups that fail ---


def test_credentials_that_are_known_go_on_being_used(hook: YouCanHook, monkeypatch: pytest.MonkeyPatch) -> None:
    hook.get_store()
    monkeypatch.delenv("AIRFLOW_CONN_YOUCAN_DEFAULT")
    known = hook._credentials.find()
    assert known is not None
    hook._credentials.store(dataclasses.replace(known, renew_at=0.0))

    if AIRFLOW_3:
        assert hook.get_store()["slug"] == "sandbox"


def test_a_missing_connection_may_be_an_outage_unless_airflow_knows_that_it_is_missing(
    hook_class: type[EitherHook],
) -> None:
    kind = YouCanConnectionNotFoundError if AIRFLOW_3 else YouCanInvalidInputError
    outage = r": add one .* out of reach" if AIRFLOW_3 else ": add one"

    with pytest.raises(kind, match=f"There is no Airflow connection 'nowhere'{outage}"):
        hook_class("nowhere").get_order("abc")


# --- both send the same requests ---


SCENARIOS: dict[str, list[dict[str, Any]]] = {
    "well": [],
    "503": [{"kind": "status", "status": 503, "route": "PUT *", "times": 1}],
    "500": [{"kind": "status", "status": 500, "route": "PUT *", "times": 2}],
    "lost answer": [{"kind": "lose-answer", "route": "PUT *", "times": 1}],
    "dropped": [{"kind": "drop", "route": "*", "times": 1}],
    "429": [{"kind": "status", "status": 429, "headers": {"Retry-After": "0"}, "route": "PUT *", "times": 1}],
    "401": [{"kind": "status", "status": 401, "route": "PUT *", "times": 1}],
    "404": [{"kind": "status", "status": 404, "route": "GET *", "times": 1}],
    "422": [{"kind": "status", "status": 422, "route": "PUT *", "times": 1}],
    "never": [{"kind": "status", "status": 500, "route": "PUT *"}],
    "terse": [{"kind": "terse", "route": "GET *"}],
}


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("only_from", [["pending"], ["unpaid"]])
def test_both_hooks_send_the_same_requests(
    no_waiting: None, monkeypatch: pytest.MonkeyPatch, name: str, only_from: list[str]
) -> None:
    seen = []
    for hook_class in (YouCanHook, BlockingAsyncHook):
        with Sandbox(orders=20) as sandbox:
            monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", sandbox.connection())
            for rule in SCENARIOS[name]:
                sandbox.misbehave(**rule)
            result: Any
            try:
                result = hook_class().move_order_status(payable(sandbox)[0], "paid", "payment", only_from=only_from)
            except YouCanError as error:
                result = (type(error), str(error), error.unconfirmed)
            requests = [(one["method"], one["path"], one["body"], one["status"]) for one in sandbox.shop.requests()]
            seen.append((result, requests))

    assert seen[0] == seen[1]
