"""Reserving claims: who is granted what, for how long, and who stands in the way; then many at once."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import combinations
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

import sql
from handlers.connection import Connection
from handlers.errors import RequestRefused
from handlers.events import store_created, store_finished
from handlers.locking import CLAIM_LOCKS_MAX
from handlers.purge import purge_run
from handlers.reservations import release_claims, reserve_claims
from handlers.runs import get_export_run_by_id
from handlers.stale_runs import list_stale_runs
from schema.decoding import InvalidBody
from schema.errors import ErrorCode
from schema.events import RunCreated, RunFinished
from schema.limits import LEASE_TTL_S_DEFAULT, LEASE_TTL_S_MAX, RESERVE_CLAIMS_MAX
from schema.requests import GetExportRunById, ListStaleRuns, ReleaseClaims, ReserveClaims
from schema.results import ReservedClaims, StaleRuns
from tests.conftest import connected
from tests.integration.conftest import until_blocked
from tests.integration.test_writes import checked, create, decoded, delete
from tests.wire import POLL_S, WAIT_S, run_created, run_finished

OVERRIDE = {"reason": "the bank lost it", "approvedBy": "carol"}
TIMES = 10


@pytest.fixture
def database_url(emptied_url: str) -> str:
    """One database for this whole file, empty at the start of each test."""
    return emptied_url


async def reserve(connection: Connection, run_id: UUID, *claim_ids: str, **fields: Any) -> ReservedClaims:
    least = {"orgId": "org-1", "runId": run_id, "claimIds": claim_ids}
    return await reserve_claims(connection, decoded(ReserveClaims, **(least | fields)))


async def release(connection: Connection, run_id: UUID, *claim_ids: str, **fields: Any) -> int:
    least = {"orgId": "org-1", "runId": run_id, "claimIds": claim_ids or None}
    return (await release_claims(connection, decoded(ReleaseClaims, **(least | fields)))).released_count


def ended(run_id: UUID, status: str, *claim_ids: str, **fields: Any) -> RunFinished:
    least = run_finished(runId=str(run_id), status=status, claimIds=claim_ids)
    return decoded(RunFinished, **(least | fields))


async def finish(connection: Connection, run_id: UUID, status: str, *claim_ids: str, **fields: Any) -> None:
    await store_finished(connection, [ended(run_id, status, *claim_ids, **fields)])


async def expire(connection: Connection, *run_ids: UUID) -> None:
    """Time passes for the leases of these runs, or for all."""
    await connection.execute(
        "UPDATE claim_leases SET expires_at = expires_at - interval '2 days' "
        "WHERE cardinality($1::uuid[]) = 0 OR run_id = ANY ($1)",
        run_ids,
    )


async def holders(connection: Connection) -> dict[str, UUID]:
    """Who has which claim, expired or not."""
    rows = await connection.fetch("SELECT claim_id, run_id FROM claim_leases ORDER BY claim_id")
    return {row["claim_id"]: row["run_id"] for row in rows}


async def stored(connection: Connection) -> list[Any]:
    """Everything that a reservation or an end may write."""
    return [
        await connection.fetch("SELECT * FROM claim_leases ORDER BY org_id, claim_id"),
        await connection.fetch("SELECT * FROM claim_overrides ORDER BY run_id, claim_id, earlier_run_id"),
        await connection.fetch("SELECT * FROM double_exports ORDER BY id"),
        await connection.fetch("SELECT * FROM export_run_events ORDER BY event_id"),
        await connection.fetch("SELECT * FROM export_runs ORDER BY run_id"),
        await connection.fetch("SELECT * FROM export_run_claims ORDER BY run_id, claim_id"),
    ]


async def takings(connection: Connection) -> list[Any]:
    """What the log says of claims that were granted against an export or a lease."""
    rows = await connection.fetch(
        "SELECT payload FROM export_run_events WHERE event_type = 'claims-taken' ORDER BY received_at"
    )
    return [json.loads(row["payload"]) for row in rows]


def conflicts(reserved: ReservedClaims) -> list[tuple[str, str, UUID]]:
    return [(each.claim_id, each.reason.value, each.run_id) for each in reserved.conflicts]


async def refusal(connection: Connection, request: Awaitable[Any]) -> tuple[ErrorCode, list[str]]:
    """Why a request is refused; it must have changed nothing."""
    before = await stored(connection)
    with pytest.raises(RequestRefused) as raised:
        await request
    assert await stored(connection) == before
    return raised.value.code, [detail.field for detail in raised.value.details]


@asynccontextmanager
async def refusing(connection: Connection, table: str, condition: str) -> AsyncIterator[None]:
    """A table that takes only rows which meet a condition: what writes others fails half way."""
    await connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT broken CHECK ({condition}) NOT VALID")
    try:
        yield
    finally:
        await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT broken")


@asynccontextmanager
async def waiting_for(
    holder: Connection, first: Awaitable[Any], waiter: Connection, second: Awaitable[Any]
) -> AsyncIterator["asyncio.Future[Any]"]:
    """`first` is done and not committed, and `second` waits for it; committed on the way out."""
    under_way = holder.transaction()
    await under_way.start()
    await first
    waiting = asyncio.ensure_future(second)
    await until_blocked(holder, waiter)
    await under_way.commit()
    yield waiting


# Granting


async def test_free_claims_are_granted_in_the_order_asked_each_once(connection: Connection) -> None:
    run_id = uuid4()
    before = await connection.fetchval("SELECT clock_timestamp()")
    reserved = await reserve(connection, run_id, "c-2", "c-1", "c-2")
    after = await connection.fetchval("SELECT clock_timestamp()")
    assert (reserved.granted, reserved.conflicts) == (["c-2", "c-1"], [])
    assert reserved.expires_at is not None
    ttl = timedelta(seconds=LEASE_TTL_S_DEFAULT)
    assert before + ttl <= reserved.expires_at <= after + ttl
    assert await holders(connection) == {"c-1": run_id, "c-2": run_id}
    assert await takings(connection) == []


@pytest.mark.parametrize("ttl_s", [1, LEASE_TTL_S_MAX])
async def test_a_lease_lasts_as_long_as_asked(connection: Connection, ttl_s: int) -> None:
    before = await connection.fetchval("SELECT clock_timestamp()")
    reserved = await reserve(connection, uuid4(), "c-1", ttlSeconds=ttl_s)
    after = await connection.fetchval("SELECT clock_timestamp()")
    assert reserved.expires_at is not None
    assert before + timedelta(seconds=ttl_s) <= reserved.expires_at <= after + timedelta(seconds=ttl_s)


@pytest.mark.parametrize(
    ("field_name", "changed"),
    [
        ("ttlSeconds", {"ttlSeconds": 0}),
        ("ttlSeconds", {"ttlSeconds": LEASE_TTL_S_MAX + 1}),
        ("ttlSeconds", {"ttlSeconds": 1.5}),
        ("claimIds", {"claimIds": []}),
        ("claimIds", {"claimIds": ["c"] * (RESERVE_CLAIMS_MAX + 1)}),
        ("claimIds.0", {"claimIds": ["c\x1fc"]}),
        ("mode", {"mode": "some"}),
        ("override.approvedBy", {"override": {"reason": "r"}}),
        ("override.reason", {"override": {"reason": "", "approvedBy": "carol"}}),
        ("takeExpired", {"takeExpired": "yes"}),
    ],
)
def test_what_is_not_a_reservation(field_name: str, changed: dict[str, Any]) -> None:
    fields = {"orgId": "org-1", "runId": uuid4(), "claimIds": ["c-1"]}
    with pytest.raises(InvalidBody) as raised:
        decoded(ReserveClaims, **(fields | changed))
    assert [detail.field for detail in raised.value.details] == [field_name]


async def test_ten_thousand_claims_are_reserved_and_released(connection: Connection) -> None:
    run_id, claim_ids = uuid4(), [f"c-{number}" for number in range(RESERVE_CLAIMS_MAX)]
    reserved = await reserve(connection, run_id, *claim_ids)
    assert reserved.granted == claim_ids
    again = await reserve(connection, uuid4(), *claim_ids)
    assert (again.granted, len(again.conflicts)) == ([], RESERVE_CLAIMS_MAX)
    assert await release(connection, run_id, *claim_ids) == RESERVE_CLAIMS_MAX
    assert await holders(connection) == {}


async def test_repeating_gives_the_same_grant_and_token_and_renews(connection: Connection) -> None:
    run_id = uuid4()
    first = await reserve(connection, run_id, "c-1", "c-2", ttlSeconds=60)
    again = await reserve(connection, run_id, "c-1", "c-2", ttlSeconds=600)
    part = await reserve(connection, run_id, "c-2", ttlSeconds=6_000)
    assert (again.granted, again.fencing_token) == (first.granted, first.fencing_token)
    assert (part.granted, part.fencing_token) == (["c-2"], first.fencing_token)
    rows = await connection.fetch("SELECT expires_at, fencing_token FROM claim_leases ORDER BY claim_id")
    assert [tuple(row) for row in rows] == [(each.expires_at, first.fencing_token) for each in (again, part)]
    assert first.expires_at is not None
    assert again.expires_at is not None
    assert timedelta(seconds=539) < again.expires_at - first.expires_at < timedelta(seconds=600)


async def test_its_own_expired_lease_is_renewed_with_the_same_token(connection: Connection) -> None:
    run_id = uuid4()
    first = await reserve(connection, run_id, "c-1")
    await expire(connection)
    again = await reserve(connection, run_id, "c-1")
    assert (again.granted, again.fencing_token) == (["c-1"], first.fencing_token)
    assert conflicts(await reserve(connection, uuid4(), "c-1", takeExpired=True)) == [("c-1", "reserved", run_id)]
    assert await takings(connection) == []


async def test_a_run_that_adds_claims_gets_a_greater_token_for_all(connection: Connection) -> None:
    run_id = uuid4()
    first = await reserve(connection, run_id, "c-1")
    more = await reserve(connection, run_id, "c-1", "c-2")
    assert first.fencing_token is not None
    assert more.fencing_token is not None
    assert more.fencing_token > first.fencing_token
    tokens = await connection.fetch("SELECT fencing_token FROM claim_leases")
    assert {row["fencing_token"] for row in tokens} == {more.fencing_token}
    assert (await reserve(connection, run_id, "c-1", "c-2")).fencing_token == more.fencing_token


async def test_tokens_rise_from_holder_to_holder(connection: Connection) -> None:
    """Whichever way the claim comes free, and whatever else its holder reserved since."""
    tokens: list[int] = []
    for way in ("release", "fail", "expire", "delete", "release"):
        run_id = (await create(connection)).run_id
        one = await reserve(connection, run_id, "c-1", takeExpired=True)
        both = await reserve(connection, run_id, f"of-{run_id}", "c-1")
        assert one.fencing_token is not None
        assert both.fencing_token is not None
        tokens += [one.fencing_token, both.fencing_token]
        match way:
            case "release":
                await release(connection, run_id)
            case "fail":
                await finish(connection, run_id, "failed")
            case "delete":
                await delete(connection, run_id)
            case _:
                await expire(connection)
    assert tokens == sorted(set(tokens))


async def test_a_claim_of_another_organisation_is_another_claim(connection: Connection) -> None:
    one, two = uuid4(), uuid4()
    assert (await reserve(connection, one, "c-1")).granted == ["c-1"]
    assert (await reserve(connection, two, "c-1", orgId="org-2")).granted == ["c-1"]
    assert await release(connection, one, orgId="org-2") == 0
    assert await release(connection, one) == 1
    assert list((await holders(connection)).values()) == [two]


# Conflicts


async def test_all_or_nothing_with_a_conflict_changes_nothing(connection: Connection) -> None:
    holder, exporter, asking = uuid4(), uuid4(), uuid4()
    held = await reserve(connection, holder, "held")
    await finish(connection, exporter, "completed", "out")
    own = await reserve(connection, asking, "own", ttlSeconds=60)
    before = await stored(connection)
    answer = await reserve(connection, asking, "free", "held", "own", "out")
    assert (answer.granted, answer.expires_at, answer.fencing_token) == ([], None, None)
    assert conflicts(answer) == [("held", "reserved", holder), ("out", "exported", exporter)]
    assert [each.expires_at for each in answer.conflicts] == [held.expires_at, None]
    assert await stored(connection) == before
    assert own.granted == ["own"]


async def test_all_or_nothing_with_a_conflict_notes_no_override_and_no_taking(connection: Connection) -> None:
    """What could have been granted alone is not, and nothing says that it was."""
    exporter, slow, holder = uuid4(), uuid4(), uuid4()
    await finish(connection, exporter, "completed", "out")
    await reserve(connection, slow, "old")
    await expire(connection)
    await reserve(connection, holder, "held")
    before = await stored(connection)
    answer = await reserve(connection, uuid4(), "out", "old", "held", override=OVERRIDE, takeExpired=True)
    assert (answer.granted, conflicts(answer)) == ([], [("held", "reserved", holder)])
    assert await stored(connection) == before


async def test_available_grants_what_is_free_and_names_the_rest(connection: Connection) -> None:
    holder, exporter, slow, asking = uuid4(), uuid4(), uuid4(), uuid4()
    await reserve(connection, slow, "old")
    await expire(connection)
    await reserve(connection, holder, "held")
    await finish(connection, exporter, "partial", "out")
    answer = await reserve(connection, asking, "old", "free-2", "held", "out", "free-1", mode="available")
    assert answer.granted == ["free-2", "free-1"]
    assert conflicts(answer) == [("old", "expired", slow), ("held", "reserved", holder), ("out", "exported", exporter)]
    assert await holders(connection) == {"free-1": asking, "free-2": asking, "held": holder, "old": slow}


async def test_available_with_nothing_free_is_no_lease(connection: Connection) -> None:
    holder = uuid4()
    await reserve(connection, holder, "c-1")
    before = await stored(connection)
    answer = await reserve(connection, uuid4(), "c-1", mode="available")
    assert (answer.granted, answer.expires_at, answer.fencing_token) == ([], None, None)
    assert await stored(connection) == before


async def test_the_conflict_names_the_run_that_exported_first(connection: Connection) -> None:
    late, early = uuid4(), uuid4()
    await finish(connection, late, "completed", "c-1", occurredAt="2026-01-02T00:00:00Z")
    await finish(connection, early, "completed", "c-1", occurredAt="2026-01-01T00:00:00Z")
    assert conflicts(await reserve(connection, uuid4(), "c-1")) == [("c-1", "exported", early)]


async def test_only_what_was_exported_stands_in_the_way(connection: Connection) -> None:
    """Not what a run attempted or skipped."""
    await finish(connection, uuid4(), "failed", "attempted")
    await finish(connection, uuid4(), "completed", skippedClaims=[{"claimId": "skipped", "reason": "r"}])
    assert (await reserve(connection, uuid4(), "attempted", "skipped")).granted == ["attempted", "skipped"]


async def test_an_unknown_run_may_reserve_and_be_created_afterwards(connection: Connection) -> None:
    run_id = uuid4()
    first = await reserve(connection, run_id, "c-1")
    await store_created(connection, [decoded(RunCreated, **run_created(runId=str(run_id)))])
    assert (await reserve(connection, run_id, "c-1")).fencing_token == first.fencing_token


@pytest.mark.parametrize("status", ["failed", "partial", "completed"])
async def test_a_finished_run_reserves_nothing(connection: Connection, status: str) -> None:
    run_id = uuid4()
    await finish(connection, run_id, status, "c-1")
    answer = await refusal(connection, reserve(connection, run_id, "c-2"))
    assert answer == (ErrorCode.CONFLICT, ["runId"])


async def test_a_deleted_run_reserves_nothing(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    await delete(connection, run_id)
    answer = await refusal(connection, reserve(connection, run_id, "c-1"))
    assert answer == (ErrorCode.CONFLICT, ["runId"])


async def test_a_run_of_another_organisation_is_not_found(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    answer = await refusal(connection, reserve(connection, run_id, "c-1", orgId="org-2"))
    assert answer == (ErrorCode.RUN_NOT_FOUND, [])
    await delete(connection, run_id)
    answer = await refusal(connection, reserve(connection, run_id, "c-1", orgId="org-2"))
    assert answer == (ErrorCode.RUN_NOT_FOUND, [])


# Overrides and expired leases


async def test_an_override_is_granted_and_recorded_in_the_log_and_on_the_run(connection: Connection) -> None:
    one, two, again = uuid4(), uuid4(), (await create(connection)).run_id
    await finish(connection, one, "completed", "c-1")
    await finish(connection, two, "partial", "c-1", "c-2")
    answer = await reserve(connection, again, "c-1", "c-2", "free", override=OVERRIDE)
    assert (answer.granted, answer.conflicts) == (["c-1", "c-2", "free"], [])
    run = await get_export_run_by_id(connection, GetExportRunById(run_id=again))
    expected = sorted([("c-1", one), ("c-1", two), ("c-2", two)])
    assert [(each.claim_id, each.earlier_run_id) for each in run.claim_overrides] == expected
    assert {(each.reason, each.approved_by) for each in run.claim_overrides} == {("the bank lost it", "carol")}
    [taking] = await takings(connection)
    assert (taking["orgId"], taking["runId"], taking["override"], taking["taken"]) == (
        "org-1",
        str(again),
        OVERRIDE,
        [],
    )
    assert sorted((each["claimId"], UUID(each["earlierRunId"])) for each in taking["overridden"]) == expected


async def test_repeating_an_override_adds_nothing_to_the_record(connection: Connection) -> None:
    await finish(connection, uuid4(), "completed", "c-1")
    run_id = uuid4()
    first = await reserve(connection, run_id, "c-1", override=OVERRIDE)
    before = await stored(connection)
    again = await reserve(connection, run_id, "c-1", override=OVERRIDE)
    assert (again.granted, again.fencing_token) == (first.granted, first.fencing_token)
    assert (await stored(connection))[1:] == before[1:]


async def test_an_override_that_was_not_needed_is_not_recorded(connection: Connection) -> None:
    assert (await reserve(connection, uuid4(), "c-1", override=OVERRIDE)).granted == ["c-1"]
    assert await takings(connection) == []
    assert await connection.fetchval("SELECT count(*) FROM claim_overrides") == 0


@pytest.mark.parametrize("mode", ["all-or-nothing", "available"])
async def test_an_override_takes_no_claim_that_another_run_holds(connection: Connection, mode: str) -> None:
    """Neither a reserved one, nor one that is both exported and reserved, nor one whose lease has expired."""
    await finish(connection, uuid4(), "completed", "c-1")
    holder = uuid4()
    await reserve(connection, holder, "c-1", "c-2", override=OVERRIDE)
    before = await stored(connection)
    answer = await reserve(connection, uuid4(), "c-1", "c-2", mode=mode, override=OVERRIDE, takeExpired=True)
    assert conflicts(answer) == [("c-1", "reserved", holder), ("c-2", "reserved", holder)]
    assert await stored(connection) == before
    await expire(connection)
    answer = await reserve(connection, uuid4(), "c-1", "c-2", mode=mode, override=OVERRIDE)
    assert conflicts(answer) == [("c-1", "expired", holder), ("c-2", "expired", holder)]
    assert (await stored(connection))[1:] == before[1:]


async def test_an_expired_lease_is_a_conflict_until_it_is_taken_with_a_word(connection: Connection) -> None:
    slow, asking = uuid4(), uuid4()
    first = await reserve(connection, slow, "c-1")
    await expire(connection)
    refused = await reserve(connection, asking, "c-1")
    assert conflicts(refused) == [("c-1", "expired", slow)]
    assert first.expires_at is not None
    assert refused.conflicts[0].expires_at == first.expires_at - timedelta(days=2)
    answer = await reserve(connection, asking, "c-1", "c-2", takeExpired=True)
    assert (answer.granted, answer.conflicts) == (["c-1", "c-2"], [])
    [taking] = await takings(connection)
    assert (taking["runId"], taking["override"], taking["overridden"]) == (str(asking), None, [])
    [taken] = taking["taken"]
    assert (taken["claimId"], taken["fromRunId"]) == ("c-1", str(slow))
    assert datetime.fromisoformat(taken["expiredAt"]) == refused.conflicts[0].expires_at
    assert conflicts(await reserve(connection, slow, "c-1", takeExpired=True)) == [("c-1", "reserved", asking)]
    assert await release(connection, slow) == 0


async def test_take_expired_takes_no_live_lease_and_no_export(connection: Connection) -> None:
    holder, exporter = uuid4(), uuid4()
    await reserve(connection, holder, "held")
    await finish(connection, exporter, "completed", "out")
    answer = await reserve(connection, uuid4(), "held", "out", mode="available", takeExpired=True)
    assert conflicts(answer) == [("held", "reserved", holder), ("out", "exported", exporter)]


@pytest.mark.parametrize("way", ["failed", "release", "delete"])
async def test_an_expired_lease_ends_like_any_other(connection: Connection, way: str) -> None:
    slow = (await create(connection)).run_id
    await reserve(connection, slow, "c-1")
    await expire(connection)
    match way:
        case "failed":
            await finish(connection, slow, "failed", "c-1")
        case "release":
            await release(connection, slow)
        case _:
            await delete(connection, slow)
    assert (await reserve(connection, uuid4(), "c-1")).granted == ["c-1"]
    assert await takings(connection) == []


async def test_a_renewal_waits_until_the_export_of_the_slow_one_is_known(connection: Connection) -> None:
    """The lease was taken, its first holder paid all the same: who took it learns so when it renews."""
    slow, taker = uuid4(), uuid4()
    await reserve(connection, slow, "c-1")
    await expire(connection)
    await reserve(connection, taker, "c-1", takeExpired=True)
    await finish(connection, slow, "completed", "c-1")
    assert conflicts(await reserve(connection, taker, "c-1")) == [("c-1", "exported", slow)]
    answer = await checked(connection, "c-1")
    assert ([each.claim_id for each in answer.exported], answer.reserved) == (["c-1"], [])


# Releasing, finishing, deleting, checking


async def test_a_run_releases_some_of_its_claims_or_all(connection: Connection) -> None:
    run_id, holder = uuid4(), uuid4()
    await reserve(connection, run_id, "c-1", "c-2", "c-3")
    await reserve(connection, holder, "held")
    assert await release(connection, run_id, "c-1", "c-1", "held", "unknown") == 1
    assert await holders(connection) == {"c-2": run_id, "c-3": run_id, "held": holder}
    assert await release(connection, run_id) == 2
    assert await release(connection, run_id) == 0
    assert await holders(connection) == {"held": holder}


@pytest.mark.parametrize("status", ["partial", "completed"])
async def test_a_run_that_ends_well_exports_its_claims_and_frees_the_rest(connection: Connection, status: str) -> None:
    run_id = uuid4()
    await reserve(connection, run_id, "c-1", "c-2", "c-3")
    await finish(connection, run_id, status, "c-2", skippedClaims=[{"claimId": "c-3", "reason": "r"}])
    answer = await checked(connection, "c-1", "c-2", "c-3")
    assert ([each.claim_id for each in answer.exported], answer.unexported) == (["c-2"], ["c-1", "c-3"])
    assert await holders(connection) == {}


async def test_a_run_that_fails_frees_everything(connection: Connection) -> None:
    run_id, holder = uuid4(), uuid4()
    await reserve(connection, run_id, "c-1", "c-2")
    await reserve(connection, holder, "held")
    await finish(connection, run_id, "failed", "c-1")
    assert (await checked(connection, "c-1", "c-2")).unexported == ["c-1", "c-2"]
    assert await holders(connection) == {"held": holder}


async def test_the_end_of_a_run_leaves_alone_what_was_taken_from_it(connection: Connection) -> None:
    for status in ("failed", "completed"):
        slow, taker, claim_id = uuid4(), uuid4(), f"c-{status}"
        await reserve(connection, slow, claim_id)
        await expire(connection, slow)
        await reserve(connection, taker, claim_id, takeExpired=True)
        await finish(connection, slow, status, claim_id)
        assert (await holders(connection))[claim_id] == taker


@pytest.mark.parametrize("org_id", ["org-1", None])
async def test_deleting_a_run_frees_its_reservations(connection: Connection, org_id: str | None) -> None:
    run_id, holder = (await create(connection)).run_id, uuid4()
    await reserve(connection, run_id, "c-1")
    await reserve(connection, holder, "held")
    await delete(connection, run_id, orgId=org_id)
    assert await holders(connection) == {"held": holder}
    assert (await reserve(connection, uuid4(), "c-1")).granted == ["c-1"]


async def test_deleting_a_run_never_frees_its_exports(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    await finish(connection, run_id, "completed", "c-1")
    await delete(connection, run_id)
    assert conflicts(await reserve(connection, uuid4(), "c-1")) == [("c-1", "exported", run_id)]


async def test_purging_a_run_frees_its_reservations(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    await reserve(connection, run_id, "c-1")
    await purge_run(connection, run_id, "an operator")
    assert await holders(connection) == {}


async def test_each_claim_is_in_exactly_one_list_of_a_check(connection: Connection) -> None:
    """Exported and reserved is exported; an expired lease stays in reserved."""
    holder, slow, exporter = uuid4(), uuid4(), uuid4()
    old = await reserve(connection, slow, "old")
    await expire(connection)
    await finish(connection, exporter, "completed", "out", "both")
    held = await reserve(connection, holder, "held", "both", override=OVERRIDE)
    answer = await checked(connection, "free", "held", "old", "both", "out", "held")
    assert old.expires_at is not None
    assert [each.claim_id for each in answer.exported] == ["both", "out"]
    assert [(each.claim_id, each.run_id, each.expires_at) for each in answer.reserved] == [
        ("held", holder, held.expires_at),
        ("old", slow, old.expires_at - timedelta(days=2)),
    ]
    assert answer.unexported == ["free"]


# Failing half way


async def test_a_reservation_that_fails_half_way_leaves_nothing(connection: Connection) -> None:
    """The last thing that it writes is the log."""
    await finish(connection, uuid4(), "completed", "out")
    await reserve(connection, uuid4(), "old")
    await expire(connection)
    before = await stored(connection)
    async with refusing(connection, "export_run_events", "event_type <> 'claims-taken'"):
        with pytest.raises(asyncpg.CheckViolationError):
            await reserve(connection, uuid4(), "out", "old", "free", override=OVERRIDE, takeExpired=True)
    assert await stored(connection) == before


async def test_an_end_that_fails_half_way_frees_nothing(connection: Connection) -> None:
    run_id = uuid4()
    await reserve(connection, run_id, "c-1", "c-2")
    before = await stored(connection)
    async with refusing(connection, "export_run_claims", "claim_id <> 'c-2'"):
        with pytest.raises(asyncpg.CheckViolationError):
            await finish(connection, run_id, "completed", "c-1", "c-2")
    assert await stored(connection) == before


# Two at a time


@pytest.mark.parametrize("count", [1, CLAIM_LOCKS_MAX, CLAIM_LOCKS_MAX + 1, RESERVE_CLAIMS_MAX])
async def test_who_asks_for_a_claim_of_a_reservation_under_way_waits(
    connection: Connection, other: Connection, count: int
) -> None:
    """Both ways round: the large one first, and the small one first."""
    claim_ids = [f"c-{number}" for number in range(count)]
    one, two = uuid4(), uuid4()
    large, small = reserve(connection, one, *claim_ids), reserve(other, two, claim_ids[-1])
    async with waiting_for(connection, large, other, small) as waiting:
        assert conflicts(await waiting) == [(claim_ids[-1], "reserved", one)]
    await release(connection, one)
    large, small = reserve(connection, one, *claim_ids), reserve(other, two, claim_ids[-1])
    async with waiting_for(other, small, connection, large) as waiting:
        assert conflicts(await waiting) == [(claim_ids[-1], "reserved", two)]


@pytest.mark.parametrize(("count", "waits"), [(CLAIM_LOCKS_MAX, False), (CLAIM_LOCKS_MAX + 1, True)])
async def test_only_who_has_very_many_claims_locks_all(
    connection: Connection, other: Connection, count: int, waits: bool
) -> None:
    claim_ids = [f"c-{number}" for number in range(count)]
    async with connection.transaction():
        await reserve(connection, uuid4(), *claim_ids)
        asking = asyncio.create_task(reserve(other, uuid4(), "another"))
        done, _ = await asyncio.wait([asking], timeout=0.3 if waits else WAIT_S)
        assert bool(done) is not waits
    assert (await asking).granted == ["another"]


async def test_a_reservation_waits_for_an_export_under_way(connection: Connection, other: Connection) -> None:
    exporter = uuid4()
    ending, asking = finish(connection, exporter, "completed", "c-1"), reserve(other, uuid4(), "c-1")
    async with waiting_for(connection, ending, other, asking) as waiting:
        assert conflicts(await waiting) == [("c-1", "exported", exporter)]


async def test_a_reservation_waits_for_the_end_of_its_own_run(connection: Connection, other: Connection) -> None:
    run_id = uuid4()
    ending, asking = finish(connection, run_id, "completed", "c-1"), reserve(other, run_id, "c-2")
    async with waiting_for(connection, ending, other, asking) as waiting:
        with pytest.raises(RequestRefused) as raised:
            await waiting
    assert raised.value.code is ErrorCode.CONFLICT
    assert await holders(connection) == {}


async def test_the_end_of_a_run_waits_for_its_reservation_and_frees_it(
    connection: Connection, other: Connection
) -> None:
    run_id = uuid4()
    asking, ending = reserve(connection, run_id, "c-1", "c-2"), finish(other, run_id, "failed")
    async with waiting_for(connection, asking, other, ending) as waiting:
        await waiting
    assert await holders(connection) == {}


async def test_of_two_with_crossed_claims_one_gets_both(connection: Connection, other: Connection) -> None:
    for number in range(TIMES):
        one, two = f"a-{number}", f"b-{number}"
        answers = await asyncio.gather(reserve(connection, uuid4(), one, two), reserve(other, uuid4(), two, one))
        assert sorted(len(answer.granted) for answer in answers) == [0, 2]


async def test_two_that_take_one_expired_lease_do_not_both_get_it(connection: Connection, other: Connection) -> None:
    for number in range(TIMES):
        claim_id = f"c-{number}"
        await reserve(connection, uuid4(), claim_id)
        await expire(connection)
        answers = await asyncio.gather(
            *(reserve(each, uuid4(), claim_id, takeExpired=True) for each in (connection, other))
        )
        assert sorted(len(answer.granted) for answer in answers) == [0, 1]
    assert len(await takings(connection)) == TIMES


async def test_two_with_one_override_do_not_both_get_it(connection: Connection, other: Connection) -> None:
    await finish(connection, uuid4(), "completed", *(f"c-{number}" for number in range(TIMES)))
    for number in range(TIMES):
        answers = await asyncio.gather(
            *(reserve(each, uuid4(), f"c-{number}", override=OVERRIDE) for each in (connection, other))
        )
        assert sorted(len(answer.granted) for answer in answers) == [0, 1]


async def test_two_that_repeat_one_reservation_get_one_answer(connection: Connection, other: Connection) -> None:
    for number in range(TIMES):
        run_id = uuid4()
        one, two = await asyncio.gather(
            *(reserve(each, run_id, f"c-{number}", f"d-{number}") for each in (connection, other))
        )
        assert (one.granted, one.fencing_token) == (two.granted, two.fencing_token)


async def test_who_takes_leases_and_who_frees_them_go_in_one_order(connection: Connection) -> None:
    """That of the column, "C". Where the default is another, say a, m, Z, who takes expired leases would else go the
    other way, and both wait in a circle. The tests' servers have no such order: so the plans, and those that sort: to
    walk the key's index, as the planner may choose to, is to go in the column's order.
    """
    await connection.execute("SET enable_indexscan = off")
    freeing = await connection.fetch(f"EXPLAIN {sql.query('free_leases')}", [uuid4()], ["org-1"], None)
    taking = await connection.fetch(f"EXPLAIN {sql.query('write_leases')}", "org-1", uuid4(), "c-1", "c-2", None, 60)
    for plan in (freeing, taking):
        [key] = [row[0].strip() for row in plan if "Sort Key" in row[0]]
        assert re.match(r'Sort Key: \w+\.claim_id COLLATE "C"', key)


async def test_the_end_of_another_organisations_run_frees_nothing(connection: Connection) -> None:
    """The run that reserves is not known yet, and another organisation's event has the same runId."""
    run_id = uuid4()
    await reserve(connection, run_id, "c-1")
    await finish(connection, run_id, "completed", "c-2", orgId="org-2")
    assert await holders(connection) == {"c-1": run_id}


