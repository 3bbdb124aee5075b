"""The requests (DESIGN section 2, table of operations)."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from . import limits
from .events import CreatedFacts, FinishedFacts, RunStatus
from .fields import Name, Override, Prose, Time, WireModel


class CreateExportRun(CreatedFacts):
    """Record that a run has started. With `run_id` given it is safe to repeat."""

    org_id: Name
    run_id: UUID | None = None


class UpdateExportRunStatus(FinishedFacts):
    """Record that a run has ended. Safe to repeat."""

    run_id: UUID
    org_id: Name | None = None


class GetExportHistory(WireModel):
    """One page of an organisation's runs, newest first.

    `offset` counts runs from the newest; `cursor` is the `nextCursor` of the page before. `created_from` and
    `created_to` are both inclusive.
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

    @field_validator("cursor")
    @classmethod
    def _one_way_to_page(cls, cursor: str | None, info: ValidationInfo) -> str | None:
        if cursor is not None and info.data.get("offset") is not None:
            raise ValueError("excludes offset")
        return cursor


class GetExportRunById(WireModel):
    """One run with its claims."""

    run_id: UUID
    org_id: Name | None = None


class FindRunsByClaimId(WireModel):
    """Every run that carried a claim, deleted ones too."""

    claim_id: Name
    org_id: Name | None = None


class CheckClaims(WireModel):
    """Which of these claims have already gone out."""

    org_id: Name
    claim_ids: Annotated[list[Name], Field(min_length=1, max_length=limits.CHECK_CLAIMS_MAX)]


class ReservationMode(StrEnum):
    """What becomes of a reservation of which a part cannot be granted."""

    ALL_OR_NOTHING = "all-or-nothing"
    AVAILABLE = "available"


class ReserveClaims(WireModel):
    """Lease claims to a run that is about to export them, for `ttl_seconds`. Repeated, it renews the lease.

    `override` grants claims that have been exported already; `take_expired` those whose holder's lease has run out.
    """

    org_id: Name
    run_id: UUID
    claim_ids: Annotated[list[Name], Field(min_length=1, max_length=limits.RESERVE_CLAIMS_MAX)]
    ttl_seconds: Annotated[int, Field(ge=1, le=limits.LEASE_TTL_S_MAX)] = limits.LEASE_TTL_S_DEFAULT
    mode: ReservationMode = ReservationMode.ALL_OR_NOTHING
    override: Override | None = None
    take_expired: bool = False


class ReleaseClaims(WireModel):
    """Free what a run has reserved: these claims, or all. Safe to repeat."""

    org_id: Name
    run_id: UUID
    claim_ids: Annotated[list[Name], Field(min_length=1, max_length=limits.RESERVE_CLAIMS_MAX)] | None = None


class ListDoubleExports(WireModel):
    """One page of an organisation's double exports, newest first: all, or only those resolved or not."""

    org_id: Name
    limit: Annotated[int, Field(ge=1, le=limits.DOUBLE_EXPORTS_PAGE_MAX)] = limits.DOUBLE_EXPORTS_PAGE_DEFAULT
    cursor: Annotated[str, StringConstraints(max_length=limits.CURSOR_CHARS_MAX)] | None = None
    resolved: bool | None = None


class ResolveDoubleExport(WireModel):
    """Note that somebody has dealt with a double export. Safe to repeat."""

    id: Annotated[int, Field(ge=1, le=limits.INT64_MAX)]
    resolved_by: Name
    note: Prose
    org_id: Name | None = None


class ListStaleRuns(WireModel):
    """One page of the runs that started so long ago and have not ended, oldest first."""

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
