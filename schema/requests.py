"""The requests, one model per operation. docs/CONTRACT.md has an example of each."""

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from . import limits
from .claim_ids import canonical_claim_id
from .events import ClaimOutcome, CreatedFacts, FinishedFacts, RunStatus, RunTrigger
from .fields import IN_CANONICAL_FORM, ClaimId, ClaimIdText, Date, Name, Override, Prose, Time, WireModel


class CreateExportRun(CreatedFacts):
    """Record that a run has started. Safe to repeat if it names the `run_id`."""

    org_id: Name
    run_id: UUID | None = None


class UpdateExportRunStatus(FinishedFacts):
    """Record that a run has ended. Safe to repeat."""

    run_id: UUID
    org_id: Name | None = None


class ListRunClaims(WireModel):
    """Ask for one page of the claims of a run, in the order of their ids. `outcome` keeps claims with this outcome."""

    run_id: UUID
    org_id: Name | None = None
    limit: Annotated[int, Field(ge=1, le=limits.RUN_CLAIMS_PAGE_MAX)] = limits.RUN_CLAIMS_PAGE_DEFAULT
    cursor: Annotated[str, StringConstraints(max_length=limits.CURSOR_CHARS_MAX)] | None = None
    outcome: ClaimOutcome | None = None


class GetExportHistory(WireModel):
    """Ask for one page of an organisation's runs, newest first.

    `offset` counts runs from the newest; `cursor` is the `nextCursor` of the page before. `created_from` and
    `created_to` are both inclusive. So are `period_from` and `period_to`: a run whose period has a day in common with
    them is on the list.
    """

    org_id: Name
    limit: Annotated[int, Field(ge=1, le=limits.HISTORY_PAGE_RUNS_MAX)] = limits.HISTORY_PAGE_RUNS_DEFAULT
    offset: Annotated[int, Field(ge=0, le=limits.HISTORY_OFFSET_RUNS_MAX)] | None = None
    cursor: Annotated[str, StringConstraints(max_length=limits.CURSOR_CHARS_MAX)] | None = None
    status: RunStatus | None = None
    target_system: Name | None = None
    created_from: Time | None = None
    created_to: Time | None = None
    include_deleted: bool = False
    format: Name | None = None
    triggered_by: Name | None = None
    external_ack_id: Name | None = None
    scope: Name | None = None
    trigger: RunTrigger | None = None
    has_conflict: bool | None = None
    period_from: Date | None = None
    period_to: Date | None = None

    @field_validator("created_to")
    @classmethod
    def _range_runs_forward(cls, created_to: datetime | None, info: ValidationInfo) -> datetime | None:
        created_from: datetime | None = info.data.get("created_from")
        if created_from is not None and created_to is not None and created_to < created_from:
            raise ValueError("must not be before createdFrom")
        return created_to

    @field_validator("period_to")
    @classmethod
    def _period_runs_forward(cls, period_to: date | None, info: ValidationInfo) -> date | None:
        period_from: date | None = info.data.get("period_from")
        if period_from is not None and period_to is not None and period_to < period_from:
            raise ValueError("must not be before periodFrom")
        return period_to

    @field_validator("cursor")
    @classmethod
    def _one_way_to_page(cls, cursor: str | None, info: ValidationInfo) -> str | None:
        if cursor is not None and info.data.get("offset") is not None:
            raise ValueError("excludes offset")
        return cursor


class CheckPeriod(WireModel):
    """Ask which runs may have exported something of a period. Both its ends count."""

    org_id: Name
    period_start: Date
    period_end: Date
    target_system: Name | None = None
    scope: Name | None = None

    @field_validator("period_end")
    @classmethod
    def _period_runs_forward(cls, end: date, info: ValidationInfo) -> date:
        start: date | None = info.data.get("period_start")
        if start is not None and end < start:
            raise ValueError("must not be before periodStart")
        return end


class GetLastExport(WireModel):
    """Ask for the run that was the last to end as completed or partial."""

    org_id: Name
    target_system: Name | None = None
    scope: Name | None = None


class GetExportRunById(WireModel):
    """Ask for one run with its claims."""

    run_id: UUID
    org_id: Name | None = None


class FindRunsByClaimId(WireModel):
    """Ask for the newest runs that carried a claim, deleted runs too."""

    claim_id: ClaimId
    org_id: Name | None = None
    limit: Annotated[int, Field(ge=1, le=limits.FOUND_RUNS_MAX)] = limits.FOUND_RUNS_MAX