# Many at a time

CLIENTS = 8
CLAIMS = [f"c-{number}" for number in range(10)]
ROUNDS = 8
PAUSE_S_MAX = 0.4


@dataclass
class Ledger:
    """What the clients have been told, enough to know a wrong answer when it comes.

    Time passes between the rounds, when nobody asks. A lease is live from the answer that grants it until its holder
    begins to end it; it is possible from the question on until it has surely ended.
    """

    live: dict[str, UUID] = field(default_factory=dict)
    possible: dict[str, set[UUID]] = field(default_factory=lambda: {claim_id: set() for claim_id in CLAIMS})
    began: list[tuple[str, UUID]] = field(default_factory=list)
    expired: dict[str, UUID] = field(default_factory=dict)
    ending: set[UUID] = field(default_factory=set)
    begun_exports: set[tuple[str, UUID]] = field(default_factory=set)
    exports: set[tuple[str, UUID]] = field(default_factory=set)

    async def reserve(self, connection: Connection, run_id: UUID, asked: Sequence[str], **fields: Any) -> list[str]:
        """Ask, and judge the answer."""
        before = {claim_id: set(self.possible[claim_id]) for claim_id in asked}
        had = {claim_id for claim_id in asked if run_id in before[claim_id]}
        expired, exported = dict(self.expired), {claim_id for claim_id, _ in self.exports}
        position = len(self.began)
        for claim_id in asked:
            self.possible[claim_id].add(run_id)
            self.began.append((claim_id, run_id))
        answer = await reserve(connection, run_id, *asked, **fields)
        for claim_id, by in self.began[position:]:
            before.setdefault(claim_id, set()).add(by)
        refused = [each.claim_id for each in answer.conflicts]
        if refused and fields["mode"] == "all-or-nothing":
            assert answer.granted == []
        else:
            assert sorted(answer.granted + refused) == sorted(asked)
        for claim_id in answer.granted:
            assert self.live.get(claim_id, run_id) == run_id, "granted to two"
            assert claim_id not in exported, "granted although exported"
            slow = self.expired.get(claim_id, run_id)
            its_own = slow == run_id or expired.get(claim_id) != slow
            assert its_own or slow in self.ending or fields["takeExpired"], "taken without a word"
            self.live[claim_id] = run_id
            if (slow := self.expired.pop(claim_id, run_id)) != run_id:
                self.possible[claim_id].discard(slow)
        for each in answer.conflicts:
            real = {
                "reserved": each.run_id in before[each.claim_id] - {run_id},
                "expired": expired.get(each.claim_id) == each.run_id != run_id and not fields["takeExpired"],
                "exported": (each.claim_id, each.run_id) in self.begun_exports,
            }
            assert real[each.reason.value], f"{each} is not so"
        for claim_id in set(asked) - had - set(answer.granted):
            self.possible[claim_id].discard(run_id)
        return answer.granted

    async def end(self, run_id: UUID, ending: Awaitable[Any], exported: Sequence[str] = ()) -> None:
        """A run frees what it has; with a good end it exports."""
        self.live = {claim_id: by for claim_id, by in self.live.items() if by != run_id}
        self.ending.add(run_id)
        self.begun_exports |= {(claim_id, run_id) for claim_id in exported}
        await ending
        self.exports |= {(claim_id, run_id) for claim_id in exported}
        self.expired = {claim_id: by for claim_id, by in self.expired.items() if by != run_id}
        for runs in self.possible.values():
            runs.discard(run_id)

    async def pass_time(self, connection: Connection, run_ids: Sequence[UUID]) -> None:
        """The leases of these runs expire; nobody asks meanwhile. Then the table is what everyone was told."""
        if run_ids:
            await expire(connection, *run_ids)
        for claim_id, run_id in list(self.live.items()):
            if run_id in run_ids:
                self.expired[claim_id] = self.live.pop(claim_id)
        assert await holders(connection) == dict(sorted((self.live | self.expired).items()))
        rows = await connection.fetch("SELECT claim_id FROM claim_leases WHERE expires_at <= clock_timestamp()")
        assert {row["claim_id"] for row in rows} == set(self.expired)


