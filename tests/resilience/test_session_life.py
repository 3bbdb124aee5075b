"""When a session ends and when the next one begins; what a worker leaves behind."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from schema import names
from schema.decoding import decode
from schema.events import RunCreated, RunFinished
from sql.connection import Connection
from tests.commands import COMMAND_TIMEOUT_S, worker_process
from tests.conftest import running_worker
from tests.resilience.conftest import Wires
from tests.resilience.observing import Log, publish_all, until_serving, until_steady
from tests.storing import store_created, store_finished
from tests.wire import WAIT_S, Wire, run_created, run_finished
from worker.broker.link import Link
from worker.database.pool import Database, Obstacle, Pool
from worker.limits import WorkerLimits
from worker.monitoring.health import Health
from worker.session import WorkerParts, run_sessions
from worker.settings import BrokerSettings, WorkerSettings

DELAY_FIRST_S = 0.1
DELAY_MAX_S = 0.8
STEADY_S = 0.2
FAILURES = 6
EVENTS = 2_000


@pytest.mark.parametrize("purpose", ["consuming", "publishing"])
async def test_a_closed_channel(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, wires: Wires, purpose: str
) -> None:
    """Its connection stays open, and no other callback reports the loss."""
    async with running_worker(settings, pool, wires.parts):
        await until_steady(wire)
        # There is no such delivery: the broker closes the channel.
        await wires.links[purpose].underlay.basic_ack(999_999)
        await log.until("session_lost")
        await until_serving(wire)
    assert log.reasons() == [f"the channel for {purpose} closed"]


async def test_sessions_that_fail_come_more_slowly_and_are_logged_once(
    settings: WorkerSettings, pool: Pool, log: Log
) -> None:
    """The last of six fails late: after a session that lasted, the delays start from the first again."""
    stopping = asyncio.Event()
    starts_s: list[float] = []
    ends_s: list[float] = []

    @asynccontextmanager
    async def refuse(settings: BrokerSettings, purpose: str, on_loss: Callable[[str], None]) -> AsyncIterator[Link]:
        starts_s.append(time.monotonic())
        if len(starts_s) == FAILURES:
            await asyncio.sleep(1.5 * STEADY_S)
        if len(starts_s) == FAILURES + 2:
            stopping.set()
        ends_s.append(time.monotonic())
        raise ConnectionRefusedError
        yield

    limits = WorkerLimits(retry_delay_first_s=DELAY_FIRST_S, retry_delay_max_s=DELAY_MAX_S, session_steady_s=STEADY_S)
    await run_sessions(settings, pool, WorkerParts(limits=limits, open_link=refuse), stopping, Health())
    pauses_s = [start_s - end_s for end_s, start_s in zip(ends_s, starts_s[1:], strict=False)]
    steps_s = [min(DELAY_FIRST_S * 2**step, DELAY_MAX_S) for step in (*range(FAILURES - 1), 0, 1)]
    assert all(step_s / 2 <= pause_s for step_s, pause_s in zip(steps_s, pauses_s, strict=True))
    assert pauses_s[FAILURES - 1] < DELAY_MAX_S / 2
    levels = [line["log_level"] for line in log.of("session_lost")]
    assert levels == ["warning", *["debug"] * (len(levels) - 1)], "the same loss is logged again after a minute"


async def test_a_bug_in_the_watch_over_the_database_ends_the_worker(
    settings: WorkerSettings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it nobody notices that the database is away, or back. The supervisor starts the process again."""
    find_obstacle = Database._find_obstacle
    looks = iter([find_obstacle])  # the one at the start

    async def fail(database: Database) -> Obstacle | None:
        if look := next(looks, None):
            return await look(database)
        raise ZeroDivisionError

    monkeypatch.setattr(Database, "_find_obstacle", fail)
    parts = WorkerParts(limits=WorkerLimits(probe_interval_s=0.1))
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(WAIT_S):
            await run_sessions(settings, pool, parts, asyncio.Event(), Health())


