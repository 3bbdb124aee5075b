"""Workers that hold as many locks as their bounds allow fit into PostgreSQL's default lock table."""

from contextlib import AsyncExitStack
from uuid import uuid4

import asyncpg
import pytest

import sql
from handlers.locking import LOCKS_PER_ORGANISATION_MAX, lock_runs_and_claims, locks_max
from tests.conftest import connected
from worker.limits import DEFAULT_LIMITS
from worker.routes import ROUTES

WORKERS = 2
REQUESTS_WITH_LOCKS = {"reserve-claims", "update-export-run-status"}


async def lock(database_url: str, stack: AsyncExitStack, organisations: int, claims: int) -> None:
    """Take locks in a transaction that stays open until the stack is closed."""
    connection = await connected(database_url)
    stack.push_async_callback(connection.close)
    transaction = connection.transaction()
    await transaction.start()
    stack.push_async_callback(transaction.rollback)
    claim_ids = [f"c-{number}" for number in range(claims)]
    await lock_runs_and_claims(
        connection, [uuid4() for _ in range(organisations)], [(str(uuid4()), claim_ids) for _ in range(organisations)]
    )


def test_the_query_uses_as_many_locks_per_organisation_as_the_bound_says() -> None:
    assert f"& {LOCKS_PER_ORGANISATION_MAX - 1})" in sql.query("lock_runs_and_claims")


async def test_two_workers_take_all_the_locks_that_they_may(database_url: str) -> None:
    admin = await asyncpg.connect(database_url)
    if await admin.fetchval("SELECT current_setting('max_locks_per_transaction')") != "64":
        pytest.skip("this server has no default lock table")
    limits = DEFAULT_LIMITS
    claims_of_single_write = 10 * LOCKS_PER_ORGANISATION_MAX
    single_writes = limits.parked_writes_max + sum(
        route.queries_max for route in ROUTES.requests if route.operation.name in REQUESTS_WITH_LOCKS
    )
    organisations = limits.batch_locks_max // 6  # a batch of events with five claims each, of as many organisations
    assert locks_max(organisations, [5] * organisations) == limits.batch_locks_max
    async with AsyncExitStack() as stack:
        for _ in range(WORKERS):
            for _ in range(limits.writes_max):
                await lock(database_url, stack, organisations, 5)
            for _ in range(single_writes):
                await lock(database_url, stack, 1, claims_of_single_write)
        locks = await admin.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    await admin.close()
    batch_locks = limits.writes_max * limits.batch_locks_max
    assert locks > WORKERS * batch_locks * 0.9
    assert locks <= WORKERS * (batch_locks + single_writes * (LOCKS_PER_ORGANISATION_MAX + 1))
