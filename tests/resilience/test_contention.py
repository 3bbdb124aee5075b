"""One event that meets a lock, or is too slow, is put aside: nobody waits behind it, and it is stored in the end."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from handlers.locking import lock_runs_and_claims
from schema import names
from sql.connection import Connection
from tests.conftest import DATABASE_CONNECTIONS_MAX, running_worker, worker_settings
from tests.resilience.locks import locked, slow_down, waiting
from tests.resilience.observing import RECOVERY_S, Log, ask_in_time, publish_all, until, until_serving
from tests.wire import Json, Wire, run_created, run_finished
from worker.broker.topology import Topology
from worker.database.pool import Pool, open_pool
from worker.events.queue import queue_number
from worker.limits import DEFAULT_LIMITS, WorkerLimits
from worker.session import WorkerParts
from worker.settings import WorkerSettings

NEIGHBOURS = 50
AT_ONCE_S = 12
"""What the neighbours of an event that is in trouble may wait, on a machine that does other work too."""

BEHIND_MANY_S = 7
"""What others may wait behind very many organisations in trouble, there as well. It was 4.3 s, and the promise is 5."""

SLOW_S = 7
"""An event that takes so long takes longer than a batch may, and less long than PostgreSQL allows."""

QUICK_TO_GIVE_UP = WorkerParts(
    limits=replace(DEFAULT_LIMITS, park_delay_first_s=0.1, park_delay_max_s=0.2, park_tries_max=3)
)


@asynccontextmanager
async def locked_row(database_url: str, run_id: str) -> AsyncIterator[None]:
    """Lock the row of a run in a session of its own."""
    session = await asyncpg.connect(database_url)
    async with session.transaction():
        assert await session.fetchrow("SELECT FROM export_runs WHERE run_id = $1 FOR UPDATE", run_id) is not None
        yield
    await session.close()


async def create_runs(wire: Wire, count: int) -> list[str]:
    """Create runs of one organisation, and wait until they are stored. Returns their ids."""
    runs = [run_created(orgId="org-locked") for _ in range(count)]
    await publish_all(wire, "run-created", runs)
    for run in runs:
        await wire.until_run(run["runId"])
    return [run["runId"] for run in runs]


def ends(count: int) -> list[dict[str, Any]]:
    """Ends of runs of as many organisations."""
    return [run_finished(orgId=f"org-{number}", claimIds=[f"c-{number}"]) for number in range(count)]


async def until_finished(connection: Connection, run_ids: list[str], within_s: float) -> float:
    """Wait until all these runs have ended. Returns how long that took, in seconds."""
    started = time.monotonic()

    async def finished() -> bool:
        statement = "SELECT count(*) FROM export_runs WHERE run_id = ANY ($1::uuid[]) AND status = 'completed'"
        return bool(await connection.fetchval(statement, run_ids) == len(run_ids))

    await until(finished, within_s)
    return time.monotonic() - started


async def test_a_locked_run_stops_only_its_own_event(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, connection: Connection, database_url: str
) -> None:
    async with running_worker(settings, pool):
        await until_serving(wire)
        [run_id] = await create_runs(wire, 1)
        async with locked_row(database_url, run_id):
            ending = run_finished(runId=run_id, orgId="org-locked", claimIds=["c-1"])
            neighbours = ends(NEIGHBOURS)
            await publish_all(wire, "run-finished", [ending, {**ending, "eventId": str(uuid4())}, *neighbours])
            await until_finished(connection, [each["runId"] for each in neighbours], AT_ONCE_S)
            reply = await ask_in_time(wire, "check-claims", orgId="org-7", claimIds=["c-7"])
            assert [each["claimId"] for each in reply["result"]["exported"]] == ["c-7"]
            await log.until("event_parked", 2)
        await wire.until_run(run_id, status="completed")
        assert await wire.count_in(names.dead_letter_queue("run-finished")) == 0
    assert {line["event_id"] for line in log.of("event_parked")} >= {ending["eventId"]}
    assert log.of("database_unavailable") == log.of("session_lost") == log.of("event_failed") == []


async def test_many_locked_runs_of_one_organisation(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, connection: Connection, database_url: str
) -> None:
    """As many as a batch holds. Events of other organisations do not wait, and all are stored once the lock is gone."""
    async with running_worker(settings, pool):
        await until_serving(wire)
        run_ids = await create_runs(wire, 200)
        async with connection.transaction():
            await connection.execute("SELECT FROM export_runs WHERE org_id = 'org-locked' FOR UPDATE")
            locked = [run_finished(runId=run_id, orgId="org-locked") for run_id in run_ids]
            neighbours = ends(NEIGHBOURS)
            await publish_all(wire, "run-finished", [*locked, *neighbours])
            other = await asyncpg.connect(database_url)
            await until_finished(other, [each["runId"] for each in neighbours], 2 * AT_ONCE_S)
            await other.close()
        await until_finished(connection, run_ids, RECOVERY_S)
    assert log.of("database_unavailable") == log.of("session_lost") == []


async def test_a_slow_event_is_stored_on_the_side(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, connection: Connection
) -> None:
    """As many of them as there are writers hold up nobody."""
    await slow_down(connection, "org-slow", SLOW_S)
    async with running_worker(settings, pool):
        await until_serving(wire)
        slow = [run_finished(orgId="org-slow", claimIds=[f"s-{number}"]) for number in range(2)]
        neighbours = ends(NEIGHBOURS)
        for event in slow:
            await wire.publish("run-finished", event)
            await asyncio.sleep(0.2)  # so that each is a batch of its own
        await publish_all(wire, "run-finished", neighbours)
        await until_finished(connection, [each["runId"] for each in neighbours], AT_ONCE_S)
        assert not await connection.fetchval("SELECT count(*) FROM export_runs WHERE org_id = 'org-slow'")
        await until_finished(connection, [each["runId"] for each in slow], RECOVERY_S)
        assert await wire.count_in(names.dead_letter_queue("run-finished")) == 0
    assert log.of("database_unavailable") == log.of("session_lost") == log.of("event_failed") == []


async def test_an_event_that_is_too_slow_is_dead_lettered_in_the_end(
    amqp_url: str, database_url: str, wire: Wire, log: Log, connection: Connection
) -> None:
    """Alone, with nobody else's event to compare it with."""
    await slow_down(connection, "org-slow", 60)
    settings = worker_settings(amqp_url, database_url, statement_timeout_s=0.6)
    async with (
        open_pool(settings, DATABASE_CONNECTIONS_MAX) as pool,
        running_worker(settings, pool, QUICK_TO_GIVE_UP),
    ):
        await until_serving(wire)
        slow = run_finished(orgId="org-slow")
        await wire.publish("run-finished", slow)
        dead = await wire.take_from(names.dead_letter_queue("run-finished"))
        assert slow["eventId"].encode() in dead.body
        assert dead.headers["x-error-code"] == "STORE_TIMED_OUT"
        assert "3 tries" in str(dead.headers["x-error-detail"])
    assert [line["tries"] for line in log.of("event_parked")] == [1, 2]
    assert log.of("database_unavailable") == log.of("session_lost") == []


