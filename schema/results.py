"""The results of requests. docs/CONTRACT.md has an example of each."""

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from operator import not_
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from .events import ClaimOutcome, RunStatus, RunTrigger
from .fields import Artifact, ControlTotal, Override, RunError, SkippedClaim, WireModel


class StoredRunError(RunError):
    """Why a run failed. A detail that was too long for the run's row ends with "…" there.

    `detail_truncated` is left out of the JSON where it is false.
    """

    detail_truncated: Annotated[bool, Field(exclude_if=not_)] = False


class ExportRun(WireModel):
    """The current state of one run.

    `created_at` is when the run started. Until its `run-created` has arrived, `created_at` is when the earliest known
    event of the run occurred, and `triggered_by` and `format` are null.

    `has_future_time`: `created_at` or `finished_at` is more than a day ahead of the worker's clock, so an exporter's
    clock is wrong. It is left out of the JSON where it is false, and becomes false by itself when the time comes.

    `totals` is left out of the JSON where there are none, `totals_disagree` and `imported` where they are false, and
    `reversed_count`, the number of claims whose export was taken back, where it is 0.
    """

    run_id: UUID
    org_id: str
    triggered_by: str | None
    format: str | None
    target_system: str | None
    period_start: date | None
    period_end: date | None
    trigger: RunTrigger | None
    scope: str | None
    status: RunStatus
    created_at: datetime
    finished_at: datetime | None
    claim_count: int
    skipped_count: int
    error: StoredRunError | None
    artifact: Artifact | None
    external_ack_id: str | None
    retry_of_run_id: UUID | None
    override: Override | None
    deleted_at: datetime | None
    deleted_by: str | None
    has_conflict: bool
    has_future_time: Annotated[bool, Field(exclude_if=not_)] = False
    totals: Annotated[list[ControlTotal], Field(exclude_if=not_)] = Field(default_factory=list)
    totals_disagree: Annotated[bool, Field(exclude_if=not_)] = False
    imported: Annotated[bool, Field(exclude_if=not_)] = False
    reversed_count: Annotated[int, Field(exclude_if=not_)] = 0


class ClaimOverride(WireModel):
    """A claim that a run may export although an earlier run exported it: who approved that, and why."""

    claim_id: str
    earlier_run_id: UUID
    reason: str
    approved_by: str
    granted_at: datetime


@dataclass(slots=True)
class RunClaimOverride:
    """An earlier export that a run was allowed to repeat: who approved that, and why."""

    __pydantic_config__ = WireModel.model_config

    earlier_run_id: UUID
    reason: str
    approved_by: str
    granted_at: datetime


@dataclass(slots=True)
class RunClaimReversal:
    """The export of a claim was taken back: when, why, by whom, and who approved it."""

    __pydantic_config__ = WireModel.model_config

    reversed_at: datetime
    reason: str
    reversed_by: str
    approved_by: str
    external_reversal_id: str | None


@dataclass(slots=True)
class RunClaim:
    """A claim of a run: what became of it, and what its exporter says of it.

    `outcome` is null for a claim that the run was granted although an earlier run exported it, and has not reported.
    `reversal` is null unless the outcome is `reversed`.
    """

    __pydantic_config__ = WireModel.model_config

    claim_id: str
    outcome: ClaimOutcome | None
    reason: str | None
    code: str | None
    voucher_id: str | None
    voucher_url: str | None
    amount: str | None
    currency: str | None
    overrides: list[RunClaimOverride]
    reversal: RunClaimReversal | None


class RunClaimsPage(WireModel):
    """A page of the claims of a run, in the order of their ids. `next_cursor` is null on the last page."""

    claims: list[RunClaim]
    next_cursor: str | None


class RunReversal(WireModel):
    """Exports of a run that were taken back together: when, why, by whom, who approved it, and how many.

    `event_id` is that of the entry in the log.
    """

    event_id: UUID
    reversed_at: datetime
    reason: str
    reversed_by: str
    approved_by: str
    external_reversal_id: str | None
    claim_count: int


class ExportRunWithClaims(ExportRun):
    """One run with the claims it exported or attempted, the claims it skipped, and the overrides it was granted.

    `reversals` are the newest 100 of its reversals, newest first. They are left out of the JSON where there are none.

    Each other list is in the order of the claim ids. Of a run with very many claims these are the first, and
    `claims_next_cursor` leads to the others by `list-run-claims`; it is left out of the JSON where there are none.
    """

    claim_ids: list[str]
    skipped_claims: list[SkippedClaim]
    claim_overrides: list[ClaimOverride]
    reversals: Annotated[list[RunReversal], Field(exclude_if=not_)] = Field(default_factory=list)
    claims_next_cursor: Annotated[str | None, Field(exclude_if=not_)] = None


