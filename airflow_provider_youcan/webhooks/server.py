"""The receiver's own web server: uvicorn, with bounds that it does not have for clients that never finish."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Protocol", "serve"]

HEAD_SECONDS = 5.0
"""How long the head of a request may take to come."""

MAX_HEAD_BYTES = 16_384
MAX_CONNECTIONS = 200
"""With more at a time, the one goes whose head has been on its way for the longest."""


def serve(application: Starlette, host: str, port: int) -> None:
    """
    Serve the receiver until the process is told to stop.

    :param application: the receiver.
    :param host: the address to listen on.
    :param port: the port.
    """
    # One process for each spool: several would each send its deliveries to Airflow.
    uvicorn.run(
        application,
        host=host,
        port=port,
        http=Protocol,
        ws="none",
        access_log=False,
        server_header=False,
        timeout_keep_alive=5,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )


class Protocol(H11Protocol):
    """One connection, whose head comes within its time, or not at all."""

    _waiting: dict[Protocol, asyncio.TimerHandle] = {}  # noqa: RUF012  # of all connections, the oldest first

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the head its time, and make room for the connection."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            oldest = next(iter(self._waiting), self)
            oldest._abort()
        if not transport.is_closing():
            self._waiting[self] = self.loop.call_later(HEAD_SECONDS, self._abort)

    def data_received(self, data: bytes) -> None:
        """Take what has come; with the head whole, the receiver itself bounds the rest."""
        super().data_received(data)
        if self.cycle is not None:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        timer = self._waiting.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _abort(self) -> None:
        self._stop_waiting()
        transport: Any = self.transport
        transport.abort()
