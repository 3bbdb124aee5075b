"""Each log entry has a place in an order that agrees with what took effect. Older entries have places as they came."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

import sql
from handlers.double_exports import resolve_double_export
from handlers.events import merge_created, merge_finished
from handlers.locking import lock_runs, lock_runs_and_claims
from handlers.purge import purge_run, unpurge_run
from handlers.reservations import reserve_claims
from schema.fields import Override
from schema.requests import ReserveClaims, ResolveDoubleExport
from sql.connection import Connection, transaction
from tests.conftest import connected, database_settings
from tests.integration.conftest import until_blocked
from tests.integration.requests import create, delete, update
from tests.storing import created_event, finished_event, store_created, store_finished
from worker.database.migrations import migrate

[VERSION] = [each.version for each in sql.migrations() if each.name == "log_order"]

RUN, OTHER_RUN, NEW_RUN = (UUID(int=number) for number in range(1, 4))

Write = Callable[[Connection], Awaitable[object]]


async def start(connection: Connection) -> None:
    await store_created(connection, [created_event(runId=str(RUN))])


async def end(connection: Connection) -> None:
    await store_finished(connection, [finished_event(runId=str(RUN), claimIds=["c-1"])])


async def reserve_exported(connection: Connection) -> None:
    """A reservation that is granted by an override."""
    override = Override(reason="a test", approved_by="bob")
    request = ReserveClaims(org_id="org-1", run_id=NEW_RUN, claim_ids=["c-1"], override=override)
    assert (await reserve_claims(connection, request)).granted == ["c-1"]


async def resolve(connection: Connection) -> None:
    await resolve_double_export(
        connection, ResolveDoubleExport(org_id="org-1", claim_id="c-1", resolved_by="bob", note="a test")
    )


async def next_position(connection: Connection) -> int:
    """The place that an entry would have that came now."""
    position: int = await connection.fetchval("SELECT nextval('export_run_event_positions')")
    return position


async def last_entry(connection: Connection) -> tuple[int, str]:
    row = await connection.fetchrow("SELECT position, event_type FROM export_run_events ORDER BY position DESC LIMIT 1")
    assert row is not None
    return row["position"], row["event_type"]


@pytest.mark.parametrize(
    ("write", "event_type"),
    [
        (start, "run-created"),
        (end, "run-finished"),
        (lambda connection: create(connection, runId=RUN), "run-created"),
        (lambda connection: update(connection, RUN, "completed", "c-2"), "run-finished"),
        (lambda connection: delete(connection, RUN), "run-deleted"),
        (lambda connection: purge_run(connection, RUN, "carol"), "run-purged"),
    ],
    ids=["start", "end", "start by request", "end by request", "delete", "purge"],
)
async def test_who_waits_for_a_run_gets_the_later_place(
    connection: Connection, other: Connection, database_url: str, write: Write, event_type: str
) -> None:
    """It came to the database first, and takes effect last."""
    if event_type != "run-created":
        await start(connection)
    observer = await connected(database_url)
    async with transaction(connection):
        await lock_runs(connection, [RUN])
        waiting = asyncio.ensure_future(write(other))
        await until_blocked(observer, other)
        first = await next_position(connection)
    await waiting
    position, last_type = await last_entry(connection)
    assert (position > first, last_type) == (True, event_type)
    await observer.close()


async def test_a_purged_run_comes_back_in_its_place(
    connection: Connection, other: Connection, database_url: str
) -> None:
    await start(connection)
    await end(connection)
    await purge_run(connection, RUN, "carol")
    observer = await connected(database_url)
    async with transaction(connection):
        await lock_runs_and_claims(connection, [], [("org-1", ["c-1"])])
        waiting = asyncio.create_task(unpurge_run(other, RUN, "carol"))
        await until_blocked(observer, other)
        first = await next_position(connection)
    await waiting
    position, event_type = await last_entry(connection)
    assert (position > first, event_type) == (True, "run-unpurged")
    await observer.close()


@pytest.mark.parametrize(
    ("write", "event_type"),
    [(end, "run-finished"), (reserve_exported, "claims-taken"), (resolve, "double-export-resolved")],
    ids=["end", "reservation", "resolution"],
)
async def test_who_waits_for_a_claim_gets_the_later_place(
    connection: Connection, other: Connection, database_url: str, write: Write, event_type: str
) -> None:
    """Of a run that exports the claim and somebody who speaks of it, the one that takes effect first comes first."""
    await store_finished(connection, [finished_event(claimIds=["c-1", "c-1"])])
    observer = await connected(database_url)
    async with transaction(connection):
        await lock_runs_and_claims(connection, [OTHER_RUN], [("org-1", ["c-1"])])
        waiting = asyncio.ensure_future(write(other))
        await until_blocked(observer, other)
        await merge_finished(connection, [finished_event(runId=str(OTHER_RUN), claimIds=["c-1"])])
        first, first_type = await last_entry(connection)
    await waiting
    position, last_type = await last_entry(connection)
    assert (first_type, last_type, position > first) == ("run-finished", event_type, True)
    await observer.close()


async def test_writers_of_one_run_get_places_as_they_take_effect(connection: Connection, database_url: str) -> None:
    """A run's row has at each moment what the entries up to some place say."""
    writers = [await connected(database_url) for _ in range(4)]
    seen: list[tuple[datetime, int]] = []

    async def write(writer: Connection, number: int) -> None:
        for minute in range(10):
            early = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(minutes=minute, seconds=number)
            async with transaction(writer):
                await merge_created(writer, [created_event(runId=str(RUN), occurredAt=early.isoformat())])
                # Still under the run's lock: what took effect last is what has the last place.
                position, _ = await last_entry(writer)
                created_at = await writer.fetchval("SELECT created_at FROM export_runs WHERE run_id = $1", RUN)
                seen.append((created_at, position))

    await asyncio.gather(*(write(writer, number) for number, writer in enumerate(writers)))
    times = [created_at for created_at, _ in sorted(seen, key=lambda each: each[1])]
    assert len(times) == 40
    assert times == sorted(times, reverse=True)
    for writer in writers:
        await writer.close()