async def test_while_a_table_is_locked_nothing_is_given_up(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, connection: Connection, database_url: str
) -> None:
    """It is in everybody's way, so it says nothing of any event."""
    async with running_worker(settings, pool, QUICK_TO_GIVE_UP):
        await until_serving(wire)
        neighbours = ends(NEIGHBOURS)
        administrator = await asyncpg.connect(database_url)
        async with administrator.transaction():
            await administrator.execute("LOCK TABLE export_runs IN SHARE MODE")
            await publish_all(wire, "run-finished", neighbours)
            await asyncio.sleep(8)
        await administrator.close()
        await until_finished(connection, [each["runId"] for each in neighbours], RECOVERY_S)
        assert await wire.count_in(names.dead_letter_queue("run-finished")) == 0
    assert log.of("session_lost") == []


@pytest.mark.parametrize(
    ("bound", "parked_max", "rounds_max"),
    [
        pytest.param({"parked_events_max": 3}, 2, 0, id="there is room"),
        pytest.param({"parked_events_max": 2}, 1, 0, id="no room but for others"),
        pytest.param({"parked_events_max": 1}, 1, 0, id="no room, and no round"),
        pytest.param({"parked_events_max": 1}, 1, 1, id="no room, and one round"),
        pytest.param({"parked_bytes_max": 1_000}, 2, 0, id="room for their bytes"),
        pytest.param({"parked_bytes_max": 300}, 1, 0, id="no room for their bytes"),
    ],
)
async def test_parked_events_are_bounded(
    settings: WorkerSettings,
    pool: Pool,
    wire: Wire,
    log: Log,
    connection: Connection,
    database_url: str,
    with_ttl: Topology,
    bound: dict[str, int],
    parked_max: int,
    rounds_max: int,
) -> None:
    """RabbitMQ keeps what the worker has no room for, delivers it again, and in the end it is dead-lettered."""
    limits = WorkerLimits(**bound, broker_parks_max=rounds_max)
    async with running_worker(settings, pool, WorkerParts(limits=limits, topology=with_ttl)):
        await until_serving(wire)
        run_ids = await create_runs(wire, 2)
        async with locked_row(database_url, run_ids[0]), locked_row(database_url, run_ids[1]):
            for run_id in run_ids:
                await wire.publish("run-finished", run_finished(runId=run_id, orgId="org-locked"))
            if parked_max < len(run_ids):
                dead = await wire.take_from(names.dead_letter_queue("run-finished"))
                assert dead.headers["x-error-code"] == "STORE_TIMED_OUT"
        if parked_max == len(run_ids):
            await until_finished(connection, run_ids, RECOVERY_S)
            assert await wire.count_in(names.dead_letter_queue("run-finished")) == 0
    assert len(log.of("event_parked_on_the_broker")) == (rounds_max if parked_max < len(run_ids) else 0)


