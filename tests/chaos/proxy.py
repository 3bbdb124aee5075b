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
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._moving = asyncio.Event()
        self._moving.set()
        self._delay_s = 0.0

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    async def open(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def close(self) -> None:
        """Accept no more, and drop those there are."""
        if self._server:
            self._server.close()
            self._server = None
        for connection in self._connections:
            connection.cancel()

    @asynccontextmanager
    async def cut(self) -> AsyncIterator[None]:
        """Every connection drops; new ones are refused."""
        self.close()
        try:
            yield
        finally:
            await self.open()

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Nothing moves, and nobody is told. New connections are accepted, and stay silent."""
        self._moving.clear()
        try:
            yield
        finally:
            self._moving.set()

    @asynccontextmanager
    async def slow(self, delay_s: float) -> AsyncIterator[None]:
        """Whatever is sent arrives later, in each direction."""
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
            answer, forward = await asyncio.open_connection("127.0.0.1", self._target_port)
            try:
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._pump(reader, forward))
                    pumps.create_task(self._pump(answer, writer))
            finally:
                forward.transport.abort()
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # one side is gone, so the other goes too
        finally:
            writer.transport.abort()
            self._connections.discard(connection)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward until one side ends; then let what is written get through."""
        while data := await reader.read(CHUNK_BYTES):
            await self._moving.wait()
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            writer.write(data)
            await writer.drain()
        await self._moving.wait()
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()
        raise ConnectionResetError
