"""`export-runs rebuild` beside full workers, and killed half way: no event is lost, and nothing is left of it."""

import asyncio
from typing import Final

import asyncpg

from handlers.verification import verify
from sql.connection import Connection
from tests.commands import COMMAND, environment, worker_process
from tests.conftest import connected
from tests.forked import forked_export_runs
from tests.log_history import write_history
from tests.resilience.observing import until
from tests.wire import POLL_S, Json, Wire, run_created, run_finished
from worker.settings import WorkerSettings

RUNS_MIN: Final = 30
"""So many runs are published before the command begins, and so many after it has ended."""


async def difference_count(url: str) -> int:
    """What a verification finds, on a connection of its own."""
    connection = await connected(url)
    try:
        return (await verify(connection, lambda done, total: None)).difference_count
    finally:
        await connection.close()


async def test_beside_a_worker_under_load(settings: WorkerSettings, wire: Wire, connection: Connection) -> None:
    """Its sessions go on with the statements that they have prepared, requests are answered, every event is stored."""
    url = settings.database_url.get_secret_value()
    runs: list[Json] = []
    done = asyncio.Event()

    async def work() -> None:
        while not done.is_set():
            run = run_created(orgId=f"org-{len(runs) % 3}")
            run_id, org_id, claim_id = run["runId"], run["orgId"], f"c-{len(runs)}"
            await wire.publish("run-created", run)
            await wire.result("check-claims", orgId=org_id, claimIds=[claim_id])
            await wire.result("reserve-claims", orgId=org_id, runId=run_id, claimIds=[claim_id])
            await wire.publish("run-finished", run_finished(runId=run_id, orgId=org_id, claimIds=[claim_id]))
            runs.append({**run, "claimId": claim_id})
            await asyncio.sleep(POLL_S)

    async with worker_process(settings) as worker:
        await worker.until_parts_started()
        working = asyncio.create_task(work())
        await until(lambda: working.done() or len(runs) >= RUNS_MIN)
        damaged = [run["runId"] for run in runs[:RUNS_MIN]]
        for run_id in damaged:
            await wire.until_run(run_id, status="completed")
        await connection.execute("DELETE FROM export_run_claims WHERE run_id = ANY ($1::uuid[])", damaged)
        await connection.execute("UPDATE export_runs SET format = 'damaged' WHERE run_id = ANY ($1::uuid[])", damaged)
        assert await difference_count(url) > 0
        rebuilt = await forked_export_runs("rebuild", settings=settings)
        assert (rebuilt.code, rebuilt.out.startswith("made anew from ")) == (0, True), rebuilt.err
        rebuilt_at = len(runs)
        await until(lambda: working.done() or len(runs) >= rebuilt_at + RUNS_MIN)
        done.set()
        await working
        for run in runs:
            await wire.until_run(run["runId"], status="completed")
            answer = await wire.result("check-claims", orgId=run["orgId"], claimIds=[run["claimId"]])
            assert answer["exported"], run
    assert await difference_count(url) == 0


async def test_killed_before_the_exchange(settings: WorkerSettings, connection: Connection) -> None:
    """The stored tables are as they were, and the next rebuild drops what is left."""
    url = settings.database_url.get_secret_value()
    await write_history(connection)
    await connection.execute("DELETE FROM export_run_claims")
    holder = await asyncpg.connect(url)
    await holder.execute("BEGIN; SELECT FROM export_runs")
    command = await asyncio.create_subprocess_exec(
        COMMAND, "rebuild", env=environment(settings), stderr=asyncio.subprocess.PIPE
    )
    assert command.stderr is not None
    assert b"waiting: process " in await command.stderr.readline()
    command.kill()
    await command.communicate()
    await holder.close()
    assert await connection.fetchval("SELECT count(*) FROM export_runs_rebuild.export_run_claims") > 0
    assert await connection.fetchval("SELECT count(*) FROM export_run_claims") == 0
    rebuilt = await forked_export_runs("rebuild", "--json", settings=settings)
    assert rebuilt.code == 0, rebuilt.err
    assert await connection.fetchval("SELECT to_regnamespace('export_runs_rebuild')") is None
    assert await difference_count(url) == 0
