"""
The provider as people see it: a real Airflow with all its services, in a real browser.

It takes Chromium and is left out of the other tests: ``make test-browser``. With ``YOUCAN_SCREENSHOTS`` in the
environment, the pictures of the docs are taken again in that folder.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_provider_youcan.sandbox.shop import CLIENT_ID, CLIENT_SECRET, TOKEN_SECONDS
from tests.conftest import ROOT, Sandbox
from tests.services import Airflow

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

SECONDS = 120_000.0
"""The longest time that the browser waits for something, in milliseconds."""

SCREEN = (1400, 1000)


@pytest.fixture
def secrets(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that must never show: the client's secret, and every token that the shop issues."""
    secrets = [CLIENT_SECRET]
    issue_token = sandbox.shop.issue_token

    def issue(*arguments: Any, **options: Any) -> dict[str, Any]:
        issued = issue_token(*arguments, **options)
        secrets.extend([issued["access_token"], issued["refresh_token"]])
        return issued

    monkeypatch.setattr(sandbox.shop, "issue_token", issue)
    return secrets


@pytest.fixture
def airflow(sandbox: Sandbox, tmp_path: Path) -> Iterator[Airflow]:
    airflow = Airflow(
        tmp_path,
        {"sqlite_default": f'{{"conn_type": "sqlite", "host": "{tmp_path}/warehouse.db"}}'},
        settings={
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW_VAR_YOUCAN_REPORTS": str(tmp_path / "reports"),
        },
    )
    for example in (ROOT / "example_dags").glob("*.py"):
        text = example.read_text().replace("POLL_EVERY = timedelta(minutes=5)", "POLL_EVERY = timedelta(seconds=1)")
        (airflow.dags / example.name).write_text(text)
    with closing(sqlite3.connect(tmp_path / "warehouse.db")) as warehouse:
        warehouse.execute("create table courier_orders (order_id text, shipping_status text, payment_status text)")
        rows = [(order_id, "COLLECTED") for order_id in sandbox.shop.order_ids()]
        warehouse.executemany("insert into courier_orders values (?, null, ?)", rows)
        warehouse.commit()
    airflow.start()
    airflow.run_command("pools", "set", "youcan", "2", "Tasks that talk to the shop")
    airflow.wait_for(lambda: _is_up(airflow.url), "the API server")
    yield airflow
    airflow.stop()


def _is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/api/v2/monitor/health", timeout=5).ok
    except requests.RequestException:
        return False


@pytest.fixture
def page(airflow: Airflow, tmp_path: Path) -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert chromium is not None, "there is no Chromium: make test-browser says how to install it"
    with sync_playwright() as playwright:
        # Chromium's own sandbox takes rights that a container hasn't; it sees nothing but this Airflow.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(
            base_url=airflow.url, viewport={"width": SCREEN[0], "height": SCREEN[1]}, locale="en-US"
        )
        page.set_default_timeout(SECONDS)
        yield page
        page.screenshot(path=tmp_path / "last.png")
        browser.close()


@pytest.fixture
def take_picture(page: Page, tmp_path: Path) -> Callable[[str], None]:
    folder = Path(os.environ.get("YOUCAN_SCREENSHOTS", tmp_path / "screenshots"))

    def take_picture(name: str) -> None:
        page.wait_for_timeout(1000)  # until what moves has come to rest
        page.screenshot(path=folder / f"{name}.png", animations="disabled")

    return take_picture


