"""Store events: append them to the log and merge them into the runs (docs/MERGE_RULES.md).

The merge itself is SQL (`merge_*.sql`). It is commutative, associative and idempotent, so it does not matter
in which order, how often or in which batches events arrive. A batch is stored whole or not at all.

All writers take their locks in one order (handlers/locking.py), so they never wait for each other in a circle.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Record

import sql
from schema.errors import DeadLetterCode
from schema.events import (
    ClaimOutcome,
    RunCreated,
    RunFinished,
    RunStatus,
)
from schema.fields import shortened
from schema.limits import ERROR_DETAIL_STORED_CHARS_MAX
from sql.connection import Connection

from .claim_details import details_contradict, store_claim_details, totals_disagree, totals_to_json
from .claim_outcomes import ClaimOutcomes, claim_outcomes
from .digests import created_digest, finished_digest
from .double_exports import FoundDoubleExports
from .errors import EventRefused
from .event_log import Event, EventType, log_events
from .former_digests import renew_digests
from .query_arguments import (
    ClaimGroup,
    CreatedRow,
    FinishedRow,
    Origin,
    RunKey,
    column_arrays,
    joined,
)
from .reservations import free_leases

NO_GROUPS: Final = ((),) * len(ClaimGroup._fields)
"""The columns of no claims."""


async def merge_created(connection: Connection, events: Sequence[RunCreated], origin: Origin = "event") -> None:
    """Log and merge run-created events inside the caller's transaction. Raises EventRefused."""
    new = await log_events(connection, EventType.RUN_CREATED, origin, events)
    await _check_repeats(connection, events, new)
    await check_merged(connection, await merge_logged_created(connection, new))


async def merge_logged_created(connection: Connection, events: Sequence[RunCreated]) -> list[RunCreated]:
    """Merge run-created events that are in the log, inside the caller's transaction.

    Returns those that were not merged: their run was purged, or belongs to another organisation.
    """
    refused: list[RunCreated] = []
    for part in _parts_of_distinct_runs(events):
        merged = await connection.fetch(
            sql.query("merge_created"), *column_arrays(_created_row(event) for event in part)
        )
        refused += _not_merged(part, merged)
    return refused


async def merge_finished(connection: Connection, events: Sequence[RunFinished], origin: Origin = "event") -> None:
    """Log and merge run-finished events inside the caller's transaction. Raises EventRefused.

    A run that has ended holds no leases any more. A claim that it exported although another run had is a double export.
    """
    outcomes = {event.event_id: claim_outcomes(event) for event in events}
    # Locked before they get their places in the log: of two events that meet, the first to take effect is first there.
    claims = ((event.org_id, outcomes[event.event_id]) for event in events)
    new = await log_events(connection, EventType.RUN_FINISHED, origin, events, claims)
    await _check_repeats(connection, events, new)
    if new:
        await check_merged(connection, await merge_logged_finished(connection, new, outcomes))


async def merge_logged_finished(
    connection: Connection,
    new: Sequence[RunFinished],
    outcomes: Mapping[UUID, ClaimOutcomes],
    joined_at: Mapping[RunKey, datetime] | None = None,
) -> list[RunFinished]:
    """Merge run-finished events that are in the log, inside the caller's transaction.

    `outcomes` are those of the claims of each event, by its id. The caller has locked their runs and claims. Where the
    log is replayed, `joined_at` says when the event of each run took effect, and double exports have no alert.

    Returns those that were not merged: their run was purged, or belongs to another organisation.
    """
    exports = {event.event_id: _exported_claims(event, outcomes[event.event_id]) for event in new}
    double_exports = FoundDoubleExports()
    holders: set[RunKey] = set()
    refused: list[RunFinished] = []
    for part in _independent_parts(new, exports):
        # Before the claims are written: the index alone tells then who else has exported them.
        await double_exports.look_for(
            connection, [(event.run_id, event.org_id, exports[event.event_id]) for event in part]
        )
        groups = [group for event in part for group in _claim_groups(event, outcomes[event.event_id])]
        merged = await connection.fetch(
            sql.query("merge_finished"),
            *column_arrays(_finished_row(event, outcomes[event.event_id]) for event in part),
            *(column_arrays(groups) if groups else NO_GROUPS),
        )
        refused += _not_merged(part, merged)
        run_ids = {row["run_id"] for row in merged}
        had_claims = {row["run_id"] for row in merged if row["had_claims"]}
        if old := [group for group in groups if group.run_id in had_claims]:
            await connection.execute(sql.query("merge_claims"), *column_arrays(old))
        await store_claim_details(connection, [event for event in part if event.run_id in run_ids], outcomes)
        former = [RunKey(row["run_id"], row["org_id"]) for row in merged if row["has_former_digest"]]
        await renew_digests(connection, former)
        # Events that name the same claims give the same counts, and only conflicting events name different claims.
        conflicting = [row["run_id"] for row in merged if row["has_conflict"] or row["has_former_digest"]]
        if conflicting:
            await connection.execute(sql.query("recount_claims"), conflicting)
        holders |= {RunKey(row["run_id"], row["org_id"]) for row in merged if row["had_leases"]}
    await double_exports.record(connection, new, joined_at)
    if holders:
        await free_leases(connection, holders)
    return refused


def _exported_claims(event: RunFinished, outcomes: ClaimOutcomes) -> Collection[str]:
    if event.status == RunStatus.FAILED:
        return ()
    return dict.fromkeys(event.claim_ids) if event.skipped_claims else outcomes


