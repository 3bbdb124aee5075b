"""Store events: append them to the log and merge them into the runs (DESIGN section 3).

The merge itself is SQL (`merge_*.sql`). It is commutative, associative and idempotent, so it does not matter
in which order, how often or in which batches events arrive. A batch is stored whole or not at all.

Everyone takes locks in one order (see locking), so writers never wait for each other in a circle.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar
from uuid import UUID

from asyncpg import Record

import sql
from schema.errors import DeadLetterCode
from schema.events import (
    RUN_CREATED,
    RUN_FINISHED,
    ClaimOutcome,
    CreatedFacts,
    FinishedFacts,
    RunCreated,
    RunFinished,
    RunStatus,
)
from schema.limits import ERROR_DETAIL_STORED_CHARS_MAX

from .connection import Connection
from .double_exports import record_double_exports
from .errors import EventRefused
from .event_log import Origin
from .locking import SEPARATOR, lock_runs_and_claims
from .reservations import free_leases

Event = TypeVar("Event", RunCreated, RunFinished)

DIGEST_BYTES = 16

ClaimOutcomes: TypeAlias = dict[str, tuple[ClaimOutcome, str | None]]
"""What became of each claim of a run, and why it was skipped if it was."""

ClaimGroup: TypeAlias = tuple[UUID, str, ClaimOutcome, str, str | None]
"""Claims of a run that had one outcome: run, organisation, outcome, claims, reasons; the last two as one text each."""


async def store_created(connection: Connection, events: Sequence[RunCreated]) -> None:
    """Store a batch of run-created events. Raises EventRefused, and then has stored none of them."""
    async with connection.transaction():
        await merge_created(connection, events, "event")


async def store_finished(connection: Connection, events: Sequence[RunFinished]) -> None:
    """Store a batch of run-finished events. Raises EventRefused, and then has stored none of them."""
    async with connection.transaction():
        await merge_finished(connection, events, "event")


async def merge_created(connection: Connection, events: Sequence[RunCreated], origin: Origin) -> None:
    """Log and merge run-created events inside the caller's transaction. Raises EventRefused."""
    for one_a_run in _rounds(await _append_to_log(connection, events, RUN_CREATED, origin)):
        merged = await connection.fetch(
            sql.query("merge_created"),
            *_columns(
                (
                    event.run_id,
                    event.org_id,
                    event.occurred_at,
                    event.event_id,
                    created_digest(event),
                    event.triggered_by,
                    event.format,
                    event.target_system,
                    event.period_start,
                    event.period_end,
                    event.retry_of_run_id,
                    event.override and event.override.reason,
                    event.override and event.override.approved_by,
                )
                for event in one_a_run
            ),
        )
        _check_all_merged(one_a_run, merged)


async def merge_finished(connection: Connection, events: Sequence[RunFinished], origin: Origin) -> None:
    """Log and merge run-finished events inside the caller's transaction. Raises EventRefused.

    A run that has ended holds no leases any more, and a claim that it exported as another has is a double export.
    """
    new = await _append_to_log(connection, events, RUN_FINISHED, origin)
    if not new:
        return
    outcomes = {event.event_id: claim_outcomes(event) for event in new}
    carried = [_carried(event, outcomes[event.event_id]) for event in new if event.status != RunStatus.FAILED]
    await lock_runs_and_claims(
        connection,
        [event.run_id for event in new],
        [(event.org_id, outcomes[event.event_id]) for event in new],
    )
    # Before the claims are written, the index alone tells who else has them: a fifth faster.
    await record_double_exports(connection, carried, new)
    holders: set[tuple[UUID, str]] = set()
    for one_a_run in _rounds(new):
        merged = await connection.fetch(
            sql.query("merge_finished"),
            *_columns(_finished_row(event, outcomes[event.event_id]) for event in one_a_run),
        )
        _check_all_merged(one_a_run, merged)
        groups = [group for event in one_a_run for group in _claim_groups(event, outcomes[event.event_id])]
        await _merge_claims(connection, groups, {row["run_id"] for row in merged if row["had_claims"]})
        # Events that name the same claims give the same counts, and only conflicting ones name others.
        if conflicting := [row["run_id"] for row in merged if row["has_conflict"]]:
            await connection.execute(sql.query("recount_claims"), conflicting)
        holders |= {(row["run_id"], row["org_id"]) for row in merged if row["had_leases"]}
    if _share_claims(new, outcomes):
        await record_double_exports(connection, carried, [])
    if holders:
        await free_leases(connection, holders)


