"""PostgreSQL answers, and takes nothing: it is no primary any more, or somebody has stopped the writing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

import sql
from local.postgresql import LocalPostgreSQL
from schema import names
from tests.conftest import DATABASE_CONNECTIONS_MAX, database_settings, running_worker, worker_settings
from tests.resilience.conftest import Limit
from tests.resilience.observing import Log, ask_in_time, until_finished, until_serving
from tests.wire import Wire, run_created
from worker.database.migrations import migrate
from worker.database.pool import open_pool
from worker.limits import WorkerLimits
from worker.session import WorkerParts
from worker.settings import WorkerSettings

ALERTS = 10


@pytest.fixture
async def private(amqp_url: str, database_server: LocalPostgreSQL) -> WorkerSettings:
    """Settings with the private PostgreSQL, migrated."""
    await migrate(database_settings(database_server.url), sql.migrations())
    return worker_settings(amqp_url, database_server.url)


@asynccontextmanager
async def as_standby(server: LocalPostgreSQL) -> AsyncIterator[None]:
    """The server restarts as a standby, which answers with what was true when it became one."""
    signal = Path(server.directory / "data" / "standby.signal")
    await asyncio.to_thread(server.stop)
    signal.touch()
    await asyncio.to_thread(server.start)
    yield
    await asyncio.to_thread(server.stop)
    signal.unlink()
    await asyncio.to_thread(server.start)


async def test_a_standby_is_not_asked(
    private: WorkerSettings, wire: Wire, log: Log, database_server: LocalPostgreSQL
) -> None:
    """What it says of claims may have been true once. Nothing waits on it longer than it must, either."""
    asked = {"orgId": "org-1", "claimIds": ["c-1"]}
    async with open_pool(private, DATABASE_CONNECTIONS_MAX) as pool, running_worker(private, pool):
        await until_serving(wire)
        async with as_standby(database_server):
            created = run_created()
            await wire.publish("run-created", created)
            for _ in range(5):
                assert (await ask_in_time(wire, "check-claims", **asked))["error"]["code"] == "UNAVAILABLE"
        await until_serving(wire)
        await wire.until_run(created["runId"])
    assert log.of("session_lost") == []


async def test_alerts_are_not_published_where_nothing_can_be_written(
    private: WorkerSettings, wire: Wire, log: Log, limit: Limit
) -> None:
    """That they were could not be noted: they would be published over and over."""
    limits = WorkerLimits(alert_delay_first_s=0.5, alert_delay_max_s=1)
    parts = WorkerParts(topology=await limit(names.ALERTS_QUEUE, "x-max-length", 1), limits=limits)
    admin = await asyncpg.connect(private.database_url.get_secret_value())

    async def set_read_only(value: str) -> None:
        await admin.execute("SET default_transaction_read_only = off")
        await admin.execute(f"ALTER ROLE ALL SET default_transaction_read_only = {value}")
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'export-runs'"
        )

    async with open_pool(private, DATABASE_CONNECTIONS_MAX) as pool, running_worker(private, pool, parts):
        await until_serving(wire)
        claims = [f"written-{number}" for number in range(ALERTS)]
        for claim_id in claims:
            for _ in range(2):
                await until_finished(wire, claim_id)
        await log.until("alerts_not_confirmed")
        await set_read_only("on")
        before = await wire.count_in(names.ALERTS_QUEUE)
        for _ in range(before):
            await wire.take_from(names.ALERTS_QUEUE)
        await asyncio.sleep(limits.alerts_interval_s + limits.retry_delay_max_s + limits.alert_delay_max_s)
        assert await wire.count_in(names.ALERTS_QUEUE) == 0
        await set_read_only("off")
        for _ in range(ALERTS - before):
            await wire.take_from(names.ALERTS_QUEUE)
    await admin.close()
    assert log.of("session_lost") == []
