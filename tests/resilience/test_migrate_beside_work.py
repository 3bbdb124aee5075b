"""`export-runs migrate` beside sessions that hold its tables, and a full worker: it waits, and nobody waits for it."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest

import sql
from local.postgresql_programs import client_program
from sql import Migration
from sql.connection import Connection
from tests.commands import environment
from tests.conftest import connected, database_settings, running_worker
from tests.resilience.observing import Log, until, until_serving
from tests.wire import POLL_S, Json, Wire, run_created
from worker.database.migrations import MigrationHeldUp, MigrationLimits, migrate
from worker.database.pool import Pool
from worker.settings import WorkerSettings

NOW = sql.migrations()
COLUMN = Migration(len(NOW) + 1, "column", "ALTER TABLE export_runs ADD COLUMN colour text")
INDEX = Migration(
    len(NOW) + 1,
    "index",
    "-- no transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS runs_of_user ON export_runs (triggered_by)",
)
LIMITS = MigrationLimits(lock_timeout_s=0.3, retry_delay_first_s=0.3, retry_delay_max_s=0.3)
READINGS = 10
"""So many are made while the migration waits: none waits for as long as it does."""

DUMPED_BYTES = 4_000_000
"""More than the pipe of a pg_dump takes whose output nobody reads."""


@pytest.fixture
async def reader(database_url: str) -> AsyncIterator[Connection]:
    """A session that has read the runs and has not ended its transaction."""
    reader = await asyncpg.connect(database_url, server_settings={"application_name": "a report"})
    await reader.execute("BEGIN; SELECT FROM export_runs")
    yield reader
    await reader.close()


@asynccontextmanager
async def asking(database_url: str) -> AsyncIterator[list[float]]:
    """Read the runs all the time, and note when each reading was done."""
    read_at_s: list[float] = []
    done = asyncio.Event()

    async def ask() -> None:
        connection = await connected(database_url)
        while not done.is_set():
            await connection.fetch("SELECT FROM export_runs")
            read_at_s.append(time.monotonic())
            await asyncio.sleep(POLL_S)
        await connection.close()

    task = asyncio.create_task(ask())
    yield read_at_s
    done.set()
    await task


async def until_read_on(read_at_s: list[float]) -> None:
    """Wait until so many more readings are done."""
    before = len(read_at_s)
    await until(lambda: len(read_at_s) >= before + READINGS)


@pytest.mark.parametrize("migration", [COLUMN, INDEX], ids=lambda migration: migration.name)
async def test_an_idle_reader_holds_up_the_migration_alone(
    database_url: str, reader: Connection, migration: Migration
) -> None:
    """Who comes after the migration is not queued behind it for longer than the lock time-out."""
    said: list[str] = []
    async with asking(database_url) as read_at_s:
        task = asyncio.create_task(migrate(database_settings(database_url), [*NOW, migration], said.append, LIMITS))
        if migration is COLUMN:  # the index needs no lock that the reader holds
            await until(lambda: len(said) > 1)
            await asyncio.sleep(4 * LIMITS.lock_timeout_s)
            await until_read_on(read_at_s)
            assert not task.done()
            waits = (
                rf"{re.escape(str(migration))} waits for process {reader.get_server_pid()} "
                r"\(a report, idle in transaction, its transaction is \d s old\)"
            )
            begins, is_held_up = said
            assert begins == f"applying {migration}"
            assert re.fullmatch(waits, is_held_up)
            await reader.execute("COMMIT")
        assert await task == [migration]
        await until_read_on(read_at_s)


async def test_a_migration_that_gets_no_lock_ends(database_url: str, reader: Connection) -> None:
    impatient = MigrationLimits(lock_timeout_s=0.1, retry_delay_first_s=0.1, wait_max_s=0.3)
    settings = database_settings(database_url)
    with pytest.raises(MigrationHeldUp, match=r"\(column\) got no lock for 0.3 s; repeat the command later"):
        await migrate(settings, [*NOW, COLUMN], limits=impatient)
    await reader.execute("COMMIT")
    assert await migrate(settings, [*NOW, COLUMN], limits=impatient) == [COLUMN]


async def test_a_command_whose_turn_does_not_come_ends(database_url: str) -> None:
    impatient = MigrationLimits(wait_max_s=0.1)
    holder = await asyncpg.connect(database_url)
    assert await holder.fetchval(sql.query("try_lock_migrations"))
    with pytest.raises(MigrationHeldUp, match="another `export-runs migrate`, or a `rebuild`, does not end"):
        await migrate(database_settings(database_url), NOW, limits=impatient)
    await holder.close()


@asynccontextmanager
async def dumping(settings: WorkerSettings, connection: Connection) -> AsyncIterator[asyncio.subprocess.Process]:
    """A pg_dump that stands still half way, because nobody reads what it writes."""
    await connection.execute(
        "INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload) "
        "SELECT gen_random_uuid(), 'run-created', 'event', gen_random_uuid(), 'org-dumped', now(), "
        """('"' || repeat('x', 1000) || '"')::json FROM generate_series(1, $1)""",
        DUMPED_BYTES // 1000,
    )
    dump = await asyncio.create_subprocess_exec(
        client_program("pg_dump"),
        settings.database_url.get_secret_value(),
        env=environment(settings),
        stdout=asyncio.subprocess.PIPE,
        limit=1,
    )
    try:
        await until(
            lambda: connection.fetchval(
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pg_dump' AND query LIKE 'COPY%')"
            )
        )
        yield dump
    finally:
        if dump.returncode is None:
            dump.kill()
        await dump.communicate()


class Work:
    """An exporter that publishes and a guard that asks, all the time until `end`. The guard hears no error."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._done = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self.runs: list[Json] = []
        self.answered_at_s: list[float] = []

    async def _run(self) -> None:
        while not self._done.is_set():
            self.runs.append(run_created(orgId="org-work"))
            await self._wire.publish("run-created", self.runs[-1])
            await self._wire.result("check-claims", orgId="org-work", claimIds=["c-1"])
            self.answered_at_s.append(time.monotonic())
            await asyncio.sleep(POLL_S)

    async def end(self) -> None:
        """End it, and wait until each of its runs is stored."""
        self._done.set()
        await self._task
        for run in self.runs:
            await self._wire.until_run(run["runId"])


