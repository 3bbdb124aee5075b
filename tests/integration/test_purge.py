"""A purge takes a run away for good, says what that frees, and leaves the log."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from handlers.claims import check_claims
from handlers.connection import Connection
from handlers.events import store_created, store_finished
from handlers.purge import plan_purge, purge_run
from schema.decoding import decode
from schema.events import RunCreated, RunFinished
from schema.requests import CheckClaims
from tests.wire import run_created, run_finished


async def finish(connection: Connection, *claim_ids: str, **fields: Any) -> UUID:
    """Store a finished run with these claims."""
    created = run_created(**{name: fields[name] for name in ("runId", "orgId") if name in fields})
    finished = run_finished(**{"runId": created["runId"], "claimIds": claim_ids, **fields})
    await store_created(connection, [decode(RunCreated, json.dumps(created).encode())])
    await store_finished(connection, [decode(RunFinished, json.dumps(finished).encode())])
    return UUID(created["runId"])


async def exported(connection: Connection, *claim_ids: str) -> list[str]:
    request = CheckClaims(org_id="org-1", claim_ids=list(claim_ids))
    return [claim.claim_id for claim in (await check_claims(connection, [request]))[0].exported]


async def rows_of(connection: Connection, run_id: UUID) -> tuple[int, int]:
    """How many rows there are of a run, and of its claims."""
    row = await connection.fetchrow(
        "SELECT (SELECT count(*) FROM export_runs WHERE run_id = $1) AS runs, "
        "(SELECT count(*) FROM export_run_claims WHERE run_id = $1) AS claims",
        run_id,
    )
    assert row is not None
    return row["runs"], row["claims"]


async def test_a_plan_names_what_would_be_freed_and_changes_nothing(connection: Connection) -> None:
    run_id = await finish(connection, "c-3", "c-1", "c-2", skippedClaims=[{"claimId": "c-4", "reason": "r"}])
    await finish(connection, "c-2")
    await finish(connection, "c-1", status="failed")
    await finish(connection, "c-3", orgId="org-2")
    purge = await plan_purge(connection, run_id)
    assert purge is not None
    assert (purge.run.run_id, purge.run.claim_count) == (run_id, 3)
    assert purge.freed_claims == ["c-1", "c-3"]
    assert await rows_of(connection, run_id) == (1, 4)
    assert await exported(connection, "c-1", "c-2", "c-3") == ["c-1", "c-2", "c-3"]


@pytest.mark.parametrize("status", ["failed", "partial", "completed"])
async def test_only_exported_claims_are_freed(connection: Connection, status: str) -> None:
    run_id = await finish(connection, "c-1", status=status)
    purge = await plan_purge(connection, run_id)
    assert purge is not None
    assert purge.freed_claims == ([] if status == "failed" else ["c-1"])


async def test_a_purge_removes_the_run_and_frees_its_claims(connection: Connection) -> None:
    run_id = await finish(connection, "c-1", "c-2", "c-3")
    other = await finish(connection, "c-2", "c-4")
    planned = await plan_purge(connection, run_id)
    assert await purge_run(connection, run_id, "carol") == planned
    assert await rows_of(connection, run_id) == (0, 0)
    assert await rows_of(connection, other) == (1, 2)
    assert await exported(connection, "c-1", "c-2", "c-3", "c-4") == ["c-2", "c-4"]


async def test_the_log_keeps_what_happened_and_a_tombstone(connection: Connection) -> None:
    run_id = await finish(connection, "c-1", "c-2")
    before = await connection.fetch("SELECT * FROM export_run_events ORDER BY received_at")
    await purge_run(connection, run_id, "carol")
    *kept, tombstone = await connection.fetch("SELECT * FROM export_run_events ORDER BY received_at")
    assert kept == before
    assert len(kept) == 2
    assert (tombstone["event_type"], tombstone["origin"]) == ("run-purged", "command")
    assert (tombstone["run_id"], tombstone["org_id"]) == (run_id, "org-1")
    payload = json.loads(tombstone["payload"])
    assert (payload["purgedBy"], payload["freedClaims"]) == ("carol", ["c-1", "c-2"])
    assert (payload["run"]["runId"], payload["run"]["status"]) == (str(run_id), "completed")


async def test_an_unknown_run_is_none_and_leaves_no_tombstone(connection: Connection) -> None:
    assert await plan_purge(connection, uuid4()) is None
    assert await purge_run(connection, uuid4(), "carol") is None
    assert await connection.fetchval("SELECT count(*) FROM export_run_events") == 0


async def test_a_purge_is_done_once(connection: Connection) -> None:
    run_id = await finish(connection, "c-1")
    assert await purge_run(connection, run_id, "carol") is not None
    assert await purge_run(connection, run_id, "carol") is None
    assert await connection.fetchval("SELECT count(*) FROM export_run_events WHERE event_type = 'run-purged'") == 1


async def test_an_event_delivered_again_does_not_bring_a_purged_run_back(connection: Connection) -> None:
    created = run_created()
    event = decode(RunCreated, json.dumps(created).encode())
    await store_created(connection, [event])
    assert await purge_run(connection, event.run_id, "carol") is not None
    await store_created(connection, [event])
    assert await rows_of(connection, event.run_id) == (0, 0)
