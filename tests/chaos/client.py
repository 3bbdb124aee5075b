"""The campaign's own way to the broker: one plain connection, opened anew after each failure.

It goes past the proxies: the wires broken on purpose are the workers'.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import aiormq
from aiormq import spec
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage
from aiormq.exceptions import AMQPError, DeliveryError

CONNECT_TIMEOUT_S: Final = 5
PUBLISH_TIMEOUT_S: Final = 10
CLOSE_TIMEOUT_S: Final = 1

ERRORS: Final = (AMQPError, OSError, TimeoutError, RuntimeError)
"""What a broker that is away raises; aiormq says RuntimeError of a connection that is closing."""


class Client:
    """Publishes with confirms; with `replies`, asks and hears replies instead.

    `unawaited` is told the request of each reply that nobody waits for: it is the second, or late.
    """

    def __init__(self, url: str, *, replies: bool = False, unawaited: Callable[[str], object] | None = None) -> None:
        self._url = f"{url}?heartbeat=10"
        self._replies = replies
        self._opening = asyncio.Lock()
        self._open: tuple[AbstractConnection, AbstractChannel] | None = None
        self.waiting: dict[str, asyncio.Future[bytes]] = {}
        self._unawaited = unawaited

    async def publish(self, exchange: str, routing_key: str, body: bytes, properties: spec.Basic.Properties) -> bool:
        """Whether the broker has confirmed it; without confirms, whether it was written to the wire."""
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
        except DeliveryError:
            return False
        except ERRORS:
            await self.drop(channel)
            return False
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            await self.drop(channel)  # aiormq cancels those who publish when the heartbeat fails
            return False

    async def channel(self) -> AbstractChannel:
        """The channel; connects if there is none. Raises one of ERRORS."""
        async with self._opening:
            if self._open is None or self._open[0].is_closed or self._open[1].is_closed:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    connection = await aiormq.connect(self._url)
                    channel = await connection.channel(publisher_confirms=not self._replies, on_return_raises=True)
                    if self._replies:
                        await channel.basic_consume("amq.rabbitmq.reply-to", self._take, no_ack=True)
                self._open = connection, channel
            return self._open[1]

    async def count(self, queue: str) -> int | None:
        """How many messages stand ready in a queue; None where there is no such queue, or no broker."""
        declared = await self._look(queue)
        return None if declared is None else declared.message_count

    async def consumers(self, queue: str) -> int:
        """How many consume from a queue. If anybody does, it is bound, too."""
        declared = await self._look(queue)
        return (declared and declared.consumer_count) or 0

    async def _look(self, queue: str) -> spec.Queue.DeclareOk | None:
        channel = None
        try:
            channel = await self.channel()
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await channel.queue_declare(queue, passive=True)
        except ERRORS:
            await self.drop(channel)
            return None

    async def delete(self, queue: str) -> bool:
        """Delete a queue, whoever consumes from it; whether it is gone."""
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
        """Give up the connection that this channel is of, if it is still the one in use."""
        if self._open is None or (channel is not None and channel is not self._open[1]):
            return
        connection, _ = self._open
        self._open = None
        try:
            await asyncio.wait_for(connection.close(), CLOSE_TIMEOUT_S)
        except ERRORS:
            pass
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise

    async def close(self) -> None:
        """Close the connection."""
        await self.drop(None)

    async def _take(self, reply: DeliveredMessage) -> None:
        correlation_id = str(reply.header.properties.correlation_id)
        waiting = self.waiting.get(correlation_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply.body)
        elif self._unawaited is not None:
            self._unawaited(correlation_id)


def properties(**given: Any) -> spec.Basic.Properties:
    """Persistent JSON, with these properties in place of its own."""
    return spec.Basic.Properties(**{"content_type": "application/json", "delivery_mode": 2, **given})
