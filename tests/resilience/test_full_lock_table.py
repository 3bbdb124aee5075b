"""PostgreSQL's lock table is full, as when more workers lock all they may than it has room for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from schema import names
from tests.conftest import running_worker
from tests.resilience.observing import RECOVERY_S, Log, publish_all, until, until_serving
from tests.wire import Wire, run_finished
from worker.database.pool import Pool
from worker.settings import WorkerSettings

ORGANISATIONS = 100
CLAIMS_OF_EVENT = 10
LOCKS_LEFT = 300
"""Less than the events of these organisations lock together: one lock for each run, and one for each claim."""

LOCKS_STEP = 100


@asynccontextmanager
async def nearly_full_lock_table(database_url: str) -> AsyncIterator[None]:
    """Leave room for few locks."""
    session = await asyncpg.connect(database_url)
    locks = 0
    try:
        while True:
            last = locks + LOCKS_STEP - 1
            await session.execute("SELECT pg_advisory_lock(n, 1) FROM generate_series($1::int, $2) AS n", locks, last)
            locks += LOCKS_STEP
    except asyncpg.OutOfMemoryError:
        await session.execute(
            "SELECT pg_advisory_unlock(n, 1) FROM generate_series($1::integer, $2) AS n", locks - LOCKS_LEFT, locks - 1
        )
    try:
        yield
    finally:
        await session.close()


async def test_events_are_stored_in_smaller_parts(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, database_url: str
) -> None:
    events = [
        run_finished(orgId=f"org-{number}", claimIds=[f"c-{number}-{claim}" for claim in range(CLAIMS_OF_EVENT)])
        for number in range(ORGANISATIONS)
    ]
    ids = [event["runId"] for event in events]
    observer = await asyncpg.connect(database_url)

    async def stored() -> bool:
        found = await observer.fetchval("SELECT count(*) FROM export_runs WHERE run_id = ANY ($1::uuid[])", ids)
        return bool(found == len(ids))

    async with running_worker(settings, pool):
        await until_serving(wire)
        await stored()  # what it needs is prepared
        async with nearly_full_lock_table(database_url):
            with pytest.raises(asyncpg.OutOfMemoryError):
                await observer.execute("SELECT pg_advisory_xact_lock(n, 2) FROM generate_series(1, 1100) AS n")
            await publish_all(wire, "run-finished", events)
            await until(stored, RECOVERY_S)
        assert await wire.count_in(names.dead_letter_queue("run-finished")) == 0
    await observer.close()
    assert log.of("database_unavailable") == log.of("session_lost") == log.of("event_failed") == []