class ExplainClaim(WireModel):
    """Ask how a claim stands, because of what, and for a page of all that the log has of it, oldest first."""

    org_id: Name
    claim_id: ClaimId
    limit: Annotated[int, Field(ge=1, le=limits.TIMELINE_PAGE_ENTRIES_MAX)] = limits.TIMELINE_PAGE_ENTRIES_DEFAULT
    cursor: Annotated[str, StringConstraints(max_length=limits.CURSOR_CHARS_MAX)] | None = None


class CheckClaims(WireModel):
    """Ask which of these claims have gone out already, and which are reserved."""

    org_id: Name
    claim_ids: Annotated[list[ClaimIdText], Field(min_length=1, max_length=limits.CHECK_CLAIMS_MAX), IN_CANONICAL_FORM]


class ReservationMode(StrEnum):
    """What is granted where some claims of a reservation cannot be granted: nothing, or the other claims."""

    ALL_OR_NOTHING = "all-or-nothing"
    AVAILABLE = "available"


class ReserveClaims(WireModel):
    """Lease claims to a run that is about to export them, for `ttl_seconds`. To repeat it renews the lease.

    `override` also grants claims that have been exported already, `take_expired` also claims that another run holds
    by an expired lease.
    """

    org_id: Name
    run_id: UUID
    claim_ids: Annotated[
        list[ClaimIdText], Field(min_length=1, max_length=limits.RESERVE_CLAIMS_MAX), IN_CANONICAL_FORM
    ]
    ttl_seconds: Annotated[int, Field(ge=1, le=limits.LEASE_TTL_S_MAX)] = limits.LEASE_TTL_S_DEFAULT
    mode: ReservationMode = ReservationMode.ALL_OR_NOTHING
    override: Override | None = None
    take_expired: bool = False


class ReleaseClaims(WireModel):
    """Free what a run has reserved: these claims, or all of its claims. Safe to repeat."""

    org_id: Name
    run_id: UUID
    claim_ids: (
        Annotated[list[ClaimIdText], Field(min_length=1, max_length=limits.RESERVE_CLAIMS_MAX), IN_CANONICAL_FORM]
        | None
    ) = None


class ReverseExport(WireModel):
    """Record that exports were taken back: those of these claims by the run, or all of its exports. Safe to repeat.

    `approved_by` is another person than `reversed_by`.
    """

    org_id: Name
    run_id: UUID
    claim_ids: (
        Annotated[list[ClaimIdText], Field(min_length=1, max_length=limits.REVERSE_CLAIMS_MAX), IN_CANONICAL_FORM]
        | None
    ) = None
    reason: Prose
    reversed_by: Name
    approved_by: Name
    external_reversal_id: Name | None = None

    @field_validator("approved_by")
    @classmethod
    def _two_persons(cls, approved_by: str, info: ValidationInfo) -> str:
        reversed_by: str | None = info.data.get("reversed_by")
        if reversed_by is not None and canonical_claim_id(approved_by) == canonical_claim_id(reversed_by):
            raise ValueError("must be another person than reversedBy")
        return approved_by


class ListDoubleExports(WireModel):
    """Ask for one page of an organisation's double exports, in the order of the claim ids: of all, of those that are
    resolved, or of those that are not."""

    org_id: Name
    limit: Annotated[int, Field(ge=1, le=limits.DOUBLE_EXPORTS_PAGE_MAX)] = limits.DOUBLE_EXPORTS_PAGE_DEFAULT
    cursor: Annotated[str, StringConstraints(max_length=limits.CURSOR_CHARS_MAX)] | None = None
    resolved: bool | None = None


class ResolveDoubleExport(WireModel):
    """Record that somebody has dealt with a double export: with all its runs. Safe to repeat.

    `run_count` is how many runs the caller saw. If another run has joined since, the request is refused.
    """

    org_id: Name
    claim_id: ClaimId
    resolved_by: Name
    note: Prose
    run_count: Annotated[int, Field(ge=1, le=limits.INT64_MAX)] | None = None


class ListStaleRuns(WireModel):
    """Ask for one page of the runs that started long ago and have not ended, oldest first."""

    org_id: Name | None = None
    older_than_seconds: Annotated[int, Field(ge=1, le=limits.STALE_RUN_AGE_S_MAX)]
    limit: Annotated[int, Field(ge=1, le=limits.HISTORY_PAGE_RUNS_MAX)] = limits.HISTORY_PAGE_RUNS_DEFAULT
    cursor: Annotated[str, StringConstraints(max_length=limits.CURSOR_CHARS_MAX)] | None = None


class DeleteExportRun(WireModel):
    """Hide a run from the history. Its claims stay exported. Safe to repeat."""

    run_id: UUID
    deleted_by: Name
    reason: Prose
    org_id: Name | None = None
