"""Cursors: where a page of a list ended, as a text that the caller hands back to get the next page."""

import base64
import hashlib
import struct
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from schema.fields import WireModel
from schema.limits import TIME_MAX, TIME_MIN

from .errors import RequestRefused, invalid


class Position(NamedTuple):
    """The last item of a page, by the key that its list is sorted by: the next page starts right after it."""

    created_at: datetime
    run_id: UUID


class Bookmark(NamedTuple):
    """Where the pages of a list go on, and the time when the first of them was asked for.

    A list whose order depends on the clock keeps the order of its first page to the end.
    """

    position: Position
    as_of: datetime


OLDEST: Final = Position(TIME_MIN, UUID(int=0))
NEWEST: Final = Position(TIME_MAX, UUID(int=2**128 - 1))

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_CURSOR: Final = struct.Struct(">qq16s8s")  # both times in microseconds since the epoch, run id, checksum
_CHECKSUM_BYTES: Final = 8


def scope_of(request: WireModel) -> str:
    """Which list a request asks a page of: its kind and its filters. A page may have another size than the one before.

    What a request leaves out is left out here, too: a new optional filter does not end the lists of today.
    """
    filters = request.model_dump_json(exclude={"limit", "offset", "cursor"}, exclude_defaults=True)
    return f"{type(request).__name__} {filters}"


def encode_cursor(bookmark: Bookmark, scope: str) -> str:
    """The cursor that leads to a bookmark. `scope` says which list it is a page of."""
    position, as_of = bookmark
    times = _microseconds(position.created_at), _microseconds(as_of)
    return _encode(_CURSOR.pack(*times, position.run_id.bytes, _checksum(bookmark, scope)))


def decode_cursor(cursor: str, scope: str) -> Bookmark:
    """The bookmark that a cursor of this list leads to. Raises RequestRefused (INVALID_REQUEST) for any other text.

    The checksum finds accidents, for example a cursor of another organisation or of other filters. It keeps no secret:
    whoever forges a cursor sees only what the organisation of the request owns.
    """
    packed = _decode(cursor)
    try:
        created_at, as_of, run_id, checksum = _CURSOR.unpack(packed)
        bookmark = Bookmark(Position(_time(created_at), UUID(bytes=run_id)), _time(as_of))
    except (struct.error, ValueError, OverflowError):
        raise _not_a_cursor() from None
    if checksum != _checksum(bookmark, scope):
        raise _not_a_cursor()
    return bookmark


def encode_claim_cursor(claim_id: str, scope: str) -> str:
    """The cursor of a page that ends at a claim, of a list that is sorted by claim ids."""
    return _encode(_claim_checksum(claim_id, scope) + claim_id.encode())


def decode_claim_cursor(cursor: str, scope: str) -> str:
    """The claim that a cursor of this list stands for. Raises RequestRefused (INVALID_REQUEST) for any other text."""
    packed = _decode(cursor)
    try:
        claim_id = packed[_CHECKSUM_BYTES:].decode()
    except UnicodeDecodeError:
        raise _not_a_cursor() from None
    if packed[:_CHECKSUM_BYTES] != _claim_checksum(claim_id, scope) or "\0" in claim_id:
        raise _not_a_cursor()
    return claim_id


def _not_a_cursor() -> RequestRefused:
    """INVALID_REQUEST: the text is no cursor of the list."""
    return invalid("cursor", "is not a nextCursor of this list with these filters")


def _encode(packed: bytes) -> str:
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def _decode(cursor: str) -> bytes:
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise _not_a_cursor() from None
    if cursor != _encode(packed):
        raise _not_a_cursor()
    return packed


def _checksum(bookmark: Bookmark, scope: str) -> bytes:
    (created_at, run_id), as_of = bookmark
    return _digest(f"{created_at.isoformat()} {run_id} {as_of.isoformat()} {scope}")


def _claim_checksum(claim_id: str, scope: str) -> bytes:
    return _digest(f"{claim_id}\n{scope}")


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_CHECKSUM_BYTES).digest()


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def _time(microseconds: int) -> datetime:
    time = _EPOCH + microseconds * _MICROSECOND
    if not TIME_MIN <= time <= TIME_MAX:
        raise ValueError("out of range")
    return time
