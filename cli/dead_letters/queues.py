"""Browse the queues of dead letters: read their messages and leave the queues as they were.

The browser holds each message that it has read, unacknowledged, until it has finished; then RabbitMQ puts them all
back. Only one body is in memory at a time.
"""

import asyncio
import time
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cli.broker import Unreachable, broker_errors, open_broker
from cli.dead_letters.letter import DeadLetter, Selection, read_dead_letter
from schema import names
from schema.events import EVENTS
from worker.broker.deliveries import Delivery
from worker.broker.link import CONNECTION_ERRORS, Link, flush
from worker.settings import BrokerSettings

QUEUES: Final = (*map(names.dead_letter_queue, EVENTS), names.UNROUTABLE_QUEUE)
"""The queues that dead letters are in."""

CALL_TIMEOUT_S: Final = 15
RETURN_TIMEOUT_S: Final = 3
RETURN_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class BrowseLimits:
    """How much a browser reads, and how long it holds it."""

    whole_queue_messages_max: int = 1_000
    """A queue with no more messages than this is read to its end, even past the limit of the selection.

    RabbitMQ puts a message that is given back behind those that were given back before. Only reading the whole queue
    keeps the order as it was, and finds the oldest message for certain. In a longer queue that takes too long.
    """

    hold_s: float = 600
    """Messages that were held for longer are given back, and read again. RabbitMQ closes a channel that holds a
    message for 30 minutes.
    """


@dataclass(slots=True)
class QueueCounts:
    """How many messages a queue had when browsing started, and what became of them since."""

    queue: str
    ready: int
    held_by_others: int = 0
    """Messages that other commands have read and not given back. Nobody else can read them meanwhile.

    RabbitMQ does not tell it. It tells a quorum queue's consumers, and for each message that somebody got and did not
    settle there is one; measured on 3.10 and 4.0. A subscriber is one consumer too, whatever it holds.
    """

    read: int = 0
    selected: int = 0
    settled: int = 0
    oldest: datetime | None = None
    """When the oldest message that was read had failed."""

    undated: int = 0
    """How many of the messages that were read do not tell when they failed."""


class QueueBrowser:
    """The queues of dead letters, seen through one connection. Made by open_browser."""

    def __init__(self, link: Link, limits: BrowseLimits) -> None:
        self._link = link
        self._channel = link.underlay
        self._limits = limits
        self._delivery_tags = array("Q")
        """Of the messages that are held."""

        self._hold_start_s = 0.0
        self._has_settled = False
        """Whether a message was settled since the last give_back: if none was, reading again would never end."""

        self._counts: dict[str, QueueCounts] = {}

    async def count(self, queue: str) -> QueueCounts:
        """How many messages a queue has now. Messages that arrive later are not read. Raises Unreachable."""
        with broker_errors():
            declared = await self._channel.queue_declare(queue, passive=True, timeout=CALL_TIMEOUT_S)
        assert declared.message_count is not None
        assert declared.consumer_count is not None
        return QueueCounts(queue, declared.message_count, declared.consumer_count)

    async def letters(
        self, counts: Sequence[QueueCounts], selection: Selection
    ) -> AsyncIterator[tuple[DeadLetter, Delivery]]:
        """The selected dead letters, queue by queue, in the order of the queue. Raises Unreachable.

        The browser reads at least the first message of each queue, even past the limit of the selection.
        """
        for queue in counts:
            self._counts[queue.queue] = queue
            while queue.read < queue.ready:
                if self._has_settled and self._holds_too_long():
                    await self.give_back()
                    queue.read = queue.selected = queue.settled
                is_complete = sum(each.selected for each in counts) == selection.limit
                if is_complete and queue.read and not self._keeps_order_by_reading(queue):
                    break
                delivery = await self._get(queue.queue)
                if delivery is None:
                    break
                letter = read_dead_letter(queue.queue, delivery)
                queue.read += 1
                if letter.failed_at is None:
                    queue.undated += 1
                elif queue.oldest is None or letter.failed_at < queue.oldest:
                    queue.oldest = letter.failed_at
                if not is_complete and selection.takes(letter):
                    queue.selected += 1
                    yield letter, delivery

    async def settle(self, letter: DeadLetter, delivery: Delivery) -> None:
        """Remove the letter that was read last from its queue, for good."""
        assert self._delivery_tags[-1] == delivery.delivery_tag
        self._has_settled = True
        self._counts[letter.queue].settled += 1
        with suppress(*CONNECTION_ERRORS):
            await self._link.underlay.basic_ack(self._delivery_tags.pop(), wait=False)

    async def give_back(self) -> None:
        """Have RabbitMQ put back every message that is held, and wait until their queues show them again.

        If the connection is gone, RabbitMQ has put them back already.
        """
        self._has_settled = False
        with suppress(Unreachable), broker_errors():
            if self._delivery_tags:
                await self._channel.basic_nack(self._delivery_tags[-1], multiple=True, requeue=True)
                self._delivery_tags = array("Q")
            await flush(self._link)
        # RabbitMQ answers before it has put them back. The wait is bounded: another command may take them.
        with suppress(TimeoutError, Unreachable):
            async with asyncio.timeout(RETURN_TIMEOUT_S):
                for queue in self._counts.values():
                    while (await self.count(queue.queue)).ready < queue.ready - queue.settled:
                        await asyncio.sleep(RETURN_POLL_S)

    def _holds_too_long(self) -> bool:
        return bool(self._delivery_tags) and time.monotonic() - self._hold_start_s > self._limits.hold_s

    def _keeps_order_by_reading(self, queue: QueueCounts) -> bool:
        holds_some = queue.read > queue.settled
        return holds_some and queue.ready <= self._limits.whole_queue_messages_max

    async def _get(self, queue: str) -> Delivery | None:
        with broker_errors():
            delivery = await self._channel.basic_get(queue, timeout=CALL_TIMEOUT_S)
        if delivery.delivery_tag is None:
            return None
        if not self._delivery_tags:
            self._hold_start_s = time.monotonic()
        self._delivery_tags.append(delivery.delivery_tag)
        return delivery


@asynccontextmanager
async def open_browser(settings: BrokerSettings, limits: BrowseLimits | None = None) -> AsyncIterator[QueueBrowser]:
    """Connect; at the end RabbitMQ has put back every message that was not settled. Raises Unreachable."""
    async with open_broker(settings, "looking at dead letters") as link:
        browser = QueueBrowser(link, limits or BrowseLimits())
        try:
            yield browser
        finally:
            await browser.give_back()
