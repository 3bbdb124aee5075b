"""Servers that may be broken, wires that may be cut, and the log."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

import aio_pika
import pytest
import structlog

from local.postgresql import NOT_DURABLE, LocalPostgreSQL
from local.rabbitmq import LocalRabbitMQ
from tests.chaos.proxy import Proxy
from tests.resilience.observing import Log
from worker import session, topology
from worker.amqp import Link, open_link
from worker.settings import BrokerSettings


@pytest.fixture
def log() -> Iterator[Log]:
    """What this process logs during the test."""
    with structlog.testing.capture_logs() as lines:
        yield Log(lines)


@pytest.fixture(scope="session")
def broker_server() -> Iterator[LocalRabbitMQ]:
    """A broker of these tests' own. Who breaks it mends it."""
    with LocalRabbitMQ() as server:
        yield server


@pytest.fixture(scope="session")
def database_server() -> Iterator[LocalPostgreSQL]:
    """A PostgreSQL of these tests' own. Who breaks it mends it."""
    with LocalPostgreSQL(NOT_DURABLE) as server:
        yield server


def through(url: str, proxy: Proxy) -> str:
    """A URL with the proxy's port in place of the server's."""
    user, _, _ = urlsplit(url).netloc.rpartition("@")
    return urlunsplit(urlsplit(url)._replace(netloc=f"{user}@127.0.0.1:{proxy.port}"))


@pytest.fixture
async def broker_proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    """A wire to the broker."""
    async with opened(amqp_url, Proxy) as proxy:
        yield proxy


AProxy = TypeVar("AProxy", bound=Proxy)


@asynccontextmanager
async def opened(url: str, make: Callable[[int], AProxy]) -> AsyncIterator[AProxy]:
    """A proxy before a server, closed afterwards."""
    port = urlsplit(url).port
    assert port is not None
    proxy = make(port)
    await proxy.open()
    try:
        yield proxy
    finally:
        proxy.close()


Routes = dict[str, Proxy]


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> Routes:
    """Which of the worker's connections, by purpose, goes through a proxy from its next session on."""
    routed: Routes = {}

    def open_routed(
        settings: BrokerSettings, purpose: str, lost: Callable[[str], None], *, confirms: bool
    ) -> AbstractAsyncContextManager[Link]:
        if purpose in routed:
            url = through(settings.amqp_url.get_secret_value(), routed[purpose])
            settings = settings.model_copy(update={"amqp_url": type(settings.amqp_url)(url)})
        return open_link(settings, purpose, lost, confirms=confirms)

    monkeypatch.setattr(session, "open_link", open_routed)
    return routed


Limit = Callable[[str, str, int], Awaitable[None]]


@pytest.fixture
async def limit(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Limit]:
    """Have workers of this process declare a queue with another limit; it is deleted before and afterwards."""
    changed: list[str] = []

    async def set_limit(name: str, argument: str, value: int) -> None:
        await channel.queue_delete(name)
        changed.append(name)
        queues = tuple(
            replace(queue, arguments={**queue.arguments, argument: value}) if queue.name == name else queue
            for queue in topology.QUEUES
        )
        monkeypatch.setattr(topology, "QUEUES", queues)

    connection = await aio_pika.connect(amqp_url, timeout=10)
    async with connection:
        channel = await connection.channel()
        yield set_limit
        for name in changed:
            await channel.queue_delete(name)
