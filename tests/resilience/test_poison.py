"""An event that breaks or hangs its handler is dead-lettered in the end, and its neighbours are stored."""

import asyncio
import json
import re
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from schema import names
from schema.events import RunCreated
from sql.connection import Connection
from tests.commands import worker_process
from tests.conftest import running_worker
from tests.resilience.conftest import Limit
from tests.resilience.observing import Log, publish_all, until, until_serving
from tests.wire import POLL_S, Wire, run_created
from worker.database.pool import Pool
from worker.limits import WorkerLimits
from worker.routes import ROUTES, AnswerContext, Routes
from worker.session import WorkerParts
from worker.settings import WorkerSettings

QUEUE = names.event_queue("run-created")
DEAD = names.dead_letter_queue("run-created")
NEIGHBOURS = 20
DELIVERIES_MAX = 3

Poisoned = Callable[[], Awaitable[None]]


def poisoned(run_id: str, effect: Poisoned) -> tuple[Routes, list[int]]:
    """Routes whose handler falls over one run, and the sizes of the batches with it, as they come."""
    sizes: list[int] = []

    async def store(connection: Connection, batch: Sequence[RunCreated]) -> None:
        if any(str(event.run_id) == run_id for event in batch):
            sizes.append(len(batch))
            await effect()
        await created.store(connection, batch)

    created, *others = ROUTES.events
    assert created.event_type == "run-created"
    return replace(ROUTES, events=(replace(created, store=store), *others)), sizes


async def hang() -> None:
    """Never return."""
    await asyncio.Event().wait()


async def fail() -> None:
    """A bug."""
    raise ZeroDivisionError


