"""PostgreSQL is away, slow or refuses: events wait, requests are refused in time, and afterwards all of it resumes.

It is a private server, reached over TCP, so that it can be killed, and the wire to it frozen.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from local.postgresql import LocalPostgreSQL
from schema import names
from sql.connection import Connection
from tests.chaos.proxy import CHUNK_BYTES, Proxy
from tests.commands import worker_process
from tests.conftest import DATABASE_CONNECTIONS_MAX, running_worker, worker_settings
from tests.resilience.conftest import Wires, opened, private_database, proxied, through
from tests.resilience.observing import (
    RECOVERY_S,
    Log,
    ask_in_time,
    assert_unavailable,
    publish_all,
    until,
    until_all_stored,
    until_serving,
)
from tests.wire import POLL_S, Wire, run_created
from worker.database.pool import Pool, open_pool
from worker.settings import WorkerSettings


@pytest.fixture
async def database_url(database_server: LocalPostgreSQL) -> AsyncIterator[str]:
    """A migrated database on the private server."""
    async with private_database(database_server) as url:
        yield url


@asynccontextmanager
async def publishing(wire: Wire) -> AsyncIterator[list[str]]:
    """Publish one event after the other; the ids of those that were confirmed."""
    confirmed: list[str] = []
    done = asyncio.Event()

    async def publish() -> None:
        while not done.is_set():
            created = run_created()
            await wire.publish("run-created", created)
            confirmed.append(created["eventId"])
            await asyncio.sleep(POLL_S)

    task = asyncio.create_task(publish())
    yield confirmed
    done.set()
    await task


async def test_away_when_the_worker_starts(
    settings: WorkerSettings, wire: Wire, database_server: LocalPostgreSQL
) -> None:
    await asyncio.to_thread(database_server.stop)
    try:
        async with worker_process(settings) as worker:
            await worker.until_logged("database_unavailable")
            await worker.until_logged("session_started")
            await assert_unavailable(wire)
            await asyncio.to_thread(database_server.start)
            await until_serving(wire)
            worker.send(signal.SIGTERM)
            assert await worker.exit_code() == 0
    finally:
        if not database_server.is_running:
            await asyncio.to_thread(database_server.start)


@pytest.mark.parametrize("how", ["killed", "restarted"])
async def test_away_for_a_while(
    settings: WorkerSettings,
    pool: Pool,
    wire: Wire,
    log: Log,
    wires: Wires,
    deliveries: Counter[bool],
    database_server: LocalPostgreSQL,
    how: str,
) -> None:
    """The events in hand are held, not given back: the delivery count does not climb."""
    url = settings.database_url.get_secret_value()
    async with running_worker(settings, pool, wires.parts):
        await until_serving(wire)
        async with publishing(wire) as confirmed:
            await asyncio.to_thread(database_server.kill if how == "killed" else database_server.stop)
            try:
                for _ in range(10):
                    await assert_unavailable(wire)
                await log.until("events_kept", times=3)
                assert len(log.of("database_unavailable")) == 1
            finally:
                await asyncio.to_thread(database_server.start)
            await until_serving(wire)
            await log.until("database_available")
        await until_all_stored(url, confirmed)
        for event_type in ("run-created", "run-finished"):
            assert await wire.count_in(names.dead_letter_queue(event_type)) == 0
    assert log.of("event_failed") == []
    assert log.of("session_lost") == []
    assert deliveries[False] > 0
    assert deliveries[True] == 0


async def test_every_connection_terminated(
    settings: WorkerSettings, pool: Pool, wire: Wire, connection: Connection, wires: Wires, deliveries: Counter[bool]
) -> None:
    async with running_worker(settings, pool, wires.parts):
        await until_serving(wire)
        async with publishing(wire) as confirmed:
            for _ in range(5):
                ended = await connection.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                    "WHERE application_name = 'export-runs' AND datname = current_database()"
                )
                assert ended > 0
                await until_serving(wire)
        await until_all_stored(settings.database_url.get_secret_value(), confirmed)
    assert deliveries[False] > 0
    assert deliveries[True] == 0


async def test_a_lock_held_for_long(
    settings: WorkerSettings, wire: Wire, connection: Connection, log: Log, wires: Wires, deliveries: Counter[bool]
) -> None:
    """Longer than the lock time-out: requests are refused, events wait."""
    impatient = settings.model_copy(update={"lock_timeout_s": 0.3})
    created = run_created()
    async with open_pool(impatient, DATABASE_CONNECTIONS_MAX) as pool, running_worker(impatient, pool, wires.parts):
        await until_serving(wire)
        async with connection.transaction():
            await connection.execute("LOCK TABLE export_runs, export_run_claims IN ACCESS EXCLUSIVE MODE")
            await wire.publish("run-created", created)
            await assert_unavailable(wire)
            await log.until("events_kept", times=3)
        await until_all_stored(settings.database_url.get_secret_value(), [created["eventId"]])
        assert (await ask_in_time(wire))["ok"] is True
    assert {line["sqlstate"] for line in log.of("events_kept")} == {"55P03"}
    assert deliveries[False] > 0
    assert deliveries[True] == 0


async def test_read_only(
    settings: WorkerSettings,
    wire: Wire,
    pool: Pool,
    connection: Connection,
    log: Log,
    wires: Wires,
    deliveries: Counter[bool],
) -> None:
    """A standby, or a precaution against a full disk: writes wait, reads are answered."""
    database = settings.database_url.get_secret_value().rpartition("/")[2]
    created = run_created()
    new_run = {"orgId": "org-1", "triggeredBy": "alice", "format": "csv"}

    async def set_read_only(value: str) -> None:
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = {value}")
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'export-runs' AND datname = current_database()"
        )

    async with running_worker(settings, pool, wires.parts):
        await until_serving(wire)
        await set_read_only("on")
        await wire.publish("run-created", created)
        await until(lambda: "25006" in {line.get("sqlstate") for line in log.of("events_kept")})
        for _ in range(10):
            reply = await ask_in_time(wire, "create-export-run", **new_run)
            assert reply["error"]["code"] == "UNAVAILABLE"
        await until(lambda: answered(wire))
        await set_read_only("off")
        await until_all_stored(settings.database_url.get_secret_value(), [created["eventId"]])
        await until(lambda: answered(wire, "create-export-run", **new_run), RECOVERY_S)
    assert deliveries[False] > 0
    assert deliveries[True] == 0


async def answered(wire: Wire, operation: str = "check-claims", **body: str) -> bool:
    """Whether a request gets its result."""
    return bool((await ask_in_time(wire, operation, **body))["ok"])


async def test_a_frozen_database(settings: WorkerSettings, wire: Wire) -> None:
    """It neither answers nor hangs up; the caller's deadline is kept all the same."""
    async with (
        opened(settings.database_url.get_secret_value(), Proxy) as proxy,
        proxied(settings, proxy, statement_timeout_s=1) as (changed, pool),
        running_worker(changed, pool),
    ):
        await until_serving(wire)
        async with publishing(wire) as confirmed:
            async with proxy.frozen():
                for _ in range(2):
                    await asyncio.gather(*(assert_unavailable(wire) for _ in range(8)))
            await until_serving(wire)
        await until_all_stored(settings.database_url.get_secret_value(), confirmed)


