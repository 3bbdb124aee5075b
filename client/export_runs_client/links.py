"""Connections to RabbitMQ: how one opens, what is sent over it, how its loss is noticed."""

import asyncio
import socket
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.connection import make_url
from aio_pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelInvalidStateError,
    ConnectionClosed,
    DeliveryError,
    InvalidFrameError,
    ProbableAuthenticationError,
    PublishError,
)

from .errors import AccessRefused, ConnectionLost, MessageRefused, NoAnswer
from .schema import names

try:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:  # whoever uses no traces need not install it
    _PROPAGATOR = None
else:
    _PROPAGATOR = TraceContextTextMapPropagator()

if TYPE_CHECKING:  # what aio-pika hands out; it has no names of its own for these, and only it is declared
    from aiormq.abc import AbstractChannel, DeliveredMessage

CONNECT_TIMEOUT_S: Final = 10
ADDRESSES_MAX: Final = 16
"""Of the addresses of a name so many are tried."""

RESOLUTION_SHARE: Final = 0.5
"""The part of the time for connecting that may be used to look up a name."""

CLOSE_TIMEOUT_S: Final = 2
HEARTBEAT_S: Final = 10
"""A connection that fell silent is noticed after about three of these."""

REFUSALS_MAX: Final = 2
"""So often in a row RabbitMQ may refuse messages with one routing key. Then another channel takes over."""

CHANNEL_AGE_MIN_S: Final = 1.0
"""No channel is replaced before: a full queue refuses what comes over any channel."""

CONNECTION_ERRORS: Final = (AMQPError, OSError, TimeoutError, ChannelInvalidStateError)
"""What is raised when RabbitMQ is away, or goes away."""

ORGANISATION_HEADER: Final = "org-id"

NOT_ALLOWED: Final = 530
"""The code with which RabbitMQ refuses a virtual host."""

_TEMPORARY: Final = ("connection limit", "is down")
"""Words in such a refusal that somebody else's doing takes back."""


@dataclass
class ChannelInUse:
    """A channel, how many still need it, and how often in a row it was refused, by routing key."""

    channel: "AbstractChannel"
    opened_s: float
    users: int = 0
    refusals: Counter[str] = field(default_factory=Counter)


