"""Every operation that a client can request, with the types of its request and its result."""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from .fields import WireModel
from .requests import (
    CheckClaims,
    CheckPeriod,
    CreateExportRun,
    DeleteExportRun,
    ExplainClaim,
    FindRunsByClaimId,
    GetExportHistory,
    GetExportRunById,
    GetLastExport,
    ListDoubleExports,
    ListRunClaims,
    ListStaleRuns,
    ReleaseClaims,
    ReserveClaims,
    ResolveDoubleExport,
    ReverseExport,
    UpdateExportRunStatus,
)
from .results import (
    CheckedClaims,
    DoubleExport,
    DoubleExports,
    ExplainedClaim,
    ExportHistory,
    ExportRun,
    ExportRunWithClaims,
    FoundRuns,
    LastExport,
    PeriodRuns,
    ReleasedClaims,
    ReservedClaims,
    ReversedExport,
    RunClaimsPage,
    StaleRuns,
)

Request = TypeVar("Request", bound=WireModel)
Result = TypeVar("Result", bound=WireModel)


@dataclass(frozen=True, slots=True)
class Operation(Generic[Request, Result]):
    """One operation. `name` is the routing key of its requests."""

    name: str
    request: type[Request]
    result: type[Result]

    when_too_large: str = "no smaller question can be asked"
    """What to ask instead when the result is larger than a reply may be."""


CREATE_EXPORT_RUN: Final = Operation("create-export-run", CreateExportRun, ExportRun)
UPDATE_EXPORT_RUN_STATUS: Final = Operation("update-export-run-status", UpdateExportRunStatus, ExportRun)
GET_EXPORT_HISTORY: Final = Operation("get-export-history", GetExportHistory, ExportHistory)
GET_EXPORT_RUN_BY_ID: Final = Operation("get-export-run-by-id", GetExportRunById, ExportRunWithClaims)
LIST_RUN_CLAIMS: Final = Operation(
    "list-run-claims", ListRunClaims, RunClaimsPage, when_too_large="ask with a smaller limit"
)
FIND_RUNS_BY_CLAIM_ID: Final = Operation(
    "find-runs-by-claim-id", FindRunsByClaimId, FoundRuns, when_too_large="ask with a smaller limit"
)
CHECK_CLAIMS: Final = Operation(
    "check-claims",
    CheckClaims,
    CheckedClaims,
    when_too_large="ask for fewer claims; find-runs-by-claim-id lists the newest runs of one claim",
)
EXPLAIN_CLAIM: Final = Operation(
    "explain-claim", ExplainClaim, ExplainedClaim, when_too_large="ask with a smaller limit"
)
CHECK_PERIOD: Final = Operation("check-period", CheckPeriod, PeriodRuns)
GET_LAST_EXPORT: Final = Operation("get-last-export", GetLastExport, LastExport)
DELETE_EXPORT_RUN: Final = Operation("delete-export-run", DeleteExportRun, ExportRun)
RESERVE_CLAIMS: Final = Operation(
    "reserve-claims", ReserveClaims, ReservedClaims, when_too_large="reserve fewer claims at a time"
)
RELEASE_CLAIMS: Final = Operation("release-claims", ReleaseClaims, ReleasedClaims)
REVERSE_EXPORT: Final = Operation(
    "reverse-export", ReverseExport, ReversedExport, when_too_large="name the claims, some at a time"
)
LIST_DOUBLE_EXPORTS: Final = Operation("list-double-exports", ListDoubleExports, DoubleExports)
RESOLVE_DOUBLE_EXPORT: Final = Operation("resolve-double-export", ResolveDoubleExport, DoubleExport)
LIST_STALE_RUNS: Final = Operation("list-stale-runs", ListStaleRuns, StaleRuns)

OPERATIONS: Final = (
    CREATE_EXPORT_RUN,
    UPDATE_EXPORT_RUN_STATUS,
    GET_EXPORT_HISTORY,
    GET_EXPORT_RUN_BY_ID,
    LIST_RUN_CLAIMS,
    FIND_RUNS_BY_CLAIM_ID,
    CHECK_CLAIMS,
    EXPLAIN_CLAIM,
    CHECK_PERIOD,
    GET_LAST_EXPORT,
    DELETE_EXPORT_RUN,
    RESERVE_CLAIMS,
    RELEASE_CLAIMS,
    REVERSE_EXPORT,
    LIST_DOUBLE_EXPORTS,
    RESOLVE_DOUBLE_EXPORT,
    LIST_STALE_RUNS,
)
