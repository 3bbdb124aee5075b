"""An export is taken back: once, in one set of words, and for ever."""

from uuid import UUID, uuid4

import pytest

from handlers.claim_explanation import explain_claim
from handlers.history import get_export_history
from handlers.purge import plan_purge, purge_run, unpurge_run
from handlers.run_claims import list_run_claims
from handlers.runs import find_runs_by_claim_id, get_export_run_by_id
from handlers.verification import verify
from schema.errors import ErrorCode
from schema.events import ClaimOutcome
from schema.limits import EVENT_CLAIMS_MAX, REPLY_BYTES_MAX, RUN_CLAIMS_PAGE_MAX, RUN_REVERSALS_MAX
from schema.replies import encode_ok_reply
from schema.requests import ExplainClaim, FindRunsByClaimId, GetExportHistory, GetExportRunById, ListRunClaims
from schema.results import ExportRunWithClaims, RunClaimReversal, RunReversal
from sql.connection import Connection
from tests.conftest import connected
from tests.integration.requests import check, create, delete
from tests.integration.reservations.conftest import (
    OVERRIDE,
    expire,
    finish,
    logged_takings,
    refusal,
    release,
    reserve,
    stored_rows,
)
from tests.integration.reversals.conftest import FACTS, outcomes, reverse


async def get_run(connection: Connection, run_id: UUID) -> ExportRunWithClaims:
    return await get_export_run_by_id(connection, GetExportRunById(run_id=run_id))


async def test_a_claim_is_free_again_and_can_be_exported_again(connection: Connection) -> None:
    first, second = uuid4(), uuid4()
    await finish(connection, first, "completed", "c-1", "c-2")
    assert await reverse(connection, first, "c-1") == ["c-1"]
    assert (await check(connection, "c-1", "c-2")).unexported == ["c-1"]
    assert (await reserve(connection, second, "c-1")).granted == ["c-1"]
    await finish(connection, second, "completed", "c-1")
    [exported] = (await check(connection, "c-1")).exported
    assert [run.run_id for run in exported.runs] == [second]


async def test_all_that_a_run_exported_is_taken_back_where_no_claims_are_named(connection: Connection) -> None:
    run_id = uuid4()
    skipped = [{"claimId": "c-3", "reason": "no receipt"}]
    await finish(connection, run_id, "partial", "c-2", "c-1", skippedClaims=skipped)
    assert await reverse(connection, run_id) == ["c-1", "c-2"]
    assert await outcomes(connection, run_id) == {"c-1": "reversed", "c-2": "reversed", "c-3": "skipped"}


async def test_claims_are_answered_in_the_spelling_of_the_request(connection: Connection) -> None:
    run_id = uuid4()
    await finish(connection, run_id, "completed", "c-1")
    assert await reverse(connection, run_id, " c-1", "c-1") == [" c-1", "c-1"]


async def test_what_the_run_has_not_exported_is_refused(connection: Connection) -> None:
    run_id, failed, pending = uuid4(), uuid4(), uuid4()
    skipped = [{"claimId": "c-2", "reason": "no receipt"}]
    await finish(connection, run_id, "completed", "c-1", skippedClaims=skipped)
    await finish(connection, failed, "failed", "c-1")
    await create(connection, runId=pending)
    for claim_id in ("c-2", "c-3"):
        conflict = ErrorCode.CONFLICT, ["claimIds.1"]
        assert await refusal(connection, reverse(connection, run_id, "c-1", claim_id)) == conflict
    for other in (failed, pending):
        assert await refusal(connection, reverse(connection, other)) == (ErrorCode.CONFLICT, ["runId"])
        assert await refusal(connection, reverse(connection, other, "c-1")) == (ErrorCode.CONFLICT, ["claimIds.0"])


async def test_a_run_of_another_organisation_is_not_found(connection: Connection) -> None:
    run_id = uuid4()
    await finish(connection, run_id, "completed", "c-1")
    for unknown in (reverse(connection, uuid4()), reverse(connection, run_id, orgId="org-2")):
        assert await refusal(connection, unknown) == (ErrorCode.RUN_NOT_FOUND, [])


@pytest.mark.parametrize("claim_ids", [(), ("c-2", "c-1")])
async def test_a_repetition_changes_nothing_and_is_answered_alike(
    connection: Connection, claim_ids: tuple[str, ...]
) -> None:
    run_id, later = uuid4(), uuid4()
    await finish(connection, run_id, "completed", "c-1", "c-2")
    answer = await reverse(connection, run_id, *claim_ids)
    await finish(connection, later, "completed", "c-1")
    before = await stored_rows(connection)
    assert await reverse(connection, run_id, *claim_ids) == answer
    assert await stored_rows(connection) == before


