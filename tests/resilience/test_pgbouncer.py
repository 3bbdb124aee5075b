"""Everything goes through a real pgbouncer in transaction mode; and who sets it up half is told what to do."""

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from local.pgbouncer import SESSIONS_MAX, LocalPgBouncer
from local.postgresql import LocalPostgreSQL
from local.services import Services
from sql.connection import Connection
from tests.commands import export_runs, worker_process
from tests.conftest import running_worker, worker_settings
from tests.forked import forked_export_runs
from tests.resilience.conftest import private_database
from tests.resilience.observing import Log, until, until_serving
from tests.wire import Json, Wire, run_created, run_finished
from worker.database.pool import open_pool
from worker.limits import DEFAULT_LIMITS
from worker.session import DEFAULT_PARTS
from worker.settings import WorkerSettings

DIRECT_PARAMETERS = (
    "statement_timeout,lock_timeout,idle_in_transaction_session_timeout,default_transaction_isolation,"
    "synchronous_commit,jit,plan_cache_mode,enable_seqscan"
)
CLAIMS = 20

BACK_S = 10
"""The worker must be back so soon after the database. It took 2 to 4 s, and 18 s with pgbouncer's own setting."""


@pytest.fixture(scope="module")
def pgbouncer(running_services: Services) -> Iterator[LocalPgBouncer]:
    """A pgbouncer as it comes, but in transaction mode."""
    with LocalPgBouncer(running_services.database_url) as server:
        yield server


@pytest.fixture
async def pooled(amqp_url: str, database_url: str, pgbouncer: LocalPgBouncer) -> WorkerSettings:
    """Settings of a worker behind the pgbouncer, before a database whose defaults are wrong."""
    connection = await asyncpg.connect(database_url)
    for wrong in ("default_transaction_isolation = 'repeatable read'", "synchronous_commit = off", "jit = on"):
        await connection.execute(f"ALTER DATABASE {database_url.rpartition('/')[2]} SET {wrong}")
    await connection.close()
    return worker_settings(amqp_url, pgbouncer.before(database_url), transaction_pooling=True)


@pytest.fixture
async def prepared(settings: WorkerSettings, pooled: WorkerSettings) -> WorkerSettings:
    """The same, and `export-runs migrate` has made the worker's settings those of its role."""
    done = await forked_export_runs("migrate", settings=settings, EXPORT_RUNS_TRANSACTION_POOLING="true")
    assert done.code == 0, done.err
    return pooled


def reserving(run_id: str, *claim_ids: str) -> Json:
    return {"orgId": "org-1", "runId": run_id, "claimIds": claim_ids}


async def test_a_story(prepared: WorkerSettings, wire: Wire, connection: Connection) -> None:
    """With far fewer sessions than the worker has connections, so that they change hands all the time."""
    async with worker_process(prepared, EXPORT_RUNS_TRANSACTION_POOLING="true") as worker:
        await worker.until_logged("session_started")

        run_ids = [str(uuid4()) for _ in range(CLAIMS)]
        answers = await asyncio.gather(
            *(wire.result("reserve-claims", **reserving(run_id, "wanted")) for run_id in run_ids)
        )
        [(granted, token)] = [
            (run_id, answer["fencingToken"])
            for run_id, answer in zip(run_ids, answers, strict=True)
            if answer["granted"]
        ]
        assert (await wire.result("reserve-claims", **reserving(granted, "wanted")))["fencingToken"] == token

        runs = [(str(uuid4()), f"c-{number % CLAIMS}") for number in range(2 * CLAIMS)]
        await asyncio.gather(
            *(wire.publish("run-created", run_created(runId=run_id)) for run_id, _ in runs),
            *(wire.publish("run-finished", run_finished(runId=run_id, claimIds=[claim])) for run_id, claim in runs),
        )
        for run_id, _ in runs:
            await wire.until_run(run_id, status="completed", triggeredBy="alice")
        checked = await wire.result(
            "check-claims", orgId="org-1", claimIds=[*(claim for _, claim in runs), "wanted", "free"]
        )
        assert {each["claimId"]: len(each["runs"]) for each in checked["exported"]} == {
            f"c-{number}": 2 for number in range(CLAIMS)
        }
        assert [each["claimId"] for each in checked["reserved"]] == ["wanted"]
        assert checked["unexported"] == ["free"]
        found = await wire.result("list-double-exports", orgId="org-1", limit=100)
        assert sorted(each["claimId"] for each in found["doubleExports"]) == sorted(
            f"c-{number}" for number in range(CLAIMS)
        )
        sessions = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'export-runs' "
            "AND datname = current_database()"
        )
        assert 0 < sessions <= SESSIONS_MAX
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 0


