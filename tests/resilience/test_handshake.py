"""RabbitMQ closes a connection just when it has been opened, as it does when it stops, or when it has one channel."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from urllib.parse import urlsplit, urlunsplit

import pytest

from cli.broker import Unreachable, broker_errors, open_broker
from export_runs_client import ConnectionLost
from export_runs_client.links import open_link as client_link
from schema.names import UNROUTABLE_QUEUE
from tests.conftest import worker_settings
from tests.wire import WAIT_S
from worker.broker.link import CONNECTION_ERRORS, open_link
from worker.broker.queue_states import queue_states

HEADER_BYTES = 8
FRAME_HEADER_BYTES = 7


async def frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(FRAME_HEADER_BYTES)
    return head + await reader.readexactly(int.from_bytes(head[3:], "big") + 1)


@asynccontextmanager
async def closing_wire(amqp_url: str, channels: int) -> AsyncIterator[str]:
    """A wire to the real broker that ends when the connection is open and has so many channels."""
    broker = urlsplit(amqp_url)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with ExitStack() as stack:
            stack.enter_context(closing(writer))
            from_broker, to_broker = await asyncio.open_connection(broker.hostname, broker.port)
            stack.enter_context(closing(to_broker))
            to_broker.write(await reader.readexactly(HEADER_BYTES))
            writer.write(await frame(from_broker))
            to_broker.write(await frame(reader))  # Start-Ok
            writer.write(await frame(from_broker))
            to_broker.write(await frame(reader))  # Tune-Ok
            to_broker.write(await frame(reader))  # Open
            writer.write(await frame(from_broker))
            for _ in range(channels):
                to_broker.write(await frame(reader))
                writer.write(await frame(from_broker))
            await writer.drain()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        user, _, _ = broker.netloc.rpartition("@")
        port = server.sockets[0].getsockname()[1]
        yield urlunsplit(broker._replace(netloc=f"{user}@127.0.0.1:{port}"))


@pytest.fixture
async def closing_url(amqp_url: str) -> AsyncIterator[str]:
    """A wire that ends when the connection is open."""
    async with closing_wire(amqp_url, channels=0) as url:
        yield url


@pytest.fixture
async def one_channel_url(amqp_url: str) -> AsyncIterator[str]:
    """A wire that ends when the connection has one channel."""
    async with closing_wire(amqp_url, channels=1) as url:
        yield url


async def test_a_worker_hears_of_a_lost_connection(closing_url: str, database_url: str) -> None:
    settings = worker_settings(closing_url, database_url)
    with pytest.raises(CONNECTION_ERRORS):
        async with open_link(settings, "a test", lambda reason: None):
            pass


async def test_a_client_hears_of_a_lost_connection(closing_url: str) -> None:
    with pytest.raises(ConnectionLost):
        async with client_link(closing_url, "a test", None):
            pass


async def test_a_command_hears_of_a_connection_that_is_lost_later(one_channel_url: str, database_url: str) -> None:
    lost = asyncio.Event()
    settings = worker_settings(one_channel_url, database_url)
    async with open_broker(settings, "a test", on_loss=lambda reason: lost.set()) as link:
        await asyncio.wait_for(lost.wait(), WAIT_S)
        with pytest.raises(Unreachable), broker_errors():
            await queue_states(link, [UNROUTABLE_QUEUE])