async def test_a_long_dump_beside_migrations_and_a_full_worker(
    settings: WorkerSettings, pool: Pool, wire: Wire, connection: Connection
) -> None:
    """The dump holds up the migrations; events and checks go on, before, during and after them."""
    url = settings.database_url.get_secret_value()
    third = Migration(INDEX.version + 1, INDEX.name, INDEX.text)
    said: list[str] = []
    async with running_worker(settings, pool), dumping(settings, connection) as dump:
        work = Work(wire)
        task = asyncio.create_task(migrate(database_settings(url), [*NOW, COLUMN, third], said.append, LIMITS))
        await until(lambda: any("(pg_dump, " in text for text in said))
        await asyncio.sleep(6 * LIMITS.lock_timeout_s)
        await until_read_on(work.answered_at_s)
        for run in work.runs[:READINGS]:
            await wire.until_run(run["runId"])
        assert not task.done()
        out, _ = await dump.communicate()
        assert (dump.returncode, len(out) > DUMPED_BYTES) == (0, True)
        assert await task == [COLUMN, third]
        await until_read_on(work.answered_at_s)
        await work.end()


async def test_workers_are_replaced_one_by_one_over_the_migration_of_the_next_version(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log
) -> None:
    """A worker goes on while its schema gets the next one's migration. Another starts on that, and serves beside it."""
    url = settings.database_url.get_secret_value()
    async with AsyncExitStack() as first, AsyncExitStack() as second:
        await first.enter_async_context(running_worker(settings, pool))
        await until_serving(wire)
        work = Work(wire)
        await until_read_on(work.answered_at_s)
        assert await migrate(database_settings(url), [*NOW, COLUMN], limits=LIMITS) == [COLUMN]
        await until_read_on(work.answered_at_s)
        await second.enter_async_context(running_worker(settings, pool))
        await log.until("session_started", times=2)
        await until_read_on(work.answered_at_s)
        await first.aclose()
        await until_read_on(work.answered_at_s)
        await work.end()
    assert [line["has_database"] for line in log.of("session_started")] == [True, True]
    assert log.of("session_lost") == []
