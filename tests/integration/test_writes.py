"""Writes by request: safe to repeat, refused where they contradict, and never half done."""

import asyncio
import json
import tracemalloc
from typing import Any
from uuid import UUID, uuid4

import pytest

from handlers.errors import RequestRefused
from handlers.locking import lock_runs_and_claims
from handlers.reservations import release_claims, reserve_claims
from handlers.writes import create_export_run, update_export_run_status
from schema.errors import ErrorCode
from schema.events import RunCreated, RunFinished, RunStatus
from schema.requests import (
    CreateExportRun,
    ReleaseClaims,
    ReserveClaims,
    UpdateExportRunStatus,
)
from schema.results import ExportRun
from sql.connection import Connection
from tests.integration.conftest import until_blocked
from tests.integration.requests import check, create, decoded, delete, update
from tests.storing import store_created, store_finished
from tests.wire import run_created, run_finished
from worker.database.errors import Failure, meaning_of

TIMES = 20


async def stored_rows(connection: Connection) -> list[Any]:
    """Every row that a write may change."""
    return [
        await connection.fetch("SELECT * FROM export_run_events ORDER BY event_id"),
        await connection.fetch("SELECT * FROM export_runs ORDER BY run_id"),
        await connection.fetch("SELECT * FROM export_run_claims ORDER BY run_id, claim_id"),
    ]


async def count_log_rows(connection: Connection) -> int:
    count: int = await connection.fetchval("SELECT count(*) FROM export_run_events")
    return count


async def refused_fields(code: ErrorCode, connection: Connection, write: Any) -> list[str]:
    """The fields that a write is refused for. Asserts that nothing was stored."""
    before = await stored_rows(connection)
    with pytest.raises(RequestRefused) as raised:
        await write
    assert raised.value.code is code
    assert await stored_rows(connection) == before
    return [detail.field for detail in raised.value.details]


async def test_earlier_requests_are_compared_one_at_a_time(connection: Connection) -> None:
    """A run may have had many, each of 4 MiB."""
    run_id, size = uuid4(), 4 * 1024 * 1024
    await connection.execute(
        "INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload)"
        " SELECT gen_random_uuid(), 'run-created', 'request', $1, 'org-1', now(),"
        " json_build_object('x', repeat('x', $2)) FROM generate_series(1, 20)",
        run_id,
        size,
    )
    await create(connection)  # what is made once is there
    tracemalloc.start()
    try:
        await create(connection, runId=str(run_id), orgId="org-1")
        await create(connection, runId=str(run_id), orgId="org-1")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * size


async def test_creating_a_run_gives_it_an_id(connection: Connection) -> None:
    one, two = await create(connection), await create(connection)
    assert one.run_id != two.run_id
    assert (one.status, one.claim_count, one.has_conflict) == (RunStatus.PENDING, 0, False)


async def test_creating_a_run_twice_gives_the_same_run(connection: Connection) -> None:
    fields = {"runId": uuid4(), "targetSystem": "ledger", "periodStart": "2026-01-01"}
    first = await create(connection, **fields)
    assert await create(connection, **fields, unknown=1) == first
    assert first.run_id == fields["runId"]
    assert await count_log_rows(connection) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"triggeredBy": "bob"},
        {"format": "xml"},
        {"targetSystem": "ledger"},
        {"periodEnd": "2026-01-31"},
        {"retryOfRunId": str(uuid4())},
        {"override": {"reason": "r", "approvedBy": "bob"}},
        {"orgId": "org-2"},
    ],
    ids=lambda changed: next(iter(changed)),
)
async def test_creating_a_run_twice_with_different_fields_is_refused(
    connection: Connection, changed: dict[str, Any]
) -> None:
    run = await create(connection)
    write = create(connection, runId=run.run_id, **changed)
    assert await refused_fields(ErrorCode.CONFLICT, connection, write) == ["runId"]


async def test_creating_a_run_again_after_its_end_gives_the_run(connection: Connection) -> None:
    run = await create(connection)
    run_at_end = await update(connection, run.run_id, "completed", "c-1")
    assert await create(connection, runId=run.run_id) == run_at_end


