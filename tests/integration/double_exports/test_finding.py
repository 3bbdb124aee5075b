"""Which claims are double exports, with which runs: whoever makes one finds it, in the same transaction."""

import asyncio
from random import Random
from uuid import UUID, uuid4

import asyncpg
import pytest

from handlers.errors import EventRefused
from handlers.events import merge_finished
from handlers.locking import LOCKS_PER_ORGANISATION_MAX
from schema.events import RunStatus
from sql.connection import Connection, transaction
from tests.integration.double_exports.conftest import alerts, double_export_of, double_exported_runs
from tests.integration.requests import create, delete, update
from tests.integration.reservations.conftest import (
    OVERRIDE,
    blocked_request,
    check_on_table,
    end_event,
    expire,
    finish,
    reserve,
    stored_rows,
)
from tests.model import double_exports_of
from tests.storing import store_finished

TIMES = 10


@pytest.mark.parametrize("first", ["partial", "completed"])
@pytest.mark.parametrize("second", ["partial", "completed"])
async def test_a_claim_exported_by_a_second_run(connection: Connection, first: str, second: str) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, first, "c-1", "c-2")
    assert await double_exported_runs(connection) == {}
    await finish(connection, two, second, "c-2", "c-3")
    assert await double_exported_runs(connection) == {"c-2": {one, two}}


