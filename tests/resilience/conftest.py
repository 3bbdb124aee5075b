"""Servers that may be broken, wires that may be cut, and the log."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import aio_pika
import asyncpg
import pytest
import structlog

import sql
from local.postgresql import NOT_DURABLE, LocalPostgreSQL
from local.rabbitmq import LocalRabbitMQ
from schema import names
from tests.chaos.proxy import CHUNK_BYTES, Proxy
from tests.conftest import DATABASE_CONNECTIONS_MAX, database_settings, make_roles, with_database, worker_settings
from tests.resilience.observing import Log, unread_errors
from tests.wire import WAIT_S
from worker.broker.link import Link, open_link
from worker.broker.topology import TOPOLOGY, Topology
from worker.database.migrations import migrate
from worker.database.pool import Pool, open_pool
from worker.session import WorkerParts
from worker.settings import BrokerSettings, WorkerSettings


@pytest.fixture(scope="session", autouse=True)
def young_garbage() -> None:
    """Leave what the tests have imported out of the search for garbage, which then takes little time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def read_errors() -> Iterator[None]:
    """Nobody forgets a task: whatever broke, somebody reads the exception of each."""
    with unread_errors() as errors:
        yield
        gc.collect()
    assert errors == []


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


@asynccontextmanager
async def private_database(server: LocalPostgreSQL) -> AsyncIterator[str]:
    """A migrated database on a private server, which has the roles as well."""
    name = f"resilience_{uuid4().hex}"
    admin = await asyncpg.connect(server.url)
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    url = with_database(server.url, name)
    await make_roles(url)
    await migrate(database_settings(url), sql.migrations())
    yield url
    admin = await asyncpg.connect(server.url)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


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


@asynccontextmanager
async def proxied(
    settings: WorkerSettings, proxy: Proxy, **others: float
) -> AsyncIterator[tuple[WorkerSettings, Pool]]:
    """Settings and a pool whose connections to PostgreSQL go through a proxy."""
    url = through(settings.database_url.get_secret_value(), proxy)
    changed = worker_settings(settings.amqp_url.get_secret_value(), url, **others)
    async with open_pool(changed, DATABASE_CONNECTIONS_MAX) as pool:
        yield changed, pool


@dataclass(frozen=True)
class Wires:
    """The worker's connections to the broker, by purpose, and the proxies that they go through."""

    proxies: dict[str, Proxy] = field(default_factory=dict)
    """Holds for connections that are opened from now on."""

    links: dict[str, Link] = field(default_factory=dict)
    """What was opened last."""

    @property
    def parts(self) -> WorkerParts:
        """A worker that opens its connections here."""
        return WorkerParts(open_link=self.open_link)

    @asynccontextmanager
    async def open_link(
        self, settings: BrokerSettings, purpose: str, on_loss: Callable[[str], None]
    ) -> AsyncIterator[Link]:
        """Open a connection, through its proxy if it has one."""
        if purpose in self.proxies:
            url = through(settings.amqp_url.get_secret_value(), self.proxies[purpose])
            settings = settings.model_copy(update={"amqp_url": type(settings.amqp_url)(url)})
        async with open_link(settings, purpose, on_loss) as self.links[purpose]:
            yield self.links[purpose]


@pytest.fixture
def wires() -> Wires:
    """The connections of one worker."""
    return Wires()


class CountsDeliveries(Proxy):
    """Counts what the broker sends to consumers: first deliveries, and redeliveries."""

    BASIC_DELIVER = b"\x00\x3c\x00\x3c"

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self.counts: Counter[bool] = Counter()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rest = b""
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            rest = self._count(rest + data)
            await writer.drain()
        raise ConnectionResetError  # one side is gone, so the other goes too

    def _count(self, data: bytes) -> bytes:
        """Count the deliveries in what was read so far; returns the last frame, which may not be whole yet."""
        end = 0
        while (start := data.find(self.BASIC_DELIVER, end)) >= 0:
            # After the method: the consumer tag, a short string; the delivery tag, 8 bytes; whether it is a redelivery.
            flag_at = start + len(self.BASIC_DELIVER) + 1 + 8
            if flag_at < len(data):
                flag_at += data[start + len(self.BASIC_DELIVER)]
            if flag_at >= len(data):
                return data[start:]
            self.counts[data[flag_at] & 1 == 1] += 1
            end = flag_at
        return data[end:][-len(self.BASIC_DELIVER) :]


@pytest.fixture
async def deliveries(amqp_url: str, wires: Wires) -> AsyncIterator[Counter[bool]]:
    """How often a worker with these wires was sent a message: for the first time (False), or once more (True)."""
    async with opened(amqp_url, CountsDeliveries) as proxy:
        wires.proxies["consuming"] = proxy
        yield proxy.counts


def with_argument(queue_name: str, argument: str, value: int) -> Topology:
    """The topology with another argument of one queue."""
    assert queue_name in [queue.name for queue in TOPOLOGY.queues]
    queues = tuple(
        replace(queue, arguments={**queue.arguments, argument: value}) if queue.name == queue_name else queue
        for queue in TOPOLOGY.queues
    )
    return replace(TOPOLOGY, queues=queues)


Limit = Callable[[str, str, int], Awaitable[Topology]]


@pytest.fixture
async def limit(amqp_url: str) -> AsyncIterator[Limit]:
    """The topology with another limit of one queue, which is deleted before and afterwards."""
    changed: list[str] = []

    async def set_limit(name: str, argument: str, value: int) -> Topology:
        await channel.queue_delete(name)
        changed.append(name)
        return with_argument(name, argument, value)

    connection = await aio_pika.connect(amqp_url, timeout=WAIT_S)
    async with connection:
        channel = await connection.channel()
        yield set_limit
        for name in changed:
            await channel.queue_delete(name)


@pytest.fixture
async def with_ttl(limit: Limit) -> Topology:
    """A topology whose parked events come back soon."""
    return await limit(names.parked_queue("run-finished"), "x-message-ttl", 500)
