"""
The meaning of an answer, without I/O: a payload, or the error that says what Airflow should do.

The HTTP status decides, by the table below; but a verdict of the 4xx that ends something is believed only from an
answer in one of YouCan's own shapes. The facts come from https://developer.youcan.shop/store-admin
(``introduction/errors``, ``introduction/oauth``, ``orders/statuses``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, NamedTuple

from airflow_provider_youcan.checks import is_uuid
from airflow_provider_youcan.client.endpoints import A_YEAR, Request
from airflow_provider_youcan.client.redaction import MAX_TEXT, redact
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

__all__ = [
    "Answer",
    "read_rate_limit",
    "read_response",
    "read_retry_after",
]

_MAX_ITEMS = 20
"""The most refused fields, and complaints about one, that are kept."""


class Answer(NamedTuple):
    """The answer to a request."""

    status_code: int
    headers: Mapping[str, str]
    """A mapping that ignores letter case, as both transports return it."""
    body: bytes


def read_response(
    request: Request, answer: Answer, connection: str = "the Airflow connection 'youcan_default'", secret: str = ""
) -> dict[str, Any]:
    """
    Return the payload of a success, or raise what the answer means.

    200 is the only success that YouCan documents for orders; the body's own ``status`` can only contradict one, never
    make one.

    :param request: what was asked.
    :param answer: what came back.
    :param connection: what to call the Airflow connection in the error.
    :param secret: the access token, which is removed from errors if the answer echoes it.
    :return: the JSON object of the answer.
    :raises YouCanError: for everything that is not YouCan's success.
    """
    try:
        payload: Any = json.loads(answer.body)
    except (ValueError, RecursionError):  # bad text, bad JSON, absurd numbers; a hostile depth of brackets
        payload = None
    if isinstance(payload, list):  # YouCan doesn't document whether its list of webhooks is bare
        payload = {"data": payload}
    if request.method == "DELETE" and answer.status_code in (200, 202, 204) and not answer.body.strip():
        return {}
    # YouCan does not document which 2xx a POST or a DELETE returns.
    is_success = answer.status_code == 200 or (answer.status_code == 201 and request.method == "POST")
    if is_success and isinstance(payload, dict) and request.is_success(payload):
        return payload
    raise _read_error(request, answer, payload, connection, secret)


class _Row(NamedTuple):
    kind: type[YouCanError]
    cause: str
    """The beginning of the message: a page that cuts long lines shows it."""
    remedy: str
    """The advice that follows it."""


_LATER = "it may work later"
_HOST = "check the host of {connection}"

# From anybody: a gateway's answer to this request counts as the shop's.
_BY_ANYBODY = {
    408: _Row(YouCanServerError, "YouCan timed out (408)", _LATER),
    429: _Row(YouCanRateLimitError, "Too many requests (429)", "it may work {when}"),
}
_BY_CLASS = {
    2: _Row(
        YouCanUnexpectedResponseError,
        "Not YouCan's confirmation ({status}), perhaps a login page's or a gateway's answer",
        "check that the host of {connection} is YouCan's API",
    ),
    3: _Row(
        YouCanPermanentError, "A redirect ({status}), which is never followed because that would lose the update", _HOST
    ),
    5: _Row(YouCanServerError, "YouCan failed ({status})", _LATER),
}
# Only from YouCan itself.
_BY_YOUCAN = {
    401: _Row(
        YouCanAuthenticationError,
        "Access token refused (401), or it lacks {scope}",
        "renew the token in {connection}, or grant it {scope}",
    ),
    402: _Row(YouCanStoreSuspendedError, "The store is closed or suspended (402)", "reopen it on YouCan"),
    403: _Row(
        YouCanPermissionError, "The access token lacks {scope} (403)", "grant {scope} to the token in {connection}"
    ),
    404: _Row(YouCanPermanentError, "YouCan has no such page (404), which is not about an order", _HOST),
    405: _Row(YouCanPermanentError, "YouCan has no such page (405), which is not about an order", _HOST),
    422: _Row(YouCanValidationError, "YouCan refused what was sent (422){refused_fields}", "correct what was sent"),
}
_ANY_OTHER = _Row(YouCanPermanentError, "YouCan refused the request ({status})", "trying again would not help")
_NO_ORDER = _Row(
    YouCanOrderNotFoundError,
    "The shop has no such order (404)",
    "check the order id{uuid_hint}, and that {connection} is the right shop's",
)
# The token endpoint's errors, by ``error`` (RFC 6749, 5.2).
_WRONG_CLIENT = _Row(
    YouCanAuthenticationError, "App refused ({status})", "check the client id and the client secret{in_connection}"
)
_WRONG_GRANT = {
    "refresh_token": _Row(
        YouCanAuthenticationError,
        "Refresh token refused ({status})",
        "authorise again (python -m airflow_provider_youcan authorize), and renew the tokens in {connection}",
    ),
    "authorization_code": _Row(
        YouCanAuthenticationError, "Authorization code refused ({status})", "start again, and approve it again"
    ),
}
# Other permanent errors of RFC 6749.
_WRONG_REQUEST = {"invalid_request", "unauthorized_client", "unsupported_grant_type", "invalid_scope", "access_denied"}
# Nobody's verdict: a gateway, a firewall or a login page.
_NOT_YOUCANS = _Row(
    YouCanUnexpectedResponseError,
    "Not in the form of YouCan's errors ({status}), so it is no word of YouCan's",
    "it may work later; if it doesn't, check the host of {connection}, and what is between",
)
_NO_STATUS = _Row(YouCanUnexpectedResponseError, "Not a valid HTTP status ({status})", _LATER)

# Laravel, on which YouCan is built, has errors of its own shape for these.
_LARAVELS = {401, 403, 405, 422, 429, 503}

# With these an update may have been applied: a gateway answers the same way if the backend breaks off.
_MAY_HAVE_BEEN_APPLIED = (YouCanServerError, YouCanUnexpectedResponseError)


def _find_row(request: Request, status_code: int, payload: object) -> _Row:
    """Return the row of the table."""
    if status_code // 100 != 4:
        return _BY_CLASS.get(status_code // 100, _NO_STATUS)
    if status_code in _BY_ANYBODY:
        return _BY_ANYBODY[status_code]
    if request.form:
        return _find_token_row(request.form["grant_type"], _mapping(payload).get("error"))
    if not _is_youcans(status_code, payload):
        return _NOT_YOUCANS
    if status_code == 404 and request.order_id and _says_order_not_found(payload):
        return _NO_ORDER
    return _BY_YOUCAN.get(status_code, _ANY_OTHER)


def _find_token_row(grant_type: str, error: object) -> _Row:
    if error == "invalid_client":
        return _WRONG_CLIENT
    if error == "invalid_grant":
        return _WRONG_GRANT[grant_type]
    return _ANY_OTHER if error in _WRONG_REQUEST else _NOT_YOUCANS


def _is_youcans(status_code: int, payload: object) -> bool:
    """Return whether an answer has one of the shapes of YouCan's errors."""
    body = _mapping(payload)
    if type(body.get("status")) is int and _is_text(body.get("detail")):
        return True
    if status_code == 402 and _is_text(body.get("error")):
        return True
    return status_code in _LARAVELS and _is_text(body.get("message"))


