"""Writes by request: safe to repeat, refused where they contradict, and never half done."""

import asyncio
import json
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest

from handlers.claims import check_claims
from handlers.connection import Connection
from handlers.errors import RequestRefused
from handlers.events import store_created, store_finished
from handlers.locking import lock_runs_and_claims
from handlers.writes import create_export_run, delete_export_run, update_export_run_status
from schema.decoding import decode
from schema.errors import ErrorCode
from schema.events import RunCreated, RunFinished, RunStatus
from schema.fields import WireModel
from schema.requests import CheckClaims, CreateExportRun, DeleteExportRun, UpdateExportRunStatus
from schema.results import CheckedClaims, ExportRun
from tests.integration.conftest import until_blocked
from tests.wire import run_created, run_finished
from worker.database import Failure, meaning_of

Model = TypeVar("Model", bound=WireModel)

TIMES = 20


def decoded(model: type[Model], **fields: Any) -> Model:
    return decode(model, json.dumps(fields, default=str).encode())


async def create(connection: Connection, **fields: Any) -> ExportRun:
    least = {"orgId": "org-1", "triggeredBy": "alice", "format": "csv"}
    return await create_export_run(connection, decoded(CreateExportRun, **(least | fields)))


async def update(connection: Connection, run_id: UUID, status: str, *claim_ids: str, **fields: Any) -> ExportRun:
    request = decoded(UpdateExportRunStatus, runId=run_id, status=status, claimIds=claim_ids, **fields)
    return await update_export_run_status(connection, request)


async def delete(connection: Connection, run_id: UUID, **fields: Any) -> ExportRun:
    request = decoded(DeleteExportRun, **{"runId": run_id, "deletedBy": "bob", "reason": "a test", **fields})
    return await delete_export_run(connection, request)


async def checked(connection: Connection, *claim_ids: str) -> CheckedClaims:
    [checked] = await check_claims(connection, [CheckClaims(org_id="org-1", claim_ids=list(claim_ids))])
    return checked


async def stored(connection: Connection) -> list[Any]:
    """Everything there is."""
    return [
        await connection.fetch("SELECT * FROM export_run_events ORDER BY event_id"),
        await connection.fetch("SELECT * FROM export_runs ORDER BY run_id"),
        await connection.fetch("SELECT * FROM export_run_claims ORDER BY run_id, claim_id"),
    ]


async def log_rows(connection: Connection) -> int:
    count: int = await connection.fetchval("SELECT count(*) FROM export_run_events")
    return count


async def refused(code: ErrorCode, connection: Connection, write: Any) -> list[str]:
    """The fields that a write is refused for; nothing must have been stored."""
    before = await stored(connection)
    with pytest.raises(RequestRefused) as raised:
        await write
    assert raised.value.code is code
    assert await stored(connection) == before
    return [detail.field for detail in raised.value.details]


async def test_a_run_that_is_created_gets_an_id(connection: Connection) -> None:
    one, two = await create(connection), await create(connection)
    assert one.run_id != two.run_id
    assert (one.status, one.claim_count, one.has_conflict) == (RunStatus.PENDING, 0, False)


async def test_creating_again_gives_the_same_run(connection: Connection) -> None:
    facts = {"runId": uuid4(), "targetSystem": "ledger", "periodStart": "2026-01-01"}
    first = await create(connection, **facts)
    assert await create(connection, **facts, unknown=1) == first
    assert first.run_id == facts["runId"]
    assert await log_rows(connection) == 1


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
async def test_creating_with_other_facts_is_refused(connection: Connection, changed: dict[str, Any]) -> None:
    run = await create(connection)
    write = create(connection, runId=run.run_id, **changed)
    assert await refused(ErrorCode.CONFLICT, connection, write) == ["runId"]


async def test_a_created_run_that_has_gone_on_can_still_be_created_again(connection: Connection) -> None:
    run = await create(connection)
    finished = await update(connection, run.run_id, "completed", "c-1")
    assert await create(connection, runId=run.run_id) == finished


