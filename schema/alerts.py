"""The events that the service itself publishes."""

from datetime import datetime
from typing import Final
from uuid import UUID

from .events import SchemaVersion
from .fields import WireModel
from .results import DoubleExportFoundBy

DOUBLE_EXPORT_DETECTED: Final = "double-export-detected"


class DoubleExportDetected(WireModel):
    """`double-export-detected`, version 1: a claim went out twice. It may arrive more than once; `event_id` tells."""

    event_id: UUID
    schema_version: SchemaVersion
    occurred_at: datetime
    id: int
    """What `resolve-double-export` takes."""

    org_id: str
    claim_id: str
    first_run_id: UUID
    second_run_id: UUID
    found_by: DoubleExportFoundBy
