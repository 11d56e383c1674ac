"""Every DAG that the provider ships, imported and run."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from tests.conftest import DAGS_FOLDER, ROOT, RunDag, Sandbox, load_dags, register_assets
from tests.forked import run_file

pytestmark = pytest.mark.airflow

EXAMPLES = sorted((ROOT / "example_dags").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_imports_without_warnings(example: Path) -> None:
    assert run_file(example) == ""


def test_airflow_loads_them_all() -> None:
    dags = load_dags(ROOT / "example_dags")

    assert dags.import_errors == {}
    assert len(dags.dags) >= len(EXAMPLES)


def test_the_order_status_example_moves_orders_along(run_dag: RunDag, sandbox: Sandbox, order_id: str) -> None:
    other = next(
        other
        for other in sandbox.shop.order_ids()
        if sandbox.shop.statuses(other)["shipping"] != "unfulfilled" or other == sandbox.shop.order_ids()[-1]
    )
    for context, status in {"general": "closed", "shipping": "fulfilled", "payment": "refunded"}.items():
        sandbox.shop.set_status(other, context, status)

    run = run_dag(ROOT / "example_dags" / "example_youcan_order_status.py", conf={"order_ids": [order_id, other]})

    assert run.state == "success"
    assert sandbox.shop.statuses(order_id) == {"general": "processed", "shipping": "shipped", "payment": "paid"}
    assert sandbox.shop.statuses(other) == {"general": "closed", "shipping": "fulfilled", "payment": "refunded"}
    assert [run.tasks[f"move_along.{task}[1]"].state for task in ("process", "ship", "collect")] == ["skipped"] * 3


@pytest.mark.parametrize(
    ("courier", "expected"),
    [
        ("fulfilled", {"general": "closed", "shipping": "fulfilled", "payment": "paid"}),
        ("canceled", {"general": "canceled-by-seller", "shipping": "canceled", "payment": "pending"}),
    ],
)
def test_the_cash_on_delivery_example_settles_an_order(
    run_dag: RunDag, sandbox: Sandbox, order_id: str, courier: str, expected: dict[str, str]
) -> None:
    sandbox.shop.set_status(order_id, "shipping", courier)

    run = run_dag(ROOT / "example_dags" / "example_youcan_cash_on_delivery.py", conf={"order_id": order_id})

    assert run.state == "success"
    assert sandbox.shop.statuses(order_id) == expected


@pytest.fixture
def warehouse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The warehouse of the reconciling example, in SQLite."""
    path = tmp_path / "warehouse.db"
    monkeypatch.setenv("AIRFLOW_CONN_SQLITE_DEFAULT", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    monkeypatch.setenv("AIRFLOW_VAR_YOUCAN_REPORTS", str(tmp_path / "reports"))
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table courier_orders (order_id text, shipping_status text, payment_status text)")
        yield database


def without_approval(tmp_path: Path) -> Path:
    """The example as it is where nobody can be asked; the system test asks."""
    text = (ROOT / "example_dags" / "example_youcan_reconcile.py").read_text()
    assert "if ApprovalOperator is None:" in text
    path = tmp_path / "example.py"
    path.write_text(text.replace("if ApprovalOperator is None:", "if True:"))
    return path


def test_the_reconcile_example_settles_a_table(
    run_dag: RunDag, sandbox: Sandbox, warehouse: sqlite3.Connection, tmp_path: Path
) -> None:
    fresh = {"general": "open", "shipping": "unfulfilled", "payment": "pending"}
    delivered, refunded = [
        order_id for order_id in sandbox.shop.order_ids() if sandbox.shop.statuses(order_id) == fresh
    ][:2]
    sandbox.shop.set_status(refunded, "payment", "refunded")
    unknown = "00000000-0000-4000-8000-000000000000"
    rows = [(delivered, "DELIVERED", "COLLECTED"), (refunded, "DELIVERED", "COLLECTED"), (unknown, None, "COLLECTED")]
    warehouse.executemany("insert into courier_orders values (?, ?, ?)", rows)
    warehouse.commit()

    before = {order_id: sandbox.shop.statuses(order_id) for order_id in sandbox.shop.order_ids()}

    run = run_dag(without_approval(tmp_path))

    assert run.state == "success"
    assert run.tasks["plan"].result["planned"] == 3
    assert run.tasks["plan"].result["not_found"] == 1
    assert sandbox.shop.statuses(delivered) == {"general": "open", "shipping": "fulfilled", "payment": "paid"}
    assert sandbox.shop.statuses(refunded) == {"general": "open", "shipping": "fulfilled", "payment": "refunded"}
    # The order that the shop hasn't is in the warehouse, too.
    columns = "task_id, order_id, status_context, status_wanted, outcome"
    found = set(
        warehouse.execute(
            f"select {columns} from youcan_outcomes where outcome not in ('planned', 'sending', 'complete')"
        )
    )
    assert found == {
        ("plan", unknown, "payment", "paid", "not_found"),
        ("plan", refunded, "payment", "paid", "protected"),
        ("reconcile", delivered, "shipping", "fulfilled", "changed"),
        ("reconcile", delivered, "payment", "paid", "changed"),
        ("reconcile", refunded, "shipping", "fulfilled", "changed"),
    }

    # And the other example takes it back.
    ((run_id,),) = warehouse.execute("select distinct run_id from youcan_outcomes").fetchall()
    revert = ROOT / "example_dags" / "example_youcan_revert.py"
    assert run_dag(revert, conf={"run_id": run_id}).tasks["revert"].result["planned"] == 3
    assert run_dag(revert, conf={"run_id": run_id, "dry_run": False}).tasks["revert"].result["changed"] == 3
    assert {order_id: sandbox.shop.statuses(order_id) for order_id in before} == before


def test_the_reconcile_example_is_red_where_its_feed_is_empty(
    run_dag: RunDag, sandbox: Sandbox, warehouse: sqlite3.Connection
) -> None:
    # Nobody is asked to approve a plan that failed, so it can run as it is shipped.
    run = run_dag(ROOT / "example_dags" / "example_youcan_reconcile.py")

    assert run.state == "failed"
    assert sandbox.shop.requests() == []


class StandInForGSheetsHook:
    """Answers as GSheetsHook does: the cells as they are shown, without the empty ones at the end of a row."""

    values: ClassVar[list[list[str]]] = []

    def __init__(self, gcp_conn_id: str = "google_cloud_default") -> None:
        pass

    def get_values(self, spreadsheet_id: str, range_: str) -> list[list[str]]:
        assert (spreadsheet_id, range_) == ("1x", "A:Z")
        return self.values


def test_the_sheets_example_follows_the_sheet(
    run_dag: RunDag, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["airflow.providers.google", "suite", "hooks", "sheets"]
    for number in range(1, len(names) + 1):
        module = ModuleType(".".join(names[:number]))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(module, "GSheetsHook", StandInForGSheetsHook, raising=False)
    monkeypatch.setenv("AIRFLOW_VAR_YOUCAN_SHEET", "1x")
    fresh = {"general": "open", "shipping": "unfulfilled", "payment": "pending"}
    orders = [order for order in sandbox.shop.orders() if sandbox.shop.statuses(order["id"]) == fresh][:3]
    refs = [order["ref"] for order in orders]
    sandbox.shop.set_status(orders[2]["id"], "payment", "refunded")
    others = [
        [order["ref"], "", order["payment_status"]] for order in sandbox.shop.orders() if order["ref"] not in refs
    ]
    StandInForGSheetsHook.values = [
        ["order", "shipping", "payment", "who"],
        [refs[0], "livré", "encaissé", "Salma"],
        [refs[1], "expédié"],
        [refs[2], "", "encaissé"],
        ["9" * 6, "livré"],  # of another shop
        ["", "", "", "Salma"],
        [refs[1], "expédi", "", "still typing"],
        *others,
    ]

    run = run_dag(ROOT / "example_dags" / "example_youcan_sheets.py")

    assert run.state == "success", run.log
    assert sandbox.shop.statuses(orders[0]["id"]) == {"general": "open", "shipping": "fulfilled", "payment": "paid"}
    assert sandbox.shop.statuses(orders[1]["id"])["shipping"] == "shipped"
    assert sandbox.shop.statuses(orders[2]["id"])["payment"] == "refunded"
    result = run.tasks["follow_the_sheet"].result
    assert (result["invalid"], result["not_found"], result["protected"]) == (1, 1, 1)


@pytest.mark.usefixtures("_airflow_database")
def test_the_loop_example_brings_the_orders_and_sends_the_difference(
    sandbox: Sandbox, warehouse: sqlite3.Connection
) -> None:
    # Given a courier that writes down the number of an order, or of its parcel,
    orders = sandbox.shop.orders()
    fresh = next(order for order in orders if order["shipping_status"] == "unfulfilled")
    sent = next(order for order in orders if order["shipping_status"] == "shipped")
    warehouse.execute("create table courier_feed (ref text, tracking_number text, state text, collected integer)")
    feed = [
        (fresh["ref"], "", "PICKED_UP", 0),
        ("", f"AM{sent['ref']:0>6}MA", "DELIVERED", 100_000),
        ("9999", "of another shop", "DELIVERED", 5),
    ]
    warehouse.executemany("insert into courier_feed values (?, ?, ?, ?)", feed)
    warehouse.commit()
    path = DAGS_FOLDER / "example_youcan_loop.py"
    path.write_text((ROOT / "example_dags" / path.name).read_text())
    try:
        register_assets()
        dags = load_dags(path).dags

        # when both DAGs run, one after the other,
        first = dags["example_youcan_loop_orders"].test()
        second = dags["example_youcan_loop_apply"].test()
    finally:
        path.unlink()

    # then the shop shows what the courier said, and so does the warehouse.
    assert (str(first.state), str(second.state)) == ("success", "success")
    assert sandbox.shop.statuses(fresh["id"])["shipping"] == "shipped"
    assert sandbox.shop.statuses(sent["id"]) | {"general": ""} == {
        "general": "",
        "shipping": "fulfilled",
        "payment": "paid",
    }
    kept = dict(warehouse.execute("select order_id, shipping_status from youcan_orders"))
    assert kept[fresh["id"]] == "shipped"
    assert len(kept) == 20


@pytest.mark.usefixtures("_airflow_database")
def test_the_assets_example_follows_the_data(sandbox: Sandbox, warehouse: sqlite3.Connection) -> None:
    order_id = next(order["id"] for order in sandbox.shop.orders() if order["payment_status"] == "pending")
    warehouse.execute("insert into courier_orders values (?, null, 'COLLECTED')", (order_id,))
    rows = [(order["id"], None, order["payment_status"]) for order in sandbox.shop.orders() if order["id"] != order_id]
    warehouse.executemany("insert into courier_orders values (?, ?, ?)", rows)
    warehouse.commit()
    path = DAGS_FOLDER / "example_youcan_assets.py"
    path.write_text((ROOT / "example_dags" / path.name).read_text())
    try:
        register_assets()
        dags = load_dags(path).dags

        run = dags["example_youcan_assets_reconcile"].test()

        assert str(run.state) == "success"
        assert sandbox.shop.statuses(order_id)["payment"] == "paid"
        assert str(dags["example_youcan_assets_report"].test().state) == "success"
    finally:
        path.unlink()


def test_the_order_status_example_is_red_where_no_order_is_named(run_dag: RunDag, sandbox: Sandbox) -> None:
    run = run_dag(ROOT / "example_dags" / "example_youcan_order_status.py")

    assert run.state == "failed"
    assert "trigger it with order_ids" in run.log
    assert sandbox.shop.history() == []


def test_a_shop_that_fails_keeps_no_other_from_its_own(
    run_dag: RunDag, sandbox: Sandbox, warehouse: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Given three shops, of which the second's token was revoked,
    with Sandbox(orders=20) as other, Sandbox(orders=20) as revoked:
        revoked.shop.revoke_token("sandbox-access-token")
        for name, shop in (("first", sandbox), ("second", revoked), ("third", other)):
            monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", shop.connection())
        monkeypatch.setenv("AIRFLOW_VAR_YOUCAN_SHOPS", '["first", "second", "third"]')
        warehouse.execute("create table shop_orders (shop text, order_id text, shipping_status text, payment_status)")
        due = [order["id"] for order in sandbox.shop.orders() if order["payment_status"] == "pending"][:3]
        for shop in ("first", "second", "third"):
            rows = [(shop, order_id, None, "paid") for order_id in due]
            # enough rows that ask for nothing new, so that three changes are no more than half
            rows += [(shop, order["id"], None, order["payment_status"]) for order in sandbox.shop.orders()[10:]]
            warehouse.executemany("insert into shop_orders values (?, ?, ?, ?)", rows)
        warehouse.commit()
        # (the example as it is, but for retries)
        example = tmp_path / "example.py"
        text = (ROOT / "example_dags" / "example_youcan_shops.py").read_text()
        example.write_text(text.replace("retries=3", "retries=0"))

        run = run_dag(example)

        # then the others are done, and the run is red.
        assert [run.tasks[f"reconcile[{number}]"].state for number in range(3)] == ["success", "failed", "success"]
        assert run.state == "failed"
        for shop in (sandbox, other):
            assert {shop.shop.statuses(order_id)["payment"] for order_id in due} == {"paid"}
        assert {revoked.shop.statuses(order_id)["payment"] for order_id in due} == {"pending"}
