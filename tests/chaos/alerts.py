"""The checker's look into the queue of alerts. It takes nothing out."""

import json
from typing import Any, Final

import aiormq
from aiormq import spec

QUEUE: Final = "export-runs.alerts"


async def all_of_them(amqp_url: str) -> list[dict[str, Any]]:
    """Every alert, in the order of the queue."""
    found: list[dict[str, Any]] = []
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel()
    while True:
        got = await channel.basic_get(QUEUE)
        if not isinstance(got.delivery, spec.Basic.GetOk):
            break
        found.append(json.loads(got.body))
    await connection.close()  # they all go back
    return found
