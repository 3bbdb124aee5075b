"""Connections to RabbitMQ: how they open, how their loss is noticed, how consumers start and stop.

aio-pika's robust connection is not used, because it does not restore a consumer that RabbitMQ cancelled. Here a
connection belongs to one session, and whatever breaks in it ends the session whole.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import uuid4

import aio_pika
import aiormq
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.connection import make_url
from aio_pika.exceptions import AMQPError, ConnectionClosed
from yarl import URL

from worker.broker.bodies import BodyRoom
from worker.broker.close_frames import broker_words
from worker.broker.deliveries import Deliveries, Delivery
from worker.logs import describe
from worker.retries import raise_if_cancelled
from worker.settings import BrokerSettings

CLOSE_TIMEOUT_S: Final = 2

CALL_TIMEOUT_S: Final = 5
"""Always with asyncio.timeout: aiormq's own time-outs can swallow the cancellation of the task that calls."""

ADDRESSES_MAX: Final = 16
"""Of the addresses of a name so many are tried."""

RESOLUTION_SHARE: Final = 0.5
"""The part of the time for connecting that may be used to look up names."""

CONNECTION_ERRORS: Final = (AMQPError, OSError, TimeoutError, aiormq.exceptions.ChannelInvalidStateError)
"""What is raised when RabbitMQ is away, or goes away."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class SessionLost(Exception):
    """A connection, a channel or a consumer of the session is gone, so the session ends."""


@dataclass(frozen=True, slots=True)
class Link:
    """One connection with one channel."""

    connection: AbstractConnection
    channel: AbstractChannel
    underlay: aiormq.Channel
    """aiormq's channel: it acks without waiting."""

    deliveries: Deliveries
    consumer_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """A new consumer gets the prefetch that was set last on its channel. No other may be set in between."""


class LinkOpener(Protocol):
    """What opens a link: `open_link`, or a way to RabbitMQ that is watched or broken on purpose."""

    def __call__(
        self, settings: BrokerSettings, purpose: str, on_loss: Callable[[str], None]
    ) -> AbstractAsyncContextManager[Link]:
        """Open a connection and a channel, as `open_link` does."""


@asynccontextmanager
async def open_link(settings: BrokerSettings, purpose: str, on_loss: Callable[[str], None]) -> AsyncIterator[Link]:
    """Open a connection and a channel. `on_loss` is called with a reason when either is gone.

    Raises one of CONNECTION_ERRORS. What is published on the channel is not confirmed: for that is a Publisher.
    """
    connection = await _connect(settings, purpose)
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            link = await _link_on(connection, purpose, on_loss)
        raise_if_cancelled()  # or whoever cancelled would wait for as long as the connection lasts
        connection.close_callbacks.add(_closing_reporter(f"the connection for {purpose} closed", on_loss))
        yield link
    finally:
        await end_in_time(_close(connection))


async def open_channel(connection: aiormq.abc.AbstractConnection, *, confirms: bool) -> aiormq.Channel:
    """Open one more channel. Its loss alone is no loss of a session. Raises one of CONNECTION_ERRORS."""
    _check_open(connection)
    with _lost_while_opening():
        channel = await connection.channel(publisher_confirms=confirms)
    assert isinstance(channel, aiormq.Channel)
    return channel


async def open_link_beside(link: Link, purpose: str, on_loss: Callable[[str], None]) -> Link:
    """A link with a channel of its own on the connection of another; it closes with the connection.

    One ack can settle many deliveries of a channel, so it pays that a consumer has one for itself. Raises one of
    CONNECTION_ERRORS.
    """
    _check_open(link.underlay.connection)
    async with asyncio.timeout(CALL_TIMEOUT_S):
        return await _link_on(link.connection, purpose, on_loss)


def _check_open(connection: aiormq.abc.AbstractConnection) -> None:
    """Raise ConnectionError where aiormq would raise a RuntimeError."""
    if connection.is_closed:
        raise ConnectionError("RabbitMQ has closed the connection")


async def _link_on(connection: AbstractConnection, purpose: str, on_loss: Callable[[str], None]) -> Link:
    channel = connection.channel(publisher_confirms=False)
    with _lost_while_opening():
        await channel.initialize()
    underlay = await channel.get_underlay_channel()
    assert isinstance(underlay, aiormq.Channel)
    channel.close_callbacks.add(_closing_reporter(f"the channel for {purpose} closed", on_loss))
    underlay.on_consumer_cancel_callbacks.add(
        lambda frame: on_loss(f"RabbitMQ cancelled a consumer: {queue_of(frame.consumer_tag)}")
    )
    return Link(connection, channel, underlay, Deliveries(underlay))


@contextmanager
def _lost_while_opening() -> Iterator[None]:
    """Raise ConnectionError where aiormq raises a bare Exception: the connection closed before the first call."""
    try:
        yield
    except Exception as error:
        if type(error) is Exception:
            raise ConnectionError("RabbitMQ closed the connection while it opened") from error
        raise


async def end_in_time(close: Awaitable[None]) -> None:
    """Close something. That waits for RabbitMQ's answer, which may never arrive: on a frozen connection aiormq goes on
    waiting even when it is cancelled.
    """
    closing = asyncio.ensure_future(close)
    closing.add_done_callback(lambda task: task.cancelled() or task.exception())
    await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT_S)
    closing.cancel()


