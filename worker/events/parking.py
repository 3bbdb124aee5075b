"""Events that wait outside the writers for another try, so that they hold up nobody but their own organisation."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

import structlog

from worker import metrics
from worker.broker.deliveries import Delivery
from worker.events.store import EventStore, FailedWrite, ReceivedEvent
from worker.events.verdict import Verdict
from worker.limits import TimeOuts, WorkerLimits
from worker.logs import describe
from worker.retries import delays_s, wait

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(slots=True, eq=False)
class ParkedEvent:
    """An event that waits for its next try. Times are the event loop's, in seconds."""

    received: ReceivedEvent
    pauses_s: Iterator[float]
    since_s: float
    due_s: float
    tries: int
    """How often it failed by itself."""

    lost_connections: int
    is_suspect: bool
    """Whether it failed by itself, or here with others: it is tried by itself from then on."""

    is_untried: bool
    """Whether its first try is still to come: it may have been put aside because of others only."""


class Parking:
    """Tries parked events again. `park_on_broker` is called for what there is no room for, and with whether it was
    never tried.

    The events of one organisation share a task, and a transaction unless one of them is a suspect: what was parked only
    because others stood in its way is stored as fast as by a writer. First tries are short, and do not wait for those
    that are tried again: many of these may wait long for a lock.
    """

    def __init__(
        self,
        store: EventStore,
        park_on_broker: Callable[[Delivery, bool], None],
        single_time_outs: TimeOuts,
        limits: WorkerLimits,
        tasks: asyncio.TaskGroup,
        stopping: asyncio.Event,
    ) -> None:
        self._store = store
        self._park_on_broker = park_on_broker
        self._single_time_outs = single_time_outs
        self._group_time_outs = TimeOuts(limits.batch_lock_timeout_s, limits.batch_statement_timeout_s)
        self._first_time_outs = TimeOuts(limits.first_try_lock_timeout_s, limits.first_try_statement_timeout_s)
        self._limits = limits
        self._tasks = tasks
        self._stopping = stopping
        self._of_organisation: dict[str, list[ParkedEvent]] = {}
        self._first_writes = asyncio.Semaphore(limits.parked_writes_max)
        self._repeated_writes = asyncio.Semaphore(limits.parked_writes_max)
        self._log = log.bind(event_type=store.route.event_type)

    def has_organisation(self, org_id: str) -> bool:
        """Whether events of an organisation are parked here."""
        return org_id in self._of_organisation

    def has_room(self, received: ReceivedEvent) -> bool:
        """Whether an event can be parked here: an organisation takes no more room than it leaves for the others."""
        own = self._of_organisation.get(received.event.org_id, [])
        parked = [each for of_org in self._of_organisation.values() for each in of_org]
        events_left = self._limits.parked_events_max - len(parked)
        bytes_left = self._limits.parked_bytes_max - _bytes_of(parked)
        own_bytes = _bytes_of(own) + len(received.delivery.body)
        return not parked or (len(own) < events_left and own_bytes <= bytes_left)

    def park(
        self,
        received: ReceivedEvent,
        *,
        error: Exception | None = None,
        lost_connections: int = 0,
        is_untried: bool = False,
    ) -> None:
        """Put an event aside; with the error, if it failed by itself.

        One that was never tried, or only with those of other organisations, is due at once.
        """
        if not self.has_room(received):
            self._park_on_broker(received.delivery, is_untried)
            return
        now_s = asyncio.get_running_loop().time()
        pauses_s = delays_s(self._limits.park_delay_first_s, self._limits.park_delay_max_s)
        due_s = now_s if is_untried else now_s + next(pauses_s)
        has_failed = error is not None
        parked = ParkedEvent(
            received,
            pauses_s,
            now_s,
            due_s,
            tries=int(has_failed),
            lost_connections=lost_connections,
            is_suspect=has_failed or lost_connections > 0,
            # One that alone has too many claims for a batch is known to take its time.
            is_untried=is_untried and self._store.route.claims(received.event) <= self._limits.batch_claims_max,
        )
        if error is not None:
            self._log_parked(parked, error)
        org_id = received.event.org_id
        if org_id in self._of_organisation:
            self._of_organisation[org_id].append(parked)
        else:
            self._of_organisation[org_id] = [parked]
            self._tasks.create_task(self._retry(org_id))

    async def _retry(self, org_id: str) -> None:
        """Try the parked events of an organisation until none is left or the worker stops."""
        loop = asyncio.get_running_loop()
        parked = self._of_organisation[org_id]
        while parked:
            group = self._due_group(parked)
            if not group:
                next_s = min(each.due_s for each in parked) - loop.time()
                # An event that joins them meanwhile may be due sooner.
                if await wait(self._stopping, min(max(0.0, next_s), self._limits.parked_look_s)):
                    return
                continue
            if any(each.is_untried for each in group):
                writes, time_outs = self._first_writes, self._first_time_outs
            else:
                writes = self._repeated_writes
                time_outs = self._single_time_outs if len(group) == 1 else self._group_time_outs
            async with writes:
                if self._stopping.is_set():
                    return
                failed = await self._store.store([each.received for each in group], time_outs)
            for each in group:
                each.is_untried = False
            settled = group if failed is None else await self._settled_of_failed(group, failed)
            parked[:] = [each for each in parked if each not in settled]
        del self._of_organisation[org_id]

    def _due_group(self, parked: Sequence[ParkedEvent]) -> list[ParkedEvent]:
        """The events to try next, together: those that are due, up to the bounds, or one suspect."""
        now_s = asyncio.get_running_loop().time()
        due = sorted((each for each in parked if each.due_s <= now_s), key=lambda each: each.due_s)
        group: list[ParkedEvent] = []
        claims = 0
        for each in due:
            claims += self._store.route.claims(each.received.event)
            is_too_much = len(group) >= self._limits.parked_group_events_max or claims > self._limits.batch_claims_max
            if group and (each.is_suspect or is_too_much):
                break
            group.append(each)
            if each.is_suspect:
                break
        return group

    async def _settled_of_failed(self, group: Sequence[ParkedEvent], failed: FailedWrite) -> list[ParkedEvent]:
        """Decide what becomes of events that were not stored. Returns those that are parked no longer."""
        loop, first = asyncio.get_running_loop(), group[0]
        for each in group:
            each.lost_connections += failed.is_connection_lost
            each.is_suspect |= failed.is_connection_lost
        tries, age_s = first.tries + 1, loop.time() - first.since_s
        decision = await self._store.verdict(
            failed, len(group), tries=tries, age_s=age_s, lost_connections=first.lost_connections
        )
        now_s = loop.time()
        match decision:
            case Verdict.RETRY:  # not their fault: no try of their own
                for each in group:
                    each.due_s = now_s + self._limits.retry_delay_max_s
                return []
            case Verdict.SPLIT:  # at once, each by itself
                for each in group:
                    each.is_suspect = True
                return []
            case Verdict.PARK:
                first.tries, first.is_suspect = tries, True
                first.due_s = now_s + next(first.pauses_s)
                self._log_parked(first, failed.error)
                return []
            case Verdict.DEAD_LETTER:
                self._store.give_up(first.received, failed.error, tries=tries, age_s=age_s)
            case Verdict.REQUEUE:
                self._store.requeue(first.received, failed.error)
            case other:
                assert_never(other)
        return [first]

    def _log_parked(self, parked: ParkedEvent, error: Exception) -> None:
        event_type, event = self._store.route.event_type, parked.received.event
        metrics.EVENTS_PARKED.labels(event_type).inc()
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
