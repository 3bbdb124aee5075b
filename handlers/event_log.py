"""The event log: every event and every accepted write, once, as it was received. Nothing else writes to it."""

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TypeVar
from uuid import UUID, uuid4

import sql
from schema import events
from schema.errors import DeadLetterCode
from schema.events import RunCreated, RunFinished
from sql.connection import Connection

from .errors import EventRefused
from .event_meaning import is_same_event
from .locking import ClaimsToLock, claim_columns
from .query_arguments import LogEntry, LoggedPayload, Origin, column_arrays

Event = TypeVar("Event", RunCreated, RunFinished)


class EventType(StrEnum):
    """The type of a log entry. Exporters publish the first two; only the log knows the others."""

    RUN_CREATED = events.RUN_CREATED
    RUN_FINISHED = events.RUN_FINISHED
    RUN_DELETED = "run-deleted"
    RUN_PURGED = "run-purged"
    RUN_UNPURGED = "run-unpurged"
    CLAIMS_TAKEN = "claims-taken"
    """Claims were granted to a run although another run had exported or leased them."""

    OVERRIDES_WITHDRAWN = "overrides-withdrawn"
    """A run gave claims back that it could have exported although another run had."""

    DOUBLE_EXPORT_RESOLVED = "double-export-resolved"
    EXPORT_REVERSED = "export-reversed"
    """Exports of a run were taken back."""

    DEAD_LETTER_DISCARDED = "dead-letter-discarded"


async def append(
    connection: Connection, event_type: EventType, entries: Sequence[LogEntry], claims: Iterable[ClaimsToLock] = ()
) -> set[UUID]:
    """Append entries whose ids the log does not hold yet; returns the ids of those. There must be an entry.

    Their runs are locked before, and then these claims.
    """
    rows = await connection.fetch(
        sql.query("insert_events"), event_type, *column_arrays(entries), *claim_columns(claims)
    )
    return {row["event_id"] for row in rows}


async def log_write(
    connection: Connection,
    event_type: EventType,
    origin: Origin,
    run_id: UUID | None,
    org_id: str,
    occurred_at: datetime,
    payload: str,
) -> UUID:
    """Append a write that no exporter publishes, inside the caller's transaction; returns the id of the entry.

    `payload` is JSON.
    """
    event_id = uuid4()
    await append(connection, event_type, [LogEntry(event_id, origin, run_id, org_id, occurred_at, payload)])
    return event_id


async def log_events(
    connection: Connection,
    event_type: EventType,
    origin: Origin,
    batch: Sequence[Event],
    claims: Iterable[ClaimsToLock] = (),
) -> list[Event]:
    """Append events, inside the caller's transaction; returns those that the log did not hold.

    Their runs are locked before, and then these claims. Imported ones are logged with an origin of their own.

    Raises EventRefused (EVENT_ID_REUSED) where an `eventId` stands for two events. There must be an event.
    """
    by_id: dict[UUID, Event] = {}
    for event in batch:
        first = by_id.setdefault(event.event_id, event)
        if first is not event and not is_same_event(type(event), first.payload, event.payload):
            raise _event_id_reused(event.event_id)
    entries = [
        LogEntry(
            event.event_id,
            "import" if event.imported else origin,
            event.run_id,
            event.org_id,
            event.occurred_at,
            event.payload,
        )
        for event in by_id.values()
    ]
    new_ids = await append(connection, event_type, entries, claims)
    if len(new_ids) < len(by_id):
        repeats = [LoggedPayload(entry.event_id, entry.payload) for entry in entries if entry.event_id not in new_ids]
        await _check_same_events(connection, event_type, type(batch[0]), repeats)
    return [event for event_id, event in by_id.items() if event_id in new_ids]


async def logged_writes(connection: Connection, run_id: UUID, org_id: str, event_type: EventType) -> AsyncIterator[str]:
    """The JSON of the requests of one kind that were accepted for a run, the newest 100, the newest first.

    They are read one at a time: each may have 4 MiB.
    """
    for row in await connection.fetch(sql.query("list_logged_writes"), run_id, org_id, event_type):
        yield await connection.fetchval(sql.query("get_log_payload"), row["event_id"])


async def _check_same_events(
    connection: Connection, event_type: EventType, model: type[Event], repeats: Sequence[LoggedPayload]
) -> None:
    rows = await connection.fetch(sql.query("find_reused_event_ids"), *column_arrays(repeats), event_type)
    for row in rows:
        if row["event_type"] != event_type or not is_same_event(model, row["logged_payload"], row["payload"]):
            raise _event_id_reused(row["event_id"])


def _event_id_reused(event_id: UUID) -> EventRefused:
    return EventRefused(DeadLetterCode.EVENT_ID_REUSED, f"eventId: another event is stored under {event_id}")
