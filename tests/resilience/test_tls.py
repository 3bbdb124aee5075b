"""TLS to RabbitMQ and PostgreSQL, with the URLs of docs/OPERATIONS.md and real certificates, good ones and bad ones."""

import asyncio
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import asyncpg
import pytest

import sql
from local.postgresql import NOT_DURABLE, LocalPostgreSQL
from local.rabbitmq import LocalRabbitMQ
from tests.certificates import Authority
from tests.conftest import database_settings, make_roles, running_worker, worker_settings
from tests.forked import forked_export_runs
from tests.resilience.connecting import Connect, addresses_of_a_name, command_connection, worker_connection
from tests.resilience.observing import rabbitmqctl, until_serving
from tests.wire import Wire
from worker.app import check_services
from worker.database.migrations import migrate
from worker.database.pool import acquire, open_pool
from worker.settings import Misconfiguration, WorkerSettings

# Where a handshake is refused, asyncpg and aiormq now and then leave the socket to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:Exception ignored in. <{what}:pytest.PytestUnraisableExceptionWarning")
    for what in ("socket.socket", "function _SelectorTransport")
]

ROLE: Final = "export_runs_worker"
WITH_TLS: Final = "15"
"""The version of PostgreSQL whose programs have TLS: those of the wheel have not."""

TRIES_MAX: Final = 20

ACCESS: Final = f"""\
hostssl all {ROLE} all cert
hostnossl all {ROLE} all reject
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that everybody trusts, with what it has issued."""
    authority = Authority.make(tmp_path_factory.mktemp("tls") / "trusted")
    authority.issue("good", "server", host="localhost")
    authority.issue("old", "server", host="localhost", days=-1)
    authority.issue("client", ROLE)
    authority.issue("old-client", ROLE, days=-1)
    authority.issue("other-client", "somebody")
    return authority


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    stranger = Authority.make(tmp_path_factory.mktemp("tls") / "unknown")
    stranger.issue("client", ROLE)
    return stranger


class Servers:
    """RabbitMQ and PostgreSQL, each with a certificate that can be replaced."""

    def __init__(self, authority: Authority, broker: LocalRabbitMQ, database: LocalPostgreSQL) -> None:
        self.authority = authority
        self.broker = broker
        self.database = database

    async def present(self, certificate: str) -> None:
        """Show new connections this certificate from now on."""
        data = self.database.directory / "data"
        for ending in ("pem", "key"):
            issued = self.authority.folder / f"{certificate}.{ending}"
            shutil.copy(issued, self.authority.folder / f"server.{ending}")
            target = data / ("server.crt" if ending == "pem" else "server.key")
            shutil.copy(issued, target)
            target.chmod(0o600)
            shutil.chown(target, data.owner(), data.group())
        await rabbitmqctl(self.broker, "eval", "ssl:clear_pem_cache().")
        admin = await asyncpg.connect(self.database.url)
        await admin.execute("ALTER SYSTEM SET ssl_ca_file = 'ca.crt'")
        await admin.execute("ALTER SYSTEM SET ssl = on")
        await admin.execute("SELECT pg_reload_conf()")
        await admin.close()

    def amqp(
        self, authority: Authority, client: str = "client", host: str = "localhost", ca: Path | None = None
    ) -> str:
        """As docs/OPERATIONS.md has it."""
        files = f"certfile={authority.folder}/{client}.pem&keyfile={authority.folder}/{client}.key" if client else ""
        return f"amqps://guest:guest@{host}:{self.broker.tls_port}/?cafile={ca or self.authority.ca}&{files}".rstrip(
            "&"
        )

    def postgresql(
        self, authority: Authority, client: str = "client", host: str = "localhost", ca: Path | None = None
    ) -> str:
        """As docs/OPERATIONS.md has it."""
        files = f"&sslcert={authority.folder}/{client}.pem&sslkey={authority.folder}/{client}.key" if client else ""
        mode = f"sslmode=verify-full&sslrootcert={ca or self.authority.ca}"
        return f"postgresql://{ROLE}@{host}:{self.database.port}/postgres?{mode}{files}"

    def settings(self, amqp_url: str = "", database_url: str = "") -> WorkerSettings:
        return worker_settings(amqp_url or self.amqp(self.authority), database_url or self.postgresql(self.authority))


@pytest.fixture(scope="module")
def servers(authority: Authority) -> Iterator[Servers]:
    """Both, running, with a good certificate; the worker's role enters by its client certificate only."""
    with LocalPostgreSQL(NOT_DURABLE, WITH_TLS) as database:
        data = database.directory / "data"
        shutil.copy(authority.ca, data / "ca.crt")
        shutil.chown(data / "ca.crt", data.owner(), data.group())
        access = data / "pg_hba.conf"
        access.write_text(ACCESS + access.read_text())
        for ending in ("pem", "key"):
            shutil.copy(authority.folder / f"good.{ending}", authority.folder / f"server.{ending}")
        with LocalRabbitMQ(tls=authority.folder) as broker:
            servers = Servers(authority, broker, database)

            async def prepare() -> None:
                await make_roles(database.url)
                await migrate(database_settings(database.url), sql.migrations())
                await servers.present("good")

            asyncio.run(prepare())
            yield servers