async def client(ledger: Ledger, connection: Connection, random: Random, runs: list[UUID]) -> None:
    """One round of one client: it reserves, and then ends well or badly, or is never heard of again, or not yet."""
    for _ in range(2):
        run_id = runs[-1]
        asked = random.sample(CLAIMS, random.randint(1, 4))
        granted = await ledger.reserve(
            connection,
            run_id,
            asked,
            mode=random.choice(["all-or-nothing", "available"]),
            takeExpired=random.random() < 0.5,
        )
        ending = random.choice(["keep", "crash", "release", "fail", "finish", "finish late"])
        if ending == "release":
            await ledger.end(run_id, release(connection, run_id))
        elif ending == "fail":
            await ledger.end(run_id, finish(connection, run_id, "failed", *asked))
            runs.append(uuid4())
        elif ending == "finish" and granted and random.random() < 0.3:
            await ledger.end(run_id, finish(connection, run_id, "partial", granted[0]), granted[:1])
            runs.append(uuid4())
        elif ending == "crash":
            runs.append(uuid4())
        elif ending == "finish late" and len(runs) > 1 and random.random() < 0.3:
            # Given up for dead, and it pays all the same.
            claim_ids = random.sample(CLAIMS, 1)
            await ledger.end(runs[0], finish(connection, runs[0], "completed", *claim_ids), claim_ids)
            runs.append(uuid4())
            runs.pop(0)


