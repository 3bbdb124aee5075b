"""Queues that are full: who publishes hears of it, and nothing is lost."""

import asyncio
from uuid import uuid4

import pytest
from aio_pika.exceptions import DeliveryError

from cli.console import Exit
from schema import names
from tests.commands import export_runs
from tests.conftest import running_worker
from tests.resilience.conftest import Limit
from tests.resilience.observing import RECOVERY_S, Log, until_finished, until_serving
from tests.wire import Wire, run_created
from worker.broker.declaration import declare
from worker.database.pool import Pool
from worker.session import WorkerParts
from worker.settings import WorkerSettings

LENGTH_MAX = 5


@pytest.mark.parametrize(
    ("queue", "exchange", "routing_key"),
    [
        (names.rpc_queue("check-claims"), names.RPC_EXCHANGE, "check-claims"),
        (names.event_queue("run-created"), names.EVENTS_EXCHANGE, "run-created"),
    ],
    ids=["rpc", "event"],
)
async def test_a_full_queue_refuses(
    settings: WorkerSettings,
    pool: Pool,
    wire: Wire,
    limit: Limit,
    queue: str,
    exchange: str,
    routing_key: str,
) -> None:
    """A publisher that waits for confirms hears it; the bound is a soft one."""
    topology = await limit(queue, "x-max-length", LENGTH_MAX)
    async with running_worker(settings, pool, WorkerParts(topology=topology)):
        await until_serving(wire)
    for _ in range(LENGTH_MAX):
        await wire.publish(routing_key, run_created(), exchange=exchange)
    with pytest.raises(DeliveryError):
        await publish_in_turn(wire, routing_key, exchange, 10 * LENGTH_MAX)


async def publish_in_turn(wire: Wire, routing_key: str, exchange: str, messages: int) -> None:
    """Publish one message after the other."""
    for _ in range(messages):
        await wire.publish(routing_key, run_created(), exchange=exchange)


async def test_a_full_dead_letter_queue(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, limit: Limit
) -> None:
    """What finds no room in it stays where it was, until there is room."""
    dead = names.dead_letter_queue("run-created")
    topology = await limit(dead, "x-max-length", 1)
    bodies = {b"not JSON %d" % number for number in range(10)}
    async with running_worker(settings, pool, WorkerParts(topology=topology)):
        await until_serving(wire)
        await asyncio.gather(*(wire.publish("run-created", body) for body in bodies))
        await log.until("dead_letter_not_confirmed")
        await until_finished(wire, "c-1")
        taken: set[bytes] = set()
        async with asyncio.timeout(4 * RECOVERY_S):
            while taken != bodies:
                taken.add((await wire.take_from(dead)).body)
        await until_serving(wire)
    assert log.of("session_lost") == []


async def test_a_replay_into_a_full_queue(settings: WorkerSettings, wire: Wire, limit: Limit) -> None:
    """What the broker refuses stays a dead letter."""
    queue, dead = names.event_queue("run-created"), names.dead_letter_queue("run-created")
    await declare(wire.channel, await limit(queue, "x-max-length", 1))
    ids = {str(uuid4()) for _ in range(20)}
    for message_id in ids:
        await wire.publish("run-created", run_created(), exchange=names.DEAD_LETTER_EXCHANGE, message_id=message_id)
    replayed = await export_runs("dead-letters", "replay", settings=settings)
    assert replayed.code == Exit.UNREACHABLE, replayed.err
    left = await wire.count_in(dead)
    assert 0 < left < len(ids)
    taken = [await wire.take_from(dead) for _ in range(left)]
    taken += [await wire.take_from(queue) for _ in range(await wire.count_in(queue))]
    assert {message.message_id for message in taken} == ids