async def test_a_repetition_for_the_whole_run_takes_nothing_back_that_was_exported_since(
    connection: Connection,
) -> None:
    run_id = uuid4()
    await finish(connection, run_id, "partial", "c-1")
    assert await reverse(connection, run_id) == ["c-1"]
    await finish(connection, run_id, "completed", "c-1", "c-2")
    assert await reverse(connection, run_id) == ["c-1"]
    assert await outcomes(connection, run_id) == {"c-1": "reversed", "c-2": "exported"}
    assert await reverse(connection, run_id, "c-1", "c-2") == ["c-1", "c-2"]


@pytest.mark.parametrize(
    "other",
    [{"reason": "voided"}, {"reversedBy": "dave"}, {"approvedBy": "dave"}, {"externalReversalId": "R-1"}],
    ids=str,
)
async def test_another_reversal_of_what_is_reversed_is_refused(connection: Connection, other: dict[str, str]) -> None:
    run_id = uuid4()
    await finish(connection, run_id, "completed", "c-1", "c-2")
    await reverse(connection, run_id, "c-1")
    conflict = ErrorCode.CONFLICT, ["claimIds.1"]
    assert await refusal(connection, reverse(connection, run_id, "c-2", "c-1", **other)) == conflict
    assert await reverse(connection, run_id, **other) == ["c-2"]
    assert await refusal(connection, reverse(connection, run_id, reason="again")) == (ErrorCode.CONFLICT, ["runId"])


@pytest.mark.parametrize("status", ["failed", "partial", "completed"])
async def test_an_event_that_arrives_later_never_undoes_it(connection: Connection, status: str) -> None:
    run_id = uuid4()
    await finish(connection, run_id, "partial", "c-1")
    await reverse(connection, run_id)
    await finish(connection, run_id, status, "c-1")
    assert await outcomes(connection, run_id) == {"c-1": "reversed"}
    assert (await check(connection, "c-1")).unexported == ["c-1"]


async def test_an_export_by_another_run_is_never_undone_by_it(connection: Connection) -> None:
    first, second, third = uuid4(), uuid4(), uuid4()
    await finish(connection, first, "completed", "c-1")
    await finish(connection, second, "completed", "c-1")
    await reverse(connection, first)
    [exported] = (await check(connection, "c-1")).exported
    assert [run.run_id for run in exported.runs] == [second]
    [conflict] = (await reserve(connection, third, "c-1")).conflicts
    assert conflict.run_id == second


async def test_runs_and_history_show_it(connection: Connection) -> None:
    run_id = uuid4()
    await finish(connection, run_id, "completed", "c-1", "c-2")
    await reverse(connection, run_id, "c-1")
    [found] = (await find_runs_by_claim_id(connection, FindRunsByClaimId(claim_id="c-1", org_id="org-1"))).runs
    assert (found.claim_outcome, found.reversed_count) == (ClaimOutcome.REVERSED, 1)
    [found] = (await find_runs_by_claim_id(connection, FindRunsByClaimId(claim_id="c-2", org_id="org-1"))).runs
    assert found.claim_outcome is ClaimOutcome.EXPORTED
    [run] = (await get_export_history(connection, GetExportHistory(org_id="org-1"))).runs
    assert (run.claim_count, run.reversed_count) == (2, 1)
    await finish(connection, uuid4(), "completed", "c-3")
    assert (
        "reversedCount"
        not in (await get_export_history(connection, GetExportHistory(org_id="org-1", limit=1)))
        .model_dump_json()
        .split('"runs":')[1]
        .split(str(run_id))[0]
    )


async def test_the_claims_of_a_run_show_who_took_them_back(connection: Connection) -> None:
    run_id, other = uuid4(), uuid4()
    await finish(connection, run_id, "completed", "c-1", "c-2")
    await finish(connection, other, "completed", "c-1", "c-2")
    await reverse(connection, run_id, "c-2", externalReversalId="R-1")
    await reverse(connection, other, reason="another one")
    reversed_at = await connection.fetchval("SELECT reversed_at FROM export_reversals WHERE run_id = $1", run_id)
    reversal = RunClaimReversal(reversed_at, FACTS["reason"], FACTS["reversedBy"], FACTS["approvedBy"], "R-1")
    page = await list_run_claims(connection, ListRunClaims(run_id=run_id))
    assert [(claim.claim_id, claim.reversal) for claim in page.claims] == [("c-1", None), ("c-2", reversal)]
    page = await list_run_claims(connection, ListRunClaims(run_id=run_id, outcome=ClaimOutcome.REVERSED))
    assert [(claim.claim_id, claim.reversal) for claim in page.claims] == [("c-2", reversal)]