class ExportRunOfClaim(ExportRun):
    """One run, and what it did with the claim of the request."""

    claim_outcome: ClaimOutcome


class ExportHistory(WireModel):
    """A page of runs. `next_cursor` is null on the last page; `total` is null where there are more than 10,000 runs."""

    runs: list[ExportRun]
    next_cursor: str | None
    total: int | None


class ExportRunOfPeriod(ExportRun):
    """One run, and the days that its period has in common with the period of the request, both included."""

    overlap_start: date
    overlap_end: date


class PeriodRuns(WireModel):
    """The runs that may have exported something of a period, newest first. Where `has_more`, there are older ones."""

    runs: list[ExportRunOfPeriod]
    has_more: bool


class LastExport(WireModel):
    """The run that was the last to export something; null if there is none."""

    run: ExportRun | None


class FoundRuns(WireModel):
    """The runs that carried a claim, newest first. Where `truncated`, there are older ones."""

    runs: list[ExportRunOfClaim]
    truncated: bool


# A check may return thousands of these, and to make a model takes twenty times as long as to make a dataclass.
@dataclass(slots=True)
class ExportedBy:
    """A run that exported a claim."""

    __pydantic_config__ = WireModel.model_config

    run_id: UUID
    status: RunStatus
    finished_at: datetime


@dataclass(slots=True)
class ExportedClaim:
    """A claim that has gone out, and the runs that exported it, the earliest first."""

    __pydantic_config__ = WireModel.model_config

    claim_id: str
    runs: list[ExportedBy]


@dataclass(slots=True)
class ReservedClaim:
    """A claim that a run has reserved. After its lease has expired it stays reserved, as its holder may be slow."""

    __pydantic_config__ = WireModel.model_config

    claim_id: str
    run_id: UUID
    expires_at: datetime


class PendingEvents(WireModel):
    """How many events waited in RabbitMQ's queues to be stored, and when that was, by the worker's clock.

    Events that a worker has taken out of a queue and not stored yet are not counted.
    """

    count: int
    as_of: datetime


class CheckedClaims(WireModel):
    """Every claim of the request, once, in one of the three lists; each list is in the request's order.

    `as_of` is the database's time: the answer knows everything that was committed before it. `pending_events` is null
    where it is not known.
    """

    exported: list[ExportedClaim]
    reserved: list[ReservedClaim]
    unexported: list[str]
    as_of: datetime
    pending_events: PendingEvents | None


class Standing(StrEnum):
    """How a claim stands: it has gone out, a run has reserved it, or neither."""

    EXPORTED = "exported"
    RESERVED = "reserved"
    UNEXPORTED = "unexported"


class StandingRule(StrEnum):
    """The rule by which a claim stands as it does (docs/MERGE_RULES.md)."""

    ANY_RUN_EXPORTED = "any-run-exported"
    """A claim is exported if any run of the organisation exported it, also one that was deleted since."""

    LEASE_HOLDS = "lease-holds"
    """A claim that no run exported is reserved while a run has it on lease."""

    EXPIRED_LEASE_HOLDS = "expired-lease-holds"
    """So it is after the lease has expired: its holder may be slow, and still paying."""

    EVERY_EXPORT_REVERSED = "every-export-reversed"
    """A claim is unexported if every export of it was taken back, and no run has it on lease."""

    NO_RUN_EXPORTED = "no-run-exported"
    """A claim is unexported if no run exported it and none has it on lease. To attempt it, or to skip it, is no
    export; and a run that was purged counts no more."""


class RuleReason(WireModel):
    """The rule that decides how a claim stands. It is always the first reason."""

    kind: Literal["rule"] = "rule"
    rule: StandingRule


class EventReason(WireModel):
    """An entry of the log that says what a run did with the claim, or that a run that had carried it was purged.

    `outcome` is null for a purge.
    """

    kind: Literal["event"] = "event"
    event_id: UUID
    event_type: str
    run_id: UUID
    occurred_at: datetime
    outcome: ClaimOutcome | None


