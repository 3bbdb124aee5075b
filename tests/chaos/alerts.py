"""The checker's look into the queue of alerts, which it empties."""

import asyncio
import json
from typing import Any, Final

import aiormq
from aiormq.abc import DeliveredMessage

QUEUE: Final = "export-runs.alerts"
LOOK_TIMEOUT_S: Final = 300


async def all_of_them(amqp_url: str) -> list[dict[str, Any]]:
    """Every alert, in the order of the queue."""
    found: list[dict[str, Any]] = []
    complete = asyncio.Event()
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel()
    declared = await channel.queue_declare(QUEUE, passive=True)

    async def take(alert: DeliveredMessage) -> None:
        found.append(json.loads(alert.body))
        assert alert.delivery_tag is not None
        # A quorum queue stops at some thousand that are not acknowledged.
        await channel.basic_ack(alert.delivery_tag, wait=False)
        if len(found) == declared.message_count:
            complete.set()

    if declared.message_count:
        await channel.basic_consume(QUEUE, take)
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            await complete.wait()
    await connection.close()
    return found
