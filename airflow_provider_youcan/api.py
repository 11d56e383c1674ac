"""
The wire, without I/O: what each request looks like, and what an answer means.

The functions that build requests return plain :class:`Request` data, and :func:`read_response` turns what
came back into a payload or raises. Whatever carries the bytes in between, these decide what is a success.

The facts come from the pages under https://developer.youcan.shop/store-admin (``introduction/errors``,
``orders/get``, ``orders/listing``, ``orders/statuses``).
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, quote_plus

import pendulum

from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanConnectionError,
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
from airflow_provider_youcan.orders import StatusContext, check_order_id, check_status, is_text

__all__ = [
    "BASE_URL",
    "LARGEST_BODY",
    "Request",
    "connection_error",
    "exchange_code",
    "exchange_refresh_token",
    "get_order",
    "get_store",
    "get_store_statuses",
    "is_token",
    "list_orders",
    "read_lifetime",
    "read_rate_limit",
    "read_response",
    "read_scopes",
    "read_store_slugs",
    "update_order_status",
]

BASE_URL = "https://api.youcan.shop"

LARGEST_BODY = 20_000_000
"""How many bytes of an answer are read; a page of fifty orders has a quarter of a million."""

# Where ``GET /orders/settings`` keeps the statuses of each context.
STORE_STATUS_LISTS = {
    StatusContext.GENERAL: "ordersStatus",
    StatusContext.SHIPPING: "shipping",
    StatusContext.PAYMENT: "payment",
}


@dataclass(frozen=True)
class Request:
    """One request to the store-admin API, ready to be carried."""

    method: str
    path: str
    purpose: str
    """What it is for, in the words of an error message: ``read order 72aa…``."""
    is_success: Callable[[Mapping[str, Any]], bool]
    """Whether the JSON object that came with a 2xx is the answer that YouCan gives to this request."""
    params: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    form: Mapping[str, str] | None = field(default=None, repr=False)
    """What is sent form-encoded, to the token endpoint alone. It holds secrets."""
    scope: str | None = None
    """The scope that the access token needs, where YouCan documents one."""
    order_id: str | None = None


# --- requests ---------------------------------------------------------------------------------------------


def update_order_status(order_id: str, status: str, context: StatusContext | str) -> Request:
    """
    Build the request that sets one status of one order.

    :param order_id: the order's UUID.
    :param status: the slug, sent as it is given.
    :param context: ``general``, ``shipping`` or ``payment``.
    :raises YouCanInvalidInputError: if one of them can't be sent.
    """
    order_id, status, context = check_order_id(order_id), check_status(status), StatusContext(context)
    return Request(
        method="PUT",
        path=f"/orders/{order_id}{context.path}",
        purpose=f"set the {context} status of order {order_id} to {status!r}",
        # The documented answer repeats the status code. A bare {} or an order is no word that it was done.
        is_success=lambda payload: payload.get("status") == 200 and "error" not in payload,
        json={"status": status},
        scope="edit-orders",
        order_id=order_id,
    )


def get_order(order_id: str, include: Iterable[str] = ("payment", "shipping")) -> Request:
    """
    Build the request that reads one order.

    :param order_id: the order's UUID.
    :param include: the sub-resources to send along, e.g. ``payment``, ``shipping``, ``customer``.
    :raises YouCanInvalidInputError: if the order id can't be sent.
    """
    order_id = check_order_id(order_id)
    return Request(
        method="GET",
        path=f"/orders/{order_id}",
        purpose=f"read order {order_id}",
        # The answer about another order must never be taken for this one's.
        is_success=lambda payload: str(payload.get("id")).casefold() == order_id.casefold(),
        params=_include(include),
        scope="read-orders",
        order_id=order_id,
    )


def list_orders(
    page: int = 1,
    page_size: int = 50,
    include: Iterable[str] = ("payment", "shipping"),
    query: Mapping[str, Any] | None = None,
) -> Request:
    """
    Build the request that lists one page of the orders.

    :param page: which page, from 1.
    :param page_size: how many orders a page; YouCan doesn't document its largest, public clients use 50.
    :param include: the sub-resources to send along.
    :param query: ``sort_field`` (``ref``, ``total``, ``created_at``), ``sort_order`` (``asc``, ``desc``),
        ``q`` (a text to search for) and ``filters`` (a list of mappings with ``field``, ``operator`` and
        ``value``); ``None`` leaves one out.
    :raises YouCanInvalidInputError: if the page, its size or a filter makes no sense.
    """
    for name, number in (("page", page), ("page_size", page_size)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise YouCanInvalidInputError(f"{name} is {number!r}: give a whole number from 1.")
    query = dict(query or {})
    # YouCan passes over a name that it doesn't know, and so would list every order there is.
    if unknown := query.keys() - {"sort_field", "sort_order", "q", "filters"}:
        raise YouCanInvalidInputError(
            f"Orders can't be listed by {', '.join(sorted(unknown))}: use sort_field, sort_order, q and filters."
        )
    params = {"page": str(page), "limit": str(page_size), **_include(include), **_filters(query.pop("filters", None))}
    params.update({name: str(value) for name, value in query.items() if value is not None})
    if not all(map(is_text, params.values())):
        raise YouCanInvalidInputError("The query holds half of a character, which can't be sent: look at its source.")

    def is_success(payload: Mapping[str, Any]) -> bool:
        pagination = _mapping(_mapping(payload.get("meta")).get("pagination"))
        return (
            _is_list_of(payload.get("data"), lambda order: isinstance(order.get("id"), str) and bool(order["id"]))
            and type(pagination.get("total_pages")) is int
            # Only the last page can be empty, and behind it there is nothing.
            and (page >= pagination["total_pages"] or len(payload["data"]) > 0)
            and (page <= pagination["total_pages"] or len(payload["data"]) == 0)
            and pagination.get("current_page", page) == page
        )

    return Request(
        method="GET",
        path="/orders",
        purpose=f"list the orders (page {page})",
        is_success=is_success,
        params=params,
        scope="read-orders",
    )


def get_store_statuses() -> Request:
    """Build the request that reads the store's own lists of statuses."""
    return Request(
        method="GET",
        path="/orders/settings",
        purpose="read the store's list of statuses",
        is_success=lambda payload: all(isinstance(payload.get(name), list) for name in STORE_STATUS_LISTS.values()),
        scope="read-orders-statuses",
    )


