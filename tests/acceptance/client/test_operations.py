"""Every operation as a method of the client: results, pages, and an exception for each error code."""

import asyncio
import pickle
from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from export_runs_client import (
    ClaimDetails,
    ClaimOutcome,
    Conflict,
    ControlTotal,
    DoubleExportNotFound,
    ExportRuns,
    ExportRunsError,
    InvalidRequest,
    Override,
    ReservationMode,
    RunNotFound,
    RunStatus,
    RunTrigger,
    SkippedClaim,
)
from export_runs_client.schema.results import ConflictReason, Standing
from tests.wire import Wire, run_created, run_finished

pytestmark = pytest.mark.usefixtures("worker")

CALLS = 200


async def finished_run(runs: ExportRuns, *claim_ids: str) -> UUID:
    """A run of January that has exported these claims."""
    run = await runs.create_export_run(
        "acme", "alice", "csv", period_start=date(2026, 1, 1), period_end=date(2026, 1, 31)
    )
    await runs.update_export_run_status(run.run_id, RunStatus.COMPLETED, claim_ids)
    return run.run_id


async def test_claims_are_checked_reserved_and_released(runs: ExportRuns) -> None:
    first = await finished_run(runs, "taxi-17")
    second = uuid4()
    mode = ReservationMode.AVAILABLE
    reserved = await runs.reserve_claims("acme", second, ["taxi-17", "hotel-4"], ttl_seconds=60, mode=mode)
    assert (reserved.granted, reserved.fencing_token) == (["hotel-4"], 1)
    [conflict] = reserved.conflicts
    assert (conflict.claim_id, conflict.reason, conflict.run_id) == ("taxi-17", ConflictReason.EXPORTED, first)
    checked = await runs.check_claims("acme", ["lunch-9", "hotel-4", "taxi-17"])
    assert [claim.claim_id for claim in checked.exported] == ["taxi-17"]
    assert [(claim.claim_id, claim.run_id) for claim in checked.reserved] == [("hotel-4", second)]
    assert checked.unexported == ["lunch-9"]
    assert (await runs.release_claims("acme", second, ["hotel-4"])).released_count == 1
    assert (await runs.release_claims("acme", second)).released_count == 0
    override = Override(reason="the money came back", approved_by="bob")
    assert (await runs.reserve_claims("acme", second, ["taxi-17"], override=override)).granted == ["taxi-17"]


async def test_a_run_is_created_ended_and_deleted(runs: ExportRuns) -> None:
    run_id = str(uuid4())
    created = await runs.create_export_run(
        "acme", "alice", "csv", run_id=run_id, trigger=RunTrigger.SCHEDULED, period_start=date(2026, 1, 1)
    )
    assert (created.run_id, created.trigger, created.period_start) == (UUID(run_id), "scheduled", date(2026, 1, 1))
    ended = await runs.update_export_run_status(
        run_id,
        RunStatus.PARTIAL,
        ["bus-1"],
        skipped_claims=[SkippedClaim(claim_id="bus-2", reason="no receipt", code="NO_RECEIPT")],
        totals=[ControlTotal(currency="EUR", claim_count=1, amount="12.50")],
        claim_details=[ClaimDetails(claim_id="bus-1", voucher_id="V-1", amount="12.50", currency="EUR")],
    )
    assert (ended.status, ended.claim_count, ended.skipped_count) == (RunStatus.PARTIAL, 1, 1)
    run = await runs.get_export_run_by_id(run_id, org_id="acme")
    assert (run.claim_ids, run.skipped_claims[0].code) == (["bus-1"], "NO_RECEIPT")
    page = await runs.list_run_claims(run_id, limit=1)
    assert ([claim.voucher_id for claim in page.claims], page.next_cursor is None) == (["V-1"], False)
    assert [claim.claim_id async for claim in runs.run_claims(run_id)] == ["bus-1", "bus-2"]
    assert [claim.claim_id async for claim in runs.run_claims(run_id, outcome=ClaimOutcome.SKIPPED)] == ["bus-2"]
    deleted = await runs.delete_export_run(run_id, "carol", "a test run")
    assert deleted.deleted_by == "carol"