class Publisher:
    """Publishes over one channel, and after some refusals over the next one.

    RabbitMQ 3.10 may refuse whatever a channel publishes to a quorum queue: if the node that led the queue was just
    lost when the channel first did so, until that node is back. A new channel knows the new leader. The old one closes
    when nobody waits for an answer over it. The channels are those of aiormq: aio-pika keeps something of each of its
    own until the connection ends.
    """

    def __init__(self, open_channel: Callable[[], Awaitable["AbstractChannel"]], lose: Callable[[str], None]) -> None:
        """`lose` is called with a reason when a channel breaks."""
        self._open_channel = open_channel
        self._lose = lose
        self._current: ChannelInUse | None = None
        self._is_replacing = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Open a channel, which takes the place of the one before."""
        channel = await self._open_channel()
        before, self._current = self._current, ChannelInUse(channel, asyncio.get_running_loop().time())
        channel.closing.add_done_callback(partial(self._note_end, self._current))
        if before is not None:
            self._close_unused(before)

    @asynccontextmanager
    async def published(self, exchange: str, routing_key: str, message: aio_pika.Message) -> AsyncIterator[None]:
        """Publish a message. Its channel stays open until the end of the block, which begins when RabbitMQ has
        confirmed it. Raises NoAnswer.
        """
        current = self._current
        assert current is not None
        current.users += 1
        try:
            await self._publish(current, exchange, routing_key, message)
            yield
        finally:
            current.users -= 1
            self._close_unused(current)

    async def _publish(self, current: ChannelInUse, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        with broker_errors(routing_key):
            # While RabbitMQ is short of memory it reads nothing: what was sent then would arrive later.
            await current.channel.connection.ready()
            try:
                await current.channel.basic_publish(
                    message.body,
                    exchange=exchange,
                    routing_key=routing_key,
                    properties=message.properties,
                    mandatory=True,
                )
            except PublishError:
                raise
            except DeliveryError:
                self._note_refusal(current, routing_key)
                raise
        del current.refusals[routing_key]

    def _note_refusal(self, refused: ChannelInUse, routing_key: str) -> None:
        refused.refusals[routing_key] += 1
        is_due = refused.refusals[routing_key] >= REFUSALS_MAX and refused is self._current
        age_s = asyncio.get_running_loop().time() - refused.opened_s
        if is_due and age_s >= CHANNEL_AGE_MIN_S and not self._is_replacing:
            self._is_replacing = True
            self._start(self._replace())

    async def _replace(self) -> None:
        try:
            with broker_errors("another channel"):
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self.open()
        except (NoAnswer, RuntimeError) as error:  # aiormq raises a RuntimeError where the connection has closed
            self._lose(str(error))
        finally:
            self._is_replacing = False

    def _close_unused(self, old: ChannelInUse) -> None:
        if old is not self._current and not old.users:
            self._start(self._close(old))

    async def _close(self, old: ChannelInUse) -> None:
        with suppress(NoAnswer), broker_errors("close a channel"):
            await old.channel.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _note_end(self, ended: ChannelInUse, closing: asyncio.Future[Any]) -> None:
        if ended is self._current or ended.users:
            self._lose(_reason("a channel closed", None if closing.cancelled() else closing.exception()))


class Link:
    """One connection with a channel for requests and one for events. Made by open_link.

    Whatever breaks in it, a channel or the connection, ends it whole: `lost` then has the reason.
    """

    def __init__(self, connection: AbstractConnection, user_id: str | None) -> None:
        self._connection = connection
        self._user_id = user_id
        self._requests = Publisher(self._open_channel_for_requests, self.lose)
        self._events = Publisher(self._open_channel, self.lose)
        self._replies: dict[str, asyncio.Future[bytes]] = {}
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Open the channels, and receive replies."""
        await self._requests.open()
        await self._events.open()

    async def _open_channel(self) -> "AbstractChannel":
        transport = self._connection.transport
        if transport is None:
            raise ConnectionLost("RabbitMQ has closed the connection")
        await transport.ready()  # while RabbitMQ reads nothing, it opens no channel
        return await transport.connection.channel(on_return_raises=True)

    async def _open_channel_for_requests(self) -> "AbstractChannel":
        """Replies come over the channel of their request, which must receive them before the first one."""
        channel = await self._open_channel()
        await channel.basic_consume(names.DIRECT_REPLY_TO, self._receive, no_ack=True)
        return channel

    async def ask(self, operation: str, body: bytes, expiration_s: float, confirmed: asyncio.Event) -> bytes:
        """Send a request and wait for its reply, without a time-out: RabbitMQ drops the request after `expiration_s`.

        `confirmed` is set when RabbitMQ has taken it. Raises ConnectionLost; MessageRefused, or NoAnswer where no queue
        is bound.
        """
        request_id = str(uuid4())
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._replies[request_id] = reply
        headers: dict[str, Any] = {names.TIMESTAMP_HEADER: time.time_ns() // 1_000_000}  # the property has seconds only
        if _PROPAGATOR is not None:
            _PROPAGATOR.inject(headers)  # the caller's trace, if there is one
        message = aio_pika.Message(
            body,
            content_type=names.CONTENT_TYPE,
            message_id=request_id,
            correlation_id=request_id,
            reply_to=names.DIRECT_REPLY_TO,
            expiration=expiration_s,
            user_id=self._user_id,
            timestamp=datetime.now(UTC),
            headers=headers,
        )
        try:
            async with self._requests.published(names.RPC_EXCHANGE, operation, message):
                confirmed.set()
                waiting: set[asyncio.Future[Any]] = {reply, self.lost}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._replies[request_id]
        if not reply.done():
            raise ConnectionLost(f"{operation}: {self.lost.result()}")
        return reply.result()

    async def publish_event(self, event_type: str, org_id: str, body: bytes) -> None:
        """Publish an event; returns once RabbitMQ has confirmed it. Raises NoAnswer: publish the same event again."""
        message = aio_pika.Message(
            body,
            content_type=names.CONTENT_TYPE,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            type=event_type,
            user_id=self._user_id,
            message_id=str(uuid4()),  # of this attempt: confirms are matched by it; the event's own id is its eventId
            timestamp=datetime.now(UTC),
            headers={ORGANISATION_HEADER: org_id},
        )
        async with self._events.published(names.EVENTS_EXCHANGE, event_type, message):
            pass

    def lose(self, reason: str) -> None:
        """Note that the link has ended."""
        if not self.lost.done():
            self.lost.set_result(reason)

    async def _receive(self, reply: "DeliveredMessage") -> None:
        future = self._replies.get(reply.header.properties.correlation_id or "")
        if future is not None and not future.done():
            future.set_result(reply.body)


@asynccontextmanager
async def open_link(
    url: str,
    name: str,
    user_id: str | None,
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    heartbeat_s: int = HEARTBEAT_S,
) -> AsyncIterator[Link]:
    """Connect, and receive replies. RabbitMQ shows the connection under this name. Messages carry `user_id`, if it is
    not None. Raises ConnectionLost, or AccessRefused where RabbitMQ does not let this user in.
    """
    with broker_errors("connect"):
        try:
            connection = await _connect(url, name, connect_timeout_s, heartbeat_s)
        except TimeoutError:
            raise ConnectionLost(f"connect: RabbitMQ did not answer within {connect_timeout_s:g} s") from None
    try:
        with broker_errors("connect"):
            async with asyncio.timeout(connect_timeout_s):
                link = Link(connection, user_id)
                connection.close_callbacks.add(lambda _, error: link.lose(_reason("the connection closed", error)))
                await link.open()
        yield link
    finally:
        # Closing waits for RabbitMQ's answer, which may never arrive.
        closing = asyncio.create_task(_close(connection))
        closing.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT_S)
        closing.cancel()


