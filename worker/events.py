"""The way of an event: queue, batch, decode, store, ack; or dead-letter queue, confirm, ack.

While batches are being written the next one gathers in the inbox; an idle worker writes one event at once.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import structlog

from handlers.errors import EventRefused
from schema import names
from schema.decoding import InvalidBody, decode
from schema.errors import DeadLetterCode
from worker.amqp import Delivery, Link, ack, deliveries_before, requeue, start_consuming, stop_consuming
from worker.backoff import delays_s, wait
from worker.database import Database, Failure, meaning_of
from worker.dead_letters import DeadLetters
from worker.inbox import Inbox, is_suspect
from worker.logs import describe
from worker.routes import WRITES_MAX, EventRoute
from worker.settings import STATEMENT_TIMEOUT_MAX_S

BATCH_EVENTS_MAX: Final = 200
"""Larger batches store hardly faster, and hold their locks longer."""

PREFETCH_EVENTS: Final = (WRITES_MAX + 1) * BATCH_EVENTS_MAX
"""So that the next batch is there, whole, when a write ends."""

BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
"""A batch of large events is small: one of 4 MiB is written alone."""

STORE_TIMEOUT_S: Final = 90
"""A write that takes longer hangs, and not in PostgreSQL: statements time out long before. It counts as a bug."""

assert 7 * STATEMENT_TIMEOUT_MAX_S < STORE_TIMEOUT_S  # of a write few statements come near it

REQUEUE_DELAY_FIRST_S: Final = 1.0
REQUEUE_DELAY_MAX_S: Final = 60.0

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Decoded:
    """A delivery and the event in it."""

    delivery: Delivery
    event: Any


def requeue_delay_s(deliveries: int) -> float:
    """How long an event that fails by a bug is kept, delivered so often before.

    Each delivery counts towards the limit, so a bug that passes by itself is given time to.
    """
    return min(REQUEUE_DELAY_FIRST_S * 2.0 ** min(deliveries, 16), REQUEUE_DELAY_MAX_S)


class EventConsumer:
    """Consumes one event queue and stores what comes."""

    def __init__(
        self,
        route: EventRoute[Any],
        link: Link,
        database: Database,
        dead_letters: DeadLetters,
    ) -> None:
        self._route = route
        self._link = link
        self._database = database
        self._dead_letters = dead_letters
        self._inbox = Inbox()
        self._tasks = asyncio.TaskGroup()
        self._consumer_tag: str | None = None
        self._changing_consumer = asyncio.Lock()
        self._dead_lettering = asyncio.Lock()
        self._dead_letters_held_up = False
        self._log = log.bind(event_type=route.event_type)

    async def run(self, stopping: asyncio.Event) -> None:
        """Consume until `stopping` is set; what is in hand by then is finished first.

        It begins with one event at a time, and goes on so while they are suspects: the one that ended the
        workers which held it will end this one with nothing else in hand. Only its own delivery count rises,
        until RabbitMQ takes it out of the way.
        """
        async with self._tasks:
            await self._consume(1)
            stopper = self._tasks.create_task(self._stop_when(stopping))
            while batch := await self._inbox.take(1, BATCH_BYTES_MAX):
                # Now, while its prefetch of one is used up: what is on its way to a consumer that stops comes
                # back as redelivered.
                await self._pause()
                await self._process(batch, stopping)
                if not is_suspect(batch[0]):
                    await self._consume(PREFETCH_EVENTS)
                    break
                await self._consume(1)
            for _ in range(WRITES_MAX):
                self._tasks.create_task(self._process_what_comes(stopping))
            await stopper

    async def _process_what_comes(self, stopping: asyncio.Event) -> None:
        while batch := await self._inbox.take(BATCH_EVENTS_MAX, BATCH_BYTES_MAX):
            await self._process(batch, stopping)

    async def _consume(self, prefetch: int) -> None:
        """Start to consume, unless that is over. RabbitMQ sets the prefetch once a consumer."""
        async with self._changing_consumer:
            if not self._inbox.closed:
                queue = names.event_queue(self._route.event_type)
                self._consumer_tag = await start_consuming(self._link, queue, prefetch, self._inbox.put)

    async def _pause(self) -> None:
        async with self._changing_consumer:
            if self._consumer_tag is not None:
                await stop_consuming(self._link, self._consumer_tag)
                self._consumer_tag = None

    async def _stop_when(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        await self._pause()
        self._inbox.close()

    async def _process(self, batch: Sequence[Delivery], stopping: asyncio.Event) -> None:
        decoded: list[Decoded] = []
        for delivery in batch:
            try:
                self._check_type(delivery)
                decoded.append(Decoded(delivery, decode(self._route.model, delivery.body)))
            except EventRefused as refused:
                self._dead_letter(delivery, refused, stopping)
            except InvalidBody as invalid:
                self._dead_letter(delivery, EventRefused(DeadLetterCode.INVALID_EVENT, str(invalid)), stopping)
        if decoded:
            await self._store(decoded, stopping)

    async def _store(self, decoded: Sequence[Decoded], stopping: asyncio.Event) -> None:
        """Store events and ack them. Of a batch that is refused, or too slow for PostgreSQL's statement time-out,
        each half is tried, down to the offender; of one that hangs, each event.

        While the database is away nothing moves: the batch is kept and tried again. If that lasts until
        `stopping`, it stays unacknowledged and will be delivered again.
        """
        events = [each.event for each in decoded]
        for delay_s in delays_s():
            limit = asyncio.timeout(STORE_TIMEOUT_S)
            try:
                async with limit, self._database.connection() as connection:
                    await self._route.store(connection, events)
                break
            except Exception as error:  # noqa: BLE001 -- whatever it is, it has a meaning
                hung = limit.expired()
                too_slow = isinstance(error, asyncpg.QueryCanceledError) and len(decoded) > 1
                if hung or too_slow or meaning_of(error) is not Failure.UNAVAILABLE:
                    if len(decoded) == 1:
                        self._give_up(decoded[0], error, stopping)
                        return
                    # Halves find the offender soonest; but whoever hangs is waited for each time.
                    size = 1 if hung else (len(decoded) + 1) // 2
                    for first in range(0, len(decoded), size):
                        await self._store(decoded[first : first + size], stopping)
                    return
                self._log.debug("events_kept", events=len(events), retry_in_s=round(delay_s, 2), **describe(error))
            if await wait(stopping, delay_s):
                return
        await ack(*(each.delivery for each in decoded))
        for each in decoded:
            self._log.debug("event_stored", event_id=str(each.event.event_id), run_id=str(each.event.run_id))
        self._log.info("events_stored", events=len(events))

    def _give_up(self, offender: Decoded, error: Exception, stopping: asyncio.Event) -> None:
        if isinstance(error, EventRefused):
            self._dead_letter(offender.delivery, error, stopping)
        elif meaning_of(error) is Failure.UNSTORABLE:
            self._log.error("event_unstorable", event_id=str(offender.event.event_id), **describe(error))
            self._dead_letter(
                offender.delivery,
                EventRefused(DeadLetterCode.UNSTORABLE, f"the database refuses it: {type(error).__name__}"),
                stopping,
            )
        else:
            self._log.error("event_failed", event_id=str(offender.event.event_id), **describe(error))
            self._tasks.create_task(self._requeue_later(offender.delivery, stopping))

    def _dead_letter(self, delivery: Delivery, reason: EventRefused, stopping: asyncio.Event) -> None:
        """Nobody waits for it: its queue may be full, or the broker short of memory."""
        self._tasks.create_task(self._dead_letter_until_confirmed(delivery, reason, stopping))

    async def _dead_letter_until_confirmed(
        self, delivery: Delivery, reason: EventRefused, stopping: asyncio.Event
    ) -> None:
        async with self._dead_lettering:  # what holds up one holds up those behind it
            for delay_s in delays_s():
                if self._dead_letters_held_up and stopping.is_set():
                    return
                if await self._dead_letters.publish(delivery, self._route.event_type, reason.code, reason.detail):
                    self._dead_letters_held_up = False
                    await ack(delivery)
                    return
                if not self._dead_letters_held_up:
                    self._dead_letters_held_up = True
                    self._log.warning("dead_letter_not_confirmed", code=reason.code)
                await wait(stopping, delay_s)

    async def _requeue_later(self, delivery: Delivery, stopping: asyncio.Event) -> None:
        if not await wait(stopping, requeue_delay_s(deliveries_before(delivery))):
            await requeue(delivery)

    def _check_type(self, delivery: Delivery) -> None:
        said = delivery.header.properties.message_type
        if said is not None and said != self._route.event_type:
            raise EventRefused(
                DeadLetterCode.TYPE_MISMATCH,
                f"type: contradicts the routing key, {self._route.event_type}",
            )