def get_store() -> Request:
    """Build the request that reads the store itself: its slug, name, email and currency."""
    return Request(
        method="GET",
        path="/me",
        purpose="read the store",
        is_success=lambda payload: (
            any(isinstance(payload.get(name), str) for name in ("slug", "name"))
            and not {"detail", "error"} & payload.keys()
        ),
    )


def exchange_code(client_id: str, client_secret: str, redirect_uri: str, code: str) -> Request:
    """
    Build the request that gives the code of a seller's consent for the first pair of tokens.

    :param client_id: the id of the app.
    :param client_secret: its secret.
    :param redirect_uri: the address that the consent page led back to.
    :param code: the code that it brought.
    """
    form = {"grant_type": "authorization_code", "redirect_uri": redirect_uri, "code": code}
    return _ask_for_token("obtain the first access token", client_id, client_secret, form)


def exchange_refresh_token(client_id: str, client_secret: str, refresh_token: str) -> Request:
    """
    Build the request that gives a refresh token, which works once, for the next pair of tokens.

    :param client_id: the id of the app.
    :param client_secret: its secret.
    :param refresh_token: the refresh token.
    """
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return _ask_for_token("renew the access token", client_id, client_secret, form)


def _ask_for_token(purpose: str, client_id: str, client_secret: str, form: Mapping[str, str]) -> Request:
    return Request(
        method="POST",
        path="/oauth/token",
        purpose=purpose,
        is_success=lambda payload: is_token(payload.get("access_token")),
        form={"client_id": client_id, "client_secret": client_secret, **form},
    )


def is_token(value: object) -> bool:
    """Tell whether a value can be sent as a token: it is what a header takes, without spaces."""
    return isinstance(value, str) and re.fullmatch(r"[\x21-\x7e]+", value) is not None