async def test_what_rabbitmq_keeps_is_stored_once_the_lock_is_gone(
    settings: WorkerSettings,
    pool: Pool,
    wire: Wire,
    log: Log,
    connection: Connection,
    with_ttl: Topology,
) -> None:
    """Forty events of one organisation wait, and there is room for one: the others lose nothing and wait for nobody."""
    parts = WorkerParts(limits=replace(DEFAULT_LIMITS, parked_events_max=2), topology=with_ttl)
    async with running_worker(settings, pool, parts):
        await until_serving(wire)
        run_ids = await create_runs(wire, 40)
        async with connection.transaction():
            await connection.execute("SELECT FROM export_runs WHERE org_id = 'org-locked' FOR UPDATE")
            await publish_all(
                wire, "run-finished", [run_finished(runId=run_id, orgId="org-locked") for run_id in run_ids]
            )
            await log.until("event_parked_on_the_broker", 30)
            neighbour = run_finished()
            await wire.publish("run-finished", neighbour)
            await wire.until_run(neighbour["runId"], status="completed")
        await until_finished(connection, run_ids, RECOVERY_S)
        assert await wire.count_in(names.dead_letter_queue("run-finished")) == 0
    assert log.of("session_lost") == []


async def test_one_locked_run_does_not_delay_the_others_of_its_organisation(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, connection: Connection, database_url: str
) -> None:
    async with running_worker(settings, pool):
        await until_serving(wire)
        [run_id] = await create_runs(wire, 1)
        async with locked_row(database_url, run_id):
            neighbours = [run_finished(orgId="org-locked") for _ in range(NEIGHBOURS)]
            ending = run_finished(runId=run_id, orgId="org-locked")
            await publish_all(wire, "run-finished", [*neighbours[:20], ending, *neighbours[20:]])
            await until_finished(connection, [each["runId"] for each in neighbours], AT_ONCE_S)
            await until(lambda: ending["eventId"] in {line["event_id"] for line in log.of("event_parked")})
        await wire.until_run(run_id, status="completed")


async def test_events_that_only_waited_for_others_are_stored_together(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, connection: Connection
) -> None:
    """Somebody else locks the claims of their organisation for a while. With one transaction for each of them a busy
    worker would get further behind, and meet more locks.
    """
    events = [run_finished(orgId="org-busy", claimIds=[f"c-{number}"]) for number in range(120)]
    async with running_worker(settings, pool):
        await until_serving(wire)
        async with connection.transaction():
            await lock_runs_and_claims(connection, [], [("org-busy", [f"c-{number}" for number in range(1_000)])])
            await publish_all(wire, "run-finished", events)
            await asyncio.sleep(8)
        await until_finished(connection, [each["runId"] for each in events], RECOVERY_S)
        assert await wire.count_in(names.dead_letter_queue("run-finished")) == 0
    transactions = [line for line in log.of("events_stored") if line["event_type"] == "run-finished"]
    assert len(transactions) < len(events) / 2
    assert log.of("event_parked_on_the_broker") == []


