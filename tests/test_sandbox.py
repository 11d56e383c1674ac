"""The sandbox: the API as it is documented, and the ways in which it misbehaves."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_provider_youcan.sandbox import ACCESS_TOKEN, Request, Sandbox, Shop
from airflow_provider_youcan.sandbox.misbehaviour import Misbehaviour, Misbehaviours
from airflow_provider_youcan.sandbox.shop import ALL_SCOPES, CLIENT_ID, CLIENT_SECRET
from airflow_provider_youcan.sandbox.warehouse import write_warehouse
from tests.conftest import reconcile


class Client:
    """A bare client, which shares nothing with the provider's own."""

    def __init__(self, url: str, token: str = ACCESS_TOKEN) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {token}"

    def __call__(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.session.request(method, self.url + path, timeout=10, allow_redirects=False, **options)


@pytest.fixture
def ask(sandbox: Sandbox) -> Client:
    return Client(sandbox.url)


# --- the documented answers ---


def test_an_update_answers_as_documented(ask: Client, sandbox: Sandbox, order_id: str) -> None:
    answer = ask("PUT", f"/orders/{order_id}/status/payment", json={"status": "paid"})

    assert (answer.status_code, answer.json()) == (
        200,
        {"status": 200, "detail": "Status is successfully updated", "meta": []},
    )
    (update,) = sandbox.shop.history(order_id)
    assert (update["context"], update["before"], update["after"]) == ("payment", "pending", "paid")


def test_a_missing_order_answers_with_status_0(ask: Client) -> None:
    answer = ask("PUT", "/orders/nope/status", json={"status": "open"})

    assert (answer.status_code, answer.json()) == (404, {"status": 0, "detail": "order not found", "meta": []})


def test_an_unknown_slug_becomes_a_label(ask: Client, order_id: str) -> None:
    assert ask("PUT", f"/orders/{order_id}/status/shipping", json={"status": "shiped"}).status_code == 200

    order = ask("GET", f"/orders/{order_id}?include=shipping").json()
    assert order["shipping"]["status_object"]["slug"] == "shiped"


def test_an_order_shows_its_sub_resources_on_request(ask: Client, order_id: str) -> None:
    bare = ask("GET", f"/orders/{order_id}").json()
    full = ask("GET", f"/orders/{order_id}?include=payment,shipping,customer,variants").json()

    assert not {"payment", "shipping", "customer", "variants"} & bare.keys()
    assert bare["status_object"]["slug"] == "open"
    assert full["payment"]["status_text"] == "pending"
    assert full["customer"]["full_name"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status_code", "answer"),
    [
        ("PUT", "/orders/x/status/general", {"status": "open"}, 404, "could not be found"),
        ("PUT", "/orders/x/status/colour", {"status": "open"}, 404, "could not be found"),
        ("GET", "/orders/", None, 404, "could not be found"),
        ("GET", "/nothing", None, 404, "could not be found"),
        ("DELETE", "/orders/x/status", None, 405, '"status":404'),
        ("PUT", "/orders/x/status", {"status": ""}, 422, "The status field is required."),
        ("PUT", "/orders/x/status", {}, 422, "The status field is required."),
        ("PUT", "/orders/x/status", None, 422, "The status field is required."),
        ("GET", "/orders?page=0", None, 422, "page"),
        ("GET", "/orders?sort_field=colour", None, 422, "sort field"),
    ],
)
def test_a_wrong_request_is_refused(
    ask: Client, method: str, path: str, body: Any, status_code: int, answer: str
) -> None:
    response = ask(method, path, json=body)

    assert response.status_code == status_code
    assert answer in response.text


def test_a_list_is_paged_sorted_and_searched(ask: Client) -> None:
    page = ask("GET", "/orders?page=3&limit=8").json()
    assert page["meta"]["pagination"] | {"links": None} == {
        "total": 20,
        "count": 4,
        "per_page": 8,
        "current_page": 3,
        "total_pages": 3,
        "links": None,
    }
    newest = ask("GET", "/orders?limit=1").json()
    assert newest["data"][0]["ref"] == "020"
    assert newest["meta"]["pagination"]["links"]["next"].startswith("https://seller-area.youcan.shop")
    oldest = ask("GET", "/orders?limit=2&sort_field=ref&sort_order=asc").json()
    assert [order["ref"] for order in oldest["data"]] == ["001", "002"]
    found = ask("GET", "/orders?q=CUSTOMER13@").json()
    assert [order["ref"] for order in found["data"]] == ["013"]


def test_a_search_looks_into_ref_notes_and_customer_as_they_are_now(sandbox: Sandbox, ask: Client) -> None:
    def search(text: str, **query: int) -> tuple[int, list[str]]:
        page = ask("GET", "/orders", params={"q": text, **query}).json()
        return page["meta"]["pagination"]["total"], [order["ref"] for order in page["data"]]

    orders = {order_id: sandbox.shop.order(order_id) or {} for order_id in sandbox.shop.order_ids()}
    with_notes = [order["ref"] for order in orders.values() if order["notes"] == "التوصيل بعد السادسة"]
    assert search("017") == (1, ["017"])
    assert search("التوصيل", limit=2) == (len(with_notes), with_notes[::-1][:2])
    assert search("التوصيل", limit=2, page=2) == (len(with_notes), with_notes[::-1][2:4])
    customer = json.loads(orders[sandbox.shop.order_ids()[4]]["customer"])
    assert search(customer["phone"]) == (1, ["005"])
    assert "005" in search(customer["full_name"].upper(), limit=50)[1]
    assert search("100%") == (0, [])

    (new,) = sandbox.shop.add_orders(1)
    assert search("021") == (1, ["021"])
    sandbox.shop.delete_order(new)
    assert search("021") == (0, [])


def test_the_stores_statuses_can_be_read_and_replaced(ask: Client) -> None:
    lists = ask("GET", "/orders/settings").json()
    assert {"slug": "تم التسليم", "name": "تم التسليم", "color": "#8A9CA0FF", "type": "shipping"} in lists["shipping"]

    lists["payment"] = [{"slug": "Is paid", "name": "paid"}]
    assert ask("PUT", "/orders/settings", json=lists).status_code == 200

    assert [status["slug"] for status in ask("GET", "/orders/settings").json()["payment"]] == ["Is paid"]

    lists["payment"] = [{"name": "a status without a slug"}]
    assert ask("PUT", "/orders/settings", json=lists).status_code == 422
    assert ask("PUT", "/orders/settings", data="no JSON").status_code == 422
    assert [status["slug"] for status in ask("GET", "/orders/settings").json()["payment"]] == ["Is paid"]


# --- tokens ---


@pytest.mark.parametrize("header", ["", "Bearer wrong", f"Basic {ACCESS_TOKEN}", ACCESS_TOKEN])
def test_without_its_token_nothing_is_answered(ask: Client, order_id: str, header: str) -> None:
    answer = ask("GET", f"/orders/{order_id}", headers={"Authorization": header})

    assert (answer.status_code, answer.json()) == (401, {"status": 401, "detail": "Unauthenticated", "meta": []})


def test_a_token_can_do_what_its_scopes_say(sandbox: Sandbox, order_id: str) -> None:
    reader = Client(sandbox.url, sandbox.shop.issue_token(["read-orders"])["access_token"])

    assert reader("GET", f"/orders/{order_id}").status_code == 200
    assert reader("PUT", f"/orders/{order_id}/status", json={"status": "open"}).status_code == 403
    assert reader("GET", "/orders/settings").status_code == 403
    assert reader("GET", "/me").status_code == 403
    owner = Client(sandbox.url, sandbox.shop.issue_token(["view-store-info"])["access_token"])
    assert owner("GET", "/me").json()["currency"] == {"code": "MAD", "symbol": "DH"}
    webhooks = {"read-rest-hooks", "edit-rest-hooks", "delete-rest-hooks"}
    assert set(ALL_SCOPES) == {"edit-orders", "read-orders", "read-orders-statuses", "view-store-info"} | webhooks


@pytest.mark.parametrize(
    ("query", "count"),
    [("", 10), ("?limit=3", 3), ("?limit=50", 50), ("?limit=51", 50), ("?limit=1000", 50), ("?limit=-1", 50)],
)
def test_a_page_has_fifty_orders_at_most(ask: Client, sandbox: Sandbox, query: str, count: int) -> None:
    sandbox.shop.add_orders(100)

    page = ask("GET", f"/orders{query}").json()

    assert len(page["data"]) == page["meta"]["pagination"]["per_page"] == count


def test_a_filter_that_is_not_known_is_dropped_without_a_word(ask: Client) -> None:
    query = "/orders?filters[0][field]=ref&filters[0][operator]==&filters[0][value]=001"

    assert ask("GET", query).json() == ask("GET", "/orders").json()


def test_a_token_expires() -> None:
    now = [0.0]
    shop = Shop(orders=1, clock=lambda: now[0])
    token = shop.issue_token(expires_in=60)["access_token"]
    assert shop.scopes(token)

    now[0] = 60.0

    assert shop.scopes(token) is None


def test_a_refresh_token_works_once_and_its_access_token_dies_with_it(ask: Client, sandbox: Sandbox) -> None:
    first = sandbox.shop.issue_token()
    form = {
        "grant_type": "refresh_token",
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "refresh_token": first["refresh_token"],
    }

    second = ask("POST", "/oauth/token", data=form)
    third = ask("POST", "/oauth/token", data=form)

    assert second.status_code == 200
    assert second.json()["expires_in"] == 1_295_999
    assert sandbox.shop.scopes(second.json()["access_token"])
    assert sandbox.shop.scopes(first["access_token"]) is None
    assert (third.status_code, third.json()["error"]) == (400, "invalid_grant")
    assert all(request["body"] == "" for request in sandbox.shop.requests()), "secrets are not kept"


def test_a_code_is_exchanged_once(ask: Client, sandbox: Sandbox) -> None:
    form = {
        "grant_type": "authorization_code",
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "code": sandbox.shop.issue_code(["read-orders"]),
    }

    assert sandbox.shop.scopes(ask("POST", "/oauth/token", data=form).json()["access_token"]) == {"read-orders"}
    assert ask("POST", "/oauth/token", data=form).status_code == 400
    assert ask("POST", "/oauth/token", data={**form, "client_secret": "wrong"}).status_code == 401
    assert ask("POST", "/oauth/token", data={**form, "grant_type": "password"}).status_code == 400


# --- misbehaving ---


def test_trouble_meets_its_route_and_only_so_often(ask: Client, sandbox: Sandbox, order_id: str) -> None:
    sandbox.misbehave("status", status=503, route="PUT /orders/*/status/payment", times=2)

    def codes(method: str, path: str) -> list[int]:
        return [ask(method, f"/orders/{order_id}{path}", json={"status": "paid"}).status_code for _ in range(3)]

    assert codes("GET", "") == [200, 200, 200]
    assert codes("PUT", "/status") == [200, 200, 200]
    assert codes("PUT", "/status/payment") == [503, 503, 200]


def test_trouble_meets_a_share_of_the_requests() -> None:
    rules = Misbehaviours()
    rules.add(Misbehaviour("drop", share=0.2))

    met = sum(rules.trouble("GET /orders") is not None for _ in range(5000))

    assert 0.17 < met / 5000 < 0.23


def test_a_status_comes_with_its_documented_body_or_another(ask: Client, sandbox: Sandbox) -> None:
    sandbox.misbehave("status", status=402, times=1)
    assert ask("GET", "/me").json() == {"status": 402, "error": "store is suspended"}

    sandbox.misbehave("status", status=429, headers={"Retry-After": "7"}, body="slow down", times=1)
    answer = ask("GET", "/me")
    assert (answer.text, answer.headers["Retry-After"]) == ("slow down", "7")


@pytest.mark.parametrize(("kind", "took"), [("drop", False), ("lose-answer", True), ("half-body", True)])
def test_a_lost_connection_may_hide_an_update_that_took(
    ask: Client, sandbox: Sandbox, order_id: str, kind: str, took: bool
) -> None:
    sandbox.misbehave(kind, times=1)

    with pytest.raises(requests.RequestException):
        ask("PUT", f"/orders/{order_id}/status", json={"status": "closed"})

    assert (sandbox.shop.statuses(order_id)["general"] == "closed") == took
    assert sandbox.shop.requests()[0]["status"] is None


def test_a_redirect_leads_to_a_page_that_answers_200(ask: Client, sandbox: Sandbox) -> None:
    sandbox.misbehave("redirect", times=1)

    answer = ask("GET", "/me")

    assert answer.status_code == 302
    assert ask("GET", answer.headers["Location"]).status_code == 200


def test_latency(ask: Client, sandbox: Sandbox) -> None:
    sandbox.misbehave("latency", seconds=0.2)
    start = time.monotonic()

    ask("GET", "/me")

    assert time.monotonic() - start >= 0.2


def test_a_rate_limit_counts_in_fixed_windows() -> None:
    now = [1000.0]
    rules = Misbehaviours(clock=lambda: now[0])
    rules.add(Misbehaviour("rate-limit", limit=2, seconds=60))

    answers = [rules.rate_limit("GET /orders") for _ in range(3)]
    now[0] += 30.5
    late = rules.rate_limit("GET /orders")
    now[0] += 29.5
    fresh = rules.rate_limit("GET /orders")

    assert answers == [
        ({"X-RateLimit-Limit": "2", "X-RateLimit-Remaining": "1"}, False),
        ({"X-RateLimit-Limit": "2", "X-RateLimit-Remaining": "0"}, False),
        ({"X-RateLimit-Limit": "2", "X-RateLimit-Remaining": "0", "Retry-After": "60"}, True),
    ]
    assert late[0]["Retry-After"] == "30"
    assert fresh == ({"X-RateLimit-Limit": "2", "X-RateLimit-Remaining": "1"}, False)


def test_a_rate_limit_answers_as_laravel_does(ask: Client, sandbox: Sandbox) -> None:
    sandbox.misbehave("rate-limit", limit=1, seconds=60)

    assert ask("GET", "/me").headers["X-RateLimit-Remaining"] == "0"
    refused = ask("GET", "/me")
    assert (refused.status_code, refused.json()) == (429, {"message": "Too Many Attempts."})
    assert 0 < int(refused.headers["Retry-After"]) <= 60


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "nap"},
        {"kind": "drop", "share": 0},
        {"kind": "drop", "share": "0.5"},
        {"kind": "drop", "times": 0},
        {"kind": "drop", "times": "2"},
        {"kind": "drop", "route": "put /orders"},
        {"kind": "drop", "route": "PUT orders"},
        {"kind": "latency", "seconds": "1"},
        {"kind": "status", "status": 99},
        {"kind": "status", "headers": ["Retry-After"]},
        {"kind": "status", "body": {"status": 200}},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(ask: Client, rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is"):
        Misbehaviour(**rule)

    assert ask("POST", "/sandbox/misbehaviours", json=rule).status_code == 422


# --- by hand ---


def test_each_request_is_seen_before_its_answer_is_sent(ask: Client, sandbox: Sandbox, order_id: str) -> None:
    seen: list[Request] = []
    sandbox.on_request(seen.append)

    with sandbox.on_request(lambda _: sandbox.shop.set_status(order_id, "payment", "refunded")):
        read = ask("GET", f"/orders/{order_id}?include=payment").json()
    ask("PUT", f"/orders/{order_id}/status/payment", json={"status": "paid"})
    ask("POST", "/oauth/token", data={"client_secret": "wrong"})

    # The change came after the answer was made, and only as long as it was asked for.
    assert read["payment"]["status_text"] == "pending"
    assert [entry["after"] for entry in sandbox.shop.history(order_id)] == ["refunded", "paid"]
    assert seen == sandbox.requests
    assert [(one.number, one.method, one.query, json.loads(one.body or "null"), one.status) for one in seen] == [
        (1, "GET", "include=payment", None, 200),
        (2, "PUT", "", {"status": "paid"}, 200),
        (3, "POST", "", None, 401),
    ]


def test_a_request_that_came_is_answered_before_it_stops() -> None:
    with ThreadPoolExecutor() as pool:
        with Sandbox(orders=1) as sandbox:
            sandbox.misbehave("latency", seconds=0.3, times=1)
            answer = pool.submit(Client(sandbox.url), "GET", "/orders")
            while list(sandbox.misbehaviours):  # until it has met the rule
                time.sleep(0.01)
        assert answer.result().status_code == 200


def test_it_is_steered_over_http(ask: Client, sandbox: Sandbox, order_id: str) -> None:
    assert ask("POST", "/sandbox/misbehaviours", json={"kind": "html"}).status_code == 201
    assert "Log in" in ask("GET", "/me").text
    assert ask("GET", "/sandbox/misbehaviours").json()[0]["kind"] == "html"
    assert ask("DELETE", "/sandbox/misbehaviours").status_code == 204
    assert ask("PUT", f"/orders/{order_id}/status", json={"status": "closed"}).status_code == 200

    assert {"id": order_id, "ref": "001"}.items() <= ask("GET", "/sandbox/orders").json()[0].items()
    asked = ask("GET", "/sandbox/requests").json()
    assert [(request["method"], request["status"]) for request in asked] == [("GET", 200), ("PUT", 200)]
    assert json.loads(asked[1]["body"]) == {"status": "closed"}
    assert ask("GET", f"/sandbox/history?order_id={order_id}").json()[0]["after"] == "closed"
    assert ask("PUT", "/sandbox/store", json={"suspended": True}).json()["suspended"] is True
    assert ask("GET", "/me").status_code == 402
    assert ask("PUT", "/sandbox/store", json={"suspended": False}).json()["suspended"] is False

    token = ask("POST", "/sandbox/tokens", json={"scopes": ["read-orders"], "expires_in": 60}).json()["access_token"]
    assert sandbox.shop.scopes(token) == {"read-orders"}
    ask("DELETE", f"/sandbox/tokens/{token}")
    assert sandbox.shop.scopes(token) is None


def test_a_file_survives_a_restart(tmp_path: Path) -> None:
    database = str(tmp_path / "shop.db")
    with Sandbox(shop=Shop(database, orders=3)) as sandbox:
        order_ids = sandbox.shop.order_ids()
        sandbox.shop.set_status(order_ids[0], "payment", "paid")

    with Sandbox(shop=Shop(database, orders=3)) as sandbox:
        assert sandbox.shop.order_ids() == order_ids
        assert sandbox.shop.statuses(order_ids[0])["payment"] == "paid"
        assert sandbox.shop.scopes(ACCESS_TOKEN)


def test_a_shop_in_a_file_is_made_once(tmp_path: Path) -> None:
    shop = Shop(str(tmp_path / "shop.db"), orders=3)
    shop.revoke_token(ACCESS_TOKEN)
    shop.close()

    shop = Shop(str(tmp_path / "shop.db"), orders=3)

    assert len(shop.order_ids()) == 3
    assert shop.scopes(ACCESS_TOKEN) is None


def test_the_same_seed_makes_the_same_believable_shop() -> None:
    shop = Shop(orders=200)

    assert shop.order_ids() == Shop(orders=200).order_ids() != Shop(orders=200, seed=1).order_ids()
    customers = " ".join(str(shop.order(order_id)) for order_id in shop.order_ids())
    assert re.search("[\u0600-\u06ff]", customers)
    assert re.search("[éèï]", customers)
    assert len({tuple(shop.statuses(order_id).values()) for order_id in shop.order_ids()}) >= 5


@pytest.fixture
def command_line(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "airflow_provider_youcan.sandbox", "--port", "0", "--orders", "7"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    yield process
    process.kill()
    process.wait()


def test_it_runs_from_the_command_line(command_line: subprocess.Popen[str]) -> None:
    assert command_line.stdout is not None
    first = command_line.stdout.readline()
    url = first.split()[-1]
    assert "A YouCan shop with 7 orders listens on http://127.0.0.1:" in first
    next(command_line.stdout)
    variable, _, connection = next(command_line.stdout).strip().removeprefix("export ").partition("=")
    assert variable == "AIRFLOW_CONN_YOUCAN_DEFAULT"
    assert json.loads(connection.strip("'"))["host"] == url

    assert Client(url)("GET", "/orders").json()["meta"]["pagination"]["total"] == 7

    command_line.send_signal(signal.SIGINT)
    rest = command_line.stdout.read()
    assert command_line.wait(10) == 0
    assert "airflow connections add youcan_default" in rest
    # Without a port, Airflow's Test button refuses the connection.
    assert f"--conn-port {url.rpartition(':')[2]}" in rest
    assert "Traceback" not in rest


def test_it_starts_without_airflow() -> None:
    code = "import sys, airflow_provider_youcan.sandbox.__main__; sys.exit('airflow' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_database_that_is_none_is_reported_in_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "airflow_provider_youcan.sandbox", "--database", str(tmp_path / "no" / "x.db")]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 1
    assert ended.stderr.startswith("Can't keep a shop in ")
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_is_reported_in_a_line(sandbox: Sandbox) -> None:
    command = [sys.executable, "-m", "airflow_provider_youcan.sandbox", "--port", str(sandbox.port)]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 1
    assert ended.stderr == f"Can't listen on 127.0.0.1:{sandbox.port}: Address already in use.\n"


# --- what people see ---


def test_its_page_shows_orders_requests_and_misbehaviours(sandbox: Sandbox, order_id: str) -> None:
    requests.get(f"{sandbox.url}/orders", timeout=5)
    sandbox.misbehave("status", route="PUT /orders/*", status=503, times=2)

    for path in ("/", "/sandbox"):
        page = requests.get(sandbox.url + path, timeout=5).text
        assert order_id in page
        assert "GET /orders" in page
        assert "PUT /orders/*" in page


def test_an_orders_page_shows_its_changes_and_no_markup_of_a_label(sandbox: Sandbox, order_id: str) -> None:
    sandbox.shop.set_status(order_id, "payment", "<script>alert(1)</script>")
    url = f"{sandbox.url}/sandbox/orders/{order_id}"

    page = requests.get(url, headers={"Accept": "text/html,*/*"}, timeout=5)

    assert page.headers["content-type"].startswith("text/html")
    assert "&lt;script&gt;" in page.text
    assert "<script>" not in page.text
    assert requests.get(url, timeout=5).json()["order_id"] == order_id


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "status", "statuss": 503}, "A misbehaviour has no 'statuss': did you mean 'status'?"),
        ({"kind": "status", "xyz": 1}, "there are kind, route"),
        ({}, "Give a JSON object with a kind"),
        ([], "Give a JSON object with a kind"),
        ({"kind": "statis"}, "kind is 'statis'"),
    ],
)
def test_a_misspelt_option_of_a_misbehaviour_is_answered_in_a_sentence(
    sandbox: Sandbox, options: Any, message: str
) -> None:
    answer = requests.post(f"{sandbox.url}/sandbox/misbehaviours", json=options, timeout=5)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_a_warehouse_for_a_first_reconciliation_has_rows_that_change_something(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "warehouse.db"
    sandbox.shop.add_orders(80)
    assert write_warehouse(str(path), sandbox.shop) == 50
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": str(path)}))

    summary = reconcile(
        sql="select * from courier_orders",
        conn_id="warehouse",
        status_map={
            "shipping": {"PICKED_UP": "shipped", "DELIVERED": "fulfilled", "RETURNED": "canceled"},
            "payment": {"COLLECTED": "paid"},
        },
        dry_run=True,
    )

    assert summary["rows"] == 50
    assert summary["planned"] > 20
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        write_warehouse(str(path), sandbox.shop)
