"""The rows, which ask nobody: what is kept, what is brought together, and what is refused."""

from __future__ import annotations

import random
import re
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from airflow_provider_youcan.orders import OrderStatuses, StatusContext
from airflow_provider_youcan.reconciliation.rows.desired import DesiredState
from tests.conftest import Sandbox, reconcile

GENERAL, SHIPPING, PAYMENT = StatusContext
UUID = "72aa7882-3898-49a8-87a2-506af3dd7320"

slugs = st.sampled_from(["a", "b", "c", "مؤكد"])
statuses = st.builds(OrderStatuses, *[st.none() | slugs] * 3)


rows = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "order_id": st.sampled_from([UUID, UUID.upper(), "o2", "o3", "", "not an id", None, 7]),
            "ref": st.sampled_from(["021", "21", 21, "", None]),
            "status": st.sampled_from(["open", "closed", None, "", 3]),
            "payment_status": st.sampled_from(["paid", "unpaid", None, float("nan")]),
        },
    ),
    max_size=8,
)


def read(rows: list[Any], **arguments: Any) -> DesiredState:
    desired = DesiredState(**arguments)
    for row in rows:
        desired.add(row)
    desired.refuse_contradictions()
    return desired


def reasons(rows: list[Any], **arguments: Any) -> list[str]:
    return [f"{row.row}: {row.reason}" for row in read(rows, **arguments).invalid]


@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows: list[dict[str, Any]], rng: random.Random) -> None:
    def essence(desired: DesiredState) -> tuple[Any, ...]:
        orders = {
            ((order.order_id or "").casefold(), order.ref, tuple(sorted(order.desired.items())))
            for order in desired.orders
        }
        return orders, len(desired.invalid)

    shuffled = list(rows)
    rng.shuffle(shuffled)

    assert essence(read(rows)) == essence(read(shuffled))


@given(rows)
def test_every_row_is_either_kept_or_refused(rows: list[dict[str, Any]]) -> None:
    desired = read(rows)
    kept = {row for order in desired.orders for row, statuses in order.entries if statuses != OrderStatuses()}
    refused = [row.row for row in desired.invalid]

    rows = [row for row in rows if any(cell == cell and cell not in (None, "") for cell in row.values()) or not row]
    assert desired.rows == len(rows)
    assert len(refused) == len(set(refused))
    assert not kept & set(refused)
    for number, row in enumerate(rows, 1):
        says_something = any(isinstance(row.get(column), str) for column in ("status", "payment_status"))
        assert number in kept or number in refused or not says_something


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"payment_status": "paid"}, "it names no order: 'order_id' and 'ref' are empty or missing"),
        ({"order_id": None, "ref": float("nan"), "status": "open"}, "it names no order"),
        ({"order_id": "", "status": "open"}, "The order id is empty"),
        ({"order_id": "../me", "status": "open"}, "is not an order id"),
        ({"order_id": 12, "status": "open"}, "The order id is of type int"),
        ({"ref": 2.5, "status": "open"}, "2.5 is not a ref"),
        ({"ref": "None", "status": "open"}, "'None' is not a ref"),
        ({"ref": True, "status": "open"}, "True is not a ref"),
        ({"ref": "1\n2", "status": "open"}, "is not a ref"),
        ({"order_id": "o1"}, "it asks for nothing: it has none of the columns 'status', 'shipping_status'"),
        ({"order_id": "o1", "payement_status": "paid"}, "it asks for nothing"),
        ({"order_id": "o1", "status": " "}, "The status is '', which is not a status"),
        ({"order_id": "o1", "status": "None"}, "The status is 'None'"),
        ({"order_id": "o1", "status": 4}, "The status is 4"),
        ({"order_id": "o1", "status": "\ud800"}, "which is not a status"),
        (["o1", "paid"], "it is of type list, not a mapping"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row: Any, reason: str) -> None:
    (refused,) = reasons([row])

    assert reason in refused


def test_null_and_absent_leave_a_status_alone() -> None:
    (order,) = read(
        [{"order_id": "o1", "status": None, "payment_status": "paid", "shipping_status": float("nan")}]
    ).orders

    assert order.desired == {PAYMENT: "paid"}


def test_ids_come_as_databases_have_them() -> None:
    number = uuid.uuid4()
    orders = read([{"order_id": number, "status": "open"}, {"ref": 21, "status": "open"}]).orders

    assert [(order.order_id, order.ref) for order in orders] == [(str(number), None), (None, "21")]


def test_columns_are_renamed_and_words_translated() -> None:
    desired = read(
        [
            {"YOUCAN_ID": "o1", "state": "COLLECTED", "parcel": 5},
            {"YOUCAN_ID": "o2", "state": "LOST", "parcel": "shipped"},
        ],
        columns={"order_id": "youcan_id", "payment_status": "state", "shipping_status": "parcel"},
        status_map={"payment": {"COLLECTED": "paid", "LOST": None}, "shipping": {"5": "fulfilled"}},
    )

    assert [order.desired for order in desired.orders] == [
        {SHIPPING: "fulfilled", PAYMENT: "paid"},
        {SHIPPING: "shipped"},
    ]


def test_rows_that_contradict_each_other_are_all_refused() -> None:
    rows = [
        {"order_id": UUID, "status": "open"},
        {"order_id": UUID.upper(), "status": "closed", "payment_status": "paid"},
        {"order_id": "o2", "status": "open"},
    ]
    desired = read(rows)

    assert [row.row for row in desired.invalid] == [1, 2]
    assert "row 1 wants 'open' and row 2 wants 'closed'" in desired.invalid[0].reason
    assert [order.order_id for order in desired.orders] == ["o2"]


