"""The events that the service itself publishes."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import Field

from . import limits
from .fields import WireModel

DOUBLE_EXPORT_DETECTED: Final = "double-export-detected"

ALERT_SCHEMA_VERSION: Final = 2


class DoubleExportFoundBy(StrEnum):
    """How a double export was found."""

    ANOTHER_RUN = "another-run"
    REPEATED_IN_RUN = "repeated-in-run"


class DoubleExportDetected(WireModel):
    """`double-export-detected`, version 2: a run exported claims that other runs had exported, or named claims twice.

    It may arrive again, with the same `event_id`. `claim_ids` are the first of `claim_count` claims, in their order;
    `earlier_run_ids` are the other runs that exported these, the earliest to finish first. `found_by` is
    `repeated-in-run` if no other run exported any of the claims.
    """

    event_id: UUID
    schema_version: Literal[2]
    occurred_at: datetime
    org_id: str
    run_id: UUID
    claim_count: int
    claim_ids: Annotated[list[str], Field(max_length=limits.ALERT_CLAIMS_MAX)]
    earlier_run_ids: Annotated[list[UUID], Field(max_length=limits.ALERT_EARLIER_RUNS_MAX)]
    found_by: DoubleExportFoundBy
