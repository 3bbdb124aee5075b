"""Reads the queue of alerts for the checker, and empties it."""

import asyncio
import json
from typing import Any, Final

import aiormq
from aiormq.abc import DeliveredMessage

QUEUE: Final = "export-runs.alerts"
READ_TIMEOUT_S: Final = 300


async def read_alerts(amqp_url: str) -> list[dict[str, Any]]:
    """Take all alerts out of the queue, in its order."""
    alerts: list[dict[str, Any]] = []
    complete = asyncio.Event()
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel()
    state = await channel.queue_declare(QUEUE, passive=True)

    async def receive(alert: DeliveredMessage) -> None:
        alerts.append(json.loads(alert.body))
        assert alert.delivery_tag is not None
        # A quorum queue delivers only some thousand messages before it waits for acks.
        await channel.basic_ack(alert.delivery_tag, wait=False)
        if len(alerts) == state.message_count:
            complete.set()

    if state.message_count:
        await channel.basic_consume(QUEUE, receive)
        async with asyncio.timeout(READ_TIMEOUT_S):
            await complete.wait()
    await connection.close()
    return alerts
