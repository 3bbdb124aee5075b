"""Whether a reversal lies between two exports of a claim. In doubt they are a double export."""

from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID, uuid4

import pytest

from handlers.purge import purge_run, unpurge_run
from sql.connection import Connection
from tests.integration.double_exports.conftest import alerts, double_export_of, double_exported_runs, resolve
from tests.integration.reservations.conftest import end_event, finish, release, reserve
from tests.integration.reversals.conftest import reverse
from tests.model import double_exports_of
from tests.storing import store_finished

DAY = timedelta(days=1)


async def reversed_run(connection: Connection, *claim_ids: str) -> UUID:
    """A run that ended yesterday, whose exports are taken back."""
    run_id = uuid4()
    await finish(connection, run_id, "completed", *claim_ids, occurredAt=datetime.now(UTC) - DAY)
    await reverse(connection, run_id)
    return run_id


async def test_a_double_export_stays_on_record_and_says_when_a_reversal_ended_it(connection: Connection) -> None:
    first, second, third = (UUID(int=number) for number in range(3))
    for run_id in (first, second, third):
        await finish(connection, run_id, "completed", "c-1")
    await reverse(connection, first, "c-1")
    record = await double_export_of(connection)
    assert (record.run_count, record.ended_at) == (3, None)
    await reverse(connection, third, "c-1")
    record = await double_export_of(connection)
    times = {run.run_id: run.reversed_at for run in record.runs}
    assert times[second] is None
    assert times[first] is not None
    assert (record.run_count, record.ended_at) == (3, times[third])
    await reverse(connection, second, "c-1")
    assert (await double_export_of(connection)).ended_at == times[third]


async def test_a_claim_that_a_run_named_twice_ends_with_the_reversal_of_that_run(connection: Connection) -> None:
    twice, once = uuid4(), uuid4()
    await finish(connection, twice, "completed", "c-1", "c-1")
    await finish(connection, once, "completed", "c-1")
    await reverse(connection, once)
    assert (await double_export_of(connection)).ended_at is None
    await reverse(connection, twice)
    record = await double_export_of(connection)
    assert record.ended_at == max(run.reversed_at for run in record.runs if run.reversed_at)


async def test_an_export_that_was_granted_after_the_reversal_is_no_double_export(connection: Connection) -> None:
    await reversed_run(connection, "c-1")
    second = uuid4()
    await reserve(connection, second, "c-1")
    await finish(connection, second, "completed", "c-1", occurredAt=datetime.now(UTC) - 2 * DAY)
    assert await double_exported_runs(connection) == {}
    assert await alerts(connection) == []


async def test_a_grant_that_was_given_back_separates_nothing(connection: Connection) -> None:
    first, second = await reversed_run(connection, "c-1"), uuid4()
    await reserve(connection, second, "c-1")
    await release(connection, second)
    await finish(connection, second, "completed", "c-1")
    assert await double_exported_runs(connection) == {"c-1": {first, second}}


async def test_a_grant_before_the_reversal_separates_nothing(connection: Connection) -> None:
    first, second = uuid4(), uuid4()
    await reserve(connection, second, "c-1")
    await finish(connection, first, "completed", "c-1")
    await reverse(connection, first)
    await reserve(connection, second, "c-1")
    await finish(connection, second, "completed", "c-1")
    assert await double_exported_runs(connection) == {"c-1": {first, second}}
    [alert] = await alerts(connection)
    assert (alert["run_id"], alert["earlier_run_ids"]) == (second, [first])


@pytest.mark.parametrize("offset", [-DAY, timedelta(), timedelta(minutes=6), 20 * DAY], ids=str)
@pytest.mark.parametrize("is_late", [False, True])
async def test_the_clock_of_an_exporter_proves_nothing(
    connection: Connection, offset: timedelta, is_late: bool
) -> None:
    """An export without a grant may have been before the reversal, whenever it says that it was, or arrives."""
    first, second = uuid4(), uuid4()
    await finish(connection, first, "completed", "c-1", occurredAt=datetime.now(UTC) - DAY)
    end = end_event(second, "completed", "c-1", occurredAt=datetime.now(UTC) + offset)
    if not is_late:
        await store_finished(connection, [end])
    await reverse(connection, first)
    await store_finished(connection, [end])
    assert await double_exported_runs(connection) == {"c-1": {first, second}}
    record = await double_export_of(connection)
    assert record.ended_at == await connection.fetchval("SELECT reversed_at FROM export_reversals")
    [alert] = await alerts(connection)
    assert (alert["run_id"], alert["earlier_run_ids"]) == (second, [first])


