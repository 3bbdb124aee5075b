"""Claims that go out twice: found by whoever makes them so, listed, resolved, and put into the outbox."""

import asyncio
from itertools import combinations
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from handlers.connection import Connection
from handlers.double_exports import (
    list_double_exports,
    mark_alerts,
    resolve_double_export,
    unpublished_alerts,
)
from handlers.errors import EventRefused
from handlers.events import store_finished
from handlers.locking import CLAIM_LOCKS_MAX
from schema.decoding import InvalidBody
from schema.errors import ErrorCode
from schema.events import RunStatus
from schema.limits import DOUBLE_EXPORTS_PAGE_MAX, INT64_MAX
from schema.requests import ListDoubleExports, ResolveDoubleExport
from schema.results import DoubleExport, DoubleExports
from tests.integration.test_reservations import (
    OVERRIDE,
    ended,
    expire,
    finish,
    refusal,
    refusing,
    reserve,
    stored,
    waiting_for,
)
from tests.integration.test_writes import create, decoded, delete, update

Found = tuple[str, UUID, UUID, str]

TIMES = 10


@pytest.fixture
def database_url(emptied_url: str) -> str:
    """One database for this whole file, empty at the start of each test."""
    return emptied_url


async def found(connection: Connection) -> list[Found]:
    """Every double export, in the order of their ids."""
    rows = await connection.fetch("SELECT * FROM double_exports ORDER BY id")
    return [(row["claim_id"], row["first_run_id"], row["second_run_id"], row["found_by"]) for row in rows]


async def listed(connection: Connection, **fields: Any) -> DoubleExports:
    least = {"orgId": "org-1"}
    return await list_double_exports(connection, decoded(ListDoubleExports, **(least | fields)))


async def resolve(connection: Connection, number: int, **fields: Any) -> DoubleExport:
    least = {"id": number, "resolvedBy": "bob", "note": "money came back"}
    return await resolve_double_export(connection, decoded(ResolveDoubleExport, **(least | fields)))


async def make(connection: Connection, count: int, **fields: Any) -> list[int]:
    """So many double exports; their ids."""
    claim_ids = [f"made-{uuid4()}" for _ in range(count)]
    for _ in range(2):
        await finish(connection, uuid4(), "completed", *claim_ids, **fields)
    rows = await connection.fetch("SELECT id FROM double_exports WHERE claim_id = ANY ($1) ORDER BY id", claim_ids)
    return [row["id"] for row in rows]


# Detection


@pytest.mark.parametrize("first", ["partial", "completed"])
@pytest.mark.parametrize("second", ["partial", "completed"])
async def test_a_claim_exported_by_a_second_run_is_one(connection: Connection, first: str, second: str) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, first, "c-1", "c-2")
    assert await found(connection) == []
    await finish(connection, two, second, "c-2", "c-3")
    assert await found(connection) == [("c-2", one, two, "another-run")]


async def test_every_pair_of_runs_is_one(connection: Connection) -> None:
    runs = [uuid4() for _ in range(4)]
    for run_id in runs:
        await finish(connection, run_id, "completed", "c-1")
    pairs = {(frozenset(row[1:3]), row[0]) for row in await found(connection)}
    assert pairs == {(frozenset(pair), "c-1") for pair in combinations(runs, 2)}
    assert len(await found(connection)) == 6