async def test_the_order_number_and_batches_of_events_do_not_matter(connection: Connection) -> None:
    """Each run says what it exported up to three times, in other words; the set of events says what is found."""
    for seed in range(30):
        random, org_id = Random(seed), f"org-{seed}"
        runs = [UUID(int=random.getrandbits(128)) for _ in range(3)]
        events = [
            end_event(
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
        assert await double_exported_runs(connection, org_id) == double_exports_of(good)
        for claim_id, run_ids in (await double_exported_runs(connection, org_id)).items():
            alerted = {row["run_id"] for row in await alerts(connection, org_id) if claim_id in row["claim_ids"]}
            assert alerted <= run_ids
            assert len(alerted) >= len(run_ids) - 1


async def test_400_runs_that_share_a_claim_make_one_record_and_an_alert_each(connection: Connection) -> None:
    """Alone, in batches, and in a batch of nothing else: the rows that an event writes do not grow with the runs."""
    runs = [uuid4() for _ in range(400)]
    for run_id in runs[:100]:
        await finish(connection, run_id, "completed", "c-1")
    for first in range(100, 400, 100):
        await store_finished(
            connection, [end_event(run_id, "completed", "c-1") for run_id in runs[first : first + 100]]
        )
    record = await double_export_of(connection)
    assert record.run_count == 400
    assert len(record.runs) == 10
    assert await connection.fetchval("SELECT count(*) FROM double_exported_claims") == 1
    assert [row["run_id"] for row in await alerts(connection) if row["run_id"] in runs[:100]] == runs[1:100]
    assert {row["run_id"] for row in await alerts(connection)} == set(runs[1:])


async def test_two_runs_that_end_in_one_batch(connection: Connection) -> None:
    one, two = end_event(uuid4(), "completed", "c-1", "c-2"), end_event(uuid4(), "partial", "c-2", "c-3")
    await store_finished(connection, [one, two])
    assert await double_exported_runs(connection) == {"c-2": {one.run_id, two.run_id}}
    assert [(row["run_id"], row["earlier_run_ids"]) for row in await alerts(connection)] == [(two.run_id, [one.run_id])]


async def test_a_claim_named_twice_in_a_run(connection: Connection) -> None:
    for status in ("failed", "partial", "completed"):
        event = end_event(uuid4(), status, f"{status}-1", f"{status}-2", f"{status}-1", f"{status}-1")
        await store_finished(connection, [event])
        await store_finished(connection, [event])
        expected = {} if status == "failed" else {f"{status}-1": {event.run_id}}
        everything = await double_exported_runs(connection)
        assert {claim: runs for claim, runs in everything.items() if event.run_id in runs} == expected
        if expected:
            assert (await double_export_of(connection, f"{status}-1")).repeated_in_runs == [event.run_id]


async def test_a_claim_named_twice_by_the_second_run(connection: Connection) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1")
    await finish(connection, two, "completed", "c-1", "c-1")
    record = await double_export_of(connection)
    assert ({run.run_id for run in record.runs}, record.repeated_in_runs) == ({one, two}, [two])


async def test_what_failed_or_was_skipped_has_not_gone_out(connection: Connection) -> None:
    skipped = [{"claimId": claim_id, "reason": "r"} for claim_id in ("c-2", "c-3")]
    await finish(connection, uuid4(), "completed", "c-1", "c-2")
    await finish(connection, uuid4(), "failed", "c-1", "c-2")
    await finish(connection, uuid4(), "completed", skippedClaims=skipped)
    await finish(connection, uuid4(), "completed", "c-3")
    assert await double_exported_runs(connection) == {}


async def test_a_claim_listed_as_skipped_and_as_exported_has_gone_out(connection: Connection) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1")
    await finish(connection, two, "completed", "c-1", skippedClaims=[{"claimId": "c-1", "reason": "r"}])
    assert await double_exported_runs(connection) == {"c-1": {one, two}}


async def test_a_failed_run_that_turns_out_to_have_paid(connection: Connection) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1")
    await finish(connection, two, "failed", "c-1")
    await finish(connection, two, "completed", "c-1")
    assert await double_exported_runs(connection) == {"c-1": {one, two}}
    await finish(connection, one, "failed", "c-1")
    assert await double_exported_runs(connection) == {"c-1": {one, two}}


async def test_an_end_by_request_is_found_out_as_well(connection: Connection) -> None:
    one, two = (await create(connection)).run_id, (await create(connection)).run_id
    await update(connection, one, "completed", "c-1")
    await update(connection, two, "completed", "c-1", "c-2", "c-2")
    assert await double_exported_runs(connection) == {"c-1": {one, two}, "c-2": {two}}


async def test_organisations_have_claims_of_their_own(connection: Connection) -> None:
    await finish(connection, uuid4(), "completed", "c-1", orgId="org-1")
    await finish(connection, uuid4(), "completed", "c-1", orgId="org-2")
    assert await double_exported_runs(connection, "org-1") == await double_exported_runs(connection, "org-2") == {}


async def test_a_deleted_run_has_exported_all_the_same(connection: Connection) -> None:
    one, two = (await create(connection)).run_id, uuid4()
    await finish(connection, one, "completed", "c-1")
    await delete(connection, one)
    await finish(connection, two, "completed", "c-1")
    assert await double_exported_runs(connection) == {"c-1": {one, two}}


async def test_a_slow_run_whose_lease_was_taken(connection: Connection) -> None:
    for slow_first in (True, False):
        slow, taker, claim_id = uuid4(), uuid4(), f"c-{slow_first}"
        await reserve(connection, slow, claim_id)
        await expire(connection, slow)
        await reserve(connection, taker, claim_id, takeExpired=True)
        first, second = (slow, taker) if slow_first else (taker, slow)
        await finish(connection, first, "completed", claim_id)
        assert claim_id not in await double_exported_runs(connection)
        await finish(connection, second, "completed", claim_id)
        assert (await double_exported_runs(connection))[claim_id] == {slow, taker}
        status = await connection.fetchval("SELECT status FROM export_runs WHERE run_id = $1", slow)
        assert status == "completed"


# Overrides


async def test_what_an_override_names_is_none(connection: Connection) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1", "c-2")
    await reserve(connection, two, "c-1", override=OVERRIDE)
    await store_finished(connection, [end_event(two, "completed", "c-1", "c-2")])
    assert await double_exported_runs(connection) == {"c-2": {one, two}}
    await finish(connection, one, "completed", "c-1", "c-2", "c-3")
    await finish(connection, two, "completed", "c-1")
    assert await double_exported_runs(connection) == {"c-2": {one, two}}
    assert [row["claim_ids"] for row in await alerts(connection)] == [["c-2"]]


async def test_an_override_names_no_run_that_came_later(connection: Connection) -> None:
    """Granted against the first: a third run is not what somebody approved."""
    one, two, three = uuid4(), uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1")
    await reserve(connection, two, "c-1", override=OVERRIDE)
    await finish(connection, three, "completed", "c-1")
    await finish(connection, two, "completed", "c-1")
    assert await double_exported_runs(connection) == {"c-1": {one, two, three}}
    assert [(row["run_id"], row["earlier_run_ids"]) for row in await alerts(connection)] == [
        (three, [one]),
        (two, [three]),
    ]


async def test_a_run_that_may_export_a_claim_again_joins_nothing(connection: Connection) -> None:
    """The record of the two before it stays as it is, and says nothing of it."""
    one, two, three = uuid4(), uuid4(), uuid4()
    for run_id in (one, two):
        await finish(connection, run_id, "completed", "c-1")
    before = await double_export_of(connection)
    await reserve(connection, three, "c-1", override=OVERRIDE)
    await finish(connection, three, "completed", "c-1")
    assert await double_export_of(connection) == before
    assert len(await alerts(connection)) == 1


async def test_the_override_of_run_created_names_no_claim(connection: Connection) -> None:
    one, two = uuid4(), (await create(connection, override=OVERRIDE)).run_id
    await finish(connection, one, "completed", "c-1")
    await finish(connection, two, "completed", "c-1")
    assert await double_exported_runs(connection) == {"c-1": {one, two}}


# What is rolled back, and two at a time


async def test_an_end_that_is_rolled_back_records_none(connection: Connection) -> None:
    await finish(connection, uuid4(), "completed", "c-1", "c-2")
    before = await stored_rows(connection)
    async with check_on_table(connection, "export_run_claims", "claim_id <> 'c-3'"):
        with pytest.raises(asyncpg.CheckViolationError):
            await finish(connection, uuid4(), "completed", "c-1", "c-2", "c-2", "c-3")
    assert await stored_rows(connection) == before


async def test_a_batch_with_an_event_that_is_refused_records_none(connection: Connection) -> None:
    elsewhere = uuid4()
    await finish(connection, elsewhere, "completed", "c-1", orgId="org-2")
    await finish(connection, uuid4(), "completed", "c-1")
    before = await stored_rows(connection)
    with pytest.raises(EventRefused):
        await store_finished(
            connection, [end_event(uuid4(), "completed", "c-1"), end_event(elsewhere, "completed", "c-9")]
        )
    assert await stored_rows(connection) == before


@pytest.mark.parametrize("table", ["double_exported_claims", "alerts"])
async def test_no_end_without_its_record_and_its_alert(connection: Connection, table: str) -> None:
    await finish(connection, uuid4(), "completed", "c-1")
    before = await stored_rows(connection)
    async with check_on_table(connection, table, "false"):
        with pytest.raises(asyncpg.CheckViolationError):
            await finish(connection, uuid4(), "completed", "c-1")
    assert await stored_rows(connection) == before


@pytest.mark.parametrize("count", [1, LOCKS_PER_ORGANISATION_MAX, 10_000])
async def test_a_run_that_ends_while_another_does_waits_and_sees_it(
    connection: Connection, other: Connection, count: int
) -> None:
    """Both ways round: the large one first, and the small one first."""
    for large_first in (True, False):
        claim_ids = [f"{large_first}-{number}" for number in range(count)]
        large, small = uuid4(), uuid4()
        in_order = [(large, claim_ids), (small, claim_ids[-1:])][:: 1 if large_first else -1]
        (one, ones), (two, twos) = in_order
        first, second = finish(connection, one, "completed", *ones), finish(other, two, "completed", *twos)
        async with blocked_request(connection, first, other, second) as waiting:
            await waiting
        assert (await double_exported_runs(connection))[claim_ids[-1]] == {one, two}


async def test_a_run_that_ends_while_another_is_rolled_back_sees_nothing(
    connection: Connection, other: Connection
) -> None:
    under_way = connection.transaction()
    await under_way.start()
    await finish(connection, uuid4(), "completed", "c-1")
    ending = asyncio.create_task(finish(other, uuid4(), "completed", "c-1"))
    await asyncio.sleep(0.1)
    assert not ending.done()
    await under_way.rollback()
    await ending
    assert await double_exported_runs(connection) == {}


async def test_of_two_that_end_at_the_same_time_one_sees_the_other(connection: Connection, other: Connection) -> None:
    for number in range(TIMES):
        claim_ids = [f"{number}-{claim}" for claim in range(5)]
        await asyncio.gather(
            finish(connection, uuid4(), "completed", *claim_ids),
            finish(other, uuid4(), "completed", *reversed(claim_ids)),
        )
        assert len(await double_exported_runs(connection)) == 5 * (number + 1)


async def test_what_an_event_writes_is_linear_in_its_claims(connection: Connection) -> None:
    """Not in the runs that have exported them before."""
    claim_ids = [f"c-{number:02}" for number in range(50)]
    written = []
    for _ in range(12):
        before = await rows_written(connection)
        async with transaction(connection):
            await merge_finished(connection, [end_event(uuid4(), "completed", *claim_ids)])
            written.append(await rows_written(connection) - before)
    assert len(set(written[2:])) == 1
    assert written[2] <= 3 * len(claim_ids)


async def rows_written(connection: Connection) -> int:
    """Rows that this session's transaction has written; between transactions, none."""
    rows: int = await connection.fetchval(
        "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint FROM pg_stat_xact_user_tables"
    )
    return rows
