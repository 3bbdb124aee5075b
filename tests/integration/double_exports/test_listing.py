"""Double exports, page by page, and resolved."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from handlers.cursors import encode_claim_cursor, scope_of
from schema.decoding import InvalidBody
from schema.errors import ErrorCode
from schema.limits import (
    CURSOR_CHARS_MAX,
    DOUBLE_EXPORT_RUNS_COUNTED_MAX,
    DOUBLE_EXPORT_RUNS_MAX,
    DOUBLE_EXPORTS_PAGE_MAX,
    TEXT_CHARS_MAX,
)
from schema.requests import ListDoubleExports, ResolveDoubleExport
from sql.connection import Connection
from tests.integration.double_exports.conftest import (
    alerts,
    double_export_of,
    list_page,
    log_entries,
    make_double_exports,
    resolve,
)
from tests.integration.requests import decoded
from tests.integration.reservations.conftest import OVERRIDE, end_event, finish, refusal, reserve, stored_rows
from tests.storing import store_finished

TIMES = 10

LARGEST_PAGE_S = 10
"""It takes a seventh of a second on a machine of its own."""


async def test_double_exports_come_in_the_order_of_their_claims(connection: Connection) -> None:
    claim_ids = await make_double_exports(connection, 7)
    await make_double_exports(connection, 2, orgId="org-2")
    seen: list[str] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        page = await list_page(connection, limit=3, cursor=cursor)
        seen += [each.claim_id for each in page.double_exports]
        cursor, pages = page.next_cursor, pages + 1
    assert (seen, pages) == (claim_ids, 3)
    assert (await list_page(connection, limit=7)).next_cursor is None
    assert len((await list_page(connection, orgId="org-2")).double_exports) == 2
    assert (await list_page(connection, orgId="org-3")).double_exports == []


async def test_no_page_skips_what_commits_late(connection: Connection, other: Connection) -> None:
    """Found first, committed last: an id would have been passed by then. c-3 and c-6 share no lock."""
    for _ in range(2):
        await finish(connection, uuid4(), "completed", "c-1", "c-4")
    await finish(connection, uuid4(), "completed", "c-2", "c-3")
    late = other.transaction()
    await late.start()
    await finish(other, uuid4(), "completed", "c-3")
    await finish(connection, uuid4(), "completed", "c-6")
    await finish(connection, uuid4(), "completed", "c-6")
    first = await list_page(connection, limit=1)
    await late.commit()
    second = await list_page(connection, limit=1, cursor=first.next_cursor)
    third = await list_page(connection, limit=9, cursor=second.next_cursor)
    pages = [[each.claim_id for each in page.double_exports] for page in (first, second, third)]
    assert pages == [["c-1"], ["c-3"], ["c-4", "c-6"]]


async def test_a_claim_keeps_its_place_whatever_happens_to_it(connection: Connection) -> None:
    claim_ids = await make_double_exports(connection, 4)
    first = await list_page(connection, limit=2)
    await resolve(connection, claim_ids[2])
    await finish(connection, uuid4(), "completed", claim_ids[0], claim_ids[3])
    second = await list_page(connection, limit=2, cursor=first.next_cursor)
    assert [each.claim_id for page in (first, second) for each in page.double_exports] == claim_ids


async def test_a_list_may_hold_only_what_is_resolved_or_only_what_is_not(connection: Connection) -> None:
    claim_ids = await make_double_exports(connection, 4)
    for claim_id in claim_ids[::2]:
        await resolve(connection, claim_id)
    for resolved, expected in ((True, claim_ids[::2]), (False, claim_ids[1::2]), (None, claim_ids)):
        page = await list_page(connection, resolved=resolved)
        assert [each.claim_id for each in page.double_exports] == expected
        first = await list_page(connection, resolved=resolved, limit=1)
        assert ([each.claim_id for each in first.double_exports], first.next_cursor is not None) == (expected[:1], True)
        rest = await list_page(connection, resolved=resolved, cursor=first.next_cursor)
        assert ([each.claim_id for each in rest.double_exports], rest.next_cursor) == (expected[1:], None)


async def test_a_cursor_belongs_to_its_list(connection: Connection) -> None:
    await make_double_exports(connection, 2)
    cursor = (await list_page(connection, limit=1)).next_cursor
    for other_list in ({"orgId": "org-2"}, {"resolved": False}, {"resolved": True}):
        answer = await refusal(connection, list_page(connection, cursor=cursor, **other_list))
        assert answer == (ErrorCode.INVALID_REQUEST, ["cursor"])


@pytest.mark.parametrize("cursor", ["", "x", "0", "12", "AAAAAAAAAAAAAAA", "\u0661", "A" * CURSOR_CHARS_MAX])
async def test_what_is_not_a_cursor_is_refused(connection: Connection, cursor: str) -> None:
    answer = await refusal(connection, list_page(connection, cursor=cursor))
    assert answer == (ErrorCode.INVALID_REQUEST, ["cursor"])


async def test_a_forged_cursor_with_nul_is_refused(connection: Connection) -> None:
    cursor = encode_claim_cursor("c\0", scope_of(decoded(ListDoubleExports, orgId="org-1")))
    answer = await refusal(connection, list_page(connection, cursor=cursor))
    assert answer == (ErrorCode.INVALID_REQUEST, ["cursor"])


async def test_the_longest_claims_and_organisations_have_pages(connection: Connection) -> None:
    """Four bytes per character: the cursor that holds such a claim still fits."""
    org_id, claim_ids = (
        "\U0001f680" * TEXT_CHARS_MAX,
        [f"{number}" + "\U0001f9fe" * (TEXT_CHARS_MAX - 1) for number in range(3)],
    )
    for _ in range(2):
        await finish(connection, uuid4(), "completed", *claim_ids, orgId=org_id)
    first = await list_page(connection, orgId=org_id, limit=2)
    assert first.next_cursor is not None
    assert len(first.next_cursor) <= CURSOR_CHARS_MAX
    rest = await list_page(connection, orgId=org_id, cursor=first.next_cursor)
    assert [each.claim_id for each in rest.double_exports] == claim_ids[2:]


@pytest.mark.parametrize("limit", [0, DOUBLE_EXPORTS_PAGE_MAX + 1])
def test_a_page_has_a_bound(limit: int) -> None:
    with pytest.raises(InvalidBody):
        decoded(ListDoubleExports, orgId="org-1", limit=limit)
    assert decoded(ListDoubleExports, orgId="org-1", limit=DOUBLE_EXPORTS_PAGE_MAX).limit == DOUBLE_EXPORTS_PAGE_MAX


async def test_a_record_shows_the_earliest_of_its_runs(connection: Connection) -> None:
    """By when they finished, not by when the service heard of it."""
    runs = [uuid4() for _ in range(DOUBLE_EXPORT_RUNS_MAX + 2)]
    for number, run_id in reversed(list(enumerate(runs))):
        status = "partial" if number % 2 else "completed"
        await finish(connection, run_id, status, "c-1", occurredAt=f"2026-01-{number + 1:02}T00:00:00Z")
    record = await double_export_of(connection)
    assert [run.run_id for run in record.runs] == runs[:DOUBLE_EXPORT_RUNS_MAX]
    assert [run.status.value for run in record.runs[:2]] == ["completed", "partial"]
    assert [run.finished_at.day for run in record.runs[:2]] == [1, 2]
    assert record.run_count == len(runs)


@pytest.mark.parametrize(
    ("runs", "counted"), [(DOUBLE_EXPORT_RUNS_COUNTED_MAX, True), (DOUBLE_EXPORT_RUNS_COUNTED_MAX + 1, False)]
)
async def test_runs_are_counted_up_to_a_bound(connection: Connection, runs: int, counted: bool) -> None:
    """A resolution covers all of them."""
    events = [end_event(uuid4(), "completed", "c-1") for _ in range(runs)]
    async with connection.transaction():
        for first in range(0, runs, 200):
            await store_finished(connection, events[first : first + 200])
    record = await double_export_of(connection)
    assert (record.run_count, len(record.runs)) == (runs if counted else None, DOUBLE_EXPORT_RUNS_MAX)
    await resolve(connection, "c-1", runCount=runs)
    [(_, payload)] = await log_entries(connection, "double-export-resolved")
    assert set(payload["runIds"]) == {str(event.run_id) for event in events}


# Resolving


async def test_resolving_notes_who_and_why_and_is_safe_to_repeat(connection: Connection) -> None:
    await make_double_exports(connection, 1)
    [before] = (await list_page(connection)).double_exports
    first = await resolve(connection, before.claim_id)
    assert first == before.model_copy(
        update={"resolved_by": "bob", "note": "money came back", "resolved_at": first.resolved_at}
    )
    assert first.resolved_at is not None
    assert await list_page(connection, resolved=True) == await list_page(connection)
    after = await stored_rows(connection)
    assert await resolve(connection, before.claim_id) == first
    assert await resolve(connection, before.claim_id, runCount=2) == first
    assert await stored_rows(connection) == after


async def test_the_log_says_which_claim_and_which_runs_were_resolved(connection: Connection) -> None:
    one, two, three = uuid4(), uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1")
    await reserve(connection, three, "c-1", override=OVERRIDE)
    await finish(connection, two, "completed", "c-1", "c-1")
    await resolve(connection, "c-1")
    [(entry, payload)] = await log_entries(connection, "double-export-resolved")
    assert (entry["run_id"], entry["org_id"], entry["origin"]) == (None, "org-1", "request")
    assert payload == {
        "orgId": "org-1",
        "claimId": "c-1",
        "resolvedBy": "bob",
        "note": "money came back",
        "runIds": [str(one), str(two)],
    }


async def test_a_run_that_joins_opens_a_record_again(connection: Connection) -> None:
    """It grows, and is resolved as one."""
    [claim_id] = await make_double_exports(connection, 1)
    resolved = await resolve(connection, claim_id)
    joining = uuid4()
    await finish(connection, joining, "completed", claim_id)
    record = await double_export_of(connection, claim_id)
    assert (record.resolved_at, record.resolved_by, record.note) == (None, None, None)
    assert (record.run_count, record.detected_at) == (3, resolved.detected_at)
    assert record.last_joined_at > resolved.last_joined_at
    assert [row["run_id"] for row in await alerts(connection)][-1] == joining
    await resolve(connection, claim_id, note="that one, too")
    assert [len(payload["runIds"]) for _, payload in await log_entries(connection, "double-export-resolved")] == [2, 3]


@pytest.mark.parametrize("told_again", ["the same", "other words", "a lower status"])
async def test_what_is_told_again_opens_nothing_and_alerts_nobody(connection: Connection, told_again: str) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1", "c-1")
    await finish(connection, two, "completed", "c-1", "c-2")
    resolved = await resolve(connection, "c-1")
    alerted = await alerts(connection)
    for run_id in (one, two):
        match told_again:
            case "the same":
                await finish(connection, run_id, "completed", "c-1")
            case "other words":
                await finish(connection, run_id, "partial", "c-2", "c-1", externalAckId="other")
            case _:
                await finish(connection, run_id, "failed", "c-1")
    assert await double_export_of(connection) == resolved
    expected = [] if told_again != "other words" else [["c-2"]]
    assert [row["claim_ids"] for row in await alerts(connection) if row not in alerted] == expected


@pytest.mark.parametrize("changed", [{"resolvedBy": "carol"}, {"note": "another"}])
async def test_what_another_has_resolved_is_refused(connection: Connection, changed: dict[str, str]) -> None:
    [claim_id] = await make_double_exports(connection, 1)
    await resolve(connection, claim_id)
    answer = await refusal(connection, resolve(connection, claim_id, **changed))
    assert answer == (ErrorCode.CONFLICT, ["claimId"])


async def test_a_record_that_grew_is_not_resolved_unseen(connection: Connection) -> None:
    [claim_id] = await make_double_exports(connection, 1)
    await finish(connection, uuid4(), "completed", claim_id)
    for seen in (1, 2, 4):
        answer = await refusal(connection, resolve(connection, claim_id, runCount=seen))
        assert answer == (ErrorCode.CONFLICT, ["runCount"])
    assert (await resolve(connection, claim_id, runCount=3)).resolved_by == "bob"


async def test_a_resolution_waits_for_a_run_that_joins_and_sees_it(connection: Connection, other: Connection) -> None:
    [claim_id] = await make_double_exports(connection, 1)
    joining = other.transaction()
    await joining.start()
    await finish(other, uuid4(), "completed", claim_id)
    resolving = asyncio.create_task(resolve(connection, claim_id, runCount=2))
    await asyncio.sleep(0.1)
    assert not resolving.done()
    await joining.commit()
    assert await refusal(other, resolving) == (ErrorCode.CONFLICT, ["runCount"])


async def test_of_two_that_resolve_one_wins(connection: Connection, other: Connection) -> None:
    for claim_id in await make_double_exports(connection, TIMES):
        answers = await asyncio.gather(
            resolve(connection, claim_id), resolve(other, claim_id, resolvedBy="carol"), return_exceptions=True
        )
        assert sorted(type(answer).__name__ for answer in answers) == ["DoubleExport", "RequestRefused"]


async def test_an_unknown_one_is_not_found_nor_another_organisations(connection: Connection) -> None:
    [claim_id] = await make_double_exports(connection, 1)
    for resolving in (resolve(connection, "unknown"), resolve(connection, claim_id, orgId="org-2")):
        assert await refusal(connection, resolving) == (ErrorCode.DOUBLE_EXPORT_NOT_FOUND, [])


@pytest.mark.parametrize("changed", [{"orgId": None}, {"claimId": None}, {"runCount": 0}, {"note": " "}])
def test_what_is_not_a_resolution(changed: dict[str, Any]) -> None:
    fields = {"orgId": "org-1", "claimId": "c-1", "resolvedBy": "bob", "note": "n"}
    with pytest.raises(InvalidBody) as raised:
        decoded(ResolveDoubleExport, **(fields | changed))
    assert [detail.field for detail in raised.value.details] == list(changed)


async def test_a_page_of_records_with_many_runs_each_is_quick(connection: Connection) -> None:
    """The largest page, each record with as many runs as are counted: some 200,000 exports are looked at."""
    await connection.execute(
        "INSERT INTO export_runs (run_id, org_id, created_at, status, finished_at, finished_event_id, finished_digest)"
        " SELECT lpad(to_hex(n), 32, '0')::uuid, 'org-1', now(), 'completed', now(), gen_random_uuid(), ''"
        " FROM generate_series(1, $1::integer) AS n",
        DOUBLE_EXPORT_RUNS_COUNTED_MAX,
    )
    await connection.execute(
        "INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome)"
        " SELECT 'c-' || c, 'org-1', run_id, 'exported' FROM export_runs, generate_series(1, $1::integer) AS c",
        DOUBLE_EXPORTS_PAGE_MAX,
    )
    await connection.execute(
        "INSERT INTO double_exported_claims"
        " SELECT 'org-1', 'c-' || c, now(), now() FROM generate_series(1, $1::integer) AS c",
        DOUBLE_EXPORTS_PAGE_MAX,
    )
    await connection.execute("VACUUM ANALYZE export_run_claims, export_runs, double_exported_claims")
    started = asyncio.get_running_loop().time()
    page = await list_page(connection, limit=DOUBLE_EXPORTS_PAGE_MAX)
    took_s = asyncio.get_running_loop().time() - started
    assert {each.run_count for each in page.double_exports} == {DOUBLE_EXPORT_RUNS_COUNTED_MAX}
    assert took_s < LARGEST_PAGE_S
