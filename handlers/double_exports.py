"""Claims that went out twice: found in the transaction that makes them so, listed, resolved, and reported.

The table is also the outbox of the alerts: a row is there exactly if its cause is, and stays unpublished until the
broker has confirmed it.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from asyncpg import Record

import sql
from schema.alerts import DoubleExportDetected
from schema.errors import ErrorCode, FieldError
from schema.events import SCHEMA_VERSION, RunFinished, RunStatus
from schema.limits import INT64_MAX
from schema.requests import ListDoubleExports, ResolveDoubleExport
from schema.results import DoubleExport, DoubleExportFoundBy, DoubleExports

from .connection import Connection
from .errors import RequestRefused
from .event_log import log_write

DOUBLE_EXPORT_RESOLVED: Final = "double-export-resolved"
"""An event type of the log only."""


async def record_double_exports(
    connection: Connection, exported: Sequence[tuple[UUID, str, str]], finished: Sequence[RunFinished]
) -> None:
    """Note, inside the transaction that exports them, which claims another run has exported too or a run named twice.

    `exported` has (run, organisation, claim ids in one text). The caller holds the locks of the claims and has
    written them.
    """
    if exported:
        run_ids, org_ids, claim_ids = zip(*exported, strict=True)
        await connection.execute(sql.query("record_double_exports"), run_ids, org_ids, claim_ids)
    repeated = [
        (event.org_id, claim_id, event.run_id)
        for event in finished
        if event.status != RunStatus.FAILED and len(set(event.claim_ids)) < len(event.claim_ids)
        for claim_id, times in Counter(event.claim_ids).items()
        if times > 1
    ]
    if repeated:
        await connection.execute(sql.query("record_repeated_claims"), *zip(*repeated, strict=True))


async def list_double_exports(connection: Connection, request: ListDoubleExports) -> DoubleExports:
    """One page, newest first. Raises RequestRefused (INVALID_REQUEST) for a cursor that is not one of ours."""
    below = INT64_MAX if request.cursor is None else _decode_cursor(request.cursor)
    rows = await connection.fetch(
        sql.query("list_double_exports"), request.org_id, below, request.resolved, request.limit + 1
    )
    page = [_double_export(row) for row in rows[: request.limit]]
    return DoubleExports(double_exports=page, next_cursor=str(page[-1].id) if len(rows) > request.limit else None)


async def resolve_double_export(connection: Connection, request: ResolveDoubleExport) -> DoubleExport:
    """Note that somebody has dealt with it. Raises RequestRefused (DOUBLE_EXPORT_NOT_FOUND, CONFLICT)."""
    async with connection.transaction():
        row = await connection.fetchrow(sql.query("get_double_export_for_update"), request.id)
        if row is None or request.org_id not in (None, row["org_id"]):
            raise RequestRefused(ErrorCode.DOUBLE_EXPORT_NOT_FOUND, "there is no such double export")
        if row["resolved_at"] is not None:
            if (row["resolved_by"], row["note"]) != (request.resolved_by, request.note):
                raise RequestRefused(
                    ErrorCode.CONFLICT,
                    "the request contradicts what is stored",
                    FieldError(field="id", message="is resolved already, by somebody else or with another note"),
                )
            return _double_export(row)
        await log_write(
            connection,
            DOUBLE_EXPORT_RESOLVED,
            "request",
            row["second_run_id"],
            row["org_id"],
            row["now"],
            request.payload,
        )
        resolved = await connection.fetchrow(
            sql.query("resolve_double_export"), request.id, row["now"], request.resolved_by, request.note
        )
        assert resolved is not None
        return _double_export(resolved)


async def unpublished_alerts(connection: Connection, limit: int) -> list[DoubleExportDetected] | None:
    """The next alerts in their order, inside the caller's transaction; None while another worker publishes them."""
    if not await connection.fetchval(sql.query("lock_alerts")):
        return None
    return [_alert(row) for row in await connection.fetch(sql.query("list_unpublished_alerts"), limit)]


async def mark_alerts(connection: Connection, alerts: Sequence[DoubleExportDetected], *, published: bool) -> None:
    """Take alerts out of the outbox, or put them back, inside the same transaction."""
    await connection.execute(sql.query("mark_alerts"), [alert.id for alert in alerts], published)


def _double_export(row: Record) -> DoubleExport:
    return DoubleExport(
        id=row["id"],
        org_id=row["org_id"],
        claim_id=row["claim_id"],
        first_run_id=row["first_run_id"],
        second_run_id=row["second_run_id"],
        found_by=DoubleExportFoundBy(row["found_by"]),
        detected_at=row["detected_at"],
        resolved_at=row["resolved_at"],
        resolved_by=row["resolved_by"],
        note=row["note"],
    )


def _alert(row: Record) -> DoubleExportDetected:
    return DoubleExportDetected(
        event_id=row["event_id"],
        schema_version=SCHEMA_VERSION,
        occurred_at=row["detected_at"],
        id=row["id"],
        org_id=row["org_id"],
        claim_id=row["claim_id"],
        first_run_id=row["first_run_id"],
        second_run_id=row["second_run_id"],
        found_by=DoubleExportFoundBy(row["found_by"]),
    )


def _decode_cursor(cursor: str) -> int:
    if cursor.isascii() and cursor.isdecimal() and 0 < int(cursor) <= INT64_MAX:
        return int(cursor)
    raise RequestRefused(
        ErrorCode.INVALID_REQUEST,
        "the request is not valid",
        FieldError(field="cursor", message="is not a nextCursor of this list"),
    )
