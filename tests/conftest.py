"""A real RabbitMQ and a real PostgreSQL for every test that needs them, and one empty database per test.

Each process that runs tests starts both for itself.
"""

import asyncio
import gc
import os
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import aio_pika
import asyncpg
import hypothesis
import hypothesis.internal.observability
import pytest
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity

import sql
from local.services import AMQP_URL, DATABASE_URL, Services, services
from sql.connection import Connection
from tests.wire import POLL_S, WAIT_S, Wire
from worker.broker.malformed_frames import tolerate_malformed_properties
from worker.broker.topology import TOPOLOGY, Topology
from worker.database.migrations import migrate
from worker.database.pool import Pool, open_pool, session_settings
from worker.monitoring.health import Health
from worker.session import DEFAULT_PARTS, WorkerParts, run_sessions
from worker.settings import DatabaseSettings, WorkerSettings

tolerate_malformed_properties()

# The machine does other work too: no example has to be quick.
hypothesis.settings.register_profile("export-runs", deadline=None)
hypothesis.settings.load_profile("export-runs")

DATABASE_CONNECTIONS_MAX = DEFAULT_PARTS.database_connections_max

TEMPLATE = f"export_runs_test_template_{uuid4().hex[:8]}"

ROLES = ("owner", "worker", "auditor", "operator")
ROLE_PASSWORD = "a-role-of-a-test"

MEMORY_FOLDER = "/dev/shm"
MEMORY_FREE_BYTES_MIN = 4 * 1024**3
TEST_PROCESSES = 3
"""The tests wait more than they compute, so two cores can serve three processes."""


def pytest_configure() -> None:
    """Keep temporary files in memory where there is room, and so the data of all servers that tests start.

    A database consists of 300 files: to clone one on a disk takes four times as much of the processor.
    """
    with suppress(OSError):
        status = os.statvfs(MEMORY_FOLDER)
        is_executable = not status.f_flag & os.ST_NOEXEC  # a server's programs are copied beside its data
        if is_executable and status.f_bavail * status.f_frsize >= MEMORY_FREE_BYTES_MIN:
            os.environ["TMPDIR"] = tempfile.tempdir = MEMORY_FOLDER


def pytest_xdist_auto_num_workers() -> int:
    """How many processes `-n auto` starts. Where the services are given, there is one: each test empties the queues."""
    return 1 if os.environ.get(AMQP_URL) or os.environ.get(DATABASE_URL) else TEST_PROCESSES


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collect no garbage while a report is made.

    A report parses source code, and so does the traceback that asyncio logs when an object is collected. Python 3.11
    raises SystemError where the two meet.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="session")
def running_services() -> Iterator[Services]:
    """Both services. They run until the last test has ended."""
    with services() as running:
        yield running


def with_database(url: str, name: str) -> str:
    """The URL of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def as_role(url: str, role: str) -> str:
    """The URL of the same database for another of ROLES."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"export_runs_{role}:{ROLE_PASSWORD}@{host}"))


async def make_roles(url: str) -> None:
    """Make the roles in a database, and give them a password."""
    admin = await asyncpg.connect(url)
    await admin.execute(sql.roles())
    for role in ROLES:
        await admin.execute(f"ALTER ROLE export_runs_{role} PASSWORD '{ROLE_PASSWORD}'")
    await admin.close()


@pytest.fixture(scope="session")
def template_url(running_services: Services) -> Iterator[str]:
    """The server's URL. The server has a migrated database, from which the database of each test is cloned."""

    async def make() -> None:
        admin = await asyncpg.connect(running_services.database_url)
        await admin.execute(f"CREATE DATABASE {TEMPLATE}")
        await admin.close()
        url = with_database(running_services.database_url, TEMPLATE)
        await make_roles(url)
        await migrate(database_settings(url), sql.migrations())

    async def drop() -> None:
        admin = await asyncpg.connect(running_services.database_url)
        await admin.execute(f"DROP DATABASE {TEMPLATE} WITH (FORCE)")
        await admin.close()

    asyncio.run(make())
    yield running_services.database_url
    asyncio.run(drop())


