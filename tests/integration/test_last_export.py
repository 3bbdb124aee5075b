"""The last export of an organisation: the run that was the last to end as completed or partial."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from handlers.last_export import get_last_export
from handlers.purge import purge_run
from handlers.writes import delete_export_run
from schema.decoding import decode
from schema.requests import DeleteExportRun, GetLastExport
from sql.connection import Connection
from tests.storing import created_event, finished_event, store_created, store_finished

START = datetime(2026, 1, 1, tzinfo=UTC)


async def add(connection: Connection, minutes: float, status: str, **fields: Any) -> UUID:
    """Add a run that ends so many minutes after the start. It started before all others that end earlier."""
    event = created_event(occurredAt=(START - timedelta(minutes=minutes)).isoformat(), **fields)
    await store_created(connection, [event])
    await end(connection, event.run_id, minutes, status, orgId=event.org_id)
    return event.run_id


async def end(connection: Connection, run_id: UUID, minutes: float, status: str, **fields: Any) -> None:
    time = (START + timedelta(minutes=minutes)).isoformat()
    event = finished_event(runId=str(run_id), occurredAt=time, status=status, claimIds=[str(uuid4())], **fields)
    await store_finished(connection, [event])


async def last(connection: Connection, **fields: Any) -> UUID | None:
    request = decode(GetLastExport, json.dumps({"orgId": "org-1", **fields}).encode())
    run = (await get_last_export(connection, request)).run
    return None if run is None else run.run_id


async def test_without_an_export_there_is_none(connection: Connection) -> None:
    assert await last(connection) is None
    await store_created(connection, [created_event()])
    await add(connection, 1, "failed")
    await add(connection, 1, "completed", orgId="org-2")
    assert await last(connection) is None


async def test_it_is_the_last_to_end_not_the_last_to_start(connection: Connection) -> None:
    assert await last(connection) is None
    partial = await add(connection, 1, "partial")
    assert await last(connection) == partial
    completed = await add(connection, 3, "completed")
    await add(connection, 2, "completed")
    await add(connection, 4, "failed")
    assert await last(connection) == completed


async def test_a_failed_run_that_was_completed_after_all_counts(connection: Connection) -> None:
    run_id = await add(connection, 2, "failed")
    earlier = await add(connection, 1, "completed")
    assert await last(connection) == earlier
    await end(connection, run_id, 3, "completed")
    assert await last(connection) == run_id


async def test_by_target_system(connection: Connection) -> None:
    ledger = await add(connection, 1, "completed", targetSystem="ledger")
    other = await add(connection, 2, "completed", targetSystem="other")
    assert await last(connection) == other
    assert await last(connection, targetSystem="ledger") == ledger
    assert await last(connection, targetSystem="nothing") is None


async def test_by_scope(connection: Connection) -> None:
    seven = await add(connection, 1, "completed", scope="chapter 7")
    eight = await add(connection, 2, "completed", scope="chapter 8", targetSystem="ledger")
    none = await add(connection, 3, "completed")
    assert await last(connection) == none
    assert await last(connection, scope="chapter 7") == seven
    assert await last(connection, scope="chapter 8", targetSystem="ledger") == eight
    assert await last(connection, scope="chapter 7", targetSystem="ledger") is None


async def test_deleted_and_purged_runs_do_not_count(connection: Connection) -> None:
    kept, deleted, purged = [await add(connection, minutes, "completed") for minutes in (1, 2, 3)]
    delete = {"runId": str(deleted), "deletedBy": "bob", "reason": "a test"}
    await delete_export_run(connection, decode(DeleteExportRun, json.dumps(delete).encode()))
    assert await last(connection) == purged
    await purge_run(connection, purged, "bob")
    assert await last(connection) == kept


async def test_a_wrong_clock_does_not_hide_the_last_export(connection: Connection) -> None:
    far = await add(connection, 1_000_000_000, "completed")
    assert await last(connection) == far, "there is no other"
    today = await add(connection, (datetime.now(UTC) - START) / timedelta(minutes=1), "completed")
    assert await last(connection) == today


async def test_of_two_that_end_at_one_time_it_is_always_the_same(connection: Connection) -> None:
    ids = [await add(connection, 1, "completed") for _ in range(3)]
    assert await last(connection) == max(ids)
