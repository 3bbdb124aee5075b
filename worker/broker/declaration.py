"""Makes the exchanges and queues that are not there yet, and takes those that are there as they are, if they will do.

A user who may not configure anything uses what is there.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol

import aiormq
import structlog
from aio_pika.abc import AbstractChannel
from aiormq.abc import AbstractConnection
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed

from schema.names import DEAD_LETTER_EXCHANGE, RPC_EXCHANGE
from worker.broker.link import open_channel
from worker.broker.misconfiguration import TopologyMissing
from worker.broker.topology import LEADER_LOCATOR, TOPOLOGY, Arguments, Binding, Exchange, Queue, Topology

DECLARE_TIMEOUT_S: Final = 15

LIMITS_OF_OTHERS: Final = frozenset({"x-max-length-bytes", "x-quorum-initial-group-size"})
"""Arguments that a queue may have besides those that it gets here."""

NOWHERE: Final = "export-runs.nowhere"
"""The name of no queue."""

Channel = aiormq.abc.AbstractChannel

_DIFFERENCE: Final = re.compile(
    r"inequivalent arg '(?P<name>[^']+)'.* current is (?:none|(?:the value )?'(?P<value>[^']*)')"
)
"""How RabbitMQ says in which argument a queue that is there differs first."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class TopologyMismatch(Exception):
    """RabbitMQ has an exchange or a queue of this name with other properties, so trying again cannot help."""


class _Declare(Protocol):
    def __call__(self, channel: Channel, arguments: Arguments, *, passive: bool) -> Awaitable[object]:
        """Declare one exchange or queue."""


async def declare(channel: AbstractChannel, topology: Topology = TOPOLOGY) -> None:
    """Have everything there. Raises TopologyMismatch, TopologyMissing, or what breaks the connection.

    It uses channels of its own on the same connection: RabbitMQ closes one whenever it refuses something.
    """
    underlay = await channel.get_underlay_channel()
    await _Declaration(underlay.connection).run(topology)


class _Declaration:
    """One way through a topology. It stops asking for what this user was refused once."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._channel: Channel | None = None
        self._may_configure = True

    async def run(self, topology: Topology) -> None:
        for exchange in topology.exchanges:
            await self._ensure(f"exchange {exchange.name}", exchange.arguments, {}, _exchange(exchange))
        for queue in topology.queues:
            await self._ensure(f"queue {queue.name}", queue.arguments, queue.limits, _queue(queue))
            # Who may not configure may not bind either, and nobody can look whether a queue is bound.
            if self._may_configure:
                await self._bind(queue)
        for binding in topology.former_bindings:
            if self._may_configure:
                await self._unbind(binding)
        if not self._may_configure:
            await self._check_writing(topology)
        if self._channel is not None:
            async with asyncio.timeout(DECLARE_TIMEOUT_S):
                await self._channel.close()

    async def _ensure(self, what: str, required: Arguments, limits: Arguments, declare: _Declare) -> None:
        if self._may_configure:
            try:
                await self._make(what, required, limits, declare)
                return
            except ChannelAccessRefused:
                self._may_configure = False
        try:
            await self._call(partial(declare, arguments={}, passive=True))
        except ChannelNotFoundEntity as error:
            raise TopologyMissing(what) from error

    async def _make(self, what: str, required: Arguments, limits: Arguments, declare: _Declare) -> None:
        """Declare it. One that is there with other limits is declared with those that it has."""
        arguments = {**limits, **required}
        adopted: set[str] = set()
        while True:
            try:
                await self._call(partial(declare, arguments=arguments, passive=False))
                return
            except ChannelPreconditionFailed as error:
                difference = _DIFFERENCE.search(str(error))
                name = difference["name"] if difference else ""
                if difference is None or name in {*required, *adopted} or name not in {*limits, *LIMITS_OF_OTHERS}:
                    raise TopologyMismatch(f"{what}: {error}") from error
                adopted.add(name)
                arguments = _with_argument(arguments, name, difference["value"])
                if name != LEADER_LOCATOR:  # which means nothing once the queue is there
                    log.info("queue_limit_differs", what=what, argument=name, value=arguments.get(name))

    async def _check_writing(self, topology: Topology) -> None:
        """Raise ChannelAccessRefused where the user may not answer, or not write dead letters.

        Who makes everything is refused that before. What is published here has a routing key that leads nowhere.
        """
        exchanges = {exchange.name for exchange in topology.exchanges}
        channel = await open_channel(self._connection, confirms=True)
        async with asyncio.timeout(DECLARE_TIMEOUT_S):
            if RPC_EXCHANGE in exchanges:
                await channel.basic_publish(b"", exchange="", routing_key=NOWHERE)
            if DEAD_LETTER_EXCHANGE in exchanges:
                await channel.basic_publish(b"", exchange=DEAD_LETTER_EXCHANGE, routing_key=NOWHERE)
            await channel.close()

    async def _bind(self, queue: Queue) -> None:
        await self._call(lambda channel: channel.queue_bind(queue.name, queue.exchange, queue.routing_key))

    async def _unbind(self, binding: Binding) -> None:
        await self._call(lambda channel: channel.queue_unbind(binding.queue, binding.exchange, binding.routing_key))

    async def _call(self, call: Callable[[Channel], Awaitable[object]]) -> None:
        async with asyncio.timeout(DECLARE_TIMEOUT_S):
            if self._channel is None or self._channel.is_closed:
                self._channel = await open_channel(self._connection, confirms=False)
            await call(self._channel)


def _exchange(exchange: Exchange) -> _Declare:
    def declare(channel: Channel, arguments: Arguments, *, passive: bool) -> Awaitable[object]:
        return channel.exchange_declare(
            exchange.name, exchange_type=exchange.type, durable=True, arguments=arguments, passive=passive
        )

    return declare


def _queue(queue: Queue) -> _Declare:
    def declare(channel: Channel, arguments: Arguments, *, passive: bool) -> Awaitable[object]:
        return channel.queue_declare(queue.name, durable=True, arguments=arguments, passive=passive)

    return declare


def _with_argument(arguments: Arguments, name: str, value: str | None) -> Arguments:
    """The arguments with another value of one, as RabbitMQ tells it; without it, where there is none."""
    others = {each: arguments[each] for each in arguments if each != name}
    if value is None:
        return others
    return {**others, name: int(value) if value.isdecimal() else value}
