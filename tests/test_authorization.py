"""Through the consent page: ``python -m airflow_provider_youcan authorize``, against the sandbox."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from airflow_provider_youcan.cli.consent import Authorization
from airflow_provider_youcan.client import oauth, responses
from airflow_provider_youcan.client.credentials import Credentials, OAuthClient
from airflow_provider_youcan.client.responses import Answer
from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanInvalidInputError,
    YouCanUnexpectedResponseError,
)
from airflow_provider_youcan.hooks.connection import read_credentials
from airflow_provider_youcan.hooks.youcan import YouCanHook
from airflow_provider_youcan.sandbox import Sandbox
from airflow_provider_youcan.sandbox.shop import CLIENT_ID, CLIENT_SECRET
from tests.conftest import is_written
from tests.forked import run_module

pytestmark = pytest.mark.usefixtures("_airflow_database")


@pytest.fixture
def redirect_uri() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/callback"


def make_words(sandbox: Sandbox, *words: str) -> list[str]:
    return ["authorize", "--client-id", CLIENT_ID, "--host", sandbox.url, "--seller-area", sandbox.url, *words]


def authorize(sandbox: Sandbox, *words: str) -> tuple[int, str, str]:
    """Run the command, which ends by itself, and return its exit code and what it said, to stdout and to stderr."""
    environment = os.environ | {"YOUCAN_CLIENT_SECRET": CLIENT_SECRET}
    ended = run_module("airflow_provider_youcan", *make_words(sandbox, *words), environment=environment, check=False)
    return ended.returncode, ended.stdout, ended.stderr


class ConsentFlow:
    """The command, started, and what it says."""

    def __init__(self, sandbox: Sandbox, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "airflow_provider_youcan", *make_words(sandbox, *words)],
            env={**os.environ, "YOUCAN_CLIENT_SECRET": CLIENT_SECRET},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read_address(self) -> str:
        """Read the address of the consent page."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "/admin/oauth/authorize" in line:
                return line.strip()
        raise AssertionError("it printed no address")

    def end(self, pasted: str = "") -> tuple[int, str, str]:
        """Wait for the end, and return its exit code and what it said, to stdout and to stderr."""
        output, errors = self._process.communicate(pasted, timeout=60)
        return self._process.returncode, output, errors


def approve(page: str, answer: str = "Approve") -> str:
    """Open the consent page, and return where the link leads."""
    html = requests.get(page, timeout=10).text
    link = re.search(rf'<a href="([^"]+)">{answer}</a>', html)
    assert link is not None, html
    return link[1].replace("&amp;", "&")


