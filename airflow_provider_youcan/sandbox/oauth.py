"""OAuth as YouCan documents it: the token endpoint, and the page of the seller area that asks for consent."""

from __future__ import annotations

from html import escape
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from airflow_provider_youcan.sandbox.shop import ALL_SCOPES, CLIENT_ID, CLIENT_SECRET, InvalidGrantError, Shop

__all__ = ["OAuth"]


class OAuth:
    """The OAuth routes of a shop."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self.routes = [
            Route("/oauth/token", self._issue_token, methods=["POST"]),
            Route("/admin/oauth/authorize", self._ask_for_consent, methods=["GET"]),
            Route("/login", self._login_page, methods=["GET", "PUT"]),
        ]

    async def _issue_token(self, request: Request) -> Response:
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

    async def _ask_for_consent(self, request: Request) -> Response:
        """Show the page on which a seller approves an app."""
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

    async def _login_page(self, _: Request) -> Response:
        return HTMLResponse("<!doctype html><title>Log in</title><h1>Log in to your store</h1>")


def _oauth_error(status_code: int, error: str, description: str) -> Response:
    return JSONResponse({"error": error, "error_description": description, "message": description}, status_code)