@pytest.mark.parametrize("effect", [fail, hang])
async def test_an_event_that_breaks_its_handler(
    settings: WorkerSettings,
    pool: Pool,
    wire: Wire,
    log: Log,
    limit: Limit,
    effect: Poisoned,
) -> None:
    """Its neighbours in the batch are stored; it is tried again, later, and at last the broker takes it away."""
    runs = [run_created(orgId="org-many") for _ in range(NEIGHBOURS + 1)]
    bad = runs[NEIGHBOURS // 2]
    routes, sizes = poisoned(bad["runId"], effect)
    parts = WorkerParts(
        routes=routes,
        topology=await limit(QUEUE, "x-delivery-limit", DELIVERIES_MAX),
        limits=WorkerLimits(requeue_delay_first_s=0.01, store_timeout_s=0.5),
    )
    async with running_worker(settings, pool, parts):
        await until_serving(wire)
        await publish_all(wire, "run-created", runs)
        dead = await wire.take_from(DEAD)
        assert "delivery_limit" in str(dead.headers["x-death"])
        assert bad["eventId"].encode() in dead.body
        history = await wire.result("get-export-history", orgId="org-many", limit=200)
        assert len(history["runs"]) == NEIGHBOURS
        assert await wire.count_in(DEAD) == 0
    assert len(log.of("event_failed")) == DELIVERIES_MAX + 1
    if effect is hang:
        assert all(after == 1 for before, after in pairwise(sizes) if before > 1), "each batch that hangs takes 0.5 s"
    assert log.of("session_lost") == []


async def refuse() -> None:
    """The database refuses the values."""
    raise asyncpg.CheckViolationError


async def test_an_event_that_the_database_refuses(settings: WorkerSettings, pool: Pool, wire: Wire, log: Log) -> None:
    """It would refuse them again: the event is dead-lettered at once, and its neighbours are stored."""
    runs = [run_created(orgId="org-many") for _ in range(NEIGHBOURS + 1)]
    bad = runs[NEIGHBOURS // 2]
    routes, _ = poisoned(bad["runId"], refuse)
    async with running_worker(settings, pool, WorkerParts(routes=routes)):
        await until_serving(wire)
        await publish_all(wire, "run-created", runs)
        dead = await wire.take_from(DEAD)
        assert (dead.headers["x-error-code"], dead.redelivered) == ("UNSTORABLE", False)
        assert bad["eventId"].encode() in dead.body
        await until(lambda: stored(wire, NEIGHBOURS))
        assert await wire.count_in(DEAD) == 0
    assert log.of("event_failed") == log.of("session_lost") == []


async def stored(wire: Wire, runs: int) -> bool:
    """Whether so many runs of the organisation are stored."""
    return len((await wire.result("get-export-history", orgId="org-many", limit=200))["runs"]) == runs


async def test_a_deadlock_is_tried_again(settings: WorkerSettings, pool: Pool, wire: Wire, log: Log) -> None:
    """It cannot happen, by the order of the locks; if it does, nobody notices."""
    deadlocks = iter(range(2))

    async def deadlock() -> None:
        if next(deadlocks, None) is not None:
            raise asyncpg.DeadlockDetectedError

    run = run_created()
    routes, sizes = poisoned(run["runId"], deadlock)
    async with running_worker(settings, pool, WorkerParts(routes=routes)):
        await until_serving(wire)
        await wire.publish("run-created", run)
        await wire.until_run(run["runId"])
        assert await wire.count_in(DEAD) == 0
    assert sizes == [1, 1, 1]
    assert log.of("event_failed") == log.of("session_lost") == []


async def test_a_batch_that_is_too_slow(settings: WorkerSettings, pool: Pool, wire: Wire, log: Log) -> None:
    """It would be too slow again: it is stored in smaller ones."""
    runs = [run_created(orgId="org-many") for _ in range(NEIGHBOURS + 1)]

    async def time_out() -> None:
        if sizes[-1] > 1:
            raise asyncpg.QueryCanceledError

    routes, sizes = poisoned(runs[NEIGHBOURS // 2]["runId"], time_out)
    async with running_worker(settings, pool, WorkerParts(routes=routes)):
        await until_serving(wire)
        await publish_all(wire, "run-created", runs)
        await until(lambda: stored(wire, len(runs)))
        assert await wire.count_in(DEAD) == 0
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
    assert log.of("event_failed") == log.of("session_lost") == []


async def test_a_request_that_breaks_its_handler(settings: WorkerSettings, pool: Pool, wire: Wire, log: Log) -> None:
    """Its caller hears no more than that; those that share its query get their answers."""
    [checks] = [route for route in ROUTES.requests if route.operation.name == "check-claims"]

    async def answer(connection: Connection, requests: Sequence[Any], context: AnswerContext) -> Sequence[Any]:
        if any("bad" in request.claim_ids for request in requests):
            raise ZeroDivisionError("a secret")
        return await checks.answer(connection, requests, context)

    broken = tuple(replace(route, answer=answer) if route is checks else route for route in ROUTES.requests)
    parts = WorkerParts(routes=replace(ROUTES, requests=broken))
    async with running_worker(settings, pool, parts):
        await until_serving(wire)
        asked = [{"orgId": "org-1", "claimIds": [claim]} for claim in ("a", "b", "bad", "c", "d", "e")]
        replies = await asyncio.gather(*(wire.ask("check-claims", each) for each in asked))
    bad = replies.pop(2)
    assert (bad["ok"], bad["error"]["code"]) == (False, "INTERNAL")
    assert not re.search("secret|Zero", json.dumps(bad))
    assert [reply["result"]["unexported"] for reply in replies] == [["a"], ["b"], ["c"], ["d"], ["e"]]
    assert len(log.of("request_failed")) == 1


KILLER_DELIVERIES_MAX = 6
KILLER_SUSPECT_DELIVERIES = 2
KILLER = f"""
import os, signal
from dataclasses import replace
from tests.resilience.conftest import with_argument
from worker.limits import WorkerLimits
from worker.routes import ROUTES
from worker.session import WorkerParts

async def store(connection, batch):
    if any(event.triggered_by == "the killer" for event in batch):
        os.kill(os.getpid(), signal.SIGKILL)
    await created.store(connection, batch)

created, *others = ROUTES.events
parts = WorkerParts(
    routes=replace(ROUTES, events=(replace(created, store=store), *others)),
    topology=with_argument("{QUEUE}", "x-delivery-limit", {KILLER_DELIVERIES_MAX}),
    limits=WorkerLimits(suspect_deliveries_min={KILLER_SUSPECT_DELIVERIES}),
)
"""


async def test_an_event_that_kills_every_worker(settings: WorkerSettings, wire: Wire, limit: Limit) -> None:
    """Its neighbours are redelivered with it twice. Then it ends each worker alone, until RabbitMQ dead-letters it."""
    runs = [run_created(orgId="org-many") for _ in range(50)]
    runs[25]["triggeredBy"] = "the killer"
    await limit(QUEUE, "x-delivery-limit", KILLER_DELIVERIES_MAX)
    async with worker_process(settings, parts=KILLER):
        await until_serving(wire)
    await publish_all(wire, "run-created", runs)
    killed = 0
    while await wire.count_in(DEAD) == 0:
        async with worker_process(settings, parts=KILLER) as worker:
            dying = asyncio.create_task(worker.exit_code())
            while not dying.done() and await wire.count_in(DEAD) == 0:
                await asyncio.sleep(POLL_S)
            if dying.done():
                assert dying.result() == -signal.SIGKILL
                killed += 1
            dying.cancel()
    assert killed == KILLER_DELIVERIES_MAX + 1
    async with worker_process(settings, parts=KILLER):
        await until(lambda: stored(wire, len(runs) - 1))
    assert runs[25]["eventId"].encode() in (await wire.take_from(DEAD)).body
    assert await wire.count_in(DEAD) == 0


KILLS = 3
HOLDER = """
import asyncio
from dataclasses import replace
from worker.routes import ROUTES
from worker.session import WorkerParts

async def store(connection, batch):
    await created.store(connection, batch)
    if any(event.org_id == "org-many" for event in batch):
        await asyncio.sleep(3600)

created, *others = ROUTES.events
parts = WorkerParts(routes=replace(ROUTES, events=(replace(created, store=store), *others)))
"""
"""A worker that writes a batch of one organisation, and never commits it."""


async def test_workers_killed_in_mid_batch(settings: WorkerSettings, wire: Wire) -> None:
    """The first one holds many events, the next ones begin with one: each of their ends counts for it alone."""
    runs = [run_created(orgId="org-many") for _ in range(50)]
    observer = await asyncpg.connect(settings.database_url.get_secret_value())

    async def is_written() -> object:
        return await observer.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND state = 'idle in transaction' AND backend_xid IS NOT NULL)"
        )

    for kill in range(KILLS):
        async with worker_process(settings, parts=HOLDER) as worker:
            if kill == 0:
                await worker.until_logged("session_started")
                await until_serving(wire)
                await publish_all(wire, "run-created", runs)
            held = len(runs) if kill == 0 else 1
            await until(partial(are_ready, wire, len(runs) - held))
            await until(is_written)
            worker.send(signal.SIGKILL)
            await worker.exit_code()
        await until(lambda: are_ready(wire, len(runs)))
    assert sum(await delivery_counts(settings, len(runs))) == len(runs) + KILLS - 1
    async with worker_process(settings):
        await until_serving(wire)
        await until(lambda: are_ready(wire, 0))
    assert await observer.fetchval("SELECT count(*) FROM export_runs WHERE org_id = 'org-many'") == len(runs)
    assert await observer.fetchval("SELECT count(*) FROM export_run_events WHERE org_id = 'org-many'") == len(runs)
    await observer.close()


async def are_ready(wire: Wire, events: int) -> bool:
    """Whether so many events stand ready."""
    return await wire.count_in(QUEUE) == events


async def delivery_counts(settings: WorkerSettings, events: int) -> list[int]:
    """How often each event in the queue was delivered before; this counts as one more."""
    async with Wire.connect(settings.amqp_url.get_secret_value()) as other:
        queue = await other.channel.get_queue(QUEUE, ensure=False)
        return [int(str((await queue.get()).headers["x-delivery-count"])) for _ in range(events)]
