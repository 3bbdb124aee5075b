"""What the ends of runs say of vouchers, amounts and totals is stored beside the run, and costs others nothing."""

from typing import Any
from uuid import UUID

import pytest

from handlers.errors import RequestRefused
from handlers.purge import purge_run, unpurge_run
from handlers.runs import get_export_run_by_id
from schema.fields import ClaimDetails, ControlTotal
from schema.requests import GetExportRunById
from schema.results import ExportRunWithClaims
from sql.connection import Connection
from tests.integration.requests import create, update
from tests.storing import finished_event, store_finished

RUN = UUID(int=1)
DETAILS = [{"claimId": "c-1", "voucherId": "V-1", "voucherUrl": "https://x/1", "amount": "12.5", "currency": "EUR"}]
TOTALS = [{"currency": "EUR", "claimCount": 2, "amount": "19.50"}]


async def finish(connection: Connection, **fields: Any) -> ExportRunWithClaims:
    await store_finished(connection, [finished_event(runId=str(RUN), **fields)])
    return await get_export_run_by_id(connection, GetExportRunById(run_id=RUN))


async def details_in(connection: Connection) -> list[tuple[Any, ...]]:
    rows = await connection.fetch(
        "SELECT claim_id, voucher_id, voucher_url, amount::text, currency, skip_code FROM claim_details "
        "ORDER BY claim_id"
    )
    return [tuple(row) for row in rows]


async def test_details_totals_and_codes_are_stored(connection: Connection) -> None:
    skipped = [{"claimId": "c-3", "reason": "r", "code": "LATE"}]
    run = await finish(connection, totals=TOTALS, claimDetails=DETAILS, skippedClaims=skipped)
    assert (run.totals, run.totals_disagree) == ([ControlTotal(currency="EUR", claim_count=2, amount="19.50")], False)
    assert [(each.claim_id, each.code) for each in run.skipped_claims] == [("c-3", "LATE")]
    assert not run.has_conflict
    assert await details_in(connection) == [
        ("c-1", "V-1", "https://x/1", "12.5000", "EUR", None),
        ("c-3", None, None, None, None, "LATE"),
    ]


async def test_an_event_without_details_writes_none(connection: Connection) -> None:
    run = await finish(connection, skippedClaims=[{"claimId": "c-3", "reason": "r"}])
    assert (run.totals, run.totals_disagree, run.skipped_claims[0].code) == ([], False, None)
    assert await details_in(connection) == []


async def test_details_of_a_claim_that_the_run_does_not_name(connection: Connection) -> None:
    """They are in the log, and nowhere else."""
    run = await finish(connection, claimDetails=[*DETAILS, {"claimId": "c-9", "voucherId": "V-9"}])
    assert run.has_conflict
    assert [claim_id for claim_id, *_ in await details_in(connection)] == ["c-1"]
    assert "V-9" in await connection.fetchval("SELECT payload::text FROM export_run_events")


async def test_totals_that_disagree_refuse_nothing(connection: Connection) -> None:
    run = await finish(connection, totals=[TOTALS[0] | {"claimCount": 3}])
    assert (run.totals_disagree, run.status, run.has_conflict) == (True, "completed", False)


async def test_an_event_with_a_higher_status_brings_its_own_totals_and_codes(connection: Connection) -> None:
    """In whatever order they come, none is left of the event with the lower status."""
    skipped = [{"claimId": "c-3", "reason": "r", "code": "LATE"}]
    await finish(connection, status="partial", totals=TOTALS, claimDetails=DETAILS, skippedClaims=skipped)
    run = await finish(connection, status="completed")
    assert (run.totals, run.has_conflict, run.skipped_claims[0].code) == ([], True, None)
    run = await finish(connection, status="partial", totals=TOTALS, claimDetails=DETAILS)
    assert (run.totals, run.status) == ([], "completed")


async def test_a_request_that_is_repeated_in_another_spelling_is_accepted(connection: Connection) -> None:
    run = await create(connection)
    first = await update(connection, run.run_id, "completed", "c-1", "c-2", totals=TOTALS, claimDetails=DETAILS)
    details = [{**DETAILS[0], "amount": "12.5000"}]
    totals = [{**TOTALS[0], "amount": "+19.5"}]
    again = await update(connection, run.run_id, "completed", "c-2", "c-1", totals=totals, claimDetails=details)
    assert again == first
    with pytest.raises(RequestRefused):
        await update(connection, run.run_id, "completed", "c-1", "c-2", totals=TOTALS)


async def test_a_purge_removes_details_and_unpurge_brings_them_back(connection: Connection) -> None:
    run = await finish(connection, totals=TOTALS, claimDetails=DETAILS)
    before = await details_in(connection)
    await purge_run(connection, RUN, "erin")
    assert await details_in(connection) == []
    await unpurge_run(connection, RUN, "erin")
    assert await details_in(connection) == before
    assert (await get_export_run_by_id(connection, GetExportRunById(run_id=RUN))).totals == run.totals


async def test_the_longest_details_are_stored(connection: Connection) -> None:
    amount = "-" + "9" * 18 + ".9999"
    longest = {"claimId": "c-1", "voucherId": "v" * 200, "voucherUrl": "u" * 2_048, "amount": amount, "currency": "EUR"}
    await finish(connection, claimDetails=[longest])
    assert await details_in(connection) == [("c-1", "v" * 200, "u" * 2_048, amount, "EUR", None)]
    assert ClaimDetails.model_validate_json('{"claimId": "c-1"}').amount is None
