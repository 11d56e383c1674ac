"""What is taken for granted about YouCan: ``python -m airflow_provider_youcan check``."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_youcan.__main__ import main
from airflow_provider_youcan.client.assumptions import Assumption, collect, evaluate
from airflow_provider_youcan.client.attempts import Attempts
from airflow_provider_youcan.client.endpoints import Request
from airflow_provider_youcan.client.responses import Answer
from airflow_provider_youcan.exceptions import YouCanError
from airflow_provider_youcan.hooks.youcan import YouCanHook
from tests.conftest import Sandbox
from tests.forked import run_airflow, run_module

TOKEN = "sandbox-access-token"
Alter = Callable[[Any], Any]


def check(
    *alterations: tuple[str, Alter],
    status: int | None = None,
    headers: dict[str, str] | None = None,
    token: str | None = None,
) -> Any:
    """Check the sandbox, as if it answered otherwise to the requests of these purposes."""
    hook = YouCanHook()
    credentials = hook._get_credentials(Attempts())
    session = hook.get_conn()

    def send(request: Request) -> Answer:
        answer = session.send_request(request, credentials)  # type: ignore[attr-defined]
        for purpose, alter in alterations:
            if _is_for(request, purpose):
                body = alter(json.loads(answer.body))
                return Answer(status or answer.status_code, headers or answer.headers, json.dumps(body).encode())
        return answer

    return {assumption.name: assumption for assumption in evaluate(collect(send, token or credentials.token))}


def _is_for(request: Request, purpose: str) -> bool:
    kinds = {
        "store": request.path == "/me",
        "settings": request.path == "/orders/settings",
        "page": request.params.get("limit") == "100" and request.params["page"] == "1",
        "beyond": request.params.get("limit") == "100" and request.params["page"] != "1",
        "first": request.params.get("limit") == "3" and request.params["page"] == "1",
        "second": request.params.get("limit") == "3" and request.params["page"] == "2",
        "search": "q" in request.params,
        "order": request.order_id is not None,
        "route": request.path == "/no-such-route",
        "webhooks": request.path.startswith("/resthooks"),
    }
    return kinds[purpose]


def with_order(**changes: Any) -> Alter:
    def alter(page: Any) -> Any:
        page["data"][-1].update(changes)
        return page

    return alter


def with_pagination(**changes: Any) -> Alter:
    def alter(page: Any) -> Any:
        page["meta"]["pagination"].update(changes)
        return page

    return alter


def in_the_order(change: Callable[[Any], None]) -> Alter:
    """Alter an order that is there; the answer about one that isn't stays."""

    def alter(order: Any) -> Any:
        if "id" in order:
            change(order)
        return order

    return alter


def forbidden(_: Any) -> Any:
    return {"status": 403, "detail": "Forbidden +212600000000", "meta": []}


def drop(*names: str) -> Callable[[Any], None]:
    return lambda order: [order.pop(name, None) for name in names] and None


def without_statuses(page: Any) -> Any:
    for order in page["data"]:
        for name in ("status_object", "payment", "payment_status", "shipping", "shipping_status"):
            order.pop(name, None)
    return page


def reverse(page: Any) -> Any:
    page["data"].reverse()
    return page


def other_status(order: Any) -> None:
    order["payment"]["status_object"]["slug"] = "call Fatima"


def no_documented(settings: Any) -> Any:
    settings["payment"] = [{"slug": "Is paid", "name": "paid"}]
    return settings


ORDER = {"id": "00000000-0000-4000-8000-00000000000a", "status": 200}

# For each assumption what the shop answers that belies it.
FIRST_ID = "3116f8a6-b453-49ce-9174-db3dffbb8629"

