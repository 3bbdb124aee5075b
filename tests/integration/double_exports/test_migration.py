"""What the version before this one recorded, pair by pair, is brought along; and what its workers still record."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest

import sql
from handlers.alerts import take_alerts
from sql.connection import Connection
from tests.conftest import connected, database_settings
from tests.integration.double_exports.conftest import double_export_of, double_exported_runs, resolve
from tests.integration.reservations.conftest import finish
from worker.database.migrations import migrate

[VERSION] = [each.version for each in sql.migrations() if each.name == "double_exports_by_claim"]

A, B, C, D = (UUID(int=number) for number in range(1, 5))

# What the version before this one did in the transaction of a run's end.
RECORD_PAIR = """
INSERT INTO double_exports (org_id, claim_id, first_run_id, second_run_id, found_by)
SELECT 'org-1', claim_id, first, second, CASE WHEN first = second THEN 'repeated-in-run' ELSE 'another-run' END
FROM unnest($1::text[], $2::uuid[], $3::uuid[]) AS pair (claim_id, first, second)
ON CONFLICT DO NOTHING
"""


@pytest.fixture
async def before(empty_url: str) -> AsyncIterator[Connection]:
    """A database of the version before, in which some runs have ended."""
    await migrate(database_settings(empty_url), sql.migrations()[: VERSION - 1])
    connection = await connected(empty_url)
    for run_id, day in ((A, 1), (B, 2), (C, 3), (D, 4)):
        await export(connection, run_id, day, *{A: "1234", B: "1234", C: "12", D: "5"}[run_id])
    yield connection
    await connection.close()


async def export(connection: Connection, run_id: UUID, day: int, *claims: str) -> None:
    """A run that exported these claims."""
    await connection.execute(
        "INSERT INTO export_runs (run_id, org_id, created_at, status, finished_at, finished_event_id, finished_digest)"
        " VALUES ($1, 'org-1', $2, 'completed', $2, gen_random_uuid(), '')",
        run_id,
        datetime(2026, 1, day, tzinfo=UTC),
    )
    await connection.execute(
        "INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome)"
        " SELECT 'c-' || claim, 'org-1', $1, 'exported' FROM unnest($2::text[]) AS claim",
        run_id,
        list(claims),
    )


async def record(connection: Connection, *pairs: tuple[str, UUID, UUID], **state: Any) -> None:
    """Pairs as the version before recorded them."""
    await connection.execute(RECORD_PAIR, *map(list, zip(*pairs, strict=True)))
    for claim_id, first, second in pairs:
        await connection.execute(
            "UPDATE double_exports SET resolved_at = $4, resolved_by = $5, note = $6, published_at = $7"
            " WHERE (claim_id, first_run_id, second_run_id) = ($1, $2, $3)",
            claim_id,
            first,
            second,
            state.get("resolved_at"),
            state.get("resolved_by"),
            state.get("note"),
            state.get("published_at"),
        )


def resolved(day: int, by: str = "bob") -> dict[str, Any]:
    """What a resolved pair has."""
    time = datetime(2026, 2, day, tzinfo=UTC)
    return {"resolved_at": time, "resolved_by": by, "note": f"note {day}", "published_at": time}


async def test_pairs_become_records_and_resolutions_are_kept(before: Connection, empty_url: str) -> None:
    await record(before, ("c-1", A, B), ("c-1", A, C), **resolved(1))
    await record(before, ("c-1", B, C), **resolved(2, "carol"))
    await record(before, ("c-2", A, B), ("c-2", B, C), **resolved(3))
    await record(before, ("c-2", A, C), published_at=datetime(2026, 2, 1, tzinfo=UTC))
    await record(before, ("c-3", A, B), **resolved(4))
    await record(before, ("c-5", D, D), published_at=datetime(2026, 2, 1, tzinfo=UTC))
    times = await before.fetchrow(
        "SELECT min(detected_at), max(detected_at) FROM double_exports WHERE claim_id = 'c-1'"
    )
    await migrate(database_settings(empty_url), sql.migrations())
    assert await double_exported_runs(before) == {"c-1": {A, B, C}, "c-2": {A, B, C}, "c-3": {A, B}, "c-5": {D}}
    one = await double_export_of(before, "c-1")
    assert (one.resolved_at, one.resolved_by, one.note) == (datetime(2026, 2, 2, tzinfo=UTC), "carol", "note 2")
    assert times is not None
    assert (one.detected_at, one.last_joined_at) == tuple(times)
    two = await double_export_of(before, "c-2")
    assert (two.resolved_at, two.resolved_by, two.note) == (None, None, None)
    assert (await double_export_of(before, "c-3")).note == "note 4"
    assert (await double_export_of(before, "c-5")).repeated_in_runs == [D]
    assert await take_alerts(before, ["org-1"], 10, 60) == []


async def test_alerts_that_wait_are_brought_along_one_per_run(before: Connection, empty_url: str) -> None:
    """The first of their claims and of their runs, as in every alert."""
    await export(before, UUID(int=9), 9, *map(str, range(100, 250)))
    many = [(f"c-{number}", UUID(int=1000 + number), UUID(int=9)) for number in range(100, 250)]
    await record(before, *many)
    await record(before, ("c-1", A, B), ("c-2", A, B), ("c-5", D, D))
    await record(before, ("c-3", A, B), published_at=datetime(2026, 2, 1, tzinfo=UTC))
    await migrate(database_settings(empty_url), sql.migrations())
    alerts = {taken.alert.run_id: taken.alert for taken in await take_alerts(before, ["org-1"], 10, 60)}
    assert set(alerts) == {B, D, UUID(int=9)}
    assert (alerts[B].claim_count, alerts[B].claim_ids, alerts[B].earlier_run_ids) == (2, ["c-1", "c-2"], [A])
    assert (alerts[D].found_by, alerts[D].earlier_run_ids) == ("repeated-in-run", [])
    assert (alerts[UUID(int=9)].claim_count, len(alerts[UUID(int=9)].claim_ids)) == (150, 100)
    assert alerts[UUID(int=9)].earlier_run_ids == [UUID(int=1100 + number) for number in range(10)]


async def test_workers_of_the_version_before_go_on_beside_the_new_ones(before: Connection, empty_url: str) -> None:
    """What they find from now on has a record and an alert, and opens what was resolved."""
    await record(before, ("c-1", A, B), **resolved(1))
    await migrate(database_settings(empty_url), sql.migrations())
    await record(before, ("c-1", A, C), ("c-1", B, C), ("c-2", A, C), ("c-5", D, D))
    assert {claim: len(runs) for claim, runs in (await double_exported_runs(before)).items()} == {
        "c-1": 3,
        "c-2": 3,
        "c-5": 1,
    }
    assert (await double_export_of(before, "c-1")).resolved_at is None
    alerts = {taken.alert.run_id: taken.alert for taken in await take_alerts(before, ["org-1"], 10, 60)}
    assert set(alerts) == {C, D}
    assert (alerts[C].claim_count, alerts[C].claim_ids, alerts[C].earlier_run_ids) == (2, ["c-1", "c-2"], [A, B])
    await resolve(before, "c-1", runCount=3)
    new = UUID(int=77)
    await finish(before, new, "completed", "c-1")
    assert (await double_export_of(before, "c-1")).run_count == 4


async def test_overrides_of_the_version_before_still_mute(before: Connection, empty_url: str) -> None:
    grant = (
        "INSERT INTO claim_overrides (run_id, org_id, reason, approved_by, claim_id, earlier_run_id)"
        " VALUES ($1, 'org-1', 'r', 'carol', 'c-3', $2) ON CONFLICT DO NOTHING"
    )
    new = UUID(int=77)
    for earlier in (A, B):
        await before.execute(grant, new, earlier)
    await migrate(database_settings(empty_url), sql.migrations())
    await before.execute(grant, new, A)
    assert await before.fetchval("SELECT count(*) FROM claim_overrides") == 2
    await finish(before, new, "completed", "c-3")
    assert await take_alerts(before, ["org-1"], 10, 60) == []


async def test_a_migration_that_was_cut_short_is_repeated(before: Connection, empty_url: str) -> None:
    """All its statements again, after an old worker has found something in between."""
    await record(before, ("c-1", A, B))
    await migrate(database_settings(empty_url), sql.migrations())
    await record(before, ("c-2", A, B))
    expected = await double_exported_runs(before), await before.fetchval("SELECT count(*) FROM alerts")
    for statement in sql.migrations()[VERSION - 1].statements:
        await before.execute(statement)
    alerts = await before.fetchval("SELECT count(*) FROM alerts")
    assert (await double_exported_runs(before), alerts) == (expected[0], expected[1])


async def test_an_old_entry_of_the_log_is_still_taken(before: Connection, empty_url: str) -> None:
    await migrate(database_settings(empty_url), sql.migrations())
    insert = (
        "INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload)"
        " VALUES (gen_random_uuid(), $1, 'request', $2, $3, now(), '{}')"
    )
    await before.execute(insert, "double-export-resolved", A, "org-1")
    await before.execute(insert, "double-export-resolved", None, "org-1")
    for event_type, run_id, org_id in (("claims-taken", None, "org-1"), ("double-export-resolved", A, None)):
        with pytest.raises(asyncpg.CheckViolationError):
            await before.execute(insert, event_type, run_id, org_id)
