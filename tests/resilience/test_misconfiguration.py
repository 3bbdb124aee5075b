"""A wrong URL, password, virtual host, database or permission ends a command: exit code 2, one sentence, no secret.

It ends the start of a worker in the same way. A service that is merely away ends a command with 3, and a worker waits
for it.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from local.services import LocalRabbitMQ
from tests.commands import worker_process
from tests.conftest import with_database
from tests.forked import forked_export_runs
from tests.resilience.observing import rabbitmqctl
from tests.wire import Wire, run_created
from worker.broker.declaration import declare
from worker.limits import DEFAULT_LIMITS
from worker.settings import WorkerSettings

SECRET = "Secr3t"
AMQP_URL = "EXPORT_RUNS_AMQP_URL"
DATABASE_URL = "EXPORT_RUNS_DATABASE_URL"

START_REFUSAL_S = 60

ASKS = ["history", "acme"]
LISTS = ["dead-letters", "list"]
MIGRATES = ["migrate"]
PURGES = ["purge", str(uuid4())]


async def refusal(command: list[str], settings: WorkerSettings, variable: str, url: str, code: int = 2) -> str:
    """What a command says of a wrong URL: one line, with the variable's name and without the secret."""
    refused = await forked_export_runs(*command, settings=settings, **{variable: url})
    assert (refused.code, refused.out) == (code, ""), refused
    assert SECRET not in refused.err
    [line] = refused.err.splitlines()
    assert line.startswith(f"{variable}: ") == (code == 2), line
    return line


@dataclass(frozen=True)
class Address:
    """Where a service listens."""

    host: str

    def amqp(self, user: str = "guest", password: str = "guest", vhost: str = "", scheme: str = "amqp") -> str:
        """The URL of a broker there."""
        return f"{scheme}://{user}:{password}@{self.host}/{vhost}"

    def postgresql(self, user: str, database: str, password: str = SECRET) -> str:
        """The URL of a database there."""
        return f"postgresql://{user}:{password}@{self.host}/{database}"


@pytest.fixture(scope="module")
def broker(broker_server: LocalRabbitMQ) -> Address:
    """RabbitMQ, with users and virtual hosts of these tests."""
    return Address(f"127.0.0.1:{broker_server.port}")


@pytest.fixture(scope="module")
def users(broker_server: LocalRabbitMQ) -> None:
    """`nobody` may not enter, `reader` may only read. Nobody may enter the virtual host `other`."""

    async def add() -> None:
        for user in ("nobody", "reader"):
            await rabbitmqctl(broker_server, "add_user", user, SECRET)
        await rabbitmqctl(broker_server, "set_permissions", "reader", "", "", ".*")
        await rabbitmqctl(broker_server, "add_vhost", "other")
        async with Wire.connect(broker_server.url) as wire:
            await declare(wire.channel)

    asyncio.run(add())


@pytest.mark.parametrize("command", [ASKS, LISTS], ids=" ".join)
async def test_rabbitmq_refuses(settings: WorkerSettings, broker: Address, users: None, command: list[str]) -> None:
    wrong = {
        broker.amqp(password=SECRET): "does not accept the user name and password",
        broker.amqp(user="stranger", password=SECRET): "does not accept the user name and password",
        broker.amqp(vhost="nope"): "NOT_ALLOWED - vhost nope not found",
        broker.amqp("reader", SECRET, "other"): "NOT_ALLOWED - access to vhost 'other' refused for user 'reader'",
        broker.amqp("nobody", SECRET): "NOT_ALLOWED - access to vhost '/' refused for user 'nobody'",
        broker.amqp(password=SECRET, scheme="amqps"): "does not speak TLS",
        broker.amqp(password=SECRET, scheme="amqps") + "?cafile=/nowhere": "a certificate file",
        broker.amqp(password=SECRET) + "?auth=external": "the authentication mechanism",
        broker.amqp(password=SECRET, scheme="http"): "must begin with amqp:// or amqps://",
        f"amqp://guest:{SECRET}/x@{broker.host}/": "/ as %2F",
        f"amqp://guest:{SECRET}#x@{broker.host}/": "# as %23",
        f"amqp://guest:{SECRET}@x@{broker.host}/": "@ as %40",
        f"amqp://guest:{SECRET}@127.0.0.1:amqp/": "a port from 1 to 65535",
    }
    for url, sentence in wrong.items():
        assert sentence in await refusal(command, settings, AMQP_URL, url)


