"""The shop's API as YouCan documents it, odd answers included, and the pages that steer the sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.sandbox.misbehaviour import Misbehaviour, Misbehaviours
from airflow_provider_youcan.sandbox.shop import ALL_SCOPES, CLIENT_ID, CLIENT_SECRET, InvalidGrantError, Shop
from airflow_provider_youcan.sandbox.webhooks import EVENTS, Webhooks

__all__ = ["MAX_PAGE_SIZE", "STATUS_LISTS", "build_application"]

MAX_PAGE_SIZE = 50
"""A larger or a negative limit is silently taken for this one, as YouCan's QueryOption does."""
STATUS_LISTS = {
    "ordersStatus": StatusContext.GENERAL,
    "shipping": StatusContext.SHIPPING,
    "payment": StatusContext.PAYMENT,
}


def build_application(shop: Shop, misbehaviours: Misbehaviours, webhooks: Webhooks) -> Starlette:
    """Build the application that speaks for ``shop``."""
    pages = _Pages(shop, misbehaviours, webhooks)
    application = Starlette(
        routes=[
            Route("/orders", pages.list_orders, methods=["GET"]),
            Route("/orders/settings", pages.get_settings, methods=["GET"]),
            Route("/orders/settings", pages.put_settings, methods=["PUT"]),
            Route("/orders/{order_id}", pages.get_order, methods=["GET"]),
            Route("/orders/{order_id}/status", pages.update_status, methods=["PUT"]),
            Route("/orders/{order_id}/status/{context}", pages.update_status, methods=["PUT"]),
            Route("/me", pages.get_store, methods=["GET"]),
            Route("/resthooks", pages.list_subscriptions, methods=["GET"]),
            Route("/resthooks/subscribe", pages.subscribe, methods=["POST"]),
            Route("/resthooks/{subscription_id}", pages.unsubscribe, methods=["DELETE"]),
            Route("/oauth/token", pages.issue_token, methods=["POST"]),
            Route("/admin/oauth/authorize", pages.ask_for_consent, methods=["GET"]),
            Route("/login", pages.login_page, methods=["GET", "PUT"]),
            Route("/sandbox/orders", pages.show_orders, methods=["GET"]),
            Route("/sandbox/orders/{order_id}", pages.show_order, methods=["GET"]),
            Route("/sandbox/requests", pages.show_requests, methods=["GET"]),
            Route("/sandbox/history", pages.show_history, methods=["GET"]),
            Route("/sandbox/deliveries", pages.show_deliveries, methods=["GET"]),
            Route("/sandbox/misbehaviours", pages.show_misbehaviours, methods=["GET"]),
            Route("/sandbox/misbehaviours", pages.add_misbehaviour, methods=["POST"]),
            Route("/sandbox/misbehaviours", pages.clear_misbehaviours, methods=["DELETE"]),
            Route("/sandbox/tokens", pages.add_token, methods=["POST"]),
            Route("/sandbox/tokens/{token}", pages.revoke_token, methods=["DELETE"]),
            Route("/sandbox/store", pages.change_store, methods=["PUT"]),
        ],
        exception_handlers={HTTPException: _answer_http_exception},
    )
    # "/orders/" is no route of YouCan's, and must not turn into a redirect.
    application.router.redirect_slashes = False
    return application