BELIED: dict[str, dict[str, Any]] = {
    "The token has the scope read-orders": {"alter": ("page", forbidden), "status": 403},
    "The token has the scope read-orders-statuses": {"alter": ("settings", forbidden), "status": 403},
    "The token has the scope view-store-info": {"alter": ("store", forbidden), "status": 403},
    "The store has a slug, by which a plan knows it": {"alter": ("store", lambda _: {"name": "Shop"})},
    "A page has at most 50 orders": {"alter": ("page", with_pagination(per_page=100))},
    "A page has a number, and says how many there are": {"alter": ("page", with_pagination(total="many"))},
    "Orders come in the order of created_at": {"alter": ("first", reverse)},
    "Pages follow each other without a repeat": {
        "alter": ("second", lambda page: page | {"data": [{"id": FIRST_ID, "created_at": "2026-01-01T00:00:00Z"}]})
    },
    "Behind the last page is an empty one": {"alter": ("beyond", lambda page: page | {"data": [ORDER]})},
    "An order's id is a UUID in lower case": {"alter": ("page", with_order(id="ABC"))},
    "An order has a ref, as text": {"alter": ("page", with_order(ref=21))},
    "The list shows each status of an order": {"alter": ("page", without_statuses)},
    "include sends payment and shipping along": {"alter": ("order", in_the_order(drop("payment")))},
    "An order shows each of its statuses as a slug": {
        "alter": ("order", in_the_order(drop("shipping", "shipping_status")))
    },
    "List and order say the same statuses": {"alter": ("order", in_the_order(other_status))},
    "A search for a ref finds its order": {"alter": ("search", lambda page: page | {"data": []})},
    "The store's lists have documented statuses": {"alter": ("settings", no_documented)},
    "An unknown order is answered with a 404 that says so": {"alter": ("order", lambda _: {"detail": "Not Found"})},
    "An unknown route is not taken for an unknown order": {
        "alter": ("route", lambda _: {"status": 0, "detail": "order not found"})
    },
    "Webhooks are listed at the documented route, or the app template's": {
        "alter": ("webhooks", lambda _: {"data": "none"})
    },
    "A rate limit shows in X-RateLimit-*, or not at all": {
        "alter": ("store", lambda store: store),
        "headers": {"X-RateLimit-Limit": "sixty"},
    },
}


def test_in_the_sandbox_all_of_it_holds_and_nothing_is_sent_but_reads(sandbox: Sandbox) -> None:
    found = YouCanHook().check_assumptions()

    assert [one.name for one in found if not one.holds] == []
    assert {one.name for one in found} == set(BELIED)
    assert len(sandbox.shop.requests()) == 11
    assert {request["method"] for request in sandbox.shop.requests()} == {"GET"}


@pytest.mark.parametrize("name", BELIED)
def test_an_assumption_that_does_not_hold_is_found_out(sandbox: Sandbox, name: str) -> None:
    belied = dict(BELIED[name])
    found: dict[str, Assumption] = check(belied.pop("alter"), **belied)

    assert found[name].holds is False
    assert "+212600000000" not in str(found)
    assert "Fatima" not in str(found)


def test_which_routes_of_webhooks_a_shop_has_is_told(sandbox: Sandbox) -> None:
    name = "Webhooks are listed at the documented route, or the app template's"

    assert check()[name].seen == "at /resthooks/list, the documented one"
    sandbox.misbehave("status", status=403, route="GET /resthooks*")
    assert check()[name].seen == "not shown: refused with 403, and webhooks take an app"
    sandbox.misbehaviours.clear()
    sandbox.misbehave("template-resthooks")
    found = check()[name]
    assert (found.holds, found.seen) == (True, "at /resthooks, the app template's")


def test_a_shop_without_orders_shows_less(sandbox: Sandbox) -> None:
    def empty(page: Any) -> Any:
        return page | {
            "data": [],
            "meta": {"pagination": {"total": 0, "per_page": 50, "current_page": 1, "total_pages": 1}},
        }

    found = check(
        ("page", empty),
        ("first", empty),
        ("second", lambda page: empty(page) | {"meta": {"pagination": {"total_pages": 1, "current_page": 2}}}),
    )

    assert found["A page has at most 50 orders"].holds is True
    unseen = [name for name, assumption in found.items() if assumption.holds is None]
    assert "A search for a ref finds its order" in unseen
    assert "Orders come in the order of created_at" in unseen
    assert all(assumption.holds is not False for assumption in found.values())


def test_a_list_that_can_not_be_read_is_the_reason_for_what_rests_on_it(sandbox: Sandbox) -> None:
    found = check(("page", lambda _: {"data": "none"}))

    assert found["A search for a ref finds its order"].holds is False
    assert found["A search for a ref finds its order"].seen == "HTTP 200: YouCanUnexpectedResponseError"


def test_an_order_that_the_list_calls_otherwise_is_found_out_without_a_crash(sandbox: Sandbox) -> None:
    found = check(("order", in_the_order(lambda order: order.update(id=order["id"].upper()))))
    assert found["List and order say the same statuses"].holds is True

    def rename(page: Any) -> Any:
        page["data"][0]["id"] = "../etc"
        return page

    found = check(("page", rename))
    assert found["An order's id is a UUID in lower case"].holds is False
    assert found["A search for a ref finds its order"].holds is None


