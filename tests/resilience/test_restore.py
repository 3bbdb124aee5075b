"""The runbook of docs/OPERATIONS.md: dump, go on, restore, and nothing is paid twice for it."""

import asyncio
import json
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from local.postgresql_programs import client_program
from sql.connection import Connection
from tests.commands import environment, export_runs
from tests.conftest import running_worker, with_database, worker_settings
from tests.forked import forked_export_runs
from tests.resilience.observing import until
from tests.wire import Json, Wire, run_created, run_finished
from worker.database.pool import open_pool
from worker.session import DEFAULT_PARTS
from worker.settings import WorkerSettings

HELD_S = 8


async def run_program(name: str, *arguments: str, settings: WorkerSettings, stdin: bytes | None = None) -> bytes:
    """Run a client program of PostgreSQL, and return what it writes."""
    process = await asyncio.create_subprocess_exec(
        client_program(name),
        *arguments,
        settings.database_url.get_secret_value(),
        env=environment(settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(stdin)
    assert process.returncode == 0
    return out


@pytest.fixture
async def restored(settings: WorkerSettings) -> AsyncIterator[WorkerSettings]:
    """Settings with an empty database, to restore into."""
    url = settings.database_url.get_secret_value()
    name = f"export_runs_restored_{uuid4().hex}"
    admin = await asyncpg.connect(url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    yield worker_settings(settings.amqp_url.get_secret_value(), with_database(url, name))
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


def reserving(claim_id: str) -> Json:
    return {"orgId": "org-1", "runId": str(uuid4()), "claimIds": [claim_id]}


async def finish(wire: Wire, event: Json) -> None:
    await wire.publish("run-created", run_created(runId=event["runId"]))
    await wire.publish("run-finished", event)
    await wire.until_run(event["runId"], status="completed", triggeredBy="alice")


async def facts(database_url: str) -> list[tuple[object, ...]]:
    """What is known of runs and their claims."""
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch(
        "SELECT run.run_id, run.status, run.has_conflict, claim.claim_id, claim.outcome FROM export_runs AS run "
        "JOIN export_run_claims AS claim USING (run_id) ORDER BY run.run_id, claim.claim_id"
    )
    await connection.close()
    return [tuple(row) for row in rows]


async def test_a_restore(settings: WorkerSettings, restored: WorkerSettings, wire: Wire) -> None:
    before, since = run_finished(claimIds=["before"]), run_finished(claimIds=["since"])
    async with (
        open_pool(settings, DEFAULT_PARTS.database_connections_max) as pool,
        running_worker(settings, pool),
    ):
        await finish(wire, before)
        await wire.result("reserve-claims", **reserving("known"))
        dump = await run_program("pg_dump", settings=settings)
        await finish(wire, since)
        forgotten = [await wire.result("reserve-claims", **reserving(f"forgotten-{number}")) for number in range(5)]
    lost = max(lease["fencingToken"] for lease in forgotten)
    whole = await facts(settings.database_url.get_secret_value())

    await run_program("psql", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null", settings=restored, stdin=dump)
    refused = await export_runs("worker", settings=restored)
    assert (refused.code, "`export-runs after-restore`" in refused.err) == (1, True), refused.err
    done = await forked_export_runs("after-restore", f"--leases-end-in-s={HELD_S}", "--json", settings=restored)
    assert done.code == 0, done.err
    assert json.loads(done.out)["fencingToken"] > lost

    async with (
        open_pool(restored, DEFAULT_PARTS.database_connections_max) as pool,
        running_worker(restored, pool),
    ):
        error = await wire.error("reserve-claims", reserving("forgotten-0"))
        assert (error["code"], "restored" in error["message"]) == ("UNAVAILABLE", True)
        for event in (before, since, since):
            await finish(wire, event)
        assert await facts(restored.database_url.get_secret_value()) == whole
        found = await wire.result("list-double-exports", orgId="org-1", limit=10)
        assert found["doubleExports"] == []
        request = reserving("forgotten-0")

        async def granted() -> bool:
            return bool((await wire.ask("reserve-claims", request))["ok"])

        await until(granted)
        lease = await wire.result("reserve-claims", **request)
        assert (lease["granted"], lease["fencingToken"] > lost) == (["forgotten-0"], True)
        taken = await wire.result("reserve-claims", **reserving("known"))
        assert [conflict["reason"] for conflict in taken["conflicts"]] == ["reserved"]


async def test_a_token_that_is_ahead_of_the_clock_stays(settings: WorkerSettings, connection: Connection) -> None:
    """The clock of another machine may have been ahead."""
    ahead = 2**52
    await connection.fetchval("SELECT setval('claim_fencing_tokens', $1)", ahead)
    done = await forked_export_runs("after-restore", "--leases-end-in-s=0", "--json", settings=settings)
    assert json.loads(done.out)["fencingToken"] == ahead
