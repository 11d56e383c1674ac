"""The vocabulary: contexts, slugs, and what may be sent."""

from __future__ import annotations

import string
import unicodedata
from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_youcan.checks import check_known_status, check_order_id, check_status_text, known_statuses
from airflow_provider_youcan.exceptions import YouCanInvalidInputError, YouCanUnknownStatusError
from airflow_provider_youcan.orders import (
    OrderStatuses,
    StatusContext,
    normalize_text,
)

DOCUMENTED_ORDER: dict[str, Any] = {
    "id": "72aa7882-3898-49a8-87a2-506af3dd7320",
    "ref": "021",
    "status": 1,
    "status_new": "Open",
    "status_object": {"slug": "open", "name": "Open", "color": "#8A9CA0FF"},
    "payment_status": 4,
    "payment_status_new": "Pending",
    "confirmation_status": "pending",
    "shipping_status": "unfulfilled",
    "payment": {"status": 5, "status_text": "pending", "status_object": {"slug": "pending", "name": "Pending"}},
    "shipping": {"status": 2, "status_text": "unfulfilled", "status_object": {"slug": "unfulfilled"}},
}


def test_a_context_is_its_own_value() -> None:
    assert StatusContext("shipping") is StatusContext.SHIPPING
    assert StatusContext.SHIPPING == "shipping"
    assert f"{StatusContext.SHIPPING}" == "shipping"


@pytest.mark.parametrize(
    ("context", "path", "slugs"),
    [
        ("general", "/status", ("open", "closed", "processed", "canceled-by-seller")),
        ("shipping", "/status/shipping", ("unfulfilled", "processing", "shipped", "fulfilled", "canceled")),
        ("payment", "/status/payment", ("pending", "paid", "captured", "unpaid", "refunded")),
    ],
)
def test_each_context_knows_its_path_and_its_documented_slugs(context: str, path: str, slugs: tuple[str, ...]) -> None:
    assert StatusContext(context).path == path
    assert StatusContext(context).documented_slugs == slugs


@pytest.mark.parametrize("context", ["orders", "shipping_status", "", None, 3])
def test_another_context_is_refused(context: Any) -> None:
    with pytest.raises(YouCanInvalidInputError, match="'general', 'shipping', 'payment'"):
        StatusContext(context)


def test_the_statuses_of_the_documented_order() -> None:
    assert OrderStatuses.from_order(DOCUMENTED_ORDER) == OrderStatuses("open", "unfulfilled", "pending")


def test_an_order_without_status_objects_falls_back_to_texts() -> None:
    order = {
        "id": "…",
        "status": 1,
        "payment": {"status_text": "pending"},
        "shipping": {"status_text": "unfulfilled"},
    }

    assert OrderStatuses.from_order(order) == OrderStatuses(None, "unfulfilled", "pending")


def test_without_sub_resources_the_top_level_is_all_there_is() -> None:
    order = {"status": 1, "shipping_status": "shipped", "payment_status": 4, "payment_status_new": "Pending"}

    statuses = OrderStatuses.from_order(order)

    assert statuses["shipping"] == "shipped"
    assert statuses["payment"] is None, "neither a number nor a translated label is a slug"
    assert statuses[StatusContext.GENERAL] is None


@pytest.mark.parametrize("number", [5, "5", " 12 ", "٣"])
def test_a_number_is_no_slug_however_it_is_written(number: Any) -> None:
    order = {"payment": {"status_text": number}, "payment_status": number}

    assert OrderStatuses.from_order(order)["payment"] is None


@pytest.mark.parametrize("broken", [None, 7, "text", [], {}, {"slug": ""}, {"slug": 3}, {"slug": None}])
def test_an_unreadable_status_is_unknown(broken: Any) -> None:
    order = {"status_object": broken, "shipping": broken, "payment": {"status_object": broken}}

    assert OrderStatuses.from_order(order) == OrderStatuses(None, None, None)


