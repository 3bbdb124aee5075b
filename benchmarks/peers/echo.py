"""A bare aio-pika RPC server that answers each request with its own body.

It answers all requests that it holds at the same time, and its replies are not confirmed: no echo is faster.
"""

import asyncio
from functools import partial

import aio_pika
import uvloop
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage

from benchmarks.peers.environment import ECHO_QUEUE, amqp_url, prefetch


async def main() -> None:
    """Answer until the process is ended."""
    connection = await aio_pika.connect_robust(amqp_url())
    async with connection:
        channel = await connection.channel(publisher_confirms=False)
        await channel.set_qos(prefetch_count=prefetch())
        queue = await channel.get_queue(ECHO_QUEUE)
        await queue.consume(partial(answer, channel.default_exchange))
        await asyncio.Future()


async def answer(exchange: AbstractExchange, message: AbstractIncomingMessage) -> None:
    """Answer one request."""
    async with message.process():
        assert message.reply_to is not None
        reply = aio_pika.Message(message.body, content_type=message.content_type, correlation_id=message.correlation_id)
        await exchange.publish(reply, routing_key=message.reply_to, mandatory=False)


if __name__ == "__main__":
    uvloop.run(main())
