"""How many events wait in RabbitMQ's queues. A task looks it up at intervals, so that a reply has it at no cost."""

import asyncio
from datetime import UTC, datetime
from typing import Final

import structlog

from schema import names
from schema.events import EVENTS
from schema.results import PendingEvents
from worker.broker.link import CONNECTION_ERRORS, Link
from worker.broker.queue_states import queue_states
from worker.limits import WorkerLimits
from worker.logs import describe

EVENT_QUEUES: Final = tuple(
    queue for event_type in EVENTS for queue in (names.event_queue(event_type), names.parked_queue(event_type))
)
"""Where events wait to be stored."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class PendingEventsLookup:
    """Looks up how many events wait.

    The connection is the one that consumes. One that publishes is not read while RabbitMQ is short of memory.
    """

    def __init__(self, link: Link, limits: WorkerLimits) -> None:
        self._link = link
        self._interval_s = limits.pending_events_interval_s
        self.latest: PendingEvents | None = None
        """The result of the last look-up; None while it is not known."""

    async def run(self) -> None:
        """Look it up at intervals until cancelled."""
        while True:
            try:
                self.latest = await self._look_up()
            except CONNECTION_ERRORS as error:
                self.latest = None
                log.debug("pending_events_unknown", **describe(error))
            await asyncio.sleep(self._interval_s)

    async def _look_up(self) -> PendingEvents | None:
        as_of = datetime.now(UTC)
        states = (await queue_states(self._link, EVENT_QUEUES)).values()
        if None in states:
            return None
        return PendingEvents(count=sum(state.messages for state in states if state), as_of=as_of)
