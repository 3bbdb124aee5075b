"""What the log says of one claim, entry by entry.

An entry may name 50,000 claims in 4 MiB. So entries are read one by one, and a page ends when so much of them was read
that others would have to wait.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias, assert_never
from uuid import UUID

from asyncpg import Record

import sql
from schema.claim_ids import canonical_claim_id
from schema.decoding import InvalidBody, decode
from schema.events import ClaimOutcome, FinishedFacts, RunCreated, RunFinished, RunStatus
from schema.limits import TIMELINE_PAGE_BYTES_MAX, TIMELINE_RUNS_MAX
from schema.requests import CreateExportRun, DeleteExportRun, ExplainClaim, UpdateExportRunStatus
from schema.results import TimelineEntry
from sql.connection import Connection

from .claim_outcomes import claim_outcomes
from .cursors import Position
from .event_log import EventType
from .query_arguments import PUBLISHED, ClaimLogPage

ENDS_READ_MAX: Final = 20
"""Of a run of which events disagree, so many ends are read to find the one that did something with a claim."""

Statements: TypeAlias = dict[str, Any]
"""What an entry says of a claim: fields of TimelineEntry."""


async def timeline_page(
    connection: Connection, request: ExplainClaim, start: Position
) -> tuple[list[TimelineEntry], Position | None]:
    """The entries after one of them, in the order of the log, and the last of these; None if there are no more.

    The entry after which the page starts is named by its id in the place of a run's.
    """
    page = ClaimLogPage(
        org_id=request.org_id,
        claim_id=request.claim_id,
        after_event_id=start.run_id,
        limit=request.limit + 1,  # one more tells whether there is a next page
    )
    rows = await connection.fetch(sql.query("list_log_of_claim"), *page)
    timeline: list[TimelineEntry] = []
    bytes_read = 0
    for row in rows[: request.limit]:
        payload = await _payload(connection, row)
        bytes_read += len(payload)
        if timeline and bytes_read > TIMELINE_PAGE_BYTES_MAX:
            break
        timeline.append(_entry(row, payload, request.claim_id))
    if len(timeline) == len(rows):
        return timeline, None
    return timeline, Position(timeline[-1].received_at, timeline[-1].event_id)


async def end_of_run(
    connection: Connection, request: ExplainClaim, run_id: UUID, outcome: ClaimOutcome
) -> TimelineEntry | None:
    """The earliest end of a run that gave the claim this outcome; None if the first few did not."""
    rows = await connection.fetch(sql.query("list_ends_of_run"), run_id, request.org_id, ENDS_READ_MAX)
    bytes_read = 0
    for row in rows:
        payload = await _payload(connection, row)
        bytes_read += len(payload)
        entry = _entry(row, payload, request.claim_id)
        if entry.outcome is outcome:
            return entry
        if bytes_read > TIMELINE_PAGE_BYTES_MAX:
            break
    return None


async def _payload(connection: Connection, row: Record) -> bytes:
    payload: str = await connection.fetchval(sql.query("get_log_payload"), row["event_id"])
    return payload.encode()


def _entry(row: Record, payload: bytes, claim_id: str) -> TimelineEntry:
    statements: Statements = {}
    with suppress(InvalidBody, LookupError, TypeError, ValueError):  # another version wrote what this one cannot read
        statements = _statements(EventType(row["event_type"]), row["origin"], payload, claim_id)
    return TimelineEntry(
        event_id=row["event_id"],
        event_type=row["event_type"],
        origin=row["origin"],
        run_id=row["run_id"],
        occurred_at=row["occurred_at"],
        received_at=row["received_at"],
        **statements,
    )


def _statements(event_type: EventType, origin: str, payload: bytes, claim_id: str) -> Statements:
    """What an entry says of a claim. Raises InvalidBody, LookupError, TypeError or ValueError for others."""
    is_event = origin in PUBLISHED
    match event_type:
        case EventType.RUN_CREATED:
            return {"actor": decode(RunCreated if is_event else CreateExportRun, payload).triggered_by}
        case EventType.RUN_FINISHED:
            return _end(decode(RunFinished if is_event else UpdateExportRunStatus, payload), claim_id)
        case EventType.RUN_DELETED:
            deletion = decode(DeleteExportRun, payload)
            return {"actor": deletion.deleted_by, "reason": deletion.reason}
        case EventType.RUN_PURGED:
            return {"actor": json.loads(payload)["purgedBy"]}
        case EventType.RUN_UNPURGED:
            return {"actor": json.loads(payload)["unpurgedBy"]}
        case EventType.CLAIMS_TAKEN:
            return _taking(json.loads(payload), claim_id)
        case EventType.OVERRIDES_WITHDRAWN:
            return {}
        case EventType.DOUBLE_EXPORT_RESOLVED:
            resolution = json.loads(payload)
            run_ids = [UUID(run_id) for run_id in resolution["runIds"][:TIMELINE_RUNS_MAX]]
            return {"actor": resolution["resolvedBy"], "reason": resolution["note"], "other_run_ids": run_ids}
        case EventType.EXPORT_REVERSED:
            reversal = json.loads(payload)
            return {
                "actor": reversal["reversedBy"],
                "approved_by": reversal["approvedBy"],
                "reason": reversal["reason"],
                "outcome": ClaimOutcome.REVERSED,
            }
        case EventType.DEAD_LETTER_DISCARDED:
            discard = json.loads(payload)
            return {"actor": discard["discardedBy"], "reason": discard["reason"]}
        case _:
            assert_never(event_type)


def _end(end: FinishedFacts, claim_id: str) -> Statements:
    outcome, reason = claim_outcomes(end).get(claim_id, (None, None))
    return {"status": RunStatus(end.status), "outcome": outcome, "reason": reason}


def _taking(taking: Mapping[str, Any], claim_id: str) -> Statements:
    """What a grant says of a claim: exported by these runs before, or held by one."""
    earlier = [each["earlierRunId"] for each in taking["overridden"] if _is_claim(each, claim_id)]
    holders = [each["fromRunId"] for each in taking["taken"] if _is_claim(each, claim_id)]
    # Earlier versions logged no reversals.
    taken_back = [each["reversedRunId"] for each in taking.get("afterReversals", ()) if _is_claim(each, claim_id)]
    run_ids = [UUID(run_id) for run_id in dict.fromkeys([*earlier, *holders, *taken_back])]
    statements: Statements = {"other_run_ids": run_ids[:TIMELINE_RUNS_MAX]}
    if earlier and taking["override"]:
        override = taking["override"]
        statements |= {"reason": override["reason"], "approved_by": override["approvedBy"]}
    elif taken_back:
        statements["outcome"] = ClaimOutcome.REVERSED
    return statements


def _is_claim(grant: Mapping[str, Any], claim_id: str) -> bool:
    """Whether a grant is of this claim. Earlier versions logged claim ids in the spelling of the request."""
    return canonical_claim_id(grant["claimId"]) == claim_id