def test_a_shop_is_driven_from_airflows_own_pages(
    airflow: Airflow, page: Page, sandbox: Sandbox, secrets: list[str], take_picture: Callable[[str], None]
) -> None:
    fresh = [
        order_id
        for order_id in sandbox.shop.order_ids()
        if list(sandbox.shop.statuses(order_id).values()) == ["open", "unfulfilled", "pending"]
    ]
    moved, delivered = fresh[:2]
    before = set(sandbox.shop.order_ids())
    issued = sandbox.shop.issue_token()

    # Given a connection that is made in the form, with a token and what it is renewed with,
    _fill_in_the_form(page, sandbox, issued, take_picture)

    # when it is tested, then the store's name is shown, and what the token may do,
    with page.expect_response("**/connections/test") as response:
        page.get_by_role("button", name="Test Connection").click()
    answer = response.value.json()
    assert answer["status"] is True, answer
    assert answer["message"].startswith("Connected to the YouCan store 'Sandbox Shop'. Scopes of its token:")

    # and what is secret isn't shown again.
    page.get_by_role("button", name="Edit Connection").click()
    dialog = page.get_by_role("dialog")
    assert dialog.locator("input[name=password]").input_value() == "***"
    dialog.get_by_role("button", name="Extra Fields", exact=True).click()
    assert dialog.locator("input[name=element_client_id]").input_value() == CLIENT_ID
    assert dialog.locator("input[name=element_requests_per_second]").input_value() == "200"
    for name in ("client_secret", "refresh_token"):
        assert dialog.locator(f"input[name=element_{name}]").input_value() == "***"
    page.keyboard.press("Escape")

    # When the token expires, and the example DAGs are triggered,
    sandbox.shop._write("update tokens set expires_at = 0 where access_token = ?", issued["access_token"])
    _trigger(page, "example_youcan_order_status", order_ids=moved)
    _wait_for_success(airflow, page, "example_youcan_order_status")
    take_picture("grid")
    assert sandbox.shop.statuses(moved) == {"general": "processed", "shipping": "shipped", "payment": "paid"}

    # (one of which waits on the triggerer until the order is delivered,)
    _trigger(page, "example_youcan_cash_on_delivery", order_id=delivered)
    airflow.wait_for(
        lambda: airflow.task_states("by_hand_example_youcan_cash_on_delivery").get("wait_for_courier") == "deferred",
        "the wait to be deferred",
    )
    sandbox.shop._write("update tokens set expires_at = 0 where lifetime = ?", TOKEN_SECONDS)
    sandbox.shop.set_status(delivered, "shipping", "fulfilled")
    _wait_for_success(airflow, page, "example_youcan_cash_on_delivery")
    assert sandbox.shop.statuses(delivered) == {"general": "closed", "shipping": "fulfilled", "payment": "paid"}

    # (and one of which a person has to approve: while that one reads the preview, more rows come into the warehouse,
    # and someone refunds three orders,)
    _trigger(page, "example_youcan_reconcile")
    _open_task(page, "example_youcan_reconcile", "approve")
    page.get_by_role("link", name=re.compile("Required Action")).click()
    page.get_by_role("cell", name="planned").wait_for()
    page.get_by_text(re.compile("payment: pending → paid: [0-9]+")).wait_for()
    # The buttons are on the first screen.
    buttons = page.get_by_role("button", name="Approve").bounding_box()
    assert buttons is not None
    assert buttons["y"] + buttons["height"] <= SCREEN[1]
    take_picture("approval")
    approved = [order["id"] for order in sandbox.shop.orders() if order["payment_status"] in ("pending", "unpaid")]
    sandbox.shop.add_orders(50)
    new = [order_id for order_id in sandbox.shop.order_ids() if order_id not in before]
    with closing(sqlite3.connect(airflow.home / "warehouse.db")) as warehouse:
        warehouse.executemany(
            "insert into courier_orders values (?, null, ?)", [(order_id, "COLLECTED") for order_id in new]
        )
        warehouse.commit()
    for order_id in approved[:3]:
        sandbox.shop.set_status(order_id, "payment", "refunded")
    untouched = {order_id: sandbox.shop.statuses(order_id) for order_id in [*new, *approved[:3]]}
    # An answer that comes before the scheduler has seen the asking task's process end fails the task in 3.3.2.
    page.wait_for_timeout(10_000)
    page.get_by_role("button", name="Approve").click()
    _wait_for_success(airflow, page, "example_youcan_reconcile")
    # of which exactly the approved rest is applied,
    assert {sandbox.shop.statuses(order_id)["payment"] for order_id in approved[3:]} == {"paid"}
    assert {order_id: sandbox.shop.statuses(order_id) for order_id in untouched} == untouched

    # (and one that maps chunks of a table,)
    with closing(sqlite3.connect(airflow.home / "warehouse.db")) as warehouse:
        warehouse.execute("update courier_orders set payment_status = 'paid'")
        warehouse.commit()
    _trigger(page, "example_youcan_reconcile_chunks")
    _wait_for_success(airflow, page, "example_youcan_reconcile_chunks")

    # then they succeed, and the page of a task leads to its order in the seller area,
    _open_task(page, "example_youcan_cash_on_delivery", "mark_as_paid", "details")
    link = page.get_by_role("link", name="YouCan order")
    assert link.get_attribute("href") == f"{sandbox.url}/sandbox/orders/{delivered}"
    take_picture("task")

    # and its log says what was done.
    _open_task(page, "example_youcan_cash_on_delivery", "mark_as_paid")
    line = page.get_by_text(re.compile(f"Order {delivered}: (the payment status is now|payment '\\w+' →) 'paid'"))
    line.wait_for()
    _open_task(page, "example_youcan_reconcile", "reconcile")
    page.get_by_text(re.compile("pending → unpaid|pending → paid")).first.wait_for()
    take_picture("reconcile")

    # The token was renewed twice or more, and is masked among the variables,
    assert len(secrets) >= 1 + 2 * 3
    page.goto("/variables")
    page.get_by_text(re.compile("^youcan_token_[0-9a-f]+$")).wait_for()
    assert not any(secret in page.content() for secret in secrets)

    # and no token, old or new, stands anywhere: in no log, no file, no row of the database.
    airflow.stop()
    contents = {path: path.read_bytes() for path in filter(Path.is_file, airflow.home.rglob("*"))}
    assert any(b"youcan_token_" in content for content in contents.values()), "this would find nothing at all"
    for path, content in contents.items():
        assert not any(secret.encode() in content for secret in secrets), f"a secret stands in {path}"