def read_lifetime(payload: Mapping[str, Any]) -> float:
    """Read for how many seconds the token in an answer lives; infinite where YouCan doesn't say."""
    lifetime = payload.get("expires_in")
    if isinstance(lifetime, str) and re.fullmatch(r"[0-9]{1,10}", lifetime):
        lifetime = int(lifetime)
    if isinstance(lifetime, bool) or not isinstance(lifetime, (int, float)) or not 0 < lifetime < _A_YEAR * 100:
        return math.inf
    return float(lifetime)


def read_scopes(token: str) -> frozenset[str] | None:
    """
    Read what a token says that it may do, or ``None`` where it doesn't say.

    Laravel Passport, which YouCan's OAuth is taken to be, writes the scopes into the token itself, a JWT.

    :param token: the access token; its signature is for the shop to check.
    """
    try:
        part = token.split(".")[1]
        payload = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError, RecursionError):
        return None
    scopes = _mapping(payload).get("scopes")
    return frozenset(map(str, scopes)) if isinstance(scopes, list) else None


def read_store_slugs(payload: Mapping[str, Any]) -> dict[StatusContext, list[str]]:
    """Read the slugs of each context from the answer to :func:`get_store_statuses`, in the store's order."""
    return {
        context: [slug for status in payload[name] if isinstance(slug := _mapping(status).get("slug"), str)]
        for context, name in STORE_STATUS_LISTS.items()
    }


def _include(include: Iterable[str]) -> dict[str, str]:
    names = [include] if isinstance(include, str) else list(include)
    if not all(isinstance(name, str) and is_text(name) for name in names):
        raise YouCanInvalidInputError("include names sub-resources, such as 'payment' and 'shipping'.")
    return {"include": ",".join(names)} if names else {}


def _filters(filters: object) -> dict[str, str]:
    if filters is None:
        return {}
    if not _is_list_of(filters, lambda item: item.keys() == {"field", "operator", "value"}):
        raise YouCanInvalidInputError("filters is a list of mappings, each with field, operator and value.")
    assert isinstance(filters, list)  # noqa: S101  # for the type checker: _is_list_of has seen to it
    return {
        f"filters[{number}][{key}]": str(value) for number, item in enumerate(filters) for key, value in item.items()
    }


def _is_list_of(value: object, is_item: Callable[[Mapping[str, Any]], bool]) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) and is_item(item) for item in value)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


# --- no answer ----------------------------------------------------------------------------------------------


def connection_error(request: Request, what: str, *, sent: bool = False) -> YouCanConnectionError:
    """
    Build the error for a request that got no whole answer.

    :param request: what was asked.
    :param what: what kept the answer from coming, without a word of what was asked.
    :param sent: whether the shop may have taken the request all the same (default ``False``).
    """
    unknown = sent and request.method == "PUT"
    outcome = "whether YouCan took it is unknown" if unknown else "nothing was changed"
    return YouCanConnectionError(
        f"Could not {request.purpose}: {what}; {outcome}, and it may work later.",
        method=request.method,
        url=request.path,
        detail=what,
    )


# --- answers ----------------------------------------------------------------------------------------------


def read_response(
    request: Request,
    status_code: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    youcan_conn_id: str = "youcan_default",
    secret: str = "",
) -> dict[str, Any]:
    """
    Return the payload of a success, or raise what the answer means.

    The HTTP status decides, and 200 is the only success that YouCan documents; the body's own ``status`` can
    only contradict one, never make one.

    :param request: what was asked.
    :param status_code: the HTTP status of the answer.
    :param headers: the headers of the answer, their names in any letter case.
    :param body: the bytes of the answer.
    :param youcan_conn_id: the Airflow connection to name where the token has to be mended.
    :param secret: the access token, which no error may pass on should the answer echo it.
    :return: the JSON object of the answer.
    :raises YouCanError: for everything that is not YouCan's success.
    """
    payload = _parse_json(body)
    if status_code == 200 and isinstance(payload, dict) and request.is_success(payload):
        return payload
    # What was asked for may be a customer's name or phone.
    secrets = [secret, secret.rpartition("|")[2], *request.params.values()]
    secrets += [text for name, text in (request.form or {}).items() if name not in ("grant_type", "client_id")]
    secrets += [encode(text, safe="") for text in secrets for encode in (quote, quote_plus)]
    payload = _redact(payload, [text for text in secrets if len(text) >= 4])
    raise _read_error(request, status_code, headers, payload, f"the Airflow connection {youcan_conn_id!r}")


