"""The receiver's own web server: uvicorn, with bounds that it does not have for clients that never finish."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Protocol", "serve"]

CONNECTION_SECONDS = 15.0
"""The seconds that a connection may last, whatever comes on it: a delivery is one request."""

MAX_HEAD_BYTES = 16_384
MAX_CONNECTIONS = 200
"""If there are more at a time, the oldest is closed, so that a new one always gets a turn."""


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
    """One connection, which has its time, and gives way to a newer one when there are too many."""

    _all: dict[Protocol, asyncio.TimerHandle] = {}  # noqa: RUF012  # of all connections, the oldest first

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the connection its time, and make room for it."""
        super().connection_made(transport)
        while len(self._all) >= MAX_CONNECTIONS:
            next(iter(self._all))._abort()
        self._all[self] = self.loop.call_later(CONNECTION_SECONDS, self._abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._forget()
        super().connection_lost(exc)

    def _forget(self) -> None:
        timer = self._all.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _abort(self) -> None:
        self._forget()
        transport: Any = self.transport
        transport.abort()
