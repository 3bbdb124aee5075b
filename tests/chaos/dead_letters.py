"""The checker's look into the dead-letter queues. It takes nothing out."""

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
    """A message in one of the queues."""

    queue: str
    message_id: str
    body: bytes
    code: object
    failed_at: float | None
    """Wall clock, seconds."""


async def all_of_them(amqp_url: str) -> list[DeadLetter]:
    """Every message in every dead-letter queue, and what nobody was bound for."""
    found = []
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel()
    for queue in QUEUES:
        while True:
            got = await channel.basic_get(queue)
            if not isinstance(got.delivery, spec.Basic.GetOk):
                break
            headers = got.header.properties.headers or {}
            failed_at = headers.get("x-failed-at")
            found.append(
                DeadLetter(
                    queue,
                    got.header.properties.message_id or "",
                    got.body,
                    headers.get("x-error-code"),
                    datetime.fromisoformat(failed_at).timestamp() if isinstance(failed_at, str) else None,
                )
            )
    await connection.close()  # they all go back
    return found