async def test_a_page_of_claims_with_long_reasons_of_reversals_fits_into_a_reply(connection: Connection) -> None:
    run_id, count = uuid4(), 4_000
    await finish(connection, run_id, "completed", *(f"c-{number:04}" for number in range(count)))
    long = {"reversedBy": '"' * 199 + "a", "approvedBy": '"' * 200, "externalReversalId": '"' * 200}
    await reverse(connection, run_id, reason='"' * 2_000, **long)
    pages: list[int] = []
    cursor = None
    while not pages or cursor:
        page = await list_run_claims(connection, ListRunClaims(run_id=run_id, limit=RUN_CLAIMS_PAGE_MAX, cursor=cursor))
        assert len(encode_ok_reply(page)) <= REPLY_BYTES_MAX
        pages.append(len(page.claims))
        cursor = page.next_cursor
    assert (len(pages), sum(pages)) == (3, count)


async def test_a_whole_run_as_large_as_an_event_may_make_it(connection: Connection) -> None:
    run_id = uuid4()
    claim_ids = [f"c-{number:05}" for number in range(EVENT_CLAIMS_MAX)]
    await finish(connection, run_id, "completed", *claim_ids)
    for _ in range(2):
        assert await reverse(connection, run_id) == claim_ids
    assert (await get_run(connection, run_id)).reversed_count == EVENT_CLAIMS_MAX


async def test_what_does_not_fit_into_a_reply_is_not_taken_back_at_once(connection: Connection) -> None:
    run_id = uuid4()
    claim_ids = [f"{number:05}{'x' * 195}" for number in range(80_000)]
    for start in range(0, len(claim_ids), 20_000):
        await finish(connection, run_id, "completed", *claim_ids[start : start + 20_000])
    assert await refusal(connection, reverse(connection, run_id)) == (ErrorCode.RESULT_TOO_LARGE, [])
    assert (await get_run(connection, run_id)).reversed_count == 0
    assert await reverse(connection, run_id, claim_ids[0]) == claim_ids[:1]


async def test_a_run_shows_its_newest_reversals(connection: Connection) -> None:
    run_id = uuid4()
    claim_ids = [f"c-{number:03}" for number in range(RUN_REVERSALS_MAX + 2)]
    await finish(connection, run_id, "completed", *claim_ids)
    assert "reversals" not in (await get_run(connection, run_id)).model_dump_json(by_alias=True)
    await reverse(connection, run_id, *claim_ids[:2], externalReversalId="R-1")
    [reversal] = (await get_run(connection, run_id)).reversals
    logged = await connection.fetchrow("SELECT * FROM export_run_events WHERE event_type = 'export-reversed'")
    assert logged is not None
    assert reversal == RunReversal(
        event_id=logged["event_id"],
        reversed_at=logged["occurred_at"],
        reason=FACTS["reason"],
        reversed_by=FACTS["reversedBy"],
        approved_by=FACTS["approvedBy"],
        external_reversal_id="R-1",
        claim_count=2,
    )
    for claim_id in claim_ids[2:]:
        await reverse(connection, run_id, claim_id, reason=claim_id)
    run = await get_run(connection, run_id)
    assert run.reversed_count == len(claim_ids)
    assert [each.reason for each in run.reversals] == claim_ids[:1:-1]


async def test_a_run_with_very_many_claims_shows_its_reversals(connection: Connection) -> None:
    run_id = uuid4()
    await finish(connection, run_id, "completed", *map(str, range(RUN_CLAIMS_PAGE_MAX + 1)))
    await reverse(connection, run_id)
    run = await get_run(connection, run_id)
    assert run.claims_next_cursor is not None
    assert [each.claim_count for each in run.reversals] == [RUN_CLAIMS_PAGE_MAX + 1]


