"""Stores events of one type, and settles each: acknowledged, parked, dead-lettered or given back.

One event never stops the others. An error of PostgreSQL is about a batch, or about PostgreSQL itself. The event to
blame leaves the writers, and is tried again on the side.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

import structlog

from handlers.errors import EventRefused
from handlers.locking import locks_max
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


@dataclass(slots=True, eq=False)
class ParkedEvent:
    """An event that waits outside the writers for its next try. Times are the event loop's, in seconds."""

    received: ReceivedEvent
    pauses_s: Iterator[float]
    since_s: float
    due_s: float
    tries: int
    lost_connections: int


@dataclass(frozen=True, slots=True)
class Part:
    """Events to store in one transaction, and how long that may wait and take."""

    events: Sequence[ReceivedEvent]
    time_outs: TimeOuts
    is_whole: bool = True
    """Whether it has not been split yet."""

    lost_connections: int = 0
    """How many transactions with these events ended with the connection."""


@dataclass(frozen=True, slots=True)
class FailedWrite:
    """Why events were not stored."""

    error: Exception
    is_connection_lost: bool
    """Whether the transaction had begun, and ended with its connection."""


class Trouble:
    """How long parts of a batch that were interrupted have held up the others."""

    def __init__(self, limits: WorkerLimits) -> None:
        self._limits = limits
        self._of_organisation_s: dict[str, float] = {}
        self._of_batch_s = 0.0

    def is_too_long(self, part: Part, started_s: float) -> bool:
        """Count a part that was interrupted; whether it is time to look no further for the event to blame.

        A whole batch, and a part of several organisations, is always split: most of it is not to blame.
        """
        org_ids = {received.event.org_id for received in part.events}
        if part.is_whole or len(org_ids) > 1:
            return False
        [org_id] = org_ids
        spent_s = asyncio.get_running_loop().time() - started_s
        self._of_organisation_s[org_id] = self._of_organisation_s.get(org_id, 0.0) + spent_s
        self._of_batch_s += spent_s
        return (
            self._of_organisation_s[org_id] > self._limits.organisation_trouble_max_s
            or self._of_batch_s > self._limits.batch_trouble_max_s
        )


class WriteHung(Exception):
    """A write did not end in time, and not for any time-out of PostgreSQL's: it counts as a bug."""


