"""Runs that started long ago and have not ended: their exporter died, or their run-finished was lost."""

from datetime import UTC, datetime

import sql
from schema.requests import ListStaleRuns
from schema.results import ExportRun, StaleRuns
from sql.connection import Connection

from .cursors import OLDEST, Bookmark, decode_cursor, encode_cursor, scope_of
from .query_arguments import StaleRunsPage
from .runs import position_of, run_of_row


async def list_stale_runs(connection: Connection, request: ListStaleRuns) -> StaleRuns:
    """One page, oldest first. Raises RequestRefused (INVALID_REQUEST) for a cursor of other filters or another list."""
    scope = scope_of(request)
    start, as_of = OLDEST, datetime.now(UTC)
    if request.cursor is not None:
        start, as_of = decode_cursor(request.cursor, scope)
    page = StaleRunsPage(
        older_than_s=request.older_than_seconds,
        above_created_at=start.created_at,
        above_run_id=start.run_id,
        org_id=request.org_id,
        limit=request.limit + 1,  # one more tells whether there is a next page
    )
    rows = await connection.fetch(sql.query("list_stale_runs"), *page)
    runs = [run_of_row(ExportRun, row) for row in rows[: request.limit]]
    has_next = len(rows) > request.limit
    next_cursor = encode_cursor(Bookmark(position_of(runs[-1]), as_of), scope) if has_next else None
    return StaleRuns(runs=runs, next_cursor=next_cursor)
