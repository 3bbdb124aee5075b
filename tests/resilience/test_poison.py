"""An event that breaks or hangs whoever touches it is put out of the way, and takes no neighbour with it."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import asyncpg
import pytest

from handlers.connection import Connection
from schema import names
from schema.events import RunCreated
from tests.commands import worker_process
from tests.conftest import running_worker
from tests.resilience.conftest import Limit
from tests.resilience.observing import Log, publish_all, until, until_serving
from tests.wire import Wire, run_created
from worker import events, routes, session
from worker.database import Pool
from worker.settings import WorkerSettings

QUEUE = names.event_queue("run-created")
DEAD = names.dead_letter_queue("run-created")
NEIGHBOURS = 20
DELIVERIES_MAX = 3

Poisoned = Callable[[], Awaitable[None]]


def poison(run_id: str, effect: Poisoned, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the handler of workers of this process fall over one run; the sizes of the batches with it, as they come."""
    sizes: list[int] = []

    async def store(connection: Connection, batch: Sequence[RunCreated]) -> None:
        if any(str(event.run_id) == run_id for event in batch):
            sizes.append(len(batch))
            await effect()
        await created.store(connection, batch)

    created, *others = routes.EVENT_ROUTES
    assert created.event_type == "run-created"
    monkeypatch.setattr(session, "EVENT_ROUTES", (replace(created, store=store), *others))
    return sizes


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
    monkeypatch: pytest.MonkeyPatch,
    effect: Poisoned,
) -> None:
    """Its neighbours in the batch are stored; it is tried again, later, and at last the broker takes it away."""
    runs = [run_created(orgId="org-many") for _ in range(NEIGHBOURS + 1)]
    bad = runs[NEIGHBOURS // 2]
    await limit(QUEUE, "x-delivery-limit", DELIVERIES_MAX)
    sizes = poison(bad["runId"], effect, monkeypatch)
    monkeypatch.setattr(events, "REQUEUE_DELAY_FIRST_S", 0.01)
    monkeypatch.setattr(events, "STORE_TIMEOUT_S", 0.5)
    async with running_worker(settings, pool):
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
        assert all(after == 1 for after in sizes[1:]), "each batch that hangs waits for its time-out"
    assert log.of("session_lost") == []


KILLS = 3


async def test_workers_killed_in_mid_batch(settings: WorkerSettings, wire: Wire) -> None:
    """The first one holds many events, the next ones begin with one: each of their ends counts for it alone."""
    runs = [run_created(orgId="org-many") for _ in range(50)]
    blocker = await asyncpg.connect(settings.database_url.get_secret_value())

    async def somebody_waits() -> object:
        return await blocker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")

    for kill in range(KILLS):
        async with worker_process(settings) as worker, blocker.transaction():
            if kill == 0:
                await until_serving(wire)
            await blocker.execute("LOCK TABLE export_runs IN ACCESS EXCLUSIVE MODE")
            if kill == 0:
                await publish_all(wire, "run-created", runs)
            await until(somebody_waits)
            worker.send(signal.SIGKILL)
            await worker.exit_code()
        await until(lambda: all_are_back(wire, len(runs)))
    assert sum(await delivery_counts(settings, len(runs))) == len(runs) + KILLS - 1
    async with worker_process(settings):
        await until_serving(wire)
        await until(lambda: all_are_back(wire, 0))
    assert await blocker.fetchval("SELECT count(*) FROM export_runs WHERE org_id = 'org-many'") == len(runs)
    assert await blocker.fetchval("SELECT count(*) FROM export_run_events WHERE org_id = 'org-many'") == len(runs)
    await blocker.close()


async def all_are_back(wire: Wire, events: int) -> bool:
    """Whether so many events stand ready."""
    return await wire.count_in(QUEUE) == events


async def delivery_counts(settings: WorkerSettings, events: int) -> list[int]:
    """How often each event in the queue was delivered before; this counts as one more."""
    async with Wire.connect(settings.amqp_url.get_secret_value()) as other:
        queue = await other.channel.get_queue(QUEUE, ensure=False)
        return [int(str((await queue.get()).headers["x-delivery-count"])) for _ in range(events)]
