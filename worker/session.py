"""One session with the broker: connect, declare, consume, answer, until it breaks or the worker stops.

Whatever breaks ends the session whole: a connection or channel that closed, a consumer that the broker
cancelled. Nothing of it (channels, delivery tags, half-sent replies) lives on
in the next one; what it had not acknowledged is delivered again.
"""

import asyncio
import os
import time
from contextlib import AsyncExitStack
from typing import Final

import structlog

from worker.alarms import tell_of_alarms
from worker.alerts import publish_alerts
from worker.amqp import SessionLost, flush, open_link
from worker.backoff import delays_s, wait
from worker.cancellation import is_being_cancelled
from worker.database import Database, Pool
from worker.dead_letters import DeadLetters
from worker.events import EventConsumer
from worker.logs import describe
from worker.requests import RequestServer
from worker.routes import EVENT_ROUTES, REQUEST_ROUTES
from worker.settings import WorkerSettings
from worker.stale_runs import warn_of_stale_runs
from worker.topology import TopologyMismatch, declare

END_TIMEOUT_S: Final = 30
"""A session that ends and is not over by then never will be."""

STEADY_SESSION_S: Final = 5
"""A session that lasted this long was a good one: the next failure is retried quickly again."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def run_sessions(settings: WorkerSettings, pool: Pool, stopping: asyncio.Event) -> None:
    """Run one session after the other until `stopping` is set. Raises TopologyMismatch.

    Between two sessions it waits, the longer the more of them failed in a row.
    """
    database = Database(pool)
    delays = delays_s()
    told: dict[str, str | None] = {}
    while not stopping.is_set():
        started = time.monotonic()
        try:
            await run_session(settings, database, stopping)
            return
        except TopologyMismatch:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if is_being_cancelled():
                raise
            reason = _first(error)
            what = {"reason": str(reason) if isinstance(reason, SessionLost) else None, **describe(reason)}
        if time.monotonic() - started > STEADY_SESSION_S:
            delays, told = delays_s(), {}
        # A broker that stays away is told of once, not at every attempt.
        (log.debug if what == told else log.warning)("session_lost", **what)
        told = what
        await wait(stopping, next(delays))


async def run_session(settings: WorkerSettings, database: Database, stopping: asyncio.Event) -> None:
    """Serve until `stopping` is set and everything in hand is finished, or until something breaks.

    Raises SessionLost, TopologyMismatch or one of amqp.CONNECTION_ERRORS, in a group or alone.
    """
    lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def note(reason: str) -> None:
        if not lost.done():
            lost.set_result(reason)

    # A connection each: a broker that is short of memory stops reading from connections that publish, and
    # acks on them with it.
    async with (
        AsyncExitStack() as over,
        open_link(settings, "consuming", note, confirms=False) as consuming,
        open_link(settings, "publishing", note, confirms=True) as publishing,
        open_link(settings, "answering", note, confirms=False) as answering,
    ):
        await declare(publishing.channel)
        dead_letters = DeadLetters(publishing)
        workers: list[EventConsumer | RequestServer] = [
            *(EventConsumer(route, consuming, database, dead_letters) for route in EVENT_ROUTES),
            *(
                RequestServer(
                    route,
                    consuming,
                    answering,
                    database,
                    settings.request_deadline_s,
                    settings.reply_queue_prefixes,
                )
                for route in REQUEST_ROUTES
            ),
        ]
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(_raise_when(lost, over))
            running = [
                *(tasks.create_task(worker.run(stopping)) for worker in workers),
                tasks.create_task(publish_alerts(publishing, database, stopping)),
                tasks.create_task(warn_of_stale_runs(database, settings.stale_run_s, stopping)),
                tasks.create_task(tell_of_alarms(publishing, "publishing", stopping)),
                tasks.create_task(tell_of_alarms(answering, "answering", stopping)),
            ]
            log.info("session_started")
            await asyncio.gather(*running)
            watch.cancel()
        for link in (answering, consuming):
            await flush(link)
    log.info("session_ended")


def _end_stuck_worker(reason: str) -> None:
    """A session that does not come to its end keeps the next one from starting: whoever started us starts us anew."""
    stacks = [" < ".join(map(str, task.get_stack())) for task in asyncio.all_tasks()]
    log.critical("session_stuck", reason=reason, tasks=stacks)
    os._exit(1)


async def _raise_when(lost: asyncio.Future[str], over: AsyncExitStack) -> None:
    reason = "something in it failed"
    try:
        reason = await lost
        raise SessionLost(reason)
    finally:  # however the end began
        over.callback(asyncio.get_running_loop().call_later(END_TIMEOUT_S, _end_stuck_worker, reason).cancel)


def _first(error: BaseException) -> BaseException:
    """The error itself, or the first leaf of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