async def test_of_two_that_create_one_run_with_other_facts_one_wins(connection: Connection, other: Connection) -> None:
    for _ in range(TIMES):
        run_id = uuid4()
        answers = await asyncio.gather(
            create(connection, runId=run_id, format="csv"),
            create(other, runId=run_id, format="xml"),
            return_exceptions=True,
        )
        [won] = [answer for answer in answers if isinstance(answer, ExportRun)]
        [lost] = [answer for answer in answers if isinstance(answer, RequestRefused)]
        assert lost.code is ErrorCode.CONFLICT
        [row] = await connection.fetch("SELECT * FROM export_runs WHERE run_id = $1", run_id)
        assert (row["format"], row["has_conflict"]) == (won.format, False)
    assert await log_rows(connection) == TIMES


async def test_two_that_create_the_same_both_have_it(connection: Connection, other: Connection) -> None:
    for _ in range(TIMES):
        run_id = uuid4()
        one, two = await asyncio.gather(create(connection, runId=run_id), create(other, runId=run_id))
        assert one == two
    assert await log_rows(connection) == TIMES


async def test_two_that_finish_one_run_with_other_claims_one_wins(connection: Connection, other: Connection) -> None:
    for _ in range(TIMES):
        run_id = (await create(connection)).run_id
        answers = await asyncio.gather(
            update(connection, run_id, "completed", "c-1"),
            update(other, run_id, "completed", "c-2"),
            return_exceptions=True,
        )
        [won] = [answer for answer in answers if isinstance(answer, ExportRun)]
        [lost] = [answer for answer in answers if isinstance(answer, RequestRefused)]
        assert (won.claim_count, won.has_conflict, lost.code) == (1, False, ErrorCode.CONFLICT)
    assert await log_rows(connection) == 2 * TIMES


async def test_who_finishes_a_run_and_waits_for_its_claims_holds_no_row(
    connection: Connection, other: Connection
) -> None:
    """Rows come after claims in the order of locks: or an event that has the claims could wait for the row."""
    run_id = (await create(connection)).run_id
    async with other.transaction():
        await lock_runs_and_claims(other, [], [("org-1", ["c-1"])])
        finishing = asyncio.create_task(update(connection, run_id, "completed", "c-1"))
        await until_blocked(other, connection)
        await other.execute("SELECT FROM export_runs WHERE run_id = $1 FOR UPDATE NOWAIT", run_id)
    assert (await finishing).status == "completed"


async def test_a_create_waits_for_an_event_under_way(connection: Connection, other: Connection) -> None:
    """Another organisation's event takes the run id between the look and the write."""
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
    assert await log_rows(connection) == 1


async def test_creating_after_an_early_end_fills_in_the_start(connection: Connection) -> None:
    event = decoded(RunFinished, **run_finished(claimIds=["c-1"]))
    await store_finished(connection, [event])
    run = await create(connection, runId=event.run_id)
    assert (run.triggered_by, run.status, run.claim_count) == ("alice", RunStatus.COMPLETED, 1)
    assert (run.finished_at, run.has_conflict) == (event.occurred_at, False)


async def test_creating_what_an_event_has_created_is_a_repetition(connection: Connection) -> None:
    event = decoded(RunCreated, **run_created())
    await store_created(connection, [event])
    run = await create(connection, runId=event.run_id)
    assert run.created_at == event.occurred_at
    assert await log_rows(connection) == 1


