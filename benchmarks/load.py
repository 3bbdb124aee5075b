"""The load: the same publisher and the same client for the service and for every peer.

Both use aiormq, the library under aio-pika: they share a machine with what is measured, and should take little of it.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
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
from worker.broker.declaration import declare
from worker.broker.topology import TOPOLOGY

DIRECT_REPLY_TO: Final = "amq.rabbitmq.reply-to"
READY_TIMEOUT_S: Final = 60
READY_POLL_S: Final = 1

EVENTS_QUEUE: Final = "export-runs.run-finished"
CLAIMS_QUEUE: Final = "export-runs.rpc.check-claims"

QUEUE_OF_OURS: Final = {
    environment.EVENTS_QUEUE: EVENTS_QUEUE,
    environment.CLAIMS_QUEUE: CLAIMS_QUEUE,
    environment.ECHO_QUEUE: CLAIMS_QUEUE,
}
"""Queues of the peers, and the queue of ours whose arguments each of them gets."""


EVENT_PROPERTIES: Final = spec.Basic.Properties(
    content_type="application/json", delivery_mode=2, message_type="run-finished"
)


class WrongReply(Exception):
    """A reply without the expected text: the measurement would be worth nothing."""


async def declare_queues(amqp_url: str) -> None:
    """Declare the queues of the service, and the queues of the peers with the same arguments."""
    arguments = {queue.name: queue.arguments for queue in TOPOLOGY.queues}
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        await declare(channel)
        for name, queue_of_ours in QUEUE_OF_OURS.items():
            await channel.declare_queue(name, durable=True, arguments=arguments[queue_of_ours])


@dataclass(frozen=True, slots=True)
class Address:
    """An exchange and a routing key to publish with."""

    exchange: str
    routing_key: str


OUR_EVENTS: Final = Address("export-runs.events", "run-finished")
PEER_EVENTS: Final = Address("", environment.EVENTS_QUEUE)


class Publisher:
    """Publishes events, and waits for each confirm."""

    def __init__(self, channel: AbstractChannel, address: Address) -> None:
        self._channel = channel
        self._address = address

    async def publish(self, body: bytes) -> None:
        """Publish one event. Returns when the broker has confirmed it."""
        await self._channel.basic_publish(
            body, exchange=self._address.exchange, routing_key=self._address.routing_key, properties=EVENT_PROPERTIES
        )

    async def publish_all(self, bodies: Iterable[bytes]) -> None:
        """Publish many events, at most IN_FLIGHT_PUBLISHES at the same time."""
        await for_each(bodies, self.publish, IN_FLIGHT_PUBLISHES)


async def for_each(bodies: Iterable[bytes], send: Callable[[bytes], Awaitable[object]], in_flight: int) -> None:
    """Send each body, at most `in_flight` at the same time."""
    rest = iter(bodies)

    async def send_one_by_one() -> None:
        for body in rest:
            await send(body)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(in_flight):
            tasks.create_task(send_one_by_one())


@asynccontextmanager
async def open_publisher(amqp_url: str, address: Address) -> AsyncIterator[Publisher]:
    """Open a publisher with a connection of its own."""
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel(on_return_raises=True)
        yield Publisher(await channel.get_underlay_channel(), address)


class Client:
    """Sends requests of one operation and measures how long the replies take."""

    def __init__(self, channel: AbstractChannel, address: Address, reply_to: str, expected: bytes) -> None:
        self._channel = channel
        self._address = address
        self._reply_to = reply_to
        self._expected = expected
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    async def receive(self, reply: DeliveredMessage) -> None:
        """Hand a reply to the call that waits for it. A reply that comes too late is dropped."""
        waiting = self._waiting.pop(reply.header.properties.correlation_id or "", None)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply.body)

    async def until_answered(self, body: bytes) -> None:
        """Repeat a request until the server answers it, at most READY_TIMEOUT_S."""
        async with asyncio.timeout(READY_TIMEOUT_S):
            while True:
                try:
                    await asyncio.wait_for(self.ask(body), READY_POLL_S)
                    return
                except TimeoutError:
                    continue

    async def ask(self, body: bytes) -> bytes:
        """Send a request and return the reply. Raises WrongReply."""
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
        """Send the requests one after the other. Returns how long each reply took."""
        latencies: list[float] = []
        for body in bodies:
            start_s = perf_counter()
            await self.ask(body)
            latencies.append(perf_counter() - start_s)
        return latencies

    async def steady_latencies_s(self, body: Callable[[], bytes], per_s: float, enough: asyncio.Event) -> list[float]:
        """Send this many requests per second until `enough` is set, also while earlier ones wait for their replies.

        Returns how long each reply took, from when its request was due.
        """
        latencies: list[float] = []

        async def ask(due_s: float) -> None:
            await self.ask(body())
            latencies.append(perf_counter() - due_s)

        async with asyncio.TaskGroup() as tasks:
            due_s = perf_counter()
            while not enough.is_set():
                tasks.create_task(ask(due_s))
                due_s += 1 / per_s
                await asyncio.sleep(max(0.0, due_s - perf_counter()))
        return latencies

    async def rate(self, bodies: Sequence[bytes], in_flight: int) -> float:
        """Send the requests, at most `in_flight` at the same time. Returns the replies per second."""
        start_s = perf_counter()
        await for_each(bodies, self.ask, in_flight)
        return len(bodies) / (perf_counter() - start_s)


@dataclass(frozen=True, slots=True)
class Server:
    """A server: where its requests are published, and a text that every good reply contains."""

    address: Address
    expected: bytes
    reply_exchange: str = ""
    """The exchange to which replies are published. Empty for direct replies."""


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
    """Open a client with a connection of its own, and consume its replies."""
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
        await underlay.basic_consume(reply_to, client.receive, no_ack=True)
        yield client


@dataclass(frozen=True, slots=True)
class QueueState:
    """How full a queue is, and who consumes it."""

    messages: int
    """Messages that are ready to be delivered. Messages that a consumer holds are not counted."""

    consumers: int


class Queue:
    """A queue of the broker."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self._name = name

    async def state(self) -> QueueState:
        """Ask the broker how full the queue is."""
        answer = (await self._channel.declare_queue(self._name, passive=True)).declaration_result
        return QueueState(answer.message_count or 0, answer.consumer_count or 0)

    async def purge(self) -> None:
        """Remove the messages that are ready."""
        await (await self._channel.get_queue(self._name, ensure=False)).purge()


@asynccontextmanager
async def open_queue(amqp_url: str, name: str) -> AsyncIterator[Queue]:
    """Open a queue with a connection of its own."""
    async with await aio_pika.connect(amqp_url) as connection:
        yield Queue(await connection.channel(), name)