def _carried(event: RunFinished, claims: ClaimOutcomes) -> tuple[UUID, str, str]:
    """What a run exported: run, organisation, claims as one text."""
    exported = dict.fromkeys(event.claim_ids) if event.skipped_claims else claims
    return event.run_id, event.org_id, SEPARATOR.join(exported)


def _share_claims(events: Sequence[RunFinished], outcomes: Mapping[UUID, ClaimOutcomes]) -> bool:
    """Whether two events of a batch name the same claim of an organisation."""
    claims: dict[str, set[str]] = {}
    for event in events:
        claims.setdefault(event.org_id, set()).update(outcomes[event.event_id])
    return sum(map(len, claims.values())) < sum(map(len, outcomes.values()))


def _finished_row(event: RunFinished, claims: ClaimOutcomes) -> tuple[object, ...]:
    skipped = sum(outcome is ClaimOutcome.SKIPPED for outcome, _ in claims.values()) if event.skipped_claims else 0
    return (
        event.run_id,
        event.org_id,
        event.status,
        event.occurred_at,
        event.event_id,
        finished_digest(event),
        event.error and event.error.code,
        event.error and event.error.detail[:ERROR_DETAIL_STORED_CHARS_MAX],
        event.artifact and event.artifact.key,
        event.artifact and event.artifact.sha256,
        event.artifact and event.artifact.size_bytes,
        event.external_ack_id,
        len(claims) - skipped,
        skipped,
    )


async def _merge_claims(connection: Connection, groups: Sequence[ClaimGroup], had_claims: Collection[UUID]) -> None:
    """Write the claims of runs that this transaction has locked.

    A run that had none, which is the rule, needs no merge: to insert them plainly costs a third less.
    """
    if new := [group for group in groups if group[0] not in had_claims]:
        await connection.execute(sql.query("insert_claims"), *_columns(new))
    if old := [group for group in groups if group[0] in had_claims]:
        await connection.execute(sql.query("merge_claims"), *_columns(old))


def _claim_groups(event: RunFinished, claims: ClaimOutcomes) -> Iterator[ClaimGroup]:
    if claims and not event.skipped_claims:  # the rule, and worth not looking at each claim
        [(outcome, _)] = set(claims.values())
        yield event.run_id, event.org_id, outcome, SEPARATOR.join(claims), None
        return
    groups: dict[tuple[ClaimOutcome, bool], list[str]] = {}
    for claim_id, (outcome, reason) in claims.items():
        groups.setdefault((outcome, reason is None), []).append(claim_id)
    for (outcome, unexplained), claim_ids in groups.items():
        reasons = None if unexplained else SEPARATOR.join(str(claims[claim_id][1]) for claim_id in claim_ids)
        yield event.run_id, event.org_id, outcome, SEPARATOR.join(claim_ids), reasons


def created_digest(facts: CreatedFacts) -> bytes:
    """What run-created says of a run, as 16 bytes: events with different digests contradict each other."""
    return _digest(facts.model_dump_json(include=set(CreatedFacts.model_fields)))


def finished_digest(facts: FinishedFacts) -> bytes:
    """What run-finished says of a run, as 16 bytes; the order and repetition of claims say nothing."""
    claims: Sequence[object] = sorted(set(facts.claim_ids))
    if facts.skipped_claims:
        claims = sorted([claim_id, *what] for claim_id, what in claim_outcomes(facts).items())
    others = (
        facts.error and (facts.error.code, facts.error.detail),
        facts.artifact and (facts.artifact.key, facts.artifact.sha256, facts.artifact.size_bytes),
        facts.external_ack_id,
    )
    return _digest(json.dumps([facts.status, others, claims]))


