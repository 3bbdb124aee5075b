"""Publishing with confirms: over one channel, and after a refusal over the next one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import aio_pika
import aiormq
from aio_pika.exceptions import DeliveryError, PublishError

from worker.broker.close_frames import broker_words
from worker.broker.link import CALL_TIMEOUT_S, CONNECTION_ERRORS, Link, SessionLost, end_in_time, open_channel
from worker.retries import is_being_cancelled

CHANNEL_AGE_MIN_S: Final = 1.0
"""No channel is replaced before: a full queue refuses what comes over any channel."""

_SMALL_BODY_BYTES_MAX: Final = 16 * 1024


class Unroutable(SessionLost):
    """No queue is bound for what was published, and RabbitMQ has returned it. To declare the topology anew may help."""


@dataclass(eq=False, slots=True)
class _ChannelInUse:
    """A channel, how many wait for a confirm over it, and whether RabbitMQ has refused something."""

    channel: aiormq.Channel
    users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)
    refused: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish(self, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        """Publish a message, and wait for the confirm.

        A small message does not wait until the socket has taken it: so those that are published at one time leave
        together.
        """
        self.users += 1
        self.unused.clear()
        try:
            await self.channel.basic_publish(
                message.body,
                exchange=exchange,
                routing_key=routing_key,
                properties=message.properties,
                mandatory=True,
                wait=len(message.body) > _SMALL_BODY_BYTES_MAX,
            )
        except PublishError:
            raise  # returned, which is no fault of the channel
        except DeliveryError:
            self.refused.set()
            raise
        finally:
            self.users -= 1
            if not self.users:
                self.unused.set()

    async def close_when_unused(self) -> None:
        """Close the channel when nobody waits for a confirm over it."""
        await self.unused.wait()
        await end_in_time(self.channel.close())


class Publisher:
    """Publishes over one channel of its own on the connection of a link, and after a refusal over the next one.

    RabbitMQ 3.10 may refuse whatever a channel publishes to a quorum queue: if the node that led the queue was just
    lost when the channel first did so, until that node is back. A new channel knows the new leader. Who waits for a
    confirm keeps the old channel, which closes when nobody does. Made by open_publisher.
    """

    def __init__(self, link: Link, on_loss: Callable[[str], None]) -> None:
        self.link = link
        self._connection = link.underlay.connection
        self._on_loss = on_loss
        self._current: _ChannelInUse

    async def publish(self, exchange: str, routing_key: str, message: aio_pika.Message, timeout_s: float) -> bool:
        """Publish a message, wait for the confirm, and return whether it arrived in time.

        If not, a queue is full or has no leader, or RabbitMQ is short of memory or disk. Raises SessionLost where the
        connection is lost, and Unroutable, which is one, where no queue is bound.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._connection.ready()  # while blocked, each attempt would be sent, and arrive later
                await self._current.publish(exchange, routing_key, message)
        except TimeoutError:
            return False
        except PublishError as error:
            raise Unroutable(f"no queue is bound to {exchange} for {routing_key}") from error
        except DeliveryError:
            return False
        except CONNECTION_ERRORS as error:
            raise SessionLost(f"what was published to {exchange} was not confirmed: {broker_words(error)}") from error
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            # Nobody cancelled: aiormq raises this when the connection's heartbeat fails.
            raise SessionLost("the connection for publishing closed") from error
        return True

    async def open(self) -> None:
        """Open a channel, which takes the place of the one before. Raises one of CONNECTION_ERRORS."""
        async with asyncio.timeout(CALL_TIMEOUT_S):
            channel = await open_channel(self._connection, confirms=True)
        self._current = _ChannelInUse(channel)
        channel.closing.add_done_callback(partial(self._note_end, self._current))

    async def replace_refused(self) -> None:
        """Replace the channel each time that RabbitMQ has refused something."""
        async with asyncio.TaskGroup() as closing:
            while True:
                await asyncio.sleep(CHANNEL_AGE_MIN_S)
                before = self._current
                await before.refused.wait()
                await self._connection.ready()  # while blocked, RabbitMQ opens no channel
                try:
                    await self.open()
                except CONNECTION_ERRORS as error:
                    self._on_loss(f"no other channel for publishing could be opened: {broker_words(error)}")
                    return
                closing.create_task(before.close_when_unused())

    def _note_end(self, ended: _ChannelInUse, closing: asyncio.Future[object]) -> None:
        is_needed = ended is self._current or ended.users
        if is_needed and not self._connection.is_closed:  # the link reports the end of its connection
            self._on_loss(f"the channel for publishing closed: {broker_words(closing.exception())}")


@asynccontextmanager
async def open_publisher(link: Link, on_loss: Callable[[str], None]) -> AsyncIterator[Publisher]:
    """Open a channel to publish over. `on_loss` is called with a reason when RabbitMQ closes it, or the next one.

    Raises one of CONNECTION_ERRORS.
    """
    publisher = Publisher(link, on_loss)
    await publisher.open()
    replacing = asyncio.create_task(publisher.replace_refused())
    try:
        yield publisher
    finally:
        replacing.cancel()