def _read_error(
    request: Request, status_code: int, headers: Mapping[str, str], payload: object, connection: str
) -> YouCanError:
    """Tell which error an answer is. The table of the design page, row by row; nothing else decides."""
    detail = _read_detail(payload)
    said = f"YouCan answered {status_code}" + (f" ({detail})" if detail else "")

    def error(kind: type[YouCanError], what: str, advice: str, **attributes: Any) -> YouCanError:
        return kind(
            f"Could not {request.purpose}: {what}; {advice}.",
            method=request.method,
            url=request.path,
            status_code=status_code,
            detail=detail,
            **attributes,
        )

    if 200 <= status_code < 300:
        what = f"{said}, but not as YouCan confirms it, so it can't be told what happened"
        return error(YouCanUnexpectedResponseError, what, f"check that the host of {connection} is YouCan's API")
    if status_code == 429:
        retry_after = _read_retry_after(headers)
        advice = "it may work later" if retry_after is None else f"it may work in {retry_after:g} s"
        return error(YouCanRateLimitError, f"too many requests: {said}", advice, retry_after=retry_after)
    if status_code == 408 or 500 <= status_code < 600:
        return error(YouCanServerError, said, "it may work later", retry_after=_read_retry_after(headers))
    if request.form and status_code in (400, 401, 403):
        is_renewal = request.form["grant_type"] == "refresh_token"
        if detail == "invalid_client":
            place = f" in {connection}" if is_renewal else ""
            return error(YouCanAuthenticationError, said, f"check the client id and the client secret{place}")
        again = f"authorise again (python -m airflow_provider_youcan authorize), and renew the tokens in {connection}"
        return error(YouCanAuthenticationError, said, again if is_renewal else "begin anew, and approve it again")
    if status_code == 401:
        what = f"the access token is missing, wrong, revoked or expired: {said}"
        return error(YouCanAuthenticationError, what, f"renew the token in {connection}")
    if status_code == 402:
        return error(YouCanStoreSuspendedError, f"the store is closed or suspended: {said}", "reopen it on YouCan")
    if status_code == 403:
        scope = f"the scope {request.scope!r}" if request.scope else "the scope that this takes"
        what = f"the access token lacks {scope}: {said}"
        return error(YouCanPermissionError, what, f"grant {scope} to the token in {connection}")
    if status_code == 404 and request.order_id and _says_order_not_found(payload):
        what = f"the shop has no such order: {said}"
        uuid_hint = "" if _is_uuid(request.order_id) else " (a UUID, not the order's ref)"
        advice = f"check the order id{uuid_hint}, and that {connection} is the right shop's"
        return error(YouCanOrderNotFoundError, what, advice)
    if status_code == 422:
        fields = _read_fields(payload)
        refused = [f"{name}: {' '.join(complaints)}" for name, complaints in fields.items()]
        what = f"{said}; {'; '.join(refused)[:_LONGEST_TEXT]}" if refused else said
        return error(YouCanValidationError, what, "mend what was sent", fields=fields)
    if 300 <= status_code < 400:
        what = f"{said}, a redirect, which is never followed because that would lose the update"
        return error(YouCanPermanentError, what, f"check the host of {connection}")
    if status_code in (404, 405):
        return error(YouCanPermanentError, f"{said}, which is not about an order", f"check the host of {connection}")
    if 400 <= status_code < 500:
        return error(YouCanPermanentError, said, "trying again would not help")
    return error(YouCanUnexpectedResponseError, f"{said}, which is no HTTP status of an answer", "it may work later")


def _parse_json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # bad text, bad JSON, absurd numbers; a hostile depth of brackets
        return None


