"""SIGTERM and SIGINT: what is in hand is finished, what is not goes back, the process ends in time."""

import asyncio
import signal
from uuid import uuid4

import asyncpg
import pytest

from tests.commands import worker_process
from tests.wire import POLL_S, WAIT_S, Json, Wire, run_created
from worker.settings import WorkerSettings


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_an_idle_worker_stops_at_once(settings: WorkerSettings, number: signal.Signals) -> None:
    async with worker_process(settings) as worker:
        await worker.until_logged("session_started")
        worker.send(number)
        await worker.until_logged("worker_stopped")
        assert await worker.exit_code() == 0


async def test_a_busy_worker_loses_and_doubles_nothing(settings: WorkerSettings, wire: Wire) -> None:
    """Told to stop under load, three times over; the next worker goes on where it ended."""
    async with worker_process(settings) as worker:
        await worker.until_logged("session_started")
        worker.send(signal.SIGTERM)
    runs: list[Json] = []
    enough = asyncio.Event()

    async def publish() -> None:
        while not enough.is_set():
            some = [run_created(orgId="org-many") for _ in range(100)]
            await asyncio.gather(*(wire.publish("run-created", run) for run in some))
            runs.extend(some)
            await asyncio.sleep(0.3)

    publishing = asyncio.create_task(publish())
    for _ in range(3):
        async with worker_process(settings) as worker:
            await worker.until_logged("events_stored")
            worker.send(signal.SIGTERM)
            assert await worker.exit_code() == 0
    enough.set()
    await publishing
    async with worker_process(settings), asyncio.timeout(WAIT_S):
        while await wire.count_in("export-runs.run-created"):
            await asyncio.sleep(POLL_S)
        while (await wire.result("get-export-history", orgId="org-many"))["total"] != len(runs):
            await asyncio.sleep(POLL_S)
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    assert await connection.fetchval("SELECT count(*) FROM export_run_events") == len(runs)
    await connection.close()


async def test_a_request_under_way_is_answered(settings: WorkerSettings, wire: Wire) -> None:
    """The request waits for a lock while the worker is told to stop; it gets its answer all the same."""
    run_id = str(uuid4())
    body = {"runId": run_id, "orgId": "org-1", "triggeredBy": "alice", "format": "csv"}
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    async with worker_process(settings) as worker:
        await worker.until_logged("session_started")
        async with connection.transaction():
            await connection.execute("LOCK TABLE export_runs IN ACCESS EXCLUSIVE MODE")
            asking = asyncio.create_task(wire.ask("create-export-run", body))
            async with asyncio.timeout(WAIT_S):
                while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    await asyncio.sleep(POLL_S)
            worker.send(signal.SIGTERM)
            await worker.until_logged("worker_stopping")
        assert (await asking)["result"]["runId"] == run_id
        assert await worker.exit_code() == 0
    await connection.close()


async def test_a_worker_that_cannot_finish_in_time_gives_up(settings: WorkerSettings, wire: Wire) -> None:
    """It says so with its exit code; the event stays on the queue."""
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    async with worker_process(settings, EXPORT_RUNS_SHUTDOWN_S="1", EXPORT_RUNS_LOCK_TIMEOUT_S="30") as worker:
        await worker.until_logged("session_started")
        async with connection.transaction():
            await connection.execute("LOCK TABLE export_runs IN ACCESS EXCLUSIVE MODE")
            await wire.publish("run-created", run_created())
            async with asyncio.timeout(WAIT_S):
                while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    await asyncio.sleep(POLL_S)
            worker.send(signal.SIGTERM)
            assert (await worker.until_logged("shutdown_timed_out"))["shutdown_s"] == 1
            assert await worker.exit_code() == 1
    async with asyncio.timeout(WAIT_S):
        while await wire.count_in("export-runs.run-created") != 1:
            await asyncio.sleep(POLL_S)
    await connection.close()
