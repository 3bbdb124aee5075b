"""Stores events of one type in one transaction, and acks them; or says what becomes of them."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from handlers.errors import EventRefused
from handlers.runs import future_start
from schema.errors import DeadLetterCode
from worker import metrics
from worker.broker.deliveries import Delivery
from worker.broker.messages import deliveries_before
from worker.database.errors import Failure, is_lost_connection, meaning_of
from worker.database.pool import Database
from worker.events.in_hand import EventsInHand
from worker.events.verdict import Verdict, verdict
from worker.limits import TimeOuts, WorkerLimits
from worker.logs import describe
from worker.retries import delays_s, wait
from worker.routes import EventRoute
from worker.tracing import record_batch

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """A delivery and the event in it."""

    delivery: Delivery
    event: Any


@dataclass(frozen=True, slots=True)
class FailedWrite:
    """Why events were not stored."""

    error: Exception
    is_connection_lost: bool
    """Whether the transaction had begun, and ended with its connection."""

    @property
    def meaning(self) -> Failure:
        """What the error means for the events."""
        return meaning_of(self.error)


class WriteHung(Exception):
    """A write did not end in time, and not for any time-out of PostgreSQL's: it counts as a bug."""


class EventStore:
    """Stores the events of one consumer. `dead_letter` is called for what can never be stored."""

    def __init__(
        self,
        route: EventRoute[Any],
        database: Database,
        in_hand: EventsInHand,
        dead_letter: Callable[[Delivery, EventRefused], None],
        limits: WorkerLimits,
        tasks: asyncio.TaskGroup,
        stopping: asyncio.Event,
    ) -> None:
        self.route = route
        self._database = database
        self._in_hand = in_hand
        self._dead_letter = dead_letter
        self._limits = limits
        self._tasks = tasks
        self._stopping = stopping
        self._log = log.bind(event_type=route.event_type)

    async def store(self, events: Sequence[ReceivedEvent], time_outs: TimeOuts) -> FailedWrite | None:
        """Store events whole, and acknowledge them; or say why not."""
        limit = asyncio.timeout(self._limits.store_timeout_s)
        started_s, started_ns = time.monotonic(), time.time_ns()
        has_begun = False
        try:
            async with limit, self._database.transaction(time_outs) as connection:
                has_begun = True
                await self.route.store(connection, [received.event for received in events])
                written_s = time.monotonic()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it has a meaning
            failed = FailedWrite(error, has_begun and is_lost_connection(error))
            if limit.expired():
                failed = FailedWrite(WriteHung(), is_connection_lost=False)
            self._record_span(events, started_ns, failed.error)
            return failed
        self._count_stored(events, started_s, written_s)
        await self._in_hand.ack(*(received.delivery for received in events))
        self._record_span(events, started_ns)
        for received in events:
            event = received.event
            self._log.debug("event_stored", event_id=str(event.event_id), run_id=str(event.run_id))
        self._log.info("events_stored", events=len(events))
        future = [received.event for received in events if received.event.occurred_at > future_start()]
        if future:
            example = future[0]
            self._log.warning(
                "event_times_in_future",
                events=len(future),
                event_id=str(example.event_id),
                run_id=str(example.run_id),
                occurred_at=example.occurred_at.isoformat(),
            )
        return None

    async def verdict(
        self, failed: FailedWrite, events: int, *, tries: int, age_s: float = 0, lost_connections: int
    ) -> Verdict:
        """What to do with the events of a transaction that failed; see worker/events/verdict.py."""
        return verdict(
            failed.error,
            events=events,
            tries=tries,
            age_s=age_s,
            lost_connections=lost_connections,
            others_pass=await self._others_pass(failed, lost_connections),
            limits=self._limits,
        )

    def give_up(self, received: ReceivedEvent, error: Exception, *, tries: int, age_s: float) -> None:
        """Dead-letter an event, with the reason."""
        if isinstance(error, EventRefused):
            self._dead_letter(received.delivery, error)
            return
        self._log.error("event_unstorable", event_id=str(received.event.event_id), **describe(error))
        meaning = meaning_of(error)
        if meaning is Failure.UNSTORABLE:
            code, reason = DeadLetterCode.UNSTORABLE, f"the database refuses it: {type(error).__name__}"
        elif meaning is Failure.UNAVAILABLE:
            code = DeadLetterCode.UNSTORABLE
            reason = (
                f"the connection to the database ended in each of {self._limits.lost_connections_max} tries, while the "
                f"database stored others: {type(error).__name__}"
            )
        else:
            code = DeadLetterCode.STORE_TIMED_OUT
            reason = (
                f"the database could not store it in {tries} tries over {age_s:.0f} s, while it stored others: "
                f"{type(error).__name__}"
            )
        self._dead_letter(received.delivery, EventRefused(code, reason))

    def requeue(self, received: ReceivedEvent, error: Exception) -> None:
        """Give back an event that met a bug, after a while."""
        self._log.error("event_failed", event_id=str(received.event.event_id), **describe(error))
        self._tasks.create_task(self._requeue_later(received.delivery))

    async def _requeue_later(self, delivery: Delivery) -> None:
        if not await wait(self._stopping, requeue_delay_s(deliveries_before(delivery), self._limits)):
            await self._in_hand.requeue(delivery)

    async def _others_pass(self, failed: FailedWrite, lost_connections: int) -> bool:
        """Whether PostgreSQL stores other events; asked where that decides what becomes of these.

        When one of its processes crashes, PostgreSQL is away for all until it has recovered. Who caused that can be
        told only afterwards, so that is waited for, or for the worker to stop.
        """
        if failed.meaning is Failure.INTERRUPTED:
            return await self._database.accepts_writes()
        if not failed.is_connection_lost or lost_connections < self._limits.lost_connections_suspect_min:
            return False
        pauses_s = retry_pauses_s(self._limits)
        while not await self._database.accepts_writes():
            if await wait(self._stopping, next(pauses_s)):
                return False
        return True

    def _record_span(self, events: Sequence[ReceivedEvent], started_ns: int, error: Exception | None = None) -> None:
        error_type = None
        if error is not None:
            error_type = error.code if isinstance(error, EventRefused) else type(error).__name__
        messages = (received.delivery.header.properties for received in events)
        record_batch(self.route.event_type, messages, started_ns, error_type)

    def _count_stored(self, events: Sequence[ReceivedEvent], started_s: float, written_s: float) -> None:
        now_s, event_type = time.monotonic(), self.route.event_type
        metrics.EVENTS_STORED.labels(event_type).inc(len(events))
        metrics.BATCH_EVENTS.labels(event_type).observe(len(events))
        metrics.STORE_SECONDS.labels(event_type).observe(now_s - started_s)
        metrics.COMMIT_SECONDS.labels(event_type).observe(now_s - written_s)
        waited_s = self._in_hand.longest_s(received.delivery for received in events)
        metrics.EVENT_WAIT_SECONDS.labels(event_type).observe(waited_s)
        oldest = min(received.event.occurred_at.timestamp() for received in events)
        metrics.EVENT_LAG_SECONDS.labels(event_type).observe(max(0.0, time.time() - oldest))


def retry_pauses_s(limits: WorkerLimits) -> Iterator[float]:
    """How long to wait before each new try while PostgreSQL is away."""
    return delays_s(limits.retry_delay_first_s, limits.retry_delay_max_s)


def requeue_delay_s(deliveries: int, limits: WorkerLimits) -> float:
    """How long an event that fails by a bug is kept before it is given back, delivered so often before.

    Each delivery counts towards the limit, so a bug that passes by itself is given time to.
    """
    return min(limits.requeue_delay_first_s * 2.0 ** min(deliveries, 16), limits.requeue_delay_max_s)
