"""YouCan's API for orders, the store and webhooks, as YouCan documents it, odd answers included."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.sandbox.errors import error_body, invalid
from airflow_provider_youcan.sandbox.shop import STORE_ID, Shop
from airflow_provider_youcan.sandbox.webhooks import EVENTS, Webhooks

__all__ = ["Api"]

_MAX_PAGE_SIZE = 50
"""The page size that a larger or a negative limit silently becomes, as in YouCan's QueryOption."""
_STATUS_LISTS = {
    "ordersStatus": StatusContext.GENERAL,
    "shipping": StatusContext.SHIPPING,
    "payment": StatusContext.PAYMENT,
}


class Api:
    """The routes of YouCan's API for one shop."""

    def __init__(self, shop: Shop, webhooks: Webhooks) -> None:
        self._shop = shop
        self._webhooks = webhooks
        self.routes = [
            Route("/orders", self._list_orders, methods=["GET"]),
            Route("/orders/settings", self._get_settings, methods=["GET"]),
            Route("/orders/settings", self._put_settings, methods=["PUT"]),
            Route("/orders/{order_id}", self._get_order, methods=["GET"]),
            Route("/orders/{order_id}/status", self._update_status, methods=["PUT"]),
            Route("/orders/{order_id}/status/{context}", self._update_status, methods=["PUT"]),
            Route("/me", self._get_store, methods=["GET"]),
            Route("/resthooks/list", self._list_subscriptions, methods=["GET"]),
            Route("/resthooks/subscribe", self._subscribe, methods=["POST"]),
            Route("/resthooks/unsubscribe/{subscription_id}", self._unsubscribe, methods=["POST"]),
            # The routes of YouCan's app template.
            Route("/resthooks", self._list_subscriptions, methods=["GET"]),
            Route("/resthooks/{subscription_id}", self._unsubscribe, methods=["DELETE"]),
        ]

    async def _list_orders(self, request: Request) -> Response:
        self._authorise(request, "read-orders")
        query = request.query_params
        page, limit = _page_number(query), _page_size(query)
        sort_field, sort_order = query.get("sort_field", "created_at"), query.get("sort_order", "desc")
        if sort_field not in ("ref", "total", "created_at"):
            raise invalid("sort_field", "The selected sort field is invalid.")
        if sort_order not in ("asc", "desc"):
            raise invalid("sort_order", "The selected sort order is invalid.")
        # Filters are ignored silently, as YouCan ignores those on a field that is not allowed; it does not document
        # which fields are.
        text, descending = query.get("q", ""), sort_order == "desc"
        total, orders = self._shop.find_orders(text, sort_field, descending, offset=(page - 1) * limit, limit=limit)
        total_pages = max(1, -(-total // limit))
        # The seller area's host, as on YouCan's page: a client must not follow it with its token.
        next_page = f"https://seller-area.youcan.shop/admin/orders?page={page + 1}"
        return JSONResponse(
            {
                "data": self._present(orders, request),
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

    async def _get_order(self, request: Request) -> Response:
        self._authorise(request, "read-orders")
        order = self._shop.order(request.path_params["order_id"])
        if order is None:
            return _order_not_found()
        return JSONResponse(self._present([order], request)[0])

    async def _update_status(self, request: Request) -> Response:
        self._authorise(request, "edit-orders")
        context = request.path_params.get("context", StatusContext.GENERAL.value)
        if context not in ("general", "shipping", "payment") or request.url.path.endswith("/status/general"):
            raise HTTPException(404)
        status = (await _read_object(request)).get("status")
        if not isinstance(status, str) or not status.strip():
            raise invalid("status", "The status field is required.")
        # As documented: a status that is in no list is accepted too, as the order's label.
        if not self._shop.set_status(request.path_params["order_id"], context, status):
            return _order_not_found()
        return JSONResponse({"status": 200, "detail": "Status is successfully updated", "meta": []})

    async def _get_settings(self, request: Request) -> Response:
        self._authorise(request, "read-orders-statuses")
        lists = self._shop.store_statuses()
        return JSONResponse(
            {name: [{**status, "type": name} for status in lists[context]] for name, context in _STATUS_LISTS.items()}
        )

    async def _put_settings(self, request: Request) -> Response:
        # YouCan documents no scope of its own for writing the lists.
        self._authorise(request, "edit-orders")
        body = await _read_object(request)
        try:
            lists = {context: body[name] for name, context in _STATUS_LISTS.items()}
            if not all(isinstance(status["slug"], str) for statuses in lists.values() for status in statuses):
                raise TypeError("slug")
        except (KeyError, TypeError):
            raise invalid("ordersStatus", "All three lists are required, each status with a slug.") from None
        self._shop.replace_statuses(lists)
        return await self._get_settings(request)

    async def _get_store(self, request: Request) -> Response:
        self._authorise(request, "view-store-info")
        return JSONResponse(
            {
                "id": STORE_ID,
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

    async def _list_subscriptions(self, request: Request) -> Response:
        is_template = self._find_route(is_template=request.url.path == "/resthooks")
        self._authorise(request, "read-rest-hooks")
        found = self._shop.subscriptions()
        return JSONResponse({"data": found} if is_template else found)

    async def _subscribe(self, request: Request) -> Response:
        self._authorise(request, "edit-rest-hooks")
        body = await _read_object(request)
        event, target_url = body.get("event"), body.get("target_url")
        if not isinstance(event, str) or event not in EVENTS:
            raise invalid("event", "The selected event is invalid.")
        if not isinstance(target_url, str) or not self._webhooks.is_target(target_url):
            raise invalid("target_url", "The target url must be a public https address.")
        subscription_id = self._webhooks.subscribe(event, target_url)
        if subscription_id is None:
            raise HTTPException(429)
        return JSONResponse({"id": subscription_id})

    async def _unsubscribe(self, request: Request) -> Response:
        self._find_route(is_template=request.method == "DELETE")
        self._authorise(request, "delete-rest-hooks")
        if not self._shop.delete_subscription(request.path_params["subscription_id"]):
            return JSONResponse({"status": 404, "detail": "Subscription not found", "meta": []}, 404)
        return JSONResponse({"message": "unsubscribed from event succeed", "type": "success"})

    def _find_route(self, *, is_template: bool) -> bool:
        """Return whether the route is one of YouCan's app template, or answer that it is not there."""
        if is_template != self._webhooks.has_template_routes:
            raise HTTPException(404)
        return is_template

    def _authorise(self, request: Request, scope: str) -> None:
        if self._shop.suspended:
            raise HTTPException(402)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        scopes = self._shop.scopes(token) if scheme == "Bearer" else None
        if scopes is None:
            raise HTTPException(401)
        if scope not in scopes:
            raise HTTPException(403)

    def _present(self, orders: list[dict[str, Any]], request: Request) -> list[dict[str, Any]]:
        include = set(request.query_params.get("include", "").split(","))
        known = {
            context: {status["slug"]: status for status in statuses}
            for context, statuses in self._shop.store_statuses().items()
        }
        return [_present_order(order, include, known) for order in orders]


async def _read_object(request: Request) -> dict[str, Any]:
    """Read a JSON object; any other body counts as an empty one."""
    try:
        body = await request.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _present_order(
    order: Mapping[str, Any], include: set[str], known: Mapping[StatusContext, Mapping[str, Mapping[str, str]]]
) -> dict[str, Any]:
    """
    Return an order as YouCan's page ``entities/order`` shows it, as far as this project needs it.

    :param order: the order's row.
    :param include: the parts that the request asks for: ``payment``, ``shipping``, ``customer``, ``variants``.
    :param known: the statuses in the store's lists, by context and slug.
    """

    def status(context: StatusContext) -> dict[str, Any]:
        slug = order[f"{context.value}_status"]
        status_object = dict(known[context].get(slug) or {"slug": slug, "name": slug, "color": "#8A9CA0FF"})
        return {"status": _number(context, slug), "status_text": slug, "status_object": status_object}

    general, shipping, payment = (status(context) for context in StatusContext)
    presented = {
        "id": order["id"],
        "ref": order["ref"],
        "total": order["total"],
        "currency": order["currency"],
        "notes": order["notes"],
        "status": general["status"],
        "status_new": general["status_object"]["name"],
        "status_object": general["status_object"],
        "payment_status": payment["status"],
        "payment_status_new": payment["status_object"]["name"],
        "confirmation_status": "pending",
        "shipping_status": shipping["status_text"],
        "created_at": order["created_at"],
        "updated_at": order["updated_at"],
    }
    if "payment" in include:
        presented["payment"] = payment | {"gateway_type_text": order["gateway"]}
    if "shipping" in include:
        is_sent = shipping["status_text"] in ("shipped", "fulfilled")
        presented["shipping"] = shipping | {
            "tracking_number": f"AM{order['ref']:0>6}MA" if is_sent else "",
            "address": {"city": json.loads(order["customer"])["city"]},
        }
    for name in include & {"customer", "variants"}:
        presented[name] = json.loads(order[name])
    return presented


def _number(context: StatusContext, slug: str) -> int:
    """Return some number, as YouCan's answers have one: its meaning is not documented."""
    return 1 + context.documented_slugs.index(slug) if slug in context.documented_slugs else 0


def _page_size(query: Mapping[str, str]) -> int:
    """Read ``limit``: 10 by default, and the largest page for a larger or a negative one."""
    try:
        limit = int(query.get("limit", 10))
    except ValueError:
        limit = 10
    return limit if 0 < limit <= _MAX_PAGE_SIZE else _MAX_PAGE_SIZE


def _page_number(query: Mapping[str, str]) -> int:
    text = query.get("page", "1")
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise invalid("page", "The page must be at least 1.")
    return int(text)


def _order_not_found() -> Response:
    return JSONResponse(error_body(404), 404)
