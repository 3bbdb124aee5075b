"""Runs that started long ago and have not ended: an exporter died, or its event is lost to it."""

from typing import Final
from uuid import UUID

import sql
from schema.limits import TIME_MIN
from schema.requests import ListStaleRuns
from schema.results import ExportRun, StaleRuns

from .connection import Connection
from .history import Position, decode_cursor, encode_cursor
from .runs import run_of_row

OLDEST: Final = Position(TIME_MIN, UUID(int=0))


async def list_stale_runs(connection: Connection, request: ListStaleRuns) -> StaleRuns:
    """One page, oldest first. Raises RequestRefused (INVALID_REQUEST) for a cursor that is not one of ours."""
    scope = f"stale-runs {request.org_id or ''}"
    start = OLDEST if request.cursor is None else decode_cursor(request.cursor, scope)
    rows = await connection.fetch(
        sql.query("list_stale_runs"), request.older_than_seconds, *start, request.org_id, request.limit + 1
    )
    runs = [run_of_row(ExportRun, row) for row in rows[: request.limit]]
    return StaleRuns(runs=runs, next_cursor=encode_cursor(runs[-1], scope) if len(rows) > request.limit else None)
