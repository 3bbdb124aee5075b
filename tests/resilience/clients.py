"""Who uses the service while nodes of a cluster go away: a publisher, and questions whether it is served."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from local.rabbitmq import LocalRabbitMQ
from sql.connection import Connection
from tests.resilience.observing import until_serving
from tests.wire import Wire, run_created
from worker.broker.link import CONNECTION_ERRORS

ORGANISATION: Final = "org-cluster"
ATTEMPTS_S: Final = 5


@asynccontextmanager
async def publishing(wire: Wire, confirmed: list[str]) -> AsyncIterator[None]:
    """Publish one event after the other. Those that RabbitMQ does not confirm are not counted."""

    stopping = asyncio.Event()

    async def publish() -> None:
        while not stopping.is_set():
            event = run_created(orgId=ORGANISATION)
            with suppress(*CONNECTION_ERRORS):
                async with asyncio.timeout(5):
                    await wire.publish("run-created", event)
                confirmed.append(event["eventId"])
            await asyncio.sleep(0)  # a channel that is closed refuses at once, and the others must have their turn

    task = asyncio.create_task(publish())
    try:
        yield
    finally:
        stopping.set()  # a cancellation that meets a refusal would be lost
        await task


async def all_stored(connection: Connection, event_ids: list[str]) -> bool:
    """Whether all these events are in the log."""
    found = await connection.fetchval(
        "SELECT count(*) FROM export_run_events WHERE event_id = ANY($1::text[]::uuid[])", event_ids
    )
    return bool(found == len(event_ids))


async def serves(node: LocalRabbitMQ) -> bool:
    """Whether the service answers who comes to this node now. RabbitMQ 3.10 refuses without end what a channel
    publishes that met a queue without a leader, so each try has a channel of its own.
    """
    try:
        async with Wire.connect(node.url) as wire:
            await until_serving(wire, ATTEMPTS_S)
    except CONNECTION_ERRORS:
        return False
    return True