async def test_rows_that_cannot_be_read_hold_up_nobody(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, connection: Connection
) -> None:
    """Neither the alerts nor the stale runs: it is logged, and events and requests go on."""
    long_ago = "2001-01-01T00:00:00Z"
    await store_created(connection, [decode(RunCreated, json.dumps(run_created(occurredAt=long_ago)).encode())])
    for _ in range(2):
        await store_finished(connection, [decode(RunFinished, json.dumps(run_finished()).encode())])
    await connection.execute("UPDATE export_runs SET period_end = '14000-01-01' WHERE status = 'pending'")
    await connection.execute("UPDATE alerts SET occurred_at = '14000-01-01'")
    async with running_worker(settings, pool):
        await log.until("alerts_failed")
        await log.until("stale_runs_failed")
        await until_serving(wire)
    assert log.of("session_lost") == []


BLOCKING = """
import time
from dataclasses import replace
from worker.limits import WorkerLimits
from worker.routes import ROUTES
from worker.session import WorkerParts

def endless_handler():
    time.sleep(60)

async def store(connection, batch):
    endless_handler()

created, *others = ROUTES.events
parts = WorkerParts(
    routes=replace(ROUTES, events=(replace(created, store=store), *others)),
    limits=WorkerLimits(loop_blocked_max_s=1),
)
"""


async def test_a_handler_that_never_gives_way_ends_its_worker(settings: WorkerSettings, wire: Wire) -> None:
    async with worker_process(settings, parts=BLOCKING) as worker:
        await worker.until_logged("session_started")
        await wire.publish("run-created", run_created())
        assert await worker.exit_code() == 1
        assert any("in endless_handler" in line for line in await worker.rest())
    await wire.take_from(names.event_queue("run-created"))


async def test_a_worker_that_was_stopped_goes_on(settings: WorkerSettings, wire: Wire) -> None:
    """For longer than its loop may stand still, by SIGSTOP, as by a machine that was paused."""
    async with worker_process(settings, parts=BLOCKING) as worker:
        await worker.until_logged("session_started")
        worker.send(signal.SIGSTOP)
        await asyncio.sleep(3)
        worker.send(signal.SIGCONT)
        await wire.ready()
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 0


PATIENT = f"""
from worker.limits import WorkerLimits
from worker.session import WorkerParts

patience_s = {COMMAND_TIMEOUT_S}
parts = WorkerParts(limits=WorkerLimits(batch_lock_timeout_s=patience_s, batch_statement_timeout_s=patience_s))
"""


async def test_what_a_worker_leaves_at_its_end_nobody_has_held(
    settings: WorkerSettings, wire: Wire, connection: Connection
) -> None:
    """It stores what it holds. To give it back would count as a delivery.

    Its prefetch is used up when it ends, so nothing is on its way to it: that would count as delivered.
    """
    queue = names.event_queue("run-created")
    async with worker_process(settings, parts=PATIENT) as worker:
        await worker.until_logged("session_started")
        await until_serving(wire)
        async with connection.transaction():
            await connection.execute("LOCK TABLE export_runs IN SHARE MODE")
            await publish_all(wire, "run-created", [run_created(orgId="org-many") for _ in range(EVENTS)])
            await wire.until_count(queue, EVENTS - WorkerLimits().prefetch_events)
            worker.send(signal.SIGTERM)
            await worker.until_logged("worker_stopping")
            await asyncio.sleep(STEADY_S)  # the consumer is cancelled; RabbitMQ's count of consumers does not tell it
        assert await worker.exit_code() == 0
    left = [await wire.take_from(queue) for _ in range(await wire.count_in(queue))]
    stored = await connection.fetchval("SELECT count(*) FROM export_runs WHERE org_id = 'org-many'")
    assert stored == WorkerLimits().prefetch_events
    assert len(left) == EVENTS - stored
    assert not any(event.redelivered for event in left)