async def test_a_worker_uses_tls_to_both_and_enters_by_its_certificate(servers: Servers) -> None:
    settings = servers.settings()
    await check_services(settings)
    async with (
        open_pool(settings, 5) as pool,
        running_worker(settings, pool),
        Wire.connect(settings.amqp_url.get_secret_value()) as wire,
    ):
        await until_serving(wire)
        admin = await asyncpg.connect(servers.database.url)
        sessions = await admin.fetch(
            "SELECT ssl, client_dn FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = $1", ROLE
        )
        await admin.close()
        assert {(row["ssl"], row["client_dn"]) for row in sessions} == {(True, f"/CN={ROLE}")}
        connections = await rabbitmqctl(servers.broker, "list_connections", "ssl", "peer_cert_subject")
        assert set(connections.splitlines()[1:]) == {f"true\tCN={ROLE}"}


async def refusal(settings: WorkerSettings) -> str:
    """The sentence with which a worker does not start.

    A server that refuses a client's certificate resets the connection, and its reason may be lost by that. Then the
    worker tries again, as where the server is away.
    """
    for _ in range(TRIES_MAX):
        try:
            await check_services(settings)
        except Misconfiguration as refused:
            sentence = str(refused)
            break
    else:
        pytest.fail("nothing is wrong")
    assert "\n" not in sentence
    assert "guest:guest" not in sentence
    return sentence


async def test_a_wrong_certificate_is_named_in_one_sentence(
    servers: Servers, authority: Authority, stranger: Authority
) -> None:
    shutil.copy(authority.folder / "client.pem", authority.folder / "unfit.pem")
    shutil.copy(authority.folder / "other-client.key", authority.folder / "unfit.key")
    broker = "EXPORT_RUNS_AMQP_URL: "
    for url, sentence in (
        (servers.amqp(authority, host="127.0.0.1"), "the certificate of RabbitMQ is not accepted: IP address mismatch"),
        (servers.amqp(authority, ca=stranger.ca), "the certificate of RabbitMQ is not accepted: "),
        (servers.amqp(authority, "unfit"), "a certificate file that the URL names holds no certificate"),
        (servers.amqp(authority, ""), "RabbitMQ does not accept the client's certificate: "),
        (servers.amqp(authority, "old-client"), "RabbitMQ does not accept the client's certificate: "),
        (servers.amqp(stranger), "RabbitMQ does not accept the client's certificate: "),
    ):
        assert (await refusal(servers.settings(amqp_url=url))).startswith(broker + sentence), url
    database = "EXPORT_RUNS_DATABASE_URL: "
    for url, sentence in (
        (servers.postgresql(authority, host="127.0.0.1"), "the certificate of PostgreSQL is not accepted: IP address"),
        (servers.postgresql(authority, ca=stranger.ca), "the certificate of PostgreSQL is not accepted: "),
        (
            servers.postgresql(authority, "unfit"),
            "a certificate file that the URL names holds no certificate, or a key",
        ),
        (servers.postgresql(authority, ""), "PostgreSQL refuses it: "),
        (servers.postgresql(authority, "other-client"), "PostgreSQL refuses it: certificate authentication failed"),
        (servers.postgresql(authority, "old-client"), "PostgreSQL does not accept the client's certificate: "),
        (servers.postgresql(stranger), "PostgreSQL does not accept the client's certificate: "),
        (servers.postgresql(authority).replace("verify-full", "disable"), "PostgreSQL refuses it: pg_hba.conf rejects"),
    ):
        assert (await refusal(servers.settings(database_url=url))).startswith(database + sentence), url
    started = await forked_export_runs(
        "worker", "--only", "requests", settings=servers.settings(amqp_url=servers.amqp(stranger))
    )
    assert started.code == 2, started
    sentences = [line for line in started.err.splitlines() if not line.startswith("{")]
    assert sentences == [f"{broker}RabbitMQ does not accept the client's certificate: unknown ca"]


@pytest.mark.parametrize("connect", [worker_connection, command_connection])
async def test_the_certificate_is_for_the_name_and_not_for_its_addresses(
    servers: Servers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first address refuses; the second one is the broker."""
    monkeypatch.setattr(socket, "getaddrinfo", addresses_of_a_name("localhost", "127.0.0.2", "127.0.0.1"))
    async with connect(servers.settings()):
        pass
    monkeypatch.setattr(socket, "getaddrinfo", addresses_of_a_name("another.test", "127.0.0.2", "127.0.0.1"))
    with pytest.raises(Exception, match="Hostname mismatch"):
        async with connect(servers.settings(amqp_url=servers.amqp(servers.authority, host="another.test"))):
            pass


async def test_certificates_are_replaced_and_nothing_is_restarted(
    servers: Servers, authority: Authority, stranger: Authority
) -> None:
    """Each new connection reads the files anew."""
    await servers.present("old")
    assert "certificate has expired" in await refusal(servers.settings(database_url=servers.database.url))
    assert "certificate has expired" in await refusal(servers.settings(amqp_url=servers.broker.url))
    await servers.present("good")
    await check_services(servers.settings())

    for name in ("pem", "key"):
        shutil.copy(stranger.folder / f"client.{name}", authority.folder / f"rotated.{name}")
    settings = servers.settings(servers.amqp(authority, "rotated"), servers.postgresql(authority, "rotated"))
    async with open_pool(settings, 1) as pool:
        with pytest.raises((ssl.SSLError, OSError, asyncpg.PostgresConnectionError)):
            async with acquire(pool):
                pass
        assert await refusal(settings)
        for name in ("pem", "key"):
            shutil.copy(authority.folder / f"client.{name}", authority.folder / f"rotated.{name}")
        async with acquire(pool) as connection:
            assert await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        await check_services(settings)
