"""The results (DESIGN section 2)."""

from dataclasses import dataclass
from datetime import date, datetime
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


class ExportRunWithClaims(ExportRun):
    """One run with the claims it exported or attempted, and those it skipped, in the order of their ids."""

    claim_ids: list[str]
    skipped_claims: list[SkippedClaim]


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


class CheckedClaims(WireModel):
    """Every claim asked for, once, in the order asked."""

    exported: list[ExportedClaim]
    unexported: list[str]
