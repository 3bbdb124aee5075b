"""What RabbitMQ delivers on one channel: handed to its consumer as it arrives, and remembered until it is settled."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import aiormq
import structlog
from aiormq import spec
from aiormq.abc import DeliveredMessage
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from worker.broker.bodies import SMALL_BODY_BYTES_MAX, BodyRoom, LargeDelivery
from worker.logs import describe

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

Delivery: TypeAlias = DeliveredMessage


@dataclass(frozen=True, slots=True)
class _Consumer:
    put: Callable[[Delivery], object]
    room: BodyRoom | None


class UnsettledTags:
    """The delivery tags of a channel that are in hand, and the acks that settle some of them.

    One ack may settle all deliveries up to a tag. RabbitMQ writes each ack into the log of a quorum queue, so one in
    place of 200 saves it most of its work. It may cover nothing that is still in hand.
    """

    def __init__(self) -> None:
        self._last_tag = 0
        self._tags: dict[int, None] = {}
        """In ascending order, as RabbitMQ gives them: 1, 2, 3 and so on."""

    def receive(self, tag: int) -> None:
        """Note a delivery. Tags that were left out count as in hand for ever: nobody here settles what they are of."""
        self._tags.update(dict.fromkeys(range(self._last_tag + 1, tag + 1)))
        self._last_tag = tag

    def acks(self, tags: Sequence[int]) -> list[spec.Basic.Ack]:
        """The fewest acks that settle these deliveries and no others. All must be in hand."""
        own = set(tags)
        first_other = next((tag for tag in self._tags if tag not in own), math.inf)
        together = [tag for tag in tags if tag < first_other]
        acks = [spec.Basic.Ack(max(together), multiple=True)] if together else []
        return acks + [spec.Basic.Ack(tag) for tag in tags if tag > first_other]

    def settle(self, tags: Sequence[int]) -> None:
        """Note that these deliveries were acknowledged or given back. Only when that has been written: until then an
        ack for others must not cover them.
        """
        for tag in tags:
            del self._tags[tag]


class Deliveries:
    """The deliveries of one channel. It calls each consumer itself: aiormq would start a task for each delivery."""

    def __init__(self, channel: aiormq.Channel) -> None:
        self.unsettled = UnsettledTags()
        self._channel = channel
        self._consumers: dict[str | None, _Consumer] = {}
        self._receive_for_others = channel._on_deliver_frame
        channel._on_deliver_frame = self._receive  # type: ignore[method-assign]

    def add_consumer(self, consumer_tag: str, put: Callable[[Delivery], object], room: BodyRoom | None) -> None:
        """Have `put` called for each delivery of a consumer. Large bodies that find no `room` are left out."""
        self._consumers[consumer_tag] = _Consumer(put, room)

    async def _receive(self, frame: spec.Basic.Deliver) -> None:
        consumer = self._consumers.get(frame.consumer_tag)
        if consumer is None:
            await self._receive_for_others(frame)
            return
        assert frame.delivery_tag is not None
        self.unsettled.receive(frame.delivery_tag)
        header = await self._channel._get_frame()
        if not isinstance(header, ContentHeader):
            raise ValueError(f"{header.name} in place of the header of a message")
        room, size_bytes = consumer.room, header.body_size or 0
        if room is None or size_bytes <= SMALL_BODY_BYTES_MAX:
            delivery = Delivery(frame, header, await self._read_body(size_bytes), self._channel)
        elif room.take(size_bytes):
            delivery = LargeDelivery(frame, header, await self._read_body(size_bytes), self._channel, room)
        else:
            await self._read_body(size_bytes, keep=False)
            delivery = Delivery(frame, header, b"", self._channel)
        try:
            consumer.put(delivery)
        except Exception as error:  # noqa: BLE001 -- a bug: this delivery stays unsettled, and the others go on
            log.error("delivery_not_taken", consumer=frame.consumer_tag, **describe(error))

    async def _read_body(self, size_bytes: int, *, keep: bool = True) -> bytes:
        parts: list[bytes] = []
        left_bytes = size_bytes
        while left_bytes > 0:
            frame = await self._channel._get_frame()
            if not isinstance(frame, ContentBody):
                raise ValueError(f"{frame.name} in place of {left_bytes} bytes of a body")
            left_bytes -= len(frame.value)
            if keep:
                parts.append(frame.value)
        return b"".join(parts)
