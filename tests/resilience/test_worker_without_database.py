"""A worker that alone lost its database leaves the work to others; one that is not alone says so, and waits.

Each worker reaches PostgreSQL through a proxy of its own.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from schema import names
from tests.chaos.proxy import Proxy
from tests.conftest import running_worker
from tests.resilience.conftest import CountsDeliveries, Wires, opened, proxied
from tests.resilience.observing import (
    RECOVERY_S,
    Log,
    ask_in_time,
    assert_unavailable,
    publish_all,
    until,
    until_all_stored,
    until_serving,
)
from tests.wire import Wire, run_created
from worker.limits import WorkerLimits
from worker.settings import WorkerSettings

AWAY_MAX_S = 2
LIMITS = WorkerLimits(database_away_max_s=AWAY_MAX_S)
NOTICED_S = 60
"""A frozen database is noticed when the first query is given up, and a look at it as well."""

AT_ONCE_S = 2.5
"""A caller of these tests waits for four seconds, and would hear UNAVAILABLE after 3.2 at the latest."""

EVENTS = 200
WORKERS = 2
RECONNECTS = 5

CUT = [pytest.param(Proxy.cut, id="cut"), pytest.param(Proxy.frozen, id="frozen")]
Break = Callable[[Proxy], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def one_worker(
    settings: WorkerSettings, log: Log, wires: Wires, **others: float
) -> AsyncIterator[tuple[Proxy, Proxy]]:
    """A worker that serves, and its wires to the database and to RabbitMQ."""
    sessions = len(log.of("session_started"))
    async with (
        opened(settings.database_url.get_secret_value(), Proxy) as database,
        opened(settings.amqp_url.get_secret_value(), CountsDeliveries) as broker,
        proxied(settings, database, **others) as (changed, pool),
    ):
        wires.proxies["consuming"] = broker
        async with running_worker(changed, pool, replace(wires.parts, limits=LIMITS)):
            await log.until("session_started", sessions + 1)
            yield database, broker


def has_database(log: Log) -> list[bool]:
    """Of each session, in their order."""
    return [line["has_database"] for line in log.of("session_started")]


async def deliveries_of_events_in(wire: Wire, queue: str) -> Counter[int]:
    """Take every event out of a queue; how many had been delivered how often before."""
    counts: Counter[int] = Counter()
    for _ in range(await wire.count_in(queue)):
        message = await wire.take_from(queue)
        counts[int(str(message.headers.get("x-delivery-count", 0)))] += 1
    return counts


@pytest.mark.parametrize("broken", CUT)
async def test_one_of_two_workers_loses_its_database(
    settings: WorkerSettings, wire: Wire, log: Log, broken: Break
) -> None:
    """The other gets every request and every event, and no event is delivered more than once more."""
    async with AsyncExitStack() as stack:
        database, cut_broker = await stack.enter_async_context(one_worker(settings, log, Wires()))
        _, sound_broker = await stack.enter_async_context(one_worker(settings, log, Wires()))
        await until_serving(wire)
        async with broken(database):
            events = [run_created(orgId="org-many") for _ in range(EVENTS)]
            await publish_all(wire, "run-created", events)
            asking = asyncio.create_task(ask_until(wire, lambda: has_database(log)[2:] == [False]))
            await asyncio.wait_for(asking, NOTICED_S)
            for _ in range(100):
                assert (await ask_in_time(wire))["ok"] is True
            await until_all_stored(settings.database_url.get_secret_value(), [event["eventId"] for event in events])
            more = [run_created(orgId="org-many") for _ in range(EVENTS)]
            await publish_all(wire, "run-created", more)
            await until_all_stored(settings.database_url.get_secret_value(), [event["eventId"] for event in more])
            assert isinstance(cut_broker, CountsDeliveries)
            assert isinstance(sound_broker, CountsDeliveries)
            redelivered = cut_broker.counts[True] + sound_broker.counts[True]
            assert 0 < redelivered <= EVENTS
        await until(lambda: has_database(log)[3:] == [True], RECOVERY_S)
    assert len(log.of("work_handed_over")) == 1
    assert set(log.reasons()) <= {"the database has been away for too long"}


async def ask_until(wire: Wire, condition: Callable[[], bool]) -> None:
    """Go on asking; whatever the answer is, it comes in time."""
    while not condition():
        await ask_in_time(wire)


@pytest.mark.parametrize("broken", CUT)
async def test_all_workers_lose_their_database(settings: WorkerSettings, wire: Wire, log: Log, broken: Break) -> None:
    """Somebody says so at once; events stay with RabbitMQ, and both go on within seconds of its return.

    Each worker hands an event over once at most, however often it connects to RabbitMQ meanwhile.
    """
    queue = names.event_queue("run-created")
    events = [run_created(orgId="org-many") for _ in range(EVENTS)]
    async with AsyncExitStack() as stack:
        wires = [
            await stack.enter_async_context(one_worker(settings, log, Wires(), statement_timeout_s=1))
            for _ in range(WORKERS)
        ]
        await until_serving(wire)
        async with AsyncExitStack() as breaks:
            for database, _ in wires:
                await breaks.enter_async_context(broken(database))
            await publish_all(wire, "run-created", events)
            asking = asyncio.create_task(ask_until(wire, lambda: has_database(log)[2:] == [False, False]))
            await asyncio.wait_for(asking, NOTICED_S)
            await until(lambda: all_ready(wire, queue, EVENTS))
            for _ in range(RECONNECTS):
                started = len(log.of("session_started"))
                for _, broker in wires:
                    async with broker.cut():
                        pass
                await log.until("session_started", started + WORKERS, within_s=RECOVERY_S)
            await assert_unavailable(wire)
            for _ in range(20):
                asked_at = time.monotonic()
                await assert_unavailable(wire)
                assert time.monotonic() - asked_at < AT_ONCE_S
            assert await all_ready(wire, queue, EVENTS)
            assert max(await deliveries_of_events_in(wire, queue)) <= WORKERS
            await publish_all(wire, "run-created", events)
        await until(lambda: has_database(log)[-2:] == [True, True], RECOVERY_S)
        await until_all_stored(settings.database_url.get_secret_value(), [event["eventId"] for event in events])
        await until_serving(wire)


async def all_ready(wire: Wire, queue: str, events: int) -> bool:
    """Whether so many events stand ready in a queue. There may be one more, of the look whether all serve."""
    return await wire.count_in(queue) >= events


async def test_the_database_is_away_when_a_worker_starts(settings: WorkerSettings, wire: Wire, log: Log) -> None:
    """It takes no events until the database is there."""
    queue = names.event_queue("run-created")
    url = settings.database_url.get_secret_value()
    async with (
        opened(url, Proxy) as database,
        proxied(settings, database) as (changed, pool),
        AsyncExitStack() as stack,
    ):
        async with database.cut():
            await stack.enter_async_context(running_worker(changed, pool))
            await log.until("session_started")
            events = [run_created() for _ in range(3)]
            await publish_all(wire, "run-created", events)
            for _ in range(10):
                await assert_unavailable(wire)
            assert await deliveries_of_events_in(wire, queue) == {0: 3}
            await publish_all(wire, "run-created", events)
        await until_all_stored(url, [event["eventId"] for event in events])
        await until_serving(wire)
        assert has_database(log) == [False, True]
        assert log.of("session_lost") == []
