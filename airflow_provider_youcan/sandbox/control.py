"""The sandbox's own routes, under ``/sandbox/``: they show what happened in the shop, and change how it behaves."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from airflow_provider_youcan.sandbox.misbehaviour import Misbehaviours, read_misbehaviour
from airflow_provider_youcan.sandbox.pages import show_order, show_shop
from airflow_provider_youcan.sandbox.shop import Shop

__all__ = ["Control"]


class Control:
    """The routes that only a sandbox has."""

    def __init__(self, shop: Shop, misbehaviours: Misbehaviours) -> None:
        self._shop = shop
        self._misbehaviours = misbehaviours
        self.routes = [
            Route("/", self._show_shop, methods=["GET"]),
            Route("/sandbox", self._show_shop, methods=["GET"]),
            Route("/sandbox/orders", self._show_orders, methods=["GET"]),
            Route("/sandbox/orders/{order_id}", self._show_order, methods=["GET"]),
            Route("/sandbox/requests", self._show_requests, methods=["GET"]),
            Route("/sandbox/history", self._show_history, methods=["GET"]),
            Route("/sandbox/deliveries", self._show_deliveries, methods=["GET"]),
            Route("/sandbox/misbehaviours", self._show_misbehaviours, methods=["GET"]),
            Route("/sandbox/misbehaviours", self._add_misbehaviour, methods=["POST"]),
            Route("/sandbox/misbehaviours", self._clear_misbehaviours, methods=["DELETE"]),
            Route("/sandbox/tokens", self._add_token, methods=["POST"]),
            Route("/sandbox/tokens/{token}", self._revoke_token, methods=["DELETE"]),
            Route("/sandbox/store", self._change_store, methods=["PUT"]),
        ]

    async def _show_shop(self, _: Request) -> Response:
        return HTMLResponse(show_shop(self._shop, self._misbehaviours))

    async def _show_orders(self, _: Request) -> Response:
        return _readable(self._shop.orders())

    async def _show_order(self, request: Request) -> Response:
        order_id = request.path_params["order_id"]
        if (order := self._shop.order(order_id)) is None:
            return _error(404, "The sandbox has no such order.")
        statuses, history = self._shop.statuses(order_id), self._shop.history(order_id)
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(show_order(order, history))
        return _readable({"order_id": order_id, "statuses": statuses, "history": history})

    async def _show_requests(self, _: Request) -> Response:
        return _readable(self._shop.requests())

    async def _show_history(self, request: Request) -> Response:
        return _readable(self._shop.history(request.query_params.get("order_id")))

    async def _show_deliveries(self, _: Request) -> Response:
        return _readable(self._shop.deliveries())

    async def _show_misbehaviours(self, _: Request) -> Response:
        return _readable([rule.as_dict() for rule in self._misbehaviours])

    async def _add_misbehaviour(self, request: Request) -> Response:
        try:
            rule = self._misbehaviours.add(read_misbehaviour(await request.json()))
        except ValueError as error:
            return _error(422, str(error))
        return JSONResponse(rule.as_dict(), 201)

    async def _clear_misbehaviours(self, _: Request) -> Response:
        self._misbehaviours.clear()
        return Response(status_code=204)

    async def _add_token(self, request: Request) -> Response:
        try:
            return JSONResponse(self._shop.issue_token(**await request.json()), 201)
        except (TypeError, ValueError) as error:
            return _error(422, str(error))

    async def _revoke_token(self, request: Request) -> Response:
        self._shop.revoke_token(request.path_params["token"])
        return Response(status_code=204)

    async def _change_store(self, request: Request) -> Response:
        wanted = await request.json()
        if not isinstance(wanted, dict) or wanted.keys() - {"suspended", "keeps_refresh_tokens"}:
            return _error(422, "A store has suspended and keeps_refresh_tokens.")
        for name, value in wanted.items():
            setattr(self._shop, name, bool(value))
        return JSONResponse(
            {"suspended": self._shop.suspended, "keeps_refresh_tokens": self._shop.keeps_refresh_tokens}
        )


def _readable(value: object) -> Response:
    return Response(json.dumps(value, ensure_ascii=False, indent=2), media_type="application/json")


def _error(status_code: int, detail: str) -> Response:
    return JSONResponse({"status": status_code, "detail": detail}, status_code)
