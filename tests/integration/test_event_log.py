"""The event log keeps every event and write request once, unchanged, for ever."""

import asyncio
import json
import re
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from handlers.errors import EventRefused, RequestRefused
from handlers.event_log import EventType
from handlers.writes import create_export_run, delete_export_run, update_export_run_status
from schema.decoding import decode
from schema.errors import DeadLetterCode
from schema.events import RunCreated, RunFinished
from schema.requests import CreateExportRun, DeleteExportRun, UpdateExportRunStatus
from sql.connection import Connection
from tests.storing import created_event, finished_event, store_created, store_finished
from tests.wire import Json, run_created, run_finished


async def log_entries(connection: Connection) -> list[tuple[Any, ...]]:
    """The entries of the log, in the order of arrival."""
    rows = await connection.fetch(
        "SELECT event_type, origin, run_id, payload FROM export_run_events ORDER BY received_at"
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE export_run_events SET payload = '{}'",
        "UPDATE export_run_events SET org_id = org_id WHERE false",
        "DELETE FROM export_run_events",
        "DELETE FROM export_run_events WHERE false",
        "TRUNCATE export_run_events",
        "TRUNCATE export_runs, export_run_events, export_run_claims",
        "INSERT INTO export_run_events SELECT * FROM export_run_events "
        "ON CONFLICT (event_id) DO UPDATE SET payload = '{}'",
    ],
)
async def test_the_log_cannot_be_changed(connection: Connection, statement: str) -> None:
    await store_created(connection, [created_event()])
    before = await log_entries(connection)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await connection.execute(statement)
    assert await log_entries(connection) == before
    assert len(before) == 1


async def test_the_database_allows_the_same_event_types(connection: Connection) -> None:
    definition = await connection.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'export_run_events_event_type_check'"
    )
    assert set(re.findall(r"'([\w-]+)'", definition)) == set(EventType)


async def test_an_event_is_kept_byte_for_byte(connection: Connection) -> None:
    """With unknown fields, white space, escapes, repeated names, and values that jsonb would refuse."""
    fields = json.dumps(run_created())[1:-1]
    body = '\n{ "z": "\\u00e9\\u0000",\t"a": 1.50e+200000, ' + fields + ', "z": {"b": [ ]}, "emoji": "\U0001f4b8" } '
    event = decode(RunCreated, body.encode())
    await store_created(connection, [event])
    assert await log_entries(connection) == [("run-created", "event", event.run_id, body)]


async def test_the_log_has_the_time_of_an_event_and_of_its_arrival(connection: Connection) -> None:
    event = created_event(occurredAt="2020-02-01T08:00:00+02:00")
    await store_created(connection, [event])
    row = await connection.fetchrow(
        "SELECT *, received_at BETWEEN now() - interval '1 minute' AND clock_timestamp() AS just_now "
        "FROM export_run_events"
    )
    assert row is not None
    assert (row["event_id"], row["org_id"]) == (event.event_id, "org-1")
    assert (row["occurred_at"], row["just_now"]) == (event.occurred_at, True)


async def test_write_requests_are_kept_byte_for_byte(connection: Connection) -> None:
    run_id = str(uuid4())
    bodies: list[Json] = [
        {"runId": run_id, "orgId": "org-1", "triggeredBy": "alice", "format": "csv", "unknown": 1},
        {"runId": run_id, "status": "completed", "claimIds": ["c-1"], "unknown": 2},
        {"runId": run_id, "deletedBy": "bob", "reason": "a test", "unknown": 3},
    ]
    create, update, delete = (json.dumps(each, indent=2) for each in bodies)
    await create_export_run(connection, decode(CreateExportRun, create.encode()))
    await update_export_run_status(connection, decode(UpdateExportRunStatus, update.encode()))
    await delete_export_run(connection, decode(DeleteExportRun, delete.encode()))
    assert await log_entries(connection) == [
        ("run-created", "request", UUID(run_id), create),
        ("run-finished", "request", UUID(run_id), update),
        ("run-deleted", "request", UUID(run_id), delete),
    ]


async def test_a_refused_request_is_not_logged(connection: Connection) -> None:
    update = {"runId": str(uuid4()), "status": "completed", "claimIds": []}
    with pytest.raises(RequestRefused):
        await update_export_run_status(connection, decode(UpdateExportRunStatus, json.dumps(update).encode()))
    assert await log_entries(connection) == []


async def test_duplicates_are_logged_once(connection: Connection) -> None:
    start, end = created_event(), finished_event()
    for _ in range(2):
        await store_created(connection, [start, start])
        await store_finished(connection, [end, end])
    assert [(each[0], each[2]) for each in await log_entries(connection)] == [
        ("run-created", start.run_id),
        ("run-finished", end.run_id),
    ]