async def test_of_two_clients_that_create_one_run_differently_one_wins(
    connection: Connection, other: Connection
) -> None:
    for _ in range(TIMES):
        run_id = uuid4()
        answers = await asyncio.gather(
            create(connection, runId=run_id, format="csv"),
            create(other, runId=run_id, format="xml"),
            return_exceptions=True,
        )
        [winner] = [answer for answer in answers if isinstance(answer, ExportRun)]
        [loser] = [answer for answer in answers if isinstance(answer, RequestRefused)]
        assert loser.code is ErrorCode.CONFLICT
        [row] = await connection.fetch("SELECT * FROM export_runs WHERE run_id = $1", run_id)
        assert (row["format"], row["has_conflict"]) == (winner.format, False)
    assert await count_log_rows(connection) == TIMES


async def test_two_clients_that_create_the_same_run_both_get_it(connection: Connection, other: Connection) -> None:
    for _ in range(TIMES):
        run_id = uuid4()
        one, two = await asyncio.gather(create(connection, runId=run_id), create(other, runId=run_id))
        assert one == two
    assert await count_log_rows(connection) == TIMES


async def test_of_two_clients_that_finish_one_run_differently_one_wins(
    connection: Connection, other: Connection
) -> None:
    for _ in range(TIMES):
        run_id = (await create(connection)).run_id
        answers = await asyncio.gather(
            update(connection, run_id, "completed", "c-1"),
            update(other, run_id, "completed", "c-2"),
            return_exceptions=True,
        )
        [winner] = [answer for answer in answers if isinstance(answer, ExportRun)]
        [loser] = [answer for answer in answers if isinstance(answer, RequestRefused)]
        assert (winner.claim_count, winner.has_conflict, loser.code) == (1, False, ErrorCode.CONFLICT)
    assert await count_log_rows(connection) == 2 * TIMES


async def test_finishing_a_run_holds_no_row_while_it_waits_for_claims(
    connection: Connection, other: Connection
) -> None:
    """Claims are locked before rows. Otherwise an event that has locked the claims could wait for the row."""
    run_id = (await create(connection)).run_id
    async with other.transaction():
        await lock_runs_and_claims(other, [], [("org-1", ["c-1"])])
        finishing = asyncio.create_task(update(connection, run_id, "completed", "c-1"))
        await until_blocked(other, connection)
        await other.execute("SELECT FROM export_runs WHERE run_id = $1 FOR UPDATE NOWAIT", run_id)
    assert (await finishing).status == "completed"


async def test_creating_a_run_waits_for_the_transaction_of_an_event(connection: Connection, other: Connection) -> None:
    """Another organisation's event takes the run id after the request has looked for the run and before it writes."""
    event = decoded(RunCreated, **run_created(orgId="org-2"))
    under_way = other.transaction()
    await under_way.start()
    await store_created(other, [event])
    creating = asyncio.create_task(create(connection, runId=event.run_id))
    await until_blocked(other, connection)
    await under_way.commit()
    with pytest.raises(RequestRefused) as raised:
        await creating
    assert raised.value.code is ErrorCode.CONFLICT
    assert await count_log_rows(connection) == 1


async def test_creating_a_run_after_its_end_event_fills_in_its_start(connection: Connection) -> None:
    event = decoded(RunFinished, **run_finished(claimIds=["c-1"]))
    await store_finished(connection, [event])
    run = await create(connection, runId=event.run_id)
    assert (run.triggered_by, run.status, run.claim_count) == ("alice", RunStatus.COMPLETED, 1)
    assert (run.finished_at, run.has_conflict) == (event.occurred_at, False)


async def test_creating_a_run_that_an_event_created_is_logged_once(connection: Connection) -> None:
    event = decoded(RunCreated, **run_created())
    await store_created(connection, [event])
    run = await create(connection, runId=event.run_id)
    assert run.created_at == event.occurred_at
    assert await count_log_rows(connection) == 2
    await create(connection, runId=event.run_id)
    assert await count_log_rows(connection) == 2