def mappings_of(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings that have some of these keys."""
    return st.fixed_dictionaries({}, optional=values)


TEXT = st.sampled_from(["", " ", "7", "shipped"]) | st.text()
ANYTHING = TEXT | st.none() | st.booleans() | st.integers() | st.builds(dict) | st.builds(list)
STATUS_OBJECT = ANYTHING | mappings_of(slug=ANYTHING)
PART = ANYTHING | mappings_of(status_object=STATUS_OBJECT, status_text=ANYTHING)
ORDER = mappings_of(
    status=ANYTHING,
    status_object=STATUS_OBJECT,
    status_text=ANYTHING,
    shipping=PART,
    shipping_status=ANYTHING,
    payment=PART,
    payment_status=ANYTHING,
)


@given(ORDER)
def test_any_payload_reads_as_slugs_or_unknown(payload: dict[str, Any]) -> None:
    for slug in astuple(OrderStatuses.from_order(payload)):
        assert slug is None or (isinstance(slug, str) and slug.strip())


@pytest.mark.parametrize("order_id", ["72aa7882-3898-49a8-87a2-506af3dd7320", "a", "A_b-9", "x" * 100])
def test_an_order_id_passes_as_it_is(order_id: str) -> None:
    assert check_order_id(order_id) == order_id


def test_a_uuid_is_sent_in_lower_case() -> None:
    assert check_order_id("72AA7882-3898-49A8-87A2-506AF3DD7320") == "72aa7882-3898-49a8-87a2-506af3dd7320"
    assert check_order_id("A_b-9") == "A_b-9"


@pytest.mark.parametrize(
    ("order_id", "message"),
    [
        (None, "empty"),
        ("None", "empty"),
        ("", "empty"),
        ("  ", "empty"),
        ("../stores", "not an order id"),
        ("a/status/payment?x", "not an order id"),
        ("a\n", "not an order id"),
        ("a b", "not an order id"),
        ("٢١", "not an order id"),
        ("ordré", "not an order id"),
        ("x" * 101, "not an order id"),
        (21, "of type int"),
        (True, "of type bool"),
        (b"abc", "of type bytes"),
        (["abc"], "of type list"),
    ],
)
def test_another_order_id_is_refused(order_id: Any, message: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match=message):
        check_order_id(order_id)


@given(st.text())
def test_no_order_id_can_leave_its_place_in_the_path(order_id: str) -> None:
    try:
        checked = check_order_id(order_id)
    except YouCanInvalidInputError:
        return
    assert set(checked) <= set(string.ascii_letters + string.digits + "-_")


@pytest.mark.parametrize("status", ["paid", " paid ", "تم التسليم", "Livré à l'agence", "?"])
def test_a_status_in_any_script_passes_as_it_is(status: str) -> None:
    assert check_status_text(status) == status


@pytest.mark.parametrize("status", ["", "  ", "\n", "None", None, 3, ["paid"], "half \ud800"])
def test_an_empty_status_is_refused(status: Any) -> None:
    with pytest.raises(YouCanInvalidInputError, match="nothing was sent"):
        check_status_text(status)


def test_a_status_of_the_store_is_known() -> None:
    check_known_status("confirmed", StatusContext.GENERAL, ["confirmed"])


@pytest.mark.parametrize(
    ("status", "meant"),
    [("shiped", "shipped"), ("Shipped", "shipped"), ("SHIPPED ", "shipped"), ("retournee", "Retournée")],
)
def test_an_unknown_status_names_the_closest(status: str, meant: str) -> None:
    with pytest.raises(YouCanUnknownStatusError, match=f"did you mean '{meant}'") as raised:
        check_known_status(
            status, StatusContext.SHIPPING, known_statuses(StatusContext.SHIPPING, ["Retournée", "تم التسليم"])
        )

    assert raised.value.closest[0] == meant


def test_an_unknown_status_that_resembles_none_lists_them() -> None:
    with pytest.raises(YouCanUnknownStatusError, match=r"known are 'pending', 'paid'.*allow_custom_label") as raised:
        check_known_status("xyzzy", StatusContext.PAYMENT, known_statuses(StatusContext.PAYMENT, []))

    assert raised.value.closest == []


def test_half_a_character_of_the_shop_is_no_status() -> None:
    order = {"payment": {"status_object": {"slug": "x\ud800"}, "status_text": "y\ud800"}}

    assert OrderStatuses.from_order(order).payment is None


AROUND = st.text(st.sampled_from(" \t\n\xa0\u2009\u3000\u200b\u200e\u200f\u202b\u2066\ufeff"), max_size=5)


@given(AROUND, st.text(min_size=1, max_size=20), AROUND, st.sampled_from(["NFC", "NFD"]))
def test_a_text_is_known_again_whatever_is_put_around_it(before: str, text: str, after: str, form: Any) -> None:
    padded = before + unicodedata.normalize(form, text) + after

    assert normalize_text(padded) == normalize_text(text)
    assert normalize_text(normalize_text(text)) == normalize_text(text)


@given(
    st.text(st.characters(categories=["L", "N"]), min_size=1), st.text(st.characters(categories=["L", "N"]), min_size=1)
)
def test_two_words_are_not_taken_for_one(one: str, other: str) -> None:
    same = unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)

    assert (normalize_text(one) == normalize_text(other)) is same