class _Pages:
    def __init__(self, shop: Shop, misbehaviours: Misbehaviours, webhooks: Webhooks) -> None:
        self._shop = shop
        self._misbehaviours = misbehaviours
        self._webhooks = webhooks

    # --- YouCan's ---

    async def list_orders(self, request: Request) -> Response:
        self._authorise(request, "read-orders")
        query = request.query_params
        page, limit = _whole_number(query, "page", 1), _page_size(query)
        sort_field, sort_order = query.get("sort_field", "created_at"), query.get("sort_order", "desc")
        if sort_field not in ("ref", "total", "created_at"):
            raise _invalid("sort_field", "The selected sort field is invalid.")
        if sort_order not in ("asc", "desc"):
            raise _invalid("sort_order", "The selected sort order is invalid.")
        # Filters are dropped without a word, as YouCan drops those on a field that is not allowed; it does not
        # document which ones are.
        text, descending = query.get("q", ""), sort_order == "desc"
        total, orders = self._shop.find_orders(text, sort_field, descending, offset=(page - 1) * limit, limit=limit)
        total_pages = max(1, -(-total // limit))
        # The seller area's host, as on YouCan's page: a client must not follow it with its token.
        next_page = f"https://seller-area.youcan.shop/admin/orders?page={page + 1}"
        return JSONResponse(
            {
                "data": [_present_order(order, _included(request), self._names()) for order in orders],
                "meta": {
                    "pagination": {
                        "total": total,
                        "count": len(orders),
                        "per_page": limit,
                        "current_page": page,
                        "total_pages": total_pages,
                        "links": {"next": next_page} if page < total_pages else {},
                    }
                },
            }
        )

    async def get_order(self, request: Request) -> Response:
        self._authorise(request, "read-orders")
        order = self._shop.order(request.path_params["order_id"])
        if order is None:
            return _order_not_found()
        return JSONResponse(_present_order(order, _included(request), self._names()))

    async def update_status(self, request: Request) -> Response:
        self._authorise(request, "edit-orders")
        context = request.path_params.get("context", StatusContext.GENERAL.value)
        if context not in ("general", "shipping", "payment") or request.url.path.endswith("/status/general"):
            raise HTTPException(404)
        try:
            body = await request.json()
        except ValueError:
            body = None
        status = body.get("status") if isinstance(body, dict) else None
        if not isinstance(status, str) or not status.strip():
            raise _invalid("status", "The status field is required.")
        # As documented: what is in no list is taken too, as the order's label.
        if not self._shop.set_status(request.path_params["order_id"], context, status):
            return _order_not_found()
        return JSONResponse({"status": 200, "detail": "Status is successfully updated", "meta": []})

    async def get_settings(self, request: Request) -> Response:
        self._authorise(request, "read-orders-statuses")
        lists = self._shop.store_statuses()
        return JSONResponse(
            {name: [{**status, "type": name} for status in lists[context]] for name, context in STATUS_LISTS.items()}
        )

    async def put_settings(self, request: Request) -> Response:
        # YouCan documents no scope of its own for writing the lists.
        self._authorise(request, "edit-orders")
        try:
            body = await request.json()
            lists = {context: body[name] for name, context in STATUS_LISTS.items()}
            if not all(isinstance(status["slug"], str) for statuses in lists.values() for status in statuses):
                raise TypeError("slug")
        except (KeyError, TypeError, ValueError):
            raise _invalid("ordersStatus", "All three lists are required, each status with a slug.") from None
        self._shop.replace_statuses(lists)
        return await self.get_settings(request)

    async def get_store(self, request: Request) -> Response:
        self._authorise(request, "view-store-info")
        return JSONResponse(
            {
                "id": "5a0d3b1e-0000-4000-8000-000000000001",
                "slug": "sandbox",
                "name": "Sandbox Shop",
                "email": "owner@example.com",
                "domain": "sandbox.youcan.store",
                "currency": {"code": "MAD", "symbol": "DH"},
                "status_text": "active",
                "is_active": True,
                "is_dev": True,
                "closed_at": None,
            }
        )

    async def list_subscriptions(self, request: Request) -> Response:
        self._authorise(request, "read-rest-hooks")
        return JSONResponse({"data": self._shop.subscriptions()})

    async def subscribe(self, request: Request) -> Response:
        self._authorise(request, "edit-rest-hooks")
        try:
            body = await request.json()
        except ValueError:
            body = None
        event, target_url = (body.get("event"), body.get("target_url")) if isinstance(body, dict) else (None, None)
        if not isinstance(event, str) or event not in EVENTS:
            raise _invalid("event", "The selected event is invalid.")
        if not isinstance(target_url, str) or not self._webhooks.is_target(target_url):
            raise _invalid("target_url", "The target url must be a public https address.")
        subscription_id = self._webhooks.subscribe(event, target_url)
        if subscription_id is None:
            raise HTTPException(429)
        return JSONResponse({"id": subscription_id})

    async def unsubscribe(self, request: Request) -> Response:
        self._authorise(request, "delete-rest-hooks")
        if not self._shop.delete_subscription(request.path_params["subscription_id"]):
            raise HTTPException(404)
        return JSONResponse({"status": 200, "detail": "Unsubscribed", "meta": []})

    async def issue_token(self, request: Request) -> Response:
        form = await request.form()
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return _oauth_error(401, "invalid_client", "Client authentication failed")
        code, redirect_uri, refresh_token = (str(form.get(name)) for name in ("code", "redirect_uri", "refresh_token"))
        try:
            if form.get("grant_type") == "authorization_code":
                return JSONResponse(self._shop.exchange_code(code, redirect_uri))
            if form.get("grant_type") == "refresh_token":
                return JSONResponse(self._shop.exchange_refresh_token(refresh_token))
        except InvalidGrantError:
            return _oauth_error(400, "invalid_grant", "The code or the refresh token is invalid.")
        return _oauth_error(400, "unsupported_grant_type", "The grant type is not supported.")

    async def ask_for_consent(self, request: Request) -> Response:
        """Show the page of the seller area on which a seller lets an app in."""
        query = request.query_params
        address, scopes = query.get("redirect_uri", ""), query.getlist("scope[]")
        if query.get("client_id") != CLIENT_ID or query.get("response_type") != "code" or not address:
            return HTMLResponse("<!doctype html><title>Unknown app</title><h1>There is no such app</h1>", 400)
        if set(scopes) - set(ALL_SCOPES):
            return HTMLResponse("<!doctype html><title>Unknown scope</title><h1>There is no such scope</h1>", 400)
        links = {
            "Approve": {"code": self._shop.issue_code(scopes, address)},
            "Refuse": {"error": "access_denied"},
        }
        state = {"state": query["state"]} if "state" in query else {}
        anchors = [
            f'<a href="{escape(address)}?{escape(urlencode(answer | state))}">{label}</a>'
            for label, answer in links.items()
        ]
        asked = "".join(f"<li>{escape(scope)}</li>" for scope in scopes)
        title = "Allow this app to access Sandbox Shop?"
        return HTMLResponse(f"<!doctype html><title>{title}</title><h1>{title}</h1><ul>{asked}</ul>{' '.join(anchors)}")

    async def login_page(self, _: Request) -> Response:
        return HTMLResponse("<!doctype html><title>Log in</title><h1>Log in to your store</h1>")

    def _authorise(self, request: Request, scope: str) -> None:
        if self._shop.suspended:
            raise HTTPException(402)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        scopes = self._shop.scopes(token) if scheme == "Bearer" else None
        if scopes is None:
            raise HTTPException(401)
        if scope not in scopes:
            raise HTTPException(403)

    def _names(self) -> dict[StatusContext, dict[str, dict[str, str]]]:
        return {
            context: {status["slug"]: status for status in statuses}
            for context, statuses in self._shop.store_statuses().items()
        }

    # --- the sandbox's own ---

    async def show_orders(self, _: Request) -> Response:
        return _readable(self._shop.orders())

    async def show_order(self, request: Request) -> Response:
        order_id = request.path_params["order_id"]
        statuses = self._shop.statuses(order_id) if order_id in self._shop.order_ids() else None
        if statuses is None:
            return JSONResponse({"status": 404, "detail": "The sandbox has no such order."}, 404)
        return _readable({"order_id": order_id, "statuses": statuses, "history": self._shop.history(order_id)})

    async def show_requests(self, _: Request) -> Response:
        return _readable(self._shop.requests())

    async def show_history(self, request: Request) -> Response:
        return _readable(self._shop.history(request.query_params.get("order_id")))

    async def show_deliveries(self, _: Request) -> Response:
        return JSONResponse(self._shop.deliveries())

    async def show_misbehaviours(self, _: Request) -> Response:
        return _readable([rule.as_dict() for rule in self._misbehaviours])

    async def add_misbehaviour(self, request: Request) -> Response:
        try:
            rule = self._misbehaviours.add(Misbehaviour(**await request.json()))
        except (TypeError, ValueError) as error:
            return JSONResponse({"status": 422, "detail": str(error)}, 422)
        return JSONResponse(rule.as_dict(), 201)

    async def clear_misbehaviours(self, _: Request) -> Response:
        self._misbehaviours.clear()
        return Response(status_code=204)

    async def add_token(self, request: Request) -> Response:
        try:
            return JSONResponse(self._shop.issue_token(**await request.json()), 201)
        except (TypeError, ValueError) as error:
            return JSONResponse({"status": 422, "detail": str(error)}, 422)

    async def revoke_token(self, request: Request) -> Response:
        self._shop.revoke_token(request.path_params["token"])
        return Response(status_code=204)

    async def change_store(self, request: Request) -> Response:
        wanted = await request.json()
        if not isinstance(wanted, dict) or wanted.keys() - {"suspended", "keeps_refresh_tokens"}:
            return JSONResponse({"status": 422, "detail": "A store has suspended and keeps_refresh_tokens."}, 422)
        for name, value in wanted.items():
            setattr(self._shop, name, bool(value))
        return JSONResponse(
            {"suspended": self._shop.suspended, "keeps_refresh_tokens": self._shop.keeps_refresh_tokens}
        )


def _present_order(
    order: Mapping[str, Any], include: set[str], names: Mapping[StatusContext, Mapping[str, Mapping[str, str]]]
) -> dict[str, Any]:
    """Show an order as YouCan's page ``entities/order`` does, as far as this project needs it."""

    def status(context: StatusContext) -> dict[str, str]:
        slug = order[f"{context.value}_status"]
        return dict(names[context].get(slug) or {"slug": slug, "name": slug, "color": "#8A9CA0FF"})

    general, shipping, payment = (status(context) for context in StatusContext)
    presented = {
        "id": order["id"],
        "ref": order["ref"],
        "total": order["total"],
        "currency": order["currency"],
        "notes": order["notes"],
        "status": _number(StatusContext.GENERAL, general["slug"]),
        "status_new": general["name"],
        "status_object": general,
        "payment_status": _number(StatusContext.PAYMENT, payment["slug"]),
        "payment_status_new": payment["name"],
        "confirmation_status": "pending",
        "shipping_status": shipping["slug"],
        "created_at": order["created_at"],
        "updated_at": order["updated_at"],
    }
    if "payment" in include:
        presented["payment"] = {
            "status": _number(StatusContext.PAYMENT, payment["slug"]),
            "status_text": payment["slug"],
            "status_object": payment,
            "gateway_type_text": order["gateway"],
        }
    if "shipping" in include:
        presented["shipping"] = {
            "status": _number(StatusContext.SHIPPING, shipping["slug"]),
            "status_text": shipping["slug"],
            "status_object": shipping,
            "tracking_number": "",
        }
    for name in ("customer", "variants"):
        if name in include:
            presented[name] = json.loads(order[name])
    return presented


def _number(context: StatusContext, slug: str) -> int:
    """Some number, as YouCan's answers have one: what it means is documented nowhere."""
    return 1 + context.documented_slugs.index(slug) if slug in context.documented_slugs else 0


def _included(request: Request) -> set[str]:
    return set(request.query_params.get("include", "").split(","))


def _page_size(query: Mapping[str, str]) -> int:
    """Read ``limit``: 10 by default, and the largest page for a larger or a negative one."""
    try:
        limit = int(query.get("limit", 10))
    except ValueError:
        limit = 10
    return limit if 0 < limit <= MAX_PAGE_SIZE else MAX_PAGE_SIZE


def _whole_number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise _invalid(name, f"The {name} must be at least 1.")
    return int(text)


def _order_not_found() -> Response:
    return JSONResponse(error_body(404), 404)


def _oauth_error(status_code: int, error: str, description: str) -> Response:
    return JSONResponse({"error": error, "error_description": description, "message": description}, status_code)


def _readable(value: object) -> Response:
    return Response(json.dumps(value, ensure_ascii=False, indent=2), media_type="application/json")


def _invalid(field: str, complaint: str) -> HTTPException:
    return HTTPException(422, detail=json.dumps({field: [complaint]}))


async def _answer_http_exception(request: Request, exception: Exception) -> Response:
    assert isinstance(exception, HTTPException)  # noqa: S101  # Starlette's handlers are typed for any exception
    body = error_body(exception.status_code)
    if exception.status_code == 404:
        body = {"status": 404, "detail": f"The route {request.url.path} could not be found.", "meta": []}
    if exception.status_code == 422:
        body["meta"] = {"fields": json.loads(exception.detail)}
    return JSONResponse(body, exception.status_code)


def error_body(status_code: int) -> dict[str, Any]:
    """Return the body that YouCan's page ``introduction/errors`` shows for a status code."""
    bodies: dict[int, dict[str, Any]] = {
        401: {"status": 401, "detail": "Unauthenticated", "meta": []},
        402: {"status": 402, "error": "store is suspended"},
        403: {"status": 403, "detail": "Invalid scope(s) provided.", "meta": []},
        404: {"status": 0, "detail": "order not found", "meta": []},
        # The page's own example of this one has a 404 in it.
        405: {"status": 404, "detail": "The method is not allowed for this route.", "meta": []},
        422: {"status": 422, "detail": "The given data was invalid.", "meta": {"fields": {}}},
        429: {"message": "Too Many Attempts."},
        500: {"status": 500, "detail": "internal error"},
    }
    return bodies.get(status_code, {"status": status_code, "detail": "made by the sandbox"})