async def test_the_order_number_and_batches_of_events_do_not_matter(connection: Connection) -> None:
    """Each run says what it exported up to three times, in other words; the pairs are those of the set of events."""
    for seed in range(20):
        random, org_id = Random(seed), f"org-{seed}"
        runs = [UUID(int=random.getrandbits(128)) for _ in range(3)]
        events = [
            ended(
                random.choice(runs),
                random.choice(["failed", "partial", "completed"]),
                *random.choices("abc", k=random.randint(0, 3)),
                skippedClaims=[{"claimId": claim_id, "reason": "r"} for claim_id in random.sample("abc", 1)],
                orgId=org_id,
            )
            for _ in range(random.randint(2, 6))
        ]
        deliveries = [*events, *random.choices(events, k=2)]
        random.shuffle(deliveries)
        while deliveries:
            size = random.randint(1, 3)
            await store_finished(connection, deliveries[:size])
            deliveries = deliveries[size:]
        good = [event for event in events if event.status != RunStatus.FAILED]
        expected = [
            (claim_id, frozenset(pair), "another-run")
            for claim_id in "abc"
            for pair in combinations({event.run_id for event in good if claim_id in event.claim_ids}, 2)
        ]
        expected += {
            (claim_id, frozenset([event.run_id]), "repeated-in-run")
            for event in good
            for claim_id in event.claim_ids
            if event.claim_ids.count(claim_id) > 1
        }
        rows = await connection.fetch("SELECT * FROM double_exports WHERE org_id = $1", org_id)
        seen = [
            (row["claim_id"], frozenset([row["first_run_id"], row["second_run_id"]]), row["found_by"]) for row in rows
        ]
        assert len(seen) == len(expected)
        assert set(seen) == set(expected)


async def test_two_runs_that_end_in_one_batch_are_one(connection: Connection) -> None:
    one, two = ended(uuid4(), "completed", "c-1", "c-2"), ended(uuid4(), "partial", "c-2", "c-3")
    await store_finished(connection, [one, two])
    [(claim_id, *runs, found_by)] = await found(connection)
    assert (claim_id, set(runs), found_by) == ("c-2", {one.run_id, two.run_id}, "another-run")


async def test_a_claim_named_twice_in_a_run_is_one(connection: Connection) -> None:
    for status in ("failed", "partial", "completed"):
        event = ended(uuid4(), status, f"{status}-1", f"{status}-2", f"{status}-1", f"{status}-1")
        await store_finished(connection, [event])
        await store_finished(connection, [event])
        expected = [] if status == "failed" else [(f"{status}-1", event.run_id, event.run_id, "repeated-in-run")]
        assert [each for each in await found(connection) if each[1] == event.run_id] == expected


async def test_a_claim_named_twice_by_the_second_run_is_two(connection: Connection) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1")
    await finish(connection, two, "completed", "c-1", "c-1")
    assert set(await found(connection)) == {("c-1", one, two, "another-run"), ("c-1", two, two, "repeated-in-run")}


async def test_what_failed_or_was_skipped_has_not_gone_out(connection: Connection) -> None:
    skipped = [{"claimId": claim_id, "reason": "r"} for claim_id in ("c-2", "c-3")]
    await finish(connection, uuid4(), "completed", "c-1", "c-2")
    await finish(connection, uuid4(), "failed", "c-1", "c-2")
    await finish(connection, uuid4(), "completed", skippedClaims=skipped)
    await finish(connection, uuid4(), "completed", "c-3")
    assert await found(connection) == []


async def test_a_claim_listed_as_skipped_and_as_exported_has_gone_out(connection: Connection) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1")
    await finish(connection, two, "completed", "c-1", skippedClaims=[{"claimId": "c-1", "reason": "r"}])
    assert await found(connection) == [("c-1", one, two, "another-run")]


async def test_a_failed_run_that_turns_out_to_have_paid_is_one(connection: Connection) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1")
    await finish(connection, two, "failed", "c-1")
    await finish(connection, two, "completed", "c-1")
    assert await found(connection) == [("c-1", one, two, "another-run")]
    await finish(connection, one, "failed", "c-1")
    assert len(await found(connection)) == 1


async def test_an_end_by_request_is_found_out_as_well(connection: Connection) -> None:
    one, two = (await create(connection)).run_id, (await create(connection)).run_id
    await update(connection, one, "completed", "c-1")
    await update(connection, two, "completed", "c-1", "c-2", "c-2")
    assert set(await found(connection)) == {("c-1", one, two, "another-run"), ("c-2", two, two, "repeated-in-run")}