def _read_error(request: Request, answer: Answer, payload: object, connection: str, secret: str) -> YouCanError:
    # A search may hold a customer's name or phone.
    secrets = [secret, secret.rpartition("|")[2], *request.params.values()]
    secrets += [text for name, text in (request.form or {}).items() if name not in ("grant_type", "client_id")]
    hide = partial(redact, secrets=secrets, own=request.order_id)
    detail = _read_detail(payload, ("error", "detail", "message") if request.form else ("detail", "error", "message"))
    detail = None if detail is None else hide(detail)
    row = _find_row(request, answer.status_code, payload)
    attributes: dict[str, Any] = {}
    if row.kind in (YouCanRateLimitError, YouCanServerError):
        attributes["retry_after"] = read_retry_after(answer.headers)
    if row.kind is YouCanValidationError:
        attributes["fields"] = _read_fields(payload, hide)
    retry_after, fields = attributes.get("retry_after"), attributes.get("fields", {})
    refused = "; ".join(f"{name}: {' '.join(complaints)}" for name, complaints in fields.items())[:MAX_TEXT]
    words = {
        "status": str(answer.status_code),
        "said": f"YouCan answered {answer.status_code}" + (f" ({detail})" if detail else ""),
        "connection": connection,
        "in_connection": f" in {connection}" if request.form and "refresh_token" in request.form else "",
        "scope": f"the scope {request.scope!r}" if request.scope else "the scope that this takes",
        "uuid_hint": "" if is_uuid(request.order_id or "") else " (a UUID, not the order's ref)",
        "when": "later" if retry_after is None else f"in {retry_after:g} s",
        "refused_fields": f": {refused}" if refused else "",
    }
    # In its maintenance mode Laravel handles no request.
    is_maintenance = answer.status_code == 503 and _is_youcans(503, payload) and retry_after is not None
    unconfirmed = request.method == "PUT" and issubclass(row.kind, _MAY_HAVE_BEEN_APPLIED) and not is_maintenance
    doubt = ", and whether YouCan took it is unknown" if unconfirmed else ""
    error = row.kind(
        row.cause.format(**words),
        advice=row.remedy.format(**words),
        outcome=f"Could not {request.purpose}: {words['said']}{doubt}",
        method=request.method,
        url=request.path,
        status_code=answer.status_code,
        detail=detail,
        **attributes,
    )
    error.unconfirmed = unconfirmed
    return error


