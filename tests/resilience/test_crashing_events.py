"""An event that costs the worker its connection to PostgreSQL each time ends alone, as a dead letter."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from local.postgresql import LocalPostgreSQL
from schema import names
from tests.conftest import DATABASE_CONNECTIONS_MAX, running_worker, worker_settings
from tests.resilience.conftest import private_database
from tests.resilience.observing import RECOVERY_S, Log, publish_all, until, until_serving
from tests.wire import POLL_S, Wire, run_created
from worker.database.pool import open_pool
from worker.limits import WorkerLimits
from worker.session import WorkerParts

DEAD = names.dead_letter_queue("run-created")
NEIGHBOURS = 40

TRIGGER = """
CREATE SEQUENCE crashes;
CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM nextval('crashes'); {effect}; RETURN NEW; END $$;
CREATE TRIGGER crash BEFORE INSERT ON export_runs FOR EACH ROW WHEN (NEW.triggered_by = 'the killer')
EXECUTE FUNCTION crash();
"""
EFFECTS = {
    "its connection is terminated": "PERFORM pg_terminate_backend(pg_backend_pid())",
    "PostgreSQL crashes, and recovers": (
        "EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'kill -9 ' || pg_backend_pid())"
    ),
}


@pytest.fixture
async def database_url(database_server: LocalPostgreSQL) -> AsyncIterator[str]:
    """A migrated database on the private server."""
    async with private_database(database_server) as url:
        yield url


@pytest.mark.parametrize("effect", EFFECTS.values(), ids=EFFECTS.keys())
async def test_an_event_that_ends_its_connection(
    amqp_url: str, database_url: str, wire: Wire, log: Log, effect: str
) -> None:
    """Its neighbours in the batch and those that come later are stored. It is tried a few times, and no more."""
    admin = await asyncpg.connect(database_url)
    await admin.execute(TRIGGER.format(effect=effect))
    await admin.close()
    settings = worker_settings(amqp_url, database_url)
    limits = WorkerLimits(park_delay_first_s=0.2)
    runs = [run_created(orgId=f"org-{number}") for number in range(NEIGHBOURS + 1)]
    bad = runs[NEIGHBOURS // 2]
    bad["triggeredBy"] = "the killer"
    async with (
        open_pool(settings, DATABASE_CONNECTIONS_MAX) as pool,
        running_worker(settings, pool, WorkerParts(limits=limits)),
    ):
        await until_serving(wire)
        await publish_all(wire, "run-created", runs)
        async with asyncio.timeout(RECOVERY_S):
            while not await wire.count_in(DEAD):
                await asyncio.sleep(POLL_S)
        dead = await wire.take_from(DEAD)
        assert bad["eventId"].encode() in dead.body
        assert (dead.headers["x-error-code"], dead.redelivered) == ("UNSTORABLE", False)
        assert "connection" in str(dead.headers["x-error-detail"])
        await until(lambda: stored(database_url, NEIGHBOURS), RECOVERY_S)
        await until_serving(wire)
        assert await wire.count_in(DEAD) == 0
    assert log.of("session_lost") == []
    if "terminate" in effect:  # a sequence forgets where it was when PostgreSQL crashes
        admin = await asyncpg.connect(database_url)
        assert await admin.fetchval("SELECT last_value FROM crashes") == limits.lost_connections_max
        await admin.close()


async def stored(database_url: str, runs: int) -> bool:
    """Whether so many of the runs are stored."""
    try:
        connection = await asyncpg.connect(database_url)
    except (OSError, asyncpg.PostgresError):
        return False
    found = await connection.fetchval("SELECT count(*) FROM export_runs WHERE org_id ~ '^org-[0-9]+$'")
    await connection.close()
    return bool(found == runs)
