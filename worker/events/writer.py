"""Stores batches of events of one type, and finds the ones to blame where PostgreSQL refuses a batch.

One event never stops the others. An error of PostgreSQL is about a batch, or about PostgreSQL itself. The event to
blame leaves the writers, and is tried again on the side.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

import structlog

from handlers.locking import locks_max
from worker.database.errors import Failure
from worker.events.parking import Parking
from worker.events.store import EventStore, FailedWrite, ReceivedEvent, WriteHung, retry_pauses_s
from worker.events.verdict import Verdict
from worker.limits import TimeOuts, WorkerLimits
from worker.logs import describe
from worker.retries import wait

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Part:
    """Events to store in one transaction, and how long that may wait and take."""

    events: Sequence[ReceivedEvent]
    time_outs: TimeOuts
    is_suspect: bool = False
    """Whether it comes from a part of one organisation that was interrupted: the one to blame may be in it."""

    lost_connections: int = 0
    """How many transactions with these events ended with the connection."""

    is_of_parked: bool = False
    """Whether its organisation has parked events: what is in their way may be in its way, too."""

    @property
    def org_ids(self) -> set[str]:
        """The organisations whose events these are."""
        return {received.event.org_id for received in self.events}


class EventWriter:
    """Writes the batches of one event consumer."""

    def __init__(self, store: EventStore, parking: Parking, limits: WorkerLimits, stopping: asyncio.Event) -> None:
        self._store = store
        self._parking = parking
        self._batch_time_outs = TimeOuts(limits.batch_lock_timeout_s, limits.batch_statement_timeout_s)
        self._single_time_outs = TimeOuts(limits.single_lock_timeout_s, limits.single_statement_timeout_s)
        self._limits = limits
        self._stopping = stopping
        self._log = log.bind(event_type=store.route.event_type)

    async def write(self, batch: Sequence[ReceivedEvent]) -> None:
        """Store events and acknowledge them; what cannot be stored with the others goes a way of its own.

        While the database is away nothing moves: the events are kept and tried again. What is not stored when the
        worker stops stays unacknowledged, and RabbitMQ delivers it again.
        """
        parts = deque(self._parts(batch))
        trouble_s = 0.0
        pauses_s = retry_pauses_s(self._limits)
        while parts:
            part = parts.popleft()
            started_s = asyncio.get_running_loop().time()
            failed = await self._store.store(part.events, part.time_outs)
            if failed is None:
                pauses_s = retry_pauses_s(self._limits)
                continue
            part = replace(part, lost_connections=part.lost_connections + failed.is_connection_lost)
            decision = await self._store.verdict(
                failed, len(part.events), tries=1, lost_connections=part.lost_connections
            )
            if failed.meaning is Failure.INTERRUPTED and decision is not Verdict.RETRY:
                trouble_s += asyncio.get_running_loop().time() - started_s
            match decision:
                case Verdict.RETRY:
                    parts.appendleft(part)
                    self._log.debug("events_kept", events=len(part.events), **describe(failed.error))
                    if await wait(self._stopping, next(pauses_s)):
                        return
                case Verdict.SPLIT if failed.meaning is not Failure.INTERRUPTED:
                    parts.extendleft(reversed(self._smaller_parts(part, failed)))
                case Verdict.SPLIT:  # the others first: they need not wait while the event to blame is found
                    parts.extend(self._smaller_parts(part, failed))
                    parts = deque(sorted(parts, key=lambda each: each.is_of_parked))
                case Verdict.PARK:
                    self._parking.park(part.events[0], error=failed.error, lost_connections=part.lost_connections)
                case Verdict.DEAD_LETTER:
                    self._store.give_up(part.events[0], failed.error, tries=1, age_s=0)
                case Verdict.REQUEUE:
                    self._store.requeue(part.events[0], failed.error)
                case other:
                    assert_never(other)
            if trouble_s >= self._limits.batch_trouble_max_s:  # the next batch need not wait for the rest of this one
                self._park_all(parts)
                return

    def _park_all(self, parts: Iterable[Part]) -> None:
        for part in parts:
            for received in part.events:
                self._parking.park(received, lost_connections=part.lost_connections, is_untried=not part.is_suspect)

    def _parts(self, batch: Sequence[ReceivedEvent]) -> Iterator[Part]:
        """What to store in one transaction each.

        An event that alone has too many claims is parked. So is one whose organisation has parked events: what is in
        their way may be in its way, too. Where there is no room for it, it comes last, with its organisation alone.
        """
        of_others: list[ReceivedEvent] = []
        of_parked: dict[str, list[ReceivedEvent]] = {}
        for received in batch:
            org_id = received.event.org_id
            if self._store.route.claims(received.event) > self._limits.batch_claims_max:
                self._parking.park(received, is_untried=True)
            elif not self._parking.has_organisation(org_id):
                of_others.append(received)
            elif self._parking.has_room(received):
                self._parking.park(received, is_untried=True)
            else:
                of_parked.setdefault(org_id, []).append(received)
        for events in self._within_bounds(of_others):
            yield Part(events, self._batch_time_outs)
        for of_organisation in of_parked.values():
            for events in self._within_bounds(of_organisation):
                yield Part(events, self._single_time_outs, is_of_parked=True)

    def _within_bounds(self, batch: Sequence[ReceivedEvent]) -> Iterator[Sequence[ReceivedEvent]]:
        """Split events so that each part keeps the bounds on claims and on locks."""
        part: list[ReceivedEvent] = []
        claims_of_org: Counter[str] = Counter()
        claims = locks = 0
        for received in batch:
            org_id, own = received.event.org_id, self._store.route.claims(received.event)
            before = claims_of_org[org_id]
            new_locks = locks_max(1, [before + own]) - locks_max(0, [before])
            if part and (
                claims + own > self._limits.batch_claims_max or locks + new_locks > self._limits.batch_locks_max
            ):
                yield part
                part, claims_of_org, claims, locks = [], Counter(), 0, 0
                new_locks = locks_max(1, [own])
            part.append(received)
            claims_of_org[org_id] += own
            claims += own
            locks += new_locks
        if part:
            yield part

    def _smaller_parts(self, part: Part, failed: FailedWrite) -> list[Part]:
        """What to try instead of a part that failed: its halves find the one to blame soonest.

        One that was interrupted is first split by organisation, so that one organisation's trouble is its own; its
        parts wait for a lock no longer than one event may. Whoever hangs is waited for each time, and whoever ends its
        connection may take PostgreSQL away from everybody each time: so each event alone.
        """
        is_interrupted = failed.meaning is Failure.INTERRUPTED
        if is_interrupted and len(part.org_ids) > 1:
            by_org: dict[str, list[ReceivedEvent]] = {}
            for received in part.events:
                by_org.setdefault(received.event.org_id, []).append(received)
            smaller: Iterable[Sequence[ReceivedEvent]] = by_org.values()
        else:
            is_costly = isinstance(failed.error, WriteHung) or failed.meaning is Failure.UNAVAILABLE
            size = 1 if is_costly else (len(part.events) + 1) // 2
            smaller = (part.events[at : at + size] for at in range(0, len(part.events), size))
        time_outs = self._single_time_outs if is_interrupted else part.time_outs
        is_suspect = part.is_suspect or (is_interrupted and len(part.org_ids) == 1)
        return [replace(part, events=events, time_outs=time_outs, is_suspect=is_suspect) for events in smaller]
