"""Look through the queues of dead letters and leave them as they were.

A message that was looked at is held, unacknowledged, until the looking is over; then it goes back to its
place. Only one body is in memory at a time.
"""

import asyncio
import time
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError

from schema import names
from schema.events import EVENTS
from worker.amqp import CONNECTION_ERRORS, Delivery, Link, ack, flush, open_link
from worker.cancellation import is_being_cancelled
from worker.client import Unreachable
from worker.dead_letter_command.facts import DeadLetter, Selection, read
from worker.settings import BrokerSettings

QUEUES: Final = (*map(names.dead_letter_queue, EVENTS), names.UNROUTABLE_QUEUE)
"""Where dead letters lie."""

CALL_TIMEOUT_S: Final = 15

HOLD_S: Final = 600
"""What is held longer is given back and looked at again: RabbitMQ closes a channel after 30 minutes."""

LOOK_ON_MAX: Final = 1_000
"""Of a queue with no more than this everything is looked at, even past the limit.

RabbitMQ puts what is given back behind what was given back before: only to look at everything leaves the order as
it was, and it finds the oldest for certain. In a longer queue that would take too long.
"""

RETURN_TIMEOUT_S: Final = 3
RETURN_POLL_S: Final = 0.05


@dataclass(slots=True)
class Tally:
    """What one queue held when the looking started, and what was seen of it since."""

    queue: str
    waiting: int
    looked_at: int = 0
    selected: int = 0
    settled: int = 0
    oldest: datetime | None = None


class DeadLetterBox:
    """The queues of dead letters, as one connection sees them. Made by open_box."""

    def __init__(self, link: Link) -> None:
        self._channel = link.underlay
        self._link = link
        self._held = array("Q")
        self._held_since = 0.0
        self._gets_on = False
        """Whether anything was settled since the last give_back: else looking again would never end."""

        self._tallies: dict[str, Tally] = {}

    async def count(self, queue: str) -> int:
        """How many messages stand ready in a queue. Raises Unreachable."""
        with broker_explained():
            declared = await self._channel.queue_declare(queue, passive=True, timeout=CALL_TIMEOUT_S)
        assert declared.message_count is not None
        return declared.message_count

    async def tallies(self, queues: Sequence[str]) -> list[Tally]:
        """What there is to look at now. What comes later is not looked at."""
        return [Tally(queue, await self.count(queue)) for queue in queues]

    async def letters(
        self, tallies: Sequence[Tally], selection: Selection
    ) -> AsyncIterator[tuple[DeadLetter, Delivery]]:
        """The selected dead letters, queue by queue, as they stand. Raises Unreachable.

        Of each queue at least the first is looked at, even past the limit.
        """
        for tally in tallies:
            self._tallies[tally.queue] = tally
            while tally.looked_at < tally.waiting:
                if self._gets_on and self._held and time.monotonic() - self._held_since > HOLD_S:
                    await self.give_back()
                    tally.looked_at = tally.selected = tally.settled
                full = sum(each.selected for each in tallies) == selection.limit
                holds_some = tally.looked_at > tally.settled
                if full and tally.looked_at and not (holds_some and tally.waiting <= LOOK_ON_MAX):
                    break
                delivery = await self._get(tally.queue)
                if delivery is None:
                    break
                letter = read(tally.queue, delivery)
                tally.looked_at += 1
                if letter.failed_at and (tally.oldest is None or letter.failed_at < tally.oldest):
                    tally.oldest = letter.failed_at
                if not full and selection.takes(letter):
                    tally.selected += 1
                    yield letter, delivery

    async def settle(self, letter: DeadLetter, delivery: Delivery) -> None:
        """Take the letter that was looked at last out of its queue, for good."""
        assert self._held[-1] == delivery.delivery_tag
        self._held.pop()
        self._gets_on = True
        self._tallies[letter.queue].settled += 1
        await ack(delivery)

    async def give_back(self) -> None:
        """Put everything that is held back to its place, and wait until it can be seen there.

        A connection that is gone has given it back already.
        """
        self._gets_on = False
        with suppress(Unreachable), broker_explained():
            if self._held:
                await self._channel.basic_nack(self._held[-1], multiple=True, requeue=True)
                self._held = array("Q")
            await flush(self._link)
        # RabbitMQ answers before it has put them back. Another command may take them: not for ever, then.
        with suppress(TimeoutError, Unreachable):
            async with asyncio.timeout(RETURN_TIMEOUT_S):
                for tally in self._tallies.values():
                    while await self.count(tally.queue) < tally.waiting - tally.settled:
                        await asyncio.sleep(RETURN_POLL_S)

    async def _get(self, queue: str) -> Delivery | None:
        with broker_explained():
            delivery = await self._channel.basic_get(queue, timeout=CALL_TIMEOUT_S)
        if delivery.delivery_tag is None:
            return None
        if not self._held:
            self._held_since = time.monotonic()
        self._held.append(delivery.delivery_tag)
        return delivery


@asynccontextmanager
async def open_box(settings: BrokerSettings) -> AsyncIterator[DeadLetterBox]:
    """Connect; at the end what was looked at, and not settled, is back in its place. Raises Unreachable."""
    async with open_broker(settings, "looking at dead letters", confirms=False) as link:
        box = DeadLetterBox(link)
        try:
            yield box
        finally:
            await box.give_back()


@asynccontextmanager
async def open_broker(settings: BrokerSettings, purpose: str, *, confirms: bool) -> AsyncIterator[Link]:
    """A link for a command. Raises Unreachable."""
    async with AsyncExitStack() as stack:
        with broker_explained():
            link = await stack.enter_async_context(open_link(settings, purpose, lambda reason: None, confirms=confirms))
        yield link


@contextmanager
def broker_explained() -> Iterator[None]:
    """Say Unreachable for everything that means it."""
    try:
        yield
    except ChannelNotFoundEntity as error:
        raise Unreachable(f"has a worker ever run on this broker? {error}") from error
    except DeliveryError as error:
        raise Unreachable("the broker has no room or no queue for the message") from error
    except CONNECTION_ERRORS as error:
        raise Unreachable(f"the broker does not answer: {type(error).__name__}") from error
    except asyncio.CancelledError as error:
        if is_being_cancelled():
            raise
        # Nobody cancelled us: aiormq says so of a connection whose heartbeat failed.
        raise Unreachable("the connection to the broker closed") from error
