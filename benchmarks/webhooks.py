"""Deliveries a second that one receiver takes, beside a bare Starlette application that only verifies the signature."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
import subprocess
import sys
import tempfile
import time
from statistics import median
from urllib.request import urlopen

SECRET = "secret"
DELIVERIES, AT_A_TIME, TURNS = 3_000, 32, 3

BARE = """
import hashlib, hmac, sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
async def take(request):
    expected = hmac.new(b"secret", await request.body(), hashlib.sha256).hexdigest()
    is_genuine = hmac.compare_digest(expected, request.headers["x-youcan-signature"])
    return PlainTextResponse("", 200 if is_genuine else 401)
async def health(request):
    return PlainTextResponse("")
routes = [Route("/", take, methods=["POST"]), Route("/health", health)]
uvicorn.run(Starlette(routes=routes), port=int(sys.argv[1]), access_log=False, log_level="error")
"""
OURS = """
import sys
import uvicorn
from airflow_provider_youcan.webhooks.receiver import build_application
from airflow_provider_youcan.webhooks.settings import Settings
# Airflow is away: what is measured is what YouCan meets.
settings = Settings(("secret",), "my-store", sys.argv[2] + "/spool.db", "http://127.0.0.1:9")
uvicorn.run(build_application(settings), port=int(sys.argv[1]), access_log=False, log_level="error")
"""


def main() -> int:
    pairs = [(measure(OURS), measure(BARE)) for _ in range(TURNS)]
    ours, bare = (median(pair[number] for pair in pairs) for number in (0, 1))
    ratio = median(one / other for one, other in pairs)
    print(f"{DELIVERIES:,} deliveries, {AT_A_TIME} at a time")
    print(f"  the receiver: {ours:,.0f} a second, each on the disk before it is answered")
    print(f"  bare Starlette, the signature alone: {bare:,.0f} a second")
    print(f"  median of {TURNS}: {ratio:.2f} of it")
    return 0


def measure(code: str) -> float:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([sys.executable, "-c", code, str(port), folder], stderr=subprocess.DEVNULL)
        try:
            wait_for(f"http://127.0.0.1:{port}/health")
            return asyncio.run(deliver(f"http://127.0.0.1:{port}/"))
        finally:
            process.kill()
            process.wait()


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urlopen(url, timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


async def deliver(url: str) -> float:
    import aiohttp

    numbers = iter(range(DELIVERIES))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_A_TIME)) as session:

        async def work() -> None:
            for number in numbers:
                body = json.dumps({"event_name": "order.paid", "data": {"id": f"order-{number}"}}).encode()
                headers = {"x-youcan-signature": hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}
                async with session.post(url, data=body, headers=headers) as response:
                    assert response.status == 200

        began = time.monotonic()
        await asyncio.gather(*(work() for _ in range(AT_A_TIME)))
        return DELIVERIES / (time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