async def test_stopping_while_the_database_is_frozen(settings: WorkerSettings, wire: Wire) -> None:
    """The event in hand goes back to its queue, and the exit code says that not everything was finished."""
    async with opened(settings.database_url.get_secret_value(), Proxy) as proxy:
        url = through(settings.database_url.get_secret_value(), proxy)
        changed = worker_settings(settings.amqp_url.get_secret_value(), url)
        async with worker_process(changed, EXPORT_RUNS_SHUTDOWN_S="1") as worker:
            await worker.until_logged("session_started")
            await until_serving(wire)
            async with proxy.frozen():
                await wire.publish("run-created", run_created())
                await until(lambda: is_empty(wire, names.event_queue("run-created")))
                worker.send(signal.SIGTERM)
                await worker.until_logged("shutdown_timed_out")
                assert await asyncio.wait_for(worker.exit_code(), RECOVERY_S) == 1
    await wire.take_from(names.event_queue("run-created"))


async def test_broker_and_database_lost_at_once(
    settings: WorkerSettings,
    wire: Wire,
    connection: Connection,
    log: Log,
    wires: Wires,
    broker_proxy: Proxy,
) -> None:
    """Whoever works for the session that is over rolls back, on a connection that is gone. The error that asyncpg
    has for it takes the place of the cancellation; and who goes on as if not cancelled, the session waits for.
    """
    created = run_created()
    wires.proxies["consuming"] = broker_proxy
    async with (
        opened(settings.database_url.get_secret_value(), Proxy) as proxy,
        proxied(settings, proxy) as (changed, pool),
        running_worker(changed, pool, wires.parts),
    ):
        await until_serving(wire)
        async with connection.transaction():
            await connection.execute("LOCK TABLE export_run_events IN ACCESS EXCLUSIVE MODE")
            await wire.publish("run-created", created)
            await until(lambda: connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))
            async with proxy.frozen():
                before = proxy.connections
                async with broker_proxy.cut():
                    await until(lambda: proxy.connections > before)  # to cancel the query
                proxy.close()
        await proxy.open()
        await log.until("session_started", 2, within_s=RECOVERY_S)
        await until_all_stored(settings.database_url.get_secret_value(), [created["eventId"]])
        await until_serving(wire)
    assert len(log.of("session_lost")) == 1


async def is_empty(wire: Wire, queue: str) -> bool:
    """Whether nothing stands ready in a queue."""
    return await wire.count_in(queue) == 0


class LosesCommitReplies(Proxy):
    """Drops the connection instead of passing on that the server has committed, `lose` times."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self.lose = 0

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if b"COMMIT\0" in data and self.lose:
                self.lose -= 1
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()


async def test_a_lost_commit_reply(settings: WorkerSettings, wire: Wire, connection: Connection) -> None:
    """Nobody knows whether it was stored; it is stored again, which changes nothing."""
    async with (
        opened(settings.database_url.get_secret_value(), LosesCommitReplies) as proxy,
        proxied(settings, proxy) as (changed, pool),
        running_worker(changed, pool),
    ):
        await until_serving(wire)
        proxy.lose = 3
        runs = [run_created(orgId="org-many") for _ in range(50)]
        await publish_all(wire, "run-created", runs)
        await until_all_stored(settings.database_url.get_secret_value(), [run["eventId"] for run in runs])
        await until(lambda: proxy.lose == 0)
        await until_serving(wire)
        history = await wire.result("get-export-history", orgId="org-many", limit=200)
        assert len(history["runs"]) == len(runs)
        assert not any(run["hasConflict"] for run in history["runs"])
        assert await connection.fetchval("SELECT count(*) FROM export_runs") == len(runs) + 2