async def test_rabbitmq_gives_no_permission(
    settings: WorkerSettings, broker_server: LocalRabbitMQ, broker: Address, users: None
) -> None:
    reader = broker.amqp("reader", SECRET)
    assert "ACCESS_REFUSED" in await refusal(ASKS, settings, AMQP_URL, reader)
    async with Wire.connect(broker_server.url) as wire:
        await wire.publish("run-created", run_created(), exchange="export-runs.dead-letter")
        replayed = await forked_export_runs("dead-letters", "replay", settings=settings, **{AMQP_URL: reader})
        assert (replayed.code, replayed.out) == (2, "replayed 0 dead letters\n")
        assert replayed.err.startswith(f"{AMQP_URL}: RabbitMQ refuses it: ACCESS_REFUSED")
        assert await wire.count_in("export-runs.run-created.dead") == 1
        await wire.take_from("export-runs.run-created.dead")


async def test_a_limit_of_connections_is_no_misconfiguration(
    settings: WorkerSettings, broker_server: LocalRabbitMQ, broker: Address
) -> None:
    await rabbitmqctl(broker_server, "set_vhost_limits", '{"max-connections": 0}')
    await refusal(ASKS, settings, AMQP_URL, broker.amqp(), 3)
    await rabbitmqctl(broker_server, "clear_vhost_limits")


@pytest.fixture
async def database(settings: WorkerSettings) -> AsyncIterator[Address]:
    """PostgreSQL, with a role of these tests that may enter no database and read no table."""
    url = settings.database_url.get_secret_value()
    connection = await asyncpg.connect(url)
    name = urlsplit(url).path[1:]
    await connection.execute(f"CREATE ROLE stranger LOGIN PASSWORD '{SECRET}'")
    yield Address(urlsplit(url).netloc.rpartition("@")[2])
    await connection.execute(f"GRANT CONNECT ON DATABASE {name} TO PUBLIC; DROP ROLE stranger")
    await connection.close()


async def test_postgresql_refuses(settings: WorkerSettings, database: Address) -> None:
    url = settings.database_url.get_secret_value()
    name = urlsplit(url).path[1:]
    wrong = {
        database.postgresql("postgres", name): 'password authentication failed for user "postgres"',
        database.postgresql("nobody", name): "nobody",
        with_database(url, "nowhere"): 'database "nowhere" does not exist',
        f"{url}?sslmode=require": "does not offer TLS",
        f"{url}?sslmode=bogus": "a parameter of the URL is wrong",
        f"{url}?no_such_parameter=x": "no_such_parameter",
        f"{url}?x": "parameters",
        database.postgresql("stranger", name).replace("postgresql:", "mysql:"): "must begin with postgresql://",
        f"postgresql://app:{SECRET}/X9@{database.host}/{name}": "/ as %2F",
        f"postgresql://app:{SECRET}#X9@{database.host}/{name}": "# as %23",
        f"postgresql://app:{SECRET}@X9@{database.host}/{name}": "@ as %40",
        f"postgresql://app:{SECRET}@127.0.0.1:0/{name}": "a port from 1 to 65535",
    }
    for command in (MIGRATES, PURGES):
        for wrong_url, sentence in wrong.items():
            assert sentence in await refusal(command, settings, DATABASE_URL, wrong_url)