async def test_duplicates_at_the_same_time_are_logged_once(connection: Connection, database_url: str) -> None:
    other = await asyncpg.connect(database_url)
    try:
        events = [finished_event() for _ in range(20)]
        for event in events:
            await asyncio.gather(store_finished(connection, [event]), store_finished(other, [event]))
        assert [each[2] for each in await log_entries(connection)] == [event.run_id for event in events]
        assert await connection.fetchval("SELECT bool_or(has_conflict) FROM export_runs") is False
    finally:
        await other.close()


async def test_another_spelling_of_an_event_is_a_duplicate(connection: Connection) -> None:
    fields = run_created(unknown={"a": 1, "b": [2]})
    one = decode(RunCreated, json.dumps(fields).encode())
    other = decode(RunCreated, json.dumps(dict(sorted(fields.items(), reverse=True)), indent=1).encode())
    await store_created(connection, [one, other])
    await store_created(connection, [other])
    assert [each[3] for each in await log_entries(connection)] == [one.payload]


@pytest.mark.parametrize("in_one_batch", [True, False], ids=["in one batch", "later"])
async def test_an_event_that_is_written_in_another_way_is_a_duplicate(
    connection: Connection, in_one_batch: bool
) -> None:
    """It is stored once, and its run has no conflict."""
    sent = run_finished(occurredAt="2026-01-31T09:30:00Z", claimIds=["e\u0301", "b"], unknown=[1])
    again = sent | {
        "eventId": sent["eventId"].upper(),
        "occurredAt": "2026-01-31T10:30:00.000+01:00",
        "claimIds": ["b\u200b", "\u00e9 "],
        "skippedClaims": None,
        "unknown": [1.0],
    }
    one, other = (decode(RunFinished, json.dumps(each).encode()) for each in (sent, again))
    for batch in [[one, other]] if in_one_batch else [[one], [other]]:
        await store_finished(connection, batch)
    assert [each[3] for each in await log_entries(connection)] == [one.payload]
    run = await connection.fetchrow("SELECT claim_count, has_conflict FROM export_runs")
    assert run is not None
    assert tuple(run) == (2, False)


EVENT_ID = str(uuid4())


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"triggeredBy": "bob"}, id="another value"),
        pytest.param({"unknown": 1}, id="one more unknown field"),
        pytest.param({"runId": str(uuid4())}, id="another run"),
        pytest.param({"orgId": "org-2"}, id="another organisation"),
    ],
)
@pytest.mark.parametrize("in_one_batch", [True, False], ids=["in one batch", "later"])
async def test_another_payload_with_a_stored_event_id_is_refused(
    connection: Connection, changed: Json, in_one_batch: bool
) -> None:
    """The whole batch is refused: the worker then stores its parts one by one."""
    first = run_created(eventId=EVENT_ID)
    one, other = (decode(RunCreated, json.dumps(each).encode()) for each in (first, first | changed))
    batch = [created_event(), other]
    if in_one_batch:
        batch.insert(0, one)
    else:
        await store_created(connection, [one])
    before = await log_entries(connection)
    with pytest.raises(EventRefused) as refused:
        await store_created(connection, batch)
    assert refused.value.code is DeadLetterCode.EVENT_ID_REUSED
    assert EVENT_ID in refused.value.detail
    assert await log_entries(connection) == before
    assert await connection.fetchval("SELECT count(*) FROM export_runs") == len(before)


async def test_another_type_with_a_stored_event_id_is_refused(connection: Connection) -> None:
    """One body can be a valid event of both types, but these are two events."""
    body = json.dumps(run_created() | run_finished()).encode()
    await store_created(connection, [decode(RunCreated, body)])
    with pytest.raises(EventRefused) as refused:
        await store_finished(connection, [decode(RunFinished, body)])
    assert refused.value.code is DeadLetterCode.EVENT_ID_REUSED
    assert len(await log_entries(connection)) == 1


async def test_a_run_of_another_organisation_is_refused_and_not_logged(connection: Connection) -> None:
    run_id = str(uuid4())
    await store_created(connection, [created_event(runId=run_id)])
    before = await log_entries(connection)
    with pytest.raises(EventRefused) as of_start:
        await store_created(connection, [created_event(), created_event(runId=run_id, orgId="org-2")])
    with pytest.raises(EventRefused) as of_end:
        await store_finished(connection, [finished_event(), finished_event(runId=run_id, orgId="org-2")])
    assert {of_start.value.code, of_end.value.code} == {DeadLetterCode.RUN_OF_OTHER_ORGANISATION}
    assert await log_entries(connection) == before
    assert await connection.fetchval("SELECT count(*) FROM export_run_claims") == 0
