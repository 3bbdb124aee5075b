"""A real RabbitMQ and a real PostgreSQL for every test that needs them, one empty database a test."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import aio_pika
import asyncpg
import pytest
from aio_pika.exceptions import ChannelNotFoundEntity

import sql
from handlers.connection import Connection
from local.services import Services, services
from tests.wire import POLL_S, WAIT_S, Wire
from worker.database import Pool, open_pool, server_settings
from worker.migrations import migrate
from worker.routes import DATABASE_CONNECTIONS_MAX
from worker.session import run_sessions
from worker.settings import DatabaseSettings, WorkerSettings
from worker.topology import QUEUES

TEMPLATE = f"export_runs_test_template_{uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def running_services() -> Iterator[Services]:
    """Both services, for the whole run."""
    with services() as running:
        yield running


def with_database(url: str, name: str) -> str:
    """The URL of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@pytest.fixture(scope="session")
def template_url(running_services: Services) -> Iterator[str]:
    """The server's URL, once it has a migrated database that each test's own is cloned from."""

    async def make() -> None:
        admin = await asyncpg.connect(running_services.database_url)
        await admin.execute(f"CREATE DATABASE {TEMPLATE}")
        await admin.close()
        connection = await asyncpg.connect(with_database(running_services.database_url, TEMPLATE))
        await migrate(connection, sql.migrations())
        await connection.close()

    async def drop() -> None:
        admin = await asyncpg.connect(running_services.database_url)
        await admin.execute(f"DROP DATABASE {TEMPLATE} WITH (FORCE)")
        await admin.close()

    asyncio.run(make())
    yield running_services.database_url
    asyncio.run(drop())


@asynccontextmanager
async def cloned_database(template_url: str) -> AsyncIterator[str]:
    """A clone of the template, gone afterwards."""
    name = f"export_runs_test_{uuid4().hex}"
    admin = await asyncpg.connect(template_url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    try:
        yield with_database(template_url, name)
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


@pytest.fixture
async def database_url(template_url: str) -> AsyncIterator[str]:
    """A migrated database of this test's own."""
    async with cloned_database(template_url) as url:
        yield url


@pytest.fixture(scope="module")
def shared_url(template_url: str) -> Iterator[str]:
    """One database for the tests of a file: to clone one for each would take longer than they do."""
    loop = asyncio.new_event_loop()
    database = cloned_database(template_url)
    yield loop.run_until_complete(database.__aenter__())
    loop.run_until_complete(database.__aexit__(None, None, None))
    loop.close()


@pytest.fixture
async def emptied_url(shared_url: str) -> str:
    """The same, with nothing in it; the log refuses this to everybody else."""
    connection = await asyncpg.connect(shared_url, server_settings={"session_replication_role": "replica"})
    await connection.execute(
        "DELETE FROM claim_leases; DELETE FROM claim_overrides; DELETE FROM double_exports;"
        "DELETE FROM export_run_events; DELETE FROM export_runs; DELETE FROM export_run_claims"
    )
    await connection.close()
    return shared_url


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """A connection to this test's database."""
    connection = await connected(database_url)
    yield connection
    await connection.close()


async def connected(database_url: str) -> "asyncpg.Connection[asyncpg.Record]":
    """A connection with what the worker asks of PostgreSQL: other plans may take a hundred times as long."""
    settings = DatabaseSettings.model_validate({"database_url": database_url})
    asked = {**server_settings(settings), "application_name": "a test"}
    return await asyncpg.connect(database_url, server_settings=asked)


@pytest.fixture
async def amqp_url(running_services: Services) -> str:
    """A broker whose queues, if they are there, are empty: declaring quorum queues anew takes a second."""
    connection = await aio_pika.connect(running_services.amqp_url, timeout=10)
    async with connection:
        channel = await connection.channel()
        for queue in QUEUES:
            try:
                await (await channel.get_queue(queue.name, ensure=False)).purge()
            except ChannelNotFoundEntity:
                channel = await connection.channel()
    return running_services.amqp_url


@pytest.fixture
def settings(amqp_url: str, database_url: str) -> WorkerSettings:
    """The worker's settings for this test."""
    return worker_settings(amqp_url, database_url)


def worker_settings(amqp_url: str, database_url: str, **others: Any) -> WorkerSettings:
    """Settings as the environment would give them."""
    return WorkerSettings.model_validate({"amqp_url": amqp_url, "database_url": database_url, **others})


@pytest.fixture
async def pool(settings: WorkerSettings) -> AsyncIterator[Pool]:
    """The worker's pool."""
    async with open_pool(settings, DATABASE_CONNECTIONS_MAX) as pool:
        yield pool


@asynccontextmanager
async def running_worker(settings: WorkerSettings, pool: Pool) -> AsyncIterator[None]:
    """A worker in this process; it must end by itself when told to stop."""
    stopping = asyncio.Event()
    worker = asyncio.create_task(run_sessions(settings, pool, stopping))
    try:
        await _declared(settings.amqp_url.get_secret_value())
        yield
    finally:
        stopping.set()
        await asyncio.wait_for(worker, settings.shutdown_s)


async def _declared(amqp_url: str) -> None:
    """Wait for the queues that a worker declares; what is sent from then on is not lost."""
    connection = await aio_pika.connect(amqp_url, timeout=10)
    async with connection, asyncio.timeout(WAIT_S):
        channel = await connection.channel()
        for queue in QUEUES:
            while True:
                try:
                    await channel.declare_queue(queue.name, passive=True)
                    break
                except ChannelNotFoundEntity:
                    await asyncio.sleep(POLL_S)
                    channel = await connection.channel()


@pytest.fixture
async def worker(settings: WorkerSettings, pool: Pool) -> AsyncIterator[None]:
    """A worker on this test's broker and database."""
    async with running_worker(settings, pool):
        yield


@pytest.fixture
async def wire(amqp_url: str) -> AsyncIterator[Wire]:
    """A client that knows only the contract."""
    async with Wire.connect(amqp_url) as wire:
        yield wire
