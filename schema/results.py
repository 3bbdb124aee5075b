"""The results (DESIGN section 2)."""

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from uuid import UUID

from .events import ClaimOutcome, RunStatus
from .fields import Artifact, Override, RunError, SkippedClaim, WireModel


class ExportRun(WireModel):
    """The current state of one run.

    `created_at` is when the run started; until its `run-created` has arrived, when the earliest event known
    of it occurred. `triggered_by` and `format` are null until then.
    """

    run_id: UUID
    org_id: str
    triggered_by: str | None
    format: str | None
    target_system: str | None
    period_start: date | None
    period_end: date | None
    status: RunStatus
    created_at: datetime
    finished_at: datetime | None
    claim_count: int
    skipped_count: int
    error: RunError | None
    artifact: Artifact | None
    external_ack_id: str | None
    retry_of_run_id: UUID | None
    override: Override | None
    deleted_at: datetime | None
    deleted_by: str | None
    has_conflict: bool


class ClaimOverride(WireModel):
    """A claim that a run may export although an earlier run has: by whose word, and why."""

    claim_id: str
    earlier_run_id: UUID
    reason: str
    approved_by: str
    granted_at: datetime


class ExportRunWithClaims(ExportRun):
    """One run with the claims it exported or attempted, those it skipped, and the overrides it was granted.

    Each in the order of the claims' ids.
    """

    claim_ids: list[str]
    skipped_claims: list[SkippedClaim]
    claim_overrides: list[ClaimOverride]


class ExportRunOfClaim(ExportRun):
    """One run, and what it did with the claim that was asked for."""

    claim_outcome: ClaimOutcome


class ExportHistory(WireModel):
    """A page of runs. `next_cursor` is null on the last page, `total` null past 10,000 runs."""

    runs: list[ExportRun]
    next_cursor: str | None
    total: int | None


class FoundRuns(WireModel):
    """The runs that carried a claim, newest first."""

    runs: list[ExportRunOfClaim]


# A check may bring thousands of these, and a model takes twenty times as long to make as a dataclass.
@dataclass(slots=True)
class ExportedBy:
    """A run that exported a claim."""

    __pydantic_config__ = WireModel.model_config

    run_id: UUID
    status: RunStatus
    finished_at: datetime


@dataclass(slots=True)
class ExportedClaim:
    """A claim that has gone out, and the runs that carried it, the earliest first."""

    __pydantic_config__ = WireModel.model_config

    claim_id: str
    runs: list[ExportedBy]


@dataclass(slots=True)
class ReservedClaim:
    """A claim that a run has reserved. One whose lease has expired stays reserved: its holder may be slow."""

    __pydantic_config__ = WireModel.model_config

    claim_id: str
    run_id: UUID
    expires_at: datetime


class CheckedClaims(WireModel):
    """Every claim asked for, once, in one of the three lists, each in the order asked."""

    exported: list[ExportedClaim]
    reserved: list[ReservedClaim]
    unexported: list[str]


class ConflictReason(StrEnum):
    """Why a claim cannot be reserved."""

    EXPORTED = "exported"
    RESERVED = "reserved"
    EXPIRED = "expired"


@dataclass(slots=True)
class ClaimConflict:
    """A claim that cannot be reserved: the run that exported it first, or that holds it, and until when."""

    __pydantic_config__ = WireModel.model_config

    claim_id: str
    reason: ConflictReason
    run_id: UUID
    expires_at: datetime | None


class ReservedClaims(WireModel):
    """What was granted, and what not, each in the order asked. With nothing granted there is no lease to speak of."""

    granted: list[str]
    conflicts: list[ClaimConflict]
    expires_at: datetime | None
    fencing_token: int | None


class ReleasedClaims(WireModel):
    """How many claims were freed."""

    released_count: int


class DoubleExportFoundBy(StrEnum):
    """How a double export was found."""

    ANOTHER_RUN = "another-run"
    REPEATED_IN_RUN = "repeated-in-run"


class DoubleExport(WireModel):
    """A claim that went out twice. `first_run_id` is the run that was known to have exported it."""

    id: int
    org_id: str
    claim_id: str
    first_run_id: UUID
    second_run_id: UUID
    found_by: DoubleExportFoundBy
    detected_at: datetime
    resolved_at: datetime | None
    resolved_by: str | None
    note: str | None


class DoubleExports(WireModel):
    """A page of double exports, newest first. `next_cursor` is null on the last page."""

    double_exports: list[DoubleExport]
    next_cursor: str | None


class StaleRuns(WireModel):
    """A page of runs that have not ended, oldest first. `next_cursor` is null on the last page."""

    runs: list[ExportRun]
    next_cursor: str | None