async def _close(connection: AbstractConnection) -> None:
    """Close a connection. aio-pika's own `close` may wait for ever, and then no cancellation ends it.

    The client has the same once more, because it uses nothing of the worker.
    """
    transport, connection.transport = connection.transport, None
    try:
        if transport is not None:
            await transport.connection.close(ConnectionClosed)
    finally:
        await connection.close()  # without a transport it only notes that it is closed


async def _connect(settings: BrokerSettings, purpose: str) -> AbstractConnection:
    """Connect to the first of the nodes at which this is possible. Those that are left share the time that is left.
    Raises what happened at the last one.
    """
    loop = asyncio.get_running_loop()
    end_s = loop.time() + settings.connect_timeout_s
    nodes = await _nodes(settings)
    for left, (url, name) in zip(range(len(nodes), 0, -1), nodes, strict=True):
        try:
            return await _connect_to(url, name, settings, purpose, (end_s - loop.time()) / left)
        except CONNECTION_ERRORS as error:
            if left == 1:
                raise
            log.info("broker_node_skipped", host=url.host, port=url.port, **describe(error))
    raise AssertionError("there is at least one URL")


async def _nodes(settings: BrokerSettings) -> list[tuple[URL, str | None]]:
    """Each of the URLs, once for each address where its host is a name with several; and the host as it was.

    asyncio tries several addresses too, but stays with the first that takes a connection, though it say nothing.
    """
    timeout_s = settings.connect_timeout_s * RESOLUTION_SHARE
    urls = list(map(URL, settings.amqp_urls))
    found = await asyncio.gather(*(_addresses(url, timeout_s) for url in urls))
    return [
        (url.with_host(address) if len(addresses) > 1 else url, url.host)
        for url, addresses in zip(urls, found, strict=True)
        for address in addresses or [""]
    ]


async def _addresses(url: URL, timeout_s: float) -> list[str]:
    """The addresses of a URL's host, in the order in which to try them; none where nobody tells."""
    try:
        async with asyncio.timeout(timeout_s):
            found = await asyncio.get_running_loop().getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except OSError:  # whoever connects meets the same, and says so
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))[:ADDRESSES_MAX]


async def _connect_to(
    url: URL, name: str | None, settings: BrokerSettings, purpose: str, timeout_s: float
) -> AbstractConnection:
    """Connect to a node whose certificate has to be for this name."""
    connection = aio_pika.Connection(
        make_url(url, heartbeat=settings.heartbeat_s),
        client_properties={"connection_name": f"export-runs {purpose}"},
    )
    if url.scheme == "amqps":
        connection.kwargs["server_hostname"] = name
    async with asyncio.timeout(timeout_s):
        await connection.connect(timeout=timeout_s)
    return connection


def broker_product(link: Link) -> str:
    """What the server calls itself, with its version: "RabbitMQ 4.0.5"."""
    connection = link.underlay.connection
    assert isinstance(connection, aiormq.Connection)
    names = (connection.server_properties.get(each) for each in ("product", "version"))
    return " ".join(name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names)


def _closing_reporter(what: str, on_loss: Callable[[str], None]) -> Callable[[object, BaseException | None], None]:
    def report(_: object, error: BaseException | None) -> None:
        on_loss(f"{what}: {broker_words(error)}")

    return report


def queue_of(consumer_tag: str | None) -> str:
    """The queue that a consumer with this tag consumes."""
    return (consumer_tag or "").rpartition(" ")[0]


async def start_consuming(
    link: Link,
    queue: str,
    prefetch: int,
    put: Callable[[Delivery], object],
    room: BodyRoom | None = None,
    *,
    priority: int = 0,
) -> str:
    """Start a consumer and return its tag. `put` is called for each delivery and must return at once.

    Large bodies that find no `room` are left out; without it, all are kept. RabbitMQ gives a message to a consumer of
    lower `priority` only where all others hold as many as they may.
    """
    consumer_tag = f"{queue} {uuid4().hex}"
    link.deliveries.add_consumer(consumer_tag, put, room)
    async with link.consumer_lock, asyncio.timeout(CALL_TIMEOUT_S):
        await link.underlay.basic_qos(prefetch_count=prefetch)
        await link.underlay.basic_consume(
            queue, _called_by_nobody, arguments={"x-priority": priority}, consumer_tag=consumer_tag
        )
    return consumer_tag


async def _called_by_nobody(delivery: Delivery) -> None:
    """What aiormq wants to have for each delivery of a consumer. Deliveries calls `put` in its place."""
    raise AssertionError(f"aiormq was given {delivery.delivery_tag}")


async def stop_consuming(link: Link, consumer_tag: str) -> None:
    """Have RabbitMQ send no more. What it has sent can still be acknowledged."""
    with suppress(*CONNECTION_ERRORS):
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await link.underlay.basic_cancel(consumer_tag)


async def flush(link: Link) -> None:
    """Wait until RabbitMQ has read everything sent so far. It answers calls in order, so it answers this one last."""
    with suppress(*CONNECTION_ERRORS):
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await link.underlay.basic_qos(prefetch_count=1)
