"""A warning, now and then, of runs that started long ago and have not ended."""

import asyncio

import structlog

from handlers.stale_runs import list_stale_runs
from schema.requests import ListStaleRuns
from worker.database.errors import meaning_of
from worker.database.pool import Database
from worker.limits import WorkerLimits
from worker.logs import describe
from worker.retries import wait

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def warn_of_stale_runs(
    database: Database, stale_run_s: int, limits: WorkerLimits, stopping: asyncio.Event
) -> None:
    """Until `stopping` is set, log how many runs started more than `stale_run_s` ago and have not ended."""
    request = ListStaleRuns(older_than_seconds=stale_run_s, limit=limits.stale_runs_logged_max)
    while not stopping.is_set():
        try:
            async with database.connection() as connection:
                stale = await list_stale_runs(connection, request)
            if stale.runs:
                log.warning(
                    "stale_runs",
                    runs=len(stale.runs),
                    more=stale.next_cursor is not None,
                    oldest_run_id=str(stale.runs[0].run_id),
                    oldest_created_at=stale.runs[0].created_at.isoformat(),
                )
        except Exception as error:  # noqa: BLE001 -- it only warns, and must not end the session
            if not meaning_of(error).is_temporary:
                log.error("stale_runs_failed", **describe(error))
        await wait(stopping, limits.stale_runs_interval_s)
