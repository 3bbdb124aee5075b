"""A bare aio-pika consumer that stores each event with plain INSERTs in one transaction, then acknowledges it."""

import asyncio
import json
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import aio_pika
import asyncpg
import uvloop
from aio_pika.abc import AbstractIncomingMessage

from benchmarks.peers.environment import EVENTS_QUEUE, amqp_url, database_url, prefetch
from benchmarks.statements import statement


async def main() -> None:
    """Consume until the process is ended."""
    connection = await aio_pika.connect_robust(amqp_url())
    async with connection, asyncpg.create_pool(database_url()) as pool:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=prefetch())
        queue = await channel.get_queue(EVENTS_QUEUE)
        await queue.consume(partial(store, pool))
        await asyncio.Future()


async def store(pool: "asyncpg.Pool[asyncpg.Record]", message: AbstractIncomingMessage) -> None:
    """Store one event in one transaction."""
    async with message.process(requeue=True):
        event: dict[str, Any] = json.loads(message.body)
        run_id, claims = UUID(event["runId"]), event["claimIds"]
        occurred_at = datetime.fromisoformat(event["occurredAt"])
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(
                statement("peer_insert_run"),
                run_id,
                event["orgId"],
                occurred_at,
                event["status"],
                event["externalAckId"],
                len(claims),
            )
            await connection.execute(statement("peer_insert_claims"), claims, event["orgId"], run_id)


if __name__ == "__main__":
    uvloop.run(main())
