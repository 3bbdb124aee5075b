"""The load: the same publisher and the same client for the service and for every peer."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage

from benchmarks.peers import environment
from benchmarks.sizes import IN_FLIGHT_PUBLISHES
from worker.topology import QUEUES, declare

DIRECT_REPLY_TO: Final = "amq.rabbitmq.reply-to"
READY_TIMEOUT_S: Final = 60
READY_POLL_S: Final = 1

EVENTS_QUEUE: Final = "export-runs.run-finished"
CLAIMS_QUEUE: Final = "export-runs.rpc.check-claims"

LIKE_OURS: Final = {
    environment.EVENTS_QUEUE: EVENTS_QUEUE,
    environment.CLAIMS_QUEUE: CLAIMS_QUEUE,
    environment.ECHO_QUEUE: CLAIMS_QUEUE,
}
"""Queues of the peers, and which of ours each is like."""


class WrongReply(Exception):
    """A reply that is not what was asked for: there is nothing to measure."""


async def declare_queues(amqp_url: str) -> None:
    """The queues of the service, and the peers' with the same arguments."""
    arguments = {queue.name: queue.arguments for queue in QUEUES}
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        await declare(channel)
        for name, like in LIKE_OURS.items():
            await channel.declare_queue(name, durable=True, arguments=arguments[like])


@dataclass(frozen=True, slots=True)
class Address:
    """Where messages are published to."""

    exchange: str
    routing_key: str


OUR_EVENTS: Final = Address("export-runs.events", "run-finished")
PEER_EVENTS: Final = Address("", environment.EVENTS_QUEUE)


class Publisher:
    """Publishes events, each confirmed."""

    def __init__(self, exchange: AbstractExchange, address: Address) -> None:
        self._exchange = exchange
        self._routing_key = address.routing_key

    async def publish(self, body: bytes) -> None:
        """Publish one; returns when the broker has it."""
        message = aio_pika.Message(
            body,
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            type="run-finished",
            message_id=uuid.uuid4().hex,
        )
        await self._exchange.publish(message, self._routing_key)

    async def publish_all(self, bodies: Iterable[bytes]) -> None:
        """Publish many, with many waiting for their confirms."""
        waiting = iter(bodies)

        async def one_after_the_other() -> None:
            for body in waiting:
                await self.publish(body)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(IN_FLIGHT_PUBLISHES):
                tasks.create_task(one_after_the_other())


@asynccontextmanager
async def open_publisher(amqp_url: str, address: Address) -> AsyncIterator[Publisher]:
    """Connect."""
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel(on_return_raises=True)
        yield Publisher(await exchange_of(channel, address), address)


async def exchange_of(channel: AbstractChannel, address: Address) -> AbstractExchange:
    """The exchange of an address; the default one has no name."""
    return await channel.get_exchange(address.exchange, ensure=False) if address.exchange else channel.default_exchange


class Client:
    """Asks one operation and measures how long answers take."""

    def __init__(self, exchange: AbstractExchange, address: Address, reply_to: str, expected: bytes) -> None:
        self._exchange = exchange
        self._routing_key = address.routing_key
        self._reply_to = reply_to
        self._expected = expected
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    async def take(self, reply: AbstractIncomingMessage) -> None:
        """A reply has come; one that nobody waits for any more is dropped."""
        waiting = self._waiting.pop(reply.correlation_id or "", None)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply.body)

    async def until_answered(self, body: bytes) -> None:
        """Ask until there is an answer: until the server is up."""
        async with asyncio.timeout(READY_TIMEOUT_S):
            while True:
                try:
                    await asyncio.wait_for(self.ask(body), READY_POLL_S)
                    return
                except TimeoutError:
                    continue

    async def ask(self, body: bytes) -> bytes:
        """Ask, and return the reply. Raises WrongReply."""
        correlation_id = uuid.uuid4().hex
        waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[correlation_id] = waiting
        message = aio_pika.Message(
            body,
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=aio_pika.DeliveryMode.NOT_PERSISTENT,
            reply_to=self._reply_to,
            correlation_id=correlation_id,
        )
        await self._exchange.publish(message, self._routing_key, mandatory=False)
        reply = await waiting
        if self._expected not in reply:
            raise WrongReply(reply[:500].decode(errors="replace"))
        return reply

    async def latencies_s(self, bodies: Iterable[bytes]) -> list[float]:
        """Ask one after the other; how long each took."""
        found: list[float] = []
        for body in bodies:
            began = perf_counter()
            await self.ask(body)
            found.append(perf_counter() - began)
        return found

    async def rate(self, bodies: Sequence[bytes], in_flight: int) -> float:
        """Ask with so many in flight; answers a second."""
        waiting = iter(bodies)

        async def one_after_the_other() -> None:
            for body in waiting:
                await self.ask(body)

        began = perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(in_flight):
                tasks.create_task(one_after_the_other())
        return len(bodies) / (perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Server:
    """What is asked: where, and a text that every good reply has in it."""

    address: Address
    expected: bytes
    reply_exchange: str = ""
    """An exchange that replies come through; without it they are direct replies."""


OUR_CLAIMS: Final = Server(Address("export-runs.rpc", "check-claims"), b'{"ok":true')
OUR_HISTORY: Final = replace(OUR_CLAIMS, address=Address("export-runs.rpc", "get-export-history"))
ECHO: Final = Server(Address("", environment.ECHO_QUEUE), b"claimIds")
FASTSTREAM_CLAIMS: Final = Server(Address("", environment.CLAIMS_QUEUE), b'"unexported":')
NAMEKO_CLAIMS: Final = Server(
    Address(environment.NAMEKO_EXCHANGE, f"{environment.NAMEKO_SERVICE}.check"),
    b'"error": null',
    reply_exchange=environment.NAMEKO_EXCHANGE,
)


@asynccontextmanager
async def open_client(amqp_url: str, server: Server) -> AsyncIterator[Client]:
    """Connect, and listen for replies."""
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=False)
        if server.reply_exchange:
            replies = await channel.declare_queue(exclusive=True)
            await channel.declare_exchange(server.reply_exchange, "topic", durable=True)
            await replies.bind(server.reply_exchange, replies.name)
        else:
            replies = await channel.get_queue(DIRECT_REPLY_TO, ensure=False)
        client = Client(await exchange_of(channel, server.address), server.address, replies.name, server.expected)
        await replies.consume(client.take, no_ack=True)
        yield client


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a queue says of itself."""

    messages: int
    """Ready to be delivered; those that a consumer holds are not counted."""

    consumers: int


class Queue:
    """A look at a queue."""

    def __init__(self, channel: AbstractChannel, name: str) -> None:
        self._channel = channel
        self._name = name

    async def look(self) -> Waiting:
        """How full it is."""
        declared = (await self._channel.declare_queue(self._name, passive=True)).declaration_result
        return Waiting(declared.message_count or 0, declared.consumer_count or 0)

    async def purge(self) -> None:
        """Empty it."""
        await (await self._channel.get_queue(self._name, ensure=False)).purge()


@asynccontextmanager
async def open_queue(amqp_url: str, name: str) -> AsyncIterator[Queue]:
    """Connect."""
    async with await aio_pika.connect(amqp_url) as connection:
        yield Queue(await connection.channel(), name)
