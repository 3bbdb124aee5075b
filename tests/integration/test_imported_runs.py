"""What is imported from old records is merged like any event, says so, and wakes nobody unless it is asked to."""

import json
from uuid import UUID, uuid4

import pytest

from handlers.errors import EventRefused
from handlers.purge import purge_run, unpurge_run
from handlers.runs import get_export_run_by_id
from handlers.verification import verify
from schema.decoding import decode
from schema.requests import GetExportRunById
from schema.results import ExportRun
from sql.connection import Connection
from tests.integration.double_exports.conftest import alerts, double_exported_runs
from tests.storing import created_event, finished_event, store_created, store_finished


async def run_of(connection: Connection, run_id: UUID) -> ExportRun:
    request = decode(GetExportRunById, json.dumps({"runId": str(run_id)}).encode())
    return await get_export_run_by_id(connection, request)


async def store_run(connection: Connection, *claim_ids: str, **fields: object) -> UUID:
    """Store a run that exported these claims, and say of both its events what `fields` say."""
    run_id = uuid4()
    await store_created(connection, [created_event(runId=str(run_id), **fields)])
    await store_finished(connection, [finished_event(runId=str(run_id), claimIds=list(claim_ids), **fields)])
    return run_id


async def test_an_imported_run_says_so_and_so_does_the_log(connection: Connection) -> None:
    old, new = await store_run(connection, "c-1", imported=True), await store_run(connection, "c-2")
    assert [(await run_of(connection, run_id)).imported for run_id in (old, new)] == [True, False]
    rows = await connection.fetch("SELECT run_id, origin FROM export_run_events")
    assert sorted(map(tuple, rows)) == sorted([(old, "import")] * 2 + [(new, "event")] * 2)


async def test_events_of_one_batch_keep_their_origins(connection: Connection) -> None:
    events = [finished_event(claimIds=[], imported=imported) for imported in (True, False, None)]
    await store_finished(connection, events)
    rows = await connection.fetch("SELECT event_id, origin FROM export_run_events")
    assert {row["event_id"]: row["origin"] for row in rows} == {
        event.event_id: origin for event, origin in zip(events, ("import", "event", "event"), strict=True)
    }


async def test_one_imported_event_is_enough(connection: Connection) -> None:
    run_id = str(uuid4())
    await store_finished(connection, [finished_event(runId=run_id, imported=True)])
    await store_created(connection, [created_event(runId=run_id)])
    run = await run_of(connection, UUID(run_id))
    assert (run.imported, run.has_conflict) == (True, False)


async def test_a_double_export_among_old_records_is_recorded_without_an_alert(connection: Connection) -> None:
    one = await store_run(connection, "c-1", imported=True)
    two = await store_run(connection, "c-1", imported=True)
    assert await double_exported_runs(connection) == {"c-1": {one, two}}
    assert await alerts(connection) == []


async def test_an_import_may_ask_for_alerts(connection: Connection) -> None:
    await store_run(connection, "c-1", imported=True)
    two = await store_run(connection, "c-1", imported=True, alertIfImported=True)
    assert [row["run_id"] for row in await alerts(connection)] == [two]


async def test_an_export_that_repeats_an_imported_one_has_an_alert(connection: Connection) -> None:
    await store_run(connection, "c-1", imported=True)
    two = await store_run(connection, "c-1")
    assert [row["run_id"] for row in await alerts(connection)] == [two]


async def test_in_one_batch_only_the_imported_event_has_no_alert(connection: Connection) -> None:
    await store_run(connection, "c-1", "c-2")
    old, new = finished_event(claimIds=["c-1"], imported=True), finished_event(claimIds=["c-2"])
    await store_finished(connection, [old, new])
    assert [row["run_id"] for row in await alerts(connection)] == [new.run_id]


async def test_a_run_that_was_purged_comes_back_as_imported(connection: Connection) -> None:
    run_id = await store_run(connection, "c-1", imported=True)
    assert await purge_run(connection, run_id, "bob")
    assert await connection.fetchval("SELECT imported FROM export_runs WHERE run_id = $1", run_id) is False
    restored = await unpurge_run(connection, run_id, "bob")
    assert restored is not None
    assert restored.imported


async def test_the_log_says_which_runs_are_imported(connection: Connection) -> None:
    await store_run(connection, "c-1", imported=True)
    await store_run(connection, "c-1")
    assert (await verify(connection, lambda done, total: None)).differences == []


async def test_the_same_event_without_the_word_is_another_event(connection: Connection) -> None:
    event = finished_event(imported=True)
    await store_finished(connection, [event])
    same = {"eventId": str(event.event_id), "runId": str(event.run_id), "occurredAt": event.occurred_at.isoformat()}
    await store_finished(connection, [finished_event(**same, imported=True)])
    with pytest.raises(EventRefused):
        await store_finished(connection, [finished_event(**same)])