@asynccontextmanager
async def many(database_url: str, count: int) -> AsyncIterator[list[Connection]]:
    """Connections with the worker's own settings, time-outs included."""
    connections = await asyncio.gather(*(connected(database_url) for _ in range(count)))
    try:
        yield list(connections)
    finally:
        for connection in connections:
            connection.terminate()
        await asyncio.sleep(POLL_S)  # until the sockets are closed


@pytest.mark.parametrize("seed", range(4))
async def test_no_claim_has_two_live_holders_whatever_the_clients_do(database_url: str, seed: int) -> None:
    """They reserve, crash, finish and fail at the same time; each answer is judged by what was known for sure."""
    ledger, random = Ledger(), Random(seed)
    async with many(database_url, CLIENTS) as connections:
        runs = [[uuid4()] for _ in connections]
        randoms = [Random(random.random()) for _ in connections]
        for _ in range(ROUNDS):
            async with asyncio.timeout(WAIT_S):
                await asyncio.gather(*(client(ledger, *each) for each in zip(connections, randoms, runs, strict=True)))
            crashed = [run_id for of_client in runs for run_id in of_client[:-1]]
            slow = [of_client[-1] for of_client in runs if random.random() < 0.3]
            await ledger.pass_time(connections[0], crashed + slow)
        await ledger.pass_time(connections[0], list(ledger.live.values()))
        left = [claim_id for claim_id in CLAIMS if claim_id not in {claim_id for claim_id, _ in ledger.exports}]
        everything = await reserve(connections[0], uuid4(), *CLAIMS, mode="available", takeExpired=True)
        assert everything.granted == left
        found = await connections[0].fetch("SELECT claim_id, first_run_id, second_run_id FROM double_exports")
    pairs = [
        (claim_id, frozenset(pair))
        for claim_id in CLAIMS
        for pair in combinations([run_id for each, run_id in ledger.exports if each == claim_id], 2)
    ]
    assert len(found) == len(pairs)
    assert {(row["claim_id"], frozenset(row[1:])) for row in found} == set(pairs)


