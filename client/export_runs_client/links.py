"""Connections to RabbitMQ: how one opens, what is sent over it, how its loss is noticed."""

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import aio_pika
import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, ConnectionClosed, DeliveryError, PublishError
from aiormq.exceptions import AuthenticationError, InvalidFrameError, ProbableAuthenticationError

from .errors import AccessRefused, ConnectionLost, NoAnswer
from .schema import names

try:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:  # whoever uses no traces need not install it
    _PROPAGATOR = None
else:
    _PROPAGATOR = TraceContextTextMapPropagator()

CONNECT_TIMEOUT_S: Final = 10
CLOSE_TIMEOUT_S: Final = 2
HEARTBEAT_S: Final = 10
"""A connection that fell silent is noticed after about three of these."""

CONNECTION_ERRORS: Final = (AMQPError, OSError, TimeoutError, aiormq.exceptions.ChannelInvalidStateError)
"""What is raised when RabbitMQ is away, or goes away."""

ORGANISATION_HEADER: Final = "org-id"

NOT_ALLOWED: Final = 530
"""The code with which RabbitMQ refuses a virtual host."""

_TEMPORARY: Final = ("connection limit", "is down")
"""Words in such a refusal that somebody else's doing takes back."""


class Link:
    """One connection with a channel for requests and a channel for events. Made by open_link.

    Whatever breaks in it, a channel or the connection, ends it whole: `lost` then has the reason.
    """

    def __init__(self, requests: AbstractChannel, events: AbstractChannel, user_id: str | None) -> None:
        self._user_id = user_id
        self._requests = requests
        self._events = events
        self._replies: dict[str, asyncio.Future[bytes]] = {}
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def listen(self) -> None:
        """Start to receive replies, before the first request."""
        replies = await self._requests.get_queue(names.DIRECT_REPLY_TO, ensure=False)
        await replies.consume(self._receive, no_ack=True)

    async def ask(self, operation: str, body: bytes, expiration_s: float) -> bytes:
        """Send a request and wait for its reply, without a time-out: RabbitMQ drops the request after `expiration_s`.

        Raises ConnectionLost, or NoAnswer where RabbitMQ does not take the request.
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
            await self._publish(self._requests, names.RPC_EXCHANGE, operation, message)
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
        await self._publish(self._events, names.EVENTS_EXCHANGE, event_type, message)

    def lose(self, reason: str) -> None:
        """Note that the link has ended."""
        if not self.lost.done():
            self.lost.set_result(reason)

    async def _publish(
        self, channel: AbstractChannel, exchange: str, routing_key: str, message: aio_pika.Message
    ) -> None:
        with broker_errors(routing_key):
            # While RabbitMQ is short of memory it reads nothing: what was sent then would arrive later.
            await (await channel.get_underlay_channel()).connection.ready()
            target = await channel.get_exchange(exchange, ensure=False)
            await target.publish(message, routing_key, mandatory=True)

    async def _receive(self, reply: AbstractIncomingMessage) -> None:
        future = self._replies.get(reply.correlation_id or "")
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
            async with asyncio.timeout(connect_timeout_s):
                connection = await aio_pika.connect(
                    url,
                    timeout=connect_timeout_s,
                    heartbeat=heartbeat_s,
                    client_properties={"connection_name": name},
                )
        except TimeoutError:
            raise ConnectionLost(f"connect: RabbitMQ did not answer within {connect_timeout_s:g} s") from None
    try:
        with broker_errors("connect"):
            async with asyncio.timeout(connect_timeout_s):
                requests, events = [await connection.channel(on_return_raises=True) for _ in range(2)]
                link = Link(requests, events, user_id)
                connection.close_callbacks.add(lambda _, error: link.lose(_reason("the connection closed", error)))
                for channel in (requests, events):
                    channel.close_callbacks.add(lambda _, error: link.lose(_reason("a channel closed", error)))
                await link.listen()
        yield link
    finally:
        # Closing waits for RabbitMQ's answer, which may never arrive.
        closing = asyncio.create_task(_close(connection))
        closing.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT_S)
        closing.cancel()


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
            return NoAnswer(f"{what}: RabbitMQ has no room for it")
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
        received = frame.f_locals.get("frame")
        if isinstance(received, aiormq.spec.Connection.Close) and received.reply_code == NOT_ALLOWED:
            is_temporary = any(words in received.reply_text for words in _TEMPORARY)
            return None if is_temporary else str(received.reply_text)
    return None


def _reason(what: str, error: BaseException | None) -> str:
    return f"{what}: {type(error).__name__}: {error}" if error and str(error) else f"{what}: {type(error).__name__}"
