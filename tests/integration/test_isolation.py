"""Two writers see each other's rows, whatever the defaults of the database, the role or the session are."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from handlers.locking import lock_runs_and_claims
from handlers.reservations import reserve_claims
from schema.events import RunFinished, RunStatus
from schema.requests import ReserveClaims
from schema.results import ReservedClaims
from sql.connection import Connection, transaction
from tests.integration.conftest import until_blocked
from tests.storing import store_finished

CLAIM = "taxi-17"


def finished() -> RunFinished:
    """The end of a new run that exported the claim."""
    return RunFinished(
        event_id=uuid4(),
        schema_version=1,
        occurred_at=datetime.now(UTC),
        run_id=uuid4(),
        org_id="acme",
        status=RunStatus.COMPLETED,
        claim_ids=[CLAIM],
    ).with_payload("{}")


@pytest.fixture(params=["repeatable read", "serializable"])
async def two(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[list[Connection]]:
    """Two connections that change no setting, so that they have the defaults of this database."""
    admin = await asyncpg.connect(database_url)
    name = database_url.rpartition("/")[2]
    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{request.param}'")
    await admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await admin.close()
    connections: list[Connection] = [await asyncpg.connect(database_url) for _ in range(2)]
    yield connections
    for connection in connections:
        await connection.close()


async def at_one_time(
    holder: Connection, connections: list[Connection], work: list[Awaitable[Any]]
) -> list[ReservedClaims]:
    """Do all of this work at the same time: both wait for the claim's lock, which `holder` then releases."""
    async with asyncio.TaskGroup() as group, transaction(holder):
        await lock_runs_and_claims(holder, [UUID(int=0)], [("acme", [CLAIM])])
        tasks = [group.create_task(_result(each)) for each in work]
        for connection in connections:
            await until_blocked(holder, connection)
    return [task.result() for task in tasks]


async def _result(work: Awaitable[Any]) -> Any:
    return await work


async def test_one_of_two_run_ends_sees_the_other(connection: Connection, two: list[Connection]) -> None:
    """Otherwise a double export would not be noticed."""
    await at_one_time(connection, two, [store_finished(each, [finished()]) for each in two])
    assert await connection.fetchval("SELECT count(*) FROM double_exported_claims WHERE claim_id = $1", CLAIM) == 1


async def test_only_one_of_two_reservations_is_granted(connection: Connection, two: list[Connection]) -> None:
    requests = [ReserveClaims(org_id="acme", run_id=uuid4(), claim_ids=[CLAIM]) for _ in two]
    pairs = zip(two, requests, strict=True)
    replies = await at_one_time(connection, two, [reserve_claims(each, request) for each, request in pairs])
    assert sorted((len(reply.granted), len(reply.conflicts)) for reply in replies) == [(0, 1), (1, 0)]


async def test_a_commit_waits_for_the_disk(two: list[Connection]) -> None:
    [one, _] = two
    assert await one.fetchval("SHOW synchronous_commit") == "off"
    async with transaction(one):
        assert await one.fetchval("SHOW synchronous_commit") == "on"
        assert await one.fetchval("SHOW transaction_isolation") == "read committed"
    assert await one.fetchval("SHOW synchronous_commit") == "off"