class EventWriter:
    """Writes what one event consumer receives. `dead_letter` is called for what can never be stored,
    `park_on_broker` for what there is no room for beside the writers, and with whether it was never tried.
    """

    def __init__(
        self,
        route: EventRoute[Any],
        database: Database,
        in_hand: EventsInHand,
        dead_letter: Callable[[Delivery, EventRefused], None],
        park_on_broker: Callable[[Delivery, bool], None],
        parked_time_outs: TimeOuts,
        limits: WorkerLimits,
        tasks: asyncio.TaskGroup,
        stopping: asyncio.Event,
    ) -> None:
        self._route = route
        self._database = database
        self._in_hand = in_hand
        self._dead_letter = dead_letter
        self._park_on_broker = park_on_broker
        self._batch_time_outs = TimeOuts(limits.batch_lock_timeout_s, limits.batch_statement_timeout_s)
        self._single_time_outs = TimeOuts(limits.single_lock_timeout_s, limits.single_statement_timeout_s)
        self._parked_time_outs = parked_time_outs
        self._limits = limits
        self._tasks = tasks
        self._stopping = stopping
        self._parked: dict[str, list[ParkedEvent]] = {}
        self._parked_writes = asyncio.Semaphore(limits.parked_writes_max)
        self._log = log.bind(event_type=route.event_type)

    async def write(self, batch: Sequence[ReceivedEvent]) -> None:
        """Store events and acknowledge them; what cannot be stored with the others goes a way of its own.

        While the database is away nothing moves: the events are kept and tried again. What is not stored when the
        worker stops stays unacknowledged, and RabbitMQ delivers it again.
        """
        parts = deque(Part(events, self._batch_time_outs) for events in self._parts_within_bounds(batch))
        trouble = Trouble(self._limits)
        pauses_s = self._retry_pauses()
        while parts:
            part = parts.popleft()
            started_s = asyncio.get_running_loop().time()
            failed = await self._attempt(part.events, part.time_outs)
            if failed is None:
                pauses_s = self._retry_pauses()
                continue
            error = failed.error
            part = replace(part, lost_connections=part.lost_connections + failed.is_connection_lost)
            decision = await self._verdict(failed, len(part.events), tries=1, lost_connections=part.lost_connections)
            is_interrupted = meaning_of(error) is Failure.INTERRUPTED
            if decision is Verdict.SPLIT and is_interrupted and trouble.is_too_long(part, started_s):
                for received in part.events:
                    self._park(received, tries=0)
                continue
            match decision:
                case Verdict.RETRY:
                    parts.appendleft(part)
                    self._log.debug("events_kept", events=len(part.events), **describe(error))
                    if await wait(self._stopping, next(pauses_s)):
                        return
                case Verdict.SPLIT:
                    parts.extendleft(reversed(self._smaller_parts(part, error)))
                case Verdict.PARK:
                    self._park(part.events[0], tries=1, error=error, lost_connections=part.lost_connections)
                case Verdict.DEAD_LETTER:
                    self._give_up(part.events[0], error, tries=1, age_s=0)
                case Verdict.REQUEUE:
                    self._requeue(part.events[0], error)
                case other:
                    assert_never(other)

    def _smaller_parts(self, part: Part, error: Exception) -> list[Part]:
        """What to try instead of a part that failed: its halves find the one to blame soonest.

        One that was interrupted is first split by organisation, so that one organisation's trouble is its own; its
        parts wait for a lock no longer than one event may. Whoever hangs is waited for each time, and whoever ends its
        connection may take PostgreSQL away from everybody each time: so each event alone.
        """
        is_interrupted = meaning_of(error) is Failure.INTERRUPTED
        by_org: dict[str, list[ReceivedEvent]] = {}
        for received in part.events:
            by_org.setdefault(received.event.org_id, []).append(received)
        if is_interrupted and len(by_org) > 1:
            return [Part(events, self._single_time_outs, is_whole=False) for events in by_org.values()]
        is_costly = isinstance(error, WriteHung) or meaning_of(error) is Failure.UNAVAILABLE
        size = 1 if is_costly else (len(part.events) + 1) // 2
        time_outs = self._single_time_outs if is_interrupted else part.time_outs
        return [
            replace(part, events=part.events[at : at + size], time_outs=time_outs, is_whole=False)
            for at in range(0, len(part.events), size)
        ]

    def _parts_within_bounds(self, batch: Sequence[ReceivedEvent]) -> Iterator[Sequence[ReceivedEvent]]:
        """Split a batch so that each part keeps the bounds on claims and on locks.

        An event that alone has too many claims is stored on the side.
        """
        part: list[ReceivedEvent] = []
        claims_of_org: dict[str, int] = {}
        for received in batch:
            claims = self._route.claims(received.event)
            if claims > self._limits.batch_claims_max:
                self._park(received, tries=0, is_untried=True)
                continue
            org_id = received.event.org_id
            grown = {**claims_of_org, org_id: claims_of_org.get(org_id, 0) + claims}
            too_large = sum(grown.values()) > self._limits.batch_claims_max
            if part and (too_large or locks_max(len(part) + 1, grown.values()) > self._limits.batch_locks_max):
                yield part
                part, grown = [], {org_id: claims}
            part.append(received)
            claims_of_org = grown
        if part:
            yield part

    async def _attempt(self, part: Sequence[ReceivedEvent], time_outs: TimeOuts) -> FailedWrite | None:
        """Store events whole, and acknowledge them; or say why not."""
        limit = asyncio.timeout(self._limits.store_timeout_s)
        started_s, started_ns = time.monotonic(), time.time_ns()
        has_begun = False
        try:
            async with limit, self._database.transaction(time_outs) as connection:
                has_begun = True
                await self._route.store(connection, [received.event for received in part])
                written_s = time.monotonic()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it has a meaning
            failed = FailedWrite(error, has_begun and is_lost_connection(error))
            if limit.expired():
                failed = FailedWrite(WriteHung(), is_connection_lost=False)
            self._record_span(part, started_ns, failed.error)
            return failed
        self._count_stored(part, started_s, written_s)
        await self._in_hand.ack(*(received.delivery for received in part))
        self._record_span(part, started_ns)
        for received in part:
            event = received.event
            self._log.debug("event_stored", event_id=str(event.event_id), run_id=str(event.run_id))
        self._log.info("events_stored", events=len(part))
        future = [received.event for received in part if received.event.occurred_at > future_start()]
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

    def _record_span(self, part: Sequence[ReceivedEvent], started_ns: int, error: Exception | None = None) -> None:
        error_type = None
        if error is not None:
            error_type = error.code if isinstance(error, EventRefused) else type(error).__name__
        messages = (received.delivery.header.properties for received in part)
        record_batch(self._route.event_type, messages, started_ns, error_type)

    def _count_stored(self, part: Sequence[ReceivedEvent], started_s: float, written_s: float) -> None:
        now_s, event_type = time.monotonic(), self._route.event_type
        metrics.EVENTS_STORED.labels(event_type).inc(len(part))
        metrics.BATCH_EVENTS.labels(event_type).observe(len(part))
        metrics.STORE_SECONDS.labels(event_type).observe(now_s - started_s)
        metrics.COMMIT_SECONDS.labels(event_type).observe(now_s - written_s)
        waited_s = self._in_hand.longest_s(received.delivery for received in part)
        metrics.EVENT_WAIT_SECONDS.labels(event_type).observe(waited_s)
        oldest = min(received.event.occurred_at.timestamp() for received in part)
        metrics.EVENT_LAG_SECONDS.labels(event_type).observe(max(0.0, time.time() - oldest))

    async def _verdict(
        self, failed: FailedWrite, events: int, *, tries: int, age_s: float = 0, lost_connections: int
    ) -> Verdict:
        return verdict(
            failed.error,
            events=events,
            tries=tries,
            age_s=age_s,
            lost_connections=lost_connections,
            others_pass=await self._others_pass(failed, lost_connections),
            limits=self._limits,
        )

    async def _others_pass(self, failed: FailedWrite, lost_connections: int) -> bool:
        """Whether PostgreSQL stores other events; asked where that decides what becomes of these.

        When one of its processes crashes, PostgreSQL is away for all until it has recovered. Who caused that can be
        told only afterwards, so that is waited for, or for the worker to stop.
        """
        if meaning_of(failed.error) is Failure.INTERRUPTED:
            return await self._database.accepts_writes()
        if not failed.is_connection_lost or lost_connections < self._limits.lost_connections_suspect_min:
            return False
        pauses_s = self._retry_pauses()
        while not await self._database.accepts_writes():
            if await wait(self._stopping, next(pauses_s)):
                return False
        return True

    def _park(
        self,
        received: ReceivedEvent,
        *,
        tries: int,
        error: Exception | None = None,
        lost_connections: int = 0,
        is_untried: bool = False,
    ) -> None:
        """Put an event aside, after so many tries by itself. The parked events of one organisation share a task.

        One that was never tried, not with others either, is due at once.
        """
        if not self._has_room(received):
            self._park_on_broker(received.delivery, is_untried)
            return
        now_s = asyncio.get_running_loop().time()
        pauses_s = delays_s(self._limits.park_delay_first_s, self._limits.park_delay_max_s)
        due_s = now_s if is_untried else now_s + next(pauses_s)
        parked = ParkedEvent(received, pauses_s, now_s, due_s, tries, lost_connections)
        if error is not None:
            self._log_parked(parked, error)
        org_id = received.event.org_id
        if org_id in self._parked:
            self._parked[org_id].append(parked)
        else:
            self._parked[org_id] = [parked]
            self._tasks.create_task(self._retry_parked(org_id))

    def _has_room(self, received: ReceivedEvent) -> bool:
        """Whether an event can be parked here: an organisation takes no more room than it leaves for the others."""
        own = self._parked.get(received.event.org_id, [])
        parked = [each for of_org in self._parked.values() for each in of_org]
        events_left = self._limits.parked_events_max - len(parked)
        bytes_left = self._limits.parked_bytes_max - _bytes_of(parked)
        own_bytes = _bytes_of(own) + len(received.delivery.body)
        return not parked or (len(own) < events_left and own_bytes <= bytes_left)

    async def _retry_parked(self, org_id: str) -> None:
        """Try the parked events of an organisation, one at a time, until none is left or the worker stops."""
        loop = asyncio.get_running_loop()
        parked = self._parked[org_id]
        while parked:
            first = min(parked, key=lambda each: each.due_s)
            # Not longer than the first pause: an event that is parked meanwhile may be due sooner.
            pause_s = min(max(0.0, first.due_s - loop.time()), self._limits.park_delay_first_s)
            if await wait(self._stopping, pause_s):
                return
            if first.due_s > loop.time():
                continue
            async with self._parked_writes:
                failed = await self._attempt([first.received], self._parked_time_outs)
            if failed is None:
                for other in parked:  # what was in their way may be gone
                    other.due_s = loop.time()
                parked.remove(first)
            elif not await self._keep_parked(first, failed):
                parked.remove(first)
        del self._parked[org_id]

    async def _keep_parked(self, parked: ParkedEvent, failed: FailedWrite) -> bool:
        """Whether a parked event that failed again is to be tried once more; if not, it is settled."""
        loop, error = asyncio.get_running_loop(), failed.error
        age_s = loop.time() - parked.since_s
        parked.lost_connections += failed.is_connection_lost
        decision = await self._verdict(
            failed, 1, tries=parked.tries + 1, age_s=age_s, lost_connections=parked.lost_connections
        )
        now_s = loop.time()
        match decision:
            case Verdict.RETRY:  # not its fault: no try of its own
                parked.due_s = now_s + self._limits.retry_delay_max_s
                return True
            case Verdict.PARK:
                parked.tries += 1
                parked.due_s = now_s + next(parked.pauses_s)
                self._log_parked(parked, error)
                return True
            case Verdict.DEAD_LETTER:
                self._give_up(parked.received, error, tries=parked.tries + 1, age_s=age_s)
            case Verdict.REQUEUE:
                self._requeue(parked.received, error)
            case Verdict.SPLIT:
                raise AssertionError("one event cannot be split")
            case other:
                assert_never(other)
        return False

    def _give_up(self, received: ReceivedEvent, error: Exception, *, tries: int, age_s: float) -> None:
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

    def _requeue(self, received: ReceivedEvent, error: Exception) -> None:
        self._log.error("event_failed", event_id=str(received.event.event_id), **describe(error))
        self._tasks.create_task(self._requeue_later(received.delivery))

    async def _requeue_later(self, delivery: Delivery) -> None:
        if not await wait(self._stopping, requeue_delay_s(deliveries_before(delivery), self._limits)):
            await self._in_hand.requeue(delivery)

    def _retry_pauses(self) -> Iterator[float]:
        return delays_s(self._limits.retry_delay_first_s, self._limits.retry_delay_max_s)

    def _log_parked(self, parked: ParkedEvent, error: Exception) -> None:
        metrics.EVENTS_PARKED.labels(self._route.event_type).inc()
        event = parked.received.event
        self._log.warning(
            "event_parked",
            event_id=str(event.event_id),
            run_id=str(event.run_id),
            tries=parked.tries,
            retry_in_s=round(parked.due_s - asyncio.get_running_loop().time(), 1),
            **describe(error),
        )


def _bytes_of(parked: Sequence[ParkedEvent]) -> int:
    return sum(len(each.received.delivery.body) for each in parked)


def requeue_delay_s(deliveries: int, limits: WorkerLimits) -> float:
    """How long an event that fails by a bug is kept before it is given back, delivered so often before.

    Each delivery counts towards the limit, so a bug that passes by itself is given time to.
    """
    return min(limits.requeue_delay_first_s * 2.0 ** min(deliveries, 16), limits.requeue_delay_max_s)
