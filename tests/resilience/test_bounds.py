"""Queues that are full: who publishes hears of it, and nothing is lost."""

import asyncio

import pytest
from aio_pika.exceptions import DeliveryError

from schema import names
from tests.conftest import running_worker
from tests.resilience.conftest import Limit
from tests.resilience.observing import RECOVERY_S, Log, until_serving
from tests.wire import Wire, run_created
from worker.database import Pool
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
    await limit(queue, "x-max-length", LENGTH_MAX)
    async with running_worker(settings, pool):
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
    await limit(dead, "x-max-length", 1)
    bodies = {b"not JSON %d" % number for number in range(10)}
    async with running_worker(settings, pool):
        await until_serving(wire)
        await asyncio.gather(*(wire.publish("run-created", body) for body in bodies))
        await log.until("session_lost")
        taken: set[bytes] = set()
        async with asyncio.timeout(4 * RECOVERY_S):
            while taken != bodies:
                taken.add((await wire.take_from(dead)).body)
        await until_serving(wire)
