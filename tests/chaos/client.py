"""The campaign's own connection to the broker. It is opened anew after each failure.

It does not go through the proxies: only the workers' connections are broken on purpose.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any, Final

import aiormq
from aiormq import spec
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage
from aiormq.exceptions import AMQPError, DeliveryError, PublishError

CONNECT_TIMEOUT_S: Final = 5
PUBLISH_TIMEOUT_S: Final = 10
CLOSE_TIMEOUT_S: Final = 1
LAST_REPLY_S: Final = 5
"""So long replies may still come over a connection that takes no more requests."""

ERRORS: Final = (AMQPError, OSError, TimeoutError, RuntimeError)
"""The errors while the broker is away. aiormq raises RuntimeError for a connection that is closing."""


class Client:
    """Publishes events with confirms. With `replies` it publishes requests without confirms, and consumes replies.
    `url` may be several, with commas between: each connection is made to the next one.

    For a reply that nobody waits for, `on_unexpected` is called with the id of its request: the reply is late, or the
    second one. With `on_reply`, all replies go there, with the id of the request and the body.
    """

    def __init__(
        self,
        url: str,
        *,
        replies: bool = False,
        on_unexpected: Callable[[str], object] | None = None,
        on_reply: Callable[[str, bytes], object] | None = None,
    ) -> None:
        self._urls = itertools.cycle(f"{each}?heartbeat=10" for each in url.split(","))
        self._replies = replies
        self._open_lock = asyncio.Lock()
        self._open: tuple[AbstractConnection, AbstractChannel] | None = None
        self._opened_t = 0.0
        self._ending: set[asyncio.Task[None]] = set()
        self.futures: dict[str, asyncio.Future[bytes]] = {}
        self._on_unexpected = on_unexpected
        self._on_reply = on_reply

    async def publish(self, exchange: str, routing_key: str, body: bytes, properties: spec.Basic.Properties) -> bool:
        """Publish a message. Returns whether the broker has confirmed it; without confirms, whether it was sent."""
        channel = None
        try:
            channel = await self.channel()
            confirmation = await channel.basic_publish(
                body,
                exchange=exchange,
                routing_key=routing_key,
                properties=properties,
                mandatory=not self._replies,
                timeout=PUBLISH_TIMEOUT_S,
            )
            return self._replies or isinstance(confirmation, spec.Basic.Ack)
        except PublishError:
            return False
        except (*ERRORS, DeliveryError):
            # RabbitMQ 3.10 refuses without end what a channel publishes that has met a queue without a leader.
            await self.drop(channel)
            return False
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            await self.drop(channel)  # when the heartbeat fails, aiormq cancels the tasks that publish
            return False

    async def channel(self) -> AbstractChannel:
        """The channel. Connects if there is none. Raises one of ERRORS."""
        async with self._open_lock:
            if self._open is None or self._open[0].is_closed or self._open[1].is_closed:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    connection = await aiormq.connect(next(self._urls))
                    channel = await connection.channel(publisher_confirms=not self._replies, on_return_raises=True)
                    if self._replies:
                        await channel.basic_consume("amq.rabbitmq.reply-to", self._receive, no_ack=True)
                self._open, self._opened_t = (connection, channel), time.monotonic()
            return self._open[1]

    async def count(self, queue: str) -> int | None:
        """How many messages of a queue are ready. None if there is no such queue, or no broker."""
        answer = await self._declare(queue)
        return None if answer is None else answer.message_count

    async def consumers(self, queue: str) -> int:
        """How many consumers a queue has. A worker binds the queue before it consumes."""
        answer = await self._declare(queue)
        return (answer and answer.consumer_count) or 0

    async def _declare(self, queue: str) -> spec.Queue.DeclareOk | None:
        channel = None
        try:
            channel = await self.channel()
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await channel.queue_declare(queue, passive=True)
        except ERRORS:
            await self.drop(channel)
            return None

    async def delete(self, queue: str) -> bool:
        """Delete a queue, even if it has consumers. Returns whether it is gone."""
        channel = None
        try:
            channel = await self.channel()
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await channel.queue_delete(queue)
            return True
        except ERRORS:
            await self.drop(channel)
            return False

    async def drop(self, channel: AbstractChannel | None) -> None:
        """Close the connection of this channel, if it is still the one in use. None stands for any channel."""
        if self._open is None or (channel is not None and channel is not self._open[1]):
            return
        connection, _ = self._open
        self._open = None
        await _close(connection)

    def leave(self, sent_t: float) -> None:
        """Use another connection from now on, unless it is one already that was opened after this time.

        Others may still wait for replies over the old one.
        """
        if self._open is None or self._opened_t > sent_t:
            return
        connection, _ = self._open
        self._open = None
        ending = asyncio.create_task(_close_later(connection))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Close all connections."""
        for ending in self._ending:
            ending.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self.drop(None)

    async def _receive(self, reply: DeliveredMessage) -> None:
        correlation_id = str(reply.header.properties.correlation_id)
        if self._on_reply is not None:
            self._on_reply(correlation_id, reply.body)
            return
        future = self.futures.get(correlation_id)
        if future is not None and not future.done():
            future.set_result(reply.body)
        elif self._on_unexpected is not None:
            self._on_unexpected(correlation_id)


async def _close(connection: AbstractConnection) -> None:
    try:
        await asyncio.wait_for(connection.close(), CLOSE_TIMEOUT_S)
    except ERRORS:
        pass
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise


async def _close_later(connection: AbstractConnection) -> None:
    try:
        await asyncio.sleep(LAST_REPLY_S)
    finally:
        await _close(connection)


def properties(**others: Any) -> spec.Basic.Properties:
    """The properties of a persistent JSON message, with these others."""
    return spec.Basic.Properties(**{"content_type": "application/json", "delivery_mode": 2, **others})
