"""A server for the sandbox, which stops at once, and can drop a connection."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

__all__ = ["StoppableServer", "remember_connections"]


class StoppableServer(uvicorn.Server):
    """Stops at once. uvicorn's own sleeps a tenth of a second before it sees that it has to stop, and another then."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """Stop; may be called from any thread."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has seen should_exit already, and its loop is closed
                self._loop.call_soon_threadsafe(self._stopping.set)

    async def main_loop(self) -> None:
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()  # from here on stop() wakes it; before, its first tick sees should_exit
        ticks = asyncio.create_task(super().main_loop())
        stop = asyncio.create_task(self._stopping.wait())
        # A signal ends the ticks.
        await asyncio.wait({ticks, stop}, return_when=asyncio.FIRST_COMPLETED)
        ticks.cancel()
        stop.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(0)  # closes the idle ones
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)


def remember_connections(connections: dict[Any, asyncio.Transport]) -> type[asyncio.Protocol]:
    """Make uvicorn's protocol remember its connections by the client's address, so that one can be dropped."""

    class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # chosen when uvicorn is imported
        def connection_made(self, transport: asyncio.Transport) -> None:
            connections[transport.get_extra_info("peername")[:2]] = transport
            super().connection_made(transport)

        def connection_lost(self, error: Exception | None) -> None:
            connections.pop(self.client, None)
            super().connection_lost(error)

    return cast("type[asyncio.Protocol]", Protocol)
