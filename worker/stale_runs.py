"""A look, now and then, for runs that have not ended."""

import asyncio
from typing import Final

import structlog

from handlers.stale_runs import list_stale_runs
from schema.requests import ListStaleRuns
from worker.backoff import wait
from worker.database import Database, Failure, meaning_of
from worker.logs import describe

STALE_RUNS_INTERVAL_S: Final = 600
STALE_RUNS_LOGGED_MAX: Final = 100
"""A sweep looks no further; `list-stale-runs` lists all."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def warn_of_stale_runs(database: Database, stale_run_s: int, stopping: asyncio.Event) -> None:
    """Log runs that started `stale_run_s` ago and have not ended, until `stopping` is set."""
    request = ListStaleRuns(older_than_seconds=stale_run_s, limit=STALE_RUNS_LOGGED_MAX)
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
        except Exception as error:  # noqa: BLE001 -- it only warns: nobody need wait for it
            if meaning_of(error) is not Failure.UNAVAILABLE:
                log.error("stale_runs_failed", **describe(error))
        await wait(stopping, STALE_RUNS_INTERVAL_S)