async def test_64_clients_contending_for_100_claims_all_get_their_turn(database_url: str) -> None:
    claim_ids = [f"c-{number}" for number in range(100)]
    tokens: list[int] = []

    async def take_a_turn(number: int, connection: Connection) -> None:
        run_id, random = uuid4(), Random(number)
        while not (answer := await reserve(connection, run_id, *random.sample(claim_ids, 100))).granted:
            assert len(answer.conflicts) == 100
            await asyncio.sleep(random.uniform(0, PAUSE_S_MAX))
        assert answer.fencing_token is not None
        tokens.append(answer.fencing_token)
        await release(connection, run_id) if number % 2 else await finish(connection, run_id, "failed", *claim_ids)

    async with many(database_url, 64) as connections, asyncio.timeout(WAIT_S):
        await asyncio.gather(*(take_a_turn(*each) for each in enumerate(connections)))
        assert await holders(connections[0]) == {}
    assert len(tokens) == 64
    assert tokens == sorted(tokens)


# Stale runs


async def stale(connection: Connection, **fields: Any) -> StaleRuns:
    least = {"olderThanSeconds": 3_600}
    return await list_stale_runs(connection, decoded(ListStaleRuns, **(least | fields)))


async def started(connection: Connection, minutes_ago: float, **fields: Any) -> UUID:
    """A run that started so long ago."""
    at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    event = decoded(RunCreated, **run_created(occurredAt=at.isoformat(), **fields))
    await store_created(connection, [event])
    return event.run_id