# Past these an answer's words help no one, and a log still has to be read.
_LONGEST_TEXT = 200
_MOST_TEXTS = 20
_DEEPEST = 8
_PERSONAL = re.compile(r"[^\s@]+@[^\s@]+|\+?[0-9][0-9 ().-]{6,}[0-9]")
"""An e-mail address, or a run of digits as long as a phone number."""


def _redact(value: object, secrets: Iterable[str], depth: int = 0) -> object:
    """Return the payload of an error with nothing in its texts that must not be passed on."""
    if depth > _DEEPEST:
        return None
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
        text = _PERSONAL.sub("***", " ".join(value[:1000].split()))[:_LONGEST_TEXT]
        # Half a character, or a terminal's escape code, would break the log that it is written to.
        return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    if isinstance(value, list):
        return [_redact(item, secrets, depth + 1) for item in value[:_MOST_TEXTS]]
    if isinstance(value, dict):
        items = list(value.items())[:_MOST_TEXTS]
        return {str(_redact(name, secrets)): _redact(item, secrets, depth + 1) for name, item in items}
    return value


def _read_detail(payload: object) -> str | None:
    """YouCan's own reason on one line: ``detail``, ``error`` on a 402, Laravel's ``message``."""
    for name in ("detail", "error", "message"):
        text = _mapping(payload).get(name)
        if isinstance(text, str) and text.strip():
            return text
    return None


def _read_fields(payload: object) -> dict[str, list[str]]:
    fields = _mapping(_mapping(_mapping(payload).get("meta")).get("fields"))
    return {
        name: [str(complaint) for complaint in (complaints if isinstance(complaints, list) else [complaints])]
        for name, complaints in fields.items()
    }


def _is_uuid(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text, re.IGNORECASE) is not None


def _says_order_not_found(payload: object) -> bool:
    """
    Tell a missing order from a missing route.

    A 404 page of a gateway or of a wrong base URL is no word about the order: taking it for one would let
    ``skip_not_found`` skip every order of a shop that was never asked.
    """
    body = _mapping(payload)
    about_an_order = re.search(r"\border\b", str(body.get("detail")), re.IGNORECASE) is not None
    return body.get("status") == 0 or (about_an_order and not re.search(r"\broute\b", str(body.get("detail"))))


def read_rate_limit(headers: Mapping[str, str]) -> tuple[int | None, int | None]:
    """
    Read how many requests a window takes, and how many of them are left, ``None`` where the shop doesn't say.

    :param headers: the headers of the answer, their names in any letter case.
    """
    told = {name.lower(): value for name, value in headers.items()}
    limit, remaining = (told.get(f"x-ratelimit-{name}", "") for name in ("limit", "remaining"))
    if not (limit.isdecimal() and remaining.isdecimal()):
        return None, None
    # A number of thousands of digits is no limit, and would take its time.
    return (int(limit), int(remaining)) if len(limit) < 10 and len(remaining) < 10 else (None, None)


_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_A_YEAR = 31_536_000.0
# An HTTP date as it is written today, and in the two ways that a recipient still has to read (RFC 9110, 5.6.7).
_HTTP_DATES = ("ddd, DD MMM YYYY HH:mm:ss", "dddd, DD-MMM-YY HH:mm:ss", "ddd MMM D HH:mm:ss YYYY")


def _read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by ``Retry-After``, given as seconds or as an HTTP date (RFC 9110, 10.2.3)."""
    by_name = {name.lower(): value.strip() for name, value in headers.items()}
    value = by_name.get("retry-after", "")
    if _SECONDS.fullmatch(value):
        return min(float(value), _A_YEAR)  # a number of any length, so perhaps an infinite one
    if (until := _parse_http_date(value)) is None:
        return None
    # The shop's own clock, where it tells it: this machine's may be minutes off.
    now = _parse_http_date(by_name.get("date", "")) or pendulum.now("UTC")
    return min(max(0.0, (until - now).total_seconds()), _A_YEAR)


def _parse_http_date(value: str) -> pendulum.DateTime | None:
    text = re.sub(r" +", " ", value.removesuffix(" GMT"))
    for date_format in _HTTP_DATES:
        try:
            return pendulum.from_format(text, date_format, tz="UTC")
        except (ValueError, OverflowError):
            continue
    return None
