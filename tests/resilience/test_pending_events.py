"""A check says how far behind its answer may be, and a reservation does not suffer from it."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

from schema import names
from sql.connection import Connection
from tests.conftest import running_worker
from tests.wire import POLL_S, WAIT_S, Json, Wire, run_created, run_finished
from worker.broker.declaration import declare
from worker.database.pool import Pool
from worker.limits import WorkerLimits
from worker.requests.pending_events import EVENT_QUEUES
from worker.routes import ROUTES, Part
from worker.session import WorkerParts
from worker.settings import WorkerSettings

LIMITS = WorkerLimits(pending_events_interval_s=0.05)
ONLY_REQUESTS = WorkerParts(routes=ROUTES.only(Part.REQUESTS), limits=LIMITS)

RUNS = 30


async def check(wire: Wire, *claim_ids: str) -> Json:
    return await wire.result("check-claims", orgId="org-1", claimIds=claim_ids or ["c-1"])


async def until_pending(wire: Wire, count: int | None) -> Json:
    """Wait until a check says that so many events wait; returns what it said."""
    async with asyncio.timeout(WAIT_S):
        while True:
            checked = await check(wire)
            if (checked["pendingEvents"] and checked["pendingEvents"]["count"]) == count:
                return checked
            await asyncio.sleep(POLL_S)


async def test_a_check_counts_the_events_that_wait(
    settings: WorkerSettings, pool: Pool, wire: Wire, connection: Connection
) -> None:
    await declare(wire.channel)  # what answers requests declares no event queue
    async with running_worker(settings, pool, ONLY_REQUESTS):
        await until_pending(wire, 0)
        before = datetime.now(UTC)
        for body in (run_created(), run_created()):
            await wire.publish("run-created", body)
        await wire.publish("run-finished", run_finished())
        checked = await until_pending(wire, 3)
        assert before <= datetime.fromisoformat(checked["pendingEvents"]["asOf"]) <= datetime.now(UTC)
        async with running_worker(settings, pool, replace(ONLY_REQUESTS, routes=ROUTES.only(Part.EVENTS))):
            await until_pending(wire, 0)


async def test_what_is_not_known_is_null(settings: WorkerSettings, pool: Pool, wire: Wire) -> None:
    """A queue that is missing ends neither the look-up nor the session."""
    await declare(wire.channel)  # what answers requests declares no event queue
    async with running_worker(settings, pool, ONLY_REQUESTS):
        await until_pending(wire, 0)
        await wire.channel.queue_delete(EVENT_QUEUES[-1])
        await until_pending(wire, None)
        await declare(wire.channel)
        await until_pending(wire, 0)


async def test_an_answer_is_as_of_the_time_of_the_database(
    settings: WorkerSettings, pool: Pool, wire: Wire, connection: Connection
) -> None:
    async with running_worker(settings, pool, ONLY_REQUESTS):
        earlier = await connection.fetchval("SELECT clock_timestamp()")
        as_of = datetime.fromisoformat((await check(wire, "c-1", "c-2"))["asOf"])
        later = await connection.fetchval("SELECT clock_timestamp()")
        assert earlier <= as_of <= later
        run_id = str(uuid4())
        await wire.result("reserve-claims", orgId="org-1", runId=run_id, claimIds=["c-1"])
        reserved = await check(wire, "c-1")
        assert [each["claimId"] for each in reserved["reserved"]] == ["c-1"]
        assert datetime.fromisoformat(reserved["asOf"]) > as_of


async def test_a_claim_is_unexported_until_its_event_is_stored_unless_it_was_reserved(
    settings: WorkerSettings, pool: Pool, wire: Wire
) -> None:
    """Two runs have published their ends, and no worker stores events."""
    careful, careless, other = (str(uuid4()) for _ in range(3))
    await declare(wire.channel)  # what answers requests declares no event queue
    async with running_worker(settings, pool, ONLY_REQUESTS):
        await wire.result("reserve-claims", orgId="org-1", runId=careful, claimIds=["reserved"])
        await wire.publish("run-finished", run_finished(runId=careful, claimIds=["reserved"]))
        await wire.publish("run-finished", run_finished(runId=careless, claimIds=["not-reserved"]))
        checked = await check(wire, "reserved", "not-reserved")
        assert (checked["reserved"][0]["runId"], checked["unexported"]) == (careful, ["not-reserved"])
        asked = {"orgId": "org-1", "runId": other, "claimIds": ["reserved", "not-reserved"], "mode": "available"}
        granted = await wire.result("reserve-claims", **asked)
        assert granted["granted"] == ["not-reserved"]
        assert [(each["claimId"], each["runId"]) for each in granted["conflicts"]] == [("reserved", careful)]
        async with running_worker(settings, pool, replace(ONLY_REQUESTS, routes=ROUTES.only(Part.EVENTS))):
            for run_id in (careful, careless):
                await wire.until_run(run_id, status="completed")
            assert (await check(wire, "reserved"))["exported"][0]["runs"][0]["runId"] == careful
            assert (await wire.result("reserve-claims", **asked))["granted"] == []


async def test_no_reservation_falls_into_the_gap_between_confirm_and_storage(
    settings: WorkerSettings, pool: Pool, wire: Wire, connection: Connection
) -> None:
    """Exporters that reserve and publish, and rivals that ask for the same claims all the while."""

    async def export(claim_id: str) -> None:
        run_id, rival = str(uuid4()), str(uuid4())
        await wire.result("reserve-claims", orgId="org-1", runId=run_id, claimIds=[claim_id])
        publishing: asyncio.Task[None] | None = None
        reason = "reserved"
        while reason != "exported":
            refused = await wire.result("reserve-claims", orgId="org-1", runId=rival, claimIds=[claim_id])
            [conflict] = refused["conflicts"]
            assert (refused["granted"], conflict["runId"]) == ([], run_id)
            reason = conflict["reason"]
            if publishing is None:
                assert reason == "reserved"
                publishing = asyncio.create_task(
                    wire.publish("run-finished", run_finished(runId=run_id, claimIds=[claim_id]))
                )
        assert publishing is not None
        await publishing

    async with running_worker(settings, pool, WorkerParts(limits=LIMITS)):
        await asyncio.gather(*(export(f"c-{number}") for number in range(RUNS)))
    assert await connection.fetchval("SELECT count(*) FROM export_run_claims WHERE outcome = 'exported'") == RUNS
    assert await connection.fetchval("SELECT count(*) FROM double_exported_claims") == 0


def test_parked_events_wait_as_well() -> None:
    assert set(EVENT_QUEUES) == {
        queue
        for event_type in ("run-created", "run-finished")
        for queue in (names.event_queue(event_type), names.parked_queue(event_type))
    }