def test_the_command_says_so_with_its_exit_code(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert "A page has at most 50 orders" in capsys.readouterr().out

    sandbox.misbehave("status", route="GET /me", status=403)
    assert main(["check"]) == 1
    assert "NO" in capsys.readouterr().out


@pytest.mark.parametrize(("status", "requests"), [(401, 3), (402, 1), (429, 1)])
def test_a_shop_that_answers_nothing_ends_in_a_sentence(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str], status: int, requests: int
) -> None:
    sandbox.misbehave("status", status=status)

    assert main(["check"]) == 1
    written = capsys.readouterr()
    assert written.out == ""
    assert "Could not " in written.err
    assert len(sandbox.shop.requests()) == requests


def test_one_endpoint_that_refuses_with_a_401_is_a_missing_scope(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.misbehave("status", route="GET /me", status=401)

    assert main(["check", "--json"]) == 1
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["assumptions"]}
    assert found["The token has the scope view-store-info"]["holds"] is False
    assert found["The token has the scope view-store-info"]["seen"] == "refused with 401: grant it in the seller area"
    assert found["The token has the scope read-orders"]["holds"] is True


@pytest.mark.usefixtures("_airflow_database")
def test_a_token_that_ran_out_is_renewed_first(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = sandbox.shop.issue_token()
    client = {"client_id": "sandbox-client", "client_secret": "sandbox-client-secret"}
    connection = sandbox.connection("ran-out", refresh_token=tokens["refresh_token"], **client)
    monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", connection)

    assert main(["check"]) == 0


def test_trouble_of_the_moment_says_nothing_of_what_is_assumed(sandbox: Sandbox) -> None:
    found = check(("settings", lambda settings: settings), status=503)

    scope = found["The token has the scope read-orders-statuses"]
    assert (scope.holds, scope.seen) == (None, "HTTP 503: YouCanServerError")


@pytest.mark.parametrize(("scopes", "holds"), [(["read-orders"], False), (["edit-orders"], True), (["*"], True)])
def test_a_token_that_names_its_scopes_shows_whether_it_may_edit(
    sandbox: Sandbox, scopes: list[str], holds: bool
) -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"scopes": scopes}).encode()).decode().rstrip("=")
    found = check(token=f"e30.{claims}.x")

    assert found["The token has the scope edit-orders"].holds is holds


def test_a_connection_that_is_missing_ends_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--conn-id", "nowhere"]) == 1
    assert "There is no Airflow connection 'nowhere'" in capsys.readouterr().err


def test_the_report_holds_no_token_and_nothing_of_a_customer(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    order = sandbox.shop.order(sandbox.shop.order_ids()[0])
    assert order is not None

    assert main(["check", "--json"]) == 0
    written = capsys.readouterr()

    report = json.loads(written.out)
    assert report["holds"] is True
    assert {"name", "source", "holds", "seen"} == set(report["assumptions"][0])
    assert report["airflow"]
    for secret in (TOKEN, order["id"], "+212", "@"):
        assert secret not in written.out + written.err


@pytest.mark.airflow
@pytest.mark.usefixtures("_airflow_database")
def test_a_connection_of_airflows_database_is_found(sandbox: Sandbox) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_CONN_")}
    add = ["connections", "add", "checked_shop", "--conn-json", sandbox.connection()]
    run_airflow(*add, environment=environment)

    run_module("airflow_provider_youcan", "check", "--conn-id", "checked_shop", environment=environment)

    run_airflow("connections", "delete", "checked_shop", environment=environment)


def test_errors_of_the_shop_are_raised_by_the_hook(sandbox: Sandbox) -> None:
    sandbox.misbehave("drop")
    with pytest.raises(YouCanError):
        YouCanHook().check_assumptions()


def test_a_refusal_names_the_connection_that_was_checked(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CASABLANCA", sandbox.connection("revoked"))

    with pytest.raises(YouCanError, match="'casablanca'") as error:
        YouCanHook("casablanca").check_assumptions()

    assert "youcan_default" not in str(error.value)


def test_a_login_page_is_one_error_and_no_table_of_doubts(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox.misbehave("html")

    assert main(["check"]) != 0

    said = capsys.readouterr()
    assert "Not YouCan's confirmation (200), perhaps a login page's" in said.err + said.out
    assert "The token has the scope" not in said.out
