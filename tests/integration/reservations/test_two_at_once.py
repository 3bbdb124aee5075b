"""Two transactions that want the same claims at the same time: the second waits for the first."""

import asyncio
import re
from uuid import uuid4

import pytest

import sql
from handlers.errors import RequestRefused
from handlers.locking import LOCKS_PER_ORGANISATION_MAX
from handlers.reservations import reserve_claims
from schema.errors import ErrorCode
from schema.limits import RESERVE_CLAIMS_MAX
from schema.requests import ReserveClaims
from sql.connection import Connection
from tests.integration.reservations.conftest import (
    OVERRIDE,
    blocked_request,
    conflicts,
    expire,
    finish,
    holders,
    logged_takings,
    release,
    reserve,
)
from tests.wire import WAIT_S

TIMES = 10


@pytest.mark.parametrize("count", [1, LOCKS_PER_ORGANISATION_MAX, RESERVE_CLAIMS_MAX])
async def test_a_reservation_waits_for_an_uncommitted_one_of_the_same_claim(
    connection: Connection, other: Connection, count: int
) -> None:
    """First the small one waits for the large one, then the large one for the small one."""
    claim_ids = [f"c-{number}" for number in range(count)]
    one, two = uuid4(), uuid4()
    large, small = reserve(connection, one, *claim_ids), reserve(other, two, claim_ids[-1])
    async with blocked_request(connection, large, other, small) as waiting:
        assert conflicts(await waiting) == [(claim_ids[-1], "reserved", one)]
    await release(connection, one)
    large, small = reserve(connection, one, *claim_ids), reserve(other, two, claim_ids[-1])
    async with blocked_request(other, small, connection, large) as waiting:
        assert conflicts(await waiting) == [(claim_ids[-1], "reserved", two)]


async def test_the_largest_reservation_makes_no_other_organisation_wait(
    connection: Connection, other: Connection
) -> None:
    claim_ids = [f"c-{number}" for number in range(RESERVE_CLAIMS_MAX)]
    async with connection.transaction():
        await reserve(connection, uuid4(), *claim_ids)
        locks = await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        assert locks <= LOCKS_PER_ORGANISATION_MAX + 1
        async with asyncio.timeout(WAIT_S):
            request = ReserveClaims(org_id="org-2", run_id=uuid4(), claim_ids=claim_ids)
            assert len((await reserve_claims(other, request)).granted) == RESERVE_CLAIMS_MAX


async def test_a_reservation_waits_for_an_uncommitted_export(connection: Connection, other: Connection) -> None:
    exporter = uuid4()
    end, reservation = finish(connection, exporter, "completed", "c-1"), reserve(other, uuid4(), "c-1")
    async with blocked_request(connection, end, other, reservation) as waiting:
        assert conflicts(await waiting) == [("c-1", "exported", exporter)]


async def test_a_reservation_waits_for_the_end_of_its_own_run(connection: Connection, other: Connection) -> None:
    run_id = uuid4()
    end, reservation = finish(connection, run_id, "completed", "c-1"), reserve(other, run_id, "c-2")
    async with blocked_request(connection, end, other, reservation) as waiting:
        with pytest.raises(RequestRefused) as raised:
            await waiting
    assert raised.value.code is ErrorCode.CONFLICT
    assert await holders(connection) == {}


async def test_the_end_of_a_run_waits_for_its_reservation_and_frees_it(
    connection: Connection, other: Connection
) -> None:
    run_id = uuid4()
    reservation, end = reserve(connection, run_id, "c-1", "c-2"), finish(other, run_id, "failed")
    async with blocked_request(connection, reservation, other, end) as waiting:
        await waiting
    assert await holders(connection) == {}


async def test_of_two_reservations_with_the_same_claims_in_another_order_one_gets_both(
    connection: Connection, other: Connection
) -> None:
    for number in range(TIMES):
        one, two = f"a-{number}", f"b-{number}"
        answers = await asyncio.gather(reserve(connection, uuid4(), one, two), reserve(other, uuid4(), two, one))
        assert sorted(len(answer.granted) for answer in answers) == [0, 2]


async def test_only_one_of_two_reservations_takes_an_expired_lease(connection: Connection, other: Connection) -> None:
    for number in range(TIMES):
        claim_id = f"c-{number}"
        await reserve(connection, uuid4(), claim_id)
        await expire(connection)
        answers = await asyncio.gather(
            *(reserve(each, uuid4(), claim_id, takeExpired=True) for each in (connection, other))
        )
        assert sorted(len(answer.granted) for answer in answers) == [0, 1]
    assert len(await logged_takings(connection)) == TIMES


async def test_only_one_of_two_reservations_with_an_override_gets_the_claim(
    connection: Connection, other: Connection
) -> None:
    await finish(connection, uuid4(), "completed", *(f"c-{number}" for number in range(TIMES)))
    for number in range(TIMES):
        answers = await asyncio.gather(
            *(reserve(each, uuid4(), f"c-{number}", override=OVERRIDE) for each in (connection, other))
        )
        assert sorted(len(answer.granted) for answer in answers) == [0, 1]


async def test_the_same_reservation_twice_at_once_gets_the_same_answer(
    connection: Connection, other: Connection
) -> None:
    for number in range(TIMES):
        run_id = uuid4()
        one, two = await asyncio.gather(
            *(reserve(each, run_id, f"c-{number}", f"d-{number}") for each in (connection, other))
        )
        assert (one.granted, one.fencing_token) == (two.granted, two.fencing_token)


async def test_leases_are_written_and_freed_in_the_same_order(connection: Connection) -> None:
    """Both statements must sort claims as the column does, by the collation "C".

    With the default collation of a database one of them could sort another way (a, m, Z), and each would wait for a row
    that the other has locked. The default of the tests' servers is "C" as well, so that this test compares the plans.
    Without index scans, which use the order of the column anyway, the plans show by what they sort.
    """
    await connection.execute("SET enable_indexscan = off")
    free = await connection.fetch(f"EXPLAIN {sql.query('free_leases')}", [uuid4()], ["org-1"], None)
    write = await connection.fetch(f"EXPLAIN {sql.query('write_leases')}", "org-1", uuid4(), "c-1", "c-2", None, 60)
    for plan in (free, write):
        [key] = [row[0].strip() for row in plan if "Sort Key" in row[0]]
        assert re.match(r'Sort Key: \w+\.claim_id COLLATE "C"', key)


async def test_the_end_of_another_organisations_run_frees_nothing(connection: Connection) -> None:
    """The run that reserves is not stored yet, and an event of another organisation has the same runId."""
    run_id = uuid4()
    await reserve(connection, run_id, "c-1")
    await finish(connection, run_id, "completed", "c-2", orgId="org-2")
    assert await holders(connection) == {"c-1": run_id}
