"""A worker from its start to its end: logs, signals, the pool, the schema, the sessions."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog

from worker import logs, metrics
from worker.broker.declaration import declare
from worker.broker.link import CONNECTION_ERRORS, SessionLost
from worker.broker.misconfiguration import misconfiguration as broker_misconfiguration
from worker.database.errors import DatabaseRefused, Failure, meaning_of
from worker.database.misconfiguration import misconfiguration as database_misconfiguration
from worker.database.pool import Pool, acquire, gate_of, open_pool
from worker.logs import describe
from worker.monitoring.health import Health, Report, log_start, set_build_info
from worker.monitoring.reports import answer_supervisor
from worker.process import end_if_blocked, stop_at_end_of_input, stop_on_signals
from worker.routes import Part
from worker.session import DEFAULT_PARTS, WorkerParts, run_sessions
from worker.settings import AMQP_URL, DATABASE_URL, Misconfiguration, WorkerSettings
from worker.tracing import spans_sent

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def run_worker(
    settings: WorkerSettings,
    parts: WorkerParts = DEFAULT_PARTS,
    *,
    only: Part | None = None,
    supervisor: int | None = None,
) -> bool:
    """Run in this process until SIGTERM or SIGINT. Returns whether everything in hand was finished in time.

    With `only`, it does the work of one part. A second signal ends the process at once. One with a `supervisor`, which
    asks for reports on this file descriptor, stops at the end of its standard input too, and leaves it to the
    supervisor to end it at once, and to answer on the HTTP port. Raises TopologyMismatch,
    DatabaseRefused or Misconfiguration where somebody must first mend RabbitMQ's queues, the database's schema, or a
    URL and its permissions.
    """
    logs.configure(settings.log_level, part=only)
    gc.freeze()  # what was imported is there for good: no search for garbage looks at it again
    if only is not None:
        parts = replace(parts, routes=parts.routes.only(only))
    stopping = asyncio.Event()
    health = Health()
    set_build_info()
    if supervisor is not None:
        stop_on_signals(stopping, on_next=lambda number: None)
        stop_at_end_of_input(stopping, sys.stdin.fileno())
    else:
        log_start(settings)
        stop_on_signals(stopping)
    watchdog = asyncio.create_task(end_if_blocked(parts.limits.loop_blocked_max_s))
    limits = parts.limits
    async with (
        spans_sent(only, limits.batch_events_max, limits.span_flush_s, limits.repeat_log_first_s),
        _reporting(settings, only or "all", supervisor, health),
        open_pool(settings, parts.database_connections_max) as pool,
    ):
        metrics.POOL_CONNECTIONS.labels("idle").set_function(pool.get_idle_size)
        metrics.POOL_CONNECTIONS.labels("in_use").set_function(lambda: pool.get_size() - pool.get_idle_size())
        await _check_database(settings, pool)
        sessions = asyncio.create_task(run_sessions(settings, pool, parts, stopping, health))
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({sessions, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        done, _ = await asyncio.wait({sessions}, timeout=settings.shutdown_s)
        if not done:
            log.error("shutdown_timed_out", shutdown_s=settings.shutdown_s)
            sessions.cancel()
            pool.terminate()
            await asyncio.wait({sessions}, timeout=settings.shutdown_s)
            return False
        sessions.result()
    watchdog.cancel()
    log.info("worker_stopped")
    return True


@asynccontextmanager
async def _reporting(
    settings: WorkerSettings, name: str, supervisor: int | None, health: Health
) -> AsyncIterator[None]:
    """Answer whoever asks how this process is: the supervisor, or, where there is none, the HTTP port."""
    if supervisor is not None:
        answering = asyncio.create_task(answer_supervisor(supervisor, name, health))
        try:
            yield
        finally:
            answering.cancel()
        return

    from worker.monitoring.http_server import http_server  # aiohttp is slow to import, and few processes need it

    async def reports() -> list[Report]:
        return [Report.of(name, health.obstacles())]

    async with http_server(settings, reports):
        yield


async def check_services(settings: WorkerSettings, parts: WorkerParts = DEFAULT_PARTS) -> None:
    """Look once whether a worker could start.

    Raises TopologyMismatch, DatabaseRefused or Misconfiguration. A service that is away is no error.
    """
    await asyncio.gather(_check_database_alone(settings), _check_broker(settings, parts))


async def _check_database_alone(settings: WorkerSettings) -> None:
    async with open_pool(settings, 1) as pool:
        await _check_database(settings, pool)


async def _check_broker(settings: WorkerSettings, parts: WorkerParts) -> None:
    try:
        async with parts.open_link(settings, "starting", lambda reason: None) as link:
            await declare(link.channel, parts.topology_for(settings))
    except (*CONNECTION_ERRORS, SessionLost) as error:
        if sentence := broker_misconfiguration(error):
            raise Misconfiguration(AMQP_URL, sentence) from error


async def _check_database(settings: WorkerSettings, pool: Pool) -> None:
    """Raises DatabaseRefused where the database does not fit this version, Misconfiguration where it refuses the URL or
    its role. One that is away is no error: it is checked before its first use.
    """
    try:
        async with acquire(pool) as connection:
            await gate_of(settings).check(connection)
    except DatabaseRefused:
        raise
    except Exception as error:
        if sentence := database_misconfiguration(error):
            raise Misconfiguration(DATABASE_URL, sentence) from error
        if meaning_of(error) is not Failure.UNAVAILABLE:
            raise
        log.warning("database_unavailable", **describe(error))
