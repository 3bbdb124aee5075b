"""The events that exporters publish, and what a run's facts are (DESIGN section 2)."""

from datetime import date
from enum import StrEnum
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from .fields import (
    Artifact,
    Date,
    EventClaims,
    EventSkippedClaims,
    Name,
    Override,
    RunError,
    Time,
    WireModel,
)

SCHEMA_VERSION: Final = 1


def _known_version(version: int) -> int:
    if version != SCHEMA_VERSION:
        raise ValueError(f"must be {SCHEMA_VERSION}, the only version there is")
    return version


SchemaVersion = Annotated[int, AfterValidator(_known_version)]


class RunStatus(StrEnum):
    """How far a run has come, lowest first. A run's status never goes down (DESIGN section 3)."""

    PENDING = "pending"
    FAILED = "failed"
    PARTIAL = "partial"
    COMPLETED = "completed"


FinishedStatus = Literal[RunStatus.FAILED, RunStatus.PARTIAL, RunStatus.COMPLETED]


class ClaimOutcome(StrEnum):
    """What a run did with a claim, lowest first; of several the highest counts (DESIGN section 3)."""

    ATTEMPTED = "attempted"
    SKIPPED = "skipped"
    EXPORTED = "exported"


class CreatedFacts(WireModel):
    """What is known of a run when it starts."""

    triggered_by: Name
    format: Name
    target_system: Name | None = None
    period_start: Date | None = None
    period_end: Date | None = None
    retry_of_run_id: UUID | None = None
    override: Override | None = None

    @field_validator("period_end")
    @classmethod
    def _period_runs_forward(cls, end: date | None, info: ValidationInfo) -> date | None:
        start: date | None = info.data.get("period_start")
        if start is not None and end is not None and end < start:
            raise ValueError("must not be before periodStart")
        return end


class FinishedFacts(WireModel):
    """What is known of a run when it ends."""

    status: FinishedStatus
    claim_ids: EventClaims
    skipped_claims: EventSkippedClaims = Field(default_factory=list)
    error: RunError | None = None
    artifact: Artifact | None = None
    external_ack_id: Name | None = None


class RunCreated(CreatedFacts):
    """`run-created`, version 1: a run has started. `run_id` is chosen by the exporter."""

    event_id: UUID
    schema_version: SchemaVersion
    occurred_at: Time
    run_id: UUID
    org_id: Name


class RunFinished(FinishedFacts):
    """`run-finished`, version 1: a run has ended. It may arrive before its `run-created`."""

    event_id: UUID
    schema_version: SchemaVersion
    occurred_at: Time
    run_id: UUID
    org_id: Name


RUN_CREATED: Final = "run-created"
RUN_FINISHED: Final = "run-finished"

RUN_DELETED: Final = "run-deleted"
RUN_PURGED: Final = "run-purged"
"""These two stand in the event log only: nobody publishes them."""

EVENTS: Final[dict[str, type[RunCreated] | type[RunFinished]]] = {RUN_CREATED: RunCreated, RUN_FINISHED: RunFinished}
"""Every event type that may be published, with its model."""