def claim_outcomes(facts: FinishedFacts) -> ClaimOutcomes:
    """What became of each claim of a run, once each, and why it was skipped if it was.

    A claim that is listed as skipped and as exported was exported; one that is listed as skipped and as
    attempted was skipped.
    """
    carried = ClaimOutcome.ATTEMPTED if facts.status == RunStatus.FAILED else ClaimOutcome.EXPORTED
    outcomes: ClaimOutcomes = dict.fromkeys(facts.claim_ids, (carried, None))
    for skipped in sorted(facts.skipped_claims, key=lambda skipped: skipped.reason, reverse=True):
        listed, _ = outcomes.get(skipped.claim_id, (ClaimOutcome.ATTEMPTED, None))
        outcome = listed if listed is ClaimOutcome.EXPORTED else ClaimOutcome.SKIPPED
        outcomes[skipped.claim_id] = (outcome, skipped.reason)
    return outcomes


async def _append_to_log(
    connection: Connection, events: Sequence[Event], event_type: str, origin: Origin
) -> list[Event]:
    """Append events to the log; returns those it did not hold. Raises EventRefused for a reused eventId."""
    by_id: dict[UUID, Event] = {}
    for event in events:
        first = by_id.setdefault(event.event_id, event)
        if first is not event and not _same_json(first.payload, event.payload):
            raise _event_id_reused(event.event_id)
    columns = _columns(
        (event.event_id, event.run_id, event.org_id, event.occurred_at, event.payload) for event in by_id.values()
    )
    ids, *others = columns
    rows = await connection.fetch(sql.query("insert_events"), ids, event_type, origin, *others)
    new = {row["event_id"] for row in rows}
    if len(new) < len(by_id):
        known = [(event.event_id, event.payload) for event in by_id.values() if event.event_id not in new]
        differing = await connection.fetch(sql.query("find_reused_event_ids"), *_columns(known), event_type)
        for row in differing:
            if row["event_type"] != event_type or not _same_json(row["logged_payload"], row["payload"]):
                raise _event_id_reused(row["event_id"])
    return [event for event_id, event in by_id.items() if event_id in new]


def _event_id_reused(event_id: UUID) -> EventRefused:
    return EventRefused(DeadLetterCode.EVENT_ID_REUSED, f"eventId: another event is stored under {event_id}")


def _check_all_merged(events: Iterable[RunCreated | RunFinished], merged: Sequence[Record]) -> None:
    """The merge leaves runs of other organisations alone. Raises EventRefused if there was one."""
    done = {row["run_id"] for row in merged}
    for event in events:
        if event.run_id not in done:
            raise _run_of_other_organisation(event.run_id)


def _run_of_other_organisation(run_id: UUID) -> EventRefused:
    return EventRefused(DeadLetterCode.RUN_OF_OTHER_ORGANISATION, f"runId: {run_id} belongs to another organisation")


def _rounds(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Split a batch so that each part has at most one event a run: a statement updates a row only once.

    Nearly always that is one part.
    """
    remaining = list(events)
    while remaining:
        first_of_run: dict[UUID, Event] = {}
        later = [event for event in remaining if first_of_run.setdefault(event.run_id, event) is not event]
        yield list(first_of_run.values())
        remaining = later


def _columns(rows: Iterable[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Rows to columns: PostgreSQL's unnest takes one array a column. There must be a row."""
    return list(zip(*rows, strict=True))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def _same_json(one: str, other: str) -> bool:
    """Whether two JSON texts say the same; white space and the order of members do not matter."""
    return one == other or _canonical(one) == _canonical(other)


def _canonical(text: str) -> str:
    # Floats by their digits: as floats, 1e200000 and 2e200000 would be the same.
    return json.dumps(json.loads(text, parse_float="float {}".format), sort_keys=True)
