"""The claims of a run, page by page: each with its outcome, its details and its overrides."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from handlers.errors import RequestRefused
from handlers.purge import purge_run
from handlers.run_claims import list_run_claims
from schema.errors import ErrorCode
from schema.events import ClaimOutcome
from schema.requests import ListRunClaims
from schema.results import RunClaim, RunClaimOverride, RunClaimsPage
from sql.connection import Connection
from tests.storing import finished_event, store_finished

RUN, EARLIER = UUID(int=1), UUID(int=2)
GRANTED_AT = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


async def finish(connection: Connection, run_id: UUID = RUN, **fields: Any) -> None:
    await store_finished(connection, [finished_event(runId=str(run_id), **fields)])


async def page_of(connection: Connection, **fields: Any) -> RunClaimsPage:
    return await list_run_claims(connection, ListRunClaims(run_id=RUN, **fields))


async def grant(connection: Connection, claim_id: str) -> None:
    await connection.execute(
        "INSERT INTO claim_overrides (run_id, claim_id, org_id, earlier_run_id, reason, approved_by, granted_at) "
        "VALUES ($1, $2, 'org-1', $3, 'why', 'bob', $4)",
        RUN,
        claim_id,
        EARLIER,
        GRANTED_AT,
    )


def claim(claim_id: str, outcome: ClaimOutcome | None, **others: Any) -> RunClaim:
    unsaid = dict.fromkeys(("reason", "code", "voucher_id", "voucher_url", "amount", "currency", "reversal"))
    return RunClaim(claim_id, outcome, **{**unsaid, "overrides": [], **others})


async def test_all_that_is_known_of_a_claim(connection: Connection) -> None:
    await grant(connection, "c-2")
    await grant(connection, "c-9")
    await finish(
        connection,
        claimIds=["c-2", "c-1"],
        skippedClaims=[{"claimId": "c-3", "reason": "no receipt", "code": "NO_RECEIPT"}],
        claimDetails=[
            {"claimId": "c-1", "voucherId": "V-1", "voucherUrl": "https://x/1", "amount": "12.5", "currency": "EUR"}
        ],
    )
    override = RunClaimOverride(EARLIER, "why", "bob", GRANTED_AT)
    assert await page_of(connection) == RunClaimsPage(
        claims=[
            claim(
                "c-1",
                ClaimOutcome.EXPORTED,
                voucher_id="V-1",
                voucher_url="https://x/1",
                amount="12.50",
                currency="EUR",
            ),
            claim("c-2", ClaimOutcome.EXPORTED, overrides=[override]),
            claim("c-3", ClaimOutcome.SKIPPED, reason="no receipt", code="NO_RECEIPT"),
            claim("c-9", None, overrides=[override]),  # granted, and not reported
        ],
        next_cursor=None,
    )


async def test_details_are_those_of_the_event_that_counts(connection: Connection) -> None:
    details = [{"claimId": "c-1", "voucherId": "V-1"}]
    await finish(connection, status="partial", claimIds=["c-1"], claimDetails=details)
    await finish(connection, status="completed", claimIds=["c-1"])
    assert (await page_of(connection)).claims == [claim("c-1", ClaimOutcome.EXPORTED)]


async def listed(connection: Connection, limit: int, **fields: Any) -> Sequence[Sequence[str]]:
    """The claims of each page."""
    pages, cursor = [], None
    while True:
        page = await page_of(connection, limit=limit, cursor=cursor, **fields)
        pages.append([each.claim_id for each in page.claims])
        cursor = page.next_cursor
        if cursor is None:
            return pages


async def test_pages_show_each_claim_once(connection: Connection) -> None:
    names = [f"c-{number}" for number in range(5)]
    await finish(connection, claimIds=names[:3], skippedClaims=[{"claimId": each, "reason": "r"} for each in names[3:]])
    await finish(connection, EARLIER, claimIds=["c-0", "x-1"])
    assert await listed(connection, 2) == [names[:2], names[2:4], names[4:]]
    assert await listed(connection, 5) == [names]
    assert await listed(connection, 2, outcome=ClaimOutcome.EXPORTED) == [names[:2], names[2:3]]
    assert await listed(connection, 2, outcome=ClaimOutcome.SKIPPED) == [names[3:]]
    assert await listed(connection, 2, outcome=ClaimOutcome.ATTEMPTED) == [[]]


async def test_a_cursor_belongs_to_its_run_and_outcome(connection: Connection) -> None:
    await finish(connection, claimIds=["c-1", "c-2"])
    cursor = (await page_of(connection, limit=1)).next_cursor
    assert [each.claim_id for each in (await page_of(connection, cursor=cursor, org_id="org-1")).claims] == ["c-2"]
    with pytest.raises(RequestRefused) as refused:
        await page_of(connection, cursor=cursor, outcome=ClaimOutcome.EXPORTED)
    assert (refused.value.code, refused.value.details[0].field) == (ErrorCode.INVALID_REQUEST, "cursor")


async def test_a_run_that_is_not_there(connection: Connection) -> None:
    """Unknown, of another organisation, or purged: the same answer."""
    refusals = []

    async def ask(**fields: Any) -> None:
        with pytest.raises(RequestRefused) as refused:
            await page_of(connection, **fields)
        refusals.append((refused.value.code, refused.value.message))

    await ask()
    await finish(connection, claimIds=["c-1"])
    await ask(org_id="org-2")
    await purge_run(connection, RUN, "alice")
    await ask()
    assert set(refusals) == {(ErrorCode.RUN_NOT_FOUND, refusals[0][1])}