def _fill_in_the_form(
    page: Page, sandbox: Sandbox, issued: dict[str, Any], take_picture: Callable[[str], None]
) -> None:
    page.goto("/connections")
    page.get_by_role("button", name="Add Connection").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("combobox").click()
    page.keyboard.type("YouCan")
    page.keyboard.press("Enter")
    dialog.get_by_text("API base URL").wait_for()
    take_picture("form")
    for hidden in ("login", "schema"):
        assert dialog.locator(f"input[name={hidden}]").count() == 0
    dialog.locator("input[name=connection_id]").fill("youcan_default")
    dialog.locator("input[name=host]").fill(f"http://{sandbox.host}")
    dialog.locator("input[name=port]").fill(str(sandbox.port))
    dialog.locator("input[name=password]").fill(issued["access_token"])
    dialog.get_by_role("button", name="Extra Fields", exact=True).click()
    values = {
        "requests_per_second": "200",
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "refresh_token": issued["refresh_token"],
    }
    for name, value in values.items():
        field = dialog.locator(f"input[name=element_{name}]")
        field.fill(value)
        field.blur()
    take_picture("form-extra")
    dialog.get_by_role("button", name="Save").click()
    dialog.wait_for(state="hidden")


def _trigger(page: Page, dag_id: str, **params: str) -> None:
    page.goto(f"/dags/{dag_id}")
    page.get_by_test_id("trigger-dag-button").click()
    dialog = page.get_by_role("dialog")
    for name, value in params.items():
        dialog.locator(f"[name=element_{name}]").fill(value)
    dialog.get_by_role("button", name="Advanced Options").click()
    dialog.locator("input[name=dagRunId]").fill(f"by_hand_{dag_id}")
    dialog.get_by_test_id("trigger-dag-submit").click()
    dialog.wait_for(state="hidden")


def _wait_for_success(airflow: Airflow, page: Page, dag_id: str) -> None:
    page.goto(f"/dags/{dag_id}/runs/by_hand_{dag_id}")
    # The run's name, with the badge beside it.
    ended = r"by_hand_\w+\s+(Success|Failed)"
    page.wait_for_function("ended => new RegExp(ended).test(document.body.innerText)", arg=ended, timeout=SECONDS)
    badge = re.search(ended, page.inner_text("body"))
    assert badge is not None
    assert badge[1] == "Success", airflow.task_logs()


def _open_task(page: Page, dag_id: str, task_id: str, tab: str = "") -> None:
    page.goto(f"/dags/{dag_id}/runs/by_hand_{dag_id}/tasks/{task_id}/{tab}".rstrip("/"))