def test_the_way_back_is_waited_for_on_this_machine(
    sandbox: Sandbox, redirect_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Given the command, and a seller who opens the page that it names,
    flow = ConsentFlow(sandbox, "--redirect-uri", redirect_uri, "--conn-id", "by_uri")
    page = flow.read_address()
    assert parse_qs(urlsplit(page).query)["scope[]"] == [
        "edit-orders",
        "read-orders",
        "read-orders-statuses",
        "view-store-info",
    ]

    # when someone else calls first, and then the seller approves,
    forged = requests.get(redirect_uri, {"code": "forged", "state": "forged"}, timeout=10)
    assert forged.status_code == 404
    assert "go back to the terminal" in requests.get(approve(page), timeout=10).text

    # then what it prints is the connection, twice, and nothing else,
    exit_code, output, errors = flow.end()
    assert exit_code == 0, errors
    uri, command = output.splitlines()
    # of which the URI leads to the shop,
    monkeypatch.setenv("AIRFLOW_CONN_BY_URI", uri)
    assert YouCanHook("by_uri").get_store()["name"] == "Sandbox Shop"
    # the command adds the same, and leaves no secret behind, not even in Airflow's audit log,
    by_uri = read_credentials(YouCanHook.get_connection("by_uri"), "by_uri")
    assert isinstance(by_uri.oauth_client, OAuthClient)
    secrets = (by_uri.token, CLIENT_SECRET, by_uri.oauth_client.refresh_token)
    assert _added_by(command, "by_uri", tmp_path) == by_uri
    assert is_written("connections_import", tmp_path)
    assert not any(is_written(secret, tmp_path) for secret in secrets)
    assert all(secret in output and secret not in errors for secret in secrets)

    # and the token renews itself.
    sandbox.shop._write("update tokens set expires_at = 0 where access_token = ?", by_uri.token)
    assert YouCanHook("by_uri").get_store()["name"] == "Sandbox Shop"


def _added_by(command: str, conn_id: str, folder: Path) -> Credentials:
    """Run the command in a shell, and read from Airflow's database what it added."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_CONN_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    ended = subprocess.run(["bash", "-c", command], env=environment, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session

    with create_session() as session:
        connection = session.query(Connection).filter(Connection.conn_id == conn_id).one()
        credentials = read_credentials(connection, conn_id)
        session.delete(connection)
    return credentials


def test_the_way_back_can_be_pasted(sandbox: Sandbox) -> None:
    flow = ConsentFlow(sandbox, "--redirect-uri", "https://example.com/youcan")

    exit_code, output, errors = flow.end(approve(flow.read_address()) + "\n")

    assert exit_code == 0, errors
    assert len(output.splitlines()) == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda page: approve(page, "Refuse"), "the app was not approved"),
        (lambda page: approve(page) + "x", "its state is another"),
        (lambda page: approve(page).replace("code=", "code=x"), "invalid_grant"),
        (lambda page: "abc", "its state is another"),
    ],
)
def test_a_walk_that_fails_prints_no_connection(sandbox: Sandbox, answer: Any, message: str) -> None:
    flow = ConsentFlow(sandbox, "--paste")

    exit_code, output, errors = flow.end(answer(flow.read_address()) + "\n")

    assert exit_code == 1
    assert output == ""
    assert message in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--host", "http://192.0.2.2:8765", "would travel in clear"),
        ("--host", "https://user:pass@example.com", "holds a login"),
        ("--redirect-uri", "http://127.0.0.1:99999/callback", "is not a URL such as"),
        ("--redirect-uri", "callback", "is not a URL such as"),
    ],
)
def test_an_address_that_no_secret_must_be_sent_to_is_refused(
    sandbox: Sandbox, option: str, value: str, message: str
) -> None:
    exit_code, output, errors = authorize(sandbox, option, value)

    assert exit_code == 2
    assert output == ""
    assert message in errors
    assert "Traceback" not in errors


def test_an_address_that_is_taken_is_reported(sandbox: Sandbox, redirect_uri: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", urlsplit(redirect_uri).port or 0))
        taken.listen()
        exit_code, output, errors = authorize(sandbox, "--redirect-uri", redirect_uri)

    assert exit_code == 1
    assert output == ""
    assert "use --paste" in errors


def test_a_knock_that_says_nothing_does_not_keep_the_way_back_out(
    sandbox: Sandbox, redirect_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorization = Authorization(CLIENT_ID, redirect_uri)
    address = urlsplit(redirect_uri)

    def ready() -> None:
        silent = socket.create_connection((address.hostname, address.port))
        threading.Thread(
            target=requests.get, args=(redirect_uri, {"code": "c0de", "state": authorization.state}), daemon=True
        ).start()
        idle.append(silent)

    idle: list[socket.socket] = []

    assert authorization.wait_for_code(ready) == "c0de"


def test_the_state_is_random_and_is_checked() -> None:
    first, second = (Authorization("7", "https://example.com/back") for _ in range(2))
    assert first.state != second.state
    assert f"state={first.state}" in first.url
    assert first.state not in repr(first)

    assert first.read_code(f"https://example.com/back?code=c0de&state={first.state}") == "c0de"
    for pasted in (
        "",
        "code=c0de",
        f"code=c0de&state={second.state}",
        f"https://example.com/back?code=c0de#{first.state}",
    ):
        with pytest.raises(YouCanInvalidInputError):
            first.read_code(pasted)


def test_an_answer_without_a_refresh_token_is_no_pair(sandbox: Sandbox) -> None:
    body = json.dumps({"access_token": "a", "expires_in": 60})
    sandbox.misbehave("status", status=200, body=body, route="POST /oauth/token")

    with pytest.raises(YouCanAuthenticationError, match="no refresh token"):
        Authorization(CLIENT_ID, "https://example.com").obtain_tokens("c0de", CLIENT_SECRET, sandbox.url)


@pytest.mark.parametrize("body", ["{}", '{"access_token": ""}', '{"access_token": "of two words"}', "<html>"])
def test_an_answer_without_a_token_is_no_success(body: str) -> None:
    request = oauth.exchange_refresh_token("7", "s3cret", "refresh")

    with pytest.raises(YouCanUnexpectedResponseError):
        responses.read_response(request, Answer(200, {}, body.encode()))


@pytest.mark.parametrize("status_code", [400, 401, 403])
def test_a_refusal_repeats_no_secret(status_code: int) -> None:
    request = oauth.exchange_refresh_token("7", "s3/cr+et", "re/fresh")
    echo = "client_secret=s3%2Fcr%2Bet refresh_token=re%2Ffresh s3/cr+et"

    body = json.dumps({"error": "invalid_grant", "detail": echo})
    with pytest.raises(YouCanAuthenticationError) as raised:
        responses.read_response(request, Answer(status_code, {}, body.encode()))
    with pytest.raises(YouCanUnexpectedResponseError) as other:
        responses.read_response(request, Answer(status_code, {}, json.dumps({"detail": echo}).encode()))

    shown = f"{raised.value} {vars(raised.value)} {request} {other.value} {vars(other.value)}"
    assert "client_secret=***" in shown
    assert not any(secret in shown for secret in ("s3/cr", "s3%2F", "re/fresh", "re%2Ffresh"))


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [(60, 60.0), ("60", 60.0), ("soon", math.inf), (1e999, math.inf), (-1, math.inf), (True, math.inf)],
)
def test_a_lifetime_is_believed_where_it_is_one(expires_in: Any, lifetime: float) -> None:
    assert oauth.read_lifetime({"expires_in": expires_in}) == lifetime
