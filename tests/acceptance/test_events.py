"""Exporters publish events, and the service stores them."""

import asyncio
from datetime import UTC, datetime, timedelta

import structlog

from sql.connection import Connection
from tests.conftest import running_worker
from tests.wire import POLL_S, WAIT_S, Wire, run_created, run_finished
from worker.database.pool import Pool
from worker.settings import WorkerSettings


async def test_a_time_more_than_a_day_ahead_is_stored_and_marked(worker: None, wire: Wire) -> None:
    """It is not refused, as money may be out. It does not come first in the history, and the log names the event."""
    now = datetime.now(UTC)
    ahead = run_created(orgId="acme", occurredAt=(now + timedelta(days=2)).isoformat())
    with structlog.testing.capture_logs() as lines:
        await wire.publish("run-created", ahead)
        run = await wire.until_run(ahead["runId"])
    assert run["hasFutureTime"] is True
    [warning] = [line for line in lines if line["event"] == "event_times_in_future"]
    assert (warning["event_id"], warning["events"]) == (ahead["eventId"], 1)
    skewed = run_created(orgId="acme", occurredAt=(now + timedelta(hours=23)).isoformat())
    await wire.publish("run-created", skewed)
    assert "hasFutureTime" not in await wire.until_run(skewed["runId"])
    history = await wire.result("get-export-history", orgId="acme")
    assert [each["runId"] for each in history["runs"]] == [skewed["runId"], ahead["runId"]]


async def test_a_run_from_start_to_end(worker: None, wire: Wire) -> None:
    await wire.ready()
    created = run_created(
        targetSystem="ledger",
        periodStart="2026-01-01",
        periodEnd="2026-01-31",
        override={"reason": "paid twice on purpose", "approvedBy": "bob"},
        occurredAt="2026-02-01T08:00:00+02:00",
    )
    await wire.publish("run-created", created)
    pending = await wire.until_run(created["runId"])
    assert pending == {
        "runId": created["runId"],
        "orgId": "org-1",
        "triggeredBy": "alice",
        "format": "csv",
        "trigger": None,
        "scope": None,
        "targetSystem": "ledger",
        "periodStart": "2026-01-01",
        "periodEnd": "2026-01-31",
        "status": "pending",
        "createdAt": "2026-02-01T06:00:00Z",
        "finishedAt": None,
        "claimCount": 0,
        "skippedCount": 0,
        "error": None,
        "artifact": None,
        "externalAckId": None,
        "retryOfRunId": None,
        "override": {"reason": "paid twice on purpose", "approvedBy": "bob"},
        "deletedAt": None,
        "deletedBy": None,
        "hasConflict": False,
        "claimIds": [],
        "skippedClaims": [],
        "claimOverrides": [],
    }
    artifact = {"key": "exports/1.csv", "sha256": "ab" * 32, "sizeBytes": 4096}
    await wire.publish(
        "run-finished",
        run_finished(
            runId=created["runId"],
            occurredAt="2026-02-01T06:00:05.5Z",
            status="partial",
            claimIds=["c-2", "c-1"],
            skippedClaims=[{"claimId": "c-3", "reason": "no receipt"}],
            error={"code": "ONE_LEFT", "detail": "c-3 has no receipt\nsee the log"},
            artifact=artifact,
            externalAckId="ack-7",
        ),
    )
    finished = await wire.until_run(created["runId"], status="partial")
    assert finished == {
        **pending,
        "status": "partial",
        "finishedAt": "2026-02-01T06:00:05.500000Z",
        "claimCount": 2,
        "skippedCount": 1,
        "error": {"code": "ONE_LEFT", "detail": "c-3 has no receipt\nsee the log"},
        "artifact": artifact,
        "externalAckId": "ack-7",
        "claimIds": ["c-1", "c-2"],
        "skippedClaims": [{"claimId": "c-3", "reason": "no receipt"}],
        "claimOverrides": [],
    }


async def test_finished_before_created(worker: None, wire: Wire) -> None:
    await wire.ready()
    finished = run_finished()
    await wire.publish("run-finished", finished)
    run = await wire.until_run(finished["runId"], status="completed")
    assert run["triggeredBy"] is None
    created = run_created(runId=finished["runId"])
    await wire.publish("run-created", created)
    run = await wire.until_run(finished["runId"], triggeredBy="alice")
    assert (run["status"], run["hasConflict"]) == ("completed", False)


async def test_an_event_that_is_published_many_times_counts_once(
    worker: None, wire: Wire, connection: Connection
) -> None:
    await wire.ready()
    created = run_created()
    finished = run_finished(runId=created["runId"])
    await asyncio.gather(
        *(wire.publish("run-created", created) for _ in range(20)),
        *(wire.publish("run-finished", finished) for _ in range(20)),
    )
    run = await wire.until_run(created["runId"], status="completed", triggeredBy="alice")
    assert (run["claimCount"], run["hasConflict"]) == (2, False)
    assert await connection.fetchval("SELECT count(*) FROM export_run_events") == 2


async def test_the_next_worker_stores_what_was_published_while_none_ran(
    settings: WorkerSettings, pool: Pool, wire: Wire
) -> None:
    async with running_worker(settings, pool):
        await wire.ready()
    runs = [run_created(orgId="org-many") for _ in range(1_000)]
    await asyncio.gather(*(wire.publish("run-created", run) for run in runs))
    async with running_worker(settings, pool), asyncio.timeout(WAIT_S):
        while (await wire.result("get-export-history", orgId="org-many"))["total"] != len(runs):
            await asyncio.sleep(POLL_S)


async def test_contradicting_events_are_stored_and_the_run_is_marked(worker: None, wire: Wire) -> None:
    await wire.ready()
    failed = run_finished(status="failed", claimIds=["c-1"])
    await wire.publish("run-finished", failed)
    await wire.until_run(failed["runId"], status="failed")
    await wire.publish("run-finished", run_finished(runId=failed["runId"], claimIds=["c-1", "c-2"]))
    run = await wire.until_run(failed["runId"], status="completed")
    assert run["hasConflict"]
    assert run["claimCount"] == 2
    await wire.publish("run-finished", run_finished(runId=failed["runId"], status="failed", claimIds=["c-9"]))
    run = await wire.until_run(failed["runId"], claimCount=3)
    assert run["status"] == "completed"
    checked = await wire.result("check-claims", orgId="org-1", claimIds=["c-1", "c-2", "c-9"])
    assert [each["claimId"] for each in checked["exported"]] == ["c-1", "c-2"]
    assert checked["unexported"] == ["c-9"]
