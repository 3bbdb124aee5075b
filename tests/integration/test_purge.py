"""A purge removes a run and its claims, tells which claims are free afterwards, and keeps the log."""

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from handlers.claims import check_claims
from handlers.errors import EventRefused, RequestRefused
from handlers.history import get_export_history
from handlers.purge import plan_purge, purge_run, unpurge_run
from handlers.reservations import reserve_claims
from handlers.runs import find_runs_by_claim_id, get_export_run_by_id
from handlers.stale_runs import list_stale_runs
from schema.errors import DeadLetterCode, ErrorCode
from schema.fields import Override
from schema.requests import (
    CheckClaims,
    FindRunsByClaimId,
    GetExportHistory,
    GetExportRunById,
    ListStaleRuns,
    ReserveClaims,
)
from sql.connection import Connection
from tests.integration.conftest import until_blocked
from tests.integration.requests import create, delete
from tests.storing import created_event, finished_event, store_created, store_finished


async def finish(connection: Connection, *claim_ids: str, **fields: Any) -> UUID:
    """Store a finished run with these claims."""
    created = created_event(**{name: fields[name] for name in ("runId", "orgId") if name in fields})
    finished = finished_event(**{"runId": str(created.run_id), "claimIds": claim_ids, **fields})
    await store_created(connection, [created])
    await store_finished(connection, [finished])
    return created.run_id


async def exported(connection: Connection, *claim_ids: str) -> list[str]:
    request = CheckClaims(org_id="org-1", claim_ids=list(claim_ids))
    return [claim.claim_id for claim in (await check_claims(connection, [request]))[0].exported]


async def rows_of(connection: Connection, run_id: UUID) -> tuple[int, int]:
    """The number of rows of a run, and of its claims."""
    row = await connection.fetchrow(
        "SELECT (SELECT count(*) FROM export_runs WHERE run_id = $1) AS runs, "
        "(SELECT count(*) FROM export_run_claims WHERE run_id = $1) AS claims",
        run_id,
    )
    assert row is not None
    return row["runs"], row["claims"]


async def test_a_plan_names_the_claims_that_would_be_free_and_changes_nothing(connection: Connection) -> None:
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


async def test_a_plan_waits_for_no_writer_and_makes_none_wait(connection: Connection, other: Connection) -> None:
    run_id = await finish(connection, "c-1")
    await connection.execute("SET lock_timeout = '1s'")
    await other.execute("SET lock_timeout = '1s'")
    async with other.transaction():
        await other.execute("SELECT FROM export_runs WHERE run_id = $1 FOR UPDATE", run_id)
        async with connection.transaction():
            assert await plan_purge(connection, run_id) is not None
    async with connection.transaction():
        assert await plan_purge(connection, run_id) is not None
        await other.execute("UPDATE export_runs SET has_conflict = true WHERE run_id = $1", run_id)


@pytest.mark.parametrize("status", ["failed", "partial", "completed"])
async def test_only_exported_claims_are_freed(connection: Connection, status: str) -> None:
    run_id = await finish(connection, "c-1", status=status)
    purge = await plan_purge(connection, run_id)
    assert purge is not None
    assert purge.freed_claims == ([] if status == "failed" else ["c-1"])


async def test_a_purge_removes_the_run_and_frees_its_claims(connection: Connection) -> None:
    run_id = await finish(connection, "c-1", "c-2", "c-3")
    other = await finish(connection, "c-2", "c-4")
    plan = await plan_purge(connection, run_id)
    assert await purge_run(connection, run_id, "carol") == plan
    assert await rows_of(connection, run_id) == (1, 0)
    assert await plan_purge(connection, run_id) is None
    assert await rows_of(connection, other) == (1, 2)
    assert await exported(connection, "c-1", "c-2", "c-3", "c-4") == ["c-2", "c-4"]