# --- headers ------------------------------------------------------------------------------------------------


def read_rate_limit(headers: Mapping[str, str]) -> tuple[int | None, int | None]:
    """
    Return how many requests a window takes, and how many of them are left, ``None`` where the shop doesn't say.

    :param headers: the headers of the answer, a mapping that ignores letter case.
    """
    limit, remaining = headers.get("X-RateLimit-Limit", ""), headers.get("X-RateLimit-Remaining", "")
    if not (limit.isdecimal() and remaining.isdecimal()):
        return None, None
    # A number of thousands of digits would take long to parse.
    return (int(limit), int(remaining)) if len(limit) < 10 and len(remaining) < 10 else (None, None)


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait by ``Retry-After``, given as seconds or as an HTTP date (RFC 9110, 10.2.3)."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        return min(float(value), A_YEAR)  # a number of any length, so perhaps an infinite one
    if (until := _parse_http_date(value)) is None:
        return None
    # The shop's own clock, if it shows it: this machine's may be minutes off.
    now = _parse_http_date(headers.get("Date", "")) or datetime.now(timezone.utc)
    return min(max(0.0, (until - now).total_seconds()), A_YEAR)


def _parse_http_date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    # The oldest of the three forms names no zone.
    return date if date.tzinfo is not None else date.replace(tzinfo=timezone.utc)


# --- bodies -------------------------------------------------------------------------------------------------


def _read_detail(payload: object, names: Iterable[str]) -> str | None:
    """Return YouCan's own reason on one line: ``detail``, ``error`` on a 402 and of a token, Laravel's ``message``."""
    return next((text for text in map(_mapping(payload).get, names) if _is_text(text)), None)


def _read_fields(payload: object, hide: Callable[[object], str]) -> dict[str, list[str]]:
    fields = _mapping(_mapping(_mapping(payload).get("meta")).get("fields"))
    return {
        hide(name): [hide(one) for one in (complaints if isinstance(complaints, list) else [complaints])[:_MAX_ITEMS]]
        for name, complaints in list(fields.items())[:_MAX_ITEMS]
    }


_ORDER_NOT_FOUND = re.compile(
    r"(no such order|(the |this )?order( (?=\S*[0-9*])#?[\w*-]{1,40})? "
    r"(was |is |could )?(not (be )?found|does(n't| not) exist|(has been |was )?deleted|no longer exists))[.!]?",
    re.IGNORECASE,
)


def _says_order_not_found(payload: object) -> bool:
    """
    Return whether a 404 is about a missing order, rather than a missing route, store or service.

    Otherwise, with a wrong host, ``skip_not_found`` would skip every order without asking the shop. YouCan has
    no key for this: its documented body is ``{"status": 0, "detail": "order not found"}``.
    """
    body = _mapping(payload)
    detail = str(body.get("detail"))[:MAX_TEXT].strip()
    return body.get("status") in (0, 404) and _ORDER_NOT_FOUND.fullmatch(detail) is not None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
