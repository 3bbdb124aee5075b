"""The load: the same publisher and the same client for the service and for every peer.

Both publish and consume through aiormq, the lower half of aio-pika: of the time of a machine that they share with
what is measured they take as little as they can.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Final

import aio_pika
from aio_pika.abc import AbstractChannel as Channel
from aiormq import spec
from aiormq.abc import AbstractChannel, DeliveredMessage

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


EVENT_PROPERTIES: Final = spec.Basic.Properties(
    content_type="application/json", delivery_mode=2, message_type="run-finished"
)


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

    def __init__(self, channel: AbstractChannel, address: Address) -> None:
        self._channel = channel
        self._address = address

    async def publish(self, body: bytes) -> None:
        """Publish one; returns when the broker has it."""
        await self._channel.basic_publish(
            body, exchange=self._address.exchange, routing_key=self._address.routing_key, properties=EVENT_PROPERTIES
        )

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
        yield Publisher(await channel.get_underlay_channel(), address)


class Client:
    """Asks one operation and measures how long answers take."""

    def __init__(self, channel: AbstractChannel, address: Address, reply_to: str, expected: bytes) -> None:
        self._channel = channel
        self._address = address
        self._reply_to = reply_to
        self._expected = expected
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    async def take(self, reply: DeliveredMessage) -> None:
        """A reply has come; one that nobody waits for any more is dropped."""
        waiting = self._waiting.pop(reply.header.properties.correlation_id or "", None)
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
        properties = spec.Basic.Properties(
            content_type="application/json",
            content_encoding="utf-8",
            reply_to=self._reply_to,
            correlation_id=correlation_id,
        )
        await self._channel.basic_publish(
            body, exchange=self._address.exchange, routing_key=self._address.routing_key, properties=properties
        )
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
OUR_RESERVATIONS: Final = Server(Address("export-runs.rpc", "reserve-claims"), b'"conflicts":[]')
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
        reply_to = DIRECT_REPLY_TO
        if server.reply_exchange:
            replies = await channel.declare_queue(exclusive=True)
            await channel.declare_exchange(server.reply_exchange, "topic", durable=True)
            await replies.bind(server.reply_exchange, replies.name)
            reply_to = replies.name
        underlay = await channel.get_underlay_channel()
        client = Client(underlay, server.address, reply_to, server.expected)
        await underlay.basic_consume(reply_to, client.take, no_ack=True)
        yield client


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a queue says of itself."""

    messages: int
    """Ready to be delivered; those that a consumer holds are not counted."""

    consumers: int


class Queue:
    """A look at a queue."""

    def __init__(self, channel: Channel, name: str) -> None:
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