async def test_organisations_have_claims_of_their_own(connection: Connection) -> None:
    await finish(connection, uuid4(), "completed", "c-1", orgId="org-1")
    await finish(connection, uuid4(), "completed", "c-1", orgId="org-2")
    assert await found(connection) == []


async def test_a_deleted_run_has_exported_all_the_same(connection: Connection) -> None:
    one, two = (await create(connection)).run_id, uuid4()
    await finish(connection, one, "completed", "c-1")
    await delete(connection, one)
    await finish(connection, two, "completed", "c-1")
    assert await found(connection) == [("c-1", one, two, "another-run")]


async def test_a_slow_run_whose_lease_was_taken_is_recorded_and_reported(connection: Connection) -> None:
    for slow_first in (True, False):
        slow, taker, claim_id = uuid4(), uuid4(), f"c-{slow_first}"
        await reserve(connection, slow, claim_id)
        await expire(connection, slow)
        await reserve(connection, taker, claim_id, takeExpired=True)
        first, second = (slow, taker) if slow_first else (taker, slow)
        await finish(connection, first, "completed", claim_id)
        before = await found(connection)
        await finish(connection, second, "completed", claim_id)
        assert await found(connection) == [*before, (claim_id, first, second, "another-run")]
        status = await connection.fetchval("SELECT status FROM export_runs WHERE run_id = $1", slow)
        assert status == "completed"


async def test_what_an_override_names_is_none(connection: Connection) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1", "c-2")
    await reserve(connection, two, "c-1", override=OVERRIDE)
    event = ended(two, "completed", "c-1", "c-2")
    await store_finished(connection, [event])
    assert await found(connection) == [("c-2", one, two, "another-run")]
    await finish(connection, one, "completed", "c-1", "c-2", "c-3")
    await finish(connection, two, "completed", "c-1")
    assert await found(connection) == [("c-2", one, two, "another-run")]


async def test_an_override_names_no_run_that_came_later(connection: Connection) -> None:
    """Granted against the first: a third run is not what somebody approved."""
    one, two, three = uuid4(), uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1")
    await reserve(connection, two, "c-1", override=OVERRIDE)
    await finish(connection, three, "completed", "c-1")
    await finish(connection, two, "completed", "c-1")
    assert await found(connection) == [("c-1", one, three, "another-run"), ("c-1", three, two, "another-run")]


async def test_the_override_of_run_created_names_no_claim(connection: Connection) -> None:
    one, two = uuid4(), (await create(connection, override=OVERRIDE)).run_id
    await finish(connection, one, "completed", "c-1")
    await finish(connection, two, "completed", "c-1")
    assert await found(connection) == [("c-1", one, two, "another-run")]


# What is rolled back, and two at a time


async def test_an_end_that_is_rolled_back_records_none(connection: Connection) -> None:
    await finish(connection, uuid4(), "completed", "c-1", "c-2")
    before = await stored(connection)
    async with refusing(connection, "export_run_claims", "claim_id <> 'c-3'"):
        with pytest.raises(asyncpg.CheckViolationError):
            await finish(connection, uuid4(), "completed", "c-1", "c-2", "c-2", "c-3")
    assert await stored(connection) == before


async def test_a_batch_with_an_event_that_is_refused_records_none(connection: Connection) -> None:
    elsewhere = uuid4()
    await finish(connection, elsewhere, "completed", "c-1", orgId="org-2")
    await finish(connection, uuid4(), "completed", "c-1")
    before = await stored(connection)
    with pytest.raises(EventRefused):
        await store_finished(connection, [ended(uuid4(), "completed", "c-1"), ended(elsewhere, "completed", "c-9")])
    assert await stored(connection) == before


async def test_no_end_without_its_double_exports(connection: Connection) -> None:
    await finish(connection, uuid4(), "completed", "c-1")
    before = await stored(connection)
    async with refusing(connection, "double_exports", "false"):
        with pytest.raises(asyncpg.CheckViolationError):
            await finish(connection, uuid4(), "completed", "c-1")
    assert await stored(connection) == before


