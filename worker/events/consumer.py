"""The way of an event: consume, queue, decode, store, ack; or publish to the dead-letter exchange, then ack.

While batches are stored the next one gathers in the queue. A worker that has nothing else to do stores one event at
once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from handlers.errors import EventRefused
from schema import names
from schema.decoding import InvalidBody, decode
from schema.errors import DeadLetterCode
from schema.fields import Name, WireModel
from schema.limits import BODY_BYTES_MAX
from worker import metrics
from worker.broker.bodies import BodyRoom, has_body
from worker.broker.deliveries import Delivery
from worker.broker.link import Link, flush, start_consuming, stop_consuming
from worker.database.pool import Database
from worker.events.dead_letters import PUBLISHERS_HEADER, DeadLetters, times_parked
from worker.events.in_hand import EventsInHand
from worker.events.parking import Parking
from worker.events.queue import EventQueue, queue_number
from worker.events.store import EventStore, ReceivedEvent
from worker.events.writer import EventWriter
from worker.limits import TimeOuts, WorkerLimits
from worker.retries import delays_s, wait
from worker.routes import EventRoute
from worker.settings import WorkerSettings
from worker.tracing import record_batch, trace_context

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class _OfOrganisation(WireModel):
    org_id: Name


@dataclass(slots=True)
class Outlet:
    """A queue that events are moved to, one at a time: what keeps one out keeps out the others. They need not try."""

    is_blocked: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class EventConsumer:
    """Consumes the queue of one event type and stores its events."""

    def __init__(
        self,
        route: EventRoute[Any],
        link: Link,
        database: Database,
        dead_letters: DeadLetters,
        settings: WorkerSettings,
        limits: WorkerLimits,
        stopping: asyncio.Event,
    ) -> None:
        self._route = route
        self._organisations = settings.organisations
        self._own_user = settings.user_id
        self._link = link
        self._dead_letters = dead_letters
        self._limits = limits
        self._stopping = stopping
        self._first_queue = EventQueue(limits.suspect_deliveries_min)
        others = (EventQueue(limits.suspect_deliveries_min) for _ in range(1, limits.writes_max))
        self._queues = [self._first_queue, *others]
        """One for each batch that is written at one time."""
        self._takes_one_by_one = True
        self._room = BodyRoom(limits.event_bodies_bytes_max, BODY_BYTES_MAX, takes_oversized=True)
        self._without_body: list[Delivery] = []
        """Events that found no room. They wait, unacknowledged, until they are given back."""
        self._tasks = asyncio.TaskGroup()
        self._in_hand = EventsInHand(link)
        store = EventStore(route, database, self._in_hand, self._dead_letter, limits, self._tasks, stopping)
        single_time_outs = TimeOuts(settings.lock_timeout_s, settings.statement_timeout_s)
        parking = Parking(store, self._park_on_broker, single_time_outs, limits, self._tasks, stopping)
        self._writer = EventWriter(store, parking, limits, stopping)
        self._consumer_tag: str | None = None
        self._consumer_lock = asyncio.Lock()
        self._dead_letter_outlet = Outlet()
        self._parking_outlet = Outlet()
        self._log = log.bind(event_type=route.event_type)

    async def run(self) -> None:
        """Consume until the worker stops; first every event in hand is stored, and RabbitMQ has read its ack.

        It begins with one event at a time, and goes on so while these are suspects: an event that ended the workers
        before this one ends it too, but with nothing else in hand. So only its own delivery count rises, until
        RabbitMQ dead-letters it.
        """
        event_type = self._route.event_type
        metrics.OLDEST_EVENT_SECONDS.labels(event_type).set_function(lambda: self._in_hand.oldest_s)
        try:
            await self._consume()
            await flush(self._link)
        finally:
            metrics.OLDEST_EVENT_SECONDS.remove(event_type)

    async def _consume(self) -> None:
        async with self._tasks:
            await self._start_consuming(1)
            stop = self._tasks.create_task(self._stop_at_the_end())
            while batch := await self._first_queue.take(1, self._limits.batch_bytes_max):
                # Stop now, while the prefetch of one is used up: what is on its way to a consumer
                # that stops is delivered once more, and that counts.
                await self._stop_consuming()
                await self._process(batch)
                if not self._first_queue.is_suspect(batch[0]):
                    self._takes_one_by_one = False
                    await self._start_consuming(self._limits.prefetch_events)
                    break
                await self._start_consuming(1)
            for queue in self._queues:
                self._tasks.create_task(self._process_batches(queue))
            await stop

    async def _start_consuming(self, prefetch: int) -> None:
        """Does nothing once the worker stops. A new prefetch needs a new consumer."""
        async with self._consumer_lock:
            if not self._first_queue.is_closed:
                name = names.event_queue(self._route.event_type)
                self._consumer_tag = await start_consuming(self._link, name, prefetch, self._receive, self._room)

    def _receive(self, delivery: Delivery) -> None:
        self._in_hand.receive(delivery)
        if delivery.redelivered:
            metrics.EVENTS_REDELIVERED.labels(self._route.event_type).inc()
        if has_body(delivery):
            number = 0 if self._takes_one_by_one else queue_number(delivery.body, len(self._queues))
            self._queues[number].put(delivery)
            return
        self._without_body.append(delivery)
        if len(self._without_body) == 1:
            self._tasks.create_task(self._give_back_events())

    async def _give_back_events(self) -> None:
        """Give back the events that found no room, as there is room for them. RabbitMQ delivers them before others."""
        while self._without_body and not await wait(self._stopping, self._limits.give_back_pause_s):
            fitting = self._room.that_fit(self._without_body)
            for delivery in fitting:
                await self._in_hand.give_back(delivery)
            given_back = {delivery.delivery_tag for delivery in fitting}
            self._without_body = [each for each in self._without_body if each.delivery_tag not in given_back]

    async def _stop_consuming(self) -> None:
        async with self._consumer_lock:
            if self._consumer_tag is not None:
                await stop_consuming(self._link, self._consumer_tag)
                self._consumer_tag = None

    async def _stop_at_the_end(self) -> None:
        await self._stopping.wait()
        await self._stop_consuming()
        for queue in self._queues:
            queue.close()

    async def _process_batches(self, queue: EventQueue) -> None:
        while batch := await queue.take(self._limits.batch_events_max, self._limits.batch_bytes_max):
            await self._process(batch)

    async def _process(self, batch: Sequence[Delivery]) -> None:
        """Decode deliveries and store the events in them. What is no event is dead-lettered."""
        events: list[ReceivedEvent] = []
        started_ns = time.time_ns()
        for delivery in batch:
            try:
                events.append(ReceivedEvent(delivery, self._decode(delivery)))
            except EventRefused as refusal:
                self._dead_letter(delivery, refusal)
                record_batch(self._route.event_type, [delivery.header.properties], started_ns, refusal.code)
        if events:
            await self._writer.write(events)

    def _decode(self, delivery: Delivery) -> Any:
        """Raises EventRefused."""
        try:
            event = self._event(delivery)
        except EventRefused:
            # Its publisher is checked all the same: whoever replays a dead letter publishes it in his own name.
            with suppress(InvalidBody):
                self._check_organisation(delivery, decode(_OfOrganisation, delivery.body).org_id)
            raise
        self._check_organisation(delivery, event.org_id)
        if (context := trace_context(delivery.header.properties.headers)) is not None:
            event.with_trace_context(context)
        return event

    def _event(self, delivery: Delivery) -> Any:
        """Raises EventRefused."""
        message_type = delivery.header.properties.message_type
        if message_type is not None and message_type != self._route.event_type:
            detail = f"type: contradicts the routing key, {self._route.event_type}"
            raise EventRefused(DeadLetterCode.TYPE_MISMATCH, detail)
        try:
            return decode(self._route.model, delivery.body)
        except InvalidBody as invalid:
            raise EventRefused(DeadLetterCode.INVALID_EVENT, str(invalid)) from invalid

    def _check_organisation(self, delivery: Delivery, org_id: str) -> None:
        """Raises EventRefused where its publisher, or one of those before a replay, may not write for it."""
        if self._organisations is None:
            return
        properties = delivery.header.properties
        publishers = (properties.headers or {}).get(PUBLISHERS_HEADER)
        before = [each for each in publishers if isinstance(each, str)] if isinstance(publishers, list) else []
        for user_id in [properties.user_id, *before]:
            if refusal := self._organisations.refusal(user_id, org_id, self._own_user):
                detail = f"{refusal.field}: {refusal.message}; user_id is {user_id!r}"
                raise EventRefused(DeadLetterCode.ORGANISATION_NOT_ALLOWED, detail)

    def _dead_letter(self, delivery: Delivery, refusal: EventRefused) -> None:
        """Publish a delivery to the dead letters. The caller does not wait: the queue may be full, or RabbitMQ short of
        memory.
        """
        event_type = self._route.event_type

        async def publish() -> bool:
            confirmed = await self._dead_letters.publish(delivery, event_type, refusal.code, refusal.detail)
            if confirmed:
                metrics.EVENTS_DEAD_LETTERED.labels(event_type, refusal.code).inc()
            return confirmed

        self._tasks.create_task(self._move(delivery, publish, self._dead_letter_outlet))

    def _park_on_broker(self, delivery: Delivery, is_untried: bool) -> None:
        """Let RabbitMQ keep an event for a while, or dead-letter it if RabbitMQ has kept it very often. Does not wait.

        RabbitMQ keeps an event that has not been tried as often as is needed.
        """
        event_type = self._route.event_type
        times = times_parked(delivery) + (0 if is_untried else 1)
        if times > self._limits.broker_parks_max and not is_untried:
            reason = "the database could not store it for long, while it stored others"
            self._dead_letter(delivery, EventRefused(DeadLetterCode.STORE_TIMED_OUT, reason))
            return

        async def publish() -> bool:
            return await self._dead_letters.park(delivery, event_type, times)

        self._tasks.create_task(self._move(delivery, publish, self._parking_outlet))

    async def _move(self, delivery: Delivery, publish: Callable[[], Awaitable[bool]], outlet: Outlet) -> None:
        """Publish an event elsewhere until RabbitMQ confirms it, then ack it."""
        async with outlet.lock:
            for delay_s in delays_s(self._limits.retry_delay_first_s, self._limits.retry_delay_max_s):
                if outlet.is_blocked and self._stopping.is_set():
                    return
                if await publish():
                    outlet.is_blocked = False
                    await self._in_hand.ack(delivery)
                    return
                if not outlet.is_blocked:
                    outlet.is_blocked = True
                    if outlet is self._dead_letter_outlet:
                        self._log.warning("dead_letter_not_confirmed")
                    else:
                        self._log.warning("parked_event_not_confirmed")
                await wait(self._stopping, delay_s)
