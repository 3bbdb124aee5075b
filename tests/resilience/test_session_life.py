"""When a session ends and when the next one begins; what a worker leaves behind."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from handlers.connection import Connection
from schema import names
from tests.commands import worker_process
from tests.conftest import running_worker
from tests.resilience.observing import Log, publish_all, until_serving
from tests.wire import Wire, run_created
from worker import alerts, session, stale_runs
from worker.amqp import Link, open_link
from worker.backoff import BACKOFF_FIRST_S, BACKOFF_MAX_S
from worker.database import Pool
from worker.session import run_sessions
from worker.settings import BrokerSettings, WorkerSettings

FAILURES = 8
EVENTS = 2_000


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> dict[str, Link]:
    """The connections of the session, by purpose."""
    opened: dict[str, Link] = {}

    @asynccontextmanager
    async def open_and_note(
        settings: BrokerSettings, purpose: str, lost: Callable[[str], None], *, confirms: bool
    ) -> AsyncIterator[Link]:
        async with open_link(settings, purpose, lost, confirms=confirms) as opened[purpose]:
            yield opened[purpose]

    monkeypatch.setattr(session, "open_link", open_and_note)
    return opened


@pytest.mark.parametrize("purpose", ["consuming", "publishing", "answering"])
async def test_a_closed_channel(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, links: dict[str, Link], purpose: str
) -> None:
    """Its connection stays, and nobody else is told."""
    async with running_worker(settings, pool):
        await until_serving(wire)
        await links[purpose].underlay.basic_ack(999_999)  # there is no such delivery: the broker closes the channel
        await log.until("session_lost")
        await until_serving(wire)
    assert log.reasons() == [f"the channel for {purpose} closed"]


async def test_sessions_that_fail_come_more_slowly_and_are_told_of_once(
    settings: WorkerSettings, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one that lasted it begins anew."""
    stopping = asyncio.Event()
    delays: list[float] = []

    async def fail(*_: object) -> None:
        if len(delays) == FAILURES:
            await asyncio.sleep(0.2)
        raise ConnectionRefusedError

    async def note(_: asyncio.Event, delay_s: float) -> bool:
        delays.append(delay_s)
        if len(delays) == FAILURES + 2:
            stopping.set()
        return stopping.is_set()

    monkeypatch.setattr(session, "run_session", fail)
    monkeypatch.setattr(session, "wait", note)
    monkeypatch.setattr(session, "STEADY_SESSION_S", 0.1)
    await run_sessions(settings, cast(Pool, None), stopping)
    steps = [min(BACKOFF_FIRST_S * 2**failures, BACKOFF_MAX_S) for failures in (*range(FAILURES), 0, 1)]
    assert steps[FAILURES - 1] == BACKOFF_MAX_S
    assert all(step / 2 <= delay <= step for step, delay in zip(steps, delays, strict=True))
    told = [line["log_level"] for line in log.of("session_lost")]
    assert told == ["warning", *["debug"] * (FAILURES - 1), "warning", "debug"]


async def test_a_bug_where_nobody_waits(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, and events and requests go on."""

    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(alerts, "unpublished_alerts", fail)
    monkeypatch.setattr(stale_runs, "list_stale_runs", fail)
    async with running_worker(settings, pool):
        await log.until("alerts_failed")
        await log.until("stale_runs_failed")
        await until_serving(wire)
    assert log.of("session_lost") == []


BLOCKING = """
import time
from dataclasses import replace
from worker import app, routes, session, watchdog

def endless_handler():
    time.sleep(60)

async def store(connection, batch):
    endless_handler()

created, *others = routes.EVENT_ROUTES
session.EVENT_ROUTES = (replace(created, store=store), *others)
app.end_if_blocked = lambda: watchdog.end_if_blocked(1)
"""


async def test_a_handler_that_never_gives_way_ends_its_worker(settings: WorkerSettings, wire: Wire) -> None:
    async with worker_process(settings, planted=BLOCKING) as worker:
        await worker.until_logged("session_started")
        await wire.publish("run-created", run_created())
        assert await worker.exit_code() == 1
        assert any("in endless_handler" in line for line in await worker.rest())
    await wire.take_from(names.event_queue("run-created"))


async def test_what_a_worker_leaves_at_its_end_nobody_has_held(
    settings: WorkerSettings, wire: Wire, connection: Connection
) -> None:
    """It stores what it holds. To give it back would count as a delivery."""
    async with worker_process(settings) as worker:
        await until_serving(wire)
        await publish_all(wire, "run-created", [run_created(orgId="org-many") for _ in range(EVENTS)])
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 0
    queue = names.event_queue("run-created")
    left = [await wire.take_from(queue) for _ in range(await wire.count_in(queue))]
    stored = await connection.fetchval("SELECT count(*) FROM export_runs WHERE org_id = 'org-many'")
    assert stored + len(left) == EVENTS
    assert not any(event.redelivered for event in left)
