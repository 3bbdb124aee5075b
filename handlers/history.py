"""The history panel's question: the runs of an organisation, newest first, page by page."""

from datetime import UTC, datetime, timedelta
from typing import Final

from asyncpg import Record

import sql
from schema.limits import FUTURE_TOLERANCE_S, HISTORY_TOTAL_RUNS_MAX, TIME_MAX, TIME_MIN
from schema.requests import GetExportHistory
from schema.results import ExportHistory, ExportRun
from sql.connection import Connection

from .cursors import NEWEST, Bookmark, Position, decode_cursor, encode_cursor, scope_of
from .query_arguments import HistoryFilter, HistoryPage
from .runs import position_of, run_of_row

_MICROSECOND: Final = timedelta(microseconds=1)


async def get_export_history(connection: Connection, request: GetExportHistory) -> ExportHistory:
    """One page of runs. Raises RequestRefused (INVALID_REQUEST) for a cursor of another list or of other filters.

    Runs whose `created_at` is more than a day ahead when the first page is asked for come last: else one exporter
    with a wrong clock would fill the first page until that time has come.

    A cursor names the last run of its page, so new runs do not move the pages after it. `total` counts the runs of all
    pages together.
    """
    scope = scope_of(request)
    start, as_of = NEWEST, datetime.now(UTC)
    if request.cursor is not None:
        start, as_of = decode_cursor(request.cursor, scope)
    history = HistoryFilter(
        org_id=request.org_id,
        created_from=request.created_from or TIME_MIN,
        created_to=request.created_to or TIME_MAX,
        status=request.status,
        target_system=request.target_system,
        format=request.format,
        triggered_by=request.triggered_by,
        external_ack_id=request.external_ack_id,
        scope=request.scope,
        trigger=request.trigger,
        has_conflict=request.has_conflict,
        period_from=request.period_from,
        period_to=request.period_to,
        include_deleted=request.include_deleted,
    )
    future_start = as_of + timedelta(seconds=FUTURE_TOLERANCE_S) + _MICROSECOND
    # One more row tells whether there is a next page.
    page = HistoryPage(*start, limit=request.limit + 1, offset=request.offset or 0)
    rows = await _rows(connection, history, page, future_start)
    total = await connection.fetchval(sql.query("count_history"), *history, HISTORY_TOTAL_RUNS_MAX + 1)
    runs = [run_of_row(ExportRun, row) for row in rows[: request.limit]]
    has_next = len(rows) > request.limit
    return ExportHistory(
        runs=runs,
        next_cursor=encode_cursor(Bookmark(position_of(runs[-1]), as_of), scope) if has_next else None,
        total=total if total <= HISTORY_TOTAL_RUNS_MAX else None,
    )


async def _rows(
    connection: Connection, history: HistoryFilter, page: HistoryPage, future_start: datetime
) -> list[Record]:
    """The rows of a page: those before `future_start`, newest first, then those from there on, newest first."""
    past = history._replace(created_to=min(history.created_to, future_start - _MICROSECOND))
    future = history._replace(created_from=max(history.created_from, future_start))
    start = Position(page.below_created_at, page.below_run_id)
    if start != NEWEST and start.created_at >= future_start:
        return list(await connection.fetch(sql.query("list_history"), *future, *page))
    rows = list(await connection.fetch(sql.query("list_history"), *past, *page))
    if len(rows) == page.limit or future.created_from > future.created_to:
        return rows
    skipped = page.offset
    if page.offset and not rows:
        skipped = await connection.fetchval(sql.query("count_history"), *past, page.offset)
    rest = HistoryPage(*NEWEST, limit=page.limit - len(rows), offset=page.offset - skipped)
    return rows + list(await connection.fetch(sql.query("list_history"), *future, *rest))