async def test_an_end_that_is_told_again_does_not_open_a_record(connection: Connection) -> None:
    first, second = await reversed_run(connection, "c-1"), uuid4()
    ended_at = datetime.now(UTC) - DAY
    await finish(connection, second, "completed", "c-1", occurredAt=ended_at)
    await resolve(connection, "c-1", runCount=2)
    await finish(connection, second, "completed", "c-1", occurredAt=ended_at)
    assert (await double_export_of(connection)).resolved_by == "bob"
    assert (await double_exported_runs(connection))["c-1"] == {first, second}


async def test_a_third_export_joins_all_that_it_was_not_allowed_to_repeat(connection: Connection) -> None:
    first, second, third = await reversed_run(connection, "c-1"), uuid4(), uuid4()
    await reserve(connection, second, "c-1")
    await finish(connection, second, "completed", "c-1")
    await finish(connection, third, "completed", "c-1", occurredAt=datetime.now(UTC) + DAY)
    assert await double_exported_runs(connection) == {"c-1": {first, second, third}}
    [alert] = await alerts(connection)
    assert (alert["run_id"], alert["earlier_run_ids"]) == (third, [first, second])


async def test_a_run_that_comes_back_is_separated_by_what_was_recorded(connection: Connection) -> None:
    first, second = await reversed_run(connection, "c-1"), uuid4()
    await reserve(connection, second, "c-1")
    await finish(connection, second, "completed", "c-1")
    for run_id in (first, second):
        await purge_run(connection, run_id, "erin")
        await unpurge_run(connection, run_id, "erin")
    assert await double_exported_runs(connection) == {}


async def test_the_order_of_arrival_does_not_matter(connection: Connection) -> None:
    """Runs end several times, early and late, in batches; some exports are taken back before others are known. The
    records are those of the model, which knows no order.
    """
    now = datetime.now(UTC)
    for seed in range(40):
        random, org_id = Random(seed), f"org-{seed}"
        runs = [UUID(int=random.getrandbits(128)) for _ in range(4)]
        taken_back = {run_id: random.sample("abc", random.randint(1, 3)) for run_id in runs[:2]}
        for run_id, claim_ids in taken_back.items():
            await finish(connection, run_id, "completed", *claim_ids, orgId=org_id, occurredAt=now - DAY)
        ends = [
            end_event(
                random.choice(runs),
                random.choice(["failed", "partial", "completed"]),
                *random.choices("abc", k=random.randint(0, 3)),
                orgId=org_id,
                occurredAt=now + random.choice([-DAY, timedelta(), DAY]) * random.random(),
            )
            for _ in range(6)
        ]
        early = [end for end in ends if random.random() < 0.5]
        late = [end for end in ends if end not in early]
        if early:
            await store_finished(connection, early)
        for run_id, claim_ids in taken_back.items():
            await reverse(connection, run_id, *claim_ids, orgId=org_id)
        for run_id in runs[2:]:
            if run_id not in {end.run_id for end in early} and random.random() < 0.5:
                await reserve(connection, run_id, "a", "b", "c", orgId=org_id, mode="available")
        rows = await connection.fetch(
            "SELECT run_id, claim_id, reversed_run_id FROM reversal_grants WHERE org_id = $1", org_id
        )
        granted = {(row["run_id"], row["claim_id"], row["reversed_run_id"]) for row in rows}
        deliveries = [*late, *random.choices(ends, k=2)]
        random.shuffle(deliveries)
        while deliveries:
            size = random.randint(1, 3)
            await store_finished(connection, deliveries[:size])
            deliveries = deliveries[size:]
        stored = [
            end_event(run_id, "completed", *claim_ids, orgId=org_id, occurredAt=now - DAY)
            for run_id, claim_ids in taken_back.items()
        ]
        assert await double_exported_runs(connection, org_id) == double_exports_of(stored + ends, granted)
