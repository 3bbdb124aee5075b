"""Two workers on the same queues."""

import asyncio
import signal
from contextlib import AsyncExitStack

from aio_pika.exceptions import AMQPError

from sql.connection import Connection
from tests.commands import worker_process
from tests.resilience.observing import EXPIRATION_S, RECOVERY_S, publish_all, until, until_serving
from tests.wire import Wire, run_created, run_finished
from worker.settings import WorkerSettings

RUNS = 500
COPIES = 3
RESTARTS = 2


async def test_the_same_events_to_two_workers(settings: WorkerSettings, wire: Wire, connection: Connection) -> None:
    """3,000 events, each of them three times, and every run carries claims that others carry too."""
    async with AsyncExitStack() as stack:
        for _ in range(2):
            worker = await stack.enter_async_context(worker_process(settings))
            await worker.until_parts_started()
        await until_serving(wire)
        created = [run_created(orgId="org-many") for _ in range(RUNS)]
        finished = [
            run_finished(runId=run["runId"], orgId="org-many", claimIds=[f"c-{number % 7}", "c-all"])
            for number, run in enumerate(created)
        ]
        await asyncio.gather(
            *(publish_all(wire, "run-created", created[::step]) for step in (1, -1, 1)[:COPIES]),
            *(publish_all(wire, "run-finished", finished[::step]) for step in (1, -1, 1)[:COPIES]),
        )

        async def complete() -> bool:
            done = await connection.fetchval(
                "SELECT count(*) FROM export_runs "
                "WHERE org_id = 'org-many' AND status = 'completed' AND triggered_by IS NOT NULL"
            )
            waiting = [await wire.count_in(f"export-runs.run-{kind}") for kind in ("created", "finished")]
            return done == RUNS and waiting == [0, 0]

        await until(complete, within_s=2 * RECOVERY_S)
    counts = await connection.fetchrow(
        "SELECT (SELECT count(*) FROM export_run_events WHERE org_id = 'org-many') AS events, "
        "(SELECT count(*) FROM export_runs WHERE org_id = 'org-many') AS runs, "
        "(SELECT count(*) FROM export_runs WHERE has_conflict) AS conflicts, "
        "(SELECT count(*) FROM export_run_claims WHERE org_id = 'org-many') AS claims, "
        "(SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()) AS deadlocks"
    )
    assert counts is not None
    assert dict(counts) == {
        "events": 2 * RUNS,
        "runs": RUNS,
        "conflicts": 0,
        "claims": 2 * RUNS,
        "deadlocks": 0,
    }


async def test_a_rolling_restart(settings: WorkerSettings, wire: Wire) -> None:
    """The guard, which tries once more if it hears nothing or UNAVAILABLE, never fails."""
    asked = {"orgId": "org-1", "claimIds": ["c-1"]}
    outcomes: list[str] = []
    done = asyncio.Event()

    async def succeeds() -> bool:
        try:
            reply = await wire.ask("check-claims", asked, wait_s=EXPIRATION_S, expiration=EXPIRATION_S)
        except (AMQPError, TimeoutError):
            return False
        return bool(reply["ok"])

    async def guard() -> None:
        while not done.is_set():
            if await succeeds():
                outcomes.append("first")
            else:
                outcomes.append("second" if await succeeds() else "failed")

    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(worker_process(settings)) for _ in range(2)]
        for worker in workers:
            await worker.until_parts_started()
        await until_serving(wire)
        guards = [asyncio.create_task(guard()) for _ in range(4)]
        for _ in range(RESTARTS):
            leaving = workers.pop(0)
            leaving.send(signal.SIGTERM)
            assert await leaving.exit_code() == 0
            coming = await stack.enter_async_context(worker_process(settings))
            await coming.until_parts_started()
            workers.append(coming)
        done.set()
        await asyncio.gather(*guards)
    assert len(outcomes) > 50
    assert "failed" not in outcomes
