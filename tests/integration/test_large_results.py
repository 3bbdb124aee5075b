"""A result that is too large for a reply is refused, and not read as a whole. Each operation is tested at the edge."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import TypeAdapter

from handlers.claim_standing import EXPORTED_BY_BYTES_MIN, STANDING_ROWS_MAX
from handlers.claims import check_claims
from handlers.errors import RequestRefused
from handlers.reservations import reserve_claims
from handlers.run_claims import TEXT_BYTES_MAX, list_run_claims
from handlers.runs import find_runs_by_claim_id, get_export_run_by_id
from schema.errors import ErrorCode
from schema.events import ClaimOutcome, RunStatus
from schema.limits import FOUND_RUNS_MAX, REPLY_BYTES_MAX, RUN_CLAIMS_PAGE_MAX
from schema.replies import encode_ok_reply
from schema.requests import CheckClaims, FindRunsByClaimId, GetExportRunById, ListRunClaims, ReserveClaims
from schema.results import ExportedBy
from sql.connection import Connection

RUN = UUID(int=1)
EMOJI = "\N{MONEY WITH WINGS}"


async def add_runs(connection: Connection, count: int, **columns: Any) -> None:
    """Add finished runs with the ids 1, 2, ..., all with these columns."""
    names = "".join(f", {name}" for name in columns)
    values = "".join(f", ${place}" for place in range(2, len(columns) + 2))
    await connection.execute(
        "INSERT INTO export_runs (run_id, org_id, created_at, status, finished_at, finished_event_id, "  # noqa: S608
        f"finished_digest{names}) SELECT lpad(to_hex(number), 32, '0')::uuid, 'org-1', now(), 'completed', now(), "
        f"gen_random_uuid(), ''{values} FROM generate_series(1, $1::integer) AS number",
        count,
        *columns.values(),
    )


async def add_claims(
    connection: Connection, run_id: UUID, claim_ids: Sequence[str], skip_reasons: Sequence[str] | None = None
) -> None:
    """Add claims of a run: skipped for these reasons, or exported."""
    await connection.execute(
        "INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome, skip_reason) "
        "SELECT claim_id, 'org-1', $1, $2::claim_outcome, skip_reason "
        "FROM unnest($3::text[], $4::text[]) AS claim (claim_id, skip_reason)",
        run_id,
        "exported" if skip_reasons is None else "skipped",
        claim_ids,
        [None] * len(claim_ids) if skip_reasons is None else skip_reasons,
    )


async def assert_too_large(request: Any, *advice: str) -> None:
    """The request is refused, and the message says which request to send instead."""
    with pytest.raises(RequestRefused) as refused:
        await request
    assert refused.value.code is ErrorCode.RESULT_TOO_LARGE
    assert not refused.value.code.retryable
    assert all(each in refused.value.message for each in ("15,728,640", *advice))


async def all_claims(connection: Connection, cursor: str | None, outcome: ClaimOutcome | None = None) -> list[str]:
    """The claims of the run from a cursor to the end, page by page."""
    claim_ids: list[str] = []
    while True:
        request = ListRunClaims(run_id=RUN, limit=RUN_CLAIMS_PAGE_MAX, cursor=cursor, outcome=outcome)
        page = await list_run_claims(connection, request)
        assert len(encode_ok_reply(page)) <= REPLY_BYTES_MAX
        claim_ids += [claim.claim_id for claim in page.claims]
        if page.next_cursor is None:
            return claim_ids
        cursor = page.next_cursor


async def test_a_run_with_as_many_texts_as_one_reply_shows(connection: Connection) -> None:
    """One byte more, and the reply has the first claims and a cursor."""
    await add_runs(connection, 1)
    request = GetExportRunById(run_id=RUN)
    count, rest_bytes = divmod(TEXT_BYTES_MAX, len("s-00000") + 2_000)
    reasons = ['"' * 2_000] * count  # each takes two bytes in JSON
    await add_claims(connection, RUN, [f"s-{number:05}" for number in range(count)], reasons)
    await add_claims(connection, RUN, ["t"], ["r" * (rest_bytes - 1)])
    run = await get_export_run_by_id(connection, request)
    assert (len(run.skipped_claims), run.claims_next_cursor) == (count + 1, None)
    assert len(encode_ok_reply(run)) < REPLY_BYTES_MAX
    await add_claims(connection, RUN, ["u"])
    run = await get_export_run_by_id(connection, request)
    assert (len(run.skipped_claims), run.claim_ids) == (count + 1, [])
    assert run.claims_next_cursor is not None
    assert await all_claims(connection, run.claims_next_cursor) == ["u"]


async def test_a_run_with_more_claims_than_a_page(connection: Connection) -> None:
    await add_runs(connection, 1)
    names = [f"c-{number:05}" for number in range(RUN_CLAIMS_PAGE_MAX + 1)]
    await add_claims(connection, RUN, names)
    await connection.execute("UPDATE export_runs SET claim_count = $1", len(names))
    run = await get_export_run_by_id(connection, GetExportRunById(run_id=RUN))
    assert run.claim_ids == names[:-1]
    assert run.claims_next_cursor is not None
    assert await all_claims(connection, run.claims_next_cursor) == names[-1:]
    await connection.execute("DELETE FROM export_run_claims WHERE claim_id = $1", names[-1])
    await connection.execute("UPDATE export_runs SET claim_count = $1", len(names) - 1)
    run = await get_export_run_by_id(connection, GetExportRunById(run_id=RUN))
    assert (run.claim_ids, run.claims_next_cursor) == (names[:-1], None)


@pytest.mark.parametrize("where", ["claims", "skipped claims", "overrides"])
async def test_a_run_larger_than_a_reply(connection: Connection, where: str) -> None:
    """50,000 claims of 200 characters of four bytes each; or many long reasons; or many overrides.

    The reply has the first of them, and the pages have the rest: together each once, in order.
    """
    await add_runs(connection, 1)
    names = [f"{number:05}{EMOJI * 195}" for number in range(50_000)]
    match where:
        case "claims":
            await add_claims(connection, RUN, names)
        case "skipped claims":
            names = names[:8_000]
            await add_claims(connection, RUN, names, ["r" * 2_000] * len(names))
        case _:
            names = names[:8_000]
            await connection.execute(
                "INSERT INTO claim_overrides (run_id, claim_id, org_id, earlier_run_id, reason, approved_by) "
                "SELECT $1, claim_id, 'org-1', $1, repeat('r', 2000), 'bob' FROM unnest($2::text[]) AS t (claim_id)",
                RUN,
                names,
            )
    run = await get_export_run_by_id(connection, GetExportRunById(run_id=RUN))
    assert len(encode_ok_reply(run)) <= REPLY_BYTES_MAX
    first = [
        *run.claim_ids,
        *(claim.claim_id for claim in run.skipped_claims),
        *(override.claim_id for override in run.claim_overrides),
    ]
    assert len(first) > 1_000
    assert run.claims_next_cursor is not None
    assert first + await all_claims(connection, run.claims_next_cursor) == names


async def test_a_run_is_returned_with_all_its_overrides(connection: Connection) -> None:
    """Replies once had only the first 10,000."""
    await add_runs(connection, 1)
    await connection.execute(
        "INSERT INTO claim_overrides (run_id, claim_id, org_id, earlier_run_id, reason, approved_by) "
        "SELECT $1, 'c-' || number, 'org-1', $1, 'why', 'bob' FROM generate_series(1, 10001) AS number",
        RUN,
    )
    run = await get_export_run_by_id(connection, GetExportRunById(run_id=RUN))
    assert len(run.claim_overrides) == 10_001


async def test_a_run_with_very_many_short_overrides(connection: Connection) -> None:
    """Their texts take little of a reply, and they take much of it."""
    await add_runs(connection, 1)
    await connection.execute(
        "INSERT INTO claim_overrides (run_id, claim_id, org_id, earlier_run_id, reason, approved_by) "
        "SELECT $1, claim::text, 'org-1', lpad(to_hex(run), 32, '0')::uuid, 'r', 'b' "
        "FROM generate_series(1, 2600) AS claim CROSS JOIN generate_series(1, 21) AS run",
        RUN,
    )
    run = await get_export_run_by_id(connection, GetExportRunById(run_id=RUN))
    assert len(encode_ok_reply(run)) <= REPLY_BYTES_MAX
    assert run.claims_next_cursor is not None
    first = list(dict.fromkeys(override.claim_id for override in run.claim_overrides))
    assert first + await all_claims(connection, run.claims_next_cursor) == sorted(map(str, range(1, 2_601)))


async def test_a_claim_of_more_runs_than_a_reply_lists(connection: Connection) -> None:
    """The reply has the newest runs, and says whether there are more."""
    await add_runs(connection, FOUND_RUNS_MAX + 1, error_code="E", error_detail="d" * 2_000)
    await connection.execute(
        "INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome) "
        "SELECT 'c-1', org_id, run_id, 'exported' FROM export_runs"
    )
    found = await find_runs_by_claim_id(connection, FindRunsByClaimId(claim_id="c-1"))
    assert (len(found.runs), found.truncated) == (FOUND_RUNS_MAX, True)
    assert len(encode_ok_reply(found)) < REPLY_BYTES_MAX
    await connection.execute("DELETE FROM export_run_claims WHERE run_id = $1", RUN)
    found = await find_runs_by_claim_id(connection, FindRunsByClaimId(claim_id="c-1"))
    assert (len(found.runs), found.truncated) == (FOUND_RUNS_MAX, False)
    few = await find_runs_by_claim_id(connection, FindRunsByClaimId(claim_id="c-1", limit=3))
    assert (few.runs, few.truncated) == (found.runs[:3], True)


async def test_a_claim_with_more_exports_than_a_reply_may_have(connection: Connection) -> None:
    """A loop exported the claim again and again. Up to the bound it can be checked and reserved, above it not."""
    await add_runs(connection, STANDING_ROWS_MAX)
    await connection.execute(
        "INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome) "
        "SELECT 'c-1', org_id, run_id, 'exported' FROM export_runs"
    )
    check = CheckClaims(org_id="org-1", claim_ids=["c-1"])
    reserve = ReserveClaims(org_id="org-1", run_id=UUID(int=0), claim_ids=["c-1"])
    [checked] = await check_claims(connection, [check])
    assert len(checked.exported[0].runs) == STANDING_ROWS_MAX
    assert [conflict.reason for conflict in (await reserve_claims(connection, reserve)).conflicts] == ["exported"]
    await add_claims(connection, UUID(int=1), ["c-2"])
    check_2 = CheckClaims(org_id="org-1", claim_ids=["c-1", "c-2"])
    await assert_too_large(check_claims(connection, [check_2]), "fewer claims", "find-runs-by-claim-id")
    reserve_2 = reserve.model_copy(update={"claim_ids": ["c-1", "c-2"]})
    await assert_too_large(reserve_claims(connection, reserve_2), "fewer claims")


def test_the_fewest_bytes_that_an_export_takes_in_a_reply() -> None:
    """So that no more exports are read than fit into a reply."""
    smallest = ExportedBy(RUN, RunStatus.PARTIAL, datetime(2026, 1, 1, tzinfo=UTC))
    assert len(TypeAdapter(ExportedBy).dump_json(smallest, by_alias=True)) >= EXPORTED_BY_BYTES_MIN