@pytest.fixture
async def before(empty_url: str) -> AsyncIterator[Connection]:
    """A database of the version before."""
    await migrate(database_settings(empty_url), sql.migrations()[: VERSION - 1])
    connection = await connected(empty_url)
    yield connection
    await connection.close()


async def append(connection: Connection, number: int, minute: int) -> None:
    """An entry as the version before wrote it."""
    await connection.execute(
        "INSERT INTO export_run_events"
        " (event_id, event_type, origin, run_id, org_id, occurred_at, received_at, payload)"
        " VALUES ($1, 'run-created', 'event', $1, 'org-1', now(), $2, '{}')",
        UUID(int=number),
        datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute),
    )


async def test_entries_that_are_there_get_places_as_they_came(before: Connection, empty_url: str) -> None:
    for number, minute in ((1, 3), (2, 1), (4, 2), (3, 2)):
        await append(before, number, minute)
    await migrate(database_settings(empty_url), sql.migrations())
    await append(before, 5, 0)  # a worker of the version before, which still runs
    rows = await before.fetch("SELECT event_id, position FROM export_run_events ORDER BY position")
    assert [(row["event_id"].int, row["position"]) for row in rows] == [(2, -3), (3, -2), (4, -1), (1, 0), (5, 1)]
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await before.execute("UPDATE export_run_events SET position = 7")
    with pytest.raises(asyncpg.CheckViolationError, match="has_position"):
        await before.execute(
            "INSERT INTO export_run_events (event_id, event_type, origin, occurred_at, payload, position)"
            " VALUES (gen_random_uuid(), 'dead-letter-discarded', 'command', now(), '{}', NULL)"
        )
