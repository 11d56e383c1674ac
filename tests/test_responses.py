"""What an answer means: a success, or what Airflow should make of an error."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pendulum
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_youcan.client import endpoints, oauth, responses, transport
from airflow_provider_youcan.client.responses import Answer
from airflow_provider_youcan.client.transport import TransportFailure
from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanError,
    YouCanOrderNotFoundError,
    YouCanPermanentError,
    YouCanPermissionError,
    YouCanRateLimitError,
    YouCanServerError,
    YouCanStoreSuspendedError,
    YouCanUnexpectedResponseError,
    YouCanValidationError,
)
from tests.test_endpoints import ORDER_ID, REQUESTS, UPDATE, UPDATED, read

# --- errors: a case for each row of the design's table ---


@pytest.mark.parametrize(
    ("status_code", "payload", "error", "message"),
    [
        (401, {"status": 401, "detail": "Unauthenticated", "meta": []}, YouCanAuthenticationError, "renew the token"),
        (401, {"message": "Unauthenticated."}, YouCanAuthenticationError, "or it lacks the scope 'edit-orders'"),
        (402, {"status": 402, "error": "store is suspended"}, YouCanStoreSuspendedError, "store is suspended"),
        (403, {"message": "Invalid scope(s) provided."}, YouCanPermissionError, "grant the scope 'edit-orders'"),
        (404, {"status": 0, "detail": "order not found", "meta": []}, YouCanOrderNotFoundError, "no such order"),
        (405, {"status": 404, "detail": "no"}, YouCanPermanentError, "405"),
        (408, None, YouCanServerError, "it may work later"),
        (405, {"message": "The PUT method is not supported."}, YouCanPermanentError, "405"),
        (409, {"status": 409, "detail": "conflict"}, YouCanPermanentError, "409"),
        (202, UPDATED, YouCanUnexpectedResponseError, "202"),
        (422, {"status": 422, "detail": "The given data was invalid."}, YouCanValidationError, "invalid"),
        (422, {"message": "The given data was invalid."}, YouCanValidationError, "invalid"),
        (429, "<html>", YouCanRateLimitError, "it may work later"),
        (429, {"message": "Too Many Attempts."}, YouCanRateLimitError, "it may work later"),
        (500, {"status": 500, "detail": "internal error"}, YouCanServerError, "internal error"),
        (502, "<html>", YouCanServerError, "502"),
        (503, None, YouCanServerError, "503"),
        (301, None, YouCanPermanentError, "never followed"),
        (302, UPDATED, YouCanPermanentError, "never followed"),
        (304, None, YouCanPermanentError, "304"),
        (100, UPDATED, YouCanUnexpectedResponseError, "100"),
        (999, UPDATED, YouCanUnexpectedResponseError, "999"),
    ],
)
def test_each_answer_raises_what_airflow_should_do(
    status_code: int, payload: object, error: type[YouCanError], message: str
) -> None:
    with pytest.raises(YouCanError, match=message) as raised:
        read(UPDATE, status_code, payload)

    assert type(raised.value) is error
    assert ORDER_ID in str(raised.value)
    assert raised.value.method == "PUT"
    assert raised.value.url == f"/orders/{ORDER_ID}/status/payment"
    assert raised.value.status_code == status_code


# --- who is speaking ---

GATEWAYS = [
    "<html>nginx: not found</html>",
    None,
    [],
    {},
    {"message": 401},
    {"status": True, "detail": "Unauthenticated"},
    {"status": "401", "detail": "Unauthenticated"},
    {"status": 401, "detail": ""},
    {"status": 401, "detail": {"en": "Unauthenticated"}},
    {"error": "Forbidden", "code": 403},
    {"code": 403, "reason": "blocked by the firewall"},
]


@pytest.mark.parametrize("status_code", [400, 401, 402, 403, 404, 405, 409, 410, 418, 422, 423, 425, 451, 499])
@pytest.mark.parametrize("payload", GATEWAYS)
def test_only_youcan_decides_for_youcan(status_code: int, payload: object) -> None:
    if status_code == 402 and isinstance(payload, dict) and "error" in payload:
        return  # as YouCan's own of this one
    for request in (UPDATE, endpoints.get_order(ORDER_ID), endpoints.get_store()):
        with pytest.raises(YouCanUnexpectedResponseError, match=str(status_code)) as raised:
            read(request, status_code, payload)
        assert raised.value.unconfirmed is (request is UPDATE), "a gateway may have passed the update on"


@pytest.mark.parametrize(
    "payload",
    [
        {"status": 0, "detail": "order not found", "meta": []},
        {"status": 0, "detail": "Order not found."},
        {"status": 404, "detail": f"Order {ORDER_ID} could not be found"},
        {"status": 0, "detail": "No such order"},
        {"status": 0, "detail": "The order does not exist."},
    ],
)
def test_a_missing_order_is_one_by_youcans_own_word(payload: object) -> None:
    with pytest.raises(YouCanOrderNotFoundError):
        read(UPDATE, 404, payload)


@pytest.mark.parametrize(
    "payload",
    [
        {"message": "Not Found"},
        {"detail": "Not Found"},
        {"detail": "order not found"},
        {"status": False, "detail": "order not found"},
        {"status": False, "message": "no Route matched"},
        {"status": 0, "detail": "no such store"},
        {"status": 0},
        {"status": 404, "detail": "The route for this order could not be found."},
        {"status": 404, "detail": "Unknown path /order-service/"},
        {"detail": "Unknown path /order-service/"},
        {"status": 404, "detail": "The page you are looking for, in order, was not found"},
        {"status": 0, "detail": "order status not found"},
    ],
)
def test_a_missing_route_is_not_a_missing_order(payload: object) -> None:
    with pytest.raises(YouCanError) as raised:
        read(UPDATE, 404, payload)

    assert not isinstance(raised.value, YouCanOrderNotFoundError), "or skip_not_found skips a shop that was never asked"


@pytest.mark.parametrize(
    ("status_code", "payload", "error"),
    [
        (401, {"error": "invalid_grant"}, YouCanAuthenticationError),
        (400, {"error": "invalid_grant", "message": "The refresh token is invalid."}, YouCanAuthenticationError),
        (401, {"error": "invalid_client"}, YouCanAuthenticationError),
        (400, {"error": "unsupported_grant_type"}, YouCanPermanentError),
        (400, {"error": "temporarily_unavailable"}, YouCanUnexpectedResponseError),
        (403, {"error": "server_error"}, YouCanUnexpectedResponseError),
        (400, "<html>", YouCanUnexpectedResponseError),
        (403, "<html>", YouCanUnexpectedResponseError),
        (401, {"status": 401, "detail": "Unauthenticated"}, YouCanUnexpectedResponseError),
        (503, {"error": "invalid_grant"}, YouCanServerError),
    ],
)
def test_a_grant_is_spent_only_by_youcans_own_word(status_code: int, payload: object, error: type[YouCanError]) -> None:
    for request in (
        oauth.exchange_refresh_token("app-7", "the-s3cret", "the-refresh-token"),
        oauth.exchange_code("app-7", "the-s3cret", "https://a.example", "the-code"),
    ):
        with pytest.raises(YouCanError) as raised:
            read(request, status_code, payload)
        assert type(raised.value) is error


def test_an_update_is_never_a_201() -> None:
    with pytest.raises(YouCanUnexpectedResponseError, match="201"):
        read(UPDATE, 201, UPDATED)


@pytest.mark.parametrize(
    ("status_code", "may_have_been_applied"),
    [
        (200, True),
        (202, True),
        (408, True),
        (500, True),
        (502, True),
        (503, True),
        (504, True),
        (429, False),
        (302, False),
        (401, False),
        (422, False),
    ],
)
def test_an_update_may_have_been_applied_before_some_answers(status_code: int, may_have_been_applied: bool) -> None:
    for request, is_unconfirmed in ((UPDATE, may_have_been_applied), (endpoints.get_order(ORDER_ID), False)):
        with pytest.raises(YouCanError) as raised:
            read(request, status_code, {"message": "no"})
        assert raised.value.unconfirmed is is_unconfirmed


@pytest.mark.parametrize(
    ("payload", "headers", "may_have_been_applied"),
    [
        ({"message": "Service Unavailable"}, {"Retry-After": "60"}, False),
        ({"status": 503, "detail": "maintenance"}, {"Retry-After": "60"}, False),
        ({"message": "Service Unavailable"}, {}, True),
        ("<html>", {"Retry-After": "60"}, True),
        ({"error": "no healthy upstream"}, {"Retry-After": "60"}, True),
    ],
)
def test_only_a_503_of_laravels_maintenance_mode_takes_no_update(
    payload: object, headers: dict[str, str], may_have_been_applied: bool
) -> None:
    with pytest.raises(YouCanServerError) as raised:
        read(UPDATE, 503, payload, headers)

    assert raised.value.unconfirmed is may_have_been_applied


def test_a_ref_in_the_place_of_an_order_id_is_reported() -> None:
    with pytest.raises(YouCanOrderNotFoundError, match="a UUID, not the order's ref"):
        read(endpoints.get_order("021"), 404, {"status": 0, "detail": "order not found"})


def test_a_404_for_anything_but_an_order_is_no_missing_order() -> None:
    with pytest.raises(YouCanPermanentError) as raised:
        read(endpoints.get_store(), 404, {"status": 0, "detail": "order not found"})

    assert type(raised.value) is YouCanPermanentError


def test_a_refused_field_is_named() -> None:
    body = {
        "status": 422,
        "detail": "The given data was invalid.",
        "meta": {"fields": {"status": ["The status field is required."]}},
    }

    with pytest.raises(YouCanValidationError, match="status: The status field is required.") as raised:
        read(UPDATE, 422, body)

    assert raised.value.fields == {"status": ["The status field is required."]}


def test_the_connection_to_mend_is_named() -> None:
    with pytest.raises(YouCanAuthenticationError, match="'my_shop'"):
        responses.read_response(
            UPDATE, Answer(401, {}, b'{"message": "no"}'), connection="the Airflow connection 'my_shop'"
        )


# --- what goes no further ---


@pytest.mark.parametrize("status_code", [200, 401, 422, 500])
def test_a_token_that_the_answer_echoes_goes_no_further(status_code: int) -> None:
    secret = "12|s3cret/t0ken"
    echoes = f"bad token {secret} or {quote(secret, safe='')} or s3cret/t0ken"
    # As PHP writes JSON.
    body = json.dumps({"detail": echoes, "meta": {"fields": {secret: [echoes]}}}).replace("/", "\\/")

    with pytest.raises(YouCanError) as raised:
        responses.read_response(UPDATE, Answer(status_code, {}, body.encode()), secret=secret)

    assert "t0ken" not in f"{raised.value} {vars(raised.value)}"


@pytest.mark.parametrize("status_code", [200, 400, 401, 500])
def test_no_secret_of_a_request_for_a_token_goes_further(status_code: int) -> None:
    request = oauth.exchange_refresh_token("app-7", "the-s3cret", "the-refresh-token")

    with pytest.raises(YouCanError) as raised:
        read(request, status_code, {"detail": "app-7 with the-s3cret and the-refresh-token"})

    assert raised.value.detail == "app-7 with *** and ***"


def test_search_words_and_personal_data_are_in_no_error() -> None:
    request = endpoints.list_orders(query={"q": "Fatima"})

    with pytest.raises(YouCanError) as raised:
        read(request, 500, {"detail": "no Fatima with +212 6 12-34-56-78 or f.zahra@example.com in 2026"})

    assert raised.value.detail == "no *** with *** or *** in 2026"


DIGITS = [
    "0123456789",
    "\u0660\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668\u0669",
    "\u06f0\u06f1\u06f2\u06f3\u06f4\u06f5\u06f6\u06f7\u06f8\u06f9",
]


@given(
    st.lists(st.integers(0, 9), min_size=8, max_size=15),
    st.sampled_from(DIGITS),
    st.sampled_from(["", " ", "-", "/", ".", "\u2011", "\u2013", "\u00a0", ") ", "\u200e", " / "]),
    st.sampled_from(["text", "number", "nested", "list"]),
)
def test_a_phone_in_an_answer_goes_no_further(numbers: list[int], digits: str, separator: str, kind: str) -> None:
    phone = separator.join(digits[number] for number in numbers)
    plain = int("1" + "".join(map(str, numbers)))
    shown: object = {"text": f"call {phone}", "number": plain, "nested": {"phone": phone}, "list": [[phone], plain]}[
        kind
    ]
    body = {"status": 422, "detail": f"no {phone}", "meta": {"fields": {"phone": shown, phone: ["x"]}}}

    with pytest.raises(YouCanValidationError) as raised:
        read(UPDATE, 422, body)

    told = f"{raised.value} {vars(raised.value)}".replace(ORDER_ID, "")
    assert phone not in told
    assert str(plain) not in told


@given(st.text(st.characters(categories=["Lu", "Ll", "Lo"]), min_size=4, max_size=20))
def test_a_search_goes_no_further_in_any_letter_case(text: str) -> None:
    for echo in (text, text.upper(), text.lower(), text.title()):
        with pytest.raises(YouCanServerError) as raised:
            read(endpoints.list_orders(query={"q": text}), 500, {"detail": f"nobody is called <{echo}> here"})
        if len(echo) == len(text):  # some letters become two
            assert echo not in str(raised.value.detail)


def test_an_orders_own_id_stays() -> None:
    with pytest.raises(YouCanServerError) as raised:
        read(UPDATE, 500, {"detail": f"order {ORDER_ID} is locked"})

    assert raised.value.detail == f"order {ORDER_ID} is locked"


@pytest.mark.parametrize("echo", ["Fatima Zahra", "Fatima+Zahra", "Fatima%20Zahra"])
def test_nor_does_it_as_a_url_writes_it(echo: str) -> None:
    with pytest.raises(YouCanError) as raised:
        read(endpoints.list_orders(query={"q": "Fatima Zahra"}), 500, {"detail": f"/orders?q={echo} failed"})

    assert raised.value.detail == "/orders?q=*** failed"


def test_no_answer_can_break_the_log_that_it_is_written_to() -> None:
    body = (
        b'{"status": 422, "detail": "x\\ud800 \\u001b[2J\\u202e", "meta": {"fields": {"a\\nFAKE LINE": ["\\u0000"]}}}'
    )

    with pytest.raises(YouCanValidationError) as raised:
        responses.read_response(UPDATE, Answer(422, {}, body))

    shown = f"{raised.value} {raised.value.fields}"
    shown.encode()
    assert shown.isprintable()


def test_an_answer_of_any_size_makes_a_short_error() -> None:
    fields = {f"field{number}" * 1000: ["x" * 10_000] * 30 for number in range(30)}

    with pytest.raises(YouCanValidationError) as raised:
        read(UPDATE, 422, {"status": 422, "detail": "y" * 1_000_000, "meta": {"fields": fields}})

    assert len(str(raised.value)) < 1000
    assert len(str(raised.value.fields)) < 100_000


def test_a_detail_stays_on_one_line() -> None:
    with pytest.raises(YouCanServerError) as raised:
        read(UPDATE, 500, {"detail": "internal\n\terror " + "x" * 5000})

    assert raised.value.detail is not None
    assert raised.value.detail.startswith("internal error x")
    assert len(raised.value.detail) == 200


# --- Retry-After ---


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        (" 3600 ", 3600.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("9" * 15, 31_536_000.0),
        ("9" * 5000, 31_536_000.0),
        ("inf", None),
        ("nan", None),
        ("٣", None),
        ("2026", 2026.0),
    ],
)
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    with pytest.raises(YouCanRateLimitError) as raised:
        read(UPDATE, 429, {}, {"retry-AFTER": value})

    assert raised.value.retry_after == seconds


@pytest.mark.parametrize(
    ("date", "until", "seconds"),
    [
        ("Mon, 23 Nov 2026 08:00:00 GMT", "Mon, 23 Nov 2026 08:01:30 GMT", 90.0),
        ("Mon, 23 Nov 2026 08:00:00 GMT", "Mon, 23 Nov 2026 07:00:00 GMT", 0.0),
        ("Mon, 23 Nov 2026 08:00:00 GMT", "Monday, 23-Nov-26 08:00:20 GMT", 20.0),
        ("Mon, 23 Nov 2026 08:00:00 GMT", "Mon Nov 23 08:00:20 2026", 20.0),
        ("Mon, 23 Nov 2026 08:00:00 GMT", "Mon, 23 Nov 9000 08:00:00 GMT", 31_536_000.0),
        ("Mon, 23 Nov 2026 08:00:00 GMT", "Mon, 32 Nov 2026 07:00:00 GMT", None),
    ],
)
def test_retry_after_as_a_date_counts_from_the_shops_own_clock(date: str, until: str, seconds: float | None) -> None:
    with pytest.raises(YouCanRateLimitError) as raised:
        read(UPDATE, 429, {}, {"Retry-After": until, "Date": date})

    assert raised.value.retry_after == seconds


def test_retry_after_as_a_date_counts_from_now_where_the_shop_has_no_clock() -> None:
    until = pendulum.now("UTC").add(seconds=120).format("ddd, DD MMM YYYY HH:mm:ss [GMT]")

    with pytest.raises(YouCanRateLimitError) as raised:
        read(UPDATE, 429, {}, {"Retry-After": until})

    assert raised.value.retry_after == pytest.approx(120, abs=5)


def test_a_server_error_may_say_when_to_come_back() -> None:
    with pytest.raises(YouCanServerError) as raised:
        read(UPDATE, 503, {}, {"Retry-After": "30"})

    assert raised.value.retry_after == 30.0


# --- X-RateLimit ---


@pytest.mark.parametrize(
    ("limit", "remaining", "read"),
    [
        ("60", "59", (60, 59)),
        ("60", "-1", (None, None)),
        ("60", "", (None, None)),
        ("many", "59", (None, None)),
        ("9" * 9, "0", (999_999_999, 0)),
        ("9" * 10, "0", (None, None)),
        ("60", "9" * 5000, (None, None)),
    ],
)
def test_rate_limit_headers_are_two_numbers_or_nothing(
    limit: str, remaining: str, read: tuple[int | None, int | None]
) -> None:
    headers = {"X-RateLimit-Limit": limit, "X-RateLimit-Remaining": remaining}

    assert responses.read_rate_limit(headers) == read
    assert responses.read_rate_limit({"X-RateLimit-Limit": limit}) == (None, None)


# --- no answer ---


@pytest.mark.parametrize("why", TransportFailure)
def test_only_a_request_that_was_sent_leaves_open_whether_it_was_taken(why: TransportFailure) -> None:
    was_sent = why in (TransportFailure.NOT_IN_TIME, TransportFailure.LOST)

    update = transport.connection_error(UPDATE, why, "https://shop", 30)
    reading = transport.connection_error(endpoints.get_order(ORDER_ID), why, "https://shop", 30)

    assert (update.unconfirmed, reading.unconfirmed) == (was_sent, False)
    assert ("whether YouCan took it is unknown" in str(update)) is was_sent
    assert "nothing was changed" in str(reading)


# --- whatever comes ---


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["status", "detail", "error", "message", "meta", "fields", "data", "id", "slug", "pagination"]
            )
            | st.text(),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
BODIES = st.binary() | JSON.map(lambda value: json.dumps(value).encode())
HEADERS = st.dictionaries(
    st.sampled_from(["Retry-After", "retry-after", "Date", "Content-Type"]) | st.text(), st.text(), max_size=4
)


@given(
    request=st.sampled_from(REQUESTS), status_code=st.integers(-1, 1000) | st.integers(), headers=HEADERS, body=BODIES
)
@example(UPDATE, 429, {"Retry-After": "Sun, 00 Jan 0000 00:00:00 GMT"}, b"")
@example(UPDATE, 422, {}, b'{"meta": {"fields": {"status": 3}}}')
def test_any_answer_is_a_payload_or_a_youcan_error(
    request: endpoints.Request, status_code: int, headers: dict[str, str], body: bytes
) -> None:
    try:
        payload = responses.read_response(request, Answer(status_code, headers, body))
    except YouCanError as error:
        assert str(error)
    else:
        assert isinstance(payload, dict)
        assert status_code == 200


@given(status_code=st.integers(200, 299), body=BODIES | st.just(json.dumps(UPDATED).encode()))
def test_no_random_2xx_is_taken_for_an_update(status_code: int, body: bytes) -> None:
    try:
        payload = responses.read_response(UPDATE, Answer(status_code, {}, body))
    except YouCanUnexpectedResponseError:
        return
    assert status_code == payload["status"] == 200


@pytest.mark.parametrize("status", [200, 302, 401, 402, 403, 404, 405, 408, 409, 422, 429, 500, 503, 600])
@pytest.mark.parametrize("payload", [None, {"status": 0, "detail": "x"}, {"status": 402, "error": "suspended"}])
def test_the_cause_and_the_remedy_come_first_where_a_page_cuts_the_line(status: int, payload: Any) -> None:
    with pytest.raises(YouCanError) as raised:
        read(UPDATE, status, payload)

    cause, _, remedy = str(raised.value).partition(". Could not ")[0].rpartition(": ")
    assert f"({status})" in cause
    assert len(cause) < 90
    assert remedy
    assert f"Could not set the payment status of order {ORDER_ID}" in str(raised.value)