@pytest.mark.parametrize("count", [1, CLAIM_LOCKS_MAX, CLAIM_LOCKS_MAX + 1])
async def test_who_ends_while_another_does_waits_and_sees_it(
    connection: Connection, other: Connection, count: int
) -> None:
    """Both ways round: the large one first, and the small one first."""
    for large_first in (True, False):
        claim_ids = [f"{large_first}-{number}" for number in range(count)]
        large, small = uuid4(), uuid4()
        in_order = [(large, claim_ids), (small, claim_ids[-1:])][:: 1 if large_first else -1]
        (one, ones), (two, twos) = in_order
        first, second = finish(connection, one, "completed", *ones), finish(other, two, "completed", *twos)
        async with waiting_for(connection, first, other, second) as waiting:
            await waiting
        assert [each for each in await found(connection) if each[0] in claim_ids] == [
            (claim_ids[-1], one, two, "another-run")
        ]


async def test_who_ends_while_another_is_rolled_back_sees_nothing(connection: Connection, other: Connection) -> None:
    under_way = connection.transaction()
    await under_way.start()
    await finish(connection, uuid4(), "completed", "c-1")
    ending = asyncio.create_task(finish(other, uuid4(), "completed", "c-1"))
    await asyncio.sleep(0.1)
    assert not ending.done()
    await under_way.rollback()
    await ending
    assert await found(connection) == []


async def test_of_two_that_end_at_the_same_time_one_sees_the_other(connection: Connection, other: Connection) -> None:
    for number in range(TIMES):
        claim_ids = [f"{number}-{claim}" for claim in range(5)]
        await asyncio.gather(
            finish(connection, uuid4(), "completed", *claim_ids),
            finish(other, uuid4(), "completed", *reversed(claim_ids)),
        )
        assert len(await found(connection)) == 5 * (number + 1)


# Listing and resolving


async def test_double_exports_come_newest_first_page_by_page(connection: Connection) -> None:
    ids = await make(connection, 7)
    await make(connection, 2, orgId="org-2")
    seen: list[int] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        page = await listed(connection, limit=3, cursor=cursor)
        seen += [each.id for each in page.double_exports]
        cursor, pages = page.next_cursor, pages + 1
        await make(connection, 1)
    assert (seen, pages) == (ids[::-1], 3)
    assert (await listed(connection, limit=10)).next_cursor is None
    assert len((await listed(connection, orgId="org-2")).double_exports) == 2
    assert (await listed(connection, orgId="org-3")).double_exports == []


async def test_a_list_may_hold_only_what_is_resolved_or_only_what_is_not(connection: Connection) -> None:
    ids = await make(connection, 4)
    for number in ids[::2]:
        await resolve(connection, number)
    for resolved, expected in ((True, ids[::2]), (False, ids[1::2]), (None, ids)):
        page = await listed(connection, resolved=resolved)
        assert [each.id for each in page.double_exports] == expected[::-1]
    page = await listed(connection, resolved=True, limit=1)
    assert ([each.id for each in page.double_exports], page.next_cursor is not None) == ([ids[2]], True)
    page = await listed(connection, resolved=True, limit=1, cursor=page.next_cursor)
    assert ([each.id for each in page.double_exports], page.next_cursor) == ([ids[0]], None)


@pytest.mark.parametrize("cursor", ["", "x", "0", "-1", "1.5", " 1", "\u0661", str(INT64_MAX + 1)])
async def test_what_is_not_a_cursor_is_refused(connection: Connection, cursor: str) -> None:
    answer = await refusal(connection, listed(connection, cursor=cursor))
    assert answer == (ErrorCode.INVALID_REQUEST, ["cursor"])


