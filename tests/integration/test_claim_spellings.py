"""A claim is one claim in every spelling: stored once, locked once, and answered in the caller's own spelling."""

import json
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
import pytest

from handlers.claims import check_claims
from handlers.double_exports import list_double_exports, resolve_double_export
from handlers.reservations import release_claims, reserve_claims
from handlers.runs import find_runs_by_claim_id, get_export_run_by_id
from schema.decoding import decode
from schema.fields import WireModel
from schema.requests import (
    CheckClaims,
    FindRunsByClaimId,
    GetExportRunById,
    ListDoubleExports,
    ReleaseClaims,
    ReserveClaims,
    ResolveDoubleExport,
)
from schema.results import CheckedClaims, ReservedClaims
from sql.connection import Connection
from tests.storing import finished_event, store_finished

Model = TypeVar("Model", bound=WireModel)

CAFE = "caf\u00e9"
CAFES = (CAFE, f" {CAFE}", "cafe\u0301", "ca\u200bfe\u0301", f"\ufeff{CAFE}\u00a0")


@pytest.fixture
def database_url(emptied_url: str) -> str:
    """One database per file, empty at the start of each test."""
    return emptied_url


def decoded(model: type[Model], **fields: Any) -> Model:
    return decode(model, json.dumps({"orgId": "org-1"} | fields, default=str).encode())


async def checked(connection: Connection, *claim_ids: str) -> CheckedClaims:
    [result] = await check_claims(connection, [decoded(CheckClaims, claimIds=claim_ids)])
    return result


async def reserve(connection: Connection, run_id: UUID, *claim_ids: str, **fields: Any) -> ReservedClaims:
    return await reserve_claims(connection, decoded(ReserveClaims, runId=run_id, claimIds=claim_ids, **fields))


async def export(connection: Connection, run_id: UUID, *claim_ids: str, **fields: Any) -> None:
    await store_finished(connection, [finished_event(runId=str(run_id), claimIds=claim_ids, **fields)])


@pytest.mark.parametrize("told", CAFES)
async def test_whatever_spelling_was_exported_every_spelling_is_exported(connection: Connection, told: str) -> None:
    await export(connection, uuid4(), told)
    result = await checked(connection, *CAFES, "cafe")
    assert [each.claim_id for each in result.exported] == list(CAFES)
    assert result.unexported == ["cafe"]
    conflicts = (await reserve(connection, uuid4(), *CAFES)).conflicts
    assert [(each.claim_id, each.reason) for each in conflicts] == [(each, "exported") for each in CAFES]
    assert await connection.fetchval("SELECT array_agg(claim_id) FROM export_run_claims") == [CAFE]


async def test_case_and_leading_zeros_make_another_claim(connection: Connection) -> None:
    await export(connection, uuid4(), "Taxi-007")
    assert (await checked(connection, "taxi-007", "Taxi-7", "Taxi-007")).unexported == ["taxi-007", "Taxi-7"]


async def test_one_claim_is_leased_for_all_its_spellings(connection: Connection) -> None:
    first, second = uuid4(), uuid4()
    reserved = await reserve(connection, first, f"{CAFE} ", "taxi", CAFE)
    assert (reserved.granted, reserved.conflicts) == ([f"{CAFE} ", "taxi", CAFE], [])
    assert await connection.fetchval("SELECT array_agg(claim_id ORDER BY claim_id) FROM claim_leases") == [CAFE, "taxi"]
    again = await reserve(connection, first, *CAFES, "taxi")
    assert (again.granted, again.fencing_token) == ([*CAFES, "taxi"], reserved.fencing_token)
    refused = await reserve(connection, second, "cafe\u0301", "lunch")
    assert (refused.granted, [each.claim_id for each in refused.conflicts]) == ([], ["cafe\u0301"])
    assert [each.claim_id for each in (await checked(connection, " taxi", *CAFES)).reserved] == [" taxi", *CAFES]


async def test_available_claims_are_granted_beside_conflicts_in_the_spelling_of_the_request(
    connection: Connection,
) -> None:
    holder = uuid4()
    await reserve(connection, holder, "a")
    reserved = await reserve(connection, uuid4(), "b\u200b", " a", "b", "a ", mode="available")
    assert reserved.granted == ["b\u200b", "b"]
    assert [(each.claim_id, each.run_id) for each in reserved.conflicts] == [(" a", holder), ("a ", holder)]


