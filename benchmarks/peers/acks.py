"""A bare aio-pika consumer that acknowledges each event and does nothing else."""

import asyncio

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage

from benchmarks.peers.environment import EVENTS_QUEUE, amqp_url, prefetch


async def main() -> None:
    """Consume until the process is ended."""
    connection = await aio_pika.connect_robust(amqp_url())
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=prefetch())
        queue = await channel.get_queue(EVENTS_QUEUE)
        await queue.consume(on_message)
        await asyncio.Future()


async def on_message(message: AbstractIncomingMessage) -> None:
    """Acknowledge the event."""
    await message.ack()


if __name__ == "__main__":
    uvloop.run(main())
