"""
The first pair of tokens: a seller's consent in the browser, and the code that it returns.

The facts come from https://developer.youcan.shop/store-admin (``introduction/oauth``).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from airflow_provider_youcan.client import endpoints, oauth
from airflow_provider_youcan.client.credentials import Credentials
from airflow_provider_youcan.client.responses import read_response
from airflow_provider_youcan.exceptions import YouCanAuthenticationError, YouCanInvalidInputError
from airflow_provider_youcan.hooks.session import Session

__all__ = ["SCOPES", "SELLER_AREA", "Authorization"]

SELLER_AREA = "https://seller-area.youcan.shop"
SCOPES = ("edit-orders", "read-orders", "read-orders-statuses", "view-store-info")
"""The scopes that this provider uses."""

_LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Authorization:
    """
    The authorisation of an app through YouCan's consent page.

    :param client_id: the id of the app on YouCan.
    :param redirect_uri: the redirect URI, as the app has it registered.
    :param scopes: the scopes that the app asks for (default :data:`SCOPES`).
    :param seller_area: the base URL of the consent page (default YouCan's seller area).
    :param state: a secret that the redirect has to repeat, so that no other consent is accepted (default random).
    """

    client_id: str
    redirect_uri: str
    scopes: Sequence[str] = SCOPES
    seller_area: str = SELLER_AREA
    state: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    @property
    def url(self) -> str:
        """The URL of the consent page."""
        query = {
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "response_type": "code",
            "scope[]": list(self.scopes),
            "state": self.state,
        }
        return f"{self.seller_area.rstrip('/')}/admin/oauth/authorize?{urlencode(query, doseq=True)}"

    @property
    def is_on_this_machine(self) -> bool:
        """True if the redirect leads to this machine, so that it can be received here."""
        address = urlsplit(self.redirect_uri)
        return address.scheme == "http" and address.hostname in _LOOPBACK

    def wait_for_code(self, ready: Callable[[], None]) -> str:
        """
        Listen on the redirect URI, on this machine, until the redirect comes, and return its code.

        :param ready: is called once the port is open.
        :raises YouCanAuthenticationError: if the seller refused.
        :raises OSError: if the port can't be opened.
        """
        address = urlsplit(self.redirect_uri)
        answers: list[str] = []

        class Callback(BaseHTTPRequestHandler):
            timeout = 5  # an idle connection must not block the redirect

            def do_GET(self) -> None:  # http.server's name
                url = urlsplit(self.path)
                is_redirect = url.path == (address.path or "/") and authorization.is_answer(url.query)
                # Before the answer, because a browser may hang up before it has the page, and the code works once.
                answers.extend([url.query] if is_redirect else [])
                self.send_response(200 if is_redirect else 404)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.end_headers()
                if is_redirect:
                    self.wfile.write(b"Done: go back to the terminal, and close this page.")

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # http.server's signature
                pass  # its line would hold the code

        authorization = self

        class Server(HTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # the other end hung up; the traceback would hold the code

        with Server((address.hostname or "127.0.0.1", address.port or 80), Callback) as server:
            ready()
            while not answers:
                # Browsers request more than the page, and others may connect: only the state identifies the redirect.
                server.handle_request()
        return self.read_code(answers[0])

    def is_answer(self, query: str) -> bool:
        """Return whether a query string is the answer to this request, by its state."""
        answer = _first_values(query)
        return secrets.compare_digest(answer.get("state", "").encode(), self.state.encode())

    def read_code(self, pasted: str) -> str:
        """
        Read the code from the address that the consent page led back to, or from its query string.

        :param pasted: the whole address, as the browser shows it.
        :raises YouCanInvalidInputError: if it is not the answer to this request.
        :raises YouCanAuthenticationError: if the seller refused.
        """
        query = urlsplit(pasted.strip()).query or pasted.strip()
        answer = _first_values(query)
        if not self.is_answer(query):
            raise YouCanInvalidInputError(
                "That is not the answer to this request: its state is another, or missing",
                advice="start again, and paste the whole address that the consent page leads to.",
                outcome=None,
            )
        if "code" not in answer:
            raise YouCanAuthenticationError(
                "The seller area gave no code: the app was not approved; start again, and approve it."
            )
        return answer["code"]

    def obtain_tokens(self, code: str, client_secret: str, base_url: str = endpoints.BASE_URL) -> dict[str, Any]:
        """
        Exchange the code for the first pair of tokens.

        :param code: the code from :meth:`read_code`. It works once.
        :param client_secret: the app's secret.
        :param base_url: the base URL of the API (default YouCan's).
        :return: ``access_token``, ``refresh_token``, ``expires_in`` and whatever else YouCan sends.
        :raises YouCanError: if YouCan gave none.
        """
        request = oauth.exchange_code(self.client_id, client_secret, self.redirect_uri, code)
        credentials = Credentials(base_url, token="")
        with Session(credentials) as session:
            answer = read_response(request, session.send_request(request, credentials))
        if not oauth.is_token(answer.get("refresh_token")):
            raise YouCanAuthenticationError(
                "YouCan gave no refresh token", advice="look at the app on YouCan: its tokens can't be renewed."
            )
        return answer


def _first_values(query: str) -> Mapping[str, str]:
    return {name: values[0] for name, values in parse_qs(query).items()}