async def test_updating_again_changes_nothing(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    first = await update(connection, run_id, "partial", "c-1", "c-2", externalAckId="ack-1")
    before = await stored(connection)
    again = await update(connection, run_id, "partial", "c-2", "c-1", "c-1", externalAckId="ack-1")
    assert again == first
    assert await stored(connection) == before


@pytest.mark.parametrize(
    ("lower", "higher"), [("failed", "partial"), ("failed", "completed"), ("partial", "completed")]
)
async def test_a_status_goes_up_and_never_down(connection: Connection, lower: str, higher: str) -> None:
    run_id = (await create(connection)).run_id
    first = await update(connection, run_id, lower, "c-1")
    risen = await update(connection, run_id, higher, "c-1", "c-2")
    assert (first.status, risen.status, risen.claim_count) == (lower, higher, 2)
    write = update(connection, run_id, lower, "c-1")
    assert await refused(ErrorCode.CONFLICT, connection, write) == ["status"]


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
async def test_the_same_status_with_other_facts_is_refused(connection: Connection, changed: dict[str, Any]) -> None:
    run_id = (await create(connection)).run_id
    facts = {"runId": run_id, "status": "completed", "claimIds": ["c-1", "c-2"]}
    await update_export_run_status(connection, decoded(UpdateExportRunStatus, **facts))
    write = update_export_run_status(connection, decoded(UpdateExportRunStatus, **(facts | changed)))
    assert await refused(ErrorCode.CONFLICT, connection, write) == ["status"]


async def test_an_unknown_run_is_neither_finished_nor_deleted(connection: Connection) -> None:
    for write in (update(connection, uuid4(), "completed", "c-1"), delete(connection, uuid4())):
        assert await refused(ErrorCode.RUN_NOT_FOUND, connection, write) == []


async def test_a_run_of_another_organisation_is_as_good_as_unknown(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    for write in (
        update(connection, run_id, "completed", "c-1", orgId="org-2"),
        delete(connection, run_id, orgId="org-2"),
    ):
        assert await refused(ErrorCode.RUN_NOT_FOUND, connection, write) == []
    assert (await update(connection, run_id, "completed", orgId="org-1")).status == "completed"
    assert (await delete(connection, run_id, orgId="org-1")).deleted_by == "bob"


async def test_deleting_twice_changes_nothing(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    first = await delete(connection, run_id)
    assert first.deleted_at is not None
    before = await stored(connection)
    assert await delete(connection, run_id) == first
    assert await stored(connection) == before
    for changed in ({"deletedBy": "carol"}, {"reason": "another"}):
        assert await refused(ErrorCode.CONFLICT, connection, delete(connection, run_id, **changed)) == ["runId"]


async def test_deleting_never_reopens_a_claim(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    await update(connection, run_id, "completed", "c-1", skippedClaims=[{"claimId": "c-2", "reason": "r"}])
    before = await checked(connection, "c-1", "c-2", "c-3")
    await delete(connection, run_id)
    assert await checked(connection, "c-1", "c-2", "c-3") == before
    assert [claim.claim_id for claim in before.exported] == ["c-1"]


async def test_a_failed_run_leaves_its_claims_to_the_next(connection: Connection) -> None:
    failed, retry = (await create(connection)).run_id, (await create(connection)).run_id
    await update(connection, failed, "failed", "c-1", "c-2")
    assert (await checked(connection, "c-1", "c-2")).unexported == ["c-1", "c-2"]
    await update(connection, retry, "completed", "c-1")
    after = await checked(connection, "c-2", "c-1")
    assert after.unexported == ["c-2"]
    assert [(claim.claim_id, [run.run_id for run in claim.runs]) for claim in after.exported] == [("c-1", [retry])]


async def test_a_long_error_detail_is_cut_in_the_row_and_whole_in_the_log(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    error = {"code": "E", "detail": "\U0001f4b8" * 1_999 + "xy" + "z" * 999}
    run = await update(connection, run_id, "failed", error=error)
    assert run.error is not None
    assert run.error.detail == "\U0001f4b8" * 1_999 + "x"
    payload = await connection.fetchval("SELECT payload FROM export_run_events WHERE event_type = 'run-finished'")
    assert json.loads(payload)["error"] == error
    assert await update(connection, run_id, "failed", error=error) == run
    error["detail"] = error["detail"][:2_500]
    assert await refused(ErrorCode.CONFLICT, connection, update(connection, run_id, "failed", error=error))


async def test_the_largest_end_there_is(connection: Connection) -> None:
    """50,000 claims, and as many skipped."""
    run_id = (await create(connection)).run_id
    skipped = [{"claimId": f"s-{number}", "reason": "r"} for number in range(50_000)]
    run = await update(
        connection, run_id, "partial", *(f"c-{number}" for number in range(50_000)), skippedClaims=skipped
    )
    assert (run.claim_count, run.skipped_count) == (50_000, 50_000)
    after = await checked(connection, "c-0", "c-49999", "s-0")
    assert ([claim.claim_id for claim in after.exported], after.unexported) == (["c-0", "c-49999"], ["s-0"])


async def test_a_migration_under_a_running_worker_breaks_no_write(connection: Connection, other: Connection) -> None:
    """Its prepared statements know the old columns: the write passes, or may be tried again."""
    run_id = (await create(connection)).run_id
    await other.execute("ALTER TABLE export_runs ADD COLUMN added_later text")
    [answer] = await asyncio.gather(update(connection, run_id, "completed", "c-1"), return_exceptions=True)
    if isinstance(answer, BaseException):
        assert meaning_of(answer) is Failure.UNAVAILABLE
    assert (await update(connection, run_id, "completed", "c-1")).status == "completed"