@asynccontextmanager
async def cloned_database(template_url: str) -> AsyncIterator[str]:
    """Clone the template, and drop the clone at the end."""
    name = f"export_runs_test_{uuid4().hex}"
    admin = await asyncpg.connect(template_url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    try:
        yield with_database(template_url, name)
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


@pytest.fixture
async def empty_url(running_services: Services) -> AsyncIterator[str]:
    """A database without tables."""
    name = f"export_runs_test_{uuid4().hex}"
    admin = await asyncpg.connect(running_services.database_url)
    await admin.execute(f"CREATE DATABASE {name}")
    yield with_database(running_services.database_url, name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def database_url(template_url: str) -> AsyncIterator[str]:
    """A migrated database of this test's own."""
    async with cloned_database(template_url) as url:
        yield url


@pytest.fixture(scope="module")
def shared_url(template_url: str) -> Iterator[str]:
    """One database for all tests of a file. To clone one for each of them would take longer than the tests do."""
    loop = asyncio.new_event_loop()
    database = cloned_database(template_url)
    yield loop.run_until_complete(database.__aenter__())
    loop.run_until_complete(database.__aexit__(None, None, None))
    loop.close()


@pytest.fixture
async def emptied_url(shared_url: str) -> str:
    """The same database, without rows. Replica mode switches off the trigger that refuses to delete log entries."""
    connection = await asyncpg.connect(shared_url, server_settings={"session_replication_role": "replica"})
    await connection.execute(
        "DELETE FROM claim_leases; DELETE FROM claim_overrides; DELETE FROM double_exported_claims;"
        "DELETE FROM repeated_claims; DELETE FROM alerts; DELETE FROM double_exports;"
        "DELETE FROM export_reversals; DELETE FROM claim_reversals; DELETE FROM reversal_grants;"
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
    """A connection with the worker's settings: with other plans a query may take a hundred times as long."""
    settings = {**session_settings(database_settings(database_url)), "application_name": "a test"}
    return await asyncpg.connect(database_url, server_settings=settings)


@pytest.fixture
async def amqp_url(running_services: Services) -> str:
    """A broker with empty queues. They are purged, not deleted: to declare quorum queues takes a second."""
    connection = await aio_pika.connect(running_services.amqp_url, timeout=WAIT_S)
    async with connection:
        channel = await connection.channel()
        for queue in TOPOLOGY.queues:
            try:
                await (await channel.get_queue(queue.name, ensure=False)).purge(timeout=WAIT_S)
            except ChannelNotFoundEntity:
                channel = await connection.channel()
    return running_services.amqp_url


@pytest.fixture
def settings(amqp_url: str, database_url: str) -> WorkerSettings:
    """The worker's settings for this test."""
    return worker_settings(amqp_url, database_url)


def database_settings(database_url: str) -> DatabaseSettings:
    """The settings of a command that needs no broker."""
    return DatabaseSettings.model_validate({"database_url": database_url})


def worker_settings(amqp_url: str, database_url: str, **others: Any) -> WorkerSettings:
    """The worker's settings, with the values that the environment variables would have."""
    return WorkerSettings.model_validate({"amqp_url": amqp_url, "database_url": database_url, **others})


@pytest.fixture
async def pool(settings: WorkerSettings) -> AsyncIterator[Pool]:
    """The worker's pool, with no more permissions than a worker needs."""
    url = as_role(settings.database_url.get_secret_value(), "worker")
    async with open_pool(database_settings(url), DATABASE_CONNECTIONS_MAX) as pool:
        yield pool


@asynccontextmanager
async def running_worker(
    settings: WorkerSettings, pool: Pool, parts: WorkerParts = DEFAULT_PARTS
) -> AsyncIterator[None]:
    """Run a worker in this process. At the end it is asked to stop, and must do so within `shutdown_s`."""
    stopping = asyncio.Event()
    worker = asyncio.create_task(run_sessions(settings, pool, parts, stopping, Health()))
    try:
        await _until_declared(settings.amqp_urls, parts.topology_for(settings))
        yield
    finally:
        stopping.set()
        await end_of(worker, settings.shutdown_s)


async def end_of(worker: asyncio.Task[None], within_s: float) -> None:
    """Wait for the end of a worker that was asked to stop. One that does not end in time is cancelled until it does:
    aiormq can swallow a cancellation, and then `asyncio.wait_for` never returns.
    """
    await asyncio.wait({worker}, timeout=within_s)
    is_late = not worker.done()
    while not worker.done():
        worker.cancel()
        await asyncio.wait({worker}, timeout=1)
    assert not is_late, f"the worker did not end within {within_s} s"
    await worker


async def _connect_to_one_of(amqp_urls: Sequence[str]) -> AbstractConnection:
    *others, last = amqp_urls
    for url in others:
        with suppress(aio_pika.exceptions.AMQPError, OSError):
            return await aio_pika.connect(url, timeout=WAIT_S)
    return await aio_pika.connect(last, timeout=WAIT_S)


async def _until_declared(amqp_urls: Sequence[str], topology: Topology) -> None:
    """Wait for the queues that a worker declares. A message that is published from then on is not lost."""
    async with await _connect_to_one_of(amqp_urls) as connection, asyncio.timeout(WAIT_S):
        channel = await connection.channel()
        for queue in topology.queues:
            while True:
                try:
                    await channel.declare_queue(queue.name, passive=True, timeout=WAIT_S)
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