async def test_an_organisation_in_trouble_holds_up_no_later_batch(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, connection: Connection, database_url: str
) -> None:
    """Only the batch that first meets the lock waits for it."""
    parts = WorkerParts(limits=replace(DEFAULT_LIMITS, batch_lock_timeout_s=3, batch_statement_timeout_s=6))
    async with running_worker(settings, pool, parts):
        await until_serving(wire)
        [run_id] = await create_runs(wire, 1)
        async with locked_row(database_url, run_id):
            ending = run_finished(runId=run_id, orgId="org-locked", claimIds=["c-1"])
            await wire.publish("run-finished", ending)
            await log.until("event_parked")
            neighbours = ends(10)
            async with asyncio.timeout(AT_ONCE_S):
                for neighbour in neighbours:
                    await publish_all(wire, "run-finished", [{**ending, "eventId": str(uuid4())}, neighbour])
                    await until_finished(connection, [neighbour["runId"]], AT_ONCE_S)
        await wire.until_run(run_id, status="completed")
        assert await wire.count_in(names.dead_letter_queue("run-finished")) == 0


async def test_an_event_waits_longer_each_time_although_others_pass(
    amqp_url: str, database_url: str, wire: Wire, log: Log, connection: Connection
) -> None:
    """Others of its organisation that were parked, too, have used up its tries before."""
    settings = worker_settings(amqp_url, database_url, lock_timeout_s=0.2)
    async with open_pool(settings, DATABASE_CONNECTIONS_MAX) as pool, running_worker(settings, pool):
        await until_serving(wire)
        [run_id, *others] = await create_runs(wire, 15)
        async with locked_row(database_url, run_id):
            ending = run_finished(runId=run_id, orgId="org-locked")
            async with connection.transaction():
                await connection.execute("SELECT FROM export_runs WHERE run_id = ANY ($1::uuid[]) FOR UPDATE", others)
                await wire.publish("run-finished", ending)
                await log.until("event_parked")
                await publish_all(
                    wire, "run-finished", [run_finished(runId=each, orgId="org-locked") for each in others]
                )
                await log.until("event_parked", 1 + len(others))
            await until_finished(connection, others, RECOVERY_S)
            assert max(line["tries"] for line in log.of("event_parked") if line["event_id"] == ending["eventId"]) < 6
        await wire.until_run(run_id, status="completed")
        assert await wire.count_in(names.dead_letter_queue("run-finished")) == 0


async def test_events_of_different_organisations_are_written_at_one_time(
    settings: WorkerSettings, pool: Pool, wire: Wire, database_url: str
) -> None:
    """One organisation for each writer."""
    parts = WorkerParts(limits=replace(DEFAULT_LIMITS, batch_lock_timeout_s=30, batch_statement_timeout_s=30))
    async with running_worker(settings, pool, parts):
        await until_serving(wire)
        async with locked(database_url, "export_runs"):
            await publish_all(wire, "run-finished", ends(20))
            await until(lambda: waiting(database_url, 2), 5)  # before others want the table, too
        await until_serving(wire)


