"""A synchronous standby is away: whatever is answered as done waits for it, also where it was stored before.

PostgreSQL commits on the primary and then waits for the standby. Whoever gives up waiting finds its write stored, on
one machine only.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from handlers.discards import Discard, log_discard
from handlers.double_exports import resolve_double_export
from handlers.reservations import release_claims, reserve_claims
from handlers.reversals import reverse_export
from handlers.writes import create_export_run, delete_export_run, update_export_run_status
from local.postgresql import STANDBY_NAME, LocalPostgreSQL, LocalStandby
from schema import names
from schema.events import RunCreated
from schema.requests import (
    CreateExportRun,
    DeleteExportRun,
    ReleaseClaims,
    ReserveClaims,
    ResolveDoubleExport,
    ReverseExport,
    UpdateExportRunStatus,
)
from sql.connection import Connection, NotReplicated, transaction
from tests.conftest import connected, running_worker, with_database, worker_settings
from tests.integration.requests import decoded
from tests.integration.reservations.conftest import end_event
from tests.resilience.conftest import private_database
from tests.resilience.observing import RECOVERY_S, Log, until, until_serving
from tests.storing import store_created, store_finished
from tests.wire import Wire, run_created
from worker.database.pool import open_pool
from worker.limits import DEFAULT_LIMITS
from worker.session import WorkerParts

ATTEMPT_S = 0.7
"""A commit takes a few milliseconds where nobody is waited for. So long, one that must wait is watched."""

HANDED_OVER_S = 60
"""The first COMMIT waits for 5 s, the look at the database for as long."""

RUN = UUID(int=1)

Write = Callable[[Connection], Awaitable[Any]]


@pytest.fixture
async def database_url(database_server: LocalPostgreSQL) -> AsyncIterator[str]:
    """A migrated database on the private server."""
    async with private_database(database_server) as url:
        yield url


@asynccontextmanager
async def commits_wait_for(server: LocalPostgreSQL, name: str) -> AsyncIterator[None]:
    """Every commit waits for the standby of this name, whether there is one or not."""

    async def wait_for(names: str) -> None:
        await admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        await admin.execute("SELECT pg_reload_conf()")
        await until(lambda: admin.fetchval("SELECT current_setting('synchronous_standby_names') = $1", names))

    admin = await asyncpg.connect(server.url, server_settings={"synchronous_commit": "local"})
    await wait_for(name)
    try:
        await until(lambda: hangs(server.url))
        yield
    finally:
        await wait_for("")
        await admin.close()


async def hangs(url: str) -> bool:
    """Whether a commit waits. The server takes up the setting in its own time."""
    connection = await asyncpg.connect(url)
    try:
        await asyncio.wait_for(connection.execute("SELECT pg_logical_emit_message(true, '', '')"), ATTEMPT_S)
    except TimeoutError:
        return True
    finally:
        await connection.close()
    return False


def discard() -> Discard:
    return Discard("a queue", "an id", "INVALID_EVENT", "a detail", None, "a test", "alice", b"{}")


CREATED = decoded(RunCreated, **run_created(runId=str(RUN)))
ENDED = end_event(RUN, "completed", "c-1", "c-1")

WRITES: dict[str, Write] = {
    "run-created": lambda connection: store_created(connection, [CREATED]),
    "run-finished": lambda connection: store_finished(connection, [ENDED]),
    "create-export-run": lambda connection: create_export_run(
        connection, decoded(CreateExportRun, orgId="org-1", runId=str(RUN), triggeredBy="alice", format="csv")
    ),
    "update-export-run-status": lambda connection: update_export_run_status(
        connection, decoded(UpdateExportRunStatus, runId=str(RUN), status="completed", claimIds=["c-1"])
    ),
    "delete-export-run": lambda connection: delete_export_run(
        connection, decoded(DeleteExportRun, runId=str(RUN), deletedBy="bob", reason="a test")
    ),
    "resolve-double-export": lambda connection: resolve_double_export(
        connection, decoded(ResolveDoubleExport, orgId="org-1", claimId="c-1", resolvedBy="bob", note="a note")
    ),
    "reserve-claims": lambda connection: reserve_claims(
        connection, decoded(ReserveClaims, orgId="org-1", runId=str(RUN), claimIds=["c-1"])
    ),
    "release-claims": lambda connection: release_claims(
        connection, decoded(ReleaseClaims, orgId="org-1", runId=str(RUN))
    ),
    "reverse-export": lambda connection: reverse_export(
        connection, ReverseExport(org_id="org-1", run_id=RUN, reason="a test", reversed_by="bob", approved_by="carol")
    ),
    "a discarded dead letter": lambda connection: log_discard(connection, discard()),
}
BEFORE: dict[str, list[str]] = {
    "update-export-run-status": ["run-created"],
    "delete-export-run": ["run-created"],
    "resolve-double-export": ["run-finished"],
    "release-claims": ["reserve-claims"],
    "reverse-export": ["run-finished"],
}
"""What must be stored before a write can be."""


async def attempt(database_url: str, write: Write, within_s: float = RECOVERY_S) -> bool:
    """Whether a write is done before its caller gives up."""
    connection = await connected(database_url)
    try:
        await asyncio.wait_for(write(connection), within_s)
    except TimeoutError:
        return False
    finally:
        await connection.close()
    return True


@pytest.mark.parametrize("name", WRITES)
async def test_a_repeated_write_waits_as_the_first_did(
    database_server: LocalPostgreSQL, database_url: str, name: str
) -> None:
    for before in BEFORE.get(name, []):
        assert await attempt(database_url, WRITES[before])
    async with commits_wait_for(database_server, "nobody"):
        done = [await attempt(database_url, WRITES[name], ATTEMPT_S) for _ in range(3)]
    assert done == [False, False, False]
    assert await attempt(database_url, WRITES[name])


async def test_a_refused_request_waits_for_nobody(database_server: LocalPostgreSQL, database_url: str) -> None:
    """Nothing was done that it could rely on."""
    assert await attempt(database_url, WRITES["create-export-run"])
    other = decoded(CreateExportRun, orgId="org-1", runId=str(RUN), triggeredBy="bob", format="csv")
    async with commits_wait_for(database_server, "nobody"):
        connection = await connected(database_url)
        with pytest.raises(Exception, match="contradicts what is stored"):
            await asyncio.wait_for(create_export_run(connection, other), RECOVERY_S)
        await connection.close()


@pytest.mark.parametrize("level", ["notice", "error"])
async def test_a_commit_that_an_administrator_cancels_is_not_taken_for_one(
    database_server: LocalPostgreSQL, database_url: str, level: str
) -> None:
    """PostgreSQL then answers COMMIT with a warning, and the transaction is on one machine only.

    It does so also where sessions are set to get errors only.
    """
    connection, admin = await connected(database_url), await connected(database_url)
    await connection.execute(f"SET client_min_messages = {level}")

    async def write() -> None:
        async with transaction(connection):
            await connection.execute("CREATE TABLE t ()")

    async with commits_wait_for(database_server, "nobody"):
        writing = asyncio.create_task(write())
        pid = connection.get_server_pid()
        waits = "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $1"
        await until(lambda: admin.fetchval(waits, pid))
        await admin.execute("SELECT pg_cancel_backend($1)", pid)
        with pytest.raises(NotReplicated):
            await writing
        assert await admin.fetchval("SELECT to_regclass('t') IS NOT NULL")
    for each in (connection, admin):
        await each.close()


async def test_an_event_is_acknowledged_when_the_standby_has_it(
    amqp_url: str, database_server: LocalPostgreSQL, database_url: str, wire: Wire, log: Log
) -> None:
    """A worker that gave up its database takes the event again once the standby is back, and waits for its commit.

    Meanwhile claims are checked, by another worker too that starts while the standby is away.
    """
    settings = worker_settings(amqp_url, database_url, statement_timeout_s=0.1)
    parts = WorkerParts(limits=replace(DEFAULT_LIMITS, database_away_max_s=1))
    created = run_created()
    stored = "SELECT count(*) FROM export_run_events WHERE event_id = $1"
    with LocalStandby(database_server) as standby:
        async with open_pool(settings, parts.database_connections_max) as pool, AsyncExitStack() as stack:
            await stack.enter_async_context(running_worker(settings, pool, parts))
            await until_serving(wire)
            await asyncio.to_thread(standby.stop)
            await stack.enter_async_context(commits_wait_for(database_server, STANDBY_NAME))
            await wire.publish("run-created", created)
            await log.until("work_handed_over", within_s=HANDED_OVER_S)
            await log.until("session_started", times=2)
            assert await is_answered(wire)
            connection = await connected(database_url)
            assert await connection.fetchval(stored, created["eventId"]) == 1
            await connection.close()
            assert await wire.count_in(names.event_queue("run-created")) >= 1  # until_serving may publish some again
            acknowledged = len(log.of("events_stored"))
            await stack.enter_async_context(running_worker(settings, pool, parts))
            await log.until("session_started", times=3)
            assert await is_answered(wire)
            await asyncio.to_thread(standby.start)
            await log.until("events_stored", acknowledged + 1, within_s=RECOVERY_S)
            copy = await asyncpg.connect(with_database(standby.url, database_url.rpartition("/")[2]))
            assert await copy.fetchval(stored, created["eventId"]) == 1
            await copy.close()


async def is_answered(wire: Wire) -> bool:
    """Whether claims can be checked."""
    reply = await wire.ask("check-claims", {"orgId": "org-1", "claimIds": ["c-1"]})
    return bool(reply["ok"])
