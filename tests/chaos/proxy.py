"""A TCP proxy that can be cut, frozen and slowed down."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from local.processes import free_ports

CHUNK_BYTES: Final = 64 * 1024


class Proxy:
    """Forwards one port of 127.0.0.1 to another."""

    def __init__(self, target_port: int) -> None:
        (self.port,) = free_ports(1)
        self.target_port = target_port
        """Where new connections go."""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._moving = asyncio.Event()
        self._moving.set()
        self._delay_s = 0.0
        self._cuts = self._freezes = 0  # two faults may hit one wire at the same time
        self._to_server: set[asyncio.StreamWriter] = set()
        self.request_bytes = 0
        """How much it has forwarded from clients to the server."""

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def open(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def close(self) -> None:
        """Accept no more connections, and drop the open ones."""
        if self._server:
            self._server.close()
            self._server = None
        for connection in self._connections:
            connection.cancel()

    @asynccontextmanager
    async def cut(self) -> AsyncIterator[None]:
        """Drop all connections, and refuse new ones until the end."""
        self._cuts += 1
        self.close()
        try:
            yield
        finally:
            self._cuts -= 1
            if not self._cuts:
                await self.open()

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Forward nothing until the end, and close nothing. New connections are accepted, and get no answer."""
        self._freezes += 1
        self._moving.clear()
        try:
            yield
        finally:
            self._freezes -= 1
            if not self._freezes:
                self._moving.set()

    @asynccontextmanager
    async def slow(self, delay_s: float) -> AsyncIterator[None]:
        """Forward everything `delay_s` later, in both directions."""
        self._delay_s = delay_s
        try:
            yield
        finally:
            self._delay_s = 0.0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        try:
            await self._moving.wait()
            answer, forward = await asyncio.open_connection("127.0.0.1", self.target_port)
            self._to_server.add(forward)
            try:
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._pump(reader, forward))
                    pumps.create_task(self._pump(answer, writer))
            finally:
                self._to_server.discard(forward)
                forward.transport.abort()
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # one side has closed, so the other is closed as well
        finally:
            writer.transport.abort()
            self._connections.discard(connection)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward until one side ends. Then wait until the other side has got everything."""
        while data := await reader.read(CHUNK_BYTES):
            await self._moving.wait()
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            self.request_bytes += len(data) * (writer in self._to_server)
            writer.write(data)
            await writer.drain()
        await self._moving.wait()
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()
        raise ConnectionResetError
