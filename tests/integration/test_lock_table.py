"""Workers that hold as many locks as their bounds allow fit into PostgreSQL's default lock table."""

from contextlib import AsyncExitStack
from uuid import uuid4

import asyncpg
import pytest

import sql
from handlers.locking import LOCKS_PER_ORGANISATION_MAX, lock_runs_and_claims, locks_max
from sql.replayed_tables import find_stored_tables
from tests.conftest import connected
from worker.limits import DEFAULT_LIMITS, WorkerLimits
from worker.routes import ROUTES

WORKERS = 2

OPERATIONS_ON_CLAIMS = {"reserve-claims", "update-export-run-status", "reverse-export", "resolve-double-export"}
OPERATIONS_ON_A_RUN = {"release-claims", "create-export-run", "delete-export-run"}

LOCKS_OF_OTHERS = 300
"""Room for what else is locked: tables and indexes, transactions, and the sessions of others."""

CLAIMS_OF_EVENT = 10 * LOCKS_PER_ORGANISATION_MAX


def queries_max(operations: set[str]) -> int:
    """How many of these requests a worker answers at one time."""
    assert operations <= {route.operation.name for route in ROUTES.requests}
    return sum(route.queries_max for route in ROUTES.requests if route.operation.name in operations)


def writes_of_one_worker(limits: WorkerLimits) -> list[tuple[int, int, int]]:
    """Its transactions at one time, each with its runs, its organisations and its claims of each organisation."""
    organisations = limits.batch_locks_max // (1 + LOCKS_PER_ORGANISATION_MAX)
    assert locks_max(organisations, [CLAIMS_OF_EVENT] * organisations) == limits.batch_locks_max
    return [
        *[(organisations, organisations, CLAIMS_OF_EVENT)] * limits.writes_max,  # run-finished
        *[(limits.batch_events_max, 0, 0)] * limits.writes_max,  # run-created
        *[(limits.parked_group_events_max, 1, CLAIMS_OF_EVENT)] * 2 * limits.parked_writes_max,  # run-finished
        *[(limits.parked_group_events_max, 0, 0)] * 2 * limits.parked_writes_max,  # run-created
        *[(1, 1, CLAIMS_OF_EVENT)] * queries_max(OPERATIONS_ON_CLAIMS),
        *[(1, 0, 0)] * queries_max(OPERATIONS_ON_A_RUN),
    ]


async def lock(database_url: str, stack: AsyncExitStack, runs: int, organisations: int, claims: int) -> None:
    """Take locks, the tables' too, in a transaction that stays open until the stack is closed."""
    connection = await connected(database_url)
    stack.push_async_callback(connection.close)
    transaction = connection.transaction()
    await transaction.start()
    stack.push_async_callback(transaction.rollback)
    await (await find_stored_tables(connection)).lock(connection, "ROW EXCLUSIVE")
    claim_ids = [f"c-{number}" for number in range(claims)]
    await lock_runs_and_claims(
        connection, [uuid4() for _ in range(runs)], [(str(uuid4()), claim_ids) for _ in range(organisations)]
    )


def test_the_queries_use_as_many_locks_per_organisation_as_the_bound_says() -> None:
    for name in ("lock_runs_and_claims", "insert_events"):
        assert f"& {LOCKS_PER_ORGANISATION_MAX - 1})" in sql.query(name)


async def test_two_workers_take_all_the_locks_that_they_may(database_url: str) -> None:
    admin = await asyncpg.connect(database_url)
    if await admin.fetchval("SELECT current_setting('max_locks_per_transaction')") != "64":
        pytest.skip("this server has no default lock table")
    writes = writes_of_one_worker(DEFAULT_LIMITS)
    # The claims of a single write may have fewer hashes than there are locks.
    most = sum(runs + organisations * min(claims, LOCKS_PER_ORGANISATION_MAX) for runs, organisations, claims in writes)
    async with AsyncExitStack() as stack:
        for _ in range(WORKERS):
            for write in writes:
                await lock(database_url, stack, *write)
        locks = await admin.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        assert WORKERS * most * 0.9 < locks <= WORKERS * most
        left = WORKERS * most - locks + LOCKS_OF_OTHERS
        await admin.execute("SELECT pg_advisory_lock(n, 1) FROM generate_series(1, $1::int) AS n", left)
    await admin.close()
