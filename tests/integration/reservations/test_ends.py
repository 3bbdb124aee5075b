"""How reservations end: by a release, by the end, deletion or purge of their run, or because a statement fails."""

from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest

from handlers.purge import purge_run
from sql.connection import Connection
from tests.integration.requests import check, create, delete
from tests.integration.reservations.conftest import (
    OVERRIDE,
    check_on_table,
    conflicts,
    expire,
    finish,
    holders,
    release,
    reserve,
    stored_rows,
)


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
async def test_a_run_that_succeeds_exports_its_claims_and_frees_the_rest(connection: Connection, status: str) -> None:
    run_id = uuid4()
    await reserve(connection, run_id, "c-1", "c-2", "c-3")
    await finish(connection, run_id, status, "c-2", skippedClaims=[{"claimId": "c-3", "reason": "r"}])
    answer = await check(connection, "c-1", "c-2", "c-3")
    assert ([each.claim_id for each in answer.exported], answer.unexported) == (["c-2"], ["c-1", "c-3"])
    assert await holders(connection) == {}


async def test_a_run_that_fails_frees_all_its_claims(connection: Connection) -> None:
    run_id, holder = uuid4(), uuid4()
    await reserve(connection, run_id, "c-1", "c-2")
    await reserve(connection, holder, "held")
    await finish(connection, run_id, "failed", "c-1")
    assert (await check(connection, "c-1", "c-2")).unexported == ["c-1", "c-2"]
    assert await holders(connection) == {"held": holder}


async def test_the_end_of_a_run_does_not_free_a_lease_that_another_run_took(connection: Connection) -> None:
    for status in ("failed", "completed"):
        slow, taker, claim_id = uuid4(), uuid4(), f"c-{status}"
        await reserve(connection, slow, claim_id)
        await expire(connection, slow)
        await reserve(connection, taker, claim_id, takeExpired=True)
        await finish(connection, slow, status, claim_id)
        assert (await holders(connection))[claim_id] == taker


@pytest.mark.parametrize("org_id", ["org-1", None])
async def test_deleting_a_run_frees_its_expired_reservations(connection: Connection, org_id: str | None) -> None:
    run_id, holder = (await create(connection)).run_id, uuid4()
    await reserve(connection, run_id, "c-1")
    await expire(connection)
    await reserve(connection, holder, "held")
    await delete(connection, run_id, orgId=org_id)
    assert await holders(connection) == {"held": holder}
    assert (await reserve(connection, uuid4(), "c-1")).granted == ["c-1"]


async def test_deleting_a_run_never_frees_its_exports(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    await finish(connection, run_id, "completed", "c-1")
    await delete(connection, run_id)
    assert conflicts(await reserve(connection, uuid4(), "c-1")) == [("c-1", "exported", run_id)]


async def test_purging_a_run_frees_its_expired_reservations(connection: Connection) -> None:
    run_id = (await create(connection)).run_id
    await reserve(connection, run_id, "c-1")
    await expire(connection)
    await purge_run(connection, run_id, "an operator")
    assert await holders(connection) == {}


async def test_each_claim_is_in_exactly_one_list_of_a_check(connection: Connection) -> None:
    """A claim that is exported and reserved counts as exported. A claim whose lease has expired counts as reserved."""
    holder, slow, exporter = uuid4(), uuid4(), uuid4()
    old = await reserve(connection, slow, "old")
    await expire(connection)
    await finish(connection, exporter, "completed", "out", "both")
    held = await reserve(connection, holder, "held", "both", override=OVERRIDE)
    answer = await check(connection, "free", "held", "old", "both", "out", "held")
    assert old.expires_at is not None
    assert [each.claim_id for each in answer.exported] == ["both", "out"]
    assert [(each.claim_id, each.run_id, each.expires_at) for each in answer.reserved] == [
        ("held", holder, held.expires_at),
        ("old", slow, old.expires_at - timedelta(days=2)),
    ]
    assert answer.unexported == ["free"]


async def test_a_reservation_that_fails_at_its_last_statement_stores_nothing(connection: Connection) -> None:
    """Its last statement writes the log."""
    await finish(connection, uuid4(), "completed", "out")
    await reserve(connection, uuid4(), "old")
    await expire(connection)
    before = await stored_rows(connection)
    async with check_on_table(connection, "export_run_events", "event_type <> 'claims-taken'"):
        with pytest.raises(asyncpg.CheckViolationError):
            await reserve(connection, uuid4(), "out", "old", "free", override=OVERRIDE, takeExpired=True)
    assert await stored_rows(connection) == before


async def test_the_end_of_a_run_that_cannot_be_stored_frees_nothing(connection: Connection) -> None:
    run_id = uuid4()
    await reserve(connection, run_id, "c-1", "c-2")
    before = await stored_rows(connection)
    async with check_on_table(connection, "export_run_claims", "claim_id <> 'c-2'"):
        with pytest.raises(asyncpg.CheckViolationError):
            await finish(connection, run_id, "completed", "c-1", "c-2")
    assert await stored_rows(connection) == before