async def test_updating_twice_changes_nothing(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    first = await update(connection, run_id, "partial", "c-1", "c-2", externalAckId="ack-1")
    before = await stored_rows(connection)
    second = await update(connection, run_id, "partial", "c-2", "c-1", externalAckId="ack-1")
    assert second == first
    assert await stored_rows(connection) == before


@pytest.mark.parametrize(
    ("lower", "higher"), [("failed", "partial"), ("failed", "completed"), ("partial", "completed")]
)
async def test_a_status_rises_and_never_falls(connection: Connection, lower: str, higher: str) -> None:
    run_id = (await create(connection)).run_id
    first = await update(connection, run_id, lower, "c-1")
    risen = await update(connection, run_id, higher, "c-1", "c-2")
    assert (first.status, risen.status, risen.claim_count) == (lower, higher, 2)
    write = update(connection, run_id, lower, "c-2")
    assert await refused_fields(ErrorCode.CONFLICT, connection, write) == ["status"]


@pytest.mark.parametrize(
    "changed",
    [
        {"claimIds": ["c-1"]},
        {"skippedClaims": [{"claimId": "c-3", "reason": "r"}]},
        {"error": {"code": "E", "detail": ""}},
        {"artifact": {"key": "k", "sha256": "s", "sizeBytes": 1}},
        {"externalAckId": "ack-1"},
    ],
    ids=lambda changed: next(iter(changed)),
)
async def test_the_same_status_with_different_fields_is_refused(
    connection: Connection, changed: dict[str, Any]
) -> None:
    run_id = (await create(connection)).run_id
    fields = {"runId": run_id, "status": "completed", "claimIds": ["c-1", "c-2"]}
    await update_export_run_status(connection, decoded(UpdateExportRunStatus, **fields))
    write = update_export_run_status(connection, decoded(UpdateExportRunStatus, **(fields | changed)))
    assert await refused_fields(ErrorCode.CONFLICT, connection, write) == ["status"]


async def test_finishing_or_deleting_an_unknown_run_is_refused(connection: Connection) -> None:
    for write in (update(connection, uuid4(), "completed", "c-1"), delete(connection, uuid4())):
        assert await refused_fields(ErrorCode.RUN_NOT_FOUND, connection, write) == []


async def test_a_run_of_another_organisation_is_refused_as_unknown(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    for write in (
        update(connection, run_id, "completed", "c-1", orgId="org-2"),
        delete(connection, run_id, orgId="org-2"),
    ):
        assert await refused_fields(ErrorCode.RUN_NOT_FOUND, connection, write) == []
    assert (await update(connection, run_id, "completed", orgId="org-1")).status == "completed"
    assert (await delete(connection, run_id, orgId="org-1")).deleted_by == "bob"


async def test_deleting_twice_changes_nothing(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    first = await delete(connection, run_id)
    assert first.deleted_at is not None
    before = await stored_rows(connection)
    assert await delete(connection, run_id) == first
    assert await stored_rows(connection) == before
    for changed in ({"deletedBy": "carol"}, {"reason": "another"}):
        assert await refused_fields(ErrorCode.CONFLICT, connection, delete(connection, run_id, **changed)) == ["runId"]


async def test_deleting_a_run_changes_no_answer_about_its_claims(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    await update(connection, run_id, "completed", "c-1", skippedClaims=[{"claimId": "c-2", "reason": "r"}])
    before = await check(connection, "c-1", "c-2", "c-3")
    await delete(connection, run_id)
    after = await check(connection, "c-1", "c-2", "c-3")
    assert (after.exported, after.reserved, after.unexported) == (before.exported, before.reserved, before.unexported)
    assert [claim.claim_id for claim in before.exported] == ["c-1"]


async def test_claims_of_a_failed_run_can_be_exported_by_the_next_run(connection: Connection) -> None:
    failed, retry = (await create(connection)).run_id, (await create(connection)).run_id
    await update(connection, failed, "failed", "c-1", "c-2")
    assert (await check(connection, "c-1", "c-2")).unexported == ["c-1", "c-2"]
    await update(connection, retry, "completed", "c-1")
    after = await check(connection, "c-2", "c-1")
    assert after.unexported == ["c-2"]
    assert [(claim.claim_id, [run.run_id for run in claim.runs]) for claim in after.exported] == [("c-1", [retry])]


async def test_a_long_error_detail_is_shortened_in_the_row_but_not_in_the_log(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    error = {"code": "E", "detail": "\U0001f4b8" * 1_999 + "xy" + "z" * 999}
    run = await update(connection, run_id, "failed", error=error)
    assert run.error is not None
    assert run.error.detail == "\U0001f4b8" * 1_999 + "…"
    assert run.error.detail_truncated
    payload = await connection.fetchval("SELECT payload FROM export_run_events WHERE event_type = 'run-finished'")
    assert json.loads(payload)["error"] == error
    assert await update(connection, run_id, "failed", error=error) == run
    error["detail"] = error["detail"][:2_500]
    assert await refused_fields(ErrorCode.CONFLICT, connection, update(connection, run_id, "failed", error=error))


async def test_the_largest_end_of_a_run_is_stored(connection: Connection) -> None:
    """It has 50,000 claims and 50,000 skipped claims."""
    run_id = (await create(connection)).run_id
    skipped = [{"claimId": f"s-{number}", "reason": "r"} for number in range(50_000)]
    run = await update(
        connection, run_id, "partial", *(f"c-{number}" for number in range(50_000)), skippedClaims=skipped
    )
    assert (run.claim_count, run.skipped_count) == (50_000, 50_000)
    after = await check(connection, "c-0", "c-49999", "s-0")
    assert ([claim.claim_id for claim in after.exported], after.unexported) == (["c-0", "c-49999"], ["s-0"])


async def test_a_migration_beside_a_running_worker_breaks_no_write(connection: Connection, other: Connection) -> None:
    """The worker's prepared statements know the old columns. The write succeeds, or its client may try again."""
    run_id = (await create(connection)).run_id
    await other.execute("ALTER TABLE export_runs ADD COLUMN added_later text")
    [answer] = await asyncio.gather(update(connection, run_id, "completed", "c-1"), return_exceptions=True)
    if isinstance(answer, BaseException):
        assert meaning_of(answer) is Failure.UNAVAILABLE
    assert (await update(connection, run_id, "completed", "c-1")).status == "completed"


async def test_an_accepted_end_can_be_repeated_after_later_events(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    await update(connection, run_id, "partial", "c-1")
    await store_finished(connection, [decoded(RunFinished, **run_finished(runId=str(run_id), claimIds=["c-1", "c-2"]))])
    before = await stored_rows(connection)
    second = await update(connection, run_id, "partial", "c-1")
    assert second.status == "completed"
    assert await stored_rows(connection) == before
    write = update(connection, run_id, "partial", "c-2")
    assert await refused_fields(ErrorCode.CONFLICT, connection, write) == ["status"]


async def test_an_accepted_start_can_be_repeated_after_later_events(connection: Connection) -> None:
    run_id = uuid4()
    fields = {"triggeredBy": "alice", "format": "csv"}
    await store_created(connection, [decoded(RunCreated, **run_created(runId=str(run_id), **fields))])
    await create(connection, runId=run_id)
    earlier = run_created(runId=str(run_id), occurredAt="2020-01-01T00:00:00Z", triggeredBy="somebody else")
    await store_created(connection, [decoded(RunCreated, **earlier)])
    before = await stored_rows(connection)
    assert (await create(connection, runId=run_id)).triggered_by == "somebody else"
    assert await stored_rows(connection) == before


async def test_the_message_id_identifies_a_start_without_a_run_id(connection: Connection) -> None:
    async def create_by(message_id: str | None, **fields: Any) -> UUID:
        least = {"orgId": "org-1", "triggeredBy": "alice", "format": "csv"}
        request = decoded(CreateExportRun, **(least | fields)).with_idempotency_key(message_id)
        return (await create_export_run(connection, request)).run_id

    one = await create_by("m-1")
    assert await create_by("m-1") == one
    assert await create_by("m-2") != one
    assert await create_by("m-1", orgId="org-2") != one
    assert await create_by(None) != await create_by(None)
    assert await refused_fields(ErrorCode.CONFLICT, connection, create_by("m-1", format="pdf")) == ["runId"]


async def test_a_request_that_names_a_claim_twice_records_a_double_export(connection: Connection) -> None:
    """It does so even after an event with the same fields that named the claim once."""
    run_id = uuid4()
    await store_finished(connection, [decoded(RunFinished, **run_finished(runId=str(run_id), claimIds=["c-1"]))])
    await update(connection, run_id, "completed", "c-1")
    assert await connection.fetchval("SELECT count(*) FROM double_exported_claims") == 0
    await update(connection, run_id, "completed", "c-1", "c-1")
    await update(connection, run_id, "completed", "c-1", "c-1")
    assert await connection.fetchval("SELECT count(*) FROM double_exported_claims") == 1


async def test_deleting_a_run_that_holds_claims_is_refused(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    await reserve_claims(connection, ReserveClaims(org_id="org-1", run_id=run_id, claim_ids=["c-1"]))
    assert await refused_fields(ErrorCode.CONFLICT, connection, delete(connection, run_id)) == ["runId"]
    await release_claims(connection, ReleaseClaims(org_id="org-1", run_id=run_id))
    assert (await delete(connection, run_id)).deleted_at is not None
