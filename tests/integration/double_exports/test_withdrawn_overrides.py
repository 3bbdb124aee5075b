"""Overrides that mute a double export, and those that do not any more."""

from uuid import UUID, uuid4

import pytest

from sql.connection import Connection
from tests.integration.double_exports.conftest import alerts, double_exported_runs, log_entries
from tests.integration.requests import create, delete
from tests.integration.reservations.conftest import OVERRIDE, expire, finish, logged_takings, release, reserve

OTHER_OVERRIDE = {"reason": "the bank lost it twice", "approvedBy": "dora"}


async def overrides(connection: Connection) -> list[tuple[UUID, str, UUID, str]]:
    """Those in force: run, claim, earlier run, approver."""
    rows = await connection.fetch(
        "SELECT run_id, claim_id, earlier_run_id, approved_by FROM claim_overrides ORDER BY claim_id, approved_by"
    )
    return [tuple(row) for row in rows]


async def test_an_override_whose_reservation_was_released_mutes_nothing(connection: Connection) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1", "c-2", "c-3")
    await reserve(connection, two, "c-1", "c-2", "c-3", override=OVERRIDE)
    assert await release(connection, two, "c-1", "c-1", "unknown") == 1
    assert await overrides(connection) == [(two, "c-2", one, "carol"), (two, "c-3", one, "carol")]
    await finish(connection, two, "completed", "c-1", "c-2")
    assert await double_exported_runs(connection) == {"c-1": {one, two}}
    assert [row["claim_ids"] for row in await alerts(connection)] == [["c-1"]]
    [(entry, payload)] = await log_entries(connection, "overrides-withdrawn")
    assert (entry["run_id"], entry["org_id"], entry["origin"]) == (two, "org-1", "request")
    assert payload == {"orgId": "org-1", "runId": str(two), "claimIds": ["c-1"]}


async def test_to_release_everything_withdraws_every_override(connection: Connection) -> None:
    one, two, three = uuid4(), uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1", "c-2", "c-3")
    await reserve(connection, two, "c-1", "c-2", override=OVERRIDE)
    await reserve(connection, three, "c-3", override=OVERRIDE)
    assert await release(connection, two) == 2
    assert [(run_id, claim_id) for run_id, claim_id, *_ in await overrides(connection)] == [(three, "c-3")]
    [(_, payload)] = await log_entries(connection, "overrides-withdrawn")
    assert payload["claimIds"] == ["c-1", "c-2"]


async def test_a_run_that_is_deleted_keeps_no_override(connection: Connection) -> None:
    one, two = uuid4(), (await create(connection)).run_id
    await finish(connection, one, "completed", "c-1")
    await reserve(connection, two, "c-1", override=OVERRIDE)
    await expire(connection, two)
    await delete(connection, two)
    await finish(connection, two, "completed", "c-1")
    assert await double_exported_runs(connection) == {"c-1": {one, two}}


async def test_an_override_is_granted_again_after_its_release(connection: Connection) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1")
    for _ in range(2):
        await reserve(connection, two, "c-1", override=OVERRIDE)
        await release(connection, two)
    await reserve(connection, two, "c-1", override=OVERRIDE)
    await finish(connection, two, "completed", "c-1")
    assert await double_exported_runs(connection) == {}
    assert len(await logged_takings(connection)) == 3
    assert len(await log_entries(connection, "overrides-withdrawn")) == 2


@pytest.mark.parametrize("order", [("failed", "completed"), ("completed", "failed")])
async def test_the_end_of_a_run_withdraws_nothing(connection: Connection, order: tuple[str, str]) -> None:
    """It frees the leases, but the run may have exported under the override; no order of its events tells."""
    one, two = uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1")
    await reserve(connection, two, "c-1", override=OVERRIDE)
    for status in order:
        await finish(connection, two, status, "c-1")
        assert await release(connection, two) == 0
    assert await double_exported_runs(connection) == {}
    assert await overrides(connection) == [(two, "c-1", one, "carol")]
    assert await log_entries(connection, "overrides-withdrawn") == []


async def test_to_release_what_another_run_has_taken_withdraws_nothing(connection: Connection) -> None:
    one, slow, taker = uuid4(), uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1")
    await reserve(connection, slow, "c-1", override=OVERRIDE)
    await expire(connection, slow)
    await reserve(connection, taker, "c-1", override=OTHER_OVERRIDE, takeExpired=True)
    assert await release(connection, slow) == 0
    assert len(await overrides(connection)) == 2
    await finish(connection, slow, "completed", "c-1")
    assert await double_exported_runs(connection) == {}
    await finish(connection, taker, "completed", "c-1")
    assert await double_exported_runs(connection) == {"c-1": {slow, taker}}


async def test_to_release_without_an_override_logs_nothing(connection: Connection) -> None:
    run_id = uuid4()
    await reserve(connection, run_id, "c-1")
    assert await release(connection, run_id) == 1
    assert await log_entries(connection, "overrides-withdrawn") == []


async def test_another_organisation_withdraws_nothing(connection: Connection) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1")
    await reserve(connection, two, "c-1", override=OVERRIDE)
    await reserve(connection, two, "c-1", orgId="org-2")
    assert await release(connection, two, orgId="org-2") == 1
    assert await overrides(connection) == [(two, "c-1", one, "carol")]


async def test_a_second_override_by_another_approver_is_kept_too(connection: Connection) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1")
    for override in (OVERRIDE, OTHER_OVERRIDE, OVERRIDE, OTHER_OVERRIDE):
        await reserve(connection, two, "c-1", override=override)
    assert await overrides(connection) == [(two, "c-1", one, "carol"), (two, "c-1", one, "dora")]
    assert [taking["override"] for taking in await logged_takings(connection)] == [OVERRIDE, OTHER_OVERRIDE]
    await finish(connection, two, "completed", "c-1")
    assert await double_exported_runs(connection) == {}