async def test_postgresql_gives_no_permission(settings: WorkerSettings, database: Address) -> None:
    name = urlsplit(settings.database_url.get_secret_value()).path[1:]
    stranger = database.postgresql("stranger", name)
    assert "permission denied for table export_runs" in await refusal(PURGES, settings, DATABASE_URL, stranger)
    assert "permission denied" in await refusal(MIGRATES, settings, DATABASE_URL, stranger)
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    await connection.execute(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
    await connection.close()
    for command in (PURGES, MIGRATES):
        assert "permission denied for database" in await refusal(command, settings, DATABASE_URL, stranger)


async def test_a_service_that_is_away(settings: WorkerSettings) -> None:
    for host in ("127.0.0.1:1", "no-such-host.invalid"):
        address = Address(host)
        for command in (ASKS, LISTS):
            await refusal(command, settings, AMQP_URL, address.amqp(password=SECRET), 3)
        for command in (MIGRATES, PURGES):
            await refusal(command, settings, DATABASE_URL, address.postgresql("app", "x"), 3)


async def start_refusal(
    settings: WorkerSettings, variable: str, url: str, *options: str, within_s: float = START_REFUSAL_S
) -> str:
    """What a worker says of a wrong URL when it starts: the last line, once, after lines of its log."""
    async with asyncio.timeout(within_s):
        refused = await forked_export_runs("worker", *options, settings=settings, **{variable: url})
    assert (refused.code, refused.out) == (2, ""), refused
    assert SECRET not in refused.err
    [line] = [line for line in refused.err.splitlines() if not line.startswith("{")]
    assert line.startswith(f"{variable}: "), line
    return line


@pytest.mark.parametrize("options", [(), ("--only", "requests"), ("--only", "events")], ids=" ".join)
async def test_a_worker_does_not_start_where_it_is_refused(
    settings: WorkerSettings, broker: Address, users: None, database: Address, options: tuple[str, ...]
) -> None:
    url = settings.database_url.get_secret_value()
    name = urlsplit(url).path[1:]
    wrong = {
        broker.amqp(password=SECRET): "does not accept the user name and password",
        broker.amqp(vhost="nope"): "NOT_ALLOWED - vhost nope not found",
        broker.amqp("reader", SECRET): "ACCESS_REFUSED",
        broker.amqp(password=SECRET, scheme="amqps"): "does not speak TLS",
        f"amqp://guest:{SECRET}/x@{broker.host}/": "/ as %2F",
    }
    for amqp_url, sentence in wrong.items():
        assert sentence in await start_refusal(settings, AMQP_URL, amqp_url, *options)
    wrong = {
        database.postgresql("postgres", name): 'password authentication failed for user "postgres"',
        with_database(url, "nowhere"): 'database "nowhere" does not exist',
        database.postgresql("stranger", name): "permission denied for table export_runs_migrations",
        f"postgresql://app:{SECRET}/X9@{database.host}/{name}": "/ as %2F",
    }
    for database_url, sentence in wrong.items():
        assert sentence in await start_refusal(settings, DATABASE_URL, database_url, *options)


async def test_a_worker_waits_for_a_service_that_is_away(settings: WorkerSettings) -> None:
    away = Address("127.0.0.1:1")
    for variable, url, event in (
        (AMQP_URL, away.amqp(password=SECRET), "session_lost"),
        (DATABASE_URL, away.postgresql("app", "x"), "database_unavailable"),
    ):
        async with worker_process(settings, "--only", "requests", **{variable: url}) as worker:
            await worker.until_logged(event)
            worker.send(signal.SIGTERM)
            assert await worker.exit_code() == 0


async def test_a_permission_that_is_withdrawn_ends_no_worker_that_has_served(
    settings: WorkerSettings, broker_server: LocalRabbitMQ, broker: Address
) -> None:
    """It is retried: whoever withdrew it gives it back."""
    await rabbitmqctl(broker_server, "add_user", "writer", SECRET)
    await rabbitmqctl(broker_server, "set_permissions", "writer", ".*", ".*", ".*")
    async with worker_process(settings, "--only", "requests", **{AMQP_URL: broker.amqp("writer", SECRET)}) as worker:
        await worker.until_logged("session_started")
        await asyncio.sleep(DEFAULT_LIMITS.session_steady_s + 1)
        await rabbitmqctl(broker_server, "clear_permissions", "writer")
        await rabbitmqctl(broker_server, "close_all_connections", "test")
        await worker.until_logged("session_lost")
        await rabbitmqctl(broker_server, "set_permissions", "writer", ".*", ".*", ".*")
        await worker.until_logged("session_started")
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 0