@pytest.mark.parametrize("limit", [0, DOUBLE_EXPORTS_PAGE_MAX + 1])
def test_a_page_has_a_bound(limit: int) -> None:
    with pytest.raises(InvalidBody):
        decoded(ListDoubleExports, orgId="org-1", limit=limit)
    assert decoded(ListDoubleExports, orgId="org-1", limit=DOUBLE_EXPORTS_PAGE_MAX).limit == DOUBLE_EXPORTS_PAGE_MAX


async def test_resolving_notes_who_and_why_and_is_safe_to_repeat(connection: Connection) -> None:
    [number] = await make(connection, 1)
    [before] = (await listed(connection)).double_exports
    first = await resolve(connection, number)
    assert first == before.model_copy(
        update={"resolved_by": "bob", "note": "money came back", "resolved_at": first.resolved_at}
    )
    assert first.resolved_at is not None
    after = await stored(connection)
    assert await resolve(connection, number) == first
    assert await resolve(connection, number, orgId="org-1") == first
    assert await stored(connection) == after
    logged = await connection.fetch(
        "SELECT run_id, org_id, origin FROM export_run_events WHERE event_type = 'double-export-resolved'"
    )
    assert [tuple(row) for row in logged] == [(first.second_run_id, "org-1", "request")]


@pytest.mark.parametrize("changed", [{"resolvedBy": "carol"}, {"note": "another"}])
async def test_who_resolves_what_another_has_is_refused(connection: Connection, changed: dict[str, str]) -> None:
    [number] = await make(connection, 1)
    await resolve(connection, number)
    answer = await refusal(connection, resolve(connection, number, **changed))
    assert answer == (ErrorCode.CONFLICT, ["id"])


async def test_of_two_that_resolve_one_wins(connection: Connection, other: Connection) -> None:
    for number in await make(connection, TIMES):
        answers = await asyncio.gather(
            resolve(connection, number), resolve(other, number, resolvedBy="carol"), return_exceptions=True
        )
        assert sorted(type(answer).__name__ for answer in answers) == ["DoubleExport", "RequestRefused"]


async def test_an_unknown_one_is_not_found_nor_another_organisations(connection: Connection) -> None:
    [number] = await make(connection, 1)
    for resolving in (resolve(connection, number + 1), resolve(connection, number, orgId="org-2")):
        assert await refusal(connection, resolving) == (ErrorCode.DOUBLE_EXPORT_NOT_FOUND, [])


# The outbox


async def test_alerts_wait_in_their_order_until_they_are_published(connection: Connection) -> None:
    ids = await make(connection, 5)
    async with connection.transaction():
        alerts = await unpublished_alerts(connection, 3)
        assert alerts is not None
        assert [alert.id for alert in alerts] == ids[:3]
        await mark_alerts(connection, alerts, published=True)
    async with connection.transaction():
        rest = await unpublished_alerts(connection, 100)
        assert rest is not None
        assert [alert.id for alert in rest] == ids[3:]
    [newest, *_] = (await listed(connection)).double_exports
    assert rest[-1].model_dump(exclude={"event_id", "schema_version", "occurred_at"}) == newest.model_dump(
        exclude={"detected_at", "resolved_at", "resolved_by", "note"}
    )


async def test_alerts_that_were_not_committed_come_again_and_are_the_same(connection: Connection) -> None:
    await make(connection, 2)
    under_way = connection.transaction()
    await under_way.start()
    first = await unpublished_alerts(connection, 10)
    assert first
    await mark_alerts(connection, first, published=True)
    assert await unpublished_alerts(connection, 10) == []
    await under_way.rollback()
    async with connection.transaction():
        assert await unpublished_alerts(connection, 10) == first


async def test_one_publishes_at_a_time(connection: Connection, other: Connection) -> None:
    await make(connection, 1)
    async with connection.transaction(), other.transaction():
        assert await unpublished_alerts(connection, 10)
        assert await unpublished_alerts(other, 10) is None
    async with other.transaction():
        assert await unpublished_alerts(other, 10)