async def test_questions_about_a_claim_and_a_period_are_answered(runs: ExportRuns) -> None:
    run_id = await finished_run(runs, "taxi-17")
    assert [run.run_id for run in (await runs.find_runs_by_claim_id("taxi-17", org_id="acme")).runs] == [run_id]
    explained = await runs.explain_claim("acme", "taxi-17", limit=1)
    assert explained.standing is Standing.EXPORTED
    assert explained.next_cursor is not None
    entries = [entry async for entry in runs.timeline("acme", "taxi-17")]
    assert [entry.outcome for entry in entries if entry.outcome] == [ClaimOutcome.EXPORTED]
    assert entries[0] == explained.timeline[0]
    [of_period] = (await runs.check_period("acme", "2026-01-31", date(2026, 2, 1))).runs
    assert of_period.run_id == run_id
    last = (await runs.get_last_export("acme")).run
    assert (last and last.run_id) == run_id
    assert (await runs.get_last_export("acme", scope="chapter 7")).run is None


async def test_a_double_export_is_listed_and_resolved(runs: ExportRuns, wire: Wire) -> None:
    first, second = await finished_run(runs, "taxi-17"), await finished_run(runs, "taxi-17")
    [double_export] = [each async for each in runs.double_exports("acme", resolved=False)]
    assert {run.run_id for run in double_export.runs} == {first, second}
    resolved = await runs.resolve_double_export("acme", "taxi-17", "bob", "the money came back", run_count=2)
    assert resolved.resolved_by == "bob"
    assert (await runs.list_double_exports("acme", limit=1)).double_exports == [resolved]
    assert [each async for each in runs.double_exports("acme", resolved=False)] == []


async def test_the_history_is_read_run_by_run_over_all_pages(runs: ExportRuns, wire: Wire) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    created = [run_created(orgId="acme", occurredAt=(start + timedelta(hours=n)).isoformat()) for n in range(201)]
    await asyncio.gather(*(wire.publish("run-created", each) for each in created))
    for each in created:
        await wire.until_run(each["runId"])
    newest_first = [UUID(each["runId"]) for each in reversed(created)]
    assert [run.run_id async for run in runs.history("acme")] == newest_first
    filtered = runs.history("acme", created_from=start + timedelta(hours=199), triggered_by="alice")
    assert [run.run_id async for run in filtered] == newest_first[:2]
    page = await runs.get_export_history("acme", limit=3, offset=1)
    assert ([run.run_id for run in page.runs], page.total) == (newest_first[1:4], 201)
    old = runs.stale_runs(1, org_id="acme")
    assert [run.run_id async for run in old] == newest_first[::-1]
    assert len((await runs.list_stale_runs(1, limit=2)).runs) == 2


async def test_many_calls_are_on_their_way_at_the_same_time(runs: ExportRuns, wire: Wire) -> None:
    finished = run_finished(orgId="acme", claimIds=[f"c-{number}" for number in range(CALLS)])
    await wire.publish("run-finished", finished)
    await wire.until_run(finished["runId"])
    answers = await asyncio.gather(*(runs.check_claims("acme", [f"c-{n}", f"d-{n}"]) for n in range(CALLS)))
    for number, checked in enumerate(answers):
        assert [claim.claim_id for claim in checked.exported] == [f"c-{number}"]
        assert checked.unexported == [f"d-{number}"]


async def test_each_error_code_has_its_exception(runs: ExportRuns) -> None:
    with pytest.raises(RunNotFound) as not_found:
        await runs.get_export_run_by_id(uuid4())
    assert not_found.value.operation == "get-export-run-by-id"
    with pytest.raises(DoubleExportNotFound):
        await runs.resolve_double_export("acme", "taxi-17", "bob", "nothing to resolve")
    run_id = await finished_run(runs, "taxi-17")
    with pytest.raises(Conflict):
        await runs.update_export_run_status(run_id, RunStatus.FAILED, [])
    copy = pickle.loads(pickle.dumps(not_found.value))
    assert (type(copy), str(copy), copy.error.code) == (RunNotFound, str(not_found.value), "RUN_NOT_FOUND")


async def test_an_invalid_request_names_its_field(runs: ExportRuns) -> None:
    with pytest.raises(InvalidRequest, match=r"claimIds\.1: must not be blank") as invalid:
        await runs.check_claims("acme", ["taxi-17", " "])
    assert isinstance(invalid.value, ExportRunsError)
    with pytest.raises(InvalidRequest, match="createdFrom: must be an RFC 3339 time with an offset"):
        await runs.get_export_history("acme", created_from=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(InvalidRequest, match="claimIds"):
        await runs.check_claims("acme", [])


async def test_a_claim_is_answered_in_the_spelling_of_the_call(runs: ExportRuns) -> None:
    assert (await runs.check_claims("acme", [" taxi-17", "taxi-17"])).unexported == [" taxi-17", "taxi-17"]
