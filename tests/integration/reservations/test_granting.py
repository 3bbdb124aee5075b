"""Which claims a reservation is granted, for how long, and which conflicts it is told."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from schema.decoding import InvalidBody
from schema.errors import ErrorCode
from schema.events import RunCreated
from schema.limits import LEASE_TTL_S_DEFAULT, LEASE_TTL_S_MAX, RESERVE_CLAIMS_MAX
from schema.requests import ReserveClaims
from sql.connection import Connection
from tests.integration.requests import create, decoded, delete
from tests.integration.reservations.conftest import (
    OVERRIDE,
    conflicts,
    expire,
    finish,
    holders,
    logged_takings,
    refusal,
    release,
    reserve,
    stored_rows,
)
from tests.storing import store_created
from tests.wire import run_created


async def test_free_claims_are_granted_once_each_in_the_order_of_the_request(connection: Connection) -> None:
    run_id = uuid4()
    before = await connection.fetchval("SELECT clock_timestamp()")
    reserved = await reserve(connection, run_id, "c-2", "c-1", "c-2")
    after = await connection.fetchval("SELECT clock_timestamp()")
    assert (reserved.granted, reserved.conflicts) == (["c-2", "c-1"], [])
    assert reserved.expires_at is not None
    ttl = timedelta(seconds=LEASE_TTL_S_DEFAULT)
    assert before + ttl <= reserved.expires_at <= after + ttl
    assert await holders(connection) == {"c-1": run_id, "c-2": run_id}
    assert await logged_takings(connection) == []


@pytest.mark.parametrize("ttl_s", [1, LEASE_TTL_S_MAX])
async def test_a_lease_lasts_as_long_as_requested(connection: Connection, ttl_s: int) -> None:
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
def test_an_invalid_reservation_names_the_wrong_field(field_name: str, changed: dict[str, Any]) -> None:
    fields = {"orgId": "org-1", "runId": uuid4(), "claimIds": ["c-1"]}
    with pytest.raises(InvalidBody) as raised:
        decoded(ReserveClaims, **(fields | changed))
    assert [detail.field for detail in raised.value.details] == [field_name]


async def test_ten_thousand_claims_are_reserved_and_released(connection: Connection) -> None:
    run_id, claim_ids = uuid4(), [f"c-{number}" for number in range(RESERVE_CLAIMS_MAX)]
    reserved = await reserve(connection, run_id, *claim_ids)
    assert reserved.granted == claim_ids
    second = await reserve(connection, uuid4(), *claim_ids)
    assert (second.granted, len(second.conflicts)) == ([], RESERVE_CLAIMS_MAX)
    assert await release(connection, run_id, *claim_ids) == RESERVE_CLAIMS_MAX
    assert await holders(connection) == {}


async def test_a_repeated_reservation_renews_the_lease_and_keeps_the_token(connection: Connection) -> None:
    run_id = uuid4()
    first = await reserve(connection, run_id, "c-1", "c-2", ttlSeconds=60)
    second = await reserve(connection, run_id, "c-1", "c-2", ttlSeconds=600)
    part = await reserve(connection, run_id, "c-2", ttlSeconds=6_000)
    assert (second.granted, second.fencing_token) == (first.granted, first.fencing_token)
    assert (part.granted, part.fencing_token) == (["c-2"], first.fencing_token)
    rows = await connection.fetch("SELECT expires_at, fencing_token FROM claim_leases ORDER BY claim_id")
    assert [tuple(row) for row in rows] == [(each.expires_at, first.fencing_token) for each in (second, part)]
    assert first.expires_at is not None
    assert second.expires_at is not None
    assert timedelta(seconds=539) < second.expires_at - first.expires_at < timedelta(seconds=600)


async def test_a_run_renews_its_own_expired_lease_with_the_same_token(connection: Connection) -> None:
    run_id = uuid4()
    first = await reserve(connection, run_id, "c-1")
    await expire(connection)
    second = await reserve(connection, run_id, "c-1")
    assert (second.granted, second.fencing_token) == (["c-1"], first.fencing_token)
    assert conflicts(await reserve(connection, uuid4(), "c-1", takeExpired=True)) == [("c-1", "reserved", run_id)]
    assert await logged_takings(connection) == []


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


async def test_each_holder_of_a_claim_has_a_greater_token_than_the_one_before(connection: Connection) -> None:
    """However the claim became free, and whatever else its holder reserved since."""
    tokens: list[int] = []
    for way in ("release", "fail", "expire", "delete", "release"):
        run_id = (await create(connection)).run_id
        first = await reserve(connection, run_id, "c-1", takeExpired=True)
        second = await reserve(connection, run_id, f"of-{run_id}", "c-1")
        assert first.fencing_token is not None
        assert second.fencing_token is not None
        tokens += [first.fencing_token, second.fencing_token]
        match way:
            case "release":
                await release(connection, run_id)
            case "fail":
                await finish(connection, run_id, "failed")
            case "delete":
                await expire(connection)
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


async def test_all_or_nothing_with_a_conflict_changes_nothing(connection: Connection) -> None:
    holder, exporter, run_id = uuid4(), uuid4(), uuid4()
    held = await reserve(connection, holder, "held")
    await finish(connection, exporter, "completed", "out")
    own = await reserve(connection, run_id, "own", ttlSeconds=60)
    before = await stored_rows(connection)
    answer = await reserve(connection, run_id, "free", "held", "own", "out")
    assert (answer.granted, answer.expires_at, answer.fencing_token) == ([], None, None)
    assert conflicts(answer) == [("held", "reserved", holder), ("out", "exported", exporter)]
    assert [each.expires_at for each in answer.conflicts] == [held.expires_at, None]
    assert await stored_rows(connection) == before
    assert own.granted == ["own"]


async def test_all_or_nothing_with_a_conflict_records_no_override_and_no_taken_lease(connection: Connection) -> None:
    """Two claims could have been granted. They are not, and the log does not say that they were."""
    exporter, slow, holder = uuid4(), uuid4(), uuid4()
    await finish(connection, exporter, "completed", "out")
    await reserve(connection, slow, "old")
    await expire(connection)
    await reserve(connection, holder, "held")
    before = await stored_rows(connection)
    answer = await reserve(connection, uuid4(), "out", "old", "held", override=OVERRIDE, takeExpired=True)
    assert (answer.granted, conflicts(answer)) == ([], [("held", "reserved", holder)])
    assert await stored_rows(connection) == before


async def test_available_grants_what_is_free_and_names_the_rest(connection: Connection) -> None:
    holder, exporter, slow, run_id = uuid4(), uuid4(), uuid4(), uuid4()
    await reserve(connection, slow, "old")
    await expire(connection)
    await reserve(connection, holder, "held")
    await finish(connection, exporter, "partial", "out")
    answer = await reserve(connection, run_id, "old", "free-2", "held", "out", "free-1", mode="available")
    assert answer.granted == ["free-2", "free-1"]
    assert conflicts(answer) == [("old", "expired", slow), ("held", "reserved", holder), ("out", "exported", exporter)]
    assert await holders(connection) == {"free-1": run_id, "free-2": run_id, "held": holder, "old": slow}


async def test_available_with_no_free_claim_makes_no_lease(connection: Connection) -> None:
    holder = uuid4()
    await reserve(connection, holder, "c-1")
    before = await stored_rows(connection)
    answer = await reserve(connection, uuid4(), "c-1", mode="available")
    assert (answer.granted, answer.expires_at, answer.fencing_token) == ([], None, None)
    assert await stored_rows(connection) == before


async def test_the_conflict_names_the_run_that_exported_first(connection: Connection) -> None:
    late, early = uuid4(), uuid4()
    await finish(connection, late, "completed", "c-1", occurredAt="2026-01-02T00:00:00Z")
    await finish(connection, early, "completed", "c-1", occurredAt="2026-01-01T00:00:00Z")
    assert conflicts(await reserve(connection, uuid4(), "c-1")) == [("c-1", "exported", early)]


async def test_only_exported_claims_are_conflicts(connection: Connection) -> None:
    """Claims that a run attempted or skipped are free."""
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


async def test_a_run_of_another_organisation_is_answered_as_an_unknown_one(connection: Connection) -> None:
    """The other organisation does not learn that the run exists, nor what became of it."""
    run_id = (await create(connection)).run_id
    for _ in range(2):
        answer = await reserve(connection, run_id, "c-1", orgId="org-2")
        unknown = await reserve(connection, uuid4(), "c-2", orgId="org-2")
        assert (answer.granted, unknown.granted) == (["c-1"], ["c-2"])
        await release(connection, run_id, orgId="org-2")
        await connection.execute("DELETE FROM claim_leases")
        await delete(connection, run_id)