async def _connect(url: str, name: str, timeout_s: float, heartbeat_s: int) -> AbstractConnection:
    """Connect to the first address of the URL's host at which this is possible. Those that are left share the time that
    is left. Raises what happened at the last one.

    asyncio tries several addresses too, but stays with the first that takes a connection, though it say nothing.
    """
    loop = asyncio.get_running_loop()
    end_s = loop.time() + timeout_s
    parsed = make_url(url, heartbeat=heartbeat_s)
    addresses = await _addresses(parsed.host, parsed.port, timeout_s * RESOLUTION_SHARE)
    nodes = [parsed.with_host(address) for address in addresses] if len(addresses) > 1 else [parsed]
    for left, node in zip(range(len(nodes), 0, -1), nodes, strict=True):
        connection = aio_pika.Connection(node, client_properties={"connection_name": name})
        if parsed.scheme == "amqps":
            connection.kwargs["server_hostname"] = parsed.host  # which the certificate has to be for
        share_s = (end_s - loop.time()) / left
        try:
            async with asyncio.timeout(share_s):
                await connection.connect(timeout=share_s)
            return connection
        except CONNECTION_ERRORS:
            if left == 1:
                raise
    raise AssertionError("there is at least one node")


async def _addresses(host: str | None, port: int | None, timeout_s: float) -> list[str]:
    try:
        async with asyncio.timeout(timeout_s):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:  # whoever connects meets the same, and says so
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))[:ADDRESSES_MAX]


async def _close(connection: AbstractConnection) -> None:
    """Close a connection. aio-pika's own `close` may wait for ever, and then no cancellation ends it."""
    transport, connection.transport = connection.transport, None
    try:
        if transport is not None:
            await transport.connection.close(ConnectionClosed)
    finally:
        await connection.close()  # without a transport it only notes that it is closed


@contextmanager
def broker_errors(what: str) -> Iterator[None]:
    """Raise NoAnswer in place of what aio-pika and aiormq raise.

    A cancellation wins over whatever they raise, or return, in its place: what was cancelled would go on.
    """
    task = asyncio.current_task()
    assert task is not None
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:
        if task.cancelling():
            raise asyncio.CancelledError from error
        # aiormq raises a bare Exception where the connection closed before it sent the first call.
        if isinstance(error, (*CONNECTION_ERRORS, asyncio.CancelledError)) or type(error) is Exception:
            raise _no_answer(what, error) from error
        raise
    if task.cancelling():
        raise asyncio.CancelledError


def _no_answer(what: str, error: BaseException) -> NoAnswer:
    match error:
        case TimeoutError():
            return ConnectionLost(f"{what}: RabbitMQ did not answer")
        case PublishError():
            return NoAnswer(f"{what}: RabbitMQ has no queue for it")
        case DeliveryError():
            return MessageRefused(f"{what}: RabbitMQ refuses it: its queue is full, or has no leader")
        case asyncio.CancelledError():  # aiormq raises it when the heartbeat of the connection fails
            return ConnectionLost(f"{what}: the connection fell silent")
        case ProbableAuthenticationError():
            return AccessRefused("RabbitMQ does not accept the user name and password")
        case AuthenticationError():
            return AccessRefused("RabbitMQ does not offer the authentication mechanism that the URL names")
        case InvalidFrameError() if refusal := _refusal_of_virtual_host(error):
            return AccessRefused(f"RabbitMQ refuses it: {refusal}")
        case _:
            return ConnectionLost(_reason(what, error))


def _refusal_of_virtual_host(error: InvalidFrameError) -> str | None:
    """What RabbitMQ said instead of opening the virtual host; None where it may open it later.

    aiormq's error tells only that another frame came than was expected. The frame is in its traceback.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        match frame.f_locals.get("frame"):
            case object(name="Connection.Close", reply_code=code, reply_text=str(text)) if code == NOT_ALLOWED:
                return None if any(words in text for words in _TEMPORARY) else text
    return None


def _reason(what: str, error: BaseException | None) -> str:
    return f"{what}: {type(error).__name__}: {error}" if error and str(error) else f"{what}: {type(error).__name__}"
