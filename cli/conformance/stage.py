"""The exchanges and queues of the service on a real RabbitMQ, for the time that the kit runs.

The queues have the names of the worker's, and belong to the kit's connection alone. So no worker can run beside it, and
where a worker has ever run the kit refuses to: its queues are there.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import ChannelPreconditionFailed
from aiormq.exceptions import ChannelLockedResource

from cli.broker import broker_errors, open_broker
from cli.conformance.service import Service
from schema.names import EVENTS_EXCHANGE, RPC_EXCHANGE, UNROUTABLE_EXCHANGE
from worker.broker.link import CONNECTION_ERRORS
from worker.broker.topology import TOPOLOGY
from worker.settings import BrokerSettings

PURPOSE: Final = "conformance kit"
EXCHANGES: Final = (UNROUTABLE_EXCHANGE, EVENTS_EXCHANGE, RPC_EXCHANGE)
"""What programs publish to, and what they need."""


class StageRefused(Exception):
    """The kit must not run in this virtual host."""


class Stage:
    """Hands what arrives to the service of the scenario that is played now. Made by open_stage."""

    def __init__(self, channel: AbstractChannel, queues: list[AbstractQueue]) -> None:
        self._channel = channel
        self._queues = queues
        self._service: Service | None = None

    async def begin(self, service: Service) -> None:
        """From now on this service answers. What was left in the queues is forgotten."""
        self._service = None
        with broker_errors():
            for queue in self._queues:
                await queue.purge()
        self._service = service

    async def take(self, message: AbstractIncomingMessage) -> None:
        """Take a message that has arrived."""
        if self._service is None or message.routing_key is None:
            return
        if message.exchange == EVENTS_EXCHANGE:
            self._service.take_event(message.routing_key, message.body)
        elif message.exchange == RPC_EXCHANGE:
            with suppress(*CONNECTION_ERRORS):  # whoever asked may be gone
                await self._service.take_request(message.routing_key, message, self._reply)

    async def _reply(self, request: AbstractIncomingMessage, body: bytes, correlation_id: str | None) -> None:
        assert request.reply_to is not None
        message = aio_pika.Message(body, content_type="application/json", correlation_id=correlation_id)
        await self._channel.default_exchange.publish(message, request.reply_to, mandatory=False)


@asynccontextmanager
async def open_stage(settings: BrokerSettings) -> AsyncIterator[Stage]:
    """Make the exchanges and queues, and remove them at the end.

    Raises StageRefused where one of the queues is there already, Unreachable or Misconfiguration.
    """
    async with open_broker(settings, PURPOSE) as link:
        channel = link.channel
        with broker_errors():
            try:
                queues = [await channel.declare_queue(queue.name, exclusive=True) for queue in TOPOLOGY.queues]
                await _make_exchanges(channel, queues)
            except (ChannelLockedResource, ChannelPreconditionFailed) as error:
                raise StageRefused(
                    "a worker was at work in this virtual host, or another kit is: give the kit one of its own "
                    f"(rabbitmqctl add_vhost conformance). RabbitMQ says: {error}"
                ) from error
            stage = Stage(channel, queues)
            consumers = [(queue, await queue.consume(stage.take, no_ack=True)) for queue in queues]
        try:
            yield stage
        finally:
            with suppress(*CONNECTION_ERRORS):
                for queue, tag in consumers:
                    await queue.cancel(tag)
                    await queue.delete(if_unused=False, if_empty=False)
                for name in EXCHANGES:
                    await channel.exchange_delete(name)


async def _make_exchanges(channel: AbstractChannel, queues: list[AbstractQueue]) -> None:
    for exchange in TOPOLOGY.exchanges:
        if exchange.name in EXCHANGES:
            made = await channel.declare_exchange(
                exchange.name, exchange.type, durable=True, arguments=exchange.arguments
            )
            for wanted, queue in zip(TOPOLOGY.queues, queues, strict=True):
                if wanted.exchange == exchange.name:
                    await queue.bind(made, wanted.routing_key)
