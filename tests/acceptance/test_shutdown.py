"""At SIGTERM and SIGINT a worker finishes what it has begun, RabbitMQ keeps the rest, and the process ends in time."""

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
    """Three workers are stopped under load, one after the other. Each goes on where the one before ended."""
    async with worker_process(settings) as worker:
        await worker.until_logged("session_started")
        worker.send(signal.SIGTERM)
    runs: list[Json] = []
    end_of_load = asyncio.Event()

    async def publish() -> None:
        while not end_of_load.is_set():
            batch = [run_created(orgId="org-many") for _ in range(100)]
            await asyncio.gather(*(wire.publish("run-created", run) for run in batch))
            runs.extend(batch)
            await asyncio.sleep(0.5)

    publishing = asyncio.create_task(publish())
    for _ in range(3):
        async with worker_process(settings) as worker:
            await worker.until_logged("events_stored")
            worker.send(signal.SIGTERM)
            assert await worker.exit_code() == 0
    end_of_load.set()
    await publishing
    async with worker_process(settings), asyncio.timeout(WAIT_S):
        while await wire.count_in("export-runs.run-created"):
            await asyncio.sleep(POLL_S)
        while (await wire.result("get-export-history", orgId="org-many"))["total"] != len(runs):
            await asyncio.sleep(POLL_S)
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    assert await connection.fetchval("SELECT count(*) FROM export_run_events") == len(runs)
    await connection.close()


async def until_locked_out(connection: "asyncpg.Connection[asyncpg.Record]", words: str) -> None:
    """Wait until a query with these words waits for a lock. Other queries of the worker may wait as well."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%' || $1 || '%'"
    async with asyncio.timeout(WAIT_S):
        while not await connection.fetchval(waiting, words):
            await asyncio.sleep(POLL_S)
            await connection.execute("SELECT pg_stat_clear_snapshot()")


async def test_a_request_that_a_stopping_worker_holds_is_answered(settings: WorkerSettings, wire: Wire) -> None:
    """The request waits for a lock when the signal comes, and is answered when it gets the lock."""
    run_id = str(uuid4())
    body = {"runId": run_id, "orgId": "org-1", "triggeredBy": "alice", "format": "csv"}
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    async with worker_process(settings) as worker:
        await worker.until_parts_started()
        async with connection.transaction():
            await connection.execute("LOCK TABLE export_runs IN ACCESS EXCLUSIVE MODE")
            asking = asyncio.create_task(wire.ask("create-export-run", body))
            await until_locked_out(connection, "FOR UPDATE")
            worker.send(signal.SIGTERM)
            await worker.until_logged("worker_stopping")
        assert (await asking)["result"]["runId"] == run_id
        assert await worker.exit_code() == 0
    await connection.close()


async def test_a_worker_that_cannot_finish_in_time_gives_up(settings: WorkerSettings, wire: Wire) -> None:
    """Its exit code is 1, and the event stays in its queue."""
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    async with worker_process(settings, EXPORT_RUNS_SHUTDOWN_S="0.2", EXPORT_RUNS_LOCK_TIMEOUT_S="30") as worker:
        await worker.until_parts_started()  # a part that starts while a table is locked consumes no events
        async with connection.transaction():
            await connection.execute("LOCK TABLE export_runs IN ACCESS EXCLUSIVE MODE")
            await wire.publish("run-created", run_created())
            await until_locked_out(connection, "INSERT INTO export_runs")
            worker.send(signal.SIGTERM)
            assert (await worker.until_logged("shutdown_timed_out"))["shutdown_s"] == 0.2
            assert await worker.exit_code() == 1
    async with asyncio.timeout(WAIT_S):
        while await wire.count_in("export-runs.run-created") != 1:
            await asyncio.sleep(POLL_S)
    await connection.close()
