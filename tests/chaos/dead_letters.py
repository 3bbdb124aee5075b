"""Reads the dead-letter queues for the checker. The messages stay there."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import aiormq
from aiormq import spec

QUEUES: Final = {
    "export-runs.run-created.dead": "run-created",
    "export-runs.run-finished.dead": "run-finished",
    "export-runs.unroutable": None,
}


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message in one of QUEUES."""

    queue: str
    message_id: str
    body: bytes
    code: object
    failed_at: float | None
    """When it failed, in seconds of the wall clock. None if its header is missing."""


async def read_dead_letters(amqp_url: str) -> list[DeadLetter]:
    """All messages of the dead-letter queues and of the queue for unroutable messages."""
    letters = []
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel()
    for queue in QUEUES:
        while True:
            message = await channel.basic_get(queue)
            if not isinstance(message.delivery, spec.Basic.GetOk):
                break
            headers = message.header.properties.headers or {}
            failed_at = headers.get("x-failed-at")
            letters.append(
                DeadLetter(
                    queue,
                    message.header.properties.message_id or "",
                    message.body,
                    headers.get("x-error-code"),
                    datetime.fromisoformat(failed_at).timestamp() if isinstance(failed_at, str) else None,
                )
            )
    await connection.close()  # RabbitMQ puts all unacknowledged messages back
    return letters