def _independent_parts(
    events: Sequence[RunFinished], exports: Mapping[UUID, Collection[str]]
) -> list[list[RunFinished]]:
    """Split a batch into parts in which no run has two events, and no claim of an organisation is exported twice.

    So each event meets what earlier ones of the batch have written, as if it had been stored alone. Nearly always there
    is one part.
    """
    claims: dict[str, set[str]] = {}
    for event in events:
        claims.setdefault(event.org_id, set()).update(exports[event.event_id])
    are_distinct = sum(map(len, claims.values())) == sum(map(len, exports.values()))
    if are_distinct and len({event.run_id for event in events}) == len(events):
        return [list(events)]
    parts: list[list[RunFinished]] = []
    next_part: dict[object, int] = {}
    for event in events:
        keys = [event.run_id, *((event.org_id, claim_id) for claim_id in exports[event.event_id])]
        number = max(next_part.get(key, 0) for key in keys)
        next_part.update(dict.fromkeys(keys, number + 1))
        if number == len(parts):
            parts.append([])
        parts[number].append(event)
    return parts


def _created_row(event: RunCreated) -> CreatedRow:
    return CreatedRow(
        run_id=event.run_id,
        org_id=event.org_id,
        created_at=event.occurred_at,
        created_event_id=event.event_id,
        created_digest=created_digest(event),
        triggered_by=event.triggered_by,
        format=event.format,
        target_system=event.target_system,
        period_start=event.period_start,
        period_end=event.period_end,
        retry_of_run_id=event.retry_of_run_id,
        override_reason=event.override.reason if event.override else None,
        override_approved_by=event.override.approved_by if event.override else None,
        trigger=event.trigger,
        scope=event.scope,
        imported=bool(event.imported),
    )


def _finished_row(event: RunFinished, outcomes: ClaimOutcomes) -> FinishedRow:
    skipped = sum(outcome is ClaimOutcome.SKIPPED for outcome, _ in outcomes.values()) if event.skipped_claims else 0
    error, artifact = event.error, event.artifact
    return FinishedRow(
        run_id=event.run_id,
        org_id=event.org_id,
        status=event.status,
        finished_at=event.occurred_at,
        finished_event_id=event.event_id,
        finished_digest=finished_digest(event),
        error_code=error.code if error else None,
        error_detail=shortened(error.detail, ERROR_DETAIL_STORED_CHARS_MAX) if error else None,
        artifact_key=artifact.key if artifact else None,
        artifact_sha256=artifact.sha256 if artifact else None,
        artifact_size_bytes=artifact.size_bytes if artifact else None,
        external_ack_id=event.external_ack_id,
        claim_count=len(outcomes) - skipped,
        skipped_count=skipped,
        totals=totals_to_json(event),
        totals_disagree=totals_disagree(event),
        has_conflict=details_contradict(event, outcomes),
        imported=bool(event.imported),
    )


def _claim_groups(event: RunFinished, outcomes: ClaimOutcomes) -> Iterator[ClaimGroup]:
    if outcomes and not event.skipped_claims:  # nearly always, and it saves a look at each claim
        [(outcome, _)] = set(outcomes.values())
        yield ClaimGroup(event.run_id, event.org_id, outcome, joined(outcomes), None)
        return
    groups: dict[tuple[ClaimOutcome, bool], list[str]] = {}
    for claim_id, (outcome, reason) in outcomes.items():
        groups.setdefault((outcome, reason is None), []).append(claim_id)
    for (outcome, no_reason), claim_ids in groups.items():
        skip_reasons = None if no_reason else joined(str(outcomes[claim_id][1]) for claim_id in claim_ids)
        yield ClaimGroup(event.run_id, event.org_id, outcome, joined(claim_ids), skip_reasons)


async def _check_repeats(connection: Connection, events: Sequence[Event], new: Sequence[Event]) -> None:
    """Raises EventRefused for an event of a purged run that the log has: to drop it would say that it is stored."""
    if len(new) == len(events):
        return
    new_ids = {event.event_id for event in new}
    run_ids = {event.run_id for event in events if event.event_id not in new_ids}
    for row in await connection.fetch(sql.query("find_purged_runs"), list(run_ids)):
        raise _run_purged(row["run_id"])


def _not_merged(events: Sequence[Event], merged: Sequence[Record]) -> list[Event]:
    """The merge returns no run of another organisation, and none that was purged."""
    run_ids = {row["run_id"] for row in merged}
    return [event for event in events if event.run_id not in run_ids]


async def check_merged(connection: Connection, refused: Sequence[RunCreated | RunFinished]) -> None:
    """Raise EventRefused for the first of the events that could not be merged, if there are any."""
    for event in refused:
        run = await connection.fetchrow(sql.query("get_run_state"), event.run_id)
        if run is not None and run["org_id"] == event.org_id and run["purged_at"] is not None:
            raise _run_purged(event.run_id)
        raise _run_of_other_organisation(event.run_id)


def _run_of_other_organisation(run_id: UUID) -> EventRefused:
    return EventRefused(DeadLetterCode.RUN_OF_OTHER_ORGANISATION, f"runId: {run_id} belongs to another organisation")


def _run_purged(run_id: UUID) -> EventRefused:
    return EventRefused(DeadLetterCode.RUN_PURGED, f"runId: {run_id} was purged")


def _parts_of_distinct_runs(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Split a batch into parts in which no run has two events: one statement can update a row only once.

    Nearly always there is one part.
    """
    remaining = list(events)
    while remaining:
        first_of_run: dict[UUID, Event] = {}
        later = [event for event in remaining if first_of_run.setdefault(event.run_id, event) is not event]
        yield list(first_of_run.values())
        remaining = later
