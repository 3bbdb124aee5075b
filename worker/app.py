"""The worker put together: settings in, sessions running, signals obeyed."""

import asyncio
import signal
from typing import Final

import structlog

import sql
from worker import logs
from worker.database import Failure, Pool, meaning_of, open_pool
from worker.logs import describe
from worker.migrations import MigrationRefused, pending
from worker.routes import DATABASE_CONNECTIONS_MAX
from worker.session import run_sessions
from worker.settings import WorkerSettings
from worker.watchdog import end_if_blocked

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def run_worker(settings: WorkerSettings) -> bool:
    """Run until SIGTERM or SIGINT; whether everything in hand was finished in time.

    The second signal ends the process at once. Raises TopologyMismatch or MigrationRefused where somebody has
    to mend the broker or the database first.
    """
    logs.configure(settings.log_level)
    stopping = asyncio.Event()
    _stop_on_signals(stopping)
    watching = asyncio.create_task(end_if_blocked())
    async with open_pool(settings, DATABASE_CONNECTIONS_MAX) as pool:
        await _check_schema(pool)
        sessions = asyncio.create_task(run_sessions(settings, pool, stopping))
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
    watching.cancel()
    log.info("worker_stopped")
    return True


def _stop_on_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        log.info("worker_stopping")
        stopping.set()
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)  # the next one kills

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop)


async def _check_schema(pool: Pool) -> None:
    """Raises MigrationRefused unless the schema is this version's. A database that is away is waited for later."""
    try:
        async with pool.acquire() as connection:
            missing = await pending(connection, sql.migrations())
    except MigrationRefused:
        raise
    except Exception as error:
        if meaning_of(error) is not Failure.UNAVAILABLE:
            raise
        log.warning("database_unavailable", **describe(error))
        return
    if missing:
        raise MigrationRefused(f"{len(missing)} migrations are missing: run `export-runs migrate` first")
