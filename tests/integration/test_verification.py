"""A verification finds every damage of every table that follows from the log, and nothing else."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from handlers import verification
from handlers.reservations import release_claims
from handlers.verification import Verification, verify
from schema.decoding import decode
from schema.events import RunFinished
from schema.limits import BODY_BYTES_MAX, RESERVE_CLAIMS_MAX
from schema.requests import ReleaseClaims
from sql.connection import Connection
from tests.conftest import connected
from tests.log_history import RUN_A, reserve, reverse, write_history
from tests.storing import store_finished
from tests.wire import run_finished


async def verified(url: str, **part: Any) -> Verification:
    """What a verification says, on a connection of its own."""
    connection = await connected(url)
    try:
        return await verify(connection, lambda done, total: None, **part)
    finally:
        await connection.close()


@pytest.fixture
async def history(connection: Connection) -> Connection:
    """A database in which everything has happened that the log knows."""
    await write_history(connection)
    return connection


async def stored(connection: Connection, *tables: str) -> dict[str, list[asyncpg.Record]]:
    """The rows of tables, in an order that follows from them."""
    return {
        table: await connection.fetch(f"SELECT * FROM {table} AS row ORDER BY row::text")  # noqa: S608
        for table in tables
    }


async def test_what_was_stored_is_what_the_log_says(history: Connection, database_url: str) -> None:
    result = await verified(database_url)
    assert (result.difference_count, result.differences) == (0, [])
    assert result.entry_count == await history.fetchval(
        "SELECT count(*) FROM export_run_events WHERE org_id IS NOT NULL"
    )
    assert result.row_counts == {
        table: len(rows) for table, rows in (await stored(history, *result.row_counts)).items()
    }
    assert all(result.row_counts.values())


async def test_groups_of_one_organisation_each_find_the_same(
    history: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "GROUP_ENTRIES_MIN", 1)
    monkeypatch.setattr("handlers.log_replay.PAGE_ENTRIES_MAX", 2)
    result = await verified(database_url)
    assert result.difference_count == 0
    assert result.row_counts["export_runs"] == await history.fetchval("SELECT count(*) FROM export_runs")


DAMAGES = {
    "a run is lost": "DELETE FROM export_runs WHERE run_id = $1",
    "a run has another status": "UPDATE export_runs SET status = 'partial' WHERE run_id = $1",
    "a run has another count": "UPDATE export_runs SET claim_count = claim_count + 1 WHERE run_id = $1",
    "a run is hidden": "UPDATE export_runs SET deleted_at = now(), deleted_by = 'eve' WHERE run_id = $1",
    "a run is made up": (
        "INSERT INTO export_runs (run_id, org_id, created_at)"
        " SELECT gen_random_uuid(), 'never-heard-of', now() WHERE $1::uuid IS NOT NULL"
    ),
    "a run belongs to another": "UPDATE export_runs SET org_id = 'org-0' WHERE run_id = $1",
    "a claim is lost": "DELETE FROM export_run_claims WHERE run_id = $1 AND claim_id = 'c-1'",
    "a claim has another outcome": "UPDATE export_run_claims SET outcome = 'attempted' WHERE run_id = $1",
    "a claim is made up": (
        "INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome) VALUES ('c-9', 'org-1', $1, 'exported')"
    ),
    "a claim is of another organisation": (
        "INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome) VALUES ('c-1', 'org-7', $1, 'exported')"
    ),
    "a claim is of no run": (
        "INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome)"
        " SELECT 'c-1', 'org-1', gen_random_uuid(), 'exported' WHERE $1::uuid IS NOT NULL"
    ),
    "an override is lost": "DELETE FROM claim_overrides WHERE $1::uuid IS NOT NULL",
    "an override is another's": "UPDATE claim_overrides SET approved_by = 'eve' WHERE $1::uuid IS NOT NULL",
    "an override is older": (
        "UPDATE claim_overrides SET granted_at = granted_at - interval '2 minutes' WHERE $1::uuid IS NOT NULL"
    ),
    "an override is made up": (
        "INSERT INTO claim_overrides (run_id, claim_id, org_id, earlier_run_id, reason, approved_by)"
        " VALUES ($1, 'c-1', 'org-1', gen_random_uuid(), 'r', 'eve')"
    ),
    "a reversal is lost": "DELETE FROM export_reversals WHERE $1::uuid IS NOT NULL",
    "a reversal is another's": "UPDATE export_reversals SET approved_by = 'eve' WHERE $1::uuid IS NOT NULL",
    "a claim of a reversal is lost": "DELETE FROM claim_reversals WHERE $1::uuid IS NOT NULL",
    "a claim of a reversal is made up": (
        "INSERT INTO claim_reversals (claim_id, org_id, run_id, event_id)"
        " VALUES ('c-1', 'org-1', $1, gen_random_uuid())"
    ),
    "a reversed claim is exported": (
        "UPDATE export_run_claims SET outcome = 'exported' WHERE outcome = 'reversed' AND $1::uuid IS NOT NULL"
    ),
    "a grant after a reversal is lost": "DELETE FROM reversal_grants WHERE $1::uuid IS NOT NULL",
    "a double export is lost": "DELETE FROM double_exported_claims WHERE $1::uuid IS NOT NULL",
    "a double export is resolved": (
        "UPDATE double_exported_claims SET resolved_at = now(), resolved_by = 'eve', note = 'n'"
        " WHERE resolved_at IS NULL AND $1::uuid IS NOT NULL"
    ),
    "a double export is open": (
        "UPDATE double_exported_claims SET resolved_at = NULL, resolved_by = NULL, note = NULL"
        " WHERE resolved_at IS NOT NULL AND $1::uuid IS NOT NULL"
    ),
    "a double export is made up": (
        "INSERT INTO double_exported_claims SELECT org_id, 'c-77', now(), now() FROM export_runs WHERE run_id = $1"
    ),
    "a double export was found earlier": (
        "UPDATE double_exported_claims SET detected_at = detected_at - interval '2 minutes' WHERE $1::uuid IS NOT NULL"
    ),
    "a repetition is lost": "DELETE FROM repeated_claims WHERE $1::uuid IS NOT NULL",
    "a repetition is made up": "INSERT INTO repeated_claims VALUES ('c-1', 'org-1', $1)",
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damage_is_found(history: Connection, database_url: str, damage: str) -> None:
    statement = DAMAGES[damage]
    done = await history.execute(statement, RUN_A)
    assert not done.endswith(" 0"), "nothing was damaged"
    result = await verified(database_url)
    [table, *_] = re.findall(r"(?:FROM|UPDATE|INTO) (\w+)", statement)
    assert table in {difference.table for difference in result.differences}
    assert result.difference_count == len(result.differences) > 0


async def test_a_difference_names_the_row_and_both_values(history: Connection, database_url: str) -> None:
    await history.execute("UPDATE export_runs SET status = 'partial' WHERE run_id = $1", RUN_A)
    [difference] = (await verified(database_url)).differences
    assert (difference.table, difference.key) == ("export_runs", {"run_id": str(RUN_A)})
    assert (difference.by_log, difference.stored) == ({"status": "completed"}, {"status": "partial"})


async def test_an_entry_that_cannot_be_replayed_is_a_difference(history: Connection, database_url: str) -> None:
    await history.execute(
        "INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload)"
        " VALUES ($1, 'run-finished', 'event', $1, 'org-1', now(), '{\"status\": \"lost\"}')",
        UUID(int=77),
    )
    [difference] = (await verified(database_url)).differences
    assert (difference.table, difference.key) == ("export_run_events", {"event_id": str(UUID(int=77))})


async def test_entries_larger_than_a_message_may_be_are_replayed(connection: Connection, database_url: str) -> None:
    """The service writes them with escapes, and with a run beside each claim."""
    claim_ids = [f"{number:05}{'ä' * 75}" for number in range(RESERVE_CLAIMS_MAX)]
    run_id, granted_to, org_id = uuid4(), uuid4(), "acme"
    body = json.dumps(run_finished(runId=str(run_id), orgId=org_id, claimIds=claim_ids), ensure_ascii=False).encode()
    await store_finished(connection, [decode(RunFinished, body)])
    await reserve(connection, org_id, granted_to, *claim_ids, approved_by="bob")
    await release_claims(connection, ReleaseClaims(org_id=org_id, run_id=granted_to))
    await reverse(connection, org_id, run_id)
    await reserve(connection, org_id, granted_to, *claim_ids)
    kinds = await connection.fetch(
        "SELECT event_type FROM export_run_events WHERE octet_length(payload::text) > $1 ORDER BY position",
        BODY_BYTES_MAX,
    )
    assert [row["event_type"] for row in kinds] == [
        "claims-taken", "overrides-withdrawn", "export-reversed", "claims-taken"
    ]  # fmt: skip
    assert (await verified(database_url)).differences == []


async def test_one_organisation_alone(history: Connection, database_url: str) -> None:
    await history.execute("UPDATE export_runs SET format = 'x' WHERE org_id = 'org-1'")
    assert (await verified(database_url, org_id="org-1")).difference_count > 0
    other = await verified(database_url, org_id="org-2")
    assert (other.difference_count, other.row_counts["export_runs"]) == (0, 1)


async def test_organisations_that_have_entries_since_then(history: Connection, database_url: str) -> None:
    every = await verified(database_url, since=datetime.now(UTC) - timedelta(hours=1))
    assert every.row_counts["export_runs"] == await history.fetchval("SELECT count(*) FROM export_runs")
    none = await verified(database_url, since=datetime.now(UTC) + timedelta(hours=1))
    assert (none.entry_count, none.difference_count) == (0, 0)


async def test_leases_are_outside(history: Connection, database_url: str) -> None:
    assert await history.fetchval("SELECT count(*) FROM claim_leases") > 0
    await history.execute("DELETE FROM claim_leases; DELETE FROM alerts")
    assert (await verified(database_url)).difference_count == 0


async def test_a_verification_changes_nothing(history: Connection, database_url: str) -> None:
    """PostgreSQL refuses it everything but its temporary tables."""
    rows = await history.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    tables = [row["tablename"] for row in rows]
    before = await stored(history, *tables)
    await verified(database_url)
    assert await stored(history, *tables) == before


async def test_beside_writers(database_url: str) -> None:
    """Runs change while they are looked at, and nothing differs."""
    writers = [await connected(database_url) for _ in range(2)]
    stopping = asyncio.Event()

    async def write(writer: Connection, number: int) -> int:
        turns = 0
        while not stopping.is_set():
            await write_history(writer, prefix=f"writer-{number}-{turns}-")
            turns += 1
        return turns

    tasks = [asyncio.create_task(write(writer, number)) for number, writer in enumerate(writers)]
    results = [await verified(database_url) for _ in range(3)]
    stopping.set()
    turns = await asyncio.gather(*tasks)
    assert [result.differences for result in results] == [[]] * len(results)
    assert results[-1].entry_count > results[0].entry_count
    assert min(turns) > 1
    for writer in writers:
        await writer.close()
