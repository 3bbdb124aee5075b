"""Plain connections to RabbitMQ: how they open, how their loss is noticed, how deliveries are settled.

aio-pika's robust connection is not used: it does not bring back a consumer that the broker cancelled. Here a
connection is part of one session, and whatever breaks in it ends the session whole.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import aio_pika
import aiormq
import structlog
from aio_pika.abc import AbstractChannel as PlainChannel
from aio_pika.exceptions import AMQPError, DeliveryError, PublishError
from aiormq import spec
from aiormq.abc import AbstractChannel, ChannelFrame, FrameType
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from schema import names
from worker.cancellation import is_being_cancelled
from worker.frames import tolerate_malformed_properties
from worker.settings import BrokerSettings

CLOSE_TIMEOUT_S: Final = 2

CALL_TIMEOUT_S: Final = 5
"""Always by asyncio.timeout: aiormq's own time-outs can swallow the cancellation of the task that calls."""

CONNECTION_ERRORS: Final = (AMQPError, OSError, TimeoutError, aiormq.exceptions.ChannelInvalidStateError)
"""What talking to a broker that is away, or going away, raises."""

Delivery = aiormq.abc.DeliveredMessage

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


tolerate_malformed_properties()


class SessionLost(Exception):
    """A connection, a channel or a consumer of the session is gone; the session is over."""


@dataclass(frozen=True, slots=True)
class Link:
    """One connection with its one channel."""

    channel: PlainChannel
    underlay: aiormq.Channel
    """aiormq's channel: acks that are not waited for, consumers without a task of their own."""

    starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    """RabbitMQ gives a new consumer the prefetch that its channel was told last; no other may come between."""


@asynccontextmanager
async def open_link(
    settings: BrokerSettings, purpose: str, lost: Callable[[str], None], *, confirms: bool
) -> AsyncIterator[Link]:
    """Open a connection and a channel; `lost` is called, with a reason, when either is gone.

    Raises one of CONNECTION_ERRORS. With `confirms`, a publish waits for the broker's confirm and raises
    DeliveryError where the broker returns or refuses the message.
    """
    async with asyncio.timeout(settings.connect_timeout_s):
        connection = await aio_pika.connect(
            settings.amqp_url.get_secret_value(),
            timeout=settings.connect_timeout_s,
            heartbeat=settings.heartbeat_s,
            client_properties={"connection_name": f"export-runs {purpose}"},
        )
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            channel = connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
            await channel.initialize()
            underlay = await channel.get_underlay_channel()
            assert isinstance(underlay, aiormq.Channel)
        connection.close_callbacks.add(lambda *_: lost(f"the connection for {purpose} closed"))
        channel.close_callbacks.add(lambda *_: lost(f"the channel for {purpose} closed"))
        underlay.on_consumer_cancel_callbacks.add(lambda frame: lost("the broker cancelled a consumer"))
        yield Link(channel, underlay)
    finally:
        # Closing waits for the broker's word, which may never come; on a frozen wire aiormq goes on waiting even
        # when it is cancelled.
        closing = asyncio.create_task(connection.close())
        closing.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT_S)
        closing.cancel()


async def start_consuming(link: Link, queue: str, prefetch: int, take: Callable[[Delivery], object]) -> str:
    """Start a consumer; returns its tag. `take` only puts a delivery somewhere: it runs at the wire's pace."""

    async def deliver(delivery: Delivery) -> None:
        take(delivery)

    async with link.starting, asyncio.timeout(CALL_TIMEOUT_S):
        await link.underlay.basic_qos(prefetch_count=prefetch)
        consuming = await link.underlay.basic_consume(queue, deliver)
    assert consuming.consumer_tag is not None
    return consuming.consumer_tag


async def stop_consuming(link: Link, consumer_tag: str) -> None:
    """Have the broker send no more. What it has sent is still ours."""
    with suppress(*CONNECTION_ERRORS):
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await link.underlay.basic_cancel(consumer_tag)


def deliveries_before(delivery: Delivery) -> int:
    """How often a quorum queue has delivered a message before. The header is its own word on a redelivery only."""
    count = (delivery.header.properties.headers or {}).get("x-delivery-count")
    if not delivery.redelivered:
        return 0
    return count if isinstance(count, int) and count > 0 else 1


async def publish(link: Link, exchange: str, routing_key: str, message: aio_pika.Message, timeout_s: float) -> bool:
    """Publish and wait for the confirm; whether it came. If not, a queue is full or the broker short of memory.

    Raises SessionLost where the connection is lost, or no queue is bound.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await link.underlay.connection.ready()  # not blocked: what is sent now and again would arrive twice
            target = await link.channel.get_exchange(exchange, ensure=False)
            await target.publish(message, routing_key, mandatory=True)
    except TimeoutError:
        return False
    except CONNECTION_ERRORS as error:
        if isinstance(error, DeliveryError) and not isinstance(error, PublishError):
            return False
        raise SessionLost(f"what was published to {exchange} was not confirmed: {type(error).__name__}") from error
    except asyncio.CancelledError as error:
        if is_being_cancelled():
            raise
        # Nobody cancelled us: aiormq says so of a connection whose heartbeat failed.
        raise SessionLost("the connection for publishing closed") from error
    return True


async def flush(link: Link) -> None:
    """Wait until the broker has read everything sent so far: a call that it answers stands behind it in line."""
    with suppress(*CONNECTION_ERRORS):
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await link.underlay.basic_qos(prefetch_count=1)


async def ack(*deliveries: Delivery) -> None:
    """Tell the broker that deliveries of one channel are done with. On a lost connection: they will come again."""
    assert all(delivery.delivery_tag for delivery in deliveries)
    try:
        await _write(deliveries[0].channel, [spec.Basic.Ack(delivery.delivery_tag or 0) for delivery in deliveries])
    except CONNECTION_ERRORS:
        log.debug("ack_lost")


async def reply(link: Link, answers: Iterable[tuple[Delivery, bytes]]) -> None:
    """Send replies, each to where its request says. On a lost connection nobody can hear them any more."""
    body_bytes_max = link.underlay.max_content_size
    frames: list[FrameType | ContentBody] = []
    for request, body in answers:
        properties = request.header.properties
        # RabbitMQ 3.10 returns a mandatory direct reply even when it has delivered it.
        frames.append(spec.Basic.Publish(exchange="", routing_key=properties.reply_to or "", mandatory=False))
        answer = spec.Basic.Properties(content_type=names.CONTENT_TYPE, correlation_id=properties.correlation_id)
        frames.append(ContentHeader(body_size=len(body), properties=answer))
        frames += [ContentBody(body[start : start + body_bytes_max]) for start in range(0, len(body), body_bytes_max)]
    try:
        await _write(link.underlay, frames)
    except CONNECTION_ERRORS:
        log.debug("reply_lost")


async def _write(channel: AbstractChannel, frames: Sequence[FrameType | ContentBody]) -> None:
    """Write frames that have no answer. All at once: one by one, aiormq and the kernel take longer than the rest."""
    assert isinstance(channel, aiormq.Channel)
    if channel.is_closed:
        raise aiormq.exceptions.ChannelInvalidStateError(f"{channel} closed")
    await channel.write_queue.put(ChannelFrame.marshall(channel.number, frames))


async def requeue(delivery: Delivery) -> None:
    """Give a delivery back. Reject, not nack: from RabbitMQ 4.3 only that counts towards the limit."""
    assert delivery.delivery_tag is not None
    with suppress(*CONNECTION_ERRORS):
        await delivery.channel.basic_reject(delivery.delivery_tag, requeue=True, wait=False)