async def test_a_purge_keeps_the_log_and_adds_an_entry(connection: Connection) -> None:
    run_id = await finish(connection, "c-1", "c-2")
    before = await connection.fetch("SELECT * FROM export_run_events ORDER BY received_at")
    await purge_run(connection, run_id, "carol")
    *earlier, entry = await connection.fetch("SELECT * FROM export_run_events ORDER BY received_at")
    assert earlier == before
    assert len(earlier) == 2
    assert (entry["event_type"], entry["origin"]) == ("run-purged", "command")
    assert (entry["run_id"], entry["org_id"]) == (run_id, "org-1")
    payload = json.loads(entry["payload"])
    assert (payload["purgedBy"], payload["freedClaims"]) == ("carol", ["c-1", "c-2"])
    assert (payload["run"]["runId"], payload["run"]["status"]) == (str(run_id), "completed")


async def test_the_purge_of_an_unknown_run_returns_none_and_logs_nothing(connection: Connection) -> None:
    assert await plan_purge(connection, uuid4()) is None
    assert await purge_run(connection, uuid4(), "carol") is None
    assert await connection.fetchval("SELECT count(*) FROM export_run_events") == 0


async def test_a_second_purge_returns_none_and_logs_nothing(connection: Connection) -> None:
    run_id = await finish(connection, "c-1")
    assert await purge_run(connection, run_id, "carol") is not None
    assert await purge_run(connection, run_id, "carol") is None
    assert await connection.fetchval("SELECT count(*) FROM export_run_events WHERE event_type = 'run-purged'") == 1


async def facts_of(connection: Connection, run_id: UUID) -> dict[str, Any]:
    """All columns of a run and of its claims."""
    run = await connection.fetchrow("SELECT * FROM export_runs WHERE run_id = $1", run_id)
    claims = await connection.fetch("SELECT * FROM export_run_claims WHERE run_id = $1 ORDER BY claim_id", run_id)
    assert run is not None
    return {"run": dict(run), "claims": [dict(claim) for claim in claims]}


@pytest.mark.parametrize("second_event", ["the same event", "another event"])
@pytest.mark.parametrize("kind", ["created", "finished"])
async def test_an_event_of_a_purged_run_is_refused(connection: Connection, kind: str, second_event: str) -> None:
    """Also an event that is in the log: an ack would say that its run is stored."""
    created = created_event()
    finished = finished_event(runId=str(created.run_id), claimIds=["c-1"])
    await store_created(connection, [created])
    await store_finished(connection, [finished])
    assert await purge_run(connection, created.run_id, "carol") is not None
    if second_event == "another event":
        created = created_event(runId=str(created.run_id))
        finished = finished_event(runId=str(created.run_id), claimIds=["c-1"])
    store = store_created(connection, [created]) if kind == "created" else store_finished(connection, [finished])
    with pytest.raises(EventRefused) as raised:
        await store
    assert raised.value.code is DeadLetterCode.RUN_PURGED
    assert await rows_of(connection, created.run_id) == (1, 0)
    assert await exported(connection, "c-1") == []


async def test_the_end_of_a_purged_run_does_not_bring_it_back(connection: Connection) -> None:
    created = created_event()
    await store_created(connection, [created])
    await purge_run(connection, created.run_id, "carol")
    with pytest.raises(EventRefused):
        await store_finished(connection, [finished_event(runId=str(created.run_id), claimIds=["c-1"])])
    assert await exported(connection, "c-1") == []


async def test_another_organisation_does_not_learn_of_a_purge(connection: Connection) -> None:
    created = created_event()
    await store_created(connection, [created])
    await purge_run(connection, created.run_id, "carol")
    with pytest.raises(EventRefused) as raised:
        await store_created(connection, [created_event(runId=str(created.run_id), orgId="org-2")])
    assert raised.value.code is DeadLetterCode.RUN_OF_OTHER_ORGANISATION


async def test_a_purged_run_is_in_no_answer(connection: Connection) -> None:
    run_id = await finish(connection, "c-1")
    await purge_run(connection, run_id, "carol")
    history = await get_export_history(connection, GetExportHistory(org_id="org-1", include_deleted=True))
    assert (history.runs, history.total) == ([], 0)
    stale = await list_stale_runs(connection, ListStaleRuns(older_than_seconds=1, org_id="org-1"))
    assert stale.runs == []
    with pytest.raises(RequestRefused) as raised:
        await get_export_run_by_id(connection, GetExportRunById(run_id=run_id))
    assert raised.value.code is ErrorCode.RUN_NOT_FOUND
    found = await find_runs_by_claim_id(connection, FindRunsByClaimId(claim_id="c-1"))
    assert found.runs == []


