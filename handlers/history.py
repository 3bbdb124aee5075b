"""The history panel's question: an organisation's runs, newest first, page by page."""

import base64
import binascii
import hashlib
import struct
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

import sql
from schema.errors import ErrorCode, FieldError
from schema.limits import HISTORY_TOTAL_RUNS_MAX, TIME_MAX, TIME_MIN
from schema.requests import GetExportHistory
from schema.results import ExportHistory, ExportRun

from .connection import Connection
from .errors import RequestRefused
from .runs import run_of_row


class Position(NamedTuple):
    """Where a page ends: the next one starts below it."""

    created_at: datetime
    run_id: UUID


NEWEST: Final = Position(TIME_MAX, UUID(int=2**128 - 1))

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_CURSOR: Final = struct.Struct(">q16s8s")  # microseconds since the epoch, run id, checksum
_CHECKSUM_BYTES: Final = 8


async def get_export_history(connection: Connection, request: GetExportHistory) -> ExportHistory:
    """One page of runs. Raises RequestRefused (INVALID_REQUEST) for a cursor that is not one of ours.

    A cursor names the last run of its page, so runs that arrive meanwhile move no page. `total` counts what
    the filters let through, on all pages.
    """
    start = NEWEST if request.cursor is None else decode_cursor(request.cursor, request.org_id)
    times = request.created_from or TIME_MIN, request.created_to or TIME_MAX
    filters = request.status, request.target_system, request.include_deleted
    rows = await connection.fetch(
        sql.query("list_history"),
        request.org_id,
        *start,
        *times,
        *filters,
        request.limit + 1,  # one more tells whether there is a next page
        request.offset or 0,
    )
    total = await connection.fetchval(
        sql.query("count_history"), request.org_id, *times, *filters, HISTORY_TOTAL_RUNS_MAX + 1
    )
    runs = [run_of_row(ExportRun, row) for row in rows[: request.limit]]
    has_next = len(rows) > request.limit
    return ExportHistory(
        runs=runs,
        next_cursor=encode_cursor(runs[-1], request.org_id) if has_next else None,
        total=total if total <= HISTORY_TOTAL_RUNS_MAX else None,
    )


def encode_cursor(last: ExportRun, scope: str) -> str:
    """The cursor of the page that ends with a run. `scope` is what the list is of: the organisation."""
    position = Position(last.created_at, last.run_id)
    microseconds = (position.created_at - _EPOCH) // _MICROSECOND
    packed = _CURSOR.pack(microseconds, position.run_id.bytes, _checksum(position, scope))
    return _encode(packed)


def decode_cursor(cursor: str, scope: str) -> Position:
    """Where a cursor points. Raises RequestRefused (INVALID_REQUEST).

    The checksum finds accidents, another organisation's cursor among them. It keeps no secret: whoever forges
    one sees only runs of the organisation that the request names.
    """
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        microseconds, run_id, checksum = _CURSOR.unpack(packed)
        position = Position(_EPOCH + microseconds * _MICROSECOND, UUID(bytes=run_id))
    except (binascii.Error, struct.error, ValueError, OverflowError):
        raise _not_a_cursor() from None
    if checksum != _checksum(position, scope) or cursor != _encode(packed):
        raise _not_a_cursor()
    return position


def _encode(packed: bytes) -> str:
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def _checksum(position: Position, scope: str) -> bytes:
    text = f"{position.created_at.isoformat()} {position.run_id} {scope}"
    return hashlib.blake2b(text.encode(), digest_size=_CHECKSUM_BYTES).digest()


def _not_a_cursor() -> RequestRefused:
    return RequestRefused(
        ErrorCode.INVALID_REQUEST,
        "the request is not valid",
        FieldError(field="cursor", message="is not a nextCursor of this list"),
    )