class OverrideReason(WireModel):
    """A run may export the claim although an earlier run exported it: who approved that, when, and why."""

    kind: Literal["override"] = "override"
    run_id: UUID
    earlier_run_id: UUID
    reason: str
    approved_by: str
    granted_at: datetime


class ReversalReason(WireModel):
    """The export of the claim by a run was taken back: who did that, who approved it, when, and why."""

    kind: Literal["reversal"] = "reversal"
    event_id: UUID
    run_id: UUID
    reversed_at: datetime
    reason: str
    reversed_by: str
    approved_by: str
    external_reversal_id: str | None


class LeaseReason(WireModel):
    """A run has the claim on lease. `has_expired` is by the database's clock."""

    kind: Literal["lease"] = "lease"
    run_id: UUID
    fencing_token: int
    expires_at: datetime
    has_expired: bool


StandingReason = Annotated[
    RuleReason | EventReason | ReversalReason | OverrideReason | LeaseReason, Field(discriminator="kind")
]
"""One of the reasons for which a claim stands as it does."""


class TimelineEntry(WireModel):
    """An entry of the log that has to do with a claim, and what it says of it. What it does not say is null.

    `event_type` is the type of the entry: there are more of them than types of events (docs/CONTRACT.md). `status` and
    `outcome` are those of a `run-finished`; its `outcome` is null if it does not name the claim. `actor` is who did it,
    `reason` why. `other_run_ids` are the runs that had exported the claim or held it before, or that a resolution is
    about; the first of them.
    """

    event_id: UUID
    event_type: str
    origin: str
    run_id: UUID | None
    occurred_at: datetime
    received_at: datetime
    status: RunStatus | None = None
    outcome: ClaimOutcome | None = None
    actor: str | None = None
    approved_by: str | None = None
    reason: str | None = None
    other_run_ids: list[UUID] = Field(default_factory=list)


class ExplainedClaim(WireModel):
    """How a claim stands, because of what, and a page of all that the log has of it, oldest first.

    `next_cursor` is null on the last page.
    """

    standing: Standing
    because: list[StandingReason]
    timeline: list[TimelineEntry]
    next_cursor: str | None


class ConflictReason(StrEnum):
    """Why a claim cannot be reserved."""

    EXPORTED = "exported"
    RESERVED = "reserved"
    EXPIRED = "expired"


@dataclass(slots=True)
class ClaimConflict:
    """A claim that cannot be reserved, with the run that exported it first, or that holds it until `expires_at`."""

    __pydantic_config__ = WireModel.model_config

    claim_id: str
    reason: ConflictReason
    run_id: UUID
    expires_at: datetime | None


class ReservedClaims(WireModel):
    """What was granted and what was not, in the request's order. Without a grant `expires_at` is null."""

    granted: list[str]
    conflicts: list[ClaimConflict]
    expires_at: datetime | None
    fencing_token: int | None


class ReleasedClaims(WireModel):
    """How many claims were freed."""

    released_count: int


class ReversedExport(WireModel):
    """The claims of a run whose exports the request has taken back, now or when it came first."""

    run_id: UUID
    reversed: list[str]


@dataclass(slots=True)
class DoubleExportRun:
    """A run of a double export. `reversed_at` is when its export was taken back; null if it was not."""

    __pydantic_config__ = WireModel.model_config

    run_id: UUID
    status: RunStatus
    finished_at: datetime
    reversed_at: datetime | None


class DoubleExport(WireModel):
    """A claim that went out twice, by several runs or named twice by one.

    `runs` are the first of `run_count` runs, the earliest to finish first; `run_count` is null if there are more than
    1,000. `repeated_in_runs` are the first of those that named the claim twice. It opens again when a run joins it.

    `ended_at` is since when reversals have left at most one export of the claim; null if there are more.
    """

    org_id: str
    claim_id: str
    runs: list[DoubleExportRun]
    run_count: int | None
    repeated_in_runs: list[UUID]
    detected_at: datetime
    last_joined_at: datetime
    ended_at: datetime | None
    resolved_at: datetime | None
    resolved_by: str | None
    note: str | None


class DoubleExports(WireModel):
    """A page of double exports, in the order of the claim ids. `next_cursor` is null on the last page."""

    double_exports: list[DoubleExport]
    next_cursor: str | None


class StaleRuns(WireModel):
    """A page of runs that have not ended, oldest first. `next_cursor` is null on the last page."""

    runs: list[ExportRun]
    next_cursor: str | None
