"""The errors of the sandbox, in the forms in which YouCan's page ``introduction/errors`` shows them."""

from __future__ import annotations

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

__all__ = ["answer_http_exception", "error_body", "invalid"]


def invalid(field: str, complaint: str) -> HTTPException:
    """Return the error of a field that is not as it should be."""
    return HTTPException(422, detail=json.dumps({field: [complaint]}))


async def answer_http_exception(request: Request, exception: Exception) -> Response:
    """Answer with the body that belongs to an :class:`HTTPException`."""
    assert isinstance(exception, HTTPException)  # noqa: S101  # Starlette's handlers are typed for any exception
    body = error_body(exception.status_code)
    if exception.status_code == 404:
        body = {"status": 404, "detail": f"The route {request.url.path} could not be found.", "meta": []}
    if exception.status_code == 422:
        body["meta"] = {"fields": json.loads(exception.detail)}
    return JSONResponse(body, exception.status_code)


def error_body(status_code: int) -> dict[str, Any]:
    """Return the body of an error; that of 404 is about an order."""
    bodies: dict[int, dict[str, Any]] = {
        401: {"status": 401, "detail": "Unauthenticated", "meta": []},
        402: {"status": 402, "error": "store is suspended"},
        403: {"status": 403, "detail": "Invalid scope(s) provided.", "meta": []},
        404: {"status": 0, "detail": "order not found", "meta": []},
        # YouCan's own example of this error has a 404 in it.
        405: {"status": 404, "detail": "The method is not allowed for this route.", "meta": []},
        422: {"status": 422, "detail": "The given data was invalid.", "meta": {"fields": {}}},
        429: {"message": "Too Many Attempts."},
        500: {"status": 500, "detail": "internal error"},
    }
    return bodies.get(status_code, {"status": status_code, "detail": "made by the sandbox"})
