"""The events that exporters publish, and the facts of a run that they tell (docs/CONTRACT.md)."""

from datetime import date
from enum import StrEnum
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, ValidationInfo, WithJsonSchema, field_validator

from .fields import (
    Artifact,
    Date,
    EventClaimDetails,
    EventClaims,
    EventSkippedClaims,
    EventTotals,
    Name,
    Override,
    RunError,
    Time,
    WireModel,
)

SCHEMA_VERSION: Final = 1


def _check_version(version: int) -> int:
    if version != SCHEMA_VERSION:
        raise ValueError(f"must be {SCHEMA_VERSION}, the only version there is")
    return version


SchemaVersion = Annotated[
    int, AfterValidator(_check_version), WithJsonSchema({"type": "integer", "const": SCHEMA_VERSION})
]


class RunStatus(StrEnum):
    """How far a run has come, lowest first. A run's status never goes down (docs/MERGE_RULES.md)."""

    PENDING = "pending"
    FAILED = "failed"
    PARTIAL = "partial"
    COMPLETED = "completed"


FinishedStatus = Literal[RunStatus.FAILED, RunStatus.PARTIAL, RunStatus.COMPLETED]


class RunTrigger(StrEnum):
    """What started a run: a person, a schedule, or another program."""

    MANUAL = "manual"
    SCHEDULED = "scheduled"
    API = "api"


class ClaimOutcome(StrEnum):
    """What a run did with a claim, lowest first. Of several outcomes the highest counts (docs/MERGE_RULES.md)."""

    ATTEMPTED = "attempted"
    SKIPPED = "skipped"
    EXPORTED = "exported"
    REVERSED = "reversed"
    """It was exported, and a `reverse-export` has taken that back."""


class CreatedFacts(WireModel):
    """What an exporter tells of a run when it starts."""

    triggered_by: Name
    format: Name
    target_system: Name | None = None
    period_start: Date | None = None
    period_end: Date | None = None
    retry_of_run_id: UUID | None = None
    override: Override | None = None
    trigger: RunTrigger | None = None
    scope: Name | None = None
    """Which part of the organisation it is about, in the exporter's words: a chapter, a department, a cost unit."""

    @field_validator("period_end")
    @classmethod
    def _period_runs_forward(cls, end: date | None, info: ValidationInfo) -> date | None:
        start: date | None = info.data.get("period_start")
        if start is not None and end is not None and end < start:
            raise ValueError("must not be before periodStart")
        return end


class FinishedFacts(WireModel):
    """What an exporter tells of a run when it ends."""

    status: FinishedStatus
    claim_ids: EventClaims
    skipped_claims: EventSkippedClaims = Field(default_factory=list)
    error: RunError | None = None
    artifact: Artifact | None = None
    external_ack_id: Name | None = None
    totals: EventTotals = Field(default_factory=list)
    claim_details: EventClaimDetails = Field(default_factory=list)


class RunCreated(CreatedFacts):
    """`run-created`, version 1: a run has started. The exporter chooses the `run_id`."""

    event_id: UUID
    schema_version: SchemaVersion
    occurred_at: Time
    run_id: UUID
    org_id: Name
    imported: bool | None = None
    """It comes from old records: the log has the origin `import`, and the run shows `imported`."""


class RunFinished(FinishedFacts):
    """`run-finished`, version 1: a run has ended. It may arrive before its `run-created`."""

    event_id: UUID
    schema_version: SchemaVersion
    occurred_at: Time
    run_id: UUID
    org_id: Name
    imported: bool | None = None
    """It comes from old records: the log has the origin `import`, and the run shows `imported`."""

    alert_if_imported: bool | None = None
    """Whether a double export that an imported event makes has an alert. It is recorded all the same."""


RUN_CREATED: Final = "run-created"
RUN_FINISHED: Final = "run-finished"

EVENTS: Final[dict[str, type[RunCreated] | type[RunFinished]]] = {RUN_CREATED: RunCreated, RUN_FINISHED: RunFinished}
"""Every event type that may be published, with its model."""
