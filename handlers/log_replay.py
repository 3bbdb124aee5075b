"""Make rows anew from what the log has: of one run, or of everything (docs/decisions/log-order.md)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, TypeVar, assert_never
from uuid import UUID

from asyncpg import Record
from pydantic import Field

import sql
from schema.decoding import InvalidBody, decode, parse
from schema.events import SCHEMA_VERSION, CreatedFacts, FinishedFacts, RunCreated, RunFinished
from schema.fields import ClaimId, Name, Override, Prose, WireModel
from schema.requests import CreateExportRun, DeleteExportRun, UpdateExportRunStatus
from sql.connection import Connection

from .claim_outcomes import ClaimOutcomes, claim_outcomes
from .event_log import EventType
from .events import check_merged, merge_logged_created, merge_logged_finished
from .query_arguments import (
    PUBLISHED,
    OverriddenClaim,
    OverrideGrant,
    Resolution,
    Reversal,
    ReversalGrant,
    ReversedClaim,
    RunDeletion,
    RunKey,
    column_arrays,
)
from .reversals import record_reversal

Event = TypeVar("Event", RunCreated, RunFinished)

PAGE_ENTRIES_MAX: Final = 500
PAGE_STORED_BYTES_MAX: Final = 4 * 2**20
"""As PostgreSQL stores the payloads, compressed. A page that would have more has fewer entries, but one at least."""

WAITING_ENTRIES_MAX: Final = 500
WAITING_CHARS_MAX: Final = 4 * 2**20
"""Of the payloads. When a replay has so much to merge, it merges it."""

INT64_MIN: Final = -(2**63)


@dataclass(slots=True)
class LoggedRun:
    """What the log has of a run that its row and its claims are made from."""

    created: list[RunCreated] = field(default_factory=list)
    finished: list[RunFinished] = field(default_factory=list)
    outcomes: dict[UUID, ClaimOutcomes] = field(default_factory=dict)
    """What each run-finished says of its claims, by its event id."""

    deletion: RunDeletion | None = None

    @property
    def event_count(self) -> int:
        """How many events there are."""
        return len(self.created) + len(self.finished)

    @property
    def claim_ids(self) -> set[str]:
        """All claims that the events name."""
        return {claim_id for outcomes in self.outcomes.values() for claim_id in outcomes}


async def read_logged_run(connection: Connection, run_id: UUID, org_id: str, below: int | None = None) -> LoggedRun:
    """Read what the log has of a run, all of it or what comes below a position."""
    run = LoggedRun()
    for entry in await connection.fetch(sql.query("list_log_of_run"), run_id, org_id, below):
        match EventType(entry["event_type"]):
            case EventType.RUN_CREATED:
                run.created.append(created_of_entry(entry))
            case EventType.RUN_FINISHED:
                event = finished_of_entry(entry)
                run.finished.append(event)
                run.outcomes[event.event_id] = claim_outcomes(event)
            case EventType.RUN_DELETED:
                run.deletion = deletion_of_entry(entry)
            case other:
                raise AssertionError(f"{other} says nothing of a run's row")
    return run


async def merge_logged_run(
    connection: Connection, run: LoggedRun, joined_at: Mapping[RunKey, datetime] | None = None
) -> Sequence[RunCreated | RunFinished]:
    """Merge a run into its row, which has nothing yet; returns the events that could not be merged.

    The caller holds the locks of the run and its claims. `joined_at` is that of merge_logged_finished.
    """
    refused: list[RunCreated | RunFinished] = []
    if run.created:
        refused += await merge_logged_created(connection, run.created)
    if run.finished:
        refused += await merge_logged_finished(connection, run.finished, run.outcomes, joined_at)
    if run.deletion is not None:
        await connection.execute(sql.query("delete_run"), *run.deletion)
    return refused


async def bring_back_run(connection: Connection, key: RunKey, run: LoggedRun) -> None:
    """Merge a run that was purged. Raises EventRefused for an event of it that another organisation's run refuses.

    What had been taken back of it is taken back again.
    """
    await check_merged(connection, await merge_logged_run(connection, run))
    await connection.execute(sql.query("apply_reversals"), *key)


async def remove_run(connection: Connection, run_id: UUID, purged_at: datetime) -> None:
    """Leave nothing of a run but its id, and that it was purged."""
    await connection.execute(sql.query("purge_claims"), run_id)
    await connection.execute(sql.query("purge_claim_details"), run_id)
    await connection.execute(sql.query("purge_run"), run_id, purged_at)


def created_of_entry(entry: Record) -> RunCreated:
    """The event that an entry of the type run-created was merged as. Raises InvalidBody."""
    return _event_of_entry(RunCreated, CreatedFacts, RunCreated if _is_event(entry) else CreateExportRun, entry)


def finished_of_entry(entry: Record) -> RunFinished:
    """The event that an entry of the type run-finished was merged as. Raises InvalidBody."""
    source = RunFinished if _is_event(entry) else UpdateExportRunStatus
    return _event_of_entry(RunFinished, FinishedFacts, source, entry)


def deletion_of_entry(entry: Record) -> RunDeletion:
    """What an entry of the type run-deleted did to its run. Raises InvalidBody."""
    request = decode(DeleteExportRun, entry["payload"].encode())
    return RunDeletion(entry["run_id"], entry["occurred_at"], request.deleted_by, request.reason)


def _is_event(entry: Record) -> bool:
    """Whether it was published. The others are requests that were accepted as events."""
    return entry["origin"] in PUBLISHED


def _event_of_entry(event: type[Event], facts: type[WireModel], source: type[WireModel], entry: Record) -> Event:
    body = decode(source, entry["payload"].encode())
    values: dict[str, Any] = {name: getattr(body, name) for name in facts.model_fields}
    merged: Event = event.model_construct(
        event_id=entry["event_id"],
        schema_version=SCHEMA_VERSION,
        occurred_at=entry["occurred_at"],
        run_id=entry["run_id"],
        org_id=entry["org_id"],
        imported=entry["origin"] == "import",
        **values,
    ).with_payload(entry["payload"])
    return merged


@dataclass(frozen=True, slots=True)
class LogPage:
    """Where a page of the log begins, above an entry of an organisation, and the last organisation there may be."""

    above_org_id: str
    above_position: int
    last_org_id: str

    @classmethod
    def first_of(cls, first_org_id: str, last_org_id: str) -> "LogPage":
        """The first page of some organisations, in the order of their ids."""
        return cls(first_org_id, INT64_MIN, last_org_id)

    def after(self, entry: Record) -> "LogPage":
        """The page after one whose last entry this is."""
        return replace(self, above_org_id=entry["org_id"], above_position=entry["position"])


async def read_log_page(connection: Connection, page: LogPage) -> list[Record]:
    """The entries of a page, by organisation and then in their order; none at the end."""
    rows: list[Record] = await connection.fetch(
        sql.query("list_log_page"),
        page.above_org_id,
        page.above_position,
        page.last_org_id,
        PAGE_ENTRIES_MAX,
        PAGE_STORED_BYTES_MAX,
    )
    return rows


class _Overridden(WireModel):
    claim_id: ClaimId
    earlier_run_id: UUID


class _AfterReversal(WireModel):
    claim_id: ClaimId
    reversed_run_id: UUID


class _ExportReversed(WireModel):
    claim_ids: list[ClaimId]
    of_whole_run: bool
    reason: Prose
    reversed_by: Name
    approved_by: Name
    external_reversal_id: Name | None = None


class _ClaimsTaken(WireModel):
    override: Override | None = None
    overridden: list[_Overridden] = Field(default_factory=list)
    after_reversals: list[_AfterReversal] = Field(default_factory=list)


class _OverridesWithdrawn(WireModel):
    claim_ids: list[ClaimId]


class _DoubleExportResolved(WireModel):
    claim_id: ClaimId
    resolved_by: Name
    note: Prose


@dataclass(frozen=True, slots=True)
class UnusableEntry:
    """An entry that cannot be replayed, and why."""

    event_id: UUID
    org_id: str
    reason: str


class Replay:
    """Merges entries of the log into tables that have nothing yet, by the rules by which they were merged once.

    Entries of one run, and entries that speak of one claim, come in their order. The tables are those that the
    connection finds under their names; nobody else writes to them, so no locks are taken.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting = LoggedRun()  # of any number of runs
        self._waiting_chars = 0
        self._joined_at: dict[RunKey, datetime] = {}
        self.entry_count = 0
        self.unusable: list[UnusableEntry] = []

    async def add(self, entry: Record) -> None:
        """Replay one entry: at once, or when enough wait, or when `flush` is called."""
        self.entry_count += 1
        self._waiting_chars += len(entry["payload"])
        try:
            await self._add(EventType(entry["event_type"]), entry)
        except InvalidBody as invalid:
            self.unusable.append(UnusableEntry(entry["event_id"], entry["org_id"], str(invalid)))
        if self._waiting.event_count >= WAITING_ENTRIES_MAX or self._waiting_chars >= WAITING_CHARS_MAX:
            await self.flush()

    async def flush(self) -> None:
        """Merge the events that wait. Their order does not matter, so they wait for each other."""
        waiting, self._waiting, self._waiting_chars = self._waiting, LoggedRun(), 0
        refused = await merge_logged_run(self._connection, waiting, self._joined_at)
        self._joined_at = {}
        self._note_refused(refused)

    async def _add(self, event_type: EventType, entry: Record) -> None:
        match event_type:
            case EventType.RUN_CREATED:
                self._waiting.created.append(created_of_entry(entry))
            case EventType.RUN_FINISHED:
                await self._add_finished(finished_of_entry(entry), entry["received_at"])
            case EventType.DEAD_LETTER_DISCARDED:
                pass  # it says nothing of a run
            case other:
                await self.flush()
                await self._decide(other, entry)

    async def _add_finished(self, event: RunFinished, received_at: datetime) -> None:
        run = RunKey(event.run_id, event.org_id)
        if run in self._joined_at:
            await self.flush()
        self._joined_at[run] = received_at
        self._waiting.finished.append(event)
        self._waiting.outcomes[event.event_id] = claim_outcomes(event)

    async def _decide(self, event_type: EventType, entry: Record) -> None:
        """Replay a decision: of several the last one counts."""
        run_id, org_id = entry["run_id"], entry["org_id"]
        match event_type:
            case EventType.RUN_DELETED:
                await self._connection.execute(sql.query("delete_run"), *deletion_of_entry(entry))
            case EventType.RUN_PURGED:
                await remove_run(self._connection, run_id, entry["occurred_at"])
            case EventType.RUN_UNPURGED:
                await self._connection.execute(sql.query("unpurge_run"), run_id)
                run = await read_logged_run(self._connection, run_id, org_id, entry["position"])
                self._note_refused(
                    await merge_logged_run(self._connection, run, {RunKey(run_id, org_id): entry["received_at"]})
                )
                await self._connection.execute(sql.query("apply_reversals"), run_id, org_id)
            case EventType.CLAIMS_TAKEN:
                taken = parse(_ClaimsTaken, entry["payload"].encode())
                await self._override(taken, entry)
                await self._grant_after_reversals(taken.after_reversals, entry)
            case EventType.EXPORT_REVERSED:
                await self._reverse(parse(_ExportReversed, entry["payload"].encode()), entry)
            case EventType.OVERRIDES_WITHDRAWN:
                withdrawal = parse(_OverridesWithdrawn, entry["payload"].encode())
                await self._connection.execute(sql.query("remove_overrides"), run_id, org_id, withdrawal.claim_ids)
            case EventType.DOUBLE_EXPORT_RESOLVED:
                body = parse(_DoubleExportResolved, entry["payload"].encode())
                resolution = Resolution(org_id, body.claim_id, entry["occurred_at"], body.resolved_by, body.note)
                await self._connection.execute(sql.query("resolve_double_export"), *resolution)
            case EventType.RUN_CREATED | EventType.RUN_FINISHED | EventType.DEAD_LETTER_DISCARDED:
                raise AssertionError(f"{event_type} is no decision")
            case other:
                assert_never(other)

    async def _override(self, taken: _ClaimsTaken, entry: Record) -> None:
        if taken.override is None or not taken.overridden:
            return
        grant = OverrideGrant(
            run_id=entry["run_id"],
            org_id=entry["org_id"],
            reason=taken.override.reason,
            approved_by=taken.override.approved_by,
            granted_at=entry["occurred_at"],
        )
        claims = (OverriddenClaim(each.claim_id, each.earlier_run_id) for each in taken.overridden)
        await self._connection.execute(sql.query("insert_overrides"), *grant, *column_arrays(claims))

    async def _grant_after_reversals(self, claims: Sequence[_AfterReversal], entry: Record) -> None:
        if claims:
            grant = ReversalGrant(entry["run_id"], entry["org_id"], entry["occurred_at"])
            reversed_claims = (ReversedClaim(each.claim_id, each.reversed_run_id) for each in claims)
            await self._connection.execute(sql.query("insert_reversal_grants"), *grant, *column_arrays(reversed_claims))

    async def _reverse(self, body: _ExportReversed, entry: Record) -> None:
        reversal = Reversal(
            org_id=entry["org_id"],
            event_id=entry["event_id"],
            run_id=entry["run_id"],
            of_whole_run=body.of_whole_run,
            reversed_at=entry["occurred_at"],
            reason=body.reason,
            reversed_by=body.reversed_by,
            approved_by=body.approved_by,
            external_reversal_id=body.external_reversal_id,
        )
        await record_reversal(self._connection, reversal, body.claim_ids)

    def _note_refused(self, refused: Sequence[RunCreated | RunFinished]) -> None:
        reason = "its run was purged, or belongs to another organisation"
        self.unusable += [UnusableEntry(event.event_id, event.org_id, reason) for event in refused]