async def test_stale_runs_are_pending_and_old_and_come_oldest_first(connection: Connection) -> None:
    old, oldest = await started(connection, 61), await started(connection, 600)
    elsewhere = await started(connection, 120, orgId="org-2")
    await started(connection, 59)
    for status in ("failed", "partial", "completed"):
        await finish(connection, await started(connection, 500), status, f"c-{status}")
    await delete(connection, await started(connection, 400))
    assert [run.run_id for run in (await stale(connection)).runs] == [oldest, elsewhere, old]
    assert [run.run_id for run in (await stale(connection, orgId="org-1")).runs] == [oldest, old]
    assert (await stale(connection, olderThanSeconds=36_001)).runs == []


async def test_stale_runs_come_page_by_page_each_once(connection: Connection) -> None:
    run_ids = [await started(connection, 1_000 - number // 2) for number in range(7)]
    seen: list[UUID] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        page = await stale(connection, limit=3, cursor=cursor)
        seen += [run.run_id for run in page.runs]
        cursor, pages = page.next_cursor, pages + 1
    assert (len(seen), set(seen), pages) == (7, set(run_ids), 3)
    created = [run.created_at for run in (await stale(connection, limit=7)).runs]
    assert created == sorted(created)
    assert (await stale(connection, limit=7)).next_cursor is None


async def test_a_cursor_of_another_list_is_refused(connection: Connection) -> None:
    for _ in range(2):
        await started(connection, 100)
    cursor = (await stale(connection, orgId="org-1", limit=1)).next_cursor
    for fields in ({"cursor": cursor}, {"cursor": cursor, "orgId": "org-2"}, {"cursor": "x", "orgId": "org-1"}):
        answer = await refusal(connection, stale(connection, **fields))
        assert answer == (ErrorCode.INVALID_REQUEST, ["cursor"])
    assert len((await stale(connection, orgId="org-1", cursor=cursor)).runs) == 1