def of_one_writer(prefix: str, count: int) -> list[str]:
    """So many organisations whose events one writer stores."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        org_id = f"{prefix}-{number}"
        number += 1
        if queue_number(json.dumps({"orgId": org_id}).encode(), DEFAULT_LIMITS.writes_max) == 0:
            found.append(org_id)
    return found


RESERVATION_TRIES = 3
"""The machine may be busy in one of them."""


CLAIM_IS_LOCKED = """
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted
    AND (classid::bigint << 32) | objid::bigint = hashtextextended($1, 1) + (hashtext('c-1') & 7)
)
"""


async def is_asleep(connection: Connection) -> bool:
    """Whether a session of this database sleeps."""
    statement = (
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep')"
    )
    found: bool = await connection.fetchval(statement)
    return found


@pytest.mark.parametrize(("trouble", "expiration_s"), [("locked", 1.0), ("slow", 2.0)])
async def test_a_reservation_outlasts_a_batch_with_an_event_that_is_in_trouble(
    settings: WorkerSettings,
    pool: Pool,
    wire: Wire,
    connection: Connection,
    database_url: str,
    trouble: str,
    expiration_s: float,
) -> None:
    """The batch has locked its claim. A caller is told UNAVAILABLE when a fifth of its time is left."""
    await slow_down(connection, "before-%", 0.4)
    await slow_down(connection, "slow-%", SLOW_S)
    async with running_worker(settings, pool):
        await until_serving(wire)
        answers: list[Json] = []
        while len(answers) < RESERVATION_TRIES and not (answers and answers[-1]["ok"]):
            prefixes = ("before", trouble, "neighbour")
            before, troubled, neighbour = (of_one_writer(f"{each}-{len(answers)}", 1)[0] for each in prefixes)
            created = run_created(orgId=troubled)
            ending = run_finished(orgId=troubled, claimIds=["c-1"], runId=created["runId"])
            async with AsyncExitStack() as stack:
                if trouble == "locked":
                    await wire.publish("run-created", created)
                    await wire.until_run(created["runId"])
                    await stack.enter_async_context(locked_row(database_url, created["runId"]))
                await wire.publish("run-finished", run_finished(orgId=before))
                await until(lambda: is_asleep(connection))  # until both others have arrived, so they are one batch
                await publish_all(wire, "run-finished", [ending, run_finished(orgId=neighbour, claimIds=["c-1"])])
                await until(partial(connection.fetchval, CLAIM_IS_LOCKED, neighbour))
                reservation = {"orgId": neighbour, "runId": str(uuid4()), "claimIds": ["c-1"]}
                answers.append(await wire.ask("reserve-claims", reservation, expiration=expiration_s))
        assert answers[-1]["ok"], answers


@pytest.mark.parametrize(("trouble", "organisations"), [("locked", 150), ("slow", 40)])
async def test_very_many_organisations_in_trouble(
    settings: WorkerSettings,
    pool: Pool,
    wire: Wire,
    log: Log,
    connection: Connection,
    database_url: str,
    trouble: str,
    organisations: int,
) -> None:
    """All in the batches of one writer. Others there do not wait for one after the other."""
    runs = [run_created(orgId=org_id) for org_id in of_one_writer("org-in-trouble", organisations)]
    neighbours = [run_finished(orgId=org_id, claimIds=["c-1"]) for org_id in of_one_writer("neighbour", NEIGHBOURS)]
    if trouble == "slow":
        await slow_down(connection, "org-in-trouble-%", SLOW_S)
    async with running_worker(settings, pool):
        await until_serving(wire)
        if trouble == "locked":
            await publish_all(wire, "run-created", runs)
            await until(lambda: stored_runs(connection, organisations))
        session = await asyncpg.connect(database_url)
        async with session.transaction():
            await session.execute("SELECT FROM export_runs WHERE org_id LIKE 'org-in-trouble-%' FOR UPDATE")
            endings = [run_finished(runId=run["runId"], orgId=run["orgId"], claimIds=["c-1"]) for run in runs]
            await publish_all(wire, "run-finished", [*endings, *neighbours])
            await until_finished(connection, [each["runId"] for each in neighbours], BEHIND_MANY_S)
        await session.close()
        if trouble == "locked":
            await until_finished(connection, [run["runId"] for run in runs], RECOVERY_S)
            assert await wire.count_in(names.dead_letter_queue("run-finished")) == 0
    assert log.of("database_unavailable") == log.of("session_lost") == log.of("event_parked_on_the_broker") == []


async def stored_runs(connection: Connection, count: int) -> bool:
    found = await connection.fetchval("SELECT count(*) FROM export_runs WHERE org_id LIKE 'org-in-trouble-%'")
    return bool(found == count)


async def test_organisations_known_to_be_in_trouble_come_last(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, connection: Connection, database_url: str
) -> None:
    """Their events find no room beside those that are parked. To try them takes all the time that a batch has."""
    known = 20
    limits = replace(DEFAULT_LIMITS, parked_events_max=known)
    runs = [run_created(orgId=org_id) for org_id in of_one_writer("org-in-trouble", known + 1)]
    neighbours = [run_finished(orgId=org_id, claimIds=["c-1"]) for org_id in of_one_writer("neighbour", 10)]
    [before] = of_one_writer("before", 1)
    await slow_down(connection, before, 0.4)
    async with running_worker(settings, pool, WorkerParts(limits=limits)):
        await until_serving(wire)
        await publish_all(wire, "run-created", runs)
        await until(lambda: stored_runs(connection, len(runs)))
        session = await asyncpg.connect(database_url)
        async with session.transaction():
            await session.execute("SELECT FROM export_runs WHERE org_id LIKE 'org-in-trouble-%' FOR UPDATE")
            endings = [run_finished(runId=run["runId"], orgId=run["orgId"], claimIds=["c-1"]) for run in runs]
            await publish_all(wire, "run-finished", endings[:known])
            await log.until("event_parked", known)
            await wire.publish("run-finished", run_finished(orgId=before))
            await until(lambda: is_asleep(connection))  # until all that follow have arrived, so they are one batch
            again = [{**ending, "eventId": str(uuid4())} for ending in endings[:known]]
            await publish_all(wire, "run-finished", [*again, endings[known], *neighbours])
            await until_finished(connection, [each["runId"] for each in neighbours], AT_ONCE_S)
        await session.close()