def test_rows_that_add_to_each_other_are_brought_together() -> None:
    rows = [
        {"order_id": "o1", "status": "closed"},
        {"order_id": "o1", "payment_status": "paid"},
        {"order_id": "o1", "status": "closed"},
    ]
    desired = read(rows)

    assert desired.invalid == []
    assert [order.desired for order in desired.orders] == [{GENERAL: "closed", PAYMENT: "paid"}]


def test_an_order_by_its_id_and_by_its_ref_is_one() -> None:
    desired = read([{"order_id": "o1", "status": "open"}, {"ref": "021", "status": "closed"}])

    desired.join({"021": "o1"})
    desired.refuse_contradictions()

    assert [row.row for row in desired.invalid] == [1, 2]


def test_two_refs_for_one_id_are_refused() -> None:
    assert (
        "on the ref of this order: '1' and '2'"
        in reasons(
            [{"order_id": "o1", "ref": "1", "status": "open"}, {"order_id": "o1", "ref": "2", "status": "open"}]
        )[0]
    )


@pytest.mark.parametrize(
    ("names", "columns", "complaint"),
    [
        (["status"], None, "No column says which order a row is about"),
        (["order_id", "total"], None, "No column says what should hold"),
        (["order_id", "status"], {"payment_status": "paid"}, "There is no column 'paid', which columns names"),
    ],
)
def test_a_table_that_lacks_a_column_is_refused(
    names: list[str], columns: dict[str, str] | None, complaint: str
) -> None:
    with pytest.raises(YouCanInvalidInputError, match=complaint):
        DesiredState(columns).columns.check(names)

    desired = read([dict.fromkeys(names, "x")], columns=columns)
    with pytest.raises(YouCanInvalidInputError, match=complaint):
        desired.columns.check_seen()


@pytest.mark.parametrize(
    "arguments",
    [
        {"columns": {"id": "order"}},
        {"columns": ["order_id"]},
        {"columns": {"order_id": None}},
        {"status_map": {"payment_status": {"A": "paid"}}},
        {"status_map": {"payment": "paid"}},
        {"status_map": "payment"},
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(YouCanInvalidInputError):
        DesiredState(**arguments)


def test_a_column_that_columns_claims_is_not_read_under_its_own_name_as_well() -> None:
    desired = read([{"order_id": "021", "payment_status": "paid"}], columns={"ref": "order_id"})

    assert [(order.order_id, order.ref) for order in desired.orders] == [(None, "021")]


def test_rows_that_ask_for_nothing_name_no_order(sandbox: Sandbox) -> None:
    rows = [{"ref": "001", "payment_status": None}, {"ref": "001", "payment_status": None}]

    assert read(rows).orders == []
    assert reconcile([*rows, {"ref": "002", "payment_status": "refunded"}])["changed"] == 1


@pytest.mark.parametrize("words", [{1: "paid", "1": "unpaid"}, {None: "unpaid"}, {True: "paid", "True": "unpaid"}])
def test_words_that_are_not_told_apart_are_refused_when_the_dag_is_parsed(words: Any) -> None:
    with pytest.raises(YouCanInvalidInputError, match="status_map"):
        read([], status_map={"payment": words})
    with pytest.raises(YouCanInvalidInputError, match="status_map"):
        YouCanReconcileOrdersOperator(task_id="x", orders=[], status_map={"payment": words})


def test_rows_that_join_a_contradiction_are_part_of_it(sandbox: Sandbox) -> None:
    # Given two rows of an order that contradict each other, and a third that names it by its ref,
    (order,) = [one for one in sandbox.shop.orders() if one["ref"] == "003"]
    rows = [
        {"order_id": order["id"], "payment_status": "paid"},
        {"order_id": order["id"], "payment_status": "unpaid"},
        {"ref": "003", "payment_status": "refunded"},
        {"ref": "004", "payment_status": "refunded"},
    ]

    summary = reconcile(rows, on_invalid="skip")

    assert (summary["invalid"], summary["changed"]) == (3, 1)
    assert sandbox.shop.history(order["id"]) == []


def test_many_rows_of_one_order_take_a_pass_each() -> None:
    desired = read([{"order_id": "abc", "payment_status": "paid"} for _ in range(20_000)])

    (order,) = desired.orders
    assert order.desired == {"payment": "paid"}
    assert len(order.entries) == 20_000


@pytest.mark.parametrize("cell", ["0612345678 call first", "fatima@example.com", "٠٦١٢٣٤٥٦٧٨", "a" * 200])
def test_a_cell_that_may_be_a_customers_is_not_shown(sandbox: Sandbox, cell: str) -> None:
    for row in ({"order_id": "abc", "payment_status": cell}, {"order_id": f"{cell} ", "payment_status": "paid"}):
        with pytest.raises(YouCanInvalidInputError) as raised:
            reconcile([row])
        assert cell[:21] not in str(raised.value)


@pytest.mark.parametrize(
    ("status_map", "message"),
    [
        ({"COLLECTED": "paid"}, "give one for each context, such as {'payment': {'COLLECTED': 'paid'}}"),
        ({"shiping": {"A": "shipped"}}, "did you mean 'shipping'"),
        ({"payment_status": {"A": "paid"}}, "did you mean 'payment'"),
        ({"delivery": {"A": "paid"}}, "give 'general', 'shipping', 'payment'"),
        ({"payment": {"{{ params.word }}": "paid"}}, "only values are rendered"),
        ({"payment": {"Livré": "paid", "Livre\u0301 ": "unpaid"}}, "more than once"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused_when_the_dag_is_parsed(status_map: Any, message: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match=re.escape(message)):
        YouCanReconcileOrdersOperator(task_id="x", orders=[], status_map=status_map)
