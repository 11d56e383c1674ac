"""What an Airflow connection says, and what is refused before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import certifi
import pytest
from airflow.providers.common.compat.sdk import Connection

from airflow_provider_youcan.client.credentials import Credentials, OAuthClient
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.hooks import connection
from airflow_provider_youcan.hooks.connection import read_credentials

TOKEN = "a-long-lived-access-token"


def read(**fields: Any) -> Credentials:
    fields = {"conn_type": "youcan", "password": TOKEN, **fields}
    return read_credentials(Connection(conn_id="my_shop", **fields), "the Airflow connection 'my_shop'")


def test_a_token_is_all_it_takes() -> None:
    assert read() == Credentials("https://api.youcan.shop", TOKEN, timeout=30, max_attempts=4, verify=True)


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({"host": "gateway.example.com"}, "https://gateway.example.com"),
        ({"host": "https://gateway.example.com/youcan/"}, "https://gateway.example.com/youcan"),
        ({"host": "gateway.example.com", "port": 8443}, "https://gateway.example.com:8443"),
        ({"host": "https://gateway.example.com:8443", "port": 8443}, "https://gateway.example.com:8443"),
        ({"host": "127.0.0.1", "schema": "http", "port": 8765}, "http://127.0.0.1:8765"),
        ({"host": "http://localhost", "port": 8765}, "http://localhost:8765"),
        ({"host": "http://[::1]:8765"}, "http://[::1]:8765"),
        ({"host": "::1", "schema": "http", "port": 8765}, "http://[::1]:8765"),
        ({"host": "[::1]", "schema": "http", "port": 8765}, "http://[::1]:8765"),
        ({"host": "HTTPS://API.YouCan.shop"}, "https://api.youcan.shop"),
        ({"port": 443}, "https://api.youcan.shop"),
    ],
)
def test_another_api_can_be_named(fields: dict[str, Any], base_url: str) -> None:
    assert read(**fields).base_url == base_url


@pytest.mark.parametrize(
    "uri",
    [
        "youcan://:{token}@127.0.0.1:8765/http?timeout=5&max_attempts=2",
        "youcan://:{token}@http%3A%2F%2F127.0.0.1:8765/?timeout=5&max_attempts=2",
        "youcan://:{token}@[::1]:8765/http?timeout=5&max_attempts=2",
    ],
)
def test_a_uri_says_the_same(uri: str) -> None:
    connection = (
        Connection.from_uri(uri.format(token=TOKEN), conn_id="my_shop")
        if hasattr(Connection, "from_uri")
        else Connection(conn_id="my_shop", uri=uri.format(token=TOKEN))
    )

    host = "[::1]" if "[::1]" in uri else "127.0.0.1"
    assert read_credentials(connection, "the Airflow connection 'my_shop'") == Credentials(
        f"http://{host}:8765", TOKEN, 5, 2
    )


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("http://api.youcan.shop", "would travel in clear"),
        ("http://192.168.1.2", "would travel in clear"),
        ("http://localhost.example.com", "would travel in clear"),
        ("http://127.0.0.1.example.com", "would travel in clear"),
        ("http://2130706433", "would travel in clear"),
        ("ftp://127.0.0.1", "would travel in clear"),
        ("http://127.0.0.1@example.com", "login"),
        ("https://:s3cret@example.com:abc", "login"),
        ("http://127.0.0.1\\.example.com", "not a base URL"),
        ("https://example..com", "not a base URL"),
        (f"https://{'x' * 64}.com", "not a base URL"),
        ("http://127.0.0.1#.example.com", "not a base URL"),
        ("https://example.com?x=1", "not a base URL"),
        ("https://example.com:99999", "not a base URL"),
        ("https://", "not a base URL"),
        ("https://exa mple.com", "not a base URL"),
        ("https://[::1", "not a base URL"),
    ],
)
def test_a_host_that_is_not_safe_is_refused(host: str, message: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match=f"'my_shop' the host .*{message}") as raised:
        read(host=host)

    assert "s3cret" not in str(raised.value)


def test_a_token_in_the_host_is_not_repeated() -> None:
    with pytest.raises(YouCanInvalidInputError) as raised:
        read(host="https://api.youcan.shop?access_token=s3cret")

    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"password": None}, "password is empty"),
        ({"password": "  "}, "password is empty"),
        ({"password": "Bearer abc"}, "without 'Bearer'"),
        ({"password": "one\ntwo"}, "password is not an access token"),
        ({"password": "رمز"}, "password is not an access token"),
        ({"conn_type": "postgres"}, "type is 'postgres'"),
        ({"schema": "http"}, "host is empty"),
        ({"port": 8765}, "host is empty"),
        ({"host": "https://example.com:1", "port": 2}, "keep one of them"),
        ({"extra": '{"timeout": 0}'}, "extra 'timeout' is 0"),
        ({"extra": '{"timeout": "soon"}'}, "extra 'timeout' is 'soon'"),
        ({"extra": '{"timeout": true}'}, "extra 'timeout' is True"),
        ({"extra": '{"timeout": 1e300}'}, "extra 'timeout'"),
        ({"extra": '{"timeout": "nan"}'}, "extra 'timeout'"),
        ({"extra": '{"max_attempts": 0}'}, "extra 'max_attempts' is 0"),
        ({"extra": '{"max_attempts": 2.5}'}, "extra 'max_attempts' is 2.5"),
        ({"extra": '{"verify": false}'}, "always verified"),
        ({"extra": '{"verify": "false"}'}, "always verified"),
        ({"extra": '{"client_id": "7"}'}, "lacks client_secret and refresh_token"),
        ({"extra": '{"client_id": "7", "client_secret": "s3cret", "refresh_token": ""}'}, "lacks refresh_token"),
        (
            {"extra": '{"client_id": "7", "client_secret": "of two", "refresh_token": "r"}'},
            "'client_secret' can't be used",
        ),
        ({"extra": '{"verify": "/no/such/bundle.pem"}'}, "always verified"),
        ({"extra": json.dumps({"verify": __file__})}, "always verified"),
        ({"extra": json.dumps({"verify": "-----BEGIN CERTIFICATE-----" * 1000})}, "always verified"),
        ({"extra": '{"timeout": 5'}, "extra is not a JSON object"),
        ({"extra": '["timeout"]'}, "extra is not a JSON object"),
        ({"extra": '{"request_per_second": 5}'}, "did you mean 'requests_per_second'?"),
        ({"extra": '{"Timeout": 5}'}, "did you mean 'timeout'?"),
        ({"host": "example.com", "port": 70_000}, "port is 70000"),
        ({"host": "example.com", "port": -1}, "port is -1"),
        ({"host": "https://example.com:0"}, "port is 0"),
    ],
)
def test_nonsense_is_refused_with_the_field_that_holds_it(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match="In the Airflow connection 'my_shop' the .*") as raised:
        read(**fields)

    assert message in str(raised.value)


def test_a_field_left_empty_means_the_default() -> None:
    assert read(host="", extra='{"timeout": null, "max_attempts": null, "verify": null}') == read()
    assert read(extra='{"timeout": "", "verify": "", "client_id": "", "refresh_token": ""}') == read()


@pytest.mark.parametrize("password", [TOKEN, "", None])
def test_an_oauth_client_may_stand_beside_the_token_or_in_its_place(password: str | None) -> None:
    extra = json.dumps({"client_id": 7, "client_secret": " s3cret ", "refresh_token": "refresh"})

    credentials = read(password=password, extra=extra)

    assert credentials.token == (password or "")
    assert credentials.oauth_client == OAuthClient("7", "s3cret", "refresh")
    assert "s3cret" not in repr(credentials)
    assert "'refresh'" not in repr(credentials)


def test_a_ca_bundle_can_be_named(tmp_path: Path) -> None:
    assert read(extra=json.dumps({"verify": certifi.where()})).verify == certifi.where()
    assert read(extra=json.dumps({"verify": str(tmp_path)})).verify == str(tmp_path)


def test_white_space_around_a_pasted_token_is_no_part_of_it() -> None:
    assert read(password=f" {TOKEN}\n").token == TOKEN


def test_the_token_is_masked_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    masked: list[str] = []
    monkeypatch.setattr(connection, "mask_secret", masked.append)

    assert TOKEN not in repr(read())
    assert masked == [TOKEN]


def test_an_extra_that_is_not_known_gets_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        assert read(extra='{"colour_of_the_shop": "blue"}') == read()

    (line,) = caplog.messages
    assert "'colour_of_the_shop' of a YouCan connection is not known, and has no effect" in line
