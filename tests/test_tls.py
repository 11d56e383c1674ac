"""Certificates: which are trusted, and what an answer means that breaks the encryption."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import certifi
import pytest
import requests

from airflow_provider_youcan.client import endpoints, procedures
from airflow_provider_youcan.exceptions import (
    YouCanConnectionError,
    YouCanInvalidInputError,
)
from airflow_provider_youcan.hooks.youcan import YouCanAsyncHook
from airflow_provider_youcan.orders import StatusContext
from tests.conftest import Connect


@pytest.fixture
def self_signed_server(tmp_path: Path) -> Iterator[str]:
    import datetime
    import ssl

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )

    class Store(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"slug": "tls"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            # The update is taken, and then something between breaks the encryption.
            self.rfile.read(int(self.headers["Content-Length"]))
            self.close_connection = True
            with socket.socket(fileno=os.dup(self.connection.fileno())) as raw:
                raw.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)

        def log_message(self, *_: Any) -> None:
            pass

    class QuietServer(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            pass

    server = QuietServer(("127.0.0.1", 0), Store)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_certificate_that_no_one_vouches_for_is_refused(
    connect: Connect, self_signed_server: str, no_waiting: None
) -> None:
    with pytest.raises(
        YouCanConnectionError, match="The TLS certificate of https://localhost:.* could not be verified"
    ):
        connect(host=self_signed_server).get_store()


def test_a_certificate_that_the_named_bundle_vouches_for_is_trusted(
    connect: Connect, self_signed_server: str, tmp_path: Path
) -> None:
    hook = connect(host=self_signed_server, verify=str(tmp_path / "server.pem"))

    assert hook.get_store() == {"slug": "tls"}


def test_an_answer_that_breaks_the_encryption_is_a_lost_answer(
    connect: Connect, self_signed_server: str, tmp_path: Path
) -> None:
    hook = connect(host=self_signed_server, verify=str(tmp_path / "server.pem"), max_attempts=1)

    with pytest.raises(YouCanConnectionError, match="whether YouCan took it is unknown") as raised:
        hook.update_order_status("abc", "paid", StatusContext("payment"))

    assert raised.value.unconfirmed


def test_a_ca_bundle_that_was_replaced_is_taken_up(connect: Connect, self_signed_server: str, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(Path(certifi.where()).read_bytes())
    hook = connect(host=self_signed_server, verify=str(bundle), max_attempts=1)

    async def read_before_and_after() -> list[Any]:
        answers: list[Any] = []
        async with YouCanAsyncHook("other") as async_hook:
            for content in (Path(certifi.where()).read_bytes(), (tmp_path / "server.pem").read_bytes()):
                bundle.write_bytes(content)
                for call in (lambda: async_hook.run(procedures.request(endpoints.get_store())), hook.get_store):
                    try:
                        answer = call()
                        answers.append(answer if isinstance(answer, dict) else await answer)
                    except YouCanConnectionError as error:
                        answers.append("could not be verified" in str(error))
        return answers

    assert asyncio.run(read_before_and_after()) == [True, True, {"slug": "tls"}, {"slug": "tls"}]


def test_a_named_ca_bundle_wins_over_the_environments(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(Path(certifi.where()).read_bytes())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/other.pem")
    verified: list[Any] = []

    class Recorder(requests.adapters.HTTPAdapter):
        def send(self, request: Any, **options: Any) -> requests.Response:  # type: ignore[override]
            verified.append(options["verify"])
            raise requests.ConnectionError

    for extra in ({"verify": str(bundle)}, {}):
        hook = connect(host="https://api.youcan.shop", max_attempts=1, **extra)
        hook.get_conn().mount("https://", Recorder())
        with pytest.raises(YouCanConnectionError):
            hook.get_store()

    assert verified == [str(bundle), "/etc/ssl/other.pem"]


def test_a_ca_bundle_of_the_environment_that_is_not_there_is_reported(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem")

    with pytest.raises(YouCanInvalidInputError, match="REQUESTS_CA_BUNDLE"):
        connect(host="https://api.youcan.shop").get_store()
