"""Client of the Export Run Repository, for exporters, the Double-Export Guard and history panels.

README.md has a tour; the models of the contract are in export_runs_client.schema.
"""

from .client import ExportRuns
from .errors import (
    AccessRefused,
    Conflict,
    ConnectionLost,
    DoubleExportNotFound,
    ExportRunsError,
    InternalError,
    InvalidRequest,
    LeaseLost,
    MessageRefused,
    NoAnswer,
    OrganisationNotAllowed,
    RequestFailed,
    ResultTooLarge,
    RunNotFound,
    Unavailable,
)
from .export import Export
from .schema.events import ClaimOutcome, RunStatus, RunTrigger
from .schema.fields import Artifact, ClaimDetails, ControlTotal, Override, RunError, SkippedClaim
from .schema.requests import ReservationMode
from .spool import SpoolFull

__all__ = [
    "AccessRefused",
    "Artifact",
    "ClaimDetails",
    "ClaimOutcome",
    "Conflict",
    "ConnectionLost",
    "ControlTotal",
    "DoubleExportNotFound",
    "Export",
    "ExportRuns",
    "ExportRunsError",
    "InternalError",
    "InvalidRequest",
    "LeaseLost",
    "MessageRefused",
    "NoAnswer",
    "OrganisationNotAllowed",
    "Override",
    "RequestFailed",
    "ReservationMode",
    "ResultTooLarge",
    "RunError",
    "RunNotFound",
    "RunStatus",
    "RunTrigger",
    "SkippedClaim",
    "SpoolFull",
    "Unavailable",
]