async def test_an_explanation_names_the_reversal(connection: Connection) -> None:
    run_id, later = uuid4(), uuid4()
    await finish(connection, run_id, "completed", "c-1")
    await reverse(connection, run_id, "c-1", externalReversalId="R-1")
    explained = await explain_claim(connection, ExplainClaim(org_id="org-1", claim_id="c-1"))
    assert explained.standing == "unexported"
    rule, event, reversal = (each.model_dump(mode="json") for each in explained.because)
    assert (rule["rule"], event["outcome"]) == ("every-export-reversed", "exported")
    assert (reversal["kind"], reversal["runId"]) == ("reversal", str(run_id))
    assert (reversal["reversedBy"], reversal["approvedBy"], reversal["externalReversalId"]) == ("bob", "carol", "R-1")
    entry = explained.timeline[-1]
    assert (entry.event_type, entry.actor, entry.approved_by) == ("export-reversed", "bob", "carol")
    await reserve(connection, later, "c-1")
    explained = await explain_claim(connection, ExplainClaim(org_id="org-1", claim_id="c-1"))
    assert explained.standing == "reserved"
    assert (explained.timeline[-1].event_type, explained.timeline[-1].other_run_ids) == ("claims-taken", [run_id])


async def test_a_grant_after_a_reversal_is_recorded_once_and_withdrawn_with_the_claim(connection: Connection) -> None:
    first, second = uuid4(), uuid4()
    await finish(connection, first, "completed", "c-1", "c-2")
    await reverse(connection, first, "c-1")
    for _ in range(2):
        await reserve(connection, second, "c-1", "c-3")
    [taking] = await logged_takings(connection)
    assert taking["afterReversals"] == [{"claimId": "c-1", "reversedRunId": str(first)}]
    assert await connection.fetchval("SELECT count(*) FROM reversal_grants") == 1
    assert await release(connection, second) == 2
    assert await connection.fetchval("SELECT count(*) FROM reversal_grants") == 0


async def test_a_run_that_held_the_claim_before_the_reversal_is_not_granted_it_after_it(connection: Connection) -> None:
    """It may have exported the claim already."""
    first, second, third = uuid4(), uuid4(), uuid4()
    await reserve(connection, second, "c-1")
    await finish(connection, first, "completed", "c-1")
    await reverse(connection, first)
    await reserve(connection, second, "c-1")
    assert await logged_takings(connection) == []
    await expire(connection)
    await reserve(connection, third, "c-1", takeExpired=True)
    [taking] = await logged_takings(connection)
    assert taking["afterReversals"] == [{"claimId": "c-1", "reversedRunId": str(first)}]


async def test_a_deleted_run_can_be_reversed(connection: Connection) -> None:
    run_id = uuid4()
    await finish(connection, run_id, "completed", "c-1")
    await delete(connection, run_id)
    assert await reverse(connection, run_id) == ["c-1"]
    assert (await check(connection, "c-1")).unexported == ["c-1"]


async def test_a_purge_frees_no_claim_that_is_free_and_a_return_brings_the_reversal_back(
    connection: Connection,
) -> None:
    run_id = uuid4()
    await finish(connection, run_id, "completed", "c-1", "c-2")
    await reverse(connection, run_id, "c-1")
    plan = await plan_purge(connection, run_id)
    assert plan is not None
    assert plan.freed_claims == ["c-2"]
    await purge_run(connection, run_id, "erin")
    assert await refusal(connection, reverse(connection, run_id)) == (ErrorCode.RUN_NOT_FOUND, [])
    run = await unpurge_run(connection, run_id, "erin")
    assert run is not None
    assert (run.claim_count, run.reversed_count) == (2, 1)
    assert await outcomes(connection, run_id) == {"c-1": "reversed", "c-2": "exported"}


async def test_the_log_leads_to_the_same_tables(connection: Connection, database_url: str) -> None:
    first, second, third = uuid4(), uuid4(), uuid4()
    await finish(connection, first, "completed", "c-1", "c-2", "c-3")
    await reverse(connection, first, "c-2", "c-1")
    await reverse(connection, first, externalReversalId="R-1")
    await reserve(connection, second, "c-1")
    await release(connection, second)
    await reserve(connection, third, "c-1", "c-2", override=OVERRIDE)
    await finish(connection, third, "completed", "c-1", "c-2")
    await finish(connection, second, "completed", "c-1")
    await finish(connection, first, "failed", "c-1", occurredAt="2020-01-01T00:00:00Z")
    for run_id in (first, third):
        await purge_run(connection, run_id, "erin")
        await unpurge_run(connection, run_id, "erin")
    other = await connected(database_url)
    try:
        result = await verify(other, lambda done, total: None)
    finally:
        await other.close()
    assert result.differences == []
    assert result.row_counts["claim_reversals"] == 3
    assert result.row_counts["export_reversals"] == 2
    assert result.row_counts["reversal_grants"] == 2