async def test_settings_of_another_role_are_refused(pooled: WorkerSettings) -> None:
    """Before `migrate`, the role has none of the worker's settings."""
    refused = await export_runs("worker", settings=pooled, variables={"EXPORT_RUNS_TRANSACTION_POOLING": "true"})
    assert refused.code == 1
    sentence = refused.err.splitlines()[-1]
    assert "sessions of the database have default_transaction_isolation = repeatable read" in sentence
    assert "statement_timeout = 0" in sentence
    assert "`export-runs migrate`" in sentence


@pytest.mark.parametrize("ignored", ["", DIRECT_PARAMETERS], ids=["refuses parameters", "drops parameters"])
async def test_a_pooler_that_nobody_told_us_of_is_refused(
    settings: WorkerSettings, running_services: Services, ignored: str
) -> None:
    url = settings.database_url.get_secret_value()
    with LocalPgBouncer(running_services.database_url, ignored) as server:
        unaware = worker_settings(settings.amqp_url.get_secret_value(), server.before(url))
        refused = await export_runs("worker", settings=unaware)
        assert (refused.code, "EXPORT_RUNS_TRANSACTION_POOLING=true" in refused.err.splitlines()[-1]) == (1, True)
        for command in ("migrate", "verify", "rebuild"):
            direct = await forked_export_runs(command, settings=unaware, EXPORT_RUNS_TRANSACTION_POOLING="true")
            assert (direct.code, "leads to a pooler" in direct.err) == (1, True)


async def test_settings_that_are_gone_when_the_database_comes_back(
    prepared: WorkerSettings, settings: WorkerSettings, wire: Wire, connection: Connection, log: Log
) -> None:
    """The worker holds what it has until somebody has run `migrate`, and goes on by itself."""
    parts = replace(DEFAULT_PARTS, limits=replace(DEFAULT_LIMITS, probe_interval_s=0.2))

    async def end_sessions() -> None:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )

    async with open_pool(prepared, parts.database_connections_max) as pool, running_worker(prepared, pool, parts):
        await wire.ready()
        database = prepared.database_url.get_secret_value().rpartition("/")[2]
        await connection.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {database} RESET ALL")
        await end_sessions()
        await log.until("database_refused")
        assert "RECONNECT" in log.of("database_refused")[0]["reason"]
        created = run_created()
        await wire.publish("run-created", created)
        assert (await wire.error("check-claims", {"orgId": "org-1", "claimIds": ["c-1"]}))["code"] == "UNAVAILABLE"
        done = await forked_export_runs("migrate", settings=settings, EXPORT_RUNS_TRANSACTION_POOLING="true")
        assert done.code == 0, done.err
        await end_sessions()
        await log.until("database_available")
        await wire.until_run(created["runId"])
    assert log.of("event_failed") == []


async def test_the_worker_is_back_soon_after_the_database(
    amqp_url: str, wire: Wire, database_server: LocalPostgreSQL, log: Log
) -> None:
    """pgbouncer met a PostgreSQL that was away, and must not wait long before it tries that again."""
    async with private_database(database_server) as url:
        direct = worker_settings(amqp_url, url)
        done = await forked_export_runs("migrate", settings=direct, EXPORT_RUNS_TRANSACTION_POOLING="true")
        assert done.code == 0, done.err
        with LocalPgBouncer(url) as server:
            pooled = worker_settings(amqp_url, server.before(url), transaction_pooling=True)
            async with (
                open_pool(pooled, DEFAULT_PARTS.database_connections_max) as pool,
                running_worker(pooled, pool),
            ):
                await until_serving(wire)
                await asyncio.to_thread(database_server.stop)
                try:
                    created = run_created()
                    await wire.publish("run-created", created)
                    await log.until("database_unavailable")
                    await until(lambda: "connect failed" in server.log.read_text())
                finally:
                    await asyncio.to_thread(database_server.start)
                async with asyncio.timeout(BACK_S):
                    await wire.until_run(created["runId"])
