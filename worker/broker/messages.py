"""What is done with a message: acknowledge it, reply to it, give it back."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import aiormq
import structlog
from aiormq import spec
from aiormq.abc import ChannelFrame, FrameType
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from schema import names
from schema.trace_context import TraceContext
from worker.broker.bodies import release_room
from worker.broker.deliveries import Delivery
from worker.broker.link import CONNECTION_ERRORS, Link

MESSAGE_AGE_MAX_S: Final = 3_600
"""A request waits seconds, half a minute at most, before RabbitMQ drops it. So much allows for clocks that differ."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def deliveries_before(delivery: Delivery) -> int:
    """How often a quorum queue has delivered a message before.

    RabbitMQ writes the header on redeliveries only. On a first delivery it is what the publisher wrote.
    """
    count = (delivery.header.properties.headers or {}).get("x-delivery-count")
    if not delivery.redelivered:
        return 0
    return count if isinstance(count, int) and count > 0 else 1


def time_since_publishing_s(delivery: Delivery, now_s: float) -> float:
    """For how long a message has been on its way, in seconds, by what its client or RabbitMQ says; 0 if none does.

    The header `timestamp_in_ms` is exact. The property `timestamp` has whole seconds, the rest cut off, so only that
    its second is over is known. A time in the future counts as now; one that is hours old is no time of publishing,
    for no message waits so long. `now_s` is in seconds since 1970.
    """
    properties = delivery.header.properties
    milliseconds = (properties.headers or {}).get(names.TIMESTAMP_HEADER)
    if isinstance(milliseconds, int) and not isinstance(milliseconds, bool):
        age_s = now_s - milliseconds / 1000
    elif isinstance(properties.timestamp, datetime):
        age_s = now_s - properties.timestamp.timestamp() - 1
    else:
        return 0.0
    return age_s if 0 < age_s < MESSAGE_AGE_MAX_S else 0.0


async def ack(link: Link, *deliveries: Delivery) -> None:
    """Acknowledge deliveries of a link. If its connection is lost, RabbitMQ redelivers them."""
    for delivery in deliveries:
        release_room(delivery)
    tags = [_tag(delivery) for delivery in deliveries]
    try:
        await _write(link.underlay, link.deliveries.unsettled.acks(tags))
    except CONNECTION_ERRORS:
        log.debug("ack_lost")
    else:
        link.deliveries.unsettled.settle(tags)


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to a request: its body, and the trace that it belongs to."""

    request: Delivery
    body: bytes
    trace_context: TraceContext | None


async def reply(link: Link, replies: Iterable[Reply]) -> bool:
    """Send replies, each to the address in its request; returns whether the connection was there to take them."""
    body_bytes_max = link.underlay.max_content_size
    frames: list[FrameType | ContentBody] = []
    for each in replies:
        properties, body = each.request.header.properties, each.body
        # RabbitMQ 3.10 returns a mandatory direct reply even when it has delivered it.
        frames.append(spec.Basic.Publish(exchange="", routing_key=properties.reply_to or "", mandatory=False))
        answer = spec.Basic.Properties(
            content_type=names.CONTENT_TYPE,
            correlation_id=properties.correlation_id,
            headers=dict(each.trace_context.headers) if each.trace_context else None,
        )
        frames.append(ContentHeader(body_size=len(body), properties=answer))
        frames += [ContentBody(body[start : start + body_bytes_max]) for start in range(0, len(body), body_bytes_max)]
    try:
        await _write(link.underlay, frames)
    except CONNECTION_ERRORS:
        return False
    return True


async def _write(channel: aiormq.Channel, frames: Sequence[FrameType | ContentBody]) -> None:
    """Write frames that RabbitMQ does not answer. All in one write: many small ones take most of a reply's time."""
    if channel.is_closed:
        raise aiormq.exceptions.ChannelInvalidStateError(f"{channel} closed")
    await channel.write_queue.put(ChannelFrame.marshall(channel.number, frames))


async def requeue(link: Link, delivery: Delivery) -> None:
    """Give a delivery back, by reject: from RabbitMQ 4.3 on nack does not count towards the delivery limit."""
    await _return(link, delivery, spec.Basic.Reject(_tag(delivery), requeue=True))


async def give_back(link: Link, delivery: Delivery) -> None:
    """Give a delivery back that is not to blame, by nack: from RabbitMQ 4.3 on that does not count as a delivery."""
    await _return(link, delivery, spec.Basic.Nack(_tag(delivery), requeue=True))


async def _return(link: Link, delivery: Delivery, frame: spec.Basic.Reject | spec.Basic.Nack) -> None:
    release_room(delivery)
    with suppress(*CONNECTION_ERRORS):
        await _write(link.underlay, [frame])
        link.deliveries.unsettled.settle([_tag(delivery)])


def _tag(delivery: Delivery) -> int:
    assert delivery.delivery_tag is not None
    return delivery.delivery_tag
