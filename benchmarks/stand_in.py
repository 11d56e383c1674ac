"""
A stand-in for a shop, leaner than the sandbox, so that a benchmark measures its client: orders, their list, updates.

It answers 50 ms late, and can have a rate limit in a fixed window, with or without headers that show it.

    python benchmarks/stand_in.py ORDERS LIMIT SECONDS HEADERS [CERTIFICATE]

A limit of 0 is none. With a certificate, a file of a key and a certificate in PEM, it speaks https.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import uuid
from typing import Any
from urllib.parse import parse_qs, urlsplit

LATENCY = 0.05


class Shop:
    def __init__(self, orders: int, limit: int, seconds: float, headers: bool) -> None:
        self.payments = {str(uuid.UUID(int=number)): "pending" for number in range(1, orders + 1)}
        self.ids = list(self.payments)
        self.limit, self.seconds, self.headers = limit, seconds, headers
        self.start, self.taken = float("-inf"), 0
        self.accepted: list[float] = []
        self.refused: list[float] = []
        self.looks: dict[str, float] = {}
        self.ages: list[float] = []
        self.updated: list[float] = []

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, str, bytes]:
        now = asyncio.get_running_loop().time()
        url = urlsplit(target)
        if url.path == "/figures":
            names = ("accepted", "refused", "ages", "updated")
            figures = {name: getattr(self, name) for name in names}
            return 200, "", json.dumps(figures).encode()
        headers = ""
        if self.limit:
            if now >= self.start + self.seconds:
                self.start, self.taken = now, 0
            self.taken += 1
            if self.headers:
                left = max(0, self.limit - self.taken)
                headers = f"X-RateLimit-Limit: {self.limit}\r\nX-RateLimit-Remaining: {left}\r\n"
            if self.taken > self.limit:
                self.refused.append(now)
                headers += f"Retry-After: {max(1, int(self.start + self.seconds - now + 0.999))}\r\n"
                return 429, headers, b'{"message": "Too Many Attempts."}'
        self.accepted.append(now)
        if method == "PUT":
            order_id = url.path.split("/")[2]
            self.updated.append(now)
            self.ages.append(now - self.looks.get(order_id, now))
            self.payments[url.path.split("/")[2]] = json.loads(body)["status"]
            return 200, headers, b'{"status": 200, "detail": "Status is successfully updated", "meta": []}'
        if url.path == "/orders/settings":
            lists = {"ordersStatus": [{"slug": "open"}], "shipping": [{"slug": "shipped"}]}
            return 200, headers, json.dumps({**lists, "payment": [{"slug": "pending"}, {"slug": "paid"}]}).encode()
        if url.path == "/me":
            return 200, headers, b'{"slug": "stand-in"}'
        if url.path == "/orders":
            return 200, headers, self.list(parse_qs(url.query))
        order_id = url.path.split("/")[2]
        self.looks[order_id] = now
        return 200, headers, json.dumps(self.order(order_id)).encode()

    def list(self, query: dict[str, list[str]]) -> bytes:
        page, size = int(query["page"][0]), int(query["limit"][0])
        shown = [self.order(order_id) for order_id in self.ids[(page - 1) * size : page * size]]
        self.looks.update(dict.fromkeys((order["id"] for order in shown), asyncio.get_running_loop().time()))
        pagination = {"total": len(self.ids), "count": len(shown), "per_page": size, "current_page": page}
        pagination["total_pages"] = -(-len(self.ids) // size)
        return json.dumps({"data": shown, "meta": {"pagination": pagination}}).encode()

    def order(self, order_id: str) -> dict[str, Any]:
        def status(slug: str) -> dict[str, Any]:
            return {"status": 1, "status_text": slug, "status_object": {"slug": slug, "name": slug, "color": "#8A9CA0"}}

        return {
            "id": order_id,
            "ref": str(int(order_id.replace("-", ""), 16)),
            "total": 40,
            "currency": "MAD",
            "status": 1,
            "status_new": "Open",
            "status_object": status("open")["status_object"],
            "created_at": "2021-03-17T09:42:07+00:00",
            "payment": status(self.payments[order_id]),
            "shipping": status("unfulfilled"),
        }


class Protocol(asyncio.Protocol):
    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.decode("latin-1").split("\r\n")
        length = next((int(line[15:]) for line in lines if line.lower().startswith("content-length:")), 0)
        if len(body) < length:
            return
        self._buffer = body[length:]
        method, target, _ = lines[0].split(" ")
        late = 0 if target == "/figures" else LATENCY
        asyncio.get_running_loop().call_later(late, self.reply, method, target, body[:length])

    def reply(self, method: str, target: str, body: bytes) -> None:
        status, headers, content = self._shop.answer(method, target, body)
        head = (
            f"HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n{headers}\r\n"
        )
        self._transport.write(head.encode() + content)


async def main() -> None:
    orders, limit, seconds, headers, *certificate = sys.argv[1:]
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate[0])
    shop = Shop(int(orders), int(limit), float(seconds), headers == "yes")
    server = await asyncio.get_running_loop().create_server(
        lambda: Protocol(shop), "127.0.0.1", 0, backlog=1000, ssl=tls
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