async def test_release_names_any_spelling_and_counts_the_claim_once(connection: Connection) -> None:
    run_id = uuid4()
    await reserve(connection, run_id, CAFE, "taxi")
    released = await release_claims(connection, decoded(ReleaseClaims, runId=run_id, claimIds=CAFES))
    assert released.released_count == 1
    assert (await checked(connection, CAFE, "taxi")).unexported == [CAFE]


async def test_an_override_is_about_the_claim(connection: Connection) -> None:
    first, second = uuid4(), uuid4()
    override = {"reason": "paid into a closed account", "approvedBy": "carol"}
    await export(connection, first, " a")
    await reserve(connection, second, "a\u200b", override=override)
    await export(connection, second, "a\u00a0")
    assert (await list_double_exports(connection, decoded(ListDoubleExports))).double_exports == []
    run = await get_export_run_by_id(connection, decoded(GetExportRunById, runId=second))
    assert (run.claim_ids, [each.claim_id for each in run.claim_overrides]) == (["a"], ["a"])
    logged = await connection.fetchval("SELECT payload FROM export_run_events WHERE event_type = 'claims-taken'")
    assert json.loads(logged)["overridden"] == [{"claimId": "a", "earlierRunId": str(first)}]


async def test_two_runs_that_spell_a_claim_differently_make_a_double_export(connection: Connection) -> None:
    await export(connection, uuid4(), "cafe\u0301")
    await export(connection, uuid4(), f"{CAFE} ")
    [found] = (await list_double_exports(connection, decoded(ListDoubleExports))).double_exports
    assert (found.claim_id, found.run_count) == (CAFE, 2)
    resolve = decoded(ResolveDoubleExport, claimId=" cafe\u0301", resolvedBy="bob", note="n", runCount=2)
    for _ in range(2):
        assert (await resolve_double_export(connection, resolve)).claim_id == " cafe\u0301"
    assert (await list_double_exports(connection, decoded(ListDoubleExports, resolved=False))).double_exports == []


async def test_two_spellings_in_one_event_are_a_claim_that_was_named_twice(connection: Connection) -> None:
    """As the same spelling twice: exported once, and recorded as a double export."""
    run_id = uuid4()
    await export(connection, run_id, "a", "a ", "b")
    [found] = (await list_double_exports(connection, decoded(ListDoubleExports))).double_exports
    assert (found.claim_id, found.repeated_in_runs) == ("a", [run_id])
    run = await get_export_run_by_id(connection, decoded(GetExportRunById, runId=run_id))
    assert (run.claim_ids, run.claim_count) == (["a", "b"], 2)


@pytest.mark.parametrize(("status", "outcome"), [("completed", "exported"), ("failed", "skipped")])
async def test_a_claim_that_is_skipped_in_another_spelling_has_one_outcome(
    connection: Connection, status: str, outcome: str
) -> None:
    skipped = [{"claimId": "\u200ba", "reason": "z"}, {"claimId": "a", "reason": "y"}]
    await export(connection, uuid4(), "a ", status=status, skippedClaims=skipped)
    rows: list[asyncpg.Record] = await connection.fetch("SELECT claim_id, outcome, skip_reason FROM export_run_claims")
    assert [tuple(row) for row in rows] == [("a", outcome, "y")]


async def test_the_runs_of_a_claim_are_found_by_any_spelling(connection: Connection) -> None:
    run_id = uuid4()
    await export(connection, run_id, CAFE)
    for spelling in CAFES:
        found = await find_runs_by_claim_id(connection, decoded(FindRunsByClaimId, claimId=spelling))
        assert [run.run_id for run in found.runs] == [run_id]


async def test_the_log_keeps_the_spelling_that_was_sent(connection: Connection) -> None:
    await export(connection, uuid4(), "ca\u200bfe\u0301 ")
    payload = await connection.fetchval("SELECT payload FROM export_run_events")
    assert json.loads(payload)["claimIds"] == ["ca\u200bfe\u0301 "]
