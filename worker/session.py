"""One session with RabbitMQ: connect, declare, consume, answer, until something breaks or the worker stops.

Whatever breaks ends the session whole: a connection or a channel that closes, a consumer that RabbitMQ cancels.
Channels, delivery tags and replies do not outlive it. RabbitMQ redelivers in the next session what this one did not
acknowledge.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import structlog

from worker import metrics
from worker.broker.blocked_connections import log_blocks
from worker.broker.declaration import TopologyMismatch, declare
from worker.broker.link import Link, LinkOpener, SessionLost, broker_product, flush, open_link, open_link_beside
from worker.broker.misconfiguration import misconfiguration
from worker.broker.publisher import Publisher, open_publisher
from worker.broker.topology import TOPOLOGY, Topology
from worker.database.pool import Database, Pool, watched_database
from worker.events.consumer import EventConsumer
from worker.events.dead_letters import DeadLetters
from worker.jobs.alert_outbox import AlertOutbox
from worker.jobs.backlog import measure_backlog, measure_queues
from worker.jobs.stale_runs import warn_of_stale_runs
from worker.limits import DEFAULT_LIMITS, WorkerLimits
from worker.logs import Repetitions, describe, waiting_place
from worker.monitoring.health import Health
from worker.requests.pending_events import PendingEventsLookup
from worker.requests.reply_sender import ReplySender
from worker.requests.server import RequestServer
from worker.retries import delays_s, is_being_cancelled, wait
from worker.routes import ROUTES, Routes
from worker.settings import AMQP_URL, Misconfiguration, WorkerSettings

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerParts:
    """What a worker is put together from, besides its settings."""

    routes: Routes = ROUTES
    topology: Topology = TOPOLOGY
    limits: WorkerLimits = DEFAULT_LIMITS
    open_link: LinkOpener = open_link

    def topology_for(self, settings: WorkerSettings) -> Topology:
        """What a worker declares: what its routes need, and nothing else."""
        topology = self.topology.only(events=bool(self.routes.events), requests=bool(self.routes.requests))
        return topology if settings.rpc_queue_type == "classic" else topology.with_quorum_rpc_queues()

    @property
    def database_connections_max(self) -> int:
        """One for every write and every query that can run at once, so that none waits for a connection."""
        writes = (self.limits.writes_max + 2 * self.limits.parked_writes_max) * len(self.routes.events)
        queries = sum(route.queries_max for route in self.routes.requests)
        watching = 3 if self.routes.events else 0  # alerts, stale runs, the backlog
        return writes + queries + watching + 1  # the check whether PostgreSQL accepts writes


DEFAULT_PARTS: Final = WorkerParts()

PRIORITY_WITHOUT_DATABASE: Final = -10
"""Of the consumers of a worker that has no database: RabbitMQ gives requests to all others first."""


async def run_sessions(
    settings: WorkerSettings, pool: Pool, parts: WorkerParts, stopping: asyncio.Event, health: Health
) -> None:
    """Run one session after the other until `stopping` is set. Raises TopologyMismatch.

    The more sessions fail in a row, the longer it waits before the next one. Raises Misconfiguration where RabbitMQ
    refuses the URL or its user before the first session was steady; later that is waited for like an outage.
    """
    async with watched_database(settings, pool, parts.limits) as database:
        health.database_away_s = lambda: database.away_s
        metrics.DATABASE_AWAY_SECONDS.set_function(health.database_away_s)
        limits = parts.limits
        delays = delays_s(limits.retry_delay_first_s, limits.retry_delay_max_s)
        losses = Repetitions(limits.repeat_log_first_s)
        has_served = False
        while not stopping.is_set():
            started_s = time.monotonic()
            try:
                await run_session(settings.from_random_url(), database, parts, stopping, health)
                continue
            except TopologyMismatch:
                raise
            except (Exception, asyncio.CancelledError) as error:
                if is_being_cancelled():
                    raise
                is_steady = time.monotonic() - started_s > limits.session_steady_s
                has_served = has_served or is_steady
                if not has_served:
                    _raise_misconfiguration(error)
                cause = next(_leaves(error))
                metrics.SESSIONS_LOST.labels(type(cause).__name__).inc()
                fields = {"reason": str(cause) if isinstance(cause, SessionLost) else None, **describe(cause)}
            if is_steady:
                delays = delays_s(limits.retry_delay_first_s, limits.retry_delay_max_s)
            # The same loss again and again is a warning at growing intervals, with their number.
            repetition = losses.note(f"{fields['reason']} {fields['error']}", time.monotonic())
            (log.debug if repetition is None else log.warning)("session_lost", **fields, **(repetition or {}))
            await wait(stopping, next(delays))


async def run_session(
    settings: WorkerSettings, database: Database, parts: WorkerParts, stopping: asyncio.Event, health: Health
) -> None:
    """Serve until `stopping` is set and everything in hand is finished, or until something breaks.

    While the database is given up, a session consumes no events, answers requests that no other worker takes, and
    ends when the database is back. Raises SessionLost, TopologyMismatch or one of CONNECTION_ERRORS, in a group or
    alone.
    """
    limits = parts.limits
    has_database = not database.is_given_up
    ending = asyncio.Event()
    loss: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def report_loss(reason: str) -> None:
        if not loss.done():
            loss.set_result(reason)

    # Up to three connections, because RabbitMQ, when it is short of memory, reads nothing from connections that
    # publish: no acks either.
    async with (
        AsyncExitStack() as at_the_end,
        parts.open_link(settings, "consuming", report_loss) as consuming,
        AsyncExitStack() as links,
    ):
        await declare(consuming.channel, parts.topology_for(settings))
        services: list[Coroutine[Any, Any, Any]] = []
        if parts.routes.events and has_database:
            publishing = await links.enter_async_context(parts.open_link(settings, "publishing", report_loss))
            publisher = await links.enter_async_context(open_publisher(publishing, report_loss))
            services += await _event_services(settings, database, parts, consuming, publisher, ending, report_loss)
        replies = ReplySender(settings, parts.open_link, limits, ending)
        pending_events = PendingEventsLookup(consuming, limits)
        priority = 0 if has_database else PRIORITY_WITHOUT_DATABASE
        services += [
            RequestServer(
                route, consuming, replies, database, settings, limits, ending, pending_events, priority=priority
            ).run()
            for route in parts.routes.requests
        ]
        async with asyncio.TaskGroup() as tasks:
            helpers = [
                tasks.create_task(_watch(loss, at_the_end, limits.session_end_timeout_s)),
                tasks.create_task(_follow(database, ending, limits.hand_over_s, has_database=has_database)),
                tasks.create_task(_set_after(stopping, ending)),
            ]
            if parts.routes.requests:
                helpers.append(tasks.create_task(replies.run()))
                helpers.append(tasks.create_task(pending_events.run()))
            work = [tasks.create_task(service) for service in (ending.wait(), *services)]
            log.info("session_started", has_database=has_database, **_versions(consuming, database))
            metrics.SESSIONS_STARTED.labels(str(has_database).lower()).inc()
            with health.in_session():
                await asyncio.gather(*work)
            await replies.flush()
            for helper in helpers:
                helper.cancel()
        await flush(consuming)
    log.info("session_ended")


def _versions(link: Link, database: Database) -> dict[str, str | None]:
    return {"broker": broker_product(link), "database": database.product}


async def _event_services(
    settings: WorkerSettings,
    database: Database,
    parts: WorkerParts,
    consuming: Link,
    publisher: Publisher,
    ending: asyncio.Event,
    on_loss: Callable[[str], None],
) -> list[Coroutine[Any, Any, Any]]:
    """What a session does for events, alerts and stale runs: nothing without a database."""
    limits = parts.limits
    # Of a parked event RabbitMQ checks that the worker has published it: only then is that worth something.
    user_id = settings.user_id if settings.organisations else None
    dead_letters = DeadLetters(publisher, limits.dead_letter_timeout_s, user_id)
    links = [await open_link_beside(consuming, route.event_type, on_loss) for route in parts.routes.events]
    return [
        *(
            EventConsumer(route, link, database, dead_letters, settings, limits, ending).run()
            for route, link in zip(parts.routes.events, links, strict=True)
        ),
        AlertOutbox(publisher, database, limits, ending).run(),
        warn_of_stale_runs(database, settings.stale_run_s, limits, ending),
        measure_queues(consuming, limits, ending),
        measure_backlog(database, settings.stale_run_s, limits, ending),
        log_blocks(publisher.link, "publishing", ending),
    ]


async def _follow(database: Database, ending: asyncio.Event, hand_over_s: float, *, has_database: bool) -> None:
    """End a session that the database has left, or come back to.

    When it has left, the consumers stop first, so that nobody sends more. What can be answered is answered. Then the
    connections close, and RabbitMQ gives the rest to others: that is one delivery for each event. Raises SessionLost
    where something in the session still waits for the database after `hand_over_s`.
    """
    if not has_database:
        await database.until_usable()
        ending.set()
        return
    await database.until_given_up()
    log.warning("work_handed_over", away_s=round(database.away_s))
    ending.set()
    await asyncio.sleep(hand_over_s)
    raise SessionLost("the database has been away for too long")


async def _set_after(first: asyncio.Event, then: asyncio.Event) -> None:
    await first.wait()
    then.set()


async def _watch(loss: asyncio.Future[str], at_the_end: AsyncExitStack, end_timeout_s: float) -> None:
    """Raise SessionLost at the first loss. From then on, or when the session ends otherwise, its end has a time-out."""
    reason = "something in it failed"
    try:
        reason = await loss
        raise SessionLost(reason)
    finally:
        timer = asyncio.get_running_loop().call_later(end_timeout_s, _end_process, reason)
        at_the_end.callback(timer.cancel)


def _end_process(reason: str) -> None:
    """A session that does not end keeps the next one from starting. Whoever started this process starts it again."""
    log.critical("session_stuck", reason=reason, tasks=[waiting_place(task) for task in asyncio.all_tasks()])
    os._exit(1)


def _raise_misconfiguration(error: BaseException) -> None:
    for leaf in _leaves(error):
        if sentence := misconfiguration(leaf):
            raise Misconfiguration(AMQP_URL, sentence) from error


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The error itself, or the errors that a group holds."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