async def test_an_unpurge_restores_every_column(connection: Connection) -> None:
    """For a run with contradicting events, a write request and a deletion."""
    run_id = (await create(connection)).run_id
    await store_created(connection, [created_event(runId=str(run_id), triggeredBy="somebody else")])
    await store_finished(
        connection,
        [
            finished_event(runId=str(run_id), status="partial", claimIds=["c-1"]),
            finished_event(
                runId=str(run_id), claimIds=["c-1", "c-2"], skippedClaims=[{"claimId": "c-3", "reason": "r"}]
            ),
        ],
    )
    await delete(connection, run_id)
    before = await facts_of(connection, run_id)
    assert before["run"]["has_conflict"]
    assert await purge_run(connection, run_id, "carol") is not None
    restored = await unpurge_run(connection, run_id, "dave")
    assert restored is not None
    assert restored.status == "completed"
    assert await facts_of(connection, run_id) == before
    assert await exported(connection, "c-1", "c-2", "c-3") == ["c-1", "c-2"]
    types = await connection.fetch("SELECT event_type FROM export_run_events ORDER BY received_at DESC LIMIT 2")
    assert [row["event_type"] for row in types] == ["run-unpurged", "run-purged"]


async def test_after_an_unpurge_the_dead_letters_can_be_replayed(connection: Connection) -> None:
    created = created_event()
    late = finished_event(runId=str(created.run_id), claimIds=["c-1"])
    await store_created(connection, [created])
    await purge_run(connection, created.run_id, "carol")
    await unpurge_run(connection, created.run_id, "carol")
    await store_created(connection, [created])
    await store_finished(connection, [late])
    assert await exported(connection, "c-1") == ["c-1"]


async def test_only_a_purged_run_is_unpurged(connection: Connection) -> None:
    run_id = await finish(connection, "c-1")
    before = await facts_of(connection, run_id)
    assert await unpurge_run(connection, run_id, "carol") is None
    assert await unpurge_run(connection, uuid4(), "carol") is None
    assert await facts_of(connection, run_id) == before


async def test_a_run_that_holds_claims_is_not_purged(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    await reserve_claims(connection, ReserveClaims(org_id="org-1", run_id=run_id, claim_ids=["c-1"]))
    with pytest.raises(RequestRefused) as raised:
        await purge_run(connection, run_id, "carol")
    assert raised.value.code is ErrorCode.CONFLICT
    await connection.execute("UPDATE claim_leases SET expires_at = clock_timestamp()")
    assert await purge_run(connection, run_id, "carol") is not None
    assert await connection.fetchval("SELECT count(*) FROM claim_leases") == 0


async def test_a_claim_that_another_run_has_reserved_is_not_listed_as_freed(connection: Connection) -> None:
    run_id = await finish(connection, "c-1", "c-2")
    override = Override(reason="r", approved_by="erin")
    request = ReserveClaims(org_id="org-1", run_id=uuid4(), claim_ids=["c-1"], override=override)
    await reserve_claims(connection, request)
    purge = await purge_run(connection, run_id, "carol")
    assert purge is not None
    assert purge.freed_claims == ["c-2"]


async def test_of_two_purges_at_once_the_second_frees_the_common_claim(
    connection: Connection, other: Connection
) -> None:
    one, two = await finish(connection, "c-1"), await finish(connection, "c-1")
    async with connection.transaction():
        first = await purge_run(connection, one, "carol")
        task = asyncio.create_task(purge_run(other, two, "dave"))
        await until_blocked(connection, other)
    second = await task
    assert first is not None
    assert second is not None
    assert (first.freed_claims, second.freed_claims) == ([], ["c-1"])
    assert await exported(connection, "c-1") == []
