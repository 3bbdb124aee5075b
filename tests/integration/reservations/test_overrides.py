"""Reservations of claims that another run has exported, or whose lease has expired."""

from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest

from handlers.runs import get_export_run_by_id
from schema.requests import GetExportRunById
from sql.connection import Connection
from tests.integration.requests import check, create, delete
from tests.integration.reservations.conftest import (
    OVERRIDE,
    conflicts,
    expire,
    finish,
    logged_takings,
    release,
    reserve,
    stored_rows,
)


async def test_an_override_is_granted_and_recorded_in_the_log_and_on_the_run(connection: Connection) -> None:
    one, two, repeat = uuid4(), uuid4(), (await create(connection)).run_id
    await finish(connection, one, "completed", "c-1")
    await finish(connection, two, "partial", "c-1", "c-2")
    answer = await reserve(connection, repeat, "c-1", "c-2", "free", override=OVERRIDE)
    assert (answer.granted, answer.conflicts) == (["c-1", "c-2", "free"], [])
    run = await get_export_run_by_id(connection, GetExportRunById(run_id=repeat))
    expected = sorted([("c-1", one), ("c-1", two), ("c-2", two)])
    assert [(each.claim_id, each.earlier_run_id) for each in run.claim_overrides] == expected
    assert {(each.reason, each.approved_by) for each in run.claim_overrides} == {("the bank lost it", "carol")}
    [taking] = await logged_takings(connection)
    assert (taking["orgId"], taking["runId"], taking["override"], taking["taken"]) == (
        "org-1",
        str(repeat),
        OVERRIDE,
        [],
    )
    assert sorted((each["claimId"], UUID(each["earlierRunId"])) for each in taking["overridden"]) == expected


async def test_a_repeated_override_is_recorded_once(connection: Connection) -> None:
    await finish(connection, uuid4(), "completed", "c-1")
    run_id = uuid4()
    first = await reserve(connection, run_id, "c-1", override=OVERRIDE)
    before = await stored_rows(connection)
    second = await reserve(connection, run_id, "c-1", override=OVERRIDE)
    assert (second.granted, second.fencing_token) == (first.granted, first.fencing_token)
    assert (await stored_rows(connection))[1:] == before[1:]


async def test_an_override_that_was_not_needed_is_not_recorded(connection: Connection) -> None:
    assert (await reserve(connection, uuid4(), "c-1", override=OVERRIDE)).granted == ["c-1"]
    assert await logged_takings(connection) == []
    assert await connection.fetchval("SELECT count(*) FROM claim_overrides") == 0


@pytest.mark.parametrize("mode", ["all-or-nothing", "available"])
async def test_an_override_takes_no_claim_that_another_run_holds(connection: Connection, mode: str) -> None:
    """It takes no reserved claim, no claim that is exported and reserved, and no claim whose lease has expired."""
    await finish(connection, uuid4(), "completed", "c-1")
    holder = uuid4()
    await reserve(connection, holder, "c-1", "c-2", override=OVERRIDE)
    before = await stored_rows(connection)
    answer = await reserve(connection, uuid4(), "c-1", "c-2", mode=mode, override=OVERRIDE, takeExpired=True)
    assert conflicts(answer) == [("c-1", "reserved", holder), ("c-2", "reserved", holder)]
    assert await stored_rows(connection) == before
    await expire(connection)
    answer = await reserve(connection, uuid4(), "c-1", "c-2", mode=mode, override=OVERRIDE)
    assert conflicts(answer) == [("c-1", "expired", holder), ("c-2", "expired", holder)]
    assert (await stored_rows(connection))[1:] == before[1:]


async def test_an_expired_lease_is_a_conflict_unless_the_request_takes_expired_leases(connection: Connection) -> None:
    slow, taker = uuid4(), uuid4()
    first = await reserve(connection, slow, "c-1")
    await expire(connection)
    without_taking = await reserve(connection, taker, "c-1")
    assert conflicts(without_taking) == [("c-1", "expired", slow)]
    assert first.expires_at is not None
    assert without_taking.conflicts[0].expires_at == first.expires_at - timedelta(days=2)
    answer = await reserve(connection, taker, "c-1", "c-2", takeExpired=True)
    assert (answer.granted, answer.conflicts) == (["c-1", "c-2"], [])
    [taking] = await logged_takings(connection)
    assert (taking["runId"], taking["override"], taking["overridden"]) == (str(taker), None, [])
    [lease] = taking["taken"]
    assert (lease["claimId"], lease["fromRunId"]) == ("c-1", str(slow))
    assert datetime.fromisoformat(lease["expiredAt"]) == without_taking.conflicts[0].expires_at
    assert conflicts(await reserve(connection, slow, "c-1", takeExpired=True)) == [("c-1", "reserved", taker)]
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
    assert await logged_takings(connection) == []


async def test_a_renewal_tells_that_the_former_holder_has_exported_the_claim(connection: Connection) -> None:
    """A run took the expired lease, but the former holder exported the claim all the same."""
    slow, taker = uuid4(), uuid4()
    await reserve(connection, slow, "c-1")
    await expire(connection)
    await reserve(connection, taker, "c-1", takeExpired=True)
    await finish(connection, slow, "completed", "c-1")
    assert conflicts(await reserve(connection, taker, "c-1")) == [("c-1", "exported", slow)]
    answer = await check(connection, "c-1")
    assert ([each.claim_id for each in answer.exported], answer.reserved) == (["c-1"], [])
